"""Trainings on several ranks learn what one learns, whatever share of a step each has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import training_jobs
from raythief.progress import silent
from raythief.training import data, parallel
from raythief.training.schedule import Schedule
from training_ranks import Run, train

UNEVEN: dict[str, Any] = {
    "steps": 6,
    "batch_tokens": 256,
    "tokens_per_micro_batch": 64,
    "learning_rate": 1e-3,
    "selection": {"every": 3, "held_out": 0.1},
}
"""Steps in which ranks have different numbers of micro-batches, and looks at few batches."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_jobs.prepare(tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 2, 7, 30])
def test_every_worker_does_as_many_micro_batches_and_every_row_counts_once(
    world: int, rows: int
) -> None:
    lengths = np.random.default_rng(rows).integers(5, 60, rows)
    shares = parallel.shares(lengths, 100, world)
    assert len(shares) == world
    assert len({len(parts) for parts in shares}) == 1
    counted = [part for parts in shares for part, counts in parts if counts]
    assert sorted(np.concatenate(counted)) == list(range(rows))
    for rank, parts in enumerate(shares):
        own = [row for part, counts in parts if counts for row in part]
        assert sorted(own) == list(range(rank, rows, world))
        counts = [counts for _, counts in parts]
        assert counts == sorted(counts, reverse=True)  # the idle ones come last


def test_ranks_with_different_numbers_of_micro_batches_learn_what_one_learns(folder: Path) -> None:
    """Each forward pass of a sharded model waits for those of all others."""
    runs = [Run("alone", 1, UNEVEN)]
    for kind in ("ddp", "fsdp"):
        runs += [Run(f"{kind}{world}", world, UNEVEN, {"parallel": kind}) for world in (2, 3)]
    alone, *others = train(folder, *runs).values()
    weights = load_file(alone["path"] / "model" / "model.safetensors")
    losses = [point["loss"] for point in alone["history"]]
    for other in others:
        assert [p["loss"] for p in other["history"]] == pytest.approx(losses, rel=1e-4)
        assert other["selection"] == alone["selection"]
        theirs = load_file(other["path"] / "model" / "model.safetensors")
        for name, weight in weights.items():
            torch.testing.assert_close(theirs[name], weight, atol=1e-4, rtol=0, msg=name)


def test_ranks_of_that_training_have_different_numbers_of_micro_batches(folder: Path) -> None:
    """Or the test before this one shows nothing."""
    job = training_jobs.job(folder, "counted", **UNEVEN)
    made = data.prepare(job.source, job.examples, (), job.training, 0, silent)
    lengths = made.pairs.lengths[made.train]
    plan = Schedule(job.training, lengths, 0)
    for world in (2, 3):
        shares = [parallel.shares(lengths[plan.rows(step)], 64, world) for step in range(6)]
        counts = [{sum(own for _, own in parts) for parts in step} for step in shares]
        assert any(len(different) > 1 for different in counts)
