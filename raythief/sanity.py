"""The sanity gate: some real pairs are asked before anything is bought in bulk.

A victim whose labels look permuted (RoBERTa-Large-MNLI says contradiction first, MNLI itself
entailment) would give a whole purchase the wrong meaning; it is refused, naming the permutation.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raythief import asking, labeling, models
from raythief.answers import Answers
from raythief.api import Remote
from raythief.artifacts import WORK, Artifact
from raythief.config import LABELS, Inference, Resources, Victim
from raythief.errors import UserError
from raythief.progress import Tell
from raythief.results import Sanity

PERMUTED_P = 1e-3
"""Probability by chance below which another reading of a victim's labels counts as the right one
(McNemar's exact test on the sample)."""


def build(
    target: Artifact,
    examples: Artifact,
    one: Answers,
    source: models.Source | Remote,
    victim: Victim,
    inference: Inference,
    resources: Resources,
    tell: Tell,
) -> Sanity:
    """Ask the victim some real pairs, and refuse it if its labels look permuted.

    Args:
        target: Artifact that receives the labels.
        examples: Labelled pairs, in English.
        one: What is asked of the victim.
        source: The victim.
        victim: Its section of the spec.
        inference: Batching and number format.
        resources: Actors; one is enough.
        tell: Told the rows that are done.
    """
    asked = sample(examples.read_table("en.parquet"), victim.sanity.count)
    one = dataclasses.replace(one, count=asked.num_rows)
    ids = pa.array(range(asked.num_rows), pa.int64())  # answers are kept by the place in the sample
    rows = asked.select(["id", "premise", "hypothesis"]).set_column(0, "id", ids)
    target.write_table(f"{WORK}/sample.parquet", rows)
    alone = resources.model_copy(
        update={"inference": resources.inference.model_copy(update={"workers": 1})}
    )
    texts = asking.Texts(target, f"{WORK}/sample.parquet")
    found = labeling.build(target, one, texts, source, victim.labels, inference, alone, tell)
    right = check_sane(asked, target.read_table()["label"].to_pylist(), victim)
    return Sanity(**dict(found), count=asked.num_rows, accuracy=right / asked.num_rows)


def sample(examples: pa.Table, count: int) -> pa.Table:
    """About ``count`` labelled pairs, as many of each label, spread over the table."""
    labels = np.array(examples["label"].to_pylist())
    chosen: list[int] = []
    for label in LABELS:
        rows = np.flatnonzero(labels == label)
        picks = np.linspace(0, len(rows) - 1, min(len(rows), -(-count // len(LABELS)))).astype(int)
        chosen += rows[np.unique(picks)].tolist()
    return examples.take(pa.array(sorted(chosen)[:count], pa.int64()))


def permutation(gold: Sequence[str], given: Sequence[str | None]) -> dict[str, str] | None:
    """How a victim's labels must be renamed to fit; None if they fit as they are.

    Of the six readings of its labels the one that is right most often is taken, if it beats the
    plain one beyond chance (McNemar's exact test on the pairs on which the two differ).
    """
    pairs = [(a, b) for a, b in zip(gold, given, strict=True) if b is not None]

    def right(reading: Mapping[str, str]) -> Any:
        return np.array([reading[b] == a for a, b in pairs])

    readings: list[dict[str, str]] = [
        dict(zip(LABELS, names, strict=True)) for names in itertools.permutations(LABELS)
    ]
    plain, *others = (right(reading) for reading in readings)
    best = max(range(len(others)), key=lambda i: int(others[i].sum()))
    better, worse = int((others[best] & ~plain).sum()), int((plain & ~others[best]).sum())
    return readings[best + 1] if _sign_test(better, worse) < PERMUTED_P else None


def check_sane(examples: pa.Table, given: Sequence[str | None], victim: Victim) -> int:
    """Refuse a victim whose labels look permuted.

    Args:
        examples: Real pairs with their gold ``label``.
        given: The victim's labels for them, None where it rejected one.
        victim: Tells which field says what its labels mean.

    Returns:
        How many of the victim's labels are right.

    Raises:
        UserError: another reading of its labels fits far better; it names that reading.
    """
    gold = examples["label"].to_pylist()
    renamed = permutation(gold, given)
    right: int = sum(a == b for a, b in zip(gold, given, strict=True))
    if renamed is not None:
        fits = sum(b is not None and renamed[b] == a for a, b in zip(gold, given, strict=True))
        field = "victim.api.labels" if victim.api else "victim.labels"
        changes = ", ".join(f"`{a}` is `{b}`" for a, b in renamed.items() if a != b)
        raise UserError(
            f"{field}: the victim's labels look permuted: on {len(gold)} real pairs {right} are "
            f"right as they are, and {fits} if what is called {changes}; correct {field}, or set "
            "victim.sanity.count to 0 if it is meant so"
        )
    return right


def _sign_test(better: int, worse: int) -> float:
    """One-sided probability of so many successes among ``better + worse`` fair coins."""
    total = better + worse
    return float(sum(math.comb(total, k) for k in range(better, total + 1)) / 2**total)
