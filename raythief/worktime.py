"""How long an artifact was worked on, over all attempts, and the hours of workers that it took.

An attempt that is killed tells nothing more. So each one leaves its time on storage while it works,
in a file of its own below the artifact's work folder, and the next one adds up what it finds there.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs

from raythief.artifacts import WORK, Artifact
from raythief.results import Speed, Usage

FOLDER = f"{WORK}/seconds"
BEAT_S = 2.0
_NO_GPU = ("cpu", "api")


@contextlib.contextmanager
def counted(artifact: Artifact) -> Iterator[Callable[[], float]]:
    """Count the time of the block as work on an artifact.

    Yields:
        A function that tells the seconds of all attempts so far: after the block, all of them. A
        killed attempt counts up to its last beat, which is at most two seconds before its end.
    """
    earlier = sum(_kept(artifact))
    started, stop, name = time.monotonic(), threading.Event(), f"{FOLDER}/{uuid.uuid4().hex}.json"
    ended: float | None = None

    def own() -> float:
        return (time.monotonic() if ended is None else ended) - started

    def leave() -> None:
        with contextlib.suppress(OSError):  # a store that does not answer may do so later
            artifact.write(name, json.dumps(own()).encode())

    def keep() -> None:
        while not stop.wait(BEAT_S):
            leave()

    keeper = threading.Thread(target=keep, name=f"seconds {artifact.path}", daemon=True)
    keeper.start()
    try:
        yield lambda: earlier + own()
    except BaseException:
        stop.set()
        keeper.join()
        leave()
        raise
    finally:
        ended = time.monotonic()
        stop.set()
        keeper.join()


def _kept(artifact: Artifact) -> Iterator[float]:
    """Seconds of each earlier attempt."""
    selector = pa.fs.FileSelector(f"{artifact.absolute}/{FOLDER}", allow_not_found=True)
    for info in artifact.storage.fs.get_file_info(selector):
        if info.base_name.endswith(".json"):  # no draft
            content = artifact.storage.read_bytes(f"{artifact.path}/{FOLDER}/{info.base_name}")
            if content is not None:
                yield float(json.loads(content))


@dataclass(frozen=True)
class Hours:
    """Hours that an artifact took."""

    cpu: float
    """Hours of workers without a GPU, however many CPUs each has."""
    gpu: float
    """Hours of GPUs."""


def hours(seconds: float, used: Usage) -> Hours:
    """What workers took, by an artifact's manifest.

    Args:
        seconds: That the artifact took.
        used: What its stage used. What it does not tell is one worker with one GPU.
    """
    speed = used.speed or Speed()
    workers = speed.mean_workers or speed.workers or used.workers or 1
    together = used.worker_seconds
    taken = seconds / 3600 * workers if together is None else together / 3600
    if (used.device or "cpu").casefold() in _NO_GPU:
        return Hours(taken, 0.0)
    return Hours(0.0, taken * (1.0 if used.gpus is None else used.gpus))
