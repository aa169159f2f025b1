"""The specs that the project ships: they load, they plan, and they say what the paper says."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raythief import accelerators, cli, config, corpora, paper, planning, runs
from raythief.artifacts import Storage
from raythief.config import BILSTM
from raythief.errors import UserError
from raythief.sweep import space

JOBS = Path(__file__).parents[2] / "jobs"
WORLD = JOBS / "miniature" / "world.yaml"
"""What specs have in common, and no spec."""
SPECS = sorted(set(JOBS.rglob("*.yaml")) - {WORLD})
TABLES = ("table1", "table2", "vocabulary")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def load(name: str, *overrides: str) -> config.Spec:
    return config.load(JOBS / f"{name}.yaml", overrides)


def rows(name: str) -> list[runs.Row]:
    return runs.rows(load(name), missing_ok=name == "vocabulary")  # it reads a file of one's own


@pytest.mark.parametrize("path", SPECS, ids=lambda path: str(path.relative_to(JOBS)))
def test_every_spec_loads(path: Path) -> None:
    spec = config.load(path)
    assert list(config.expand(spec))
    assert spec.title


def test_reports_have_places_of_their_own() -> None:
    assert len({config.load(path).name for path in SPECS}) == len(SPECS)


@pytest.mark.parametrize("name", ["table1", "table2", "sweep", "miniature/demo", "miniature/full"])
def test_stages_are_planned_without_network_or_data(name: str) -> None:
    for row in rows(name):
        assert row.lacks or {"extractor", "evaluation", "victim_evaluation"} <= set(row.stages)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: str(path.relative_to(JOBS)))
def test_every_spec_can_be_planned_where_there_are_no_data(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(config.DATA_ROOT_VARIABLE, raising=False)
    done = CliRunner().invoke(cli.app, ["plan", str(path)])
    assert done.exit_code == 0, done.output
    reads = {"vocabulary", "real_english", "real_figure2"}
    assert ("Data missing: corpus.path: " in done.output) == (
        path.stem in reads and path.parent == JOBS
    )
    assert list(tmp_path.iterdir()) == []


def test_the_ablation_reads_the_official_release_of_cord_19(tmp_path: Path) -> None:
    spec = load("vocabulary", f"data_root={tmp_path}")
    with pytest.raises(UserError, match=r"^corpus\.path: .*/cord19/metadata\.csv; put it there"):
        runs.rows(spec)  # a run is refused
    (tmp_path / "cord19").mkdir()
    (tmp_path / "cord19" / "metadata.csv").write_text('cord_uid,abstract\nx,"A\nvirus, new."\n')
    wiki, cord = runs.rows(spec)
    assert not any(stage.lacks for stage in cord.stages.values())
    given = cord.variant.spec
    assert list(corpora.paragraphs(given.corpus, given.root, 0)) == ["A\nvirus, new."]
    assert given.vocabulary == wiki.variant.spec.vocabulary


@pytest.mark.parametrize("name", ["table1", "table2", "fidelity", "figure2", "sweep", "api"])
def test_words_of_the_paper_s_specs_are_wikitexts_own(name: str) -> None:
    spec = load(name)
    assert spec.corpus == config.HubCorpus(cleaning="wikitext_words")
    assert (spec.vocabulary.min_count, spec.vocabulary.sampling) == (3, "uniform")
    assert spec.vocabulary.top_k is None


@pytest.mark.parametrize("name", ["real_english", "real_figure2", "miniature/demo"])
def test_specs_with_recorded_results_keep_the_words_that_these_were_made_of(name: str) -> None:
    for variant in config.expand(load(name)):
        corpus, words = variant.spec.corpus, variant.spec.vocabulary
        assert words.min_count == 1
        assert corpus.source == "miniature" or corpus.cleaning in ("wikitext", "plain")


@pytest.mark.parametrize("name", ["table1", "table2", "sweep", "miniature/demo", "miniature/full"])
def test_only_what_is_large_needs_gpus_or_consent(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerators, "any_there", lambda: False)
    spec = load(name, "storage=/nonexistent")
    small = name.startswith("miniature/")
    with contextlib.nullcontext() if small else pytest.raises(UserError, match="no GPU is there"):
        planning.check_cpus(runs.rows(spec), Storage.at(spec.storage))


@pytest.mark.parametrize("name", ["real_english", "real_figure2"])
def test_what_is_meant_for_cpus_says_so(name: str) -> None:
    spec = load(name)
    assert spec.resources.inference.gpus == 0
    assert spec.resources.training.gpus == 0 or spec.until == "figure2"  # which trains nothing
    assert spec.costs.device == "CPU"


# --- the paper's rows -------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_papers_rows_and_no_others(name: str) -> None:
    for place in (name, f"miniature/{name}"):
        spec = load(place)
        assert spec.paper == name
        wanted = {row.name for row in paper.TABLES[name] if row is not paper.VICTIM}
        assert spec.variants.keys() == wanted


@pytest.mark.parametrize("name", TABLES)
def test_a_row_is_made_of_what_the_paper_says(name: str) -> None:
    for variant in config.expand(load(name)):
        row, spec = paper.find(name, variant.name), variant.spec
        assert paper.model_name(spec.extractor.model) == row.extractor
        assert 100 * spec.real.fraction == row.real_percent
        if row.victim is None:
            assert spec.real.placement == "only"
            continue
        assert paper.model_name(spec.victim.model) == row.victim
        assert spec.queries.count == 392_702
        if row.real_percent:
            assert spec.real.placement == row.placement
        languages = spec.evaluation.sets[paper.SETS[name]].languages
        assert set(languages) == set(row.accuracy)


def test_table_2_buys_one_set_of_labels() -> None:
    labels = {row.stages["labels"].fingerprint for row in rows("table2") if "labels" in row.stages}
    assert len(labels) == 1


def test_table_2_leaves_out_the_bilstm_and_says_why_until_its_files_are_there(
    tmp_path: Path,
) -> None:
    spec = load("table2", f"data_root={tmp_path}")
    found = runs.rows(spec)
    lacks = (
        "extractor.bilstm.embeddings.path: there is no file "
        f"{tmp_path}/vectors/wiki.en.align.vec; put the vectors of `en` there"
    )
    assert runs.left_out(found) == [f"Left out: BiLSTM, 100 %: {lacks}"]
    assert [row.variant.name for row in found if row.stages] == list(spec.variants)[1:]
    with pytest.raises(UserError) as caught:
        runs.rows(spec, ["BiLSTM, 100 %"])
    assert str(caught.value) == lacks

    (tmp_path / "vectors").mkdir()
    (tmp_path / "parallel").mkdir()
    for one in config.LANGUAGES:
        (tmp_path / f"vectors/wiki.{one}.align.vec").write_text(f"1 1\n{one} 1\n")
        for side in (one, "en"):
            (tmp_path / f"parallel/{one}-en.{side}").write_text("a\nb\nc\n")
    whole = runs.rows(spec)
    assert runs.left_out(whole) == []
    assert {"bilstm", "parallel", "extractor", "aligned", "evaluation"} <= whole[0].stages.keys()
    # What was built without that row is not built again.
    for before, after in zip(found[1:], whole[1:], strict=True):
        assert before.stages.keys() == after.stages.keys()
        for role, stage in before.stages.items():
            assert stage.fingerprint == after.stages[role].fingerprint


def test_the_figure_is_about_the_queries_of_the_tables() -> None:
    [figure] = rows("figure2")
    assert figure.stages["queries"].fingerprint == rows("table1")[0].stages["queries"].fingerprint
    assert figure.variant.spec.figure2.count == 1000
    assert figure.variant.spec.real.train.split == "train"


@pytest.mark.parametrize("name", ["figure2", "miniature/figure2"])
def test_the_figure_buys_and_trains_nothing(name: str) -> None:
    [row] = rows(name)
    parts = {"vectors:train", "vectors:real", "vectors:gibberish"}
    assert parts < set(row.stages)
    assert list(row.stages)[-1] == "figure2"
    assert set(row.stages["figure2"].inputs.values()) == {row.stages[part] for part in parts}
    assert not {"labels", "victim", "extractor", "evaluation"} & set(row.stages)
    assert sum(stage.queries for stage in row.stages.values()) == 0


# --- beyond the paper -------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "miniature/"])
def test_rows_of_the_curve_learn_from_more_and_more_of_one_purchase(place: str) -> None:
    found = rows(f"{place}fidelity")
    specs = [row.variant.spec for row in found]
    learned = [spec.learned_queries for spec in specs]
    assert [row.variant.name for row in found] == [f"{count:,} queries" for count in learned]
    assert learned == sorted(set(learned))
    assert learned[-1] == specs[0].queries.count
    assert len({row.stages["labels"].fingerprint for row in found}) == 1
    # The last is a row of Table 2: nothing of it is built twice.
    table = {row.variant.name: row for row in rows(f"{place}table2")}
    same = table["XLMR-Large, 0 %"].stages["evaluation"]
    assert found[-1].stages["evaluation"].fingerprint == same.fingerprint


@pytest.mark.parametrize("name", ["sweep", "miniature/sweep"])
def test_sweeps_select_on_validation_data(name: str) -> None:
    spec = load(name)
    assert spec.evaluation.sets[spec.sweep.objective].split == "validation"
    assert len(space.points(spec.sweep, spec.seed)) >= 12


# --- in miniature -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TABLES, "fidelity", "figure2"])
def test_rows_in_miniature_consist_of_the_same_stages_and_share_the_same(name: str) -> None:
    """But for what only one of the two needs: encoders and a victim that are made here, real data
    to train it on, and a gate before a victim that was not trained here."""

    def shape(name: str) -> list[dict[str, int]]:
        first: dict[str, int] = {}
        own = {"encoders", "victim", "real", "sanity"}
        return [
            {
                role: first.setdefault(stage.fingerprint, i)
                for role, stage in row.stages.items()
                if role not in own
            }
            for i, row in enumerate(rows(name))
            if row.variant.spec.extractor.model != BILSTM  # the real one needs files
        ]

    assert shape(f"miniature/{name}") == shape(name)


@pytest.mark.parametrize("name", TABLES)
def test_rows_in_miniature_have_as_much_real_data_and_as_many_languages(name: str) -> None:
    for big, small in zip(
        config.expand(load(name)), config.expand(load(f"miniature/{name}")), strict=True
    ):
        assert small.name == big.name
        for of in ("fraction", "placement"):
            assert getattr(small.spec.real, of) == getattr(big.spec.real, of)
        assert (small.spec.extractor.model == BILSTM) == (big.spec.extractor.model == BILSTM)
        for chosen, pairs in big.spec.evaluation.sets.items():
            assert small.spec.evaluation.sets[chosen].languages == pairs.languages


def test_a_sweep_in_miniature_searches_fields_of_the_real_one() -> None:
    big, small = load("sweep").sweep, load("miniature/sweep").sweep
    assert small.parameters.keys() <= big.parameters.keys()
    assert small.parameters["real.placement"] == big.parameters["real.placement"]


def test_the_reference_is_up_to_date() -> None:
    assert (JOBS / "REFERENCE.md").read_text(encoding="utf-8") == cli.reference_text()
