"""The whole spec."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from raythief.config.base import NAME_PATTERN, Section, each_once
from raythief.config.operation import Costs, Resources, Serve, Tracking
from raythief.config.search import Sweep
from raythief.config.sources import Corpus, HubCorpus
from raythief.config.stages import (
    HELD_OUT,
    Evaluation,
    Extractor,
    Figure2,
    Inference,
    Miniature,
    Queries,
    Real,
    Victim,
    Vocabulary,
)
from raythief.config.wording import nearest

DATA_ROOT_VARIABLE = "RAYTHIEF_DATA"

Seed = Annotated[int, Field(ge=0)]


class Spec(Section):
    """One experiment."""

    name: str = Field(pattern=NAME_PATTERN, max_length=64)
    """Name of the experiment: where its report lies. Letters, digits, `.`, `_` and `-`."""
    title: str | None = None
    """Headline of the report."""
    storage: str = "artifacts"
    """Folder, or any address that pyarrow knows (`s3://bucket/path`, `gs://...`)."""
    data_root: str | None = None
    """Folder from which relative paths of data and models start; null takes the environment
    variable RAYTHIEF_DATA, else the current folder."""
    seed: int = Field(0, ge=0)
    """Seed of everything that does not set its own."""
    seeds: Annotated[tuple[Seed, ...] | None, AfterValidator(each_once)] = None
    """Repeat the whole experiment with each of these seeds; the report shows mean and spread."""
    paper: Literal["table1", "table2", "vocabulary"] | None = None
    """Which of the paper's results stand beside ours; variants are matched by their names."""
    corpus: Corpus = HubCorpus()
    """Text whose words make the queries."""
    vocabulary: Vocabulary = Vocabulary()
    """What is drawn from the corpus."""
    queries: Queries = Queries()
    """The gibberish."""
    victim: Victim = Victim()
    """The model behind the API."""
    real: Real = Real()
    """Real labelled data."""
    extractor: Extractor = Extractor()
    """The thief's model."""
    evaluation: Evaluation = Evaluation()
    """What it is measured on."""
    figure2: Figure2 | None = None
    """If given, the paper's Figure 2: how far the queries are from real data."""
    until: str | None = None
    """Last stage of the experiment (`figure2`, `labels`), with all that it is made from; null takes
    all stages."""
    inference: Inference = Inference()
    """Batching of labelling and evaluation."""
    miniature: Miniature = Miniature()
    """The small world."""
    resources: Resources = Resources()
    """What it runs on."""
    tracking: Tracking = Tracking()
    """Who is told of trainings."""
    serve: Serve = Serve()
    """The server of `raythief serve`."""
    costs: Costs = Costs()
    """Prices and speeds for the plan."""
    sweep: Sweep = Sweep()
    """The search of `raythief sweep`."""
    variants: dict[str, dict[str, Any]] = {}
    """Rows of a table: a name, and the fields in which it differs (`real.fraction: 0.05`)."""

    @model_validator(mode="after")
    def _selection_leaves_the_test_alone(self) -> Spec:
        if self.sweep.parameters:
            self._check_selection("sweep.objective", self.sweep.objective)
        trainings = {
            "victim.training": self.victim.training,
            "extractor.training": self.extractor.training,
            "real.training": self.real.training,
        }
        for where, training in trainings.items():
            if training is not None and training.selection is not None:
                on = training.selection.on
                if on != HELD_OUT:
                    self._check_selection(f"{where}.selection.on", on)
        return self

    @model_validator(mode="after")
    def _so_many_queries_are_bought(self) -> Spec:
        if (self.extractor.queries or 0) > self.queries.count:
            raise ValueError(
                f"extractor.queries is {self.extractor.queries:,}, more than the "
                f"{self.queries.count:,} of queries.count"
            )
        return self

    @model_validator(mode="after")
    def _soft_labels_are_bought(self) -> Spec:
        if self.extractor.training.soft_labels is not None and not self.victim.scores:
            raise ValueError(
                "extractor.training.soft_labels need probabilities; set victim.scores to true"
            )
        return self

    @model_validator(mode="after")
    def _figure2_has_its_pairs(self) -> Spec:
        if self.figure2 is None:
            return self
        name, count = self.figure2.real, self.figure2.count
        chosen = self.evaluation.sets.get(name)
        if chosen is None:
            raise ValueError(
                f"figure2.real names `{name}`, which evaluation.sets lacks"
                + nearest(name, self.evaluation.sets)
            )
        if "en" not in chosen.languages:
            raise ValueError(f"figure2.real names `{name}`, which has no English; name another")
        if count > self.queries.count:
            raise ValueError(
                f"figure2.count asks for {count:,} queries, and there are {self.queries.count:,}; "
                "lower it, or raise queries.count"
            )
        return self

    def _check_selection(self, field: str, rule: str) -> None:
        name, _, language = rule.partition("/")
        chosen = self.evaluation.sets.get(name)
        if chosen is None:
            raise ValueError(
                f"{field} names `{name}`, which evaluation.sets lacks"
                + nearest(name, self.evaluation.sets)
            )
        if chosen.split == "test":
            raise ValueError(f"{field} names `{name}`, a test split: select on validation data")
        if language and language not in chosen.languages:
            raise ValueError(
                f"{field} names `{rule}`, but evaluation.sets.{name} has no `{language}`"
            )

    @property
    def root(self) -> Path:
        """Folder from which relative paths of data start."""
        return Path(self.data_root or os.environ.get(DATA_ROOT_VARIABLE) or ".")
