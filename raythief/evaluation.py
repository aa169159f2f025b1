"""Accuracy and agreement per language, with intervals; every prediction is kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raythief import asking, models, results, sharding
from raythief.answers import Answers
from raythief.api import Remote
from raythief.artifacts import Artifact
from raythief.config import LABELS, Inference, Label, Language, Resources
from raythief.errors import UserError
from raythief.progress import Tell
from raythief.results import Score

Z_95 = 1.959963984540054
"""Quantile of the normal distribution for a two-sided 95 % interval."""


class Evaluation(asking.Asking):
    """An actor with the model under test in it."""


def build(
    target: Artifact,
    sets: Mapping[str, tuple[Artifact, tuple[Language, ...]]],
    wanted: Mapping[str, Answers],
    source: models.Source | Remote,
    labels: tuple[Label, ...] | None,
    reference: Artifact | None,
    inference: Inference,
    resources: Resources,
    tell: Tell,
) -> results.Evaluation:
    """Evaluate a model on labelled sets.

    Args:
        target: Artifact that receives the predictions, ``SET/LANGUAGE/*.parquet``.
        sets: Examples and languages by the set's name.
        wanted: What is asked of the model by ``SET/LANGUAGE``; the number of texts may be unknown.
        source: The model.
        labels: Names of its outputs where its config does not tell.
        reference: The victim's evaluation, for the agreement on the sets that it holds.
        inference: Batching and number format.
        resources: Actors.
        tell: Told the rows that are done.

    Raises:
        UserError: the victim rejected all items of a language.
    """
    gold = {
        f"{name}/{language}": examples.read_table(f"{language}.parquet", ["id", "label"])
        for name, (examples, languages) in sets.items()
        for language in languages
    }
    asked = [
        (
            dataclasses.replace(wanted[place], count=table.num_rows),
            asking.Texts(sets[name][0], f"{language}.parquet", language),
        )
        for place, table in gold.items()
        for name, _, language in [place.partition("/")]
    ]
    remote = isinstance(source, Remote)
    given = asking.ask(
        target.storage, asked, source, labels, inference, resources, tell,
        buys=remote, worker=Evaluation,
    )  # fmt: skip
    for (place, table), one in zip(gold.items(), given, strict=True):
        predicted = table.append_column("predicted", one.table["label"])
        plain = predicted.replace_schema_metadata(None)
        sharding.write(target, plain, inference.rows_per_shard, place)
    manifest = reference.manifest() if reference is not None else None
    judged = results.read("victim_evaluation", manifest["results"]) if manifest else None
    found: dict[str, dict[str, Score]] = {}
    for name, (_, languages) in sets.items():
        # The victim reads English; without it there is nothing to agree with. Nor is it asked again
        # what it answered about queries that are held back: accuracy on them is the agreement.
        judge = None
        if isinstance(judged, results.Evaluation) and name in judged.sets and "en" in languages:
            assert reference is not None
            judge = reference.read_table(f"{name}/en")
        found[name] = {
            language: _measured(target, f"{name}/{language}", judge) for language in languages
        }
    computed = asking.computed([part for one in given for part in one.statistics])
    bought: dict[str, Any] = {}
    if remote:
        asking.write_rejected(target, given)
        paths = tuple(one.path for one, _ in asked)
        bought = {"answers": paths, **asking.tally(given)}
    count = sum(len(one.statistics) for one in given)
    return results.Evaluation(
        sets=found,
        device=computed["device"],
        precision=computed.get("precision"),
        **sharding.used(resources.inference, count, remote),
        **bought,
    )


def _measured(target: Artifact, place: str, reference: pa.Table | None) -> Score:
    predictions, (name, _, language) = target.read_table(place), place.partition("/")
    if predictions["predicted"].null_count == predictions.num_rows:
        raise UserError(
            f"evaluation.sets.{name}: the victim rejected all of its {predictions.num_rows:,} "
            f"items in `{language}`, so there is nothing to "
            "measure; leave the set out, or correct victim.api"
        )
    return measure(predictions, reference)


def measure(predictions: pa.Table, reference: pa.Table | None = None) -> Score:
    """Figures of one language.

    Args:
        predictions: Columns ``id``, ``label`` and ``predicted``; rows without a prediction, which
            an API rejected, are left out.
        reference: The victim's on the English text of the same items, for the agreement.

    """
    index = {label: i for i, label in enumerate(LABELS)}
    ordered = predictions.sort_by("id")
    hits = pc.fill_null(pc.equal(ordered["label"], ordered["predicted"]), False)
    predictions = predictions.filter(pc.is_valid(predictions["predicted"]))
    gold = np.array([index[label] for label in predictions["label"].to_pylist()])
    predicted = np.array([index[label] for label in predictions["predicted"].to_pylist()])
    confusion = np.zeros((3, 3), np.int64)
    np.add.at(confusion, (gold, predicted), 1)
    count, right = len(gold), int((gold == predicted).sum())
    low, high = wilson(right, count)
    return Score(
        count=count,
        accuracy=right / count,
        low=low,
        high=high,
        recall={
            label: float(confusion[i, i] / confusion[i].sum()) if confusion[i].sum() else None
            for i, label in enumerate(LABELS)
        },
        majority_rate=float(confusion.sum(0).max() / count),
        agreement=None if reference is None else agreement(predictions, reference),
        confusion=confusion.tolist(),
        right=hits.to_numpy().astype(np.int8),  # those left out count as wrong
    )


def agreement(predictions: pa.Table, reference: pa.Table) -> float:
    """Share of items, joined by id, on which two models predict the same label."""
    reference = reference.filter(pc.is_valid(reference["predicted"]))
    predictions = predictions.filter(pc.is_in(predictions["id"], reference["id"].combine_chunks()))
    theirs = dict(zip(reference["id"].to_pylist(), reference["predicted"].to_pylist(), strict=True))
    ids, ours = predictions["id"].to_pylist(), predictions["predicted"].to_pylist()
    same = sum(theirs[i] == label for i, label in zip(ids, ours, strict=True))
    return float(same / len(ids))


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), which holds near 0 and 1 too."""
    share, z2 = right / count, Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)
