"""Evaluation sets of bought queries: what a thief without real data can measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from conftest import SMALL
from raythief import building, holdout, nli, pipeline, planning, runs, training
from raythief.artifacts import Artifact, Storage
from raythief.config import LABELS, Spec, expand, merge, nest, validate
from raythief.errors import UserError
from raythief.progress import Display, silent
from raythief.results import Examples
from raythief.stages import Stage

BOUGHT: dict[str, Any] = {"evaluation": {"sets": {"bought": {"source": "queries", "count": 100}}}}
ALONE = {**SMALL, **BOUGHT}
"""Not even a set of real data to measure on."""
ONLY = {"real__placement": "only", "real__fraction": 1.0}


def spec(base: Mapping[str, Any], **changes: Any) -> Spec:
    dotted = {field.replace("__", "."): value for field, value in changes.items()}
    return validate(merge(base, nest(dotted)), "spec")


def held(**changes: Any) -> dict[str, Stage]:
    """Stages of a spec that holds the last 100 of 600 queries back."""
    return pipeline.stages(spec(merge(SMALL, BOUGHT), **changes))


def refused(base: Mapping[str, Any] = SMALL, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        spec(merge(base, BOUGHT) if base is SMALL else base, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("spec: ").removeprefix("spec: ")


# --- the spec ---------------------------------------------------------------------------------


def test_so_many_of_the_last_queries_are_held_back() -> None:
    found = spec(merge(SMALL, BOUGHT), evaluation__sets__more={"source": "queries", "count": 150})
    assert found.queries_sets == {"bought": 100, "more": 150}
    assert (found.held_back, found.learned_queries) == (150, 450)
    assert spec(merge(SMALL, BOUGHT), extractor__queries=7).learned_queries == 7
    assert (spec(SMALL).held_back, spec(SMALL).learned_queries) == (0, 600)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"real__train": {"source": "queries", "count": 5}},
            "real.train: source `queries` is for evaluation.sets alone, its labels are the "
            "victim's; name real data",
        ),
        (
            {"evaluation__sets__bought__count": 600},
            "evaluation.sets.bought.count holds back 600 of the 600 of queries.count, which leaves "
            "none to learn from; lower it, or raise queries.count",
        ),
        (
            {"extractor__queries": 501},
            "extractor.queries is 501, which reaches into the last 100 of 600 queries, which "
            "evaluation.sets.bought holds back; take at most 500, or lower that set's count",
        ),
        (
            {"extractor__queries": 601},
            "extractor.queries is 601, more than the 600 of queries.count",
        ),
        (
            {"evaluation__sets__bought__split": "test"},
            "evaluation.sets.bought.split is no field; choose from source, count",
        ),
        (
            {"evaluation__sets__bought__count": 0},
            "evaluation.sets.bought.count: input should be greater than or equal to 1, not 0",
        ),
        (
            {"victim__training__selection": {"on": "bought"}},
            "victim.training.selection.on names `bought`, whose labels are its answers; name "
            "another set",
        ),
        (
            {**ONLY, "extractor__training__selection": {"on": "bought"}},
            "extractor.training.selection.on names `bought`, which a row with "
            "real.placement `only`, without queries, does not have; name another set",
        ),
        (
            {**ONLY, "sweep": {"objective": "bought", "parameters": {"seed": {"grid": [1]}}}},
            "sweep.objective names `bought`, which a row with real.placement `only`, without "
            "queries, does not have; name another set",
        ),
        (
            {"figure2": {"real": "bought", "count": 50}},
            "figure2.real names `bought`, gibberish; name a set of real data",
        ),
        (
            {
                "evaluation__sets__held_out": {"source": "queries"},
                "queries__count": 2000,
                "extractor__training__selection": {},
            },
            "extractor.training.selection.on is `held_out`, queries held out of that training, and "
            "one of evaluation.sets has this name too; give the set another",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else ", ".join(value),
)
def test_what_can_not_be_is_refused_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    assert refused(**changes) == sentence


def test_a_row_without_queries_needs_a_set_of_real_data() -> None:
    assert refused(ALONE, **ONLY) == (
        "evaluation.sets are all of source `queries`, which a row with real.placement `only` does "
        "not have; add a set of real data"
    )


def test_a_set_without_a_source_is_told_of_this_one_too() -> None:
    assert refused(SMALL, evaluation__sets__bought={"source": "query"}).endswith(
        "'hub', 'files', 'miniature', 'queries'"
    )


def test_weights_may_be_selected_and_sweeps_decided_on_it() -> None:
    found = held(extractor__training__selection={"on": "bought"})
    assert found["extractor"].inputs["judge"] is found["examples:bought"]
    spec(merge(SMALL, BOUGHT), sweep={"objective": "bought", "parameters": {"seed": {"grid": [1]}}})


# --- the stages -------------------------------------------------------------------------------


def prints(stages: Mapping[str, Stage]) -> dict[str, str]:
    return {role: stage.fingerprint for role, stage in stages.items()}


def test_labels_are_bought_once_whatever_is_held_back() -> None:
    without, some = prints(pipeline.stages(spec(SMALL))), prints(held())
    more = prints(held(evaluation__sets__bought__count=150))
    assert some.keys() - without.keys() == {"examples:bought"}
    for others in (without, more):
        differ = {role for role in others if others[role] != some[role]}
        assert differ - {"examples:bought"} == {"extractor", "evaluation"}


def test_the_number_that_is_learned_from_decides_and_not_the_names_of_sets() -> None:
    one, renamed = held(), pipeline.stages(
        spec(SMALL, evaluation__sets__other={"source": "queries", "count": 100})
    )  # fmt: skip
    assert one["extractor"].fingerprint == renamed["extractor"].fingerprint
    assert one["examples:bought"].fingerprint == renamed["examples:other"].fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"real__fraction": 0.1, "real__training": {"selection": {"on": "bought"}}},
        {"real__fraction": 0.1, "real__placement": "during"},
        {"extractor__training__selection": {"on": "bought"}},
    ],
    ids=str,
)
def test_stages_come_after_those_that_they_read(changes: dict[str, Any]) -> None:
    stages, seen = held(**changes), set()
    for stage in stages.values():
        assert {inner.fingerprint for inner in stage.inputs.values()} <= seen
        seen.add(stage.fingerprint)
    assert {"examples:xnli", "examples:bought"} <= set(stages["evaluation"].inputs)


def test_the_victim_is_not_asked_again_what_it_answered() -> None:
    stages = held()
    assert set(stages["victim_evaluation"].inputs) == {"model", "examples:xnli"}
    api = {"url": "https://example.org", "evaluate": "everything"}
    bought = pipeline.stages(spec(merge(SMALL, BOUGHT), victim={"api": api, "training": None}))
    assert bought["victim_evaluation"].queries == 60
    assert bought["sanity"].inputs["examples"] is bought["examples:xnli"]


def test_rows_without_queries_do_without_the_set() -> None:
    plain = pipeline.stages(spec(SMALL, **ONLY))
    assert prints(held(**ONLY)) == prints(plain)


def test_a_thief_without_any_real_data_is_measured_on_it_alone() -> None:
    bare = merge(ALONE, {"victim": {"api": {"url": "https://example.org"}, "training": None}})
    stages = pipeline.stages(validate(bare, "spec"))
    assert not {"victim_evaluation", "sanity", "real"} & set(stages)
    assert set(stages["evaluation"].inputs) == {"model", "examples:bought"}


def test_labels_do_not_wait_for_the_sets_that_consist_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for all others: a cycle would end the run before it begins."""
    order: list[str] = []

    def ensure(stage: Stage, storage: Storage, tell: Any) -> tuple[Artifact, bool]:
        order.append(stage.name if stage.name != "examples" or stage.inputs else "gold")
        artifact = storage.artifact(stage.name, stage.fingerprint)
        artifact.write("data.txt", b"")
        artifact.finish({"results": {"pairs": 1, "languages": 1}, "seconds": 0.0})
        return artifact, True

    monkeypatch.setattr(Stage, "ensure", ensure)
    display = Display(Console(quiet=True))
    outcomes = building.build(held(), Storage.at(str(tmp_path)), display, 1)
    assert not [outcome.error for outcome in outcomes.values() if outcome.error]
    places = [order.index(name) for name in ("gold", "labels", "examples", "evaluation")]
    assert places == sorted(places)


