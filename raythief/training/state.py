"""Where a training is: what its checkpoints hold.

The order of the data, the dropout masks and the learning rate are functions of (seed, step), so a
checkpoint needs only weights, optimiser state, the step, and what was told of the steps so far.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import pickle
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.train
import torch

from raythief.artifacts import Artifact
from raythief.errors import UserError
from raythief.training import collapse, local, parallel
from raythief.training.collapse import Guess, Step
from raythief.training.job import Job
from raythief.training.schedule import Schedule

log = logging.getLogger(__name__)

STATE = "state.pt"
HISTORY_POINTS = 200
"""Points of the loss curve."""


@dataclass
class State:
    """Where a training is."""

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    """Points of the loss curve: step, mean loss since the point before, learning rate."""
    latest: list[Step] = field(default_factory=list)
    """The last tenth of the steps, by which a collapse is told."""
    looks: list[dict[str, float]] = field(default_factory=list)
    """Steps and scores by which weights are selected."""
    ended: str = ""
    """Why it ended before its last step."""
    told: int = 0
    """The step up to which trackers were told."""
    precision: str = ""
    """The number format of its steps; empty in checkpoints of earlier versions."""
    continues: dict[str, Any] | None = None
    """The shorter training that it goes on from: ``path``, ``steps``, ``seconds`` that it took."""

    @classmethod
    def restored(
        cls, kept: dict[str, Any], model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> State:
        """From what ``entries`` gave; all workers must call this."""
        steps = parallel.gathered(kept["step"])
        if len(set(steps)) > 1:  # Ray Train starts the workers again
            raise RuntimeError(f"the workers read checkpoints of different steps: {steps}")
        parallel.take_weights(model, kept["model"])
        parallel.take_moments(model, optimizer, kept["optimizer"])
        kept["latest"] = [Step(**one) for one in kept["latest"]]
        names = [one.name for one in dataclasses.fields(cls)]
        return cls(**{name: kept[name] for name in names if name in kept})

    @property
    def best(self) -> dict[str, float] | None:
        """The look with the best score, the first of equals; None before the first look."""
        return max(self.looks, key=lambda look: look["score"], default=None)

    def take(self, steps: Sequence[Step], schedule: Schedule) -> None:
        """Take note of steps, and add a point to the loss curve where one is due."""
        self.latest += [Step(s.step, s.loss, s.gradient_norm, s.predicted) for s in steps]
        every = history_every(schedule.steps)
        if self.step % every == 0:
            self.point(schedule)
        self.latest = self.latest[-max(every, math.ceil(schedule.steps / 10)) :]

    def point(self, schedule: Schedule) -> None:
        """Add a point to the loss curve, unless there has been no step since the last one."""
        since = self.history[-1]["step"] if self.history else 0
        losses = [one.loss for one in self.latest if one.step > since]
        if losses:
            loss, rate = math.fsum(losses) / len(losses), schedule.rate(self.step - 1)
            self.history.append({"step": self.step, "loss": loss, "learning_rate": rate})

    def collapse(self, schedule: Schedule, guess: Guess, *, whole: bool = False) -> list[str]:
        """Signs of a collapse in the last tenth of the steps so far, the warm-up left out.

        Args:
            schedule: Tells the steps and the warm-up.
            guess: What one comes to.
            whole: Tell of none before there is a whole tenth to look at.
        """
        seen = [one for one in self.latest if one.step > schedule.warm]
        if whole and len(seen) < schedule.steps / 10:
            return []
        return collapse.signs(seen, guess)

    def lost_patience(self, patience: int | None) -> bool:
        """Whether so many looks in a row have brought no new best."""
        if patience is None or self.best is None:
            return False
        return len(self.looks) - 1 - self.looks.index(self.best) >= patience

    def entries(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """What is to be kept: itself, the weights, the optimiser's; all workers must call this."""
        whole = {"model": parallel.weights(model), "optimizer": parallel.moments(model, optimizer)}
        return {**dataclasses.asdict(self), **whole}

    def save(
        self,
        job: Job,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        rank: int,
        last: bool,
    ) -> None:
        """Report a checkpoint; every worker must call this equally often.

        A worker group copies it to storage while the training goes on. ``last`` says that none
        will follow.
        """
        points = [one for one in (*self.history, *self.looks) if one["step"] > self.told]
        self.told = self.step
        entries = self.entries(model, optimizer)
        checkpoint = None
        if rank == 0:
            folder = tempfile.mkdtemp(prefix="raythief-checkpoint-")
            torch.save(entries, Path(folder) / STATE)
            if not job.resources.training.workers:
                local.keep(job.target, self.step, Path(folder))
                shutil.rmtree(folder)
                return
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(
            {"step": self.step, "points": points, "last": last},
            checkpoint=checkpoint,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )


def history_every(steps: int) -> int:
    """Steps between two points of the loss curve."""
    return max(1, steps // HISTORY_POINTS)


def latest(target: Artifact) -> dict[str, Any] | None:
    """What the last checkpoint of the run that is whole holds; None before the first."""
    checkpoint = ray.train.get_checkpoint() or local.latest(target)
    return None if checkpoint is None else load(checkpoint)


def load(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    """What a checkpoint holds; if it is damaged, what the newest one before it holds.

    Returns:
        Its entries, with tensors in main memory.

    Raises:
        UserError: all checkpoints are damaged.
    """
    fs, (place, _, newest) = checkpoint.filesystem, checkpoint.path.rpartition("/")
    names = [info.base_name for info in fs.get_file_info(pa.fs.FileSelector(place))]
    for name in sorted((name for name in names if name <= newest), reverse=True):
        if not name.startswith("checkpoint_"):
            continue
        # Workers of one node share the download of Ray's own object.
        one = checkpoint if name == newest else ray.train.Checkpoint(f"{place}/{name}", fs)
        try:
            with one.as_directory() as folder:
                file = Path(folder) / STATE
                kept: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
                return kept
        # What a file cut short gives; a storage that does not answer is another OSError.
        except (FileNotFoundError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            log.warning("%s/%s is damaged, the one before is taken: %s", place, name, error)
    raise UserError(f"{place}: all checkpoints are damaged; delete the folder to train again")
