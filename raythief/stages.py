"""Stages: functions of a config and of other stages' artifacts, each run once.

The fingerprint is a hash of all that decides the result, so what is finished is never built again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from raythief import __version__, worktime
from raythief.answers import Answers
from raythief.artifacts import Artifact, DamagedError, Storage
from raythief.leases import lease
from raythief.progress import Tell, silent
from raythief.results import Results

log = logging.getLogger(__name__)

_PACKAGES = ("ray", "torch", "transformers", "tokenizers", "datasets", "pyarrow", "numpy")

Build = Callable[[Artifact, Mapping[str, Artifact], Tell], Results]
"""Makes an artifact's files from its inputs', tells how far it is, and returns the results that
the manifest keeps."""


class Missing(dict[str, list[str]]):
    """What stands in a config for the hash of files of the user's that are not there.

    A stage with it can be planned and not built; its fingerprint is that of no stage with files.
    """

    def __init__(self, *sentences: str) -> None:
        super().__init__(missing=list(sentences))


@dataclass(frozen=True, eq=False)
class Stage:
    """A function of a config and of other stages' artifacts."""

    name: str
    """Name of the stage, and of its folder on storage."""
    config: Mapping[str, Any]
    """Plain values; all that decides the result besides the inputs."""
    build: Build
    """Makes the files."""
    inputs: Mapping[str, Stage] = field(default_factory=dict)
    """The stages whose artifacts it reads, by the role that they play."""
    version: int = 1
    """Raised when a change of code changes the result."""
    buys: tuple[Answers, ...] = ()
    """What it asks of the victim, whose queries are counted."""
    waits_for: tuple[Stage, ...] = ()
    """Stages that must succeed first, though it reads nothing of theirs."""

    @property
    def queries(self) -> int:
        """Queries that it needs of the victim, retries not counted; 0 if it asks for none."""
        return sum(one.count for one in self.buys)

    @property
    def identity(self) -> dict[str, Any]:
        """What its manifest says of all that decides the result."""
        return {
            "version": self.version,
            "config": self.config,
            "inputs": {
                role: {"stage": stage.name, "fingerprint": stage.fingerprint}
                for role, stage in self.inputs.items()
            },
        }

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of name, version, config and inputs."""
        identity = {
            "stage": self.name,
            "version": self.version,
            "config": self.config,
            "inputs": {role: stage.fingerprint for role, stage in self.inputs.items()},
        }
        text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def lacks(self) -> list[str]:
        """What to tell of files that are not there, of this stage alone."""
        return list(_lacking(self.config))

    def ancestors(self) -> Iterator[Stage]:
        """Yield all stages that must be there first, inputs first, and this one last."""
        for stage in (*self.inputs.values(), *self.waits_for):
            yield from stage.ancestors()
        yield self

    def ensure(self, storage: Storage, tell: Tell = silent) -> tuple[Artifact, bool]:
        """Build the artifact unless it is there and whole; its inputs must be.

        Returns:
            The finished artifact, and whether this call built it.

        Raises:
            UserError: an input is damaged.
        """
        artifact = storage.artifact(self.name, self.fingerprint)
        if _is_whole(artifact):
            return artifact, False
        with lease(artifact):
            if _is_whole(artifact):  # another run finished it while we waited
                return artifact, False
            _clear_damage(artifact)
            inputs = {
                role: storage.artifact(stage.name, stage.fingerprint)
                for role, stage in self.inputs.items()
            }
            for given in inputs.values():
                given.verify()
            started = time.time()
            with worktime.counted(artifact) as seconds:
                results = self.build(artifact, inputs, tell)
            artifact.finish(
                {
                    "stage": self.name,
                    "fingerprint": self.fingerprint,
                    **self.identity,
                    "created": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(started)),
                    "seconds": round(seconds(), 3),
                    "versions": versions(),
                    "results": results.plain(),
                }
            )
        return artifact, True


def _is_whole(artifact: Artifact) -> bool:
    """Whether it is finished, and each of its files is as it was written."""
    try:
        return artifact.manifest() is not None and bool(artifact.verify())
    except DamagedError:
        return False


def _clear_damage(artifact: Artifact) -> None:
    """Remove the files of a finished artifact that are not as they were written.

    What stays spares the stage the work: shards that are whole are not made again.
    """
    for name, how in artifact.damage().items():
        log.warning("%s: %s %s; it is made again", artifact.path, name, how)
        artifact.remove(name)


def _lacking(config: Any) -> Iterator[str]:
    if isinstance(config, Missing):
        yield from config["missing"]
    elif isinstance(config, Mapping):
        for value in config.values():
            yield from _lacking(value)


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what decides its results."""
    found = {"raythief": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found
