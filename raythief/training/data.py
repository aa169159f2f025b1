"""Examples in artifacts -> one encoded data set, which all workers read without copies.

It is encoded once, in a task of its own, and lies in Ray's object store: every worker of a node
maps the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raythief import encoding, models, nli
from raythief.artifacts import Artifact
from raythief.config import HELD_OUT, LABELS, Selection, Training
from raythief.errors import UserError
from raythief.nli import SCORES
from raythief.progress import Tell

ROWS_AT_ONCE = 20_000
"""Pairs that go through the tokenizer together: its lists take 40 times the memory of arrays."""

ENGLISH = "en.parquet"
"""File of the English pairs of a labelled set."""
COLUMNS = pa.schema([("premise", pa.string()), ("hypothesis", pa.string()), ("label", pa.string())])
"""What a training set consists of, wherever it is from."""


@dataclass(frozen=True)
class Examples:
    """Labelled pairs in artifacts: texts with their own label column, or joined to labels."""

    texts: Artifact
    table: str = ""
    """File or folder of the texts within the artifact."""
    labels: Artifact | None = None
    """Bought labels, joined by id; None where the texts carry gold labels."""
    ids: NDArray[np.int64] | None = None
    """Rows to take; None takes all."""
    first: int | None = None
    """Take only the first so many rows that have a label; None takes all."""

    def read(self) -> pa.Table:
        """Columns ``premise``, ``hypothesis``, ``label``, in the order of ids; and, of bought
        labels with scores, ``score_entailment``, ``score_neutral``, ``score_contradiction``.

        Raises:
            ValueError: texts and labels hold different ids.
        """
        columns = ["id", "premise", "hypothesis"]
        table = self.texts.read_table(self.table, columns + ["label"] * (self.labels is None))
        schema = COLUMNS
        if self.labels is not None:
            bought = self.labels.read_table()
            if not bought["id"].equals(table["id"]):
                raise ValueError(f"{self.labels.path} labels other ids than {self.texts.path} has")
            for name in bought.column_names[1:]:
                table = table.append_column(name, bought[name])
                if name in SCORES:
                    schema = schema.append(pa.field(name, pa.float32()))
            table = table.filter(pc.is_valid(table["label"]))  # the victim rejected the others
        if self.ids is not None:
            table = table.take(pa.array(self.ids))
        table = table.slice(0, self.first)
        return table.select(schema.names).cast(schema)


@dataclass(frozen=True)
class Dataset:
    """Encoded examples with their labels."""

    pairs: encoding.Encoded
    labels: NDArray[np.int64]
    """Place of each row's label in ``LABELS``, shape [rows]."""
    scores: NDArray[np.float32] | None
    """Probability of each label, shape [rows, 3]; None where nothing is learned from them."""
    train: NDArray[np.int64]
    """Rows to train on."""
    judges: tuple[NDArray[np.int64], ...]
    """Rows to select on, one group for each language; none of them is trained on."""


def prepare(
    source: models.Source,
    examples: Sequence[Examples],
    judges: Sequence[Examples],
    training: Training,
    seed: int,
    tell: Tell,
) -> Dataset:
    """Encode a data set.

    Args:
        source: The encoder, whose tokenizer is used.
        examples: What is trained on.
        judges: What weights are selected on, if not on held-out examples.
        training: Lengths, and what is learned from.
        seed: Chooses what is held out.
        tell: Told how far it is.
    """
    folder = source.local()
    tokenizer = models.tokenizer(folder)
    longest = min(training.max_tokens, models.longest(models.empty(folder), tokenizer))
    tables = [part.read() for part in (*examples, *judges)]
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    table = pa.concat_tables([one.select(COLUMNS.names) for one in tables])
    parts = []
    for start in range(0, table.num_rows, ROWS_AT_ONCE):
        tell(start, table.num_rows, "encoding")
        rows = table.slice(start, ROWS_AT_ONCE)
        premises, hypotheses = rows["premise"].to_pylist(), rows["hypothesis"].to_pylist()
        parts.append(encoding.encode(tokenizer, premises, hypotheses, longest))
    train = np.arange(starts[len(examples)])
    groups = [np.arange(*starts[i : i + 2]) for i in range(len(examples), len(tables))]
    if training.selection is not None and training.selection.on == HELD_OUT:
        groups = [held_out(int(starts[1]), training.selection, seed)]
        train = np.setdiff1d(train, groups[0])
    names = pc.index_in(table["label"], pa.array(LABELS))
    labels = np.asarray(names.combine_chunks(), np.int64)
    scores = None
    if training.soft_labels is not None:
        scores = np.concatenate([_scores(one) for one in tables])
    return Dataset(encoding.joined(parts), labels, scores, train, tuple(groups))


def held_out(count: int, selection: Selection, seed: int) -> NDArray[np.int64]:
    """Rows of so many that are held out: at least one, and never all.

    Raises:
        UserError: there is only one row.
    """
    if count < 2:
        raise UserError("selection.held_out: a single example can not be held out; give more")
    share = min(max(selection.held_out, 1 / count), 1 - 1 / count)
    return nli.nested_subset(count, share, seed)


def _scores(table: pa.Table) -> NDArray[np.float32]:
    """Probability of each label; 1 for the gold label where none were bought."""
    if SCORES[0] not in table.column_names:
        labels = np.asarray(pc.index_in(table["label"], pa.array(LABELS)).combine_chunks())
        certain: NDArray[np.float32] = np.eye(len(LABELS), dtype=np.float32)[labels]
        return certain
    return np.stack([np.asarray(table[name].combine_chunks()) for name in SCORES], axis=1)
