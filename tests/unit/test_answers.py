"""Answers that are kept by id: what is asked again, and what is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raythief import answers, metering, sharding, takeover
from raythief.answers import Answers
from raythief.artifacts import Artifact, Storage
from raythief.sharding import Shard

API = {"api": "model-v1", "request": {"pairs": "{rows}"}, "labels": None}
LOCAL = {"files": {"config.json": "0" * 64}}
INFERENCE = {"rows_per_shard": 4, "precision": "auto"}
RECIPE = {"count": 10, "replaced_words": 3, "seed": 0}
VOCABULARY = "e" * 16
ANSWERED = {"device": "API", "attempts": 0, "retries": 0, "labels": {}}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.at(str(tmp_path))


def asked(
    count: int, victim: Mapping[str, Any] = API, *, former: Sequence[tuple[str, str, str]] = (),
    inference: Mapping[str, Any] = INFERENCE, recipe: Mapping[str, Any] = RECIPE,
) -> Answers:  # fmt: skip
    model, shape = answers.asked(victim, {}, None, inference, None)
    texts = answers.gibberish(VOCABULARY, {**recipe, "count": count}, 2)
    return Answers(model, shape, texts, count, "labels", tuple(former))


def keep(one: Answers, storage: Storage, start: int, stop: int, label: str = "neutral") -> None:
    """A whole shard of answers."""
    numbers = {**ANSWERED, "rows": stop - start, "rejected": [], "spent": stop - start}
    one.at(storage).write_table(
        Shard("", start, stop).name, sharding.with_statistics(rows(start, stop, label), numbers)
    )


def rows(start: int, stop: int, label: str | None = "neutral") -> pa.Table:
    labels = pa.array([label] * (stop - start), pa.string())
    return pa.table({"id": range(start, stop), "label": labels})


def spans(shards: Sequence[Shard]) -> list[tuple[int, int]]:
    return [(shard.start, shard.stop) for shard in shards]


def to_do(one: Answers, storage: Storage, rows_per_shard: int = 4) -> list[tuple[int, int]]:
    """Shards that are not whole yet."""
    place = one.of_model(storage)
    cut = answers.shards(one, storage, rows_per_shard)
    return spans([shard for shard in cut if sharding.statistics(place, shard) is None])


# --- what identifies an answer ------------------------------------------------------------------


def test_the_number_of_queries_and_how_a_model_is_run_say_nothing_of_an_api_s_answers() -> None:
    plain = asked(10)
    assert asked(11).path == plain.path
    assert asked(10, inference={"compile": True}).path == plain.path
    assert asked(10, {**API, "api": "model-v2"}).key != plain.key
    assert asked(10, {**API, "request": {"texts": "{rows}"}}).path != plain.path
    assert asked(10, {**API, "request": {"texts": "{rows}"}}).key == plain.key  # one budget
    assert asked(10, recipe={**RECIPE, "seed": 1}).path != plain.path


def test_how_a_model_in_an_actor_is_run_shapes_its_answers() -> None:
    plain = asked(10, LOCAL)
    assert asked(11, LOCAL).path == plain.path
    other = asked(10, LOCAL, inference={**INFERENCE, "precision": "bfloat16"})
    assert other.path != plain.path
    assert other.key == plain.key


# --- more and fewer -----------------------------------------------------------------------------


def test_more_queries_buy_the_new_ids_alone_and_fewer_none(storage: Storage) -> None:
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        keep(asked(10), storage, start, stop)
    assert to_do(asked(10), storage) == []
    assert to_do(asked(11), storage) == [(10, 11)]
    assert to_do(asked(17), storage) == [(10, 12), (12, 16), (16, 17)]
    assert to_do(asked(9), storage) == to_do(asked(3), storage) == []
    assert takeover.there(asked(11), storage) == 10
    assert takeover.there(asked(3), storage) == 3


def test_shards_may_be_cut_otherwise_than_before(storage: Storage) -> None:
    for start, stop in ((0, 4), (8, 10)):
        keep(asked(10), storage, start, stop)
    assert to_do(asked(20), storage, 3) == [(4, 6), (6, 8), (10, 12), (12, 15), (15, 18), (18, 20)]
    whole = answers.shards(asked(20), storage, 3)
    assert spans(whole)[0] == (0, 4)
    assert sum(stop - start for start, stop in spans(whole)) == 20


def test_a_lost_shard_is_bought_alone(storage: Storage) -> None:
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        keep(asked(10), storage, start, stop)
    asked(10).at(storage).remove(Shard("", 4, 8).name)
    assert to_do(asked(10), storage) == [(4, 8)]


def test_a_model_computes_its_last_shorter_shard_again_and_reuses_whole_ones(
    storage: Storage,
) -> None:
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        keep(asked(10, LOCAL), storage, start, stop)
    assert to_do(asked(11, LOCAL), storage) == [(8, 11)]
    assert takeover.there(asked(11, LOCAL), storage) == 10  # one query is new
    keep(asked(11, LOCAL), storage, 8, 11, "entailment")
    table = answers.read(asked(10, LOCAL), storage, answers.shards(asked(10, LOCAL), storage, 4))
    assert table["label"].to_pylist() == ["neutral"] * 10  # those of the shorter shard
    bill = metering.account(
        asked(11, LOCAL).at(storage), sharding.kept(asked(11, LOCAL).at(storage)).values()
    )
    assert bill.kept == 11


def test_parts_are_used_however_shards_are_cut_then(storage: Storage) -> None:
    one = asked(10)
    numbers = {**ANSWERED, "rows": 3, "rejected": [], "spent": 3}
    part = sharding.with_statistics(rows(4, 7), numbers)
    folder = sharding.parts_folder(Shard("", 4, 8))
    one.at(storage).write_table(f"{folder}/a.parquet", part)
    assert takeover.there(one, storage) == 3
    assert sharding.parts(one.at(storage), Shard("", 6, 9)) == [folder]
    assert sharding.parts(one.at(storage), Shard("", 0, 4)) == []
    answers.clear(one.at(storage), Shard("", 6, 9))
    assert sharding.parts(one.at(storage)) == [folder]  # ids 4 and 5 are not in a whole shard yet
    answers.clear(one.at(storage), Shard("", 3, 9))
    assert sharding.parts(one.at(storage)) == []


def test_what_is_said_of_answers_is_said_once(storage: Storage) -> None:
    assert answers.describe(asked(10), storage, precision="float32")["precision"] == "float32"
    assert answers.describe(asked(10), storage, precision="bfloat16")["precision"] == "float32"


def test_damaged_answers_are_asked_again_alone(storage: Storage) -> None:
    """Any byte of the labels: pages carry checksums."""
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        keep(asked(10), storage, start, stop)
    file = Path(asked(10).at(storage).absolute) / Shard("", 4, 8).name
    content = file.read_bytes()
    place = content.index(b"neutral")
    file.write_bytes(content[:place] + b"NEUTRAL" + content[place + 7 :])
    answers.drop_damaged(asked(10), storage)
    assert to_do(asked(10), storage) == [(4, 8)]
    cut = Path(asked(10).at(storage).absolute) / Shard("", 0, 4).name
    cut.write_bytes(cut.read_bytes()[:-20])
    assert to_do(asked(10), storage) == [(0, 4), (4, 8)]


def test_a_late_write_of_a_killed_run_shifts_no_answers(storage: Storage) -> None:
    """Its last, shorter shard lands beside the longer one that the next run made."""
    for start, stop in ((0, 4), (4, 8), (4, 10)):
        keep(asked(10), storage, start, stop)
    one = asked(10)
    found = answers.read(one, storage, answers.shards(one, storage, 4))
    assert found["id"].to_pylist() == list(range(10))


def test_copies_that_are_cut_otherwise_do_not_stay(storage: Storage) -> None:
    target = storage.artifact("labels", "a" * 16)
    sharding.write(target, rows(0, 10), 4)
    target.write_table("rejected/rejected.parquet", rows(0, 0))
    sharding.write(target, rows(0, 10), 10)
    assert target.tables() == [Shard("", 0, 10).name]
    assert target.tables("rejected")


# --- what was bought before answers were kept here ------------------------------------------------


def finished_labels(
    storage: Storage,
    count: int = 10,
    per_file: int = 5,
    results: Mapping[str, Any] | None = None,
    **config: Any,
) -> Artifact:
    """Labels as they were bought until November 2026, with the queries that they are of."""
    queries = storage.artifact("queries", "a" * 16)
    queries.write("rows", b"")
    queries.finish(
        {"version": 2, "config": {**RECIPE, "count": count}, "inputs": {}, "results": {}}
    )
    labels = storage.artifact("labels", "b" * 16)
    for shard in sharding.cut(count, per_file):
        table = rows(shard.start, shard.stop)
        refused = []
        if shard.start == 0:
            table = pa.concat_tables([rows(0, 1, None), table.slice(1)])
            refused = [[0, "HTTP 422"]]
        numbers = {**ANSWERED, "rows": table.num_rows, "rejected": refused, "spent": per_file}
        labels.write_table(shard.name, sharding.with_statistics(table, numbers))
    labels.finish(
        {
            "config": {"victim": API, "labels": None, "inference": {"rows_per_shard": 7}, **config},
            "inputs": {
                "queries": {"stage": "queries", "fingerprint": queries.fingerprint},
                "vocabulary": {"stage": "vocabulary", "fingerprint": VOCABULARY},
            },
            "results": results
            or {"spent": 13, "device": "API", "label_counts": {"neutral": count - 1}},
        }
    )
    return labels


@pytest.mark.parametrize("count", [8, 10, 12])
def test_finished_labels_are_taken_over_whatever_their_number(storage: Storage, count: int) -> None:
    finished_labels(storage)
    one = asked(count)
    assert takeover.there(one, storage) == min(count, 10)
    assert takeover.unlisted([one], storage) == 13
    takeover.settle([one], storage)
    assert takeover.unlisted([one], storage) == 0  # a ledger tells of them now
    takeover.take([one], storage)
    assert to_do(one, storage) == ([(10, 12)] if count == 12 else [])
    assert metering.spent(storage, one.path) == 13
    bill = metering.account(one.at(storage), sharding.kept(one.at(storage)).values())
    assert (bill.kept, bill.rejected, bill.spent, bill.lost) == (9, 1, 13, 3)
    before = {path: path.stat().st_mtime_ns for path in Path(one.at(storage).absolute).iterdir()}
    takeover.settle([one], storage)
    takeover.take([one], storage)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_another_victim_s_labels_are_left_alone(storage: Storage) -> None:
    finished_labels(storage)
    other = asked(10, {**API, "api": "model-v2"})
    takeover.take([other], storage)
    assert takeover.there(other, storage) == takeover.unlisted([other], storage) == 0
    wanted_with_scores = asked(10)
    finished = Storage.at(f"{storage.uri}/scores")
    finished_labels(finished, scores="scores")
    assert takeover.there(wanted_with_scores, finished) == 0


def test_of_damaged_labels_what_is_whole_is_taken_over(storage: Storage) -> None:
    labels = finished_labels(storage)
    lost = Path(labels.absolute) / Shard("", 5, 10).name
    os.truncate(lost, lost.stat().st_size - 3)
    one = asked(10)
    assert takeover.there(one, storage) == 5
    takeover.take([one], storage)
    assert to_do(one, storage) == [(5, 8), (8, 10)]


def test_an_unfinished_purchase_is_taken_over_with_its_ledgers(storage: Storage) -> None:
    labels = storage.artifact("labels", "c" * 16)
    numbers = {**ANSWERED, "rows": 5, "rejected": [], "spent": 5}
    labels.write_table(Shard("", 0, 5).name, sharding.with_statistics(rows(0, 5), numbers))
    part = sharding.with_statistics(rows(5, 7), {**numbers, "rows": 2, "spent": 2})
    labels.write_table("_work/parts/rows-0000000005-0000000010/x.parquet", part)
    ledger = {"queries": 10, "started": 1.0, "taken": 9, "returned": 0}
    labels.write("_work/ledger-0.json", json.dumps(ledger).encode())
    one = asked(10, former=[("labels", "c" * 16, "")])
    assert takeover.there(one, storage) == 7
    assert takeover.unlisted([one], storage) == 9
    for _ in range(2):
        takeover.settle([one], storage)
        takeover.take([one], storage)
    assert takeover.there(one, storage) == 7
    assert takeover.unlisted([one], storage) == 0
    bill = metering.account(one.at(storage), sharding.kept(one.at(storage)).values())
    assert (bill.queries, bill.kept, bill.spent, bill.lost) == (10, 7, 9, 2)


def test_an_evaluation_of_an_api_is_taken_over_by_set_and_language(storage: Storage) -> None:
    evaluation = storage.artifact("victim_evaluation", "d" * 16)
    table = rows(0, 3).rename_columns(["id", "label"]).append_column(
        "predicted", pa.array(["entailment", None, "neutral"])
    )  # fmt: skip
    numbers = {**ANSWERED, "rows": 3, "rejected": [[1, "HTTP 422"]], "spent": 3}
    name = Shard("xnli/en", 0, 3).name
    evaluation.write_table(name, sharding.with_statistics(table, numbers))
    examples = {"stage": "examples", "fingerprint": "f" * 16}
    evaluation.finish(
        {
            "config": {"model": API, "labels": None, "inference": {}},
            "inputs": {"examples:xnli": examples},
            "results": {
                "sets": {"xnli": {"en": {"count": 2, "accuracy": 0.5}}},
                "spent": 3,
                "device": "API",
            },
        }
    )
    model, shape = answers.asked(API, {}, None, {}, None)
    texts = answers.labelled("f" * 16, "en")
    one = Answers(model, shape, texts, 3, "victim_evaluation")
    takeover.take([one], storage)
    found = answers.read(one, storage, answers.shards(one, storage, 4))
    assert found.to_pydict() == {"id": [0, 1, 2], "label": ["entailment", None, "neutral"]}
    other = Answers(model, shape, answers.labelled("f" * 16, "de"), 3, "victim_evaluation")
    assert takeover.there(other, storage) == 0


def test_what_an_evaluation_of_several_languages_cost_counts_once(storage: Storage) -> None:
    evaluation = storage.artifact("victim_evaluation", "d" * 16)
    evaluation.write("any", b"")
    score = {"count": 2, "accuracy": 0.5}
    sets = {"xnli": {"en": score, "de": score}, "mine": {"en": score}}
    inputs = {f"examples:{name}": {"stage": "examples", "fingerprint": name} for name in sets}
    evaluation.finish(
        {
            "config": {"model": API, "labels": None, "inference": {}},
            "inputs": inputs,
            "results": {"sets": sets, "spent": 6, "device": "API"},
        }
    )
    one = asked(10)  # of the same victim
    assert takeover.unlisted([one], storage) == 6
    takeover.settle([one], storage)
    victim = one.of_model(storage).path
    assert sum(metering.spent(storage, path) for path in metering.bought(storage, [victim])) == 6


def test_what_labels_cost_is_known_when_their_rows_and_queries_are_gone(storage: Storage) -> None:
    labels = finished_labels(storage)
    for file in Path(labels.absolute).glob("rows-*"):
        file.unlink()
    shutil.rmtree(Path(storage.root) / "queries")
    one = asked(10)
    assert takeover.there(one, storage) == 0
    assert takeover.unlisted([one], storage) == 13
    takeover.settle([one], storage)
    takeover.settle([one], storage)
    victim = one.of_model(storage).path
    assert sum(metering.spent(storage, path) for path in metering.bought(storage, [victim])) == 13


def test_answers_of_a_model_in_an_unknown_number_format_are_not_mixed_in(storage: Storage) -> None:
    gpu = {"spent": 10, "device": "NVIDIA H100", "label_counts": {"neutral": 10}}
    finished_labels(storage, victim=LOCAL, inference=INFERENCE, results=gpu)
    one = asked(10, LOCAL)
    takeover.take([one], storage)
    assert takeover.there(one, storage) == 0
    cpu = Storage.at(f"{storage.uri}/cpu")
    finished_labels(
        cpu, per_file=4, victim=LOCAL, inference=INFERENCE, results={**gpu, "device": "CPU"}
    )
    takeover.take([one], cpu)
    assert answers.described(one, cpu)["precision"] == "float32"
    assert takeover.there(one, cpu) == 10


def test_answers_that_are_lost_are_found_again_in_the_labels_made_from_them(
    storage: Storage,
) -> None:
    labels = finished_labels(storage, answers="x")  # the config's key is of no matter here
    manifest = json.loads(Path(labels.absolute, "manifest.json").read_text())
    del manifest["config"]["answers"], manifest["files"]
    labels.finish({**manifest, "results": {**manifest["results"], "answers": asked(10).path}})
    one = asked(10)
    assert takeover.unlisted([one], storage) == 0  # a ledger told of them
    takeover.take([one], storage)
    assert to_do(one, storage) == []
