"""The specs that the project ships: they load, they plan, and they say what the paper says."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from raythief import cli, config, paper, runs
from raythief.errors import UserError
from raythief.sweep import space

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_spec_loads_and_its_file_is_named_after_it(path: Path) -> None:
    spec = config.load(path)
    assert list(config.expand(spec))
    assert spec.title


@pytest.mark.parametrize("name", ["table1", "table2", "sweep", "miniature", "miniature_full"])
def test_stages_are_planned_without_network_or_data(name: str) -> None:
    for row in runs.rows(config.load(ROOT / "jobs" / f"{name}.yaml")):
        assert {"extractor", "evaluation", "victim_evaluation"} <= set(row.stages)


@pytest.mark.parametrize("name", ["figure2", "miniature_figure2"])
def test_the_figure_buys_and_trains_nothing(name: str) -> None:
    [row] = runs.rows(config.load(ROOT / "jobs" / f"{name}.yaml"))
    parts = {"vectors:train", "vectors:real", "vectors:gibberish"}
    assert parts < set(row.stages)
    assert list(row.stages)[-1] == "figure2"
    assert set(row.stages["figure2"].inputs.values()) == {row.stages[part] for part in parts}
    assert not {"labels", "victim", "extractor", "evaluation"} & set(row.stages)
    assert sum(stage.queries for stage in row.stages.values()) == 0


def test_the_figure_is_about_the_queries_of_the_tables() -> None:
    [figure] = runs.rows(config.load(ROOT / "jobs" / "figure2.yaml"))
    table = runs.rows(config.load(ROOT / "jobs" / "table1.yaml"))[0]
    assert figure.stages["queries"].fingerprint == table.stages["queries"].fingerprint
    assert figure.variant.spec.figure2.count == 1000
    assert figure.variant.spec.real.train.split == "train"


@pytest.mark.parametrize("name", ["table1", "table2", "table2_bilstm", "vocabulary"])
def test_rows_of_the_paper_are_known_by_their_names(name: str) -> None:
    spec = config.load(ROOT / "jobs" / f"{name}.yaml")
    assert spec.paper == name.removesuffix("_bilstm")
    for variant in spec.variants:
        assert paper.find(spec.paper, variant) is not None, variant


def test_table_2_has_all_rows_of_the_paper_once_the_bilstms_files_are_there() -> None:
    spec = config.load(ROOT / "jobs" / "table2_bilstm.yaml")
    assert set(spec.variants) == {row.name for row in paper.TABLE2}


def test_without_files_of_ones_own_the_bilstms_row_says_what_lacks(tmp_path: Path) -> None:
    file = ROOT / "jobs" / "table2_bilstm.yaml"
    spec = config.load(file, [f"data_root={tmp_path}"])
    with pytest.raises(UserError) as caught:
        runs.rows(spec)
    assert str(caught.value) == (
        "extractor.bilstm.embeddings.path: there is no file "
        f"{tmp_path}/vectors/wiki.en.align.vec; put the vectors of `en` there"
    )
    others = runs.rows(config.load(ROOT / "jobs" / "table2.yaml"))
    names = [row.variant.name for row in others]
    same = runs.rows(spec, names)
    assert [row.stages["evaluation"].fingerprint for row in same] == [
        row.stages["evaluation"].fingerprint for row in others
    ]


def test_table_2_buys_one_set_of_labels() -> None:
    rows = runs.rows(config.load(ROOT / "jobs" / "table2.yaml"))
    labels = {row.stages["labels"].fingerprint for row in rows if "labels" in row.stages}
    assert len(labels) == 1
    assert {row.variant.spec.queries.count for row in rows} == {392_702}


@pytest.mark.parametrize("name", ["sweep", "miniature_sweep"])
def test_sweeps_select_on_validation_data(name: str) -> None:
    spec = config.load(ROOT / "jobs" / f"{name}.yaml")
    assert spec.evaluation.sets[spec.sweep.objective].split == "validation"
    assert len(space.points(spec.sweep, spec.seed)) >= 12


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / "jobs" / "REFERENCE.md").read_text(encoding="utf-8") == cli.reference_text()
