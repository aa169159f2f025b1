"""From a spec to stages: what rows of a table share, and what a change of the spec makes again."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import SMALL, Told
from raythief import building, pipeline, runs
from raythief.artifacts import Artifact, Storage
from raythief.config import Spec, expand, merge, nest, validate
from raythief.errors import UserError
from raythief.progress import Tell, silent
from raythief.stages import Stage

PAPER: dict[str, Any] = {"name": "paper"}
"""All defaults: the paper's models and data on the hub."""


def spec(base: Mapping[str, Any] = SMALL, **changes: Any) -> Spec:
    """A spec with some fields changed (`queries__count` for `queries.count`)."""
    dotted = {field.replace("__", "."): value for field, value in changes.items()}
    return validate(merge(base, nest(dotted)), "spec")


def prints(base: Mapping[str, Any] = SMALL, **changes: Any) -> dict[str, str]:
    """Fingerprints of the stages by role."""
    stages = pipeline.stages(spec(base, **changes))
    return {role: stage.fingerprint for role, stage in stages.items()}


def changed(base: Mapping[str, Any] = SMALL, **changes: Any) -> set[str]:
    """Roles whose fingerprint a change of the spec changes; it must not add or remove any."""
    before, after = prints(base), prints(base, **changes)
    assert before.keys() == after.keys()
    return {role for role in before if before[role] != after[role]}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("touches the network")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


# --- the chain --------------------------------------------------------------------------------


def test_stages_come_after_those_that_they_read():
    stages = pipeline.stages(spec(real__fraction=0.1))
    seen: set[str] = set()
    for stage in stages.values():
        assert {inner.fingerprint for inner in stage.inputs.values()} <= seen
        seen.add(stage.fingerprint)
    assert list(stages)[-1] == "evaluation"


def test_ancestors_are_all_that_a_stage_is_made_from_inputs_first():
    stages = pipeline.stages(spec())
    names = [stage.name for stage in stages["labels"].ancestors()]
    assert names[-1] == "labels"
    assert {"corpus", "vocabulary", "queries", "encoders", "victim", "examples"} <= set(names)
    assert "extractor" not in names
    assert names.index("corpus") < names.index("vocabulary") < names.index("queries")


def test_a_victim_that_is_bought_ready_needs_no_training_and_no_real_data():
    stages = pipeline.stages(spec(PAPER))
    assert "victim" not in stages
    assert "real" not in stages
    assert "encoders" not in stages


# --- what rows share --------------------------------------------------------------------------

EVERYTHING = set(prints())


def test_after_goes_on_from_the_extractor_of_the_row_without_real_data():
    none = prints(real__fraction=0.0)
    for share in (0.01, 0.1):
        after = prints(real__fraction=share, real__placement="after")
        assert after.keys() - none.keys() == {"finetuned"} | ({"real"} - none.keys())
        assert {role for role in none if after[role] != none[role]} == {"evaluation"}


def test_during_with_nothing_is_the_row_without_real_data():
    assert prints(real__placement="during") == prints(real__placement="after")


def test_during_is_another_extractor_on_the_same_labels():
    none, during = prints(), prints(real__fraction=0.1, real__placement="during")
    assert {role for role in none if during[role] != none[role]} == {"extractor", "evaluation"}
    assert "finetuned" not in during


@pytest.mark.parametrize("on", ["held_out", "mnli"])
@pytest.mark.parametrize(("share", "place"), [(0.0, "after"), (0.1, "during"), (0.1, "after")])
def test_no_training_comes_near_a_test_split(on: str, share: float, place: str):
    """Whatever it selects on: XNLI's test is read by evaluations alone."""
    found = pipeline.stages(
        spec(
            PAPER,
            real__fraction=share,
            real__placement=place,
            extractor__training__selection={"on": on},
        )
    )
    last = found.get("finetuned", found["extractor"])

    def splits(top: Stage) -> set[str]:
        made_from = top.ancestors()
        return {stage.config["split"] for stage in made_from if stage.name == "examples"}

    assert "test" not in splits(last)
    judge = last.inputs.get("judge")
    assert (judge and judge.config["split"]) == (None if on == "held_out" else "validation_matched")
    assert "test" in splits(found["evaluation"])


