"""Training workers without Ray: a process for each rank, the real loop, gloo.

What the loop asks of Ray Train is told by the command line, so that a rank starts in the time
that its imports take. One that waits for ever is killed, and the test fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LIMIT_S = 240
"""Some trainings take half a minute on a busy machine."""


@dataclass
class Run:
    """A training on so many ranks."""

    name: str
    world: int
    how: dict[str, Any] = field(default_factory=dict)
    """Changes to ``training_jobs.HOW``."""
    workers: dict[str, Any] = field(default_factory=dict)
    """Of ``resources.training``."""


def train(folder: Path, *runs: Run) -> dict[str, dict[str, Any]]:
    """Train one after the other; returns what is known of each, and ``path``, by name."""
    told = json.dumps([asdict(run) for run in runs])
    command = [sys.executable, str(Path(__file__)), str(folder), told]
    running = [
        subprocess.Popen(
            [*command, str(rank)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in range(max(run.world for run in runs))
    ]
    try:
        said = [one.communicate(timeout=LIMIT_S)[0] for one in running]
    finally:
        for one in running:
            one.kill()
    assert not any(one.returncode for one in running), "\n".join(said)
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        path = folder / "extractor" / run.name
        files = (path / "training.json", path / "speed.json")
        summary, speed = (json.loads(file.read_text()) for file in files)
        found[run.name] = {**summary, **speed, "path": path}
    return found


def _train(folder: Path, run: Run, rank: int, loop: Callable[..., None]) -> None:
    import ray
    import ray.train
    import torch

    import training_jobs
    from raythief.progress import silent
    from raythief.training import data

    context = SimpleNamespace(
        get_world_rank=lambda: rank,
        get_local_rank=lambda: rank,
        get_world_size=lambda: run.world,
    )
    ray.train.get_context = lambda: context
    ray.train.get_checkpoint = lambda: None
    ray.train.report = lambda *_, **__: None
    ray.get = lambda given: given
    job = training_jobs.job(
        folder, run.name, {"training": {**run.workers, "workers": 0}}, **run.how
    )
    parts = (job.source, job.examples, job.judges, job.training, job.seed)
    if run.world > 1:
        meeting = f"file://{folder}/{run.name}.meeting"
        torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=run.world)
    loop({"job": job, "data": data.prepare(*parts, silent), "tell": silent})
    if run.world > 1:
        torch.distributed.destroy_process_group()


def _main(folder: Path, runs: list[Run], rank: int) -> None:
    from raythief.training.loop import worker_loop

    for run in runs:
        if rank < run.world:
            _train(folder, run, rank, worker_loop)


if __name__ == "__main__":
    place, told_runs, number = sys.argv[1:]
    _main(Path(place), [Run(**one) for one in json.loads(told_runs)], int(number))
