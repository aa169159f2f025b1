"""Training's plan: which rows a step sees and at what rate, and what a class weighs."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.exceptions
import ray.train
import torch

import training_jobs
from conftest import Told
from raythief import encoding, models
from raythief.artifacts import Artifact, Storage
from raythief.config import Selection, SoftLabels, Tracking, Training
from raythief.errors import UserError, find_user_error
from raythief.nli import SCORES
from raythief.progress import silent
from raythief.stages import Stage
from raythief.training import continuation, data, encoded, runner, tracking
from raythief.training.data import Examples, held_out
from raythief.training.objective import class_weights, losses
from raythief.training.schedule import Schedule
from raythief.training.state import STATE, State, load

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


def test_a_constant_rate_rises_in_as_many_steps_however_many_follow():
    how: dict[str, Any] = {"schedule": "constant", "warmup_steps": 4, "learning_rate": 1e-3}
    short, long = schedule(**how, steps=20), schedule(**how, steps=300)
    rates = [short.rate(step) for step in range(20)]
    assert rates == [long.rate(step) for step in range(20)]
    assert rates[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert {long.rate(step) for step in range(4, 300)} == {1e-3}


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


# --- the loss ---------------------------------------------------------------------------------

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
VICTIM = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])


def test_hard_labels_are_cross_entropy() -> None:
    found = losses(LOGITS, torch.tensor([0, 2]), torch.tensor([1.0, 1.0, 0.5]))
    first = -2.0 + math.log(math.exp(2) + 1 + math.exp(-1))
    assert found.tolist() == pytest.approx([first, 0.5 * math.log(3)])


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_soft_labels_by_hand(temperature: float, weight: float) -> None:
    soft = SoftLabels(temperature=temperature, weight=weight)
    found = losses(LOGITS, torch.tensor([0, 2]), torch.ones(3), VICTIM, soft).tolist()
    for row in range(2):
        target = np.array(VICTIM[row], float) ** (1 / temperature)
        target /= target.sum()
        exponents = np.exp(np.array(LOGITS[row], float) / temperature)
        given = exponents / exponents.sum()
        apart = sum(p * math.log(p / q) for p, q in zip(target, given, strict=True) if p > 0)
        plain = np.exp(np.array(LOGITS[row], float))
        hard = -math.log(plain[[0, 2][row]] / plain.sum())
        by_hand = weight * temperature**2 * apart + (1 - weight) * hard
        assert found[row] == pytest.approx(by_hand, rel=1e-5)


def test_a_model_that_says_what_the_victim_says_loses_nothing() -> None:
    soft = SoftLabels(temperature=3.0)
    found = losses(VICTIM[:1].log(), torch.tensor([0]), torch.ones(3), VICTIM[:1], soft)
    assert found.item() == pytest.approx(0.0, abs=1e-6)


# --- batches in tokens ------------------------------------------------------------------------


def test_batches_of_so_many_tokens_hold_each_row_at_most_once() -> None:
    plan = schedule(batch_tokens=600, max_tokens=120)
    for epoch in range(3):
        batches = [plan.rows(epoch * plan.per_epoch + place) for place in range(plan.per_epoch)]
        tokens = np.array([LENGTHS[rows].sum() for rows in batches])
        seen = np.concatenate(batches)
        assert len(set(seen.tolist())) == len(seen) > 0.98 * len(LENGTHS)
        assert tokens.max() < 600 + 120
        assert tokens.min() > 600 - 240
        assert tokens.mean() == pytest.approx(600, rel=0.02)
    assert plan.steps == round(3 * LENGTHS.sum() / 600)


# --- what is held out -------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "share", "rows"), [(1000, 0.02, 20), (10, 0.01, 1), (2, 0.9, 1)])
def test_so_many_rows_are_held_out(count: int, share: float, rows: int) -> None:
    found = held_out(count, Selection(held_out=share), seed=0)
    assert len(set(found.tolist())) == len(found) == rows
    assert held_out(count, Selection(held_out=share), seed=0).tolist() == found.tolist()


def test_a_single_row_can_not_be_held_out() -> None:
    with pytest.raises(UserError, match=r"selection\.held_out"):
        held_out(1, Selection(), seed=0)


def test_patience_counts_looks_since_the_best() -> None:
    def state(*scores: float) -> State:
        return State(looks=[{"step": i, "score": score} for i, score in enumerate(scores)])

    assert not State().lost_patience(1)
    assert not state(0.5, 0.6).lost_patience(1)
    assert state(0.5, 0.6, 0.6).lost_patience(1)  # as good is not better
    assert not state(0.5, 0.6, 0.6).lost_patience(2)
    assert state(0.7, 0.6, 0.65).lost_patience(2)
    assert not state(0.7, 0.6, 0.65).lost_patience(None)
    assert state(0.5, 0.6, 0.6).best == {"step": 1, "score": 0.6}


# --- the data set -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_jobs.prepare(tmp_path_factory.mktemp("encoder"))


def dataset(folder: Path, *, judges: bool = False, **how: Any) -> data.Dataset:
    made = training_jobs.job(folder, "any", **how)
    return data.prepare(
        made.source, made.examples, made.judges if judges else (), made.training, 0, silent
    )


def test_what_is_selected_on_is_not_trained_on(encoder: Path) -> None:
    whole = dataset(encoder, selection={"held_out": 0.25})
    [judged] = whole.judges
    assert len(judged) == training_jobs.COUNT / 4
    assert sorted([*judged, *whole.train]) == list(range(training_jobs.COUNT))
    named = dataset(encoder, judges=True, selection={"on": "validation"})
    assert named.train.tolist() == list(range(training_jobs.COUNT))
    assert [rows.tolist() for rows in named.judges] == [
        list(range(training_jobs.COUNT, training_jobs.COUNT + 90))
    ]


def test_pairs_encoded_some_at_a_time_are_those_encoded_at_once(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of some rows are a part of them, whichever these are."""
    shutil.rmtree(encoder / "encoded", ignore_errors=True)
    whole = dataset(encoder)
    shutil.rmtree(encoder / "encoded")
    monkeypatch.setattr(encoded, "ROWS_AT_ONCE", 7)
    parts = dataset(encoder)
    assert np.array_equal(parts.pairs.ids, whole.pairs.ids)
    assert np.array_equal(parts.pairs.offsets, whole.pairs.offsets)
    assert np.array_equal(parts.labels, whole.labels)
    ids = np.array([2, 3, 6, 7, 8, 100, 359])
    job = training_jobs.job(encoder, "some")
    some = [dataclasses.replace(job.examples[0], ids=ids)]
    few = data.prepare(job.source, some, (), job.training, 0, silent)
    ours, expected = (one.batch(rows, torch.device("cpu")) for one, rows in
                      ((few.pairs, np.arange(len(ids))), (whole.pairs, ids)))  # fmt: skip
    assert {name: one.tolist() for name, one in ours.items()} == {
        name: one.tolist() for name, one in expected.items()
    }
    assert few.labels.tolist() == whole.labels[ids].tolist()


