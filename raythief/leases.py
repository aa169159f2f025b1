"""Leases: while a run builds an artifact, no other does.

A run that wants to build writes a claim of its own, `_lease-<token>.json`, beside the artifact's
files, and looks whether it is the only one. If it is not, it takes its claim back and tries again
later. Of two runs the one that wrote last sees the other, so both cannot hold the lease, however
slow their writes are. This needs no lock, no exclusive creation and no clock that machines share,
which object stores do not have.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from raythief.artifacts import LEASE, Artifact

log = logging.getLogger(__name__)

POLL_S = 0.5
BEAT_S = 2.0
STALE_S = 30.0
"""A claim that its owner has not renewed while it was watched for so long is dropped."""


@contextlib.contextmanager
def lease(artifact: Artifact) -> Iterator[None]:
    """Hold the sole right to build an artifact, waiting while a living run holds it.

    An owner renews its claim every two seconds. Others drop it when its process is known to be
    gone (same machine) or when it did not renew it for 30 seconds of watching. An owner that was
    silent for so long and goes on all the same finds its claim gone, and says so; what is bought
    from a victim then ends by the ledger (``raythief.metering``).
    """
    own = _Claim(artifact)
    told = False
    watched: dict[str, tuple[dict[str, Any], float]] = {}
    while True:
        holder = _rival(artifact, own.token, watched)
        if holder is None:
            own.write()
            if _rival(artifact, own.token, watched) is None:
                break
            own.drop()
            time.sleep(random.uniform(0.0, 2 * POLL_S))  # noqa: S311 (so that one of them comes first)
            continue
        if not told:
            log.warning(
                "%s is being worked on by process %s on %s; waiting for it",
                artifact.path,
                holder["pid"],
                holder["host"],
            )
            told = True
        time.sleep(POLL_S)
    with own.kept():
        yield


def under_way(artifact: Artifact, *, but_this_process: bool = False) -> bool:
    """Whether a run that builds an artifact is alive, as far as can be told from here: its
    process, on this machine; a claim that it renewed of late, on others.
    """
    for name, holder in _claims(artifact).items():
        if but_this_process and (holder["pid"], holder["boot"]) == (os.getpid(), _boot()):
            continue
        if holder["host"] == socket.gethostname():
            if not _gone(holder):
                return True
            continue
        info = artifact.storage.fs.get_file_info(f"{artifact.absolute}/{name}")
        if time.time() - (info.mtime_ns or 0) / 1e9 < STALE_S:
            return True
    return False


class _Claim:
    """This run's claim to an artifact."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact, self.token, self.beat = artifact, uuid.uuid4().hex, 0
        self.name = f"{LEASE}{self.token}.json"

    def write(self) -> None:
        whose = {"host": socket.gethostname(), "pid": os.getpid(), "boot": _boot()}
        content = {"owner": self.token, **whose, "beat": self.beat}
        self.artifact.write(self.name, json.dumps(content).encode())
        self.beat += 1

    def _stands(self) -> bool:
        storage, path = self.artifact.storage, f"{self.artifact.absolute}/{self.name}"
        return bool(storage.fs.get_file_info(path).type == pa.fs.FileType.File)

    def drop(self) -> None:
        _drop(self.artifact, self.name)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Renew it all the while, and take it back at the end."""
        stop = threading.Event()

        def keep() -> None:
            while not stop.wait(BEAT_S):
                with contextlib.suppress(OSError):  # a store that does not answer may do so later
                    if not self._stands():
                        break
                    self.write()
            if not stop.is_set():
                log.warning(
                    "%s was taken over by another run, to which this one was silent for %.0f s",
                    self.artifact.path,
                    STALE_S,
                )

        keeper = threading.Thread(target=keep, name=f"lease {self.artifact.path}", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            stop.set()
            keeper.join()
            self.drop()


def _rival(
    artifact: Artifact, own: str, watched: dict[str, tuple[dict[str, Any], float]]
) -> dict[str, Any] | None:
    """A claim of another run that lives; those of the dead are dropped.

    Args:
        artifact: What is claimed.
        own: Token of this run's claim.
        watched: Claims as they were last seen to change, and when; kept by the caller.
    """
    living = None
    for name, holder in _claims(artifact).items():
        if holder["owner"] == own:
            continue
        now = time.monotonic()
        seen, since = watched.get(name, (None, now))
        if seen != holder:
            since = now
        watched[name] = holder, since
        if _gone(holder) or now - since > STALE_S:
            _drop(artifact, name)
        else:
            living = holder
    return living


def _claims(artifact: Artifact) -> dict[str, dict[str, Any]]:
    """All claims to an artifact, by their files' names."""
    selector = pa.fs.FileSelector(artifact.absolute, allow_not_found=True)
    names = [info.base_name for info in artifact.storage.fs.get_file_info(selector)]
    found = {}
    for name in sorted(names):
        if not (name.startswith(LEASE) and name.endswith(".json")):
            continue
        content = artifact.storage.read_bytes(f"{artifact.path}/{name}")
        if content is not None:  # else it was taken back just now
            found[name] = json.loads(content)
    return found


def _drop(artifact: Artifact, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        artifact.storage.fs.delete_file(f"{artifact.absolute}/{name}")


def _boot() -> str:
    """Identity of this start of this machine, so that process numbers can be compared."""
    source = Path("/proc/sys/kernel/random/boot_id")
    return source.read_text().strip() if source.exists() else socket.gethostname()


def _gone(holder: Mapping[str, Any]) -> bool:
    """Whether the process that holds a lease is known not to run any more."""
    if holder["host"] != socket.gethostname() or holder["boot"] != _boot():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
