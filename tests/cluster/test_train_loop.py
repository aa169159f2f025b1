"""Training on real Ray workers: shared in every way it learns the same, and it tells what it does.

Of a tiny encoder and labels that it can learn; tests/cluster/test_train_workers.py goes through the
whole path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.cloudpickle
from mlflow import MlflowClient
from transformers import pipeline

import training_jobs
from raythief import chance, clusters, training
from raythief.config import LABELS, Selection
from raythief.progress import Watch
from raythief.training import runner
from raythief.training.data import held_out

ALONE = {"training": {"workers": 0}}
LEARNING = {"steps": 150, "learning_rate": 2e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny encoder and examples, and a Ray to train on."""
    prepared = training_jobs.prepare(tmp_path_factory.mktemp("training"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(prepared))
        with clusters.connect(None):
            yield prepared


@pytest.fixture(scope="module")
def plain(folder: Path) -> tuple[Path, dict[str, Any]]:
    """One worker, nothing special; every step is also a bar's."""
    return training_jobs.trained(folder, "plain", **LEARNING)


def accuracy(artifact: Path, rows: np.ndarray | None = None, **which: Any) -> float:
    """Of the trained model as anybody would load it, with no code of ours."""
    table = training_jobs.pairs(**which)
    items = (table if rows is None else table.take(rows)).to_pylist()
    ask = pipeline("text-classification", model=str(artifact / "model"))
    texts = [{"text": item["premise"], "text_pair": item["hypothesis"]} for item in items]
    answers = [answer["label"] for answer in ask(texts)]
    return float(
        np.mean([given == item["label"] for given, item in zip(answers, items, strict=True)])
    )


def test_it_learns_and_plain_transformers_loads_it(plain: tuple[Path, dict[str, Any]]) -> None:
    artifact, results = plain
    assert accuracy(artifact) > 0.55  # chance is a third
    assert not results["collapse"]
    assert results["selection"] is None
    assert results["loss_of_a_guess"] == chance.loss([*results["label_counts"].values()])


def test_in_this_process_it_learns_what_a_worker_learns(
    folder: Path, plain: tuple[Path, dict[str, Any]]
) -> None:
    artifact, results = training_jobs.trained(folder, "alone", ALONE, **LEARNING)
    weights = [place / "model" / "model.safetensors" for place in (artifact, plain[0])]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert results["history"] == plain[1]["history"]


class Until(Watch):
    """Wants a training only up to a step."""

    def __init__(self, step: int) -> None:
        self.step, self.seen = step, [0]

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Of no interest."""

    def look(self, look: Mapping[str, float]) -> bool:
        self.seen.append(int(look["step"]))
        return look["step"] < self.step


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_training_that_is_not_wanted_any_more_can_go_on_later(folder: Path, workers: int) -> None:
    """From its last checkpoint, or the one before if that is damaged; it tells its looks again."""
    how: dict[str, Any] = {"selection": {"every": 10}, "steps": 40}
    resources = {"training": {"workers": workers}, "checkpoint_every": 10}
    whole, expected = training_jobs.trained(folder, f"whole {workers}", resources, **how)
    job = training_jobs.job(folder, f"halted {workers}", resources, **how)
    with pytest.raises(training.StoppedError):
        training.train(job, Until(30))
    place = Path(job.target.absolute)
    assert not (place / "model").exists()
    for state in sorted(place.glob("_work/**/state.pt"))[-1:]:
        state.write_bytes(state.read_bytes()[:1000])
    patient = Until(1000)
    results = training.train(job, patient).plain()
    assert patient.seen == [0, 10, 20, 30, 40]
    assert results["selection"] == expected["selection"]
    weights = [one / "model" / "model.safetensors" for one in (place, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_longer_training_goes_on_from_a_shorter_one(folder: Path) -> None:
    """With what a training from the first step on comes to: weights, curve, looks, steps."""
    how: dict[str, Any] = {"schedule": "constant", "warmup_steps": 5, "learning_rate": 5e-3}
    how |= {"selection": {"every": 10, "held_out": 0.2}}
    short, results = training_jobs.trained(folder, "short", ALONE, **how, steps=30)
    whole, expected = training_jobs.trained(folder, "scratch", ALONE, **how, steps=70)
    job = training_jobs.job(folder, "longer", ALONE, **how, steps=70)
    earlier = job.target.storage.artifact("extractor", "short")
    earlier.finish({"results": results, "seconds": 1.5})
    told = Until(1000)
    killed = (short / "steps.jsonl").read_bytes()  # of a run that left no checkpoint
    job.target.write("_work/steps/000000011.jsonl", killed)
    found = training.train(dataclasses.replace(job, earlier=earlier), told).plain()
    assert found["continues"] == {"path": "extractor/short", "steps": 30, "seconds": 1.5}
    assert told.seen == [0, 10, 20, 30, 40, 50, 60, 70]
    place = Path(job.target.absolute)
    weights = [one / "model" / "model.safetensors" for one in (place, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert {**found, "continues": None, "speed": None} == {**expected, "speed": None}
    ours, theirs = (
        [{**one, "seconds": 0} for one in training_jobs.steps_of(artifact)]
        for artifact in (place, whole)
    )
    assert ours == theirs
    [events] = (short / "tensorboard").iterdir()
    assert (place / "tensorboard" / events.name).read_bytes() == events.read_bytes()


def test_every_step_is_told(plain: tuple[Path, dict[str, Any]]) -> None:
    artifact, results = plain
    steps = training_jobs.steps_of(artifact)
    assert [one["step"] for one in steps] == list(range(1, 151))
    assert results["history"] == [
        {"step": one["step"], "loss": pytest.approx(one["loss"]), "learning_rate": rate}
        for one, rate in zip(steps, (p["learning_rate"] for p in results["history"]), strict=True)
    ]
    assert all(one["tokens"] <= one["padded_tokens"] for one in steps)
    assert all(sum(one["predicted"]) == 12 for one in steps)
    assert all(one["gradient_norm"] > 0 for one in steps)
    speed = results["speed"]
    assert speed["tokens"] == sum(one["tokens"] for one in steps)
    assert 0 < speed["utilisation"] < 1
    [events] = (artifact / "tensorboard").glob("events.out.tfevents.*")
    assert b"train/loss" in events.read_bytes()


@pytest.mark.slow
def test_shards_on_two_workers_with_activations_computed_twice_learn_the_same(
    folder: Path, plain: tuple[Path, dict[str, Any]]
) -> None:
    workers = {"workers": 2, "parallel": "fsdp", "activation_checkpointing": True}
    _, results = training_jobs.trained(
        folder, "sharded", {"training": workers}, **{**LEARNING, "tokens_per_micro_batch": 128}
    )
    early = [point["loss"] for point in results["history"][:30]]  # later, rounding is amplified
    assert early == pytest.approx([p["loss"] for p in plain[1]["history"][:30]], rel=1e-3)
    assert results["speed"]["workers"] == results["speed"]["mean_workers"] == 2
    assert results["gpus"] == 0.0


@pytest.mark.slow
def test_a_worker_whose_memory_is_short_begins_again_with_the_others(
    folder: Path, plain: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which counts as none of the failures that a training bears."""
    monkeypatch.setattr(runner, "worker_loop", training_jobs.with_a_short_second_worker)
    resources = {"training": {"workers": 2}, "restarts": 0, "checkpoint_every": 10}
    ray.cloudpickle.register_pickle_by_value(training_jobs)  # workers do not know the module
    try:
        _, results = training_jobs.trained(folder, "short of memory", resources, **LEARNING)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(training_jobs)
    early = [point["loss"] for point in results["history"][:30]]
    assert early == pytest.approx([p["loss"] for p in plain[1]["history"][:30]], rel=1e-3)
    assert results["speed"]["tokens_per_micro_batch"] <= 130


def test_the_best_weights_are_kept_and_patience_ends_a_training(folder: Path) -> None:
    chosen = {"every": 5, "held_out": 0.2, "patience": 3}
    artifact, results = training_jobs.trained(folder, "selected", **LEARNING, selection=chosen)
    told = results["selection"]
    assert told["metric"] == "agreement with 72 held-out gold labels"
    scores = [look["score"] for look in told["looks"]]
    assert told["score"] == max(scores)
    assert told["step"] == 5 * (1 + scores.index(max(scores)))
    if results["ended"]:
        assert results["ended"] == "patience"
        assert told["step"] == results["steps"] - 15
    else:
        assert results["steps"] == 150
    rows = held_out(training_jobs.COUNT, Selection.model_validate(chosen), 0)
    assert results["examples"] == training_jobs.COUNT - len(rows) == 288
    assert accuracy(artifact, rows) == pytest.approx(told["score"])


@pytest.mark.slow
def test_weights_are_selected_on_a_set_that_is_named(folder: Path) -> None:
    chosen = {"every": 50, "on": "validation"}
    artifact, results = training_jobs.trained(folder, "validated", **LEARNING, selection=chosen)
    told = results["selection"]
    assert told["metric"] == "accuracy on validation"
    assert [look["step"] for look in told["looks"]] == [50, 100, 150]
    assert results["examples"] == training_jobs.COUNT
    assert accuracy(artifact, count=90, seed=1) == pytest.approx(told["score"])


def test_a_collapse_ends_a_training_if_it_is_to(folder: Path) -> None:
    wrong = {"learning_rate": 1.0, "max_grad_norm": 1000.0, "warmup": 0.0, "steps": 200}
    _, results = training_jobs.trained(folder, "collapsed", **wrong, on_collapse="stop")
    assert results["ended"] == "collapse"
    assert results["steps"] < 200
    assert "one label is given to 100.0% of the examples" in results["collapse"]


@pytest.mark.slow
def test_a_batch_may_be_given_in_tokens(folder: Path) -> None:
    """Between two workers, one of whom may have no row of it."""
    artifact, results = training_jobs.trained(
        folder, "tokens", {"training": {"workers": 2}}, steps=20, batch_tokens=256
    )
    tokens = [one["tokens"] for one in training_jobs.steps_of(artifact)]
    assert max(tokens) <= 256 + 128
    assert 230 < np.mean(tokens) < 280
    assert results["steps"] == 20


@pytest.mark.slow
def test_a_finished_training_is_only_read(folder: Path, plain: tuple[Path, dict[str, Any]]) -> None:
    """Started once more, as after a crash between its end and its manifest."""
    artifact, results = plain
    before = (artifact / "model" / "model.safetensors").read_bytes()
    short = training_jobs.job(folder, "plain", **LEARNING)
    again = training.train(short, lambda *_: None).plain()
    assert (artifact / "model" / "model.safetensors").read_bytes() == before
    assert {**again, "speed": None} == {**results, "speed": None}
    assert len(training_jobs.steps_of(artifact)) == 150
    assert set(again["label_counts"]) == set(LABELS)


def test_trackers_are_told_what_the_loss_curve_is_made_of(folder: Path) -> None:
    place = folder / "mlruns"
    tracking = {"mlflow": place.as_uri(), "wandb": "thieves"}
    artifact, results = training_jobs.trained(
        folder, "tracked", {"checkpoint_every": 8}, tracking=tracking, steps=20,
        selection={"every": 10, "held_out": 0.1},
    )  # fmt: skip
    client = MlflowClient(place.as_uri())
    [experiment] = [one for one in client.search_experiments() if one.name == "raythief"]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["artifact"] == f"extractor/{artifact.name}"
    assert run.data.params["batch_size"] == "12"
    told = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in told] == [
        (point["step"], pytest.approx(point["loss"])) for point in results["history"]
    ]
    scores = client.get_metric_history(run.info.run_id, "score")
    assert [(one.step, one.value) for one in scores] == [
        (look["step"], pytest.approx(look["score"])) for look in results["selection"]["looks"]
    ]
    [offline] = (folder / "wandb").glob("offline-run-*/run-extractor-tracked.wandb")
    assert offline.stat().st_size > 1000
