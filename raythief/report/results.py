"""What manifests tell of each kind of stage, as far as the report shows it."""

from __future__ import annotations

import base64
import math
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from raythief import chance
from raythief.config import LABELS, Label

Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A part of a JSON file: what we do not know in it is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Corpus(Part):
    """Size of a corpus."""

    sentences: int | None = None
    words: int | None = None


class Vocabulary(Part):
    """Size of a vocabulary, and its head."""

    words: int
    tokens: int | None = None
    mean_sentence_words: float | None = None
    most_common: tuple[str, ...] = ()


class Speed(Part):
    """How fast a training was."""

    workers: Annotated[int, Field(ge=1)] | None = None
    mean_workers: Annotated[float, Field(ge=1)] | None = None
    """Over its time, as an elastic training may lose some and get others."""
    tokens_per_second: float | None = None
    utilisation: float | None = None


class Usage(Part):
    """What a stage used up, whatever its results are."""

    spent: Annotated[int, Field(ge=0)] | None = None
    """Queries that were billed."""
    rejected: int | None = None
    tokens: int | None = None
    device: str | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    gpus: Annotated[float, Field(ge=0)] | None = None
    """Of each worker."""
    worker_seconds: Annotated[float, Field(ge=0)] | None = None
    """Of all workers together, where they did not work all the while."""
    speed: Speed | None = None
    """Of a training."""


class Labels(Part):
    """What the victim said about the gibberish."""

    label_counts: dict[Label, Annotated[int, Field(ge=0)]]

    def share(self, label: Label) -> float:
        """Share of the queries that got this label."""
        return self.label_counts.get(label, 0) / self.answered if self.answered else 0.0

    @property
    def answered(self) -> int:
        """Queries that got a label."""
        return sum(self.label_counts.values())

    @property
    def bits(self) -> float:
        """Entropy of the labels: what one of them tells at most, of log2 3 = 1.58 bits."""
        shares = [self.share(label) for label in LABELS]
        return sum(-share * math.log2(share) for share in shares if share)


class Point(Part):
    """One point of a training curve."""

    step: int
    loss: float | None = None
    learning_rate: float | None = None


class Selected(Part):
    """Which weights of a training were kept."""

    metric: str
    step: int
    score: Share


class Continues(Part):
    """A shorter training that another went on from."""

    path: str
    seconds: Annotated[float, Field(ge=0)]
    """That it took, with those before it."""


class Training(Part):
    """How a fine-tuning went."""

    examples: int | None = None
    steps: int | None = None
    final_loss: float | None = None
    loss_of_a_guess: float | None = None
    history: tuple[Point, ...] = ()
    device: str | None = None
    collapse: tuple[str, ...] = ()
    """Signs of a collapse, in words."""
    ended: str = ""
    """Why it ended before its last step."""
    selection: Selected | None = None
    """None where the last weights were kept."""
    continues: Continues | None = None
    """None where it began at its first step."""
    speed: Speed = Speed()


def _bits(text: Any) -> Any:
    """What ``evaluation.pack_bits`` wrote, as an array of 0 and 1, shape [items]."""
    if not isinstance(text, str):
        return text
    count, _, packed = text.partition(":")
    found = np.unpackbits(np.frombuffer(base64.b64decode(packed, validate=True), np.uint8))
    if not count.isdecimal() or not 0 <= len(found) - int(count) < 8:
        raise ValueError("the items that were right are not as many as it says")
    return found[: int(count)].astype(np.int8)


def _three_by_three(rows: Any) -> Any:
    sizes = [len(row) if isinstance(row, list) else 0 for row in rows or []]
    if sizes != [len(LABELS)] * len(LABELS):
        raise ValueError("the confusion matrix is not 3 by 3")
    return rows


class Score(Part):
    """One model on one evaluation set in one language."""

    count: int = Field(ge=1)
    accuracy: Share
    low: Share | None = None
    high: Share | None = None
    majority_rate: Share | None = None
    recall: dict[Label, Share | None] = {}
    agreement: Share | None = None
    right: Annotated[Any, BeforeValidator(_bits)] = None
    """1 for each item that was right and 0 for the others, by id: int8, shape [items]."""
    confusion: Annotated[tuple[tuple[int, ...], ...], BeforeValidator(_three_by_three)] | None = (
        None
    )

    @property
    def chance(self) -> float:
        """Accuracy of the best guess on these items, whose gold labels the confusions tell; one in
        three where there are none."""
        return chance.accuracy([sum(line) for line in self.confusion or ((0,),) * len(LABELS)])


class Evaluation(Part):
    """Scores by evaluation set and language."""

    sets: dict[str, dict[str, Score]]
    device: str | None = None


class Sample(Part):
    """Distances of one kind of pairs to the nearest training pair."""

    count: int = Field(ge=1)
    mean: FiniteFloat
    sd: FiniteFloat | None = None
    counts: tuple[Annotated[int, Field(ge=0)], ...]
    """By bin."""


class Distances(Part):
    """How far real pairs and gibberish are from real training pairs."""

    train: int
    distance: str = "inner_product"
    edges: tuple[FiniteFloat, ...]
    """Of the bins, which both histograms share."""
    real: Sample
    gibberish: Sample
    overlap: Share
    overlap_of_equals: Share | None = None
    ks: Share
    p: Share

    @model_validator(mode="after")
    def _histograms_fit_the_edges(self) -> Distances:
        if {len(self.real.counts), len(self.gibberish.counts)} != {len(self.edges) - 1}:
            raise ValueError("the histograms do not fit the edges")
        return self


Results = Corpus | Vocabulary | Labels | Training | Evaluation | Distances

RESULTS: dict[str, type[Results]] = {
    "corpus": Corpus,
    "vocabulary": Vocabulary,
    "figure2": Distances,
    "labels": Labels,
    "victim": Training,
    "extractor": Training,
    "finetuned": Training,
    "victim_evaluation": Evaluation,
    "evaluation": Evaluation,
}
"""Of the stages that have any which are shown."""