def test_trainings_that_read_the_same_pairs_encode_them_once(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(encoder / "encoded", ignore_errors=True)
    dataset(encoder, judges=True, selection={"on": "validation"})
    made = sorted(path.name for path in (encoder / "encoded").iterdir())
    assert len(made) == 2  # what is trained on, and what is selected on
    tables = pq.read_table(next((encoder / "encoded").glob("*/rows-*-0000000360.parquet")))
    assert tables.column_names[0] == "ids"

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "encode", None)  # nothing is encoded again
        dataset(encoder, learning_rate=1e-4, steps=7, selection={"held_out": 0.5})
    dataset(encoder, max_tokens=32)
    assert len(list((encoder / "encoded").iterdir())) == 3


def test_a_tokenizer_that_cuts_at_the_other_end_shares_no_tokens(encoder: Path) -> None:
    """Though its file is the same: the end is told beside it."""
    job = training_jobs.job(encoder, "any")
    [examples] = job.examples
    tokenizer = models.tokenizer(job.source.local())

    def first() -> list[int]:
        rows = np.arange(1)
        pairs = encoded.pairs(examples.texts, examples.table, rows, tokenizer, 8, silent)
        return pairs.ids.tolist()

    right = first()
    tokenizer.truncation_side = "left"
    assert first() != right


