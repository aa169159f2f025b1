"""Training's plan: which rows a step sees and at what rate, and what a class weighs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray.train
import torch

from raythief.artifacts import Artifact, Storage
from raythief.config import Training
from raythief.errors import UserError
from raythief.training import STATE, Examples, Schedule, class_weights, load

LENGTHS = np.random.default_rng(7).integers(5, 120, 1003)


def schedule(lengths: np.ndarray = LENGTHS, seed: int = 0, **training: Any) -> Schedule:
    return Schedule(Training(**{"batch_size": 10, **training}), lengths, seed)


# --- rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, 11, 19, 20, 500, 501, 1003])
def test_an_epoch_shows_each_row_at_most_once_in_whole_batches(count: int):
    plan = schedule(LENGTHS[:count])
    for epoch in (0, 1):
        steps = range(epoch * plan.per_epoch, (epoch + 1) * plan.per_epoch)
        batches = [plan.rows(step) for step in steps]
        seen = np.concatenate(batches)
        assert {len(rows) for rows in batches} == {10}
        assert len(set(seen.tolist())) == len(seen) == count // 10 * 10
        assert seen.min() >= 0
        assert seen.max() < count


def test_the_rows_that_sit_out_change_from_epoch_to_epoch():
    plan = schedule(LENGTHS[:19])
    seen = {step: set(plan.rows(step).tolist()) for step in range(30)}
    assert set.union(*seen.values()) == set(range(19))


def test_a_step_is_the_same_whenever_and_after_whatever_it_is_asked_for():
    plan, order = schedule(), np.random.default_rng(3).permutation(plan_steps := 250)
    forward = [schedule_rows.tolist() for schedule_rows in map(plan.rows, range(plan_steps))]
    for step in order[:60]:
        assert plan.rows(int(step)).tolist() == forward[step]
        assert schedule().rows(int(step)).tolist() == forward[step]


def test_epochs_and_seeds_differ():
    plan, other = schedule(), schedule(seed=1)
    first = [plan.rows(step).tolist() for step in range(plan.per_epoch)]
    second = [plan.rows(step + plan.per_epoch).tolist() for step in range(plan.per_epoch)]
    assert first != second
    assert [other.rows(step).tolist() for step in range(plan.per_epoch)] != first


def test_a_batch_holds_rows_of_like_length_longest_first():
    plan = schedule()
    batches = [LENGTHS[plan.rows(step)] for step in range(plan.per_epoch)]
    assert all((np.diff(lengths) <= 0).all() for lengths in batches)
    spread = np.mean([lengths.max() - lengths.min() for lengths in batches])
    assert spread < 0.1 * (LENGTHS.max() - LENGTHS.min())


def test_long_and_short_batches_come_in_no_order():
    plan = schedule()
    longest = [LENGTHS[plan.rows(step)].max() for step in range(plan.per_epoch)]
    rises = np.mean(np.diff(longest) > 0)
    assert 0.3 < rises < 0.7


@pytest.mark.parametrize("count", [1, 2, 9])
def test_fewer_rows_than_a_batch_are_all_taken_in_every_step(count: int):
    plan = schedule(LENGTHS[:count], epochs=3)
    assert plan.steps == 3
    for step in range(plan.steps):
        assert sorted(plan.rows(step).tolist()) == list(range(count))


# --- length and rate --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "epochs", "steps"), [(100, 3, 30), (100, 0.5, 5), (104, 1, 10), (100, 0.001, 1)]
)
def test_epochs_are_counted_in_examples(count: int, epochs: float, steps: int):
    assert schedule(LENGTHS[:count], epochs=epochs).steps == steps


def test_a_number_of_steps_goes_before_epochs():
    assert schedule(steps=7, epochs=3).steps == 7


def test_the_rate_rises_to_its_peak_and_falls_to_nearly_0():
    plan = schedule(steps=200, warmup=0.1, learning_rate=1e-3)
    rates = np.array([plan.rate(step) for step in range(200)])
    assert (np.diff(rates[:21]) > 0).all()
    assert (np.diff(rates[20:]) < 0).all()
    assert rates[20] == pytest.approx(1e-3)
    assert rates[10] == pytest.approx(1e-3 * 11 / 21)
    assert rates[110] == pytest.approx(1e-3 / 2)
    assert rates[-1] == pytest.approx(1e-3 / 180)


def test_without_warm_up_the_rate_falls_from_the_start():
    plan = schedule(steps=10, warmup=0.0, learning_rate=1.0)
    assert [plan.rate(step) for step in range(10)] == pytest.approx(
        [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 17, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.06, 0.5, 0.99])
def test_every_step_has_a_rate_above_0_and_at_most_the_peak(steps: int, warmup: float):
    plan = schedule(steps=steps, warmup=warmup, learning_rate=2.0)
    assert all(0 < plan.rate(step) <= 2.0 for step in range(steps))


# --- class weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[0, 1, 2], [0] * 90 + [1] * 9 + [2], [0, 0, 1], [2], [1] * 7])
@pytest.mark.parametrize("kind", ["none", "inverse_sqrt"])
def test_weights_have_mean_1_over_the_examples(labels: list[int], kind: str):
    weights = class_weights(np.array(labels), kind)
    assert weights.shape == (3,)
    assert weights[labels].mean().item() == pytest.approx(1.0, rel=1e-5)
    assert bool(weights.isfinite().all())


@pytest.mark.parametrize("labels", [[0, 1, 2], [0] * 90 + [1] * 9 + [2], [0, 0, 1]])
def test_no_weights_are_ones(labels: list[int]):
    assert class_weights(np.array(labels), "none").tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_a_class_four_times_as_frequent_weighs_half():
    weights = class_weights(np.array([0] * 16 + [1] * 4 + [2] * 4), "inverse_sqrt")
    assert (weights[0] / weights[1]).item() == pytest.approx(0.5)
    assert weights[1] == weights[2]


# --- examples ---------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path: Path) -> Artifact:
    artifact = Storage.at(str(tmp_path)).artifact("pairs", "f")
    table = pa.table(
        {
            "id": range(6),
            "premise": [f"p{i}" for i in range(6)],
            "hypothesis": [f"h{i}" for i in range(6)],
        }
    )
    artifact.write_table("rows-0.parquet", table.slice(0, 4))
    artifact.write_table("rows-4.parquet", table.slice(4))
    gold = table.append_column("label", pa.array(["neutral"] * 5 + ["entailment"]))
    artifact.write_table("gold/en.parquet", gold)
    return artifact


def bought(pairs: Artifact, ids: list[int]) -> Artifact:
    artifact = Artifact(pairs.storage, "labels", "f")
    labels = [("entailment", "neutral", "contradiction")[i % 3] for i in ids]
    artifact.write_table("all.parquet", pa.table({"id": ids, "label": labels}))
    return artifact


def test_examples_with_gold_labels_keep_them(pairs: Artifact):
    table = Examples(pairs, "gold/en.parquet").read()
    assert table.column_names == ["premise", "hypothesis", "label"]
    assert table["label"].to_pylist() == ["neutral"] * 5 + ["entailment"]


def test_bought_labels_stand_beside_the_query_of_their_id(pairs: Artifact):
    table = Examples(pairs, labels=bought(pairs, list(range(6)))).read()
    assert table.to_pylist()[4] == {"premise": "p4", "hypothesis": "h4", "label": "neutral"}
    assert table["label"].to_pylist() == ["entailment", "neutral", "contradiction"] * 2


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4], [0, 1, 2, 3, 5, 4], [0, 1, 2, 3, 4, 6]])
def test_labels_of_other_ids_are_refused(pairs: Artifact, ids: list[int]):
    with pytest.raises(ValueError, match="other ids"):
        Examples(pairs, labels=bought(pairs, ids)).read()


def test_only_the_named_rows_are_taken(pairs: Artifact):
    table = Examples(pairs, "gold/en.parquet", ids=np.array([1, 5])).read()
    assert table["premise"].to_pylist() == ["p1", "p5"]
    assert table["label"].to_pylist() == ["neutral", "entailment"]


# --- checkpoints ------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three checkpoints, as Ray Train names them."""
    for step in (10, 20, 30):
        folder = tmp_path / f"checkpoint_2026-11-23_10-00-{step}.000000"
        folder.mkdir()
        torch.save({"step": step, "weights": torch.full((1000,), float(step))}, folder / STATE)
    (tmp_path / "checkpoint_manager_snapshot.json").write_text("{}")
    return tmp_path


def loaded(run: Path, second: int = 30) -> dict[str, Any]:
    place = run / f"checkpoint_2026-11-23_10-00-{second}.000000"
    return load(ray.train.Checkpoint(str(place), pa.fs.LocalFileSystem()))


def damage(run: Path, second: int, how: str) -> None:
    file = run / f"checkpoint_2026-11-23_10-00-{second}.000000" / STATE
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes({"cut short": content[: len(content) // 2], "empty": b""}[how])


def test_the_checkpoint_that_is_named_is_taken(run: Path):
    assert loaded(run)["step"] == 30
    assert loaded(run, 20)["step"] == 20  # never a newer one, which the run does not know of


@pytest.mark.parametrize("how", ["cut short", "empty", "missing"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    run: Path, how: str, caplog: pytest.LogCaptureFixture
):
    damage(run, 30, how)
    assert loaded(run)["step"] == 20
    assert "10-00-30.000000 is damaged, the one before is taken" in caplog.text
    damage(run, 20, how)
    assert loaded(run)["step"] == 10
    damage(run, 10, how)
    with pytest.raises(UserError, match="all checkpoints are damaged; delete the folder"):
        loaded(run)
