"""Labels: what a victim says about the queries.

The purchase is ``raythief.asking``'s; what the stage keeps is a copy of the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raythief import asking, models, sharding, takeover
from raythief.answers import Answers
from raythief.api import Remote
from raythief.artifacts import Artifact, Storage
from raythief.asking import Given, Texts
from raythief.config import LABELS, Inference, Label, Resources
from raythief.progress import Tell
from raythief.results import Labels, Vocabulary, read

ROWS_PER_WORD = 0.3
"""Rows of an actor for each word of the vocabulary above which a table of the words' tokens takes
less time than the tokenizer: building it costs some 85 us a word, and the tokenizer 250 us a row
more than the table (measured on one core with a byte-level BPE of 50,265 tokens)."""


class Labeling(asking.Asking):
    """An actor with the victim in it."""


def build(
    target: Artifact,
    one: Answers,
    texts: Texts,
    source: models.Source | Remote,
    labels: Sequence[Label] | None,
    inference: Inference,
    resources: Resources,
    tell: Tell,
    *,
    words: Artifact | None = None,
    worker: type[Labeling] = Labeling,
) -> Labels:
    """Label queries.

    Args:
        target: Artifact that receives ``rows-*.parquet``, and ``rejected.parquet``.
        one: What is asked of the victim.
        texts: The queries.
        source: The victim.
        labels: Names of its outputs where its config does not tell.
        inference: Batching and number format.
        resources: Actors.
        tell: Told the rows that are done.
        words: The vocabulary of the queries.
        worker: Class of the actors.

    Returns:
        Results for the manifest: what was labelled, and the account.
    """
    table_pays = words if _table_pays(words, one.count, resources) else None
    [given] = asking.ask(
        target.storage, [(one, texts)], source, labels, inference, resources, tell,
        words=table_pays, worker=worker,
    )  # fmt: skip
    sharding.write(target, given.table, inference.rows_per_shard)
    remote = isinstance(source, Remote)
    used = sharding.used(resources.inference, len(given.statistics), remote)
    return results(target, one, given, used)


def _table_pays(words: Artifact | None, count: int, resources: Resources) -> bool:
    """Whether so many queries are worth a table of all words' tokens in every actor."""
    manifest = words.manifest() if words is not None else None
    if manifest is None:
        return False
    rows_per_actor = count / max(1, resources.inference.workers)
    found = read("vocabulary", manifest["results"])
    assert isinstance(found, Vocabulary)
    return rows_per_actor > ROWS_PER_WORD * found.words


def results(target: Artifact, one: Answers, given: Given, used: Mapping[str, Any]) -> Labels:
    """What the manifest keeps of labels that are bought."""
    asking.write_rejected(target, [given])
    counts = Counter(given.table["label"].to_pylist())
    return Labels(
        answers=one.path,
        label_counts={label: counts[label] for label in LABELS},
        **asking.tally([given]),
        **asking.computed(given.statistics),
        **used,
    )


def missing(one: Answers, storage: Storage) -> int:
    """How many answers have yet to be bought."""
    return max(0, one.count - takeover.there(one, storage))
