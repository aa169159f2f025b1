"""Which configurations a sweep tries, and what the spec of each is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from raythief import pipeline
from raythief.config import Choice, Spec, Sweep, merge, nest, validate
from raythief.stages import Stage

if TYPE_CHECKING:
    import optuna

Point = dict[str, Any]
"""Values of the parameters that apply, by field."""
STEPS = "extractor.training.steps"
DIGITS = 4
"""Significant digits of a random number: more cannot be told apart, nor read."""


def points(sweep: Sweep, seed: int) -> list[Point]:
    """All configurations of the `random` searcher, in the order in which they are tried.

    A function of the sweep and the seed. Where a condition leaves several the same, one is tried.
    Those of fewer steps come first: a longer training may go on from a shorter one.
    """
    rng = np.random.default_rng(seed)
    found: list[Point] = []
    for _ in range(sweep.samples):
        branches: list[Point] = [{}]
        for field, choice in sweep.parameters.items():
            branches = [new for old in branches for new in _extended(old, field, choice, rng)]
        found += [point for point in branches if point not in found]
    return sorted(found, key=lambda point: point.get(STEPS, 0))


def suggest(sweep: Sweep) -> Callable[[optuna.Trial], dict[str, Any]]:
    """The search space as Optuna asks for it, one parameter after the other."""

    def ask(trial: optuna.Trial) -> dict[str, Any]:
        point: Point = {}
        for field, choice in sweep.parameters.items():
            if choice.applies(point):
                point[field] = _suggested(trial, field, choice)
        return {"parameters": point}

    return ask


def chosen(spec: Spec, point: Mapping[str, Any]) -> Spec:
    """The spec of a configuration, which ``raythief run`` takes.

    Raises:
        UserError: a parameter is no field of the spec, or its value does not fit.
    """
    tree = spec.model_dump(mode="json", exclude={"variants", "paper"}, exclude_unset=True)
    tree = merge(tree, nest(point))
    asha = spec.sweep.asha
    if asha is not None:
        look = {"on": spec.sweep.objective, "every": asha.every}
        tree = merge(tree, nest({"extractor.training.selection": look}))
        if validate(tree, "sweep.parameters").real.training is not None:  # of the point, maybe
            tree = merge(tree, nest({"real.training.selection": look}))
    validate(tree, "sweep.parameters")  # with the sweep: some points cannot be judged by it
    return validate({name: value for name, value in tree.items() if name != "sweep"}, "")


def trial_spec(spec: Spec, point: Mapping[str, Any], repeat: int = 0) -> Spec:
    """What a trial runs: the configuration without any test split, and with a seed of its own."""
    found = chosen(spec, point)
    sets = {name: pairs for name, pairs in found.evaluation.sets.items() if pairs.split != "test"}
    changes: dict[str, Any] = {"evaluation": found.evaluation.model_copy(update={"sets": sets})}
    if spec.sweep.repeats > 1:
        changes["extractor"] = _reseeded(found.extractor, found.seed, repeat)
        if found.real.training is not None:
            changes["real"] = _reseeded(found.real, found.seed, repeat)
    return found.model_copy(update=changes)


def shared(spec: Spec) -> dict[str, Stage]:
    """Stages that all trials have in common, by role: no value of any parameter changes them."""
    made = pipeline.stages(trial_spec(spec, {}))
    for field, choice in spec.sweep.parameters.items():
        for value in (choice.values[0], choice.values[-1]):
            stages = pipeline.stages(trial_spec(spec, {field: value}))
            prints = {stage.fingerprint for stage in stages.values()}
            made = {role: stage for role, stage in made.items() if stage.fingerprint in prints}
    trained = {"extractor", "finetuned", "aligned", "evaluation"}
    return {role: stage for role, stage in made.items() if role not in trained}


def title(point: Mapping[str, Any]) -> str:
    """A configuration in a few words: `learning_rate 1e-05, fraction 0.01`."""
    parts = (f"{field.rpartition('.')[2]} {shown(value)}" for field, value in point.items())
    return ", ".join(parts)


def shown(value: Any) -> str:
    """A parameter's value as people read it."""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def _extended(
    point: Point, field: str, choice: Choice, rng: np.random.Generator
) -> Iterator[Point]:
    if not choice.applies(point):
        yield point
        return
    for value in choice.grid or (_drawn(choice, rng),):
        yield {**point, field: value}


def _drawn(choice: Choice, rng: np.random.Generator) -> Any:
    if choice.choice is not None:
        return choice.choice[int(rng.integers(len(choice.choice)))]
    low, high = choice.values
    if choice.kind == "randint":
        return int(rng.integers(low, high + 1))
    if choice.kind == "uniform":
        return _rounded(rng.uniform(low, high))
    return _rounded(math.exp(rng.uniform(math.log(low), math.log(high))))


def _suggested(trial: optuna.Trial, field: str, choice: Choice) -> Any:
    values = choice.values
    if choice.kind == "randint":
        return trial.suggest_int(field, *values)
    if choice.kind in ("uniform", "loguniform"):
        return _rounded(trial.suggest_float(field, *values, log=choice.kind == "loguniform"))
    # By place, because Optuna knows no lists nor mappings.
    return values[trial.suggest_categorical(field, list(range(len(values))))]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _reseeded(section: Any, seed: int, repeat: int) -> Any:
    """A section whose training has the seed of a repetition."""
    first = seed if section.training.seed is None else section.training.seed
    training = section.training.model_copy(update={"seed": first + repeat})
    return section.model_copy(update={"training": training})
