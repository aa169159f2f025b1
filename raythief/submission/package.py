"""What travels with a job: the repository, or a spec from elsewhere with the package beside it.

Ray leaves out what `.gitignore` files and `excludes` name, and uploads the rest to the head. The
same rules, by Ray's own code, tell here how large it is and what identifies it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ray._private import ray_constants
from ray._private.runtime_env import packaging  # what Ray itself leaves out is told nowhere else

from raythief import config
from raythief.config import Spec
from raythief.errors import UserError

ROOT = Path(__file__).parents[2]
"""The repository, if this package runs from a checkout."""
RUNTIME_ENV = "cluster/runtime_env.yaml"
LIMIT_BYTES = ray_constants.DASHBOARD_CLIENT_MAX_SIZE
"""Largest upload that a dashboard takes, 100 MiB; a larger one is answered with status 413. Ray's
archive is not compressed, so it has the size of its files."""
_MOST_OFFENDERS = 5


@dataclass(frozen=True)
class Package:
    """What travels, and what is run there."""

    runtime_env: Mapping[str, Any]
    """As Ray takes it; its folders are of this machine."""
    arguments: tuple[str, ...]
    """``run`` or ``sweep``, the spec's path within the working folder, and the overrides."""
    submission_id: str
    """Name of the spec and a hash of the spec, of what is done with it, and of all that travels;
    submissions of equal ids do the same."""
    files: Mapping[str, int]
    """Bytes of each file by its path in the package."""

    @property
    def entrypoint(self) -> str:
        """The command that the job runs."""
        return shlex.join(["python", "-m", "raythief.cli", *self.arguments])

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(self.files.values())


@contextlib.contextmanager
def pack(
    path: Path, spec: Spec, command: str, overrides: Sequence[str] = (), root: Path = ROOT
) -> Iterator[Package]:
    """Put together what travels with a job; it may be sent while the block runs.

    A spec that the repository's package holds travels with the repository. Any other (it lies
    elsewhere, git ignores it, or there is no repository because a wheel is installed) travels
    alone, as one file with all that it extends, and this Python package beside it. Its folder
    never does: it may be a home.

    Args:
        path: The spec's file.
        spec: The same, loaded with the overrides.
        command: ``run`` or ``sweep``.
        overrides: As ``config.load`` takes them.
        root: The repository.

    Raises:
        UserError: it is more than a cluster takes.
    """
    given = root / RUNTIME_ENV
    base = yaml.safe_load(given.read_text(encoding="utf-8")) if given.is_file() else {}
    if base:
        whole = {**base, "working_dir": str(root)}
        sizes = files(root, _excludes(whole))
        name = _within(path, root)
        if name in sizes:
            yield _package(whole, sizes, name, spec, command, overrides)
            return
    with tempfile.TemporaryDirectory() as folder:
        name = f"{spec.name}.yaml"
        tree = config.read(path)
        (Path(folder) / name).write_text(yaml.safe_dump(tree, allow_unicode=True), "utf-8")
        module = Path(__file__).parents[1]
        alone = {
            **base,
            "working_dir": folder,
            "py_modules": [str(module)],
            "excludes": ["__pycache__"],
        }
        sizes = {
            **files(Path(folder), alone["excludes"]),
            **{f"raythief/{k}": size for k, size in files(module, alone["excludes"]).items()},
        }
        yield _package(alone, sizes, name, spec, command, overrides)


def files(folder: Path, excludes: Sequence[str]) -> dict[str, int]:
    """Bytes by path of what Ray would send of a folder."""
    found: dict[str, int] = {}

    def count(path: Path) -> None:
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.stat().st_size

    packaging._dir_travel(
        folder, [packaging._get_excludes(folder, list(excludes))], count, _heeds_gitignore()
    )
    return found


def offenders(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """The largest files, and folders at most two levels deep, that are worth naming."""
    grouped: Counter[str] = Counter()
    for name, size in sizes.items():
        parts = name.split("/")
        grouped["/".join(parts[:2]) + ("/" if len(parts) > 2 else "")] += size
    worth = sum(sizes.values()) / 100
    return [(name, size) for name, size in grouped.most_common(_MOST_OFFENDERS) if size > worth]


def _package(
    env: Mapping[str, Any],
    sizes: Mapping[str, int],
    name: str,
    spec: Spec,
    command: str,
    overrides: Sequence[str],
) -> Package:
    _check_size(sizes, env["working_dir"])  # first: to hash what is large takes long
    travels = [env["working_dir"], *env.get("py_modules", ())]
    code = [
        packaging.get_uri_for_directory(folder, _heeds_gitignore(), _excludes(env))
        for folder in travels
    ]
    identity = {"command": command, "spec": spec.model_dump(mode="json"), "code": code}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    title = spec.name if command == "run" else f"{spec.name}-{command}"
    arguments = (command, name, *(part for each in overrides for part in ("--set", each)))
    return Package(env, arguments, f"{title}-{digest[:12]}", sizes)


def _check_size(sizes: Mapping[str, int], folder: str) -> None:
    total = sum(sizes.values())
    if total > LIMIT_BYTES:
        largest = ", ".join(f"{name} ({_mib(size)})" for name, size in offenders(sizes))
        raise UserError(
            f"{folder}: {_mib(total)} would travel with the job, and a cluster takes "
            f"{_mib(LIMIT_BYTES)}; put data on the storage, and name what the job does not need in "
            f".gitignore or in `excludes` of {RUNTIME_ENV}; the largest: {largest}"
        )


def _within(path: Path, root: Path) -> str | None:
    """Path of a file below the root, None if it lies elsewhere."""
    resolved = path.resolve()
    inside = resolved.is_relative_to(root.resolve())
    return resolved.relative_to(root.resolve()).as_posix() if inside else None


def _excludes(env: Mapping[str, Any]) -> list[str]:
    return [*ray_constants.get_runtime_env_default_excludes(), *(env.get("excludes") or ())]


def _heeds_gitignore() -> bool:
    """As Ray decides it."""
    return os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
