"""The search of ``raythief sweep``: which values are tried, and by what they are judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from raythief.config.base import Section


class Above(Section):
    """Values above a bound."""

    above: float
    """The bound itself is left out."""


class Choice(Section):
    """One dimension of a sweep: exactly one kind of values, and when it is one at all."""

    grid: tuple[Any, ...] | None = None
    """Every one of these values; the `optuna` searcher takes one of them."""
    choice: tuple[Any, ...] | None = None
    """One of these values, at random."""
    uniform: tuple[float, float] | None = None
    """A number between two bounds."""
    loguniform: tuple[float, float] | None = None
    """A number between two bounds, uniform in its logarithm."""
    randint: tuple[int, int] | None = None
    """A whole number between two bounds, both included."""
    when: dict[str, Above | tuple[Any, ...]] = {}
    """Only where other parameters, named before this one, have one of these values, or one
    `{above: BOUND}` (`real.placement` where `real.fraction` is above 0); elsewhere the field stays
    as the spec has it."""

    @property
    def kind(self) -> str:
        """Which of the kinds it is."""
        return next(name for name in KINDS if getattr(self, name) is not None)

    @property
    def values(self) -> tuple[Any, ...]:
        """The values, or the two bounds."""
        found: tuple[Any, ...] = getattr(self, self.kind)
        return found

    def applies(self, point: Mapping[str, Any]) -> bool:
        """Whether it is a dimension where others have the values of ``point``."""
        for field, wanted in self.when.items():
            if field not in point:
                return False
            value = point[field]
            if not (value > wanted.above if isinstance(wanted, Above) else value in wanted):
                return False
        return True

    @model_validator(mode="after")
    def _exactly_one(self) -> Choice:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS[:-1])} and {KINDS[-1]}")
        kind, values = given[0], self.values
        if not values:
            raise ValueError(f"{kind} is empty")
        if kind in BOUNDED and not values[0] < values[1]:
            raise ValueError(f"{kind} needs its lower bound first")
        if kind == "loguniform" and values[0] <= 0:
            raise ValueError("loguniform needs bounds above 0")
        return self


KINDS = ("grid", "choice", "uniform", "loguniform", "randint")
BOUNDED = ("uniform", "loguniform", "randint")


class Asha(Section):
    """Early stopping of trials by asynchronous successive halving (Li et al. 2020).

    A training is ranked among its like alone: those that learn from the same kind of data
    (gibberish, gibberish with real data mixed in, real data after gibberish) in as many steps. All
    trainings of a trial keep their best weights by the objective (`selection`). There is
    no population-based training, whose winners have no configuration of their own: the package
    `raythief.sweep` says why.
    """

    every: int = Field(500, ge=1)
    """Optimiser steps between two looks at the objective."""
    grace: int = Field(1, ge=1)
    """Looks at a training, each `every` steps, before its trial can be stopped."""
    reduction: int = Field(3, ge=2)
    """Of the trainings that reach `grace` looks, and again `reduction` times as many, one in so
    many goes on."""


class Sweep(Section):
    """A search over any fields of the spec, through Ray Tune."""

    parameters: dict[str, Choice] = {}
    """Field path (`extractor.training.learning_rate`) and where its values come from."""
    samples: int = Field(1, ge=1)
    """Draws of the random dimensions; a grid is gone through once for each. Of the `optuna`
    searcher all configurations."""
    repeats: int = Field(1, ge=1)
    """Trainings of each configuration, with seeds of their own on the same labels. Their mean
    counts, never the best of them."""
    objective: str = "xnli"
    """What is maximised: mean accuracy over the languages of this one of `evaluation.sets`, or with
    `SET/LANGUAGE` that of one language; never a test split. The set of held-out queries (`source:
    queries`) is what a thief without real data has."""
    searcher: Literal["random", "optuna"] = "random"
    """`random` draws all trials beforehand, which of grids alone is a grid search; `optuna` learns
    from the trials so far (TPE) and needs `raythief[optuna]`."""
    cost: bool = False
    """Have the `optuna` searcher minimise the price of queries and GPU hours too (`costs`), in
    search of all trials that no other beats in both."""
    asha: Asha | None = None
    """If given, trials that do worse than others are stopped early; null runs all to their end."""
    concurrent: int | None = Field(None, ge=1)
    """Most trials at once; null takes as many as the cluster holds."""

    @model_validator(mode="after")
    def _conditions_name_earlier_parameters(self) -> Sweep:
        seen: list[str] = []
        for field, choice in self.parameters.items():
            for other in choice.when:
                if other not in seen:
                    raise ValueError(
                        f"parameters.{field}.when names `{other}`, which is no parameter before it"
                    )
            seen.append(field)
        return self

    @model_validator(mode="after")
    def _searcher_can(self) -> Sweep:
        if self.cost and self.searcher != "optuna":
            raise ValueError("cost needs a searcher that knows two goals; set searcher to optuna")
        if self.cost and self.asha:
            raise ValueError(
                "cost and asha exclude each other: no trial is worse in both goals "
                "before its end; leave out one of them"
            )
        if self.repeats > 1 and self.asha:
            raise ValueError(
                "repeats and asha exclude each other: a mean over trials of which some "
                "were stopped means nothing; leave out one of them"
            )
        return self
