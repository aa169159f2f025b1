"""What a sweep tries: configurations, conditions, the spec of each, and what they share."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest

from raythief import config, pipeline
from raythief.config import Spec, validate
from raythief.errors import UserError
from raythief.sweep import space

RATE = "extractor.training.learning_rate"
REAL: dict[str, Any] = {
    "real.fraction": {"grid": [0, 0.01, 0.1]},
    "real.placement": {"grid": ["during", "after"], "when": {"real.fraction": {"above": 0}}},
}


def swept(parameters: dict[str, Any], **sweep: Any) -> Spec:
    """A spec with a search; one of its two evaluation sets is a test split."""
    pairs = {"source": "miniature", "languages": ["en", "de"]}
    tree = {
        "name": "x",
        "corpus": {"source": "miniature"},
        "queries": {"count": 50},
        "victim": {"model": "miniature:english", "training": {}},
        "real": {"train": {"source": "miniature"}},
        "extractor": {"model": "miniature:multilingual"},
        "evaluation": {
            "sets": {"dev": {**pairs, "split": "validation"}, "final": {**pairs, "split": "test"}}
        },
        "sweep": {"objective": "dev", "parameters": parameters, **sweep},
    }
    return validate(tree, "spec")


def points(parameters: dict[str, Any], seed: int = 0, **sweep: Any) -> list[dict[str, Any]]:
    return space.points(swept(parameters, **sweep).sweep, seed)


# --- configurations ---------------------------------------------------------------------------


def test_a_grid_is_gone_through_with_the_last_parameter_fastest():
    found = points({RATE: {"grid": [1, 2]}, "queries.count": {"grid": [5, 6]}})
    assert [tuple(point.values()) for point in found] == [(1, 5), (1, 6), (2, 5), (2, 6)]


def test_a_conditional_parameter_is_one_only_where_its_condition_holds():
    assert points(REAL) == [
        {"real.fraction": 0},
        {"real.fraction": 0.01, "real.placement": "during"},
        {"real.fraction": 0.01, "real.placement": "after"},
        {"real.fraction": 0.1, "real.placement": "during"},
        {"real.fraction": 0.1, "real.placement": "after"},
    ]


def test_conditions_may_name_values_and_conditional_parameters():
    third = {"grid": [1, 2], "when": {"real.placement": ["after"]}}
    found = points({**REAL, "queries.count": third})
    assert sum("queries.count" in point for point in found) == 4
    assert all(p["real.placement"] == "after" for p in found if "queries.count" in p)


def test_random_values_are_a_function_of_the_seed_and_lie_within_their_bounds():
    parameters = {
        RATE: {"loguniform": [1e-6, 1e-2]},
        "extractor.training.warmup": {"uniform": [0.1, 0.2]},
        "extractor.training.steps": {"randint": [1, 3]},
        "extractor.training.class_weights": {"choice": ["none", "inverse_sqrt"]},
    }
    found = points(parameters, samples=300)
    assert found == points(parameters, samples=300)
    assert found != points(parameters, seed=1, samples=300)
    rates = [point[RATE] for point in found]
    assert 1e-6 <= min(rates) < 1e-5 < 1e-3 < max(rates) <= 1e-2
    # Uniform in the logarithm: half of them below the middle of the powers.
    assert sum(math.log10(rate) < -4 for rate in rates) / 300 == pytest.approx(0.5, abs=0.1)
    assert {point["extractor.training.steps"] for point in found} == {1, 2, 3}
    assert all(0.1 <= point["extractor.training.warmup"] <= 0.2 for point in found)
    assert len({point["extractor.training.class_weights"] for point in found}) == 2


def test_what_is_drawn_twice_is_tried_once():
    assert len(points({"extractor.training.steps": {"randint": [1, 2]}}, samples=50)) == 2


def test_optuna_is_asked_for_what_applies_and_knows_values_of_every_kind():
    parameters = {
        **REAL,
        RATE: {"loguniform": [1e-6, 1e-2]},
        "extractor.training.steps": {"randint": [1, 3]},
        "extractor.training.betas": {"choice": [[0.9, 0.98], [0.9, 0.999]]},
    }
    ask = space.suggest(swept(parameters, searcher="optuna").sweep)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = [ask(study.ask())["parameters"] for _ in range(60)]
    for point in found:
        assert ("real.placement" in point) == (point["real.fraction"] > 0)
        assert 1e-6 <= point[RATE] <= 1e-2
        assert tuple(point["extractor.training.betas"]) in ((0.9, 0.98), (0.9, 0.999))
    assert {point["extractor.training.steps"] for point in found} == {1, 2, 3}


# --- the spec of each -------------------------------------------------------------------------


def test_a_trial_never_sees_a_test_split_and_the_best_spec_has_it_again():
    spec = swept({RATE: {"grid": [1e-4]}})
    assert list(space.trial_spec(spec, {RATE: 1e-4}).evaluation.sets) == ["dev"]
    best = space.chosen(spec, {RATE: 1e-4})
    assert list(best.evaluation.sets) == ["dev", "final"]
    assert best.extractor.training.learning_rate == 1e-4
    assert not best.sweep.parameters


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("queries.cuont", 5, "queries.cuont is no field; did you mean `count`?"),
        ("queries.count", -5, "queries.count: input should be greater than or equal to 1, not -5"),
        ("real.placement", "only", "real: placement `only` needs a fraction above 0"),
    ],
)
def test_a_trial_that_could_never_run_is_told(field: str, value: Any, sentence: str):
    with pytest.raises(UserError) as caught:
        space.chosen(swept({field: {"grid": [value]}}), {field: value})
    assert str(caught.value) == f"sweep.parameters: {sentence}"


def test_asha_looks_at_the_objective_in_every_training():
    spec = swept(REAL, asha={"every": 7})
    made = space.trial_spec(spec, {"real.fraction": 0.1})
    assert made.extractor.training.selection == config.Selection(on="dev", every=7)
    own = validate(
        config.merge(
            spec.model_dump(mode="json", exclude_unset=True), {"real": {"training": {"steps": 3}}}
        ),
        "spec",
    )
    training = space.trial_spec(own, {}).real.training
    assert training is not None
    assert training.selection == config.Selection(on="dev", every=7)
    assert space.trial_spec(swept(REAL), {}).extractor.training.selection is None
    # The configuration may be the first to say how the real data are trained on.
    training = space.trial_spec(spec, {"real.training.learning_rate": 1e-5}).real.training
    assert training is not None
    assert training.selection == config.Selection(on="dev", every=7)


def test_repetitions_train_with_other_seeds_on_the_same_labels():
    spec = swept(REAL, repeats=2)
    first, second = (space.trial_spec(spec, {"real.fraction": 0.1}, i) for i in range(2))
    assert (first.extractor.training.seed, second.extractor.training.seed) == (0, 1)
    ours, theirs = pipeline.stages(first), pipeline.stages(second)
    assert ours["labels"].fingerprint == theirs["labels"].fingerprint
    assert ours["extractor"].fingerprint != theirs["extractor"].fingerprint
    assert ours["finetuned"].fingerprint != theirs["finetuned"].fingerprint


# --- what they share --------------------------------------------------------------------------


def test_what_no_parameter_changes_is_shared():
    roles = set(space.shared(swept({RATE: {"grid": [1e-4, 1e-3]}, **REAL})))
    assert {"encoders", "corpus", "vocabulary", "queries", "victim", "labels"} <= roles
    assert not roles & {"extractor", "finetuned", "evaluation"}


def test_what_some_parameter_changes_is_not():
    roles = set(space.shared(swept({"queries.count": {"grid": [40, 50]}})))
    assert {"corpus", "vocabulary", "victim"} <= roles
    assert not roles & {"queries", "labels", "extractor"}