def test_the_gate_before_the_purchase_spares_the_test_split_if_it_can():
    test = {"source": "hub", "dataset": "facebook/xnli", "split": "test"}
    validation = {"source": "hub", "split": "validation_matched"}

    def gate(**sets: Any) -> Any:
        tree = {**PAPER, "evaluation": {"sets": sets}}
        return pipeline.stages(validate(tree, "spec"))["sanity"].inputs["examples"].config["split"]

    assert gate(xnli=test, mnli=validation) == "validation_matched"
    assert gate(xnli=test) == "test"


def test_rows_that_learn_from_fewer_queries_share_one_purchase():
    none, some = prints(), prints(extractor__queries=100)
    assert {role for role in none if some[role] != none[role]} == {"extractor", "evaluation"}
    with pytest.raises(UserError, match=r"extractor\.queries is 601, more than the 600"):
        spec(extractor__queries=601)


def test_a_baseline_buys_nothing():
    for base in (SMALL, PAPER):
        baseline = prints(base, real__fraction=1.0, real__placement="only")
        assert not baseline.keys() & {"corpus", "vocabulary", "queries", "labels"}
        assert baseline["victim_evaluation"] == prints(base)["victim_evaluation"]


def test_shares_of_real_data_are_different_stages():
    found = [
        prints(real__fraction=share, real__placement=place)["evaluation"]
        for share in (0.1, 0.2)
        for place in ("during", "after", "only")
    ]
    assert len(set(found)) == len(found)


# --- what a change makes again -----------------------------------------------------------------

AFTER_VICTIM = {"victim", "victim_evaluation", "labels", "extractor", "evaluation"}
AFTER_QUERIES = {"queries", "labels", "extractor", "evaluation"}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"title": "A title"},
        {"storage": "/elsewhere"},
        {"data_root": "/elsewhere"},
        {"paper": "table1"},
        {"resources": {"inference": {"workers": 7, "cpus": 2, "gpus": 1}, "training": {"cpus": 2}}},
        {"resources": {"checkpoint_every": 3, "restarts": 9, "concurrent_stages": 4}},
        {"costs": {"query_usd": 1.0, "gpu_hour_usd": 2.0, "utilisation": 0.1}},
        {"sweep": {"samples": 4}},
        {"real__training": {"steps": 5}},  # nothing is fine-tuned here
    ],
    ids=str,
)
@pytest.mark.parametrize("base", [SMALL, PAPER], ids=["small", "paper"])
def test_where_and_how_fast_changes_no_fingerprint(
    base: Mapping[str, Any], changes: dict[str, Any]
):
    assert changed(base, **changes) == set()


