"""The whole experiment on a real Ray, and what its artifacts must be whatever it learned."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from conftest import Whole, answered, artifact, files_of, prepared, run_spec
from raythief import building, config, evaluation, runs
from raythief.artifacts import Storage
from raythief.config import LABELS

pytestmark = pytest.mark.usefixtures("one_ray")


def results(whole: Whole, role: str, row: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = artifact(whole, role, row).verify()["results"]
    return found


def test_every_row_is_done_and_reported(whole: Whole) -> None:
    _, _, record = whole
    assert [row["status"] for row in record["rows"]] == ["done"] * 4
    page = Path(record["report"]).read_text(encoding="utf-8")
    for row in record["rows"]:
        assert row["variant"] in page


def test_the_report_draws_what_was_read_and_counts_what_it_took(whole: Whole) -> None:
    _, _, record = whole
    folder = Path(record["report"]).parent

    def sheet(name: str) -> list[dict[str, str]]:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    reads = {line["stage"]: set(line["reads"].split()) for line in sheet("pipeline.csv")}
    assert reads["labels"] == {"queries", "victim"}
    assert reads["extractor"] == {"encoders", "labels", "queries", "real"}
    assert reads["finetuned"] == {"extractor", "real"}
    assert reads["evaluation"] == {"extractor", "finetuned", "examples", "victim_evaluation"}
    paths = {stage["path"] for row in record["rows"] for stage in row["stages"].values()}
    assert {line["artifact"] for line in sheet("hours.csv")} == paths
    assert [line["spent"] for line in sheet("queries.csv")] == ["600"]


def test_rows_share_what_they_can(whole: Whole) -> None:
    _, _, record = whole
    first, after, during, only = [row["stages"] for row in record["rows"]]
    assert first["labels"] == after["labels"] == during["labels"]
    assert first["extractor"]["path"] == after["extractor"]["path"]
    assert during["extractor"]["path"] != first["extractor"]["path"]
    assert "labels" not in only


def test_queries_and_labels_hold_every_id_once(whole: Whole) -> None:
    for role in ("queries", "labels"):
        assert artifact(whole, role).read_table()["id"].to_pylist() == list(range(600))


def test_labels_are_those_of_the_victim_alone_with_each_query(whole: Whole) -> None:
    """The reference: plain transformers, one pair at a time, no padding, no batching."""
    folder = artifact(whole, "victim").local("model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    queries = artifact(whole, "queries").read_table().slice(0, 200).to_pylist()
    bought = artifact(whole, "labels").read_table()["label"].to_pylist()
    for query, label in zip(queries, bought, strict=False):
        pair = tokenizer(query["premise"], query["hypothesis"], return_tensors="pt")
        with torch.no_grad():
            logits = model(**pair).logits[0]
        if logits.topk(2).values.diff().abs() > 1e-4:  # a near-tie may fall either way
            assert model.config.id2label[int(logits.argmax())] == label


def test_an_extractor_is_a_plain_folder_of_transformers_with_a_card(whole: Whole) -> None:
    folder = artifact(whole, "extractor").local("model")
    ask = pipeline("text-classification", model=str(folder))
    assert ask({"text": "a", "text_pair": "b"})["label"] in LABELS
    card = (folder / "README.md").read_text()
    assert "# A classifier extracted with gibberish" in card
    assert "600 pairs of random words: 600 were answered" in card


def test_label_counts_are_those_of_the_labels(whole: Whole) -> None:
    counts = Counter(artifact(whole, "labels").read_table()["label"].to_pylist())
    told = results(whole, "labels")
    assert len(counts) > 1, "a victim that says one thing only would make these tests idle"
    assert {name: n for name, n in told["label_counts"].items() if n} == dict(counts)
    assert told["queries"] == 600
    assert 0 <= told["padding_share"] < 0.2


def test_figures_follow_from_the_predictions_that_are_kept(whole: Whole) -> None:
    kept = artifact(whole, "evaluation")
    judge = artifact(whole, "victim_evaluation")
    for language, told in results(whole, "evaluation")["sets"]["xnli"].items():
        table = kept.read_table(f"xnli/{language}")
        right = np.array(table["label"].to_pylist()) == np.array(table["predicted"].to_pylist())
        assert told["accuracy"] == pytest.approx(right.mean())
        victim = judge.read_table("xnli/en")["predicted"].to_pylist()
        same = np.array(victim) == np.array(table["predicted"].to_pylist())
        assert told["agreement"] == pytest.approx(same.mean())
        assert told["low"] <= told["accuracy"] <= told["high"]


def test_languages_show_the_same_items(whole: Whole) -> None:
    kept = artifact(whole, "evaluation")
    english = kept.read_table("xnli/en")
    for language in ("de", "ru"):
        other = kept.read_table(f"xnli/{language}")
        assert other["id"].equals(english["id"])
        assert other["label"].equals(english["label"])


def test_the_victim_agrees_with_itself(whole: Whole) -> None:
    table = artifact(whole, "victim_evaluation").read_table("xnli/en")
    assert evaluation.agreement(table, table) == 1.0
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))
    assert evaluation.agreement(shuffled, table) == 1.0


def test_the_extractor_loads_with_no_code_of_ours(whole: Whole) -> None:
    folder = artifact(whole, "extractor").local("model")
    classify = pipeline("text-classification", model=str(folder))
    answer = classify({"text": "the dog runs", "text_pair": "the animal moves"})
    assert answer["label"] in ("entailment", "neutral", "contradiction")
    assert not list(folder.glob("*.bin"))


def test_after_goes_on_from_the_gibberish_stage(whole: Whole) -> None:
    after = artifact(whole, "finetuned", row=1).verify()
    assert after["inputs"]["model"]["fingerprint"] == artifact(whole, "extractor").fingerprint
    assert after["results"]["examples"] == 30
    assert results(whole, "extractor", row=2)["examples"] == 630
    assert results(whole, "extractor", row=3)["examples"] == 300


def test_a_second_run_builds_nothing(whole: Whole, tmp_path: Path) -> None:
    file, _, first = whole
    again = run_spec(file, f"storage={prepared(whole, tmp_path)}")
    assert all(stage["reused"] for row in again["rows"] for stage in row["stages"].values())
    paths = [{role: s["path"] for role, s in row["stages"].items()} for row in first["rows"]]
    assert paths == [
        {role: s["path"] for role, s in row["stages"].items()} for row in again["rows"]
    ]


def test_checkpoints_and_raw_text_do_not_stay(whole: Whole) -> None:
    _, storage, _ = whole
    assert not list(storage.rglob("_work"))
    assert not list(storage.rglob("*.tmp"))


def test_labels_and_evaluation_do_not_depend_on_the_number_of_actors(
    whole: Whole, tmp_path: Path
) -> None:
    """Byte for byte: from the same queries, one actor's files and two actors' files."""
    file, storage, _ = whole
    copy = prepared(whole, tmp_path, "labels", "evaluation", "queries")
    two = ("resources.inference.workers=2", "resources.concurrent_stages=1")
    for until in ("labels", "evaluation"):  # which needs no labels, for the extractor is whole
        run_spec(file, f"storage={copy}", *two, only=["gibberish"], until=until)
    stages = ["labels", "queries"]
    assert files_of(copy, stages) == files_of(storage, stages)
    [(name, _)] = Counter(path.parent.name for path in copy.glob("evaluation/*/_SUCCESS")).items()
    assert files_of(copy, [f"evaluation/{name}"]) == files_of(storage, [f"evaluation/{name}"])


def test_damaged_labels_are_mended_and_only_what_is_lost_is_asked_again(
    whole: Whole, tmp_path: Path
) -> None:
    file, storage, record = whole
    copy = prepared(whole, tmp_path)
    path = record["rows"][0]["stages"]["labels"]["path"]
    labels, [kept] = copy / path, answered(copy, "labels")
    lost = "rows-0000000100-0000000200.parquet"
    for place in (labels, kept):  # the copy alone would be written again from the answers
        (place / lost).write_bytes((place / lost).read_bytes()[:-10])
    before = {part: part.stat().st_mtime_ns for part in kept.glob("rows-*.parquet")}
    spec = config.load(file, [f"storage={copy}"])
    row = runs.cut_off(runs.rows(spec, ["gibberish"])[0], "labels")
    assert building.look(row.stages.values(), Storage.at(str(copy)))[labels.name][0] == "damaged"
    here = "resources.inference.workers=0"
    run_spec(file, f"storage={copy}", here, only=["gibberish"], until="labels")
    assert files_of(copy, ["labels"]) == files_of(storage, ["labels"])
    after = {part: part.stat().st_mtime_ns for part in kept.glob("rows-*.parquet")}
    assert [part.name for part in before if after[part] != before[part]] == [lost]


def test_what_was_archived_away_does_not_matter_while_what_was_made_from_it_is_whole(
    whole: Whole, tmp_path: Path
) -> None:
    file, _, record = whole
    copy = prepared(whole, tmp_path, "labels", "queries", "corpus")
    again = run_spec(file, f"storage={copy}")
    assert not (copy / "labels").exists()
    assert [row["status"] for row in again["rows"]] == ["done"] * len(record["rows"])


def test_manifests_tell_how_it_was_made(whole: Whole) -> None:
    _, storage, _ = whole
    for manifest in storage.glob("*/*/manifest.json"):
        told = json.loads(manifest.read_text(encoding="utf-8"))
        assert told["seconds"] >= 0
        assert told["versions"]["ray"].startswith("2.60")
        assert told["files"]
