"""What the stages find: one type a stage, for who writes it into a manifest and who reads it there.

    results = Labels(answers=..., label_counts=..., ...)     # what a stage's build returns
    found = read("labels", manifest["results"])              # what a report reads

A name that is not a field is a mistake where results are made, and is passed over where they are
read: manifests of other versions may have other names. A field that was added later therefore has a
default, and none is ever renamed (``tests/unit/test_results.py`` holds them).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainSerializer,
    model_validator,
)

from raythief import chance
from raythief.config import LABELS, Label

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """A part of a stage's results."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True
    )


class Results(Part):
    """All that a stage found, as its manifest keeps it."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.model_dump(mode="json")


class Usage(Part):
    """What a stage used up, whatever its results are."""

    spent: Count | None = None
    """Queries that were billed, by whomever, for the answers that it has."""
    rejected: Count | None = None
    tokens: Count | None = None
    device: str | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    gpus: Annotated[float, Field(ge=0)] | None = None
    """Of each worker."""
    worker_seconds: Annotated[float, Field(ge=0)] | None = None
    """Of all workers together, where they did not work all the while."""
    speed: Speed | None = None
    """Of a training."""


# --- text ---------------------------------------------------------------------------------------


class Corpus(Results):
    """Size of a corpus."""

    sentences: int | None = None
    words: int | None = None


class Vocabulary(Results):
    """Size of a vocabulary, and its head."""

    words: int
    tokens: int | None = None
    """Words of the corpus that are among them."""
    mean_sentence_words: float | None = None
    most_common: tuple[str, ...] = ()


class Queries(Results):
    """How many queries there are."""

    queries: int


class Examples(Results):
    """Labelled pairs, over all languages."""

    pairs: int
    languages: int


class Pretrained(Part):
    """How the pre-training of an encoder of the small world ended."""

    loss: float
    """Nats."""
    masked_accuracy: Share
    seconds: float
    steps: float


class Encoders(Results):
    """The encoders of the small world."""

    english: Pretrained
    multilingual: Pretrained


# --- answers ------------------------------------------------------------------------------------


class Computed(Results):
    """How a model's outputs came about."""

    device: str | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    gpus: Annotated[float, Field(ge=0)] | None = None
    """Of each worker."""
    precision: str | None = None
    """Number format; None of an API."""


class Bought(Computed):
    """Answers of a victim, and what they took so far, whoever asked for them."""

    queries: Count | None = None
    """Answers that the stage has."""
    kept: Count | None = None
    """Of these, those with a label."""
    rejected: Count | None = None
    """The others: the victim refused them or answered with nonsense."""
    spent: Count | None = None
    """Queries taken from the budget and not given back; each attempt, where these are billed. None
    of what was not bought."""
    lost: int | None = None
    """Of those, how many a crash left without an answer that was kept, at most."""
    attempts: Count | None = None
    """Requests sent, as far as their outcome was kept."""
    retries: Count | None = None
    """Of those, how many repeated an earlier one."""


class Labels(Bought):
    """What the victim said about the gibberish."""

    answers: str | None = None
    """Where its answers are kept; None in manifests of before November 2026."""
    label_counts: dict[Label, Count]
    tokens: Count | None = None
    """Padding not counted; None of an API."""
    padding_share: Share | None = None
    halved_batches: Count | None = None
    """How often a batch had to shrink for want of memory."""
    encoding: str | None = None
    """How texts became tokens."""

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


class Sanity(Labels):
    """What a victim said about some real pairs."""

    count: int
    """Pairs."""
    accuracy: Share