@pytest.mark.parametrize(
    ("changes", "roles"),
    [
        ({"seed": 1}, EVERYTHING),
        ({"corpus__sentences": 401}, {"corpus", "vocabulary"} | AFTER_QUERIES),
        ({"vocabulary__top_k": 9}, {"vocabulary"} | AFTER_QUERIES),
        ({"vocabulary__sampling": "unigram"}, {"vocabulary"} | AFTER_QUERIES),
        ({"queries__count": 601}, AFTER_QUERIES),
        ({"queries__seed": 1}, AFTER_QUERIES),
        ({"queries__positions": "with_replacement"}, AFTER_QUERIES),
        ({"victim__training__steps": 31}, AFTER_VICTIM),
        ({"victim__training__seed": 1}, AFTER_VICTIM),
        ({"victim__model": "miniature:multilingual"}, AFTER_VICTIM),
        ({"extractor__training__steps": 41}, {"extractor", "evaluation"}),
        ({"extractor__training__betas": [0.8, 0.98]}, {"extractor", "evaluation"}),
        ({"extractor__training__precision": "float32"}, {"extractor", "evaluation"}),
        ({"extractor__model": "miniature:english"}, {"extractor", "evaluation"}),
        ({"real__train__count": 301}, {"real"} | AFTER_VICTIM),
        ({"miniature__english_steps": 2}, {"encoders"} | AFTER_VICTIM),
        (
            {"evaluation__sets__xnli__count": 61},
            {"examples:xnli", "victim_evaluation", "evaluation"},
        ),
        (
            {"evaluation__sets__xnli__languages": ["en", "de"]},
            {"examples:xnli", "victim_evaluation", "evaluation"},
        ),
        (
            {"inference__max_tokens": 100},
            {"labels", "victim_evaluation", "extractor", "evaluation"},
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_change_makes_anew_exactly_what_depends_on_it(changes: dict[str, Any], roles: set[str]):
    assert changed(**changes) == roles


@pytest.mark.parametrize(
    ("changes", "roles"),
    [
        ({"seed": 1}, {*AFTER_QUERIES}),
        ({"victim__model": "FacebookAI/roberta-large"}, (AFTER_VICTIM - {"victim"}) | {"sanity"}),
        ({"victim__revision": "0" * 40}, (AFTER_VICTIM - {"victim"}) | {"sanity"}),
        (
            {"victim__labels": ["contradiction", "neutral", "entailment"]},
            (AFTER_VICTIM - {"victim"}) | {"sanity"},
        ),
        ({"extractor__model": "FacebookAI/xlm-roberta-base"}, {"extractor", "evaluation"}),
        ({"corpus": {"source": "hub", "column": "body"}}, {"corpus", "vocabulary"} | AFTER_QUERIES),
        (
            {"corpus": {"source": "hub", "revision": "1" * 40}},
            {"corpus", "vocabulary"} | AFTER_QUERIES,
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_the_same_holds_for_models_and_data_of_the_hub(changes: dict[str, Any], roles: set[str]):
    assert changed(PAPER, **changes) == roles


def test_a_seed_of_ones_own_does_not_follow_the_specs():
    pinned = {"queries__seed": 3, "extractor__training__seed": 4}
    assert prints(PAPER, **pinned) == prints(PAPER, **pinned, seed=1)


# --- the figure -------------------------------------------------------------------------------

FIGURE: dict[str, Any] = {"figure2": {"model": "miniature:english", "count": 50, "real": "xnli"}}
VECTORS = {"vectors:train", "vectors:real", "vectors:gibberish"}


def test_the_figure_comes_beside_the_others_and_changes_none():
    for base in (SMALL, PAPER):
        before = prints(base)
        after = prints(merge(base, FIGURE) if base is SMALL else merge(base, {"figure2": {}}))
        assert {role: after[role] for role in before} == before
        assert after.keys() - before.keys() - {"real", "encoders"} == VECTORS | {"figure2"}


@pytest.mark.parametrize(
    ("changes", "roles"),
    [
        ({"figure2__distance": "cosine"}, {"figure2"}),
        ({"figure2__count": 51}, {"vectors:real", "vectors:gibberish", "figure2"}),
        ({"figure2__model": "miniature:multilingual"}, VECTORS | {"figure2"}),
        ({"real__train__count": 301}, {"real", "vectors:train", "figure2"} | AFTER_VICTIM),
        (
            {"queries__seed": 1},
            {"vectors:gibberish", "figure2"} | AFTER_QUERIES,
        ),
        ({"extractor__training__steps": 41}, {"extractor", "evaluation"}),
        ({"victim__training__steps": 31}, AFTER_VICTIM),
        ({"until": "figure2"}, set()),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_the_figure_is_made_anew_as_far_as_a_change_reaches(
    changes: dict[str, Any], roles: set[str]
):
    assert changed(merge(SMALL, FIGURE), **changes) == roles


def test_a_row_without_queries_has_no_figure():
    stages = prints(merge(SMALL, FIGURE), real={"fraction": 1.0, "placement": "only"})
    assert not stages.keys() & (VECTORS | {"figure2"})


def test_a_spec_may_end_before_its_last_stage():
    rows = runs.rows(spec(merge(SMALL, FIGURE), until="figure2"))
    assert list(rows[0].stages)[-1] == "figure2"
    assert set(rows[0].stages) == VECTORS | {
        "encoders", "examples:xnli", "real", "corpus", "vocabulary", "queries", "figure2"
    }  # fmt: skip
    with pytest.raises(UserError, match=r"^until: figure3: no such stage; choose from encoders"):
        runs.rows(spec(merge(SMALL, FIGURE), until="figure3"))


# --- the BiLSTM baseline ----------------------------------------------------------------------

BILSTM: dict[str, Any] = merge(
    SMALL,
    nest(
        {
            "extractor.model": "bilstm",
            "extractor.bilstm": {
                "embeddings": {"source": "miniature"},
                "parallel": {"source": "miniature"},
            },
            "real": {"fraction": 1.0, "placement": "only"},
            "evaluation.sets.xnli.languages": ["en", "hi", "de"],
        }
    ),
)
AFTER_ALIGNMENT = {"aligned", "evaluation"}


@pytest.mark.parametrize(
    ("changes", "roles"),
    [
        ({"hidden": 7}, {"bilstm", "extractor"} | AFTER_ALIGNMENT),
        ({"embeddings__noise": 0.3}, {"bilstm", "extractor"} | AFTER_ALIGNMENT),
        ({"parallel__count": 9}, {"parallel"} | AFTER_ALIGNMENT),
        ({"alignment__contrast": 0.1}, AFTER_ALIGNMENT),
        ({"alignment__tune_words": True}, AFTER_ALIGNMENT),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_bilstm_is_made_anew_as_far_as_a_change_reaches(changes: dict[str, Any], roles: set[str]):
    dotted = {f"extractor__bilstm__{name}": value for name, value in changes.items()}
    assert changed(BILSTM, **dotted) == roles


def test_a_bilstm_learns_from_queries_too_and_is_aligned_last():
    made = list(pipeline.stages(spec(BILSTM, real__placement="after", real__fraction=0.1)))
    assert made.index("labels") < made.index("extractor") < made.index("finetuned")
    assert made[-2:] == ["aligned", "evaluation"]


def test_other_extractors_do_not_see_the_section_of_the_bilstm():
    section = {"bilstm": BILSTM["extractor"]["bilstm"]}
    assert prints(extractor=merge(SMALL["extractor"], section)) == prints()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"extractor__bilstm": None},
            "extractor: model `bilstm` needs the section `bilstm`, with `embeddings` and",
        ),
        (
            {"extractor__bilstm__embeddings": {"source": "files", "path": "wiki.en.vec"}},
            "extractor.bilstm.embeddings.path: needs `{language}` in it",
        ),
        (
            {"extractor__bilstm__parallel": {"source": "files", "path": "all.parquet"}},
            "extractor.bilstm.parallel.path: needs `{language}` in it",
        ),
        ({"extractor__bilstm__alignment__contrast": 0.5}, "extractor.bilstm.alignment.contrast: "),
    ],
    ids=str,
)
def test_a_bilstm_that_is_not_described_is_refused(changes: dict[str, Any], fault: str):
    with pytest.raises(UserError) as caught:
        spec(BILSTM, **changes)
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bilstms_files_enter_by_their_content(tmp_path: Path):
    for language in ("en", "de", "hi"):
        (tmp_path / f"{language}.vec").write_text(f"1 2\n{language} 1 2\n")
        (tmp_path / f"{language}.txt").write_text("a\nb\n")
        (tmp_path / f"{language}-en.txt").write_text("a\nb\n")
    own = merge(
        BILSTM,
        nest(
            {
                "data_root": str(tmp_path),
                "extractor.bilstm.embeddings": {"source": "files", "path": "{language}.vec"},
                "extractor.bilstm.parallel": {
                    "source": "files",
                    "path": "{language}.txt",
                    "english": "{language}-en.txt",
                },
            }
        ),
    )

    def roles(file: str) -> set[str]:
        before = prints(own)
        with (tmp_path / file).open("a") as end:
            end.write("more\n")
        after = prints(own)
        return {role for role in before if before[role] != after[role]}

    assert roles("hi.vec") == {"bilstm", "extractor"} | AFTER_ALIGNMENT
    assert roles("hi.txt") == roles("de-en.txt") == {"parallel"} | AFTER_ALIGNMENT
    assert roles("en.txt") == set()  # English needs no translation
    (tmp_path / "de-en.txt").unlink()
    with pytest.raises(UserError, match=r"extractor\.bilstm\.parallel\.english: .*de-en\.txt"):
        prints(own)


# --- files of one's own -----------------------------------------------------------------------


def write_pairs(file: Path, rows: int = 6, label: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "premise": [f"p{i}" for i in range(rows)],
        "hypothesis": [f"h{i}" for i in range(rows)],
        "label": [(i + label) % 3 for i in range(rows)],
    }
    pq.write_table(pa.table(table), file)


def write_model(folder: Path, names: tuple[str, ...], weights: bytes = b"w") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text("{}")


NAMED = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    """A spec whose every datum is a file."""
    root = tmp_path / "data"
    write_pairs(root / "train.parquet")
    for language in ("en", "de"):
        write_pairs(root / f"xnli/{language}.parquet")
    (root / "text.txt").write_text("The dog sleeps.\n")
    write_model(root / "victim", NAMED)
    write_model(root / "encoder", NAMED)
    labels = ["entailment", "neutral", "contradiction"]
    return {
        "name": "own",
        "data_root": str(root),
        "corpus": {"source": "files", "path": "text.txt"},
        "victim": {"model": "victim"},
        "extractor": {"model": "encoder"},
        "real": {"train": {"source": "files", "path": "train.parquet", "labels": labels}},
        "evaluation": {
            "sets": {
                "dev": {
                    "source": "files",
                    "path": "xnli/{language}.parquet",
                    "labels": labels,
                    "languages": ["en", "de"],
                }
            }
        },
    }


def test_files_enter_by_their_content_not_by_their_place(own: dict[str, Any], tmp_path: Path):
    before = prints(own, real__fraction=0.5)
    (tmp_path / "data").rename(tmp_path / "moved")
    (tmp_path / "moved" / "text.txt").rename(tmp_path / "moved" / "words.txt")
    (tmp_path / "moved" / "victim").rename(tmp_path / "moved" / "another name")
    (tmp_path / "moved" / "train.parquet").rename(tmp_path / "moved" / "pairs.parquet")
    (tmp_path / "moved" / "xnli").rename(tmp_path / "moved" / "dev")
    after = prints(
        own,
        real__fraction=0.5,
        data_root=str(tmp_path / "moved"),
        corpus__path="words.txt",
        victim__model=str(tmp_path / "moved" / "another name"),
        real__train__path="pairs.parquet",
        evaluation__sets__dev__path="dev/{language}.parquet",
    )
    assert after == before


@pytest.mark.parametrize(
    ("file", "roles"),
    [
        ("text.txt", {"corpus", "vocabulary"} | AFTER_QUERIES),
        ("victim/model.safetensors", (AFTER_VICTIM - {"victim"}) | {"sanity"}),
        ("encoder/model.safetensors", {"extractor", "finetuned", "evaluation"}),
        ("encoder/tokenizer.json", {"extractor", "finetuned", "evaluation"}),
        ("train.parquet", {"real", "finetuned", "evaluation"}),
        ("xnli/de.parquet", {"examples:dev", "sanity", "victim_evaluation", "evaluation"}),
    ],
)
def test_another_content_makes_anew_what_depends_on_it(
    own: dict[str, Any], tmp_path: Path, file: str, roles: set[str]
):
    before = prints(own, real__fraction=0.5)
    path = tmp_path / "data" / file
    path.write_bytes(path.read_bytes() + b"\n")
    after = prints(own, real__fraction=0.5)
    expected = roles | ({"finetuned"} if "extractor" in roles else set())
    assert {role for role in before if before[role] != after[role]} == expected


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"corpus__path": "none.txt"}, "corpus.path: "),
        ({"real__train__path": "none.parquet", "real__fraction": 0.5}, "real.train.path: "),
        ({"evaluation__sets__dev__path": "{language}.txt"}, "evaluation.sets.dev.path: "),
        ({"victim__model": "none"}, "victim.model: `none` is neither a folder"),
        ({"victim__model": "xnli"}, "victim.model: "),
        ({"extractor__model": "text.txt"}, "extractor.model: `text.txt` is neither a folder"),
        (
            {"extractor__model": "miniature:german"},
            "extractor.model: `miniature:german` is neither",
        ),
    ],
)
def test_a_file_that_is_missing_is_told_with_its_field(
    own: dict[str, Any], changes: dict[str, Any], sentence: str
):
    with pytest.raises(UserError) as caught:
        pipeline.stages(spec(own, **changes))
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_weights_that_would_run_code_are_refused(own: dict[str, Any], tmp_path: Path):
    folder = tmp_path / "data" / "victim"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="no safetensors"):
        pipeline.stages(spec(own))


def test_languages_whose_labels_differ_are_not_the_same_items(own: dict[str, Any], tmp_path: Path):
    stage = pipeline.stages(spec(own))["examples:dev"]
    storage = Storage.at(str(tmp_path / "storage"))
    assert stage.ensure(storage)[0].verify()["results"] == {"pairs": 12, "languages": 2}
    for harm in ({"label": 1}, {"rows": 5}):
        write_pairs(tmp_path / "data/xnli/de.parquet", **harm)
        with pytest.raises(UserError, match=r"evaluation\.sets\.dev: the labels of `de`"):
            pipeline.stages(spec(own))["examples:dev"].ensure(storage)


# --- the hub ----------------------------------------------------------------------------------

TABLE2 = """
name: table2
evaluation:
  sets:
    xnli: {source: hub, dataset: facebook/xnli, split: test, languages: [en, de, sw]}
extractor: {training: {learning_rate: 1.0e-5, batch_size: 128}}
variants:
  base, all:
    extractor: {model: FacebookAI/xlm-roberta-base}
    real: {fraction: 1.0, placement: only}
  large, all: {real: {fraction: 1.0, placement: only}}
  none: {real.fraction: 0.0}
  5 during: {real: {fraction: 0.05, placement: during}}
  5 after: {real: {fraction: 0.05, placement: after}}
  10 after: {real: {fraction: 0.10, placement: after}}
"""


@pytest.mark.usefixtures("offline")
def test_a_table_of_the_paper_is_laid_out_without_network_and_shares_what_it_can():
    import yaml

    rows = {
        variant.name: pipeline.stages(variant.spec)
        for variant in expand(validate(yaml.safe_load(TABLE2), "spec"))
    }
    every = {stage.fingerprint: stage for row in rows.values() for stage in row.values()}
    names = [stage.name for stage in every.values()]
    counts = {name: names.count(name) for name in set(names)}
    assert counts == {
        "examples": 2,  # XNLI and MNLI
        "corpus": 1,
        "vocabulary": 1,
        "queries": 1,
        "sanity": 1,
        "labels": 1,
        "victim_evaluation": 1,
        "extractor": 4,  # two baselines, without real data, during
        "finetuned": 2,
        "evaluation": 6,
    }


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"extractor__model": "someone/model"}, "extractor.model"),
        ({"victim__model": "someone/model"}, "victim.model"),
        ({"corpus": {"source": "hub", "dataset": "someone/text"}}, "corpus.dataset"),
        (
            {"real__train": {"source": "hub", "dataset": "someone/nli"}, "real__fraction": 0.5},
            "real.train.dataset",
        ),
        (
            {"evaluation__sets": {"x": {"source": "hub", "dataset": "someone/nli"}}},
            "evaluation.sets.x.dataset",
        ),
    ],
)
def test_what_the_hub_could_change_tomorrow_is_refused(changes: dict[str, Any], field: str):
    with pytest.raises(UserError, match="no pinned revision") as caught:
        pipeline.stages(spec(PAPER, **changes))
    assert str(caught.value).startswith(f"{field}: ")
    with pytest.raises(UserError, match="no commit hash"):
        pipeline.stages(spec(PAPER, extractor__revision="main"))


