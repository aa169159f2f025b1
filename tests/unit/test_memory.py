"""A training whose GPU's memory is short takes smaller micro-batches, and learns the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.exceptions
import ray.train
import torch

import training_jobs
from raythief import models
from raythief.errors import UserError
from raythief.progress import silent
from raythief.training import data, loop, memory, runner, selection

CPU = torch.device("cpu")
ASKED, HELD = 1000, 300
"""Padded tokens of a micro-batch that are asked for, and those that the device holds."""
FITS = 228
"""What is left of the first after it was halved, from the first batch's 912 on."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_jobs.prepare(tmp_path_factory.mktemp("memory"))


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory ends in the forward pass."""
    monkeypatch.setattr(loop._Worker, "_loss", training_jobs.holds(loop._Worker._loss, HELD))


@pytest.fixture
def backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory ends in the backward pass, when some weights have their gradients."""
    whole, held, hooked = loop._Worker._loss, [0], set()

    def end(gradient: Any) -> None:
        if held[0] > HELD:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def of(worker: Any, rows: Any) -> Any:
        held[0] = len(rows) * worker.data.pairs.lengths[rows].max()
        first = worker.model.get_submodule("roberta.encoder.layer.0.output.dense").weight
        if first not in hooked:
            hooked.add(first)
            first.register_hook(end)
        return whole(worker, rows)

    monkeypatch.setattr(loop._Worker, "_loss", of)


def worker(folder: Path, name: str, tokens: int, *, alone: bool = True) -> loop._Worker:
    """A worker with dropout, whose masks depend on where its random numbers are."""
    job = training_jobs.job(folder, name, selection={"held_out": 0.2})
    made = data.prepare(job.source, job.examples, (), job.training, 0, silent)
    model = models.fresh_classifier(job.source.local(), 0).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    optimizer = loop._optimizer(model, job.training, CPU)
    room = memory.Room(job.target, CPU, tokens, alone)
    weights = torch.ones(3)
    return loop._Worker(
        model, optimizer, made, weights, job.training, room, torch.float32, rank=0, world=1
    )


def learned(one: loop._Worker) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """What three steps measured, and the weights after them."""
    longest = np.argsort(-one.data.pairs.lengths[one.data.train])
    rows = one.data.train[longest]
    measured = [one.step(rows[i * 16 : i * 16 + 16], stream=i).tolist() for i in range(3)]
    return measured, one.model.state_dict()


@pytest.mark.parametrize("short", ["forward", "backward"])
def test_a_step_that_does_not_fit_is_gone_through_again_in_halves(
    folder: Path, short: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing is left of its first tries: neither gradients nor random numbers."""
    expected = learned(worker(folder, f"{short} roomy", FITS))
    request.getfixturevalue(short)
    one = worker(folder, f"{short} short", ASKED)
    found = learned(one)
    assert one.room.tokens == FITS
    assert f"GPU memory is short: {FITS} tokens a micro-batch now" in caplog.text
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], weights) for name, weights in expected[1].items())


def test_what_fits_is_known_to_the_next_start_on_such_a_device(
    folder: Path, forward: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = worker(folder, "noted", ASKED)
    assert memory.most(one.room.target, CPU) is None
    learned(one)
    assert memory.most(one.room.target, CPU) == FITS
    monkeypatch.setattr(models, "name_of", lambda _: "NVIDIA H200")
    assert memory.most(one.room.target, CPU) is None


def test_a_worker_that_others_wait_for_begins_again_with_them(folder: Path, forward: None) -> None:
    one = worker(folder, "of several", ASKED, alone=False)
    with pytest.raises(memory.SmallerError, match="memory is short: 456 tokens a micro-batch now"):
        learned(one)
    assert memory.most(one.room.target, CPU) == 456
    assert all(weights.grad is None for weights in one.model.parameters())


def test_a_single_row_that_does_not_fit_is_the_user_s_to_mend(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop._Worker, "_loss", training_jobs.holds(loop._Worker._loss, 10))
    with pytest.raises(UserError, match=r"max_tokens: .* not hold a single pair of \d+ tokens"):
        learned(worker(folder, "none", ASKED))


def test_a_model_that_does_not_fit_is_the_user_s_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(config: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "_train", full)
    with pytest.raises(UserError, match=r"resources\.training: .*hold the model"):
        loop.worker_loop({})


def test_looks_take_smaller_batches_too(folder: Path) -> None:
    def score(tokens: int, most: int) -> tuple[float, int]:
        one = worker(folder, f"look {tokens}", tokens)
        job = training_jobs.job(folder, "looked", selection={"held_out": 0.2})
        plain = one.model

        class Short:
            eval, train = plain.eval, plain.train

            def __call__(self, input_ids: torch.Tensor, **rest: torch.Tensor) -> Any:
                if input_ids.numel() > most:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return plain(input_ids=input_ids, **rest)

        judge = selection.Judge(job, one.data, one.room, torch.float32, 0, 1)
        return judge.score(Short())["score"], one.room.tokens

    roomy, tokens = score(50, 10_000)
    assert tokens == 50
    short, tokens = score(ASKED, 200)
    assert short == roomy
    assert 25 <= tokens <= 50


# --- on the driver ----------------------------------------------------------------------------


class Trainer:
    """Stands for Ray Train's: fails with what it is given, then ends well."""

    def __init__(self, failures: list[BaseException]) -> None:
        self.failures, self.fits = failures, 0

    def fit(self) -> None:
        self.fits += 1
        if self.failures:
            raise self.failures.pop()


def controlled(error: Exception) -> Exception:
    """As a worker group's failure reaches the driver."""
    task = ray.exceptions.RayTaskError("loop", "Traceback ...", error, pid=1, ip="::1")
    with pytest.raises(type(error)) as caught:
        runner._NoSecondTry().after_exception(
            None, {0: OSError("cut off"), 1: task.as_instanceof_cause()}
        )
    return ray.train.ControllerError(caught.value)


@pytest.mark.parametrize("raised", [lambda error: error, controlled])
def test_a_training_begins_again_as_often_as_it_is_to(
    folder: Path, raised: Callable[[Exception], Exception], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    job = training_jobs.job(folder, "again")
    trainer = Trainer([raised(memory.SmallerError(f"{n} tokens now")) for n in (256, 512)])
    monkeypatch.setattr(runner, "_trainer", lambda *_: trainer)
    with caplog.at_level(logging.WARNING):
        runner._fit(job, {})
    assert trainer.fits == 3
    assert "extractor/again: 256 tokens now; on from the last checkpoint" in caplog.text
    trainer.failures = [RuntimeError("of another kind")]
    with pytest.raises(RuntimeError, match="of another kind"):
        runner._fit(job, {})


@pytest.mark.parametrize(
    ("how", "workers"),
    [
        ({"batch_size": 32}, 32),
        ({"batch_size": 32, "batch_tokens": 16_384}, 64),
        ({"batch_size": 128}, 64),
    ],
)
def test_no_more_workers_than_a_batch_has_rows(
    folder: Path, how: dict[str, Any], workers: int
) -> None:
    job = training_jobs.job(folder, "many", {"training": {"workers": 64, "gpus": 0}}, **how)
    assert runner._trainer(job, {}).scaling_config.num_workers == workers