def test_a_tokenizer_that_was_used_before_shares_its_tokens(encoder: Path) -> None:
    """It remembers how it cut and padded last; each call sets that itself."""
    job = training_jobs.job(encoder, "any")
    [examples] = job.examples
    tokenizer = models.tokenizer(job.source.local())
    before = set((encoder / "encoded").iterdir())
    first, again = (
        encoded.pairs(examples.texts, examples.table, np.arange(1), tokenizer, 9, silent)
        for _ in range(2)
    )
    assert len(set((encoder / "encoded").iterdir()) - before) == 1
    assert first.ids.tolist() == again.ids.tolist()


def test_gold_labels_are_certain_where_soft_ones_are_learned(encoder: Path) -> None:
    assert dataset(encoder).scores is None
    whole = dataset(encoder, soft_labels={})
    assert whole.scores is not None
    assert whole.scores.argmax(-1).tolist() == whole.labels.tolist()
    assert set(whole.scores.ravel().tolist()) == {0.0, 1.0}


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
    assert table.column_names == ["row", "label"]
    assert table["label"].to_pylist() == ["neutral"] * 5 + ["entailment"]


def test_bought_labels_stand_beside_the_query_of_their_id(pairs: Artifact):
    table = Examples(pairs, labels=bought(pairs, list(range(6)))).read()
    assert table.to_pylist()[4] == {"row": 4, "label": "neutral"}
    assert table["label"].to_pylist() == ["entailment", "neutral", "contradiction"] * 2


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4], [0, 1, 2, 3, 5, 4], [0, 1, 2, 3, 4, 6]])
def test_labels_of_other_ids_are_refused(pairs: Artifact, ids: list[int]):
    with pytest.raises(ValueError, match="other ids"):
        Examples(pairs, labels=bought(pairs, ids)).read()


def test_fewer_queries_lie_within_more(pairs: Artifact):
    found = [
        Examples(pairs, labels=bought(pairs, list(range(6))), first=first).read().to_pylist()
        for first in (2, 4, None)
    ]
    assert [len(rows) for rows in found] == [2, 4, 6]
    assert found[2][:4] == found[1]
    assert found[1][:2] == found[0]


def test_bought_probabilities_come_along_and_what_was_rejected_does_not(pairs: Artifact):
    artifact = Artifact(pairs.storage, "labels", "scored")
    scores = {name: [0.1 * i for i in range(6)] for name in SCORES}
    labels = ["neutral", None, *["entailment"] * 4]
    artifact.write_table("all.parquet", pa.table({"id": range(6), "label": labels, **scores}))
    table = Examples(pairs, labels=artifact).read()
    assert table.column_names == ["row", "label", *SCORES]
    assert table["row"].to_pylist() == [0, 2, 3, 4, 5]
    assert table[SCORES[2]].to_pylist() == pytest.approx([0.0, 0.2, 0.3, 0.4, 0.5])


def test_only_the_named_rows_are_taken(pairs: Artifact):
    table = Examples(pairs, "gold/en.parquet", ids=np.array([1, 5])).read()
    assert table["row"].to_pylist() == [1, 5]
    assert table["label"].to_pylist() == ["neutral", "entailment"]


# --- going on from a shorter training ---------------------------------------------------------

OPEN: dict[str, Any] = {"schedule": "constant", "warmup_steps": 10, "batch_size": 10}


def finished(folder: Path, seed: int = 0, **how: Any) -> Stage:
    """A training that is done, as far as its manifest tells."""
    training = Training.model_validate({**OPEN, **how})

    def build(target: Artifact, given: Any, tell: Any) -> Told:
        target.write(STATE, b"")
        return Told()

    stage = Stage("extractor", {"training": training.model_dump(mode="json"), "seed": seed}, build)
    stage.ensure(Storage.at(str(folder)))
    return stage


