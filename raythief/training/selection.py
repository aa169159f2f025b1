"""Which weights of a training are kept: the best on data that it is not trained on."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pyarrow.fs
import torch
from numpy.typing import NDArray

from raythief import encoding
from raythief.artifacts import WORK, Artifact
from raythief.config import HELD_OUT, Selection
from raythief.training.data import ENGLISH, Dataset
from raythief.training.job import Job
from raythief.training.memory import Room

_FOLDER = f"{WORK}/best"
_TOKENS = 4
"""Times the tokens of a training's micro-batch: without gradients a batch takes less memory."""


def metric(selection: Selection, data: Dataset, bought: bool) -> str:
    """What is selected on, in words for manifest and report."""
    if selection.on != HELD_OUT:
        return f"accuracy on {selection.on}"
    count = sum(len(rows) for rows in data.judges)
    whose = "the victim on {:,} held-out queries" if bought else "{:,} held-out gold labels"
    return f"agreement with {whose.format(count)}"


class Judge:
    """Scores a model on the rows that are set apart, shared by all workers."""

    def __init__(
        self, job: Job, data: Dataset, room: Room, precision: torch.dtype, rank: int, world: int
    ) -> None:
        names = [examples.table for examples in job.judges]
        self.english = names.index(ENGLISH) if len(names) > 1 and ENGLISH in names else None
        """The group that is English, where there are others."""
        self.data, self.room, self.precision = data, room, precision
        self.rank, self.world = rank, world

    def score(self, model: Any) -> dict[str, float]:
        """The share of rows whose label the model gives.

        Returns:
            ``score``, the mean over the groups; and where one of several is English, ``english``
            and ``elsewhere``, the mean over the others.

        All workers must call this; each goes through as many batches, because those of a sharded
        model cannot go on without each other.
        """
        model.eval()
        right, short = self._right(model)
        while len(short):  # what did not fit is let go by now
            self.room.shrink(short, _TOKENS)
            right, short = self._right(model)
        model.train()
        if self.world > 1:
            torch.distributed.all_reduce(right)
        counts = [len(rows) for rows in self.data.judges]
        shares = [one / count for one, count in zip(right.tolist(), counts, strict=True)]
        found = {"score": sum(shares) / len(shares)}
        if self.english is not None:
            found["english"] = shares.pop(self.english)
            found["elsewhere"] = sum(shares) / len(shares)
        return found

    @torch.no_grad()
    def _right(self, model: Any) -> tuple[torch.Tensor, NDArray[np.int64]]:
        """How many rows of this worker's batches the model gets right, shape [groups]; and the
        tokens of each row of a batch that the memory did not hold, none if all is well.
        """
        device, lengths = self.room.device, self.data.pairs.lengths
        batches = [
            (group, rows[part])
            for group, rows in enumerate(self.data.judges)
            for part in encoding.pack(lengths[rows], _TOKENS * self.room.tokens)
        ]
        right = torch.zeros(len(self.data.judges), dtype=torch.float64, device=device)
        for turn in range(math.ceil(len(batches) / self.world)):
            place = turn * self.world + self.rank
            group, rows = batches[place % len(batches)]
            try:
                with torch.autocast(
                    device.type, self.precision, enabled=self.precision != torch.float32
                ):
                    logits = model(**self.data.pairs.batch(rows, device)).logits
            except torch.OutOfMemoryError:
                return right, lengths[rows]
            gold = torch.from_numpy(self.data.labels[rows]).to(device)
            if place < len(batches):
                right[group] += (logits.argmax(-1) == gold).sum()
        return right, lengths[:0]


class Best:
    """The best weights so far, on storage until the training has ended.

    A checkpoint tells which they are; those that the checkpoint before it tells of stay, too.
    """

    def __init__(self, target: Artifact) -> None:
        self.target = target
        self._told: list[int] = []

    def write(self, step: int, weights: dict[str, Any]) -> None:
        """Keep the weights of a step."""
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        self.target.write(f"{_FOLDER}/{step}.pt", buffer.getvalue())

    def read(self, step: int) -> dict[str, Any]:
        """The weights of a step, in main memory."""
        content = self.target.storage.read_bytes(f"{self.target.path}/{_FOLDER}/{step}.pt")
        assert content is not None, f"the best weights, of step {step}, are gone"
        found: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
        return found

    def checkpointed(self, step: int) -> None:
        """Drop what neither the checkpoint with this best step needs, nor the one before."""
        self._told = [*self._told[-1:], step]
        folder = f"{self.target.absolute}/{_FOLDER}"
        fs = self.target.storage.fs
        for info in fs.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True)):
            if info.base_name.endswith(".pt") and int(info.base_name[:-3]) < min(self._told):
                fs.delete_file(info.path)
