"""Which rows a step trains on, and at what rate: a pure function of (seed, step)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raythief.config import Training

WINDOW = 50
"""Batches within whose rows like lengths are brought together."""


class Schedule:
    """The plan of a training, the same for any number of workers."""

    def __init__(self, training: Training, lengths: NDArray[np.int64], seed: int) -> None:
        """Plan a training.

        Args:
            training: How long, in what batches, at what rate.
            lengths: Tokens of each row, shape [rows].
            seed: Decides the order of the rows.
        """
        self.training, self.lengths, self.seed = training, lengths, seed
        by_tokens = training.batch_tokens is not None
        self._sizes = lengths if by_tokens else np.ones_like(lengths)
        total = int(self._sizes.sum())
        self.batch = min(training.batch_tokens or training.batch_size, total)
        """Examples of a step, or tokens, over all workers."""
        self.per_epoch = max(1, total // self.batch)
        self.steps = training.steps or max(1, round(training.epochs * total / self.batch))
        self._epoch: tuple[int, list[NDArray[np.int64]]] | None = None

    def rows(self, step: int) -> NDArray[np.int64]:
        """Rows of a step's global batch; each row is drawn once an epoch.

        An epoch is shuffled, cut into windows of 50 batches, sorted by length within each window
        so that a batch holds rows of like length, longest first, and its batches are shuffled
        again. The few rows that fill no batch sit that epoch out.
        """
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][place]

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then linear decay to 0, or none."""
        warm, peak = self.warm, self.training.learning_rate
        if step < warm:
            return peak * (step + 1) / (warm + 1)
        if self.training.schedule == "constant":
            return peak
        return peak * (self.steps - step) / max(1.0, self.steps - warm)

    @property
    def warm(self) -> float:
        """Steps of the warm-up."""
        given = self.training.warmup_steps
        return self.training.warmup * self.steps if given is None else given

    def _shuffled(self, epoch: int) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.lengths))
        order = order[np.cumsum(self._sizes[order]) <= self.per_epoch * self.batch]
        windows = self._cut(order, WINDOW * self.batch)
        order = np.concatenate(
            [rows[np.argsort(-self.lengths[rows], kind="stable")] for rows in windows]
        )
        batches = self._cut(order, self.batch)
        return [batches[i] for i in generator.permutation(len(batches))]

    def _cut(self, order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
        """Cut rows into groups of one size; a row belongs to the group in which it begins."""
        sizes = self._sizes[order]
        groups = (np.cumsum(sizes) - sizes) // size
        return np.split(order, np.flatnonzero(np.diff(groups)) + 1)
