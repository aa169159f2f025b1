"""Training on Ray: the number of workers changes nothing, and a collapse is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import run_spec

Whole = tuple[Path, Path, dict[str, Any]]


def trained(file: Path, storage: Path, copy: Path, *overrides: str) -> tuple[dict, dict]:
    """Weights and manifest results of an extractor that is trained anew with some overrides."""
    from raythief.artifacts import Storage

    shutil.copytree(storage, copy)
    shutil.rmtree(copy / "extractor")
    record = run_spec(file, f"storage={copy}", *overrides, only=["gibberish"], until="extractor")
    stage, fingerprint = record["rows"][0]["stages"]["extractor"]["path"].split("/")
    artifact = Storage.at(str(copy)).artifact(stage, fingerprint)
    return load_file(artifact.local("model") / "model.safetensors"), artifact.verify()["results"]


def assert_same_training(whole: Whole, weights: dict, told: dict) -> None:
    """Equal to the session's run, but for what the order of additions does to AdamW.

    The optimiser's steps of 1e-3 have moved the weights by some hundredths in 40 steps.
    """
    from raythief.artifacts import Storage

    _, storage, record = whole
    stage, fingerprint = record["rows"][0]["stages"]["extractor"]["path"].split("/")
    artifact = Storage.at(str(storage)).artifact(stage, fingerprint)
    for name, weight in load_file(artifact.local("model") / "model.safetensors").items():
        torch.testing.assert_close(weights[name], weight, atol=2e-3, rtol=0, msg=name)
    losses = [point["loss"] for point in artifact.verify()["results"]["history"]]
    assert [point["loss"] for point in told["history"]] == pytest.approx(losses, rel=5e-3)


def test_two_workers_learn_what_one_learns(whole: Whole, tmp_path: Path) -> None:
    """Their shares of a batch and of its micro-batches are unequal; the sum is the same."""
    file, storage, _ = whole
    weights, told = trained(
        file,
        storage,
        tmp_path / "two",
        "resources.training.workers=2",
        "resources.concurrent_stages=1",
    )
    assert_same_training(whole, weights, told)


@pytest.mark.slow
def test_micro_batches_do_not_change_what_is_learned(whole: Whole, tmp_path: Path) -> None:
    file, storage, _ = whole
    weights, told = trained(
        file, storage, tmp_path / "small", "extractor.training.tokens_per_micro_batch=64"
    )
    assert_same_training(whole, weights, told)


@pytest.mark.slow
def test_a_collapse_is_told(whole: Whole, tmp_path: Path) -> None:
    file, storage, _ = whole
    _, told = trained(
        file, storage, tmp_path / "collapsed", "extractor.training.learning_rate=1.0",
        "extractor.training.max_grad_norm=1000", "extractor.training.steps=120",
        "extractor.training.warmup=0",
    )  # fmt: skip
    assert told["collapsed"]
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
    from raythief.artifacts import Storage

    _, storage, record = whole
    stage, fingerprint = record["rows"][0]["stages"]["extractor"]["path"].split("/")
    told = Storage.at(str(storage)).artifact(stage, fingerprint).verify()["results"]
    curve = {point["step"]: point["loss"] for point in told["history"]}
    assert len(curve) == 40
    assert {step: curve[step] for step in GOLDEN} == pytest.approx(GOLDEN, abs=0.05)


GOLDEN = {1: 1.031, 10: 1.118, 20: 1.056, 30: 1.197, 40: 1.061}
"""Loss by step of the tiny spec's extractor."""
