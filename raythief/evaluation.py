"""Accuracy and agreement per language, with intervals; every prediction is kept."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raythief import labeling, models, sharding
from raythief.api import Remote
from raythief.artifacts import Artifact
from raythief.config import LABELS, Inference, Label, Language, Resources
from raythief.progress import Tell
from raythief.victims import Classifier

Z_95 = 1.959963984540054
"""Quantile of the normal distribution for a two-sided 95 % interval."""


class Evaluation(sharding.ShardWorker):
    """An actor with the model under test in it."""

    def __init__(
        self,
        target: Artifact,
        sets: Mapping[str, Artifact],
        source: models.Source | Remote,
        inference: Inference,
        cpus: float,
        labels: tuple[Label, ...] | None,
        may_reject: int,
    ) -> None:
        super().__init__(target)
        self.sets = sets
        self.source, self.how = source, (inference, cpus, labels)
        self.model: Classifier | None = None
        self.loaded: models.Source | None = None
        self.ask = None
        if isinstance(source, Remote):  # each answer is bought, and accounted for
            self.ask = labeling.Asker(target, source, inference, cpus, labels, None, may_reject)
            self.stop = self.ask.stop

    def work(self, shard: sharding.Shard) -> tuple[pa.Table, Mapping[str, Any]]:
        """Predict: ``id``, ``label`` (gold), ``predicted`` (null where an API rejected it)."""
        name, _, language = shard.folder.partition("/")
        table = self.sets[name].read_table(f"{language}.parquet")
        rows = table.slice(shard.start, shard.stop - shard.start)
        statistics: Mapping[str, Any]
        predicted: Sequence[Label | None]
        if self.ask is not None:
            predicted, _, statistics = self.ask(shard, rows)
        else:
            predicted, statistics = self._model(language)(rows["premise"], rows["hypothesis"])
        column = pa.array(predicted, pa.string())
        answer = rows.select(["id", "label"]).append_column("predicted", column)
        return answer.replace_schema_metadata(None), statistics

    def _model(self, language: str) -> Classifier:
        """The model of a language. One is held at a time: shards come language by language."""
        assert isinstance(self.source, models.Source)
        source = self.source.of(language)
        if self.model is None or source != self.loaded:
            self.model = None  # make room first
            self.model = Classifier(source, *self.how)
            self.loaded = source
        return self.model


def build(
    target: Artifact,
    sets: Mapping[str, tuple[Artifact, tuple[Language, ...]]],
    source: models.Source | Remote,
    labels: tuple[Label, ...] | None,
    reference: Artifact | None,
    inference: Inference,
    resources: Resources,
    tell: Tell,
) -> dict[str, Any]:
    """Evaluate a model on labelled sets.

    Args:
        target: Artifact that receives the predictions, ``SET/LANGUAGE/*.parquet``.
        sets: Examples and languages by the set's name.
        source: The model.
        labels: Names of its outputs where its config does not tell.
        reference: The victim's evaluation, for the agreement on the sets that it holds.
        inference: Batching and number format.
        resources: Actors.
        tell: Told the rows that are done.
    """
    shards = [
        shard
        for name, (examples, languages) in sets.items()
        for language in languages
        for shard in sharding.cut(
            examples.read_table(f"{language}.parquet", ["id"]).num_rows,
            inference.rows_per_shard,
            f"{name}/{language}",
        )
    ]
    count = sum(shard.stop - shard.start for shard in shards)
    arguments = {
        "sets": {name: examples for name, (examples, _) in sets.items()},
        "source": source,
        "inference": inference,
        "cpus": resources.inference.cpus,
        "labels": labels,
        "may_reject": labeling.may_reject(source, count),
    }
    how = (target, shards, resources.inference, resources.restarts)
    bill = {}
    if isinstance(source, Remote):
        with labeling.account(target, count, tell):
            parts = sharding.run(Evaluation, arguments, *how, remote=True)
        bill = labeling.results(target, parts, count)
    else:
        parts = sharding.run(Evaluation, arguments, *how, tell)
    manifest = reference.manifest() if reference is not None else None
    judged = manifest["results"]["sets"] if manifest else {}
    found: dict[str, dict[str, Any]] = {}
    for name, (_, languages) in sets.items():
        # The victim reads English; without it there is nothing to agree with. Nor is it asked again
        # what it answered about queries that are held back: accuracy on them is the agreement.
        judge = None
        if reference is not None and name in judged and "en" in languages:
            judge = reference.read_table(f"{name}/en")
        found[name] = {
            language: measure(target.read_table(f"{name}/{language}"), judge)
            for language in languages
        }
    used = sharding.used(resources.inference, len(shards), isinstance(source, Remote))
    return {"sets": found, "device": parts[0]["device"], **used, **bill}


def measure(predictions: pa.Table, reference: pa.Table | None = None) -> dict[str, Any]:
    """Figures of one language.

    Args:
        predictions: Columns ``id``, ``label`` and ``predicted``; rows without a prediction, which
            an API rejected, are left out.
        reference: The victim's on the English text of the same items, for the agreement.

    Returns:
        ``count``, ``accuracy`` with its 95 % Wilson interval ``low`` to ``high``, ``recall`` by
        class (None for a class without items), ``majority_rate`` (share of the most frequent
        prediction), ``agreement`` (None without a reference), ``confusion`` (gold by predicted,
        in the order of ``LABELS``), and ``right``: which items, in the order of their ids and with
        those left out as wrong ones, were predicted right, as ``pack_bits`` writes them. By it two
        models can be compared item by item.
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
    return {
        "count": count,
        "accuracy": right / count,
        "low": low,
        "high": high,
        "recall": {
            label: float(confusion[i, i] / confusion[i].sum()) if confusion[i].sum() else None
            for i, label in enumerate(LABELS)
        },
        "majority_rate": float(confusion.sum(0).max() / count),
        "agreement": None if reference is None else agreement(predictions, reference),
        "confusion": confusion.tolist(),
        "right": pack_bits(hits.to_numpy()),
    }


def pack_bits(bits: NDArray[np.bool_]) -> str:
    """Their number, a colon, and eight to a byte in base64."""
    return f"{len(bits)}:{base64.b64encode(np.packbits(bits).tobytes()).decode()}"


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
