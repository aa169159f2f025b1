"""The specs of jobs/miniature on a real Ray: each as it is, but for its sizes, to its report.

They share one storage and one Ray, as a user's would: what they have in common is built once.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raythief import config, runs, sweep

JOBS = Path(__file__).parents[2] / "jobs" / "miniature"
NAMES = ("table2", "demo", "full", "vocabulary", "table1", "fidelity", "figure2", "sweep")
QUERIES = 400
SIZES = {
    "corpus.sentences": 400,
    "queries.count": QUERIES,
    "victim.training.steps": 150,
    "victim.training.batch_size": 16,
    "real.train.count": 300,
    "extractor.training.steps": 12,
    "extractor.training.batch_size": 16,
    "extractor.bilstm.embeddings.size": 16,
    "extractor.bilstm.embeddings.documents": 500,
    "extractor.bilstm.parallel.count": 100,
    "extractor.bilstm.hidden": 8,
    "extractor.bilstm.head": 8,
    "extractor.bilstm.alignment.steps": 3,
    "inference.tokens_per_batch": 1024,
    "miniature": {"languages": ["en", "de"], "english_steps": 5, "multilingual_steps": 5},
    "resources.inference.workers": 0,
    "resources.training.workers": 0,
}
"""Everything that a run has, in a second or two; what it learns is of no interest."""
SEARCH = {
    "extractor.training.learning_rate": {"grid": [1e-3]},
    "real.fraction": {"grid": [0, 0.10]},
}

pytestmark = pytest.mark.slow


def small(name: str, storage: Path, *overrides: str) -> config.Spec:
    """A spec of the folder with its sizes cut down, and nothing else changed."""
    file = JOBS / f"{name}.yaml"
    whole = config.load(file)
    sizes: dict[str, Any] = {"storage": str(storage), **SIZES}
    for chosen, pairs in whole.evaluation.sets.items():
        sizes[f"evaluation.sets.{chosen}.count"] = 40
        sizes[f"evaluation.sets.{chosen}.languages"] = [
            one for one in pairs.languages if one in SIZES["miniature"]["languages"]
        ]
    if whole.figure2:
        sizes["figure2.count"] = 30
    if whole.seeds:
        sizes["seeds"] = whole.seeds[:1]
    for variant, changes in whole.variants.items():
        if "extractor.queries" in changes:
            share = changes["extractor.queries"] / whole.queries.count
            sizes[f"variants.{variant}.extractor.queries"] = round(share * QUERIES)
        if "training" in changes.get("extractor", {}):
            sizes[f"variants.{variant}.extractor.training.steps"] = 12
    if whole.sweep.parameters:
        sizes["sweep.parameters"] = SEARCH
        sizes["sweep.asha.every"] = 5
    changes = [f"{field}={json.dumps(value)}" for field, value in sizes.items()]
    return config.load(file, [*changes, *overrides])


@pytest.fixture(scope="module")
def done(one_ray: object, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The storage, and the run records by the name of the spec."""
    storage = tmp_path_factory.mktemp("twins") / "artifacts"
    console = Console(file=io.StringIO())
    found = {}
    for name in NAMES:
        run = sweep.run if name == "sweep" else runs.run
        found[name] = run(small(name, storage), console=console)
    return storage, found


def test_all_of_them_are_run() -> None:
    assert {file.stem for file in JOBS.glob("*.yaml")} == {*NAMES, "world"}


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_done_and_reported(name: str, done: tuple[Path, dict[str, Any]]) -> None:
    record = done[1][name]
    assert {row["status"] for row in record["rows"]} == {"done"}
    page = Path(record["report"]).read_text(encoding="utf-8")
    assert Path(record["report"]).with_name("report.md").is_file()
    spec = config.load(JOBS / f"{name}.yaml")
    assert spec.title in page
    for variant in spec.variants:
        assert variant.replace(">", "&gt;") in page
    if spec.paper:  # its numbers stand there, and are not taken for ours
        assert "not the paper" in page


def test_what_they_have_in_common_is_built_once(done: tuple[Path, dict[str, Any]]) -> None:
    storage, found = done
    built = {path.name: len(list(path.glob("*/_SUCCESS"))) for path in storage.iterdir()}
    assert built["encoders"] == built["bilstm"] == built["aligned"] == built["figure2"] == 1
    assert built["corpus"] == built["queries"] == 2  # of this world, and of the foreign domain
    assert built["victim"] == 2  # Table 1 has one of its own in a row
    assert built["labels"] == 3  # of each victim, and of foreign words from the first
    [demo] = found["demo"]["rows"]  # is a row of Table 2, which ran before
    assert all(stage["reused"] for stage in demo["stages"].values())


def test_rows_of_fewer_queries_learn_from_fewer(done: tuple[Path, dict[str, Any]]) -> None:
    storage, found = done
    learned = []
    for row in found["fidelity"]["rows"]:
        manifest = storage / row["stages"]["extractor"]["path"] / "manifest.json"
        learned.append(json.loads(manifest.read_text())["results"]["examples"])
    assert learned == [10, 20, 50, 100, 200, 400]


def test_an_optional_row_without_its_files_is_left_out_aloud(
    done: tuple[Path, dict[str, Any]],
) -> None:
    """As in jobs/table2.yaml; the others are there, so that no Ray is started."""
    storage, found = done
    row = "variants.BiLSTM, 100 %"
    vectors = json.dumps({"source": "files", "path": "nowhere/{language}.vec"})
    spec = small(
        "table2", storage, f"{row}.optional=true", f"{row}.extractor.bilstm.embeddings={vectors}",
        "name=without",
    )  # fmt: skip
    told = io.StringIO()
    record = runs.run(spec, console=Console(file=told))
    lacks = "Left out: BiLSTM, 100 %: extractor.bilstm.embeddings.path: there is no file nowhere/"
    assert lacks in told.getvalue()
    others = [row for row in found["table2"]["rows"] if row["variant"] != "BiLSTM, 100 %"]
    assert [row["variant"] for row in record["rows"]] == [row["variant"] for row in others]
    page = Path(record["report"]).with_name("report.md").read_text(encoding="utf-8")
    assert "Not run: BiLSTM, 100 %." in page
