"""Training on Ray: the number of workers changes nothing, and a collapse is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import Whole, artifact, run_spec
from raythief.config import LABELS
from raythief.nli import SCORES

pytestmark = pytest.mark.usefixtures("one_ray")


def trained(file: Path, storage: Path, copy: Path, *changes: str, workers: int = 0) -> tuple:
    """Weights and manifest results of an extractor that is trained again, with some changes."""
    shutil.copytree(storage, copy)
    shutil.rmtree(copy / "extractor")
    record = run_spec(
        file,
        f"storage={copy}",
        f"variants.gibberish={{resources.training.workers: {workers}}}",
        *changes,
        only=["gibberish"],
        until="extractor",
    )
    made = artifact((file, copy, record), "extractor")
    return load_file(made.local("model") / "model.safetensors"), made.verify()["results"]


def assert_same_training(whole: Whole, weights: dict, told: dict) -> None:
    """Equal to the session's run, but for what the order of additions does to AdamW.

    The optimiser's steps of 1e-3 have moved the weights by some hundredths in 40 steps.
    """
    made = artifact(whole, "extractor")
    for name, weight in load_file(made.local("model") / "model.safetensors").items():
        torch.testing.assert_close(weights[name], weight, atol=2e-3, rtol=0, msg=name)
    losses = [point["loss"] for point in made.verify()["results"]["history"]]
    assert [point["loss"] for point in told["history"]] == pytest.approx(losses, rel=5e-3)


def test_two_workers_learn_what_one_learns(whole: Whole, tmp_path: Path) -> None:
    """Their shares of a batch and of its micro-batches are unequal; the sum is the same."""
    file, storage, _ = whole
    alone = "resources.concurrent_stages=1"
    weights, told = trained(file, storage, tmp_path / "two", alone, workers=2)
    assert_same_training(whole, weights, told)


@pytest.mark.slow
def test_micro_batches_do_not_change_what_is_learned(whole: Whole, tmp_path: Path) -> None:
    file, storage, _ = whole
    weights, told = trained(
        file, storage, tmp_path / "small", "extractor.training.tokens_per_micro_batch=64"
    )
    assert_same_training(whole, weights, told)


@pytest.mark.slow
def test_probabilities_are_bought_and_learned_from(whole: Whole, tmp_path: Path) -> None:
    """Labels with probabilities are labels of another kind: they are bought again, and the same."""
    file, storage, _ = whole
    copy = tmp_path / "soft"
    shutil.copytree(storage, copy)
    overrides = (
        "victim.scores=true",
        "extractor.training.soft_labels={temperature: 1.5}",
        "variants.gibberish={resources.training.workers: 0}",
    )
    record = run_spec(file, f"storage={copy}", *overrides, only=["gibberish"], until="extractor")
    soft: Whole = (file, copy, record)
    assert record["rows"][0]["stages"]["queries"]["reused"]
    bought = artifact(soft, "labels").read_table()
    scores = np.stack([bought[name].to_numpy() for name in SCORES], axis=1)
    assert scores.sum(1) == pytest.approx(1.0, abs=1e-5)
    assert [LABELS[i] for i in scores.argmax(1)] == bought["label"].to_pylist()
    assert bought.select(["id", "label"]) == artifact(whole, "labels").read_table(
        columns=["id", "label"]
    )

    def losses(run: Whole) -> list[float]:
        told = artifact(run, "extractor").verify()["results"]
        return [point["loss"] for point in told["history"]]

    assert losses(soft) != losses(whole)


@pytest.mark.slow
def test_a_collapse_is_told(whole: Whole, tmp_path: Path) -> None:
    file, storage, _ = whole
    _, told = trained(
        file, storage, tmp_path / "collapsed", "extractor.training.learning_rate=1.0",
        "extractor.training.max_grad_norm=1000", "extractor.training.steps=120",
        "extractor.training.warmup=0",
    )  # fmt: skip
    assert told["collapse"]
    assert told["majority_rate"] > 0.95


@pytest.mark.slow
def test_frozen_embeddings_stay(whole: Whole, tmp_path: Path) -> None:
    file, storage, record = whole
    weights, _ = trained(
        file, storage, tmp_path / "frozen", "extractor.training.freeze_embeddings=true"
    )
    encoders = record["rows"][0]["stages"]["encoders"]["path"]
    before = load_file(storage / encoders / "multilingual" / "model.safetensors")
    name = "roberta.embeddings.word_embeddings.weight"
    assert torch.equal(weights[name], before[name])
    path = record["rows"][0]["stages"]["extractor"]["path"]
    free = load_file(storage / path / "model" / "model.safetensors")
    assert not torch.equal(free[name], before[name])


def test_the_loss_curve_is_the_one_that_is_known(whole: Whole) -> None:
    """Golden values: a change of loop, data order or schedule shows here first."""
    told = artifact(whole, "extractor").verify()["results"]
    curve = {point["step"]: point["loss"] for point in told["history"]}
    assert len(curve) == 40
    assert {step: curve[step] for step in GOLDEN} == pytest.approx(GOLDEN, abs=0.05)


GOLDEN = {1: 1.031, 10: 1.118, 20: 1.056, 30: 1.197, 40: 1.061}
"""Loss by step of the tiny spec's extractor."""