# --- checks before a run ----------------------------------------------------------------------


def row(given: Spec) -> runs.Row:
    (variant,) = expand(given)
    return runs.Row(variant, pipeline.stages(variant.spec))


def test_a_victim_whose_outputs_have_no_names_is_found_before_the_run(
    own: dict[str, Any], tmp_path: Path
):
    storage = Storage.at(str(tmp_path / "storage"))
    runs.check([row(spec(own))], storage)
    write_model(tmp_path / "data" / "victim", ("LABEL_0", "LABEL_1", "LABEL_2"))
    with pytest.raises(UserError, match=r"^victim\.labels: "):
        runs.check([row(spec(own))], storage)
    named = spec(own, victim__labels=["neutral", "entailment", "contradiction"])
    runs.check([row(named)], storage)
    assert not (tmp_path / "storage").exists()


def test_a_victim_below_the_home_folder_is_found_by_the_check_too(
    own: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "data"))
    runs.check([row(spec(own, victim__model="~/victim"))], Storage.at(str(tmp_path / "storage")))


def test_a_victim_that_is_not_asked_needs_no_names(own: dict[str, Any], tmp_path: Path):
    write_model(tmp_path / "data" / "victim", ("LABEL_0", "LABEL_1", "LABEL_2"))
    given = row(spec(own))
    runs.check([runs.cut_off(given, "queries")], Storage.at(str(tmp_path / "storage")))