def gone_on_from(folder: Path, **how: Any) -> str | None:
    training = Training.model_validate({**OPEN, **how})
    stage = Stage(
        "extractor", {"training": training.model_dump(mode="json"), "seed": 0}, lambda *_: Told()
    )
    found = continuation.find(stage, Storage.at(str(folder)), training)
    return None if found is None else found.fingerprint


def test_the_longest_of_the_shorter_ones_that_are_equal_in_all_else_is_gone_on_from(
    tmp_path: Path,
) -> None:
    assert gone_on_from(tmp_path, steps=500) is None
    longest = [finished(tmp_path, steps=steps) for steps in (100, 300, 200, 500, 900)][1]
    finished(tmp_path, seed=1, steps=400)
    finished(tmp_path, steps=400, batch_size=11)
    assert gone_on_from(tmp_path, steps=500) == longest.fingerprint
    assert gone_on_from(tmp_path, steps=500, batch_size=12) is None


@pytest.mark.parametrize(
    "how",
    [
        {"schedule": "linear"},
        {"warmup_steps": None},  # a share of the steps
        {"on_collapse": "stop"},
    ],
)
def test_where_a_step_depends_on_those_that_follow_nothing_is_gone_on_from(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    finished(tmp_path, steps=100, **how)
    assert gone_on_from(tmp_path, steps=500, **how) is None


def test_a_look_at_the_last_step_that_a_longer_training_lacks_is_no_beginning_of_it(
    tmp_path: Path,
) -> None:
    for steps in (100, 130):
        finished(tmp_path, steps=steps, selection={"every": 50})
    found = gone_on_from(tmp_path, steps=500, selection={"every": 50})
    assert found == finished(tmp_path, steps=100, selection={"every": 50}).fingerprint


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


# --- trackers ---------------------------------------------------------------------------------


class Broken(tracking.Tracker):
    """A tracker whose service is down."""

    calls = 0

    def failures(self) -> tuple[type[Exception], ...]:
        return (ConnectionError,)

    def tell(self, points: Any, last: bool) -> None:
        self.calls += 1
        raise ConnectionError("nobody there")


def test_a_tracker_that_is_down_costs_a_warning_and_not_the_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = Broken("https://tracker.test", "experiment", "extractor/a", {})
    for _ in range(3):
        tracker.after_report(None, [{"points": [{"step": 1, "loss": 0.5}], "last": False}], None)
    assert tracker.calls == 1
    assert "tracker.test is told no more of extractor/a: nobody there" in caplog.text


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_told_of_first(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.check(Tracking(**{name: "somewhere"}))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"tracking\.{name}: install it with `pip install"):
        tracking.check(Tracking(**{name: "somewhere"}))
    tracking.check(Tracking())


# --- failures ---------------------------------------------------------------------------------


def in_a_task(error: Exception) -> Exception:
    """What Ray raises where a task's result is asked for."""
    raised: Exception = ray.exceptions.RayTaskError(
        "prepare", "Traceback ...", error, pid=1, ip="::1"
    ).make_dual_exception_instance()
    return raised


@pytest.mark.parametrize("raised", [lambda error: error, in_a_task])
def test_a_user_s_mistake_on_a_worker_ends_a_training_with_its_sentence(
    raised: Callable[[Exception], Exception],
) -> None:
    """Ray Train tries again after failures of workers, and not after one of its controller."""
    mistake = raised(UserError("selection.held_out: give more"))
    with pytest.raises(UserError) as caught:
        runner._NoSecondTry().after_exception(None, {0: OSError("cut off"), 1: mistake})
    failed = ray.train.ControllerError(caught.value)
    assert str(find_user_error(failed)) == "selection.held_out: give more"


def test_what_is_no_user_s_mistake_is_tried_again() -> None:
    crash = in_a_task(OSError("cut off"))
    runner._NoSecondTry().after_exception(None, {0: crash, 1: RuntimeError("of the group")})
    assert find_user_error(crash) is None