# --- the rows ---------------------------------------------------------------------------------

COUNT = 600
REJECTED = {3, 40, 499, 500, 555, 599}


def purchase(folder: Path, rejected: set[int]) -> dict[str, Artifact]:
    """Queries and labels as their stages leave them, in several files."""
    storage = Storage.at(str(folder))
    given = {name: storage.artifact(name, "a") for name in ("queries", "labels")}
    for start in range(0, COUNT, 150):
        ids = list(range(start, start + 150))
        texts = {"premise": [f"p{i}" for i in ids], "hypothesis": [f"h{i}" for i in ids]}
        given["queries"].write_table(f"rows-{start:04d}.parquet", pa.table({"id": ids, **texts}))
        said = pa.array([None if i in rejected else LABELS[i % 3] for i in ids], pa.string())
        given["labels"].write_table(
            f"rows-{start:04d}.parquet", pa.table({"id": ids, "label": said})
        )
    return given


def test_the_set_is_the_last_queries_with_their_answers(tmp_path: Path) -> None:
    target = Storage.at(str(tmp_path)).artifact("examples", "b")
    told = held()["examples:bought"].build(target, purchase(tmp_path, REJECTED), silent)
    table = target.read_table("en.parquet")
    assert table.schema.equals(nli.SCHEMA)
    ids = [i for i in range(500, 600) if i not in REJECTED]
    assert table.to_pylist() == [
        {"id": i, "premise": f"p{i}", "hypothesis": f"h{i}", "label": LABELS[i % 3]} for i in ids
    ]
    assert told == Examples(pairs=97, languages=1)