def test_a_row_that_is_cut_off_keeps_what_its_last_stage_is_made_from():
    given = row(spec())
    kept = runs.cut_off(given, "queries").stages
    assert list(kept) == ["corpus", "vocabulary", "queries"]
    assert runs.cut_off(given, "finetuned").stages == {}


def test_no_stage_is_lost_where_groups_of_rows_are_called_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two rows share one extractor and two another: both are `extractor (2 rows)`."""
    other = {"queries.count": 5}
    given = spec(variants={"a": {}, "b": {}, "c": other, "d": other}, storage=str(tmp_path))
    asked: dict[str, Stage] = {}

    class Enough(Exception):  # noqa: N818
        pass

    def build(wanted: Mapping[str, Stage], *_: Any) -> None:
        asked.update(wanted)
        raise Enough

    monkeypatch.setattr(building, "build", build)
    monkeypatch.setattr(runs, "_cluster_for", lambda *_: contextlib.nullcontext())
    with pytest.raises(Enough):
        runs.run(given, until="extractor")
    expected = {
        stage.fingerprint
        for one in runs.rows(given)
        for stage in runs.cut_off(one, "extractor").stages.values()
    }
    assert {stage.fingerprint for stage in asked.values()} == expected


# --- from stages to artifacts -----------------------------------------------------------------


class Silence:
    """A display that shows nothing and remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Tell]:
        yield silent

    def line(self, text: str) -> None:
        self.lines.append(text)


