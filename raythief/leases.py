"""Leases: while a run builds an artifact, no other does.

A lease lies beside the artifact's files. One whose owner is dead is taken over, and the work that
the owner left behind is continued.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raythief.artifacts import LEASE, Artifact

log = logging.getLogger(__name__)

BEAT_S = 2.0
STALE_S = 30.0
"""A lease that its owner has not renewed while it was watched for so long is taken over."""


@contextlib.contextmanager
def lease(artifact: Artifact) -> Iterator[None]:
    """Hold the sole right to build an artifact, waiting while a living run holds it.

    An owner renews its lease every two seconds. It is taken over when its process is known to be
    gone (same machine) or when it did not renew it for 30 seconds of watching, which compares no
    clocks of different machines. Object stores offer no exclusive creation, so a claim is read
    back after a moment: of two claims at once the later one stands.
    """
    path = f"{artifact.path}/{LEASE}"
    storage, token = artifact.storage, uuid.uuid4().hex
    claim = {"owner": token, "host": socket.gethostname(), "pid": os.getpid(), "boot": _boot()}

    def renew(beat: int) -> None:
        storage.write_bytes(path, json.dumps({**claim, "beat": beat}).encode())

    told = False
    seen, since = None, time.monotonic()
    while True:
        with _alone(artifact):
            text = storage.read_bytes(path)
            holder = json.loads(text) if text else None
            if text != seen:
                seen, since = text, time.monotonic()
            stale = time.monotonic() - since > STALE_S
            free = holder is None or _gone(holder) or stale
            if free:
                renew(0)
        if free:
            time.sleep(0.05 if storage.is_local else 1.0)
            back = storage.read_bytes(path)
            if back and json.loads(back)["owner"] == token:
                break
            continue
        if not told and holder is not None:
            log.warning(
                "%s is being built by another run (process %s on %s); waiting for it",
                artifact.path,
                holder["pid"],
                holder["host"],
            )
            told = True
        time.sleep(0.5)
    stop = threading.Event()

    def keep() -> None:
        beat = 1
        while not stop.wait(BEAT_S):
            renew(beat)
            beat += 1

    keeper = threading.Thread(target=keep, name=f"lease {artifact.path}", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join()
        with contextlib.suppress(FileNotFoundError):
            storage.fs.delete_file(f"{storage.root}/{path}")


def under_way(artifact: Artifact) -> bool:
    """Whether a run that builds an artifact is alive, as far as can be told from here: its
    process, on this machine; a lease that it renewed of late, on others.
    """
    path = f"{artifact.path}/{LEASE}"
    text = artifact.storage.read_bytes(path)
    if text is None:
        return False
    holder = json.loads(text)
    if holder["host"] == socket.gethostname():
        return not _gone(holder)
    info = artifact.storage.fs.get_file_info(f"{artifact.storage.root}/{path}")
    return bool(time.time() - info.mtime_ns / 1e9 < STALE_S)


@contextlib.contextmanager
def _alone(artifact: Artifact) -> Iterator[None]:
    """Keep this machine's other processes from claiming: what one reads, another may overwrite."""
    if not artifact.storage.is_local:
        yield
        return
    artifact.storage.fs.create_dir(artifact.absolute, recursive=True)
    folder = os.open(artifact.absolute, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network filesystems lock no folders
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


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