def pack_bits(bits: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> str:
    """Their number, a colon, and eight to a byte in base64."""
    return f"{len(bits)}:{base64.b64encode(np.packbits(bits.astype(bool)).tobytes()).decode()}"


def _bits(text: Any) -> Any:
    """What ``pack_bits`` wrote, as an array of 0 and 1, shape [items]."""
    if not isinstance(text, str):
        return text
    count, _, packed = text.partition(":")
    found = np.unpackbits(np.frombuffer(base64.b64decode(packed, validate=True), np.uint8))
    if not count.isdecimal() or not 0 <= len(found) - int(count) < 8:
        raise ValueError("the items that were right are not as many as it says")
    return found[: int(count)].astype(np.int8)


def _packed(bits: Any) -> Any:
    return None if bits is None else pack_bits(bits)


def _three_by_three(rows: Any) -> Any:
    sizes = [len(row) if isinstance(row, list | tuple) else 0 for row in rows or []]
    if sizes != [len(LABELS)] * len(LABELS):
        raise ValueError("the confusion matrix is not 3 by 3")
    return rows


class Score(Part):
    """One model on one evaluation set in one language."""

    count: int = Field(ge=1)
    accuracy: Share
    low: Share | None = None
    """Of its 95 % Wilson interval."""
    high: Share | None = None
    majority_rate: Share | None = None
    """Share of the most frequent prediction."""
    recall: dict[Label, Share | None] = {}
    """By class; None for a class without items."""
    agreement: Share | None = None
    """Share of items on which it says what the victim says; None without a victim to ask."""
    right: Annotated[Any, BeforeValidator(_bits), PlainSerializer(_packed, when_used="json")] = None
    """1 for each item that was right and 0 for the others, by id: int8, shape [items]."""
    confusion: Annotated[tuple[tuple[int, ...], ...], BeforeValidator(_three_by_three)] | None = (
        None
    )
    """Gold by predicted, in the order of ``LABELS``."""

    @property
    def chance(self) -> float:
        """Accuracy of the best guess on these items, whose gold labels the confusions tell; one in
        three where there are none."""
        return chance.accuracy([sum(line) for line in self.confusion or ((0,),) * len(LABELS)])


class Evaluation(Bought):
    """Scores by evaluation set and language."""

    sets: dict[str, dict[str, Score]]
    answers: tuple[str, ...] | None = None
    """Where the answers of an API are kept."""


# --- training -----------------------------------------------------------------------------------


class Point(Part):
    """One point of a training curve."""

    step: int
    loss: float | None = None
    """Mean over the steps since the point before, in nats."""
    learning_rate: float | None = None


class Look(Part):
    """How good the weights of a step were by what weights are selected on."""

    step: int
    score: Share
    english: Share | None = None
    """Where it is told apart from the other languages."""
    elsewhere: Share | None = None


class Selected(Look):
    """Which weights of a training were kept."""

    metric: str
    looks: tuple[Look, ...] = ()


class Speed(Part):
    """How fast a training was."""

    workers: Annotated[int, Field(ge=1)] | None = None
    mean_workers: Annotated[float, Field(ge=1)] | None = None
    """Over its time, as an elastic training may lose some and get others."""
    tokens: int | None = None
    """Padding not counted."""
    tokens_per_second: float | None = None
    padding_share: float | None = None
    flops_per_token: float | None = None
    matrix_flops_per_second: float | None = None
    """What a product of matrices reached on a worker's device."""
    utilisation: float | None = None
    """Share of that which the training reached."""
    tokens_per_micro_batch: int | None = None
    """Padded tokens that a worker held at once."""
    peak_memory_bytes: int | None = None
    """Of a GPU."""


class Continues(Part):
    """A shorter training that another went on from."""

    path: str
    steps: int | None = None
    seconds: Annotated[float, Field(ge=0)]
    """That it took, with those before it."""


class Training(Results):
    """How a fine-tuning went."""

    examples: int | None = None
    steps: int | None = None
    final_loss: float | None = None
    """Of the last point of its curve."""
    loss_of_a_guess: float | None = None
    """Nats of always answering with the share that each label has; None of soft labels."""
    history: tuple[Point, ...] = ()
    label_counts: dict[Label, Count] = {}
    majority_rate: Share | None = None
    """Share of the commonest answer in its last steps."""
    collapse: tuple[str, ...] = ()
    """Signs of a collapse, in words."""
    ended: str = ""
    """Why it ended before its last step."""
    selection: Selected | None = None
    """None where the last weights were kept."""
    continues: Continues | None = None
    """None where it began at its first step."""
    notes: tuple[str, ...] = ()
    """What a reader must know of it, in words."""
    precision: str | None = None
    """Number format."""
    device: str | None = None
    gpus: Annotated[float, Field(ge=0)] | None = None
    """Of each worker."""
    speed: Speed = Speed()

    def warnings(self, title: str) -> list[str]:
        """What to say of a training of that title at once."""
        collapsed = [f"{title} has collapsed: {sign}" for sign in self.collapse]
        return collapsed + [f"{title}: {note}" for note in self.notes]


# --- the baseline -------------------------------------------------------------------------------


class Table(Part):
    """Word vectors of a language."""

    words: int
    size: int


class WordVectors(Results):
    """Word vectors of each language."""

    languages: dict[str, Table]


class Parallel(Results):
    """Pairs of sentences by language."""

    sentences: dict[str, int]


class Found(Part):
    """How well held-out sentences are told apart."""

    found: Share
    """Share that is nearest to its own translation."""


class Alignment(Part):
    """How the alignment of a language went."""

    sentences: int
    steps: int
    loss: float
    before: Found
    after: Found
    device: str | None = None
    seconds: float = 0.0


class Aligned(Results):
    """How the alignments of all languages went."""

    languages: dict[str, Alignment]
    device: str | None = None
    gpus: Annotated[float, Field(ge=0)] | None = None
    """Of each process."""
    worker_seconds: Annotated[float, Field(ge=0)] | None = None
    """Of all processes together."""


# --- Figure 2 -----------------------------------------------------------------------------------


class Vectors(Computed):
    """Vectors of pairs."""

    pairs: int
    tokens: int | None = None


class Sample(Part):
    """Distances of one kind of pairs to the nearest training pair."""

    count: int = Field(ge=1)
    mean: FiniteFloat
    sd: FiniteFloat | None = None
    counts: tuple[Count, ...]
    """By bin."""


class Distances(Computed):
    """How far real pairs and gibberish are from real training pairs."""

    train: int
    """Pairs that were searched."""
    distance: str = "inner_product"
    edges: tuple[FiniteFloat, ...]
    """Of the bins, which both histograms share."""
    real: Sample
    gibberish: Sample
    overlap: Share
    overlap_of_equals: Share | None = None
    """What the overlap of two samples of one distribution would be."""
    ks: Share
    """Kolmogorov and Smirnov's statistic."""
    p: Share

    @model_validator(mode="after")
    def _histograms_fit_the_edges(self) -> Distances:
        if {len(self.real.counts), len(self.gibberish.counts)} != {len(self.edges) - 1}:
            raise ValueError("the histograms do not fit the edges")
        return self


class Encoded(Results):
    """Pairs as tokens, which trainings share."""

    pairs: int
    tokens: int


RESULTS: dict[str, type[Results]] = {
    "encoders": Encoders,
    "examples": Examples,
    "corpus": Corpus,
    "vocabulary": Vocabulary,
    "queries": Queries,
    "sanity": Sanity,
    "labels": Labels,
    "encoded": Encoded,
    "victim": Training,
    "extractor": Training,
    "finetuned": Training,
    "bilstm": WordVectors,
    "parallel": Parallel,
    "aligned": Aligned,
    "vectors": Vectors,
    "figure2": Distances,
    "victim_evaluation": Evaluation,
    "evaluation": Evaluation,
}
"""By stage."""


def read(stage: str, found: Mapping[str, Any]) -> Results | None:
    """Results of a stage, from its manifest; None of a stage that is not known.

    Raises:
        pydantic.ValidationError: they are damaged.
    """
    kind = RESULTS.get(stage)
    return None if kind is None else kind.model_validate(found, extra="ignore")


def usage(found: Mapping[str, Any]) -> Usage:
    """What a stage used up, from its manifest.

    Raises:
        pydantic.ValidationError: it is damaged.
    """
    return Usage.model_validate(found, extra="ignore")