def noted(log: list[str], name: str, *inputs: Stage, fault: Exception | None = None) -> Stage:
    def build(target: Artifact, given: Mapping[str, Artifact], tell: Tell) -> Told:
        log.append(name)
        if fault is not None:
            raise fault
        return Told()

    return Stage(name, {}, build, {inner.name: inner for inner in inputs})


@pytest.mark.parametrize("concurrent", [1, 3])
def test_stages_are_built_once_after_their_inputs(tmp_path: Path, concurrent: int):
    log: list[str] = []
    a = noted(log, "a")
    b, c = noted(log, "b", a), noted(log, "c", a)
    d = noted(log, "d", b, c)
    storage = Storage.at(str(tmp_path))
    outcomes = building.build({"D": d, "B": b}, storage, Silence(), concurrent)  # type: ignore[arg-type]
    assert sorted(log) == ["a", "b", "c", "d"]
    assert (log[0], log[-1]) == ("a", "d")
    assert all(outcomes[stage.fingerprint].built for stage in (a, b, c, d))
    again = building.build({"D": d}, storage, Silence(), concurrent)  # type: ignore[arg-type]
    assert len(log) == 4
    assert not any(outcome.built for outcome in again.values())


@pytest.mark.parametrize("fault", [UserError("corpus: is empty"), ZeroDivisionError("by zero")])
def test_a_failure_stops_what_is_made_from_it_and_nothing_else(tmp_path: Path, fault: Exception):
    log: list[str] = []
    bad = noted(log, "bad", fault=fault)
    worse = noted(log, "worse", noted(log, "between", bad))
    good = noted(log, "good", noted(log, "fine"))
    found = building.build({"worse": worse, "good": good}, Storage.at(str(tmp_path)), Silence(), 1)  # type: ignore[arg-type]
    assert set(log) == {"bad", "fine", "good"}
    assert found[good.fingerprint].built
    assert found[good.fingerprint].error is None
    errors = {found[stage.fingerprint].error for stage in worse.ancestors()}
    assert len(errors) == 1
    assert str(fault) in str(errors.pop())
    mistake = isinstance(fault, UserError)
    assert found[bad.fingerprint].fault is (None if mistake else fault)


def test_a_new_head_on_a_classifier_of_ones_own_is_another_training(tmp_path: Path) -> None:
    """Earlier versions kept the head that was there, under the fingerprint of a new one."""
    found = {}
    for kind in ("RobertaModel", "RobertaForSequenceClassification"):
        folder = tmp_path / kind
        folder.mkdir()
        config = {"model_type": "roberta", "architectures": [kind]}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(b"")
        stages = pipeline.stages(spec(extractor__model=str(folder)))
        found[kind] = stages["extractor"].config.get("head")
    assert found == {"RobertaModel": None, "RobertaForSequenceClassification": "new"}
