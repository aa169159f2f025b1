"""The plan: what a run would take, reckoned without network, cluster or storage."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from conftest import SMALL
from raythief import accelerators, planning, runs, throughput
from raythief import sweep as sweeping
from raythief.artifacts import Storage
from raythief.config import Spec, merge, nest, validate
from raythief.errors import MissingFileError, UserError
from raythief.results import RESULTS

QUERIES = 392_702
LARGE = 12 * 24 * 1024**2
"""Weights of a large encoder that take part in a token's forward pass: per layer 4 h^2 for
attention and 8 h^2 for the feed-forward net."""
BASE = 12 * 12 * 768**2
GIBBERISH = 25.0 * 2 * 2.9
"""Tokens of a query: two sentences of 25 words of 2.9 tokens."""
REAL = 45.0
XNLI = 15 * 5_010
MNLI = 9_815


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("touches the network")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


def spec(folder: Path, base: Mapping[str, Any] | None = None, **changes: Any) -> Spec:
    dotted = {field.replace("__", "."): value for field, value in changes.items()}
    plain = {"storage": str(folder / "storage"), "victim": {"sanity": {"count": 0}}}
    tree = merge({"name": "paper", **plain}, base or {})
    return validate(merge(tree, nest(dotted)), "spec")


def shown(given: Spec, *only: str) -> str:
    text = io.StringIO()
    planning.show(given, runs.rows(given, only, missing_ok=True), Console(file=text, width=200))
    return text.getvalue()


def works(given: Spec) -> dict[str, planning.Work]:
    steps = planning.steps(runs.rows(given), Storage.at(given.storage))
    return {step.role: step.work for step in steps}


def finish(given: Spec, role: str, **results: Any) -> None:
    """Put a finished artifact in the place of a stage of the first row."""
    stage = runs.rows(given)[0].stages[role]
    artifact = Storage.at(given.storage).artifact(stage.name, stage.fingerprint)
    artifact.write("data.txt", b"data")
    if role == "labels":
        results = {"label_counts": {"neutral": results["queries"]}, **results}
    if role == "vocabulary":
        results = {"words": 1, **results}
    artifact.finish({"results": RESULTS[stage.name](**results).plain()})


VARIANTS = {
    "variants": {
        "none": {},
        "1 after": {"real.fraction": 0.01},
        "5 after": {"real.fraction": 0.05},
        "all": {"real": {"fraction": 1.0, "placement": "only"}},
    }
}


# --- the whole plan ---------------------------------------------------------------------------


def test_the_papers_experiment_buys_as_many_queries_as_mnli_has_pairs(tmp_path: Path):
    text = shown(spec(tmp_path))
    assert "Queries to buy: 392,702 ($0.00)" in text


def test_a_plan_changes_nothing(tmp_path: Path):
    shown(spec(tmp_path, VARIANTS))
    assert list(tmp_path.iterdir()) == []


def test_rows_that_share_a_stage_pay_for_it_once(tmp_path: Path):
    given = spec(tmp_path, VARIANTS)
    steps = planning.steps(runs.rows(given), Storage.at(given.storage))
    roles = [step.role for step in steps]
    assert roles.count("labels") == roles.count("queries") == 1
    assert roles.count("extractor") == 2
    assert roles.count("finetuned") == 2
    assert roles.count("evaluation") == 4
    assert sum(step.stage.queries for step in steps) == QUERIES
    text = shown(given)
    assert f"paper: {len(steps)} stages" in text
    assert f"There: 0 stages. Missing: {len(steps)} stages." in text
    assert "Queries to buy: 392,702" in text


def test_seeds_are_paid_for_each(tmp_path: Path):
    assert "Queries to buy: 785,404" in shown(spec(tmp_path, seeds=[0, 1]))


def test_only_the_named_variants_are_planned(tmp_path: Path):
    text = shown(spec(tmp_path, VARIANTS), "all")
    assert "labels" not in text
    assert "Queries to buy: 0" in text


def test_money_is_queries_and_hours_times_their_prices(tmp_path: Path):
    given = spec(
        tmp_path,
        real={"fraction": 1.0, "placement": "only"},
        costs={"query_usd": 5, "gpu_hour_usd": 3.6, "gpu_flops": 1e15, "utilisation": 0.5},
    )
    flops = sum(work.flops for work in works(given).values())
    text = shown(given)
    hours = flops / 0.5e15 / 3600
    assert f"GPU hours: {hours:,.1f}" in text
    assert f"Money: ${hours * 3.6:,.2f}" in text
    dollars = shown(spec(tmp_path, costs__query_usd=0.001))
    assert "Queries to buy: 392,702 ($392.70)" in dollars


def test_no_price_no_money(tmp_path: Path):
    assert "Money: no prices given" in shown(spec(tmp_path))


# --- where speeds are from --------------------------------------------------------------------


def test_a_device_without_a_benchmark_is_assumed_and_that_is_said(tmp_path: Path):
    given = spec(tmp_path, costs={"device": "abacus", "gpu_flops": 2e15, "utilisation": 0.25})
    text = shown(given)
    assert "no benchmark on abacus is stored" in text
    assert text.count("500 TFLOP/s, assumed, not measured: 25% of the 2,000 TFLOP/s of ") == 2
    assert "measured on" not in text
    hours = sum(work.flops for work in works(given).values()) / 0.5e15 / 3600
    assert f"GPU hours: {hours:,.1f} on abacus" in text


def test_a_device_with_a_benchmark_is_reckoned_by_it_and_the_figures_are_named(tmp_path: Path):
    given = spec(tmp_path, costs={"device": "CPU", "gpu_hour_usd": 0.5, "query_usd": 1e-3})
    text = shown(given)
    found = works(given)
    hours = 0.0
    for kind, roles in {
        "inference": ("labels", "evaluation", "victim_evaluation"),
        "training": ("extractor",),
    }.items():
        one = throughput.measured("CPU", kind)
        assert f"measured on {one.date}" in text
        assert one.figures in text
        a_thread = one.flops / one.threads
        hours += sum(found[role].flops for role in roles) / a_thread / 3600
    assert "assumed" not in text
    assert f"CPU hours: {hours:,.1f} on CPU" in text
    assert "Money: $392.70" in text  # a CPU's hours have not the price of a GPU's


def test_half_measured_is_half_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = throughput.Throughput(
        "H", "training", 16, "large", "bfloat16", 2e5, 4e14, "2030-01-01", "python b.py", "b.json"
    )  # fmt: skip
    monkeypatch.setattr(throughput, "stored", lambda: (one,))
    text = shown(spec(tmp_path, costs={"device": "H", "gpu_flops": 1e15}))
    assert "training, 1 x 400 TFLOP/s, measured on 2030-01-01" in text
    assert "inference, 1 x 320 TFLOP/s, assumed" in text


def test_a_known_device_is_reckoned_by_its_data_sheet(tmp_path: Path):
    def flops(**costs: Any) -> str:
        lines = shown(spec(tmp_path, costs=costs)).splitlines()
        return next(line for line in lines if "inference, 1 x" in line)

    assert "316 TFLOP/s, assumed, not measured: 32% of the 989 TFLOP/s of its data" in flops()
    assert "32% of the 121 TFLOP/s of its data sheet" in flops(device="NVIDIA L4")
    assert "32% of the 50 TFLOP/s of costs.gpu_flops" in flops(device="NVIDIA L4", gpu_flops=5e13)


def test_a_device_that_nobody_knows_is_refused_in_a_sentence(tmp_path: Path):
    name = "NVIDIA GeForce RTX 4090"
    with pytest.raises(UserError) as caught:
        shown(spec(tmp_path, costs__device=name))
    said = f"costs.device: nothing is known of the speed of {name}; give costs.gpu_flops, its peak"
    assert str(caught.value).startswith(said)
    assert "NVIDIA H200" in str(caught.value)
    assert f"on {name}" in shown(spec(tmp_path, costs={"device": name, "gpu_flops": 165e12}))


# --- CPUs that nobody asked for ---------------------------------------------------------------


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "any_there", lambda: False)


def check_cpus(given: Spec, *only: str) -> None:
    planning.check_cpus(runs.rows(given, only), Storage.at(given.storage))


def test_hours_on_cpus_need_consent(no_gpu: None, tmp_path: Path):
    with pytest.raises(UserError) as caught:
        check_cpus(spec(tmp_path))
    found = re.fullmatch(
        r"resources\.inference\.gpus: no GPU is there or known to come, and the stage "
        r"`victim_evaluation` would take about [\d,]+ hours of CPU workers; set it to 0 if "
        r"you mean CPUs, else run where there are GPUs",
        str(caught.value),
    )
    assert found
    agreed = {"inference": {"gpus": 0}}
    with pytest.raises(UserError, match=r"resources\.training\.gpus: .* the stage `extractor`"):
        check_cpus(spec(tmp_path, resources=agreed))
    check_cpus(spec(tmp_path, resources={**agreed, "training": {"gpus": 0}}))


def test_what_is_small_or_of_unknown_size_or_there_needs_no_consent(no_gpu: None, tmp_path: Path):
    little = {
        "queries.count": 50,
        "extractor.training": {"steps": 1, "batch_size": 8},
        "evaluation.sets": {"mine": {"source": "miniature", "count": 30}},
    }
    check_cpus(spec(tmp_path, nest(little)))
    check_cpus(spec(tmp_path, SMALL))
    one = {"real": {"fraction": 1.0, "placement": "only"}, "until": "extractor"}
    with pytest.raises(UserError, match="the stage `extractor`"):
        check_cpus(spec(tmp_path, one))
    finish(spec(tmp_path, one), "extractor")
    check_cpus(spec(tmp_path, one))


def test_where_gpus_are_or_may_come_nothing_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(accelerators, "any_there", lambda: True)
    check_cpus(spec(tmp_path))


def test_workers_share_the_hours_and_not_the_money(tmp_path: Path):
    def figures(**workers: int) -> list[str]:
        resources = {kind: {"workers": count} for kind, count in workers.items()}
        costs = {"gpu_flops": 1e13, "gpu_hour_usd": 1.0}
        lines = shown(spec(tmp_path, resources=resources, costs=costs)).splitlines()
        return [next(line for line in lines if line.startswith(f"{name}: "))
                for name in ("Wall-clock", "GPU hours", "Money")]  # fmt: skip

    one, *same = figures(inference=1, training=1)
    eight, *also = figures(inference=8, training=8)
    hours = [float(line.split()[1]) for line in (one, eight)]
    assert hours[0] > 10
    assert hours[0] / 8 == pytest.approx(hours[1], abs=0.1)
    assert same == also


def test_hours_are_those_of_whole_gpus_where_a_worker_has_a_part_of_one(tmp_path: Path):
    def figures(**worker: float) -> dict[str, float]:
        costs = {"gpu_flops": 1e13, "gpu_hour_usd": 1.0}
        text = shown(spec(tmp_path, costs=costs, resources={"inference": worker}))
        lines = (line.partition(": ") for line in text.splitlines())
        return {name: float(rest.split()[0].lstrip("$").replace(",", ""))
                for name, _, rest in lines
                if name in ("GPU hours", "Money", "Wall-clock")}  # fmt: skip

    one, ours = figures(gpus=1.0), figures(gpus=0.25)
    assert one["GPU hours"] == ours["GPU hours"] and one["Money"] == ours["Money"]
    assert ours["Wall-clock"] > one["Wall-clock"]


def test_what_a_plan_reckons_with_is_what_the_stored_benchmarks_say(
    monkeypatch: pytest.MonkeyPatch,
):
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    import record

    assert [vars(one) for one in throughput.stored()] == record.throughputs()
    figures = json.loads((folder / "results/2026-11-24-training/training.json").read_text())
    one = throughput.measured("CPU", "training")
    assert one.tokens_per_second == figures["tokens_per_second"]["ours"]
    assert one.flops == pytest.approx(6 * BASE * one.tokens_per_second, rel=1e-3)
    reached = figures["share_of_peak"] * figures["peak_tflops"] * 1e12
    assert one.flops == pytest.approx(reached, rel=0.02)  # which are rounded


def test_a_benchmark_that_is_kept_goes_before_an_older_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    import record

    shutil.copytree(folder / "results", tmp_path / "results")
    (tmp_path / "throughput.json").write_text("[]")
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(throughput, "__file__", str(tmp_path / "throughput.py"))
    monkeypatch.setattr(sys, "argv", ["x/labeling.py", "--size", "large", "--paper", "--record"])
    found = {"threads": 8, "model": "RoBERTa-Large, random weights", "dtype": "bfloat16"}
    record.keep("labeling", {"device": "H", **found, "paper": {"tokens_per_second": 1000}})
    record.keep("labeling", {"device": "CPU", **found, "paper": {"tokens_per_second": 3}})
    kept = json.loads((tmp_path / "throughput.json").read_text())
    assert [(one["device"], one["work"], one["tokens_per_second"]) for one in kept] == [
        ("CPU", "inference", 3), ("CPU", "training", 127), ("H", "inference", 1000)
    ]  # fmt: skip
    assert kept[0]["flops"] == pytest.approx(2 * LARGE * 3, rel=1e-3)
    assert kept[0]["command"] == "python benchmarks/labeling.py --size large --paper"


# --- operations by hand -----------------------------------------------------------------------


def test_labelling_takes_two_operations_a_weight_and_token(tmp_path: Path):
    work = works(spec(tmp_path))["labels"]
    assert work.flops == pytest.approx(2 * LARGE * QUERIES * GIBBERISH)


def test_training_takes_six_operations_a_weight_token_and_epoch(tmp_path: Path):
    large = works(spec(tmp_path, extractor__training__epochs=3))["extractor"]
    assert large.flops == pytest.approx(6 * LARGE * QUERIES * GIBBERISH * 3)
    base = works(spec(tmp_path, extractor__model="FacebookAI/xlm-roberta-base"))["extractor"]
    assert base.flops == pytest.approx(6 * BASE * QUERIES * GIBBERISH * 3)


def test_steps_go_before_epochs(tmp_path: Path):
    work = works(spec(tmp_path, extractor__training={"steps": 1000, "batch_size": 64}))
    assert work["extractor"].flops == pytest.approx(6 * LARGE * 64_000 * GIBBERISH)


def test_steps_of_so_many_tokens_take_these_tokens(tmp_path: Path):
    how = {"steps": 1000, "batch_tokens": 4096, "batch_size": 64}
    work = works(spec(tmp_path, extractor__training=how))
    assert work["extractor"].flops == pytest.approx(6 * LARGE * 1000 * 4096)


def test_pairs_are_cut_at_the_longest_that_the_spec_allows(tmp_path: Path):
    short = works(spec(tmp_path, inference__max_tokens=32, extractor__training__max_tokens=16))
    assert short["labels"].flops == pytest.approx(2 * LARGE * QUERIES * 32)
    assert short["extractor"].flops == pytest.approx(6 * LARGE * QUERIES * 16 * 3)


def test_evaluation_reads_every_language(tmp_path: Path):
    found = works(spec(tmp_path))
    for role in ("evaluation", "victim_evaluation"):
        assert found[role].what == f"{XNLI + MNLI:,} pairs"
        assert found[role].flops == pytest.approx(2 * LARGE * (XNLI + MNLI) * REAL)


@pytest.mark.parametrize("fraction", [0.05, 1.0])
def test_real_data_come_on_top_of_the_queries_during_extraction(tmp_path: Path, fraction: float):
    work = works(spec(tmp_path, real={"fraction": fraction, "placement": "during"}))["extractor"]
    real = round(fraction * 392_702)
    assert work.what.startswith(f"{QUERIES + real:,} examples")
    assert work.flops == pytest.approx(6 * LARGE * 3 * (QUERIES * GIBBERISH + real * REAL))


def test_real_data_after_extraction_are_a_stage_of_their_own(tmp_path: Path):
    found = works(
        spec(tmp_path, real={"fraction": 0.1, "placement": "after", "training": {"epochs": 2}})
    )
    assert found["extractor"].flops == pytest.approx(6 * LARGE * QUERIES * GIBBERISH * 3)
    assert found["finetuned"].flops == pytest.approx(6 * LARGE * 39_270 * REAL * 2)


def test_the_figure_takes_one_forward_pass_over_its_pairs(tmp_path: Path):
    found = works(spec(tmp_path, figure2={"count": 500}, until="figure2"))
    assert found["vectors:train"].flops == pytest.approx(2 * LARGE * 392_702 * REAL)
    assert found["vectors:real"].flops == pytest.approx(2 * LARGE * 500 * REAL)
    assert found["vectors:gibberish"].flops == pytest.approx(2 * LARGE * 500 * GIBBERISH)
    assert found["figure2"].what == "1,000 x 392,702 distances"
    assert "labels" not in found
    assert "Queries to buy: 0" in shown(spec(tmp_path, figure2={}, until="figure2"))


def test_a_victim_of_ones_own_is_trained_on_all_real_data(tmp_path: Path):
    given = spec(tmp_path, victim={"model": "FacebookAI/roberta-base", "training": {"epochs": 2}})
    assert works(given)["victim"].flops == pytest.approx(6 * BASE * 392_702 * REAL * 2)


def test_an_encoder_in_a_folder_is_reckoned_by_its_config(tmp_path: Path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"w")
    shape = {"num_hidden_layers": 6, "hidden_size": 384, "intermediate_size": 1536}
    (folder / "config.json").write_text(json.dumps(shape))
    given = spec(tmp_path, data_root=str(tmp_path), extractor__model="encoder")
    weights = 6 * (4 * 384**2 + 2 * 384 * 1536)
    assert works(given)["extractor"].flops == pytest.approx(6 * weights * QUERIES * GIBBERISH * 3)
    (folder / "config.json").write_text(json.dumps({"n_layers": 6, "dim": 384}))
    assert math.isnan(works(given)["extractor"].flops)  # not known, and no reason to fail


def test_data_of_unknown_size_are_no_reason_to_fail(tmp_path: Path):
    unknown = {"source": "hub", "dataset": "someone/nli", "revision": "0" * 40}
    given = spec(
        tmp_path,
        real={"train": unknown, "fraction": 0.5, "placement": "only"},
        extractor__training__steps=10,
        evaluation={"sets": {"x": {**unknown, "split": "test"}}},
    )
    assert math.isnan(works(given)["extractor"].flops)
    assert math.isnan(works(given)["evaluation"].flops)
    text = shown(given)
    assert "GPU hours: at least 0.0" in text
    assert "Not reckoned: 3 stages (?)" in text


def test_files_of_ones_own_are_counted(tmp_path: Path):
    rows = {"premise": ["p"] * 7, "hypothesis": ["h"] * 7, "label": ["neutral"] * 7}
    pq.write_table(pa.table(rows), tmp_path / "dev.parquet")
    pairs = {"source": "files", "path": str(tmp_path / "dev.parquet")}
    found = works(spec(tmp_path, evaluation={"sets": {"dev": pairs}}))
    assert found["evaluation"].what == "7 pairs"


# --- what is there ----------------------------------------------------------------------------


def test_what_is_there_is_said_and_not_paid_for_again(tmp_path: Path):
    given = spec(tmp_path)
    finish(given, "labels", tokens=QUERIES * 100, queries=QUERIES)
    steps = planning.steps(runs.rows(given), Storage.at(given.storage))
    assert [step.role for step in steps if step.state == "there"] == ["labels"]
    text = shown(given)
    assert "There: 1 stages." in text
    assert "Queries to buy: 0" in text
    (line,) = (line for line in text.splitlines() if line.split()[:1] == ["labels"])
    assert "there" in line
    (line,) = (line for line in text.splitlines() if line.split()[:1] == ["queries"])
    assert "missing" in line


def test_labels_of_an_api_tell_no_tokens_and_the_estimate_stays(tmp_path: Path):
    given = spec(tmp_path, victim__api={"url": "https://victim.test"})
    before = works(given)["extractor"].flops
    finish(given, "labels", queries=QUERIES, spent=QUERIES)
    assert works(given)["extractor"].flops == before > 0
    assert "There: 1 stages" in shown(given)


def test_the_measured_length_of_queries_goes_before_the_estimate(tmp_path: Path):
    given = spec(tmp_path)
    finish(given, "vocabulary", mean_sentence_words=10.0)
    assert works(given)["extractor"].flops == pytest.approx(6 * LARGE * QUERIES * 10 * 2 * 2.9 * 3)
    finish(given, "labels", tokens=QUERIES * 100, queries=QUERIES)
    assert works(given)["extractor"].flops == pytest.approx(6 * LARGE * QUERIES * 100 * 3)


def test_an_unfinished_artifact_is_not_there(tmp_path: Path):
    given = spec(tmp_path)
    finish(given, "labels", tokens=1, queries=1)
    next((tmp_path / "storage").rglob("_SUCCESS")).unlink()
    assert "Queries to buy: 392,702" in shown(given)


def test_a_row_that_is_left_out_is_told_and_not_reckoned(tmp_path: Path):
    vectors = {"source": "files", "path": "none/{language}.vec"}
    parallel = {"source": "files", "path": "none/{language}.parquet"}
    words = {
        "optional": True,
        "extractor": {"model": "bilstm", "bilstm": {"embeddings": vectors, "parallel": parallel}},
        "real": {"fraction": 1.0, "placement": "only"},
    }
    given = spec(tmp_path, merge(VARIANTS, {"variants": {"words": words}}))
    text = shown(given)
    assert text.count("Left out: words: extractor.bilstm.embeddings.path: there is no file") == 1
    same = shown(spec(tmp_path, VARIANTS))
    assert [line for line in text.splitlines() if "Left out" not in line] == same.splitlines()


# --- data that are not there ------------------------------------------------------------------

OWN: dict[str, Any] = {
    "corpus": {"source": "files", "path": "text.csv"},
    "victim": {"model": "victim"},
    "extractor": {"model": "thief"},
    "real": {"train": {"source": "files", "path": "mnli.parquet"}, "fraction": 0.1},
    "evaluation": {
        "sets": {
            "dev": {"source": "files", "path": "{language}.parquet", "languages": ["en", "de"]},
            "xnli": {"source": "hub", "dataset": "facebook/xnli", "split": "test"},
        }
    },
}


def missing(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("Data missing: ")]


def test_each_file_that_is_not_there_is_told_and_what_it_is_for(tmp_path: Path):
    given = spec(tmp_path, OWN, data_root=str(tmp_path))
    with pytest.raises(MissingFileError):
        runs.rows(given)  # a run is refused
    text = shown(given)
    told = [line.removeprefix("Data missing: ") for line in missing(text)]
    assert [line.partition(": ")[0] for line in told] == [
        "evaluation.sets.dev.path",
        "evaluation.sets.dev.path",
        "real.train.path",
        "victim.model",
        "corpus.path",
        "extractor.model",
    ]
    for name in ("en.parquet", "de.parquet", "mnli.parquet", "victim", "thief", "text.csv"):
        assert sum(f"{tmp_path}/{name}" in line for line in told) == 1
    table = text[: text.index("There: ")].splitlines()[3:]
    cells = [line.split() for line in table if len(line.split()) > 1]  # the others are rules
    states = {role: " ".join(rest[:2]) for role, *rest in cells}
    assert states.pop("examples:xnli").startswith("missing")
    assert set(states.values()) == {"data missing"}
    assert list(tmp_path.iterdir()) == []


def test_what_is_made_of_files_that_are_there_is_not_missing(tmp_path: Path):
    (tmp_path / "text.csv").write_text("text\n")
    steps = planning.steps(
        runs.rows(spec(tmp_path, OWN, data_root=str(tmp_path)), missing_ok=True),
        Storage.at(str(tmp_path / "storage")),
    )
    whole = [step.role for step in steps if not step.lacks]
    assert whole == ["examples:xnli", "corpus", "vocabulary", "queries"]


def test_a_stage_without_its_files_is_no_stage_with_them(tmp_path: Path):
    given = spec(tmp_path, OWN, data_root=str(tmp_path))
    [lacking] = runs.rows(given, missing_ok=True)
    rows = {"premise": ["p"], "hypothesis": ["h"], "label": ["neutral"]}
    for name in ("en", "de", "mnli"):
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet")
    (tmp_path / "text.csv").write_text("text\n")
    for name in ("victim", "thief"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"w")
    [whole] = runs.rows(given)
    assert missing(shown(given)) == []
    same = {role for role, stage in whole.stages.items()
            if stage.fingerprint == lacking.stages[role].fingerprint}  # fmt: skip
    assert same == {"examples:xnli"}


def test_the_size_of_missing_data_is_not_known(tmp_path: Path):
    given = spec(tmp_path, real={**OWN["real"], "placement": "during"}, data_root=str(tmp_path))
    rows = runs.rows(given, missing_ok=True)
    steps = planning.steps(rows, Storage.at(given.storage))
    work = {step.role: step.work for step in steps}
    assert work["extractor"].what == "examples not known"
    assert math.isnan(work["extractor"].flops)


def test_data_that_no_row_needs_may_be_missing(tmp_path: Path):
    given = spec(tmp_path, real={"train": OWN["real"]["train"]}, data_root=str(tmp_path))
    assert missing(shown(given)) == []


def test_a_file_that_is_no_parquet_is_told_in_a_plan(tmp_path: Path):
    (tmp_path / "mnli.parquet").write_text("no parquet")
    with pytest.raises(UserError, match=r"^real\.train: .*mnli\.parquet cannot be read"):
        shown(spec(tmp_path, real=OWN["real"], data_root=str(tmp_path)))


def test_trials_are_planned_where_data_are_missing(tmp_path: Path):
    grid = {"parameters": {"queries.count": {"grid": [5, 9]}}, "objective": "dev"}
    pairs = {"source": "files", "path": "dev.parquet", "split": "validation"}
    changes = {"sets": {"dev": pairs}}
    given = spec(tmp_path, {"sweep": grid}, evaluation=changes, data_root=str(tmp_path))
    text = io.StringIO()
    planning.show(given, sweeping.rows(given), Console(file=text, width=200))
    assert len(missing(text.getvalue())) == 1


# --- whose stages -----------------------------------------------------------------------------


def test_a_stage_is_called_by_the_rows_that_use_it(tmp_path: Path):
    found = runs.owners(runs.rows(spec(tmp_path, VARIANTS)))
    owners = {}
    for role, owner in found.values():
        owners.setdefault(role, []).append(owner)
    assert owners["victim_evaluation"] == ["all rows"]
    assert owners["labels"] == ["3 rows"]
    assert owners["extractor"] == ["3 rows", "all"]
    assert owners["evaluation"] == ["none", "1 after", "5 after", "all"]
    assert {owner for _, owner in runs.owners(runs.rows(spec(tmp_path))).values()} == {""}


@pytest.mark.parametrize(("schedule", "reused"), [("constant", 2), ("linear", 0)])
def test_a_plan_says_where_it_is_an_upper_bound(tmp_path: Path, schedule: str, reused: int):
    lengths = {str(steps): {"extractor.training.steps": steps} for steps in (300, 100, 900)}
    how = {"schedule": schedule, "warmup_steps": 5}
    told = shown(spec(tmp_path, {"variants": lengths}, extractor__training=how))
    bound = f"An upper bound: {reused} trainings can go on from shorter ones of this plan"
    assert (bound in told) == bool(reused)
    assert ("upper bound" in told) == bool(reused)
