"""The whole spec."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from raythief.config.base import NAME_PATTERN, Section, each_once
from raythief.config.operation import Costs, Resources, Serve, Tracking
from raythief.config.search import Sweep
from raythief.config.sources import Corpus, HubCorpus, QueriesPairs
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
    """Folder, or any address that pyarrow knows (`s3://bucket/path`, `gs://...`). Of S3, keys and
    endpoint are those of the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...) on every node;
    `?endpoint_override=http://host:port` and `?region=` in the address go before."""
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
    """Rows of a table: a name, and the fields in which it differs (`real.fraction: 0.05`). A row
    that says `optional: true` is left out, aloud, while a file of your own that it names is not
    there."""

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
                elif HELD_OUT in self.evaluation.sets:
                    raise ValueError(
                        f"{where}.selection.on is `{HELD_OUT}`, queries held out of that training, "
                        "and one of evaluation.sets has this name too; give the set another"
                    )
        return self

    @model_validator(mode="after")
    def _trackers_hear_of_workers_alone(self) -> Spec:
        for name in ("mlflow", "wandb"):
            if getattr(self.tracking, name) is not None and not self.resources.training.workers:
                raise ValueError(
                    f"tracking.{name} is told by workers alone, and resources.training.workers is "
                    f"0; raise it to 1, or leave tracking.{name} out"
                )
        return self

    @model_validator(mode="after")
    def _rows_without_queries_are_measured_too(self) -> Spec:
        if self.real.placement == "only" and len(self.queries_sets) == len(self.evaluation.sets):
            raise ValueError(
                "evaluation.sets are all of source `queries`, which a row with real.placement "
                "`only` does not have; add a set of real data"
            )
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
    def _no_extractor_learns_from_what_is_held_back(self) -> Spec:
        held, bought, first = self.held_back, self.queries.count, self.extractor.queries
        name = max(self.queries_sets, key=self.queries_sets.__getitem__, default="")
        if held >= bought:
            raise ValueError(
                f"evaluation.sets.{name}.count holds back {held:,} of the {bought:,} of "
                "queries.count, which leaves none to learn from; lower it, or raise queries.count"
            )
        if held and first is not None and first > bought - held:
            raise ValueError(
                f"extractor.queries is {first:,}, which reaches into the last {held:,} of "
                f"{bought:,} queries, which evaluation.sets.{name} holds back; take at most "
                f"{bought - held:,}, or lower that set's count"
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
        if name in self.queries_sets:
            raise ValueError(f"figure2.real names `{name}`, gibberish; name a set of real data")
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
        if name not in self.queries_sets:
            return
        if field.startswith("victim."):
            raise ValueError(
                f"{field} names `{name}`, whose labels are its answers; name another set"
            )
        if self.real.placement == "only" and not field.startswith("real."):  # which it leaves out
            raise ValueError(
                f"{field} names `{name}`, which a row with real.placement `only`, without queries, "
                "does not have; name another set"
            )

    @property
    def queries_sets(self) -> dict[str, int]:
        """Sizes, by name, of the evaluation sets that consist of bought queries."""
        sets = self.evaluation.sets.items()
        return {name: pairs.count for name, pairs in sets if isinstance(pairs, QueriesPairs)}

    @property
    def held_back(self) -> int:
        """The last so many queries, which sets consist of and no extractor learns from."""
        return max(self.queries_sets.values(), default=0)

    @property
    def learned_queries(self) -> int:
        """The first so many queries, which an extractor learns from."""
        return self.extractor.queries or self.queries.count - self.held_back

    @property
    def root(self) -> Path:
        """Folder from which relative paths of data start."""
        return Path(self.data_root or os.environ.get(DATA_ROOT_VARIABLE) or ".")