def test_a_set_of_which_the_victim_rejected_all_is_refused(tmp_path: Path) -> None:
    target = Storage.at(str(tmp_path)).artifact("examples", "b")
    with pytest.raises(UserError, match=r"^evaluation\.sets\.bought\.count: the victim rejected"):
        held()["examples:bought"].build(target, purchase(tmp_path, set(range(500, 600))), silent)


def test_labels_of_other_queries_are_an_error(tmp_path: Path) -> None:
    given = purchase(tmp_path, set())
    other = Storage.at(str(tmp_path)).artifact("queries", "b")
    other.write_table("rows.parquet", given["queries"].read_table().slice(0, 550))
    with pytest.raises(ValueError, match="labels other ids"):
        holdout.build(given["labels"], other, given["labels"], 500, "evaluation.sets.bought")


def premises(examples: training.Examples) -> list[str]:
    """First sentences of what is learned or judged."""
    texts = examples.texts.read_table(examples.table, ["premise"])["premise"]
    found: list[str] = texts.take(examples.read()["row"].combine_chunks()).to_pylist()
    return found


@pytest.mark.parametrize(
    ("queries", "rejected", "learned"),
    [
        (None, set(), range(500)),
        (None, REJECTED, [i for i in range(500) if i not in REJECTED]),
        # The first 500 with a label would be those up to id 502.
        (500, REJECTED, [i for i in range(500) if i not in REJECTED]),
        (100, REJECTED, [i for i in range(102) if i not in REJECTED]),
    ],
    ids=["all", "all, some rejected", "as many as are left", "fewer"],
)
def test_no_training_reads_what_is_held_back(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    queries: int | None,
    rejected: set[int],
    learned: list[int],
) -> None:
    class Enough(Exception):  # noqa: N818
        pass

    def train(job: training.Job, tell: Any) -> None:
        jobs.append(job)
        raise Enough

    jobs: list[training.Job] = []
    monkeypatch.setattr(training, "train", train)
    given = purchase(tmp_path, rejected)
    storage = Storage.at(str(tmp_path))
    stages = held(extractor={"queries": queries, "training": {"selection": {"on": "bought"}}})
    given["judge"] = storage.artifact("examples", "b")
    stages["examples:bought"].build(given["judge"], given, silent)
    given["encoders"] = storage.artifact("encoders", "a")
    with pytest.raises(Enough):
        stages["extractor"].build(storage.artifact("extractor", "a"), given, silent)
    [examples], [judge] = jobs[0].examples, jobs[0].judges
    assert premises(examples) == [f"p{i}" for i in learned]
    assert not set(premises(examples)) & set(premises(judge))
    assert judge.read().num_rows == 100 - len(rejected & set(range(500, 600)))


# --- the plan ---------------------------------------------------------------------------------


def test_the_plan_counts_what_is_learned_from_and_what_is_measured(tmp_path: Path) -> None:
    given = spec(merge(SMALL, BOUGHT), variants={"row": {}, "only": nest(
        {name.replace("__", "."): value for name, value in ONLY.items()}
    )})  # fmt: skip
    first, only = runs.rows(given)
    storage = Storage.at(str(tmp_path))
    assert planning.work(first, "extractor", storage).what.startswith("500 examples")
    assert planning.work(first, "evaluation", storage).what == "160 pairs"
    assert planning.work(first, "victim_evaluation", storage).what == "60 pairs"
    assert planning.work(only, "evaluation", storage).what == "60 pairs"
    assert planning.work(first, "labels", storage).what == "600 queries"
    assert [variant.name for variant in expand(given)] == ["row", "only"]
