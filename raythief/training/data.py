"""Examples in artifacts -> one encoded data set, which all workers read without copies.

It is put together once, in a task of its own, and lies in Ray's object store: every worker of a
node maps the same memory.
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
from raythief.training import encoded

ENGLISH = "en.parquet"
"""File of the English pairs of a labelled set."""
COLUMNS = pa.schema([("row", pa.int64()), ("label", pa.string())])
"""What a training set consists of, wherever it is from: places in a table of texts, and labels."""


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
        """Columns ``row`` (place in the table of texts) and ``label``, in the order of ids; and, of
        bought labels with scores, ``score_entailment``, ``score_neutral``, ``score_contradiction``.

        Raises:
            ValueError: texts and labels hold different ids.
        """
        table = self.texts.read_table(self.table, ["id"] + ["label"] * (self.labels is None))
        table = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
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
    """Put an encoded data set together.

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
    parts = [
        encoded.pairs(part.texts, part.table, np.asarray(table["row"]), tokenizer, longest, tell)
        for part, table in zip((*examples, *judges), tables, strict=True)
    ]
    train = np.arange(starts[len(examples)])
    groups = [np.arange(*starts[i : i + 2]) for i in range(len(examples), len(tables))]
    if training.selection is not None and training.selection.on == HELD_OUT:
        groups = [held_out(int(starts[1]), training.selection, seed)]
        train = np.setdiff1d(train, groups[0])
    labels = np.concatenate([_labels(one) for one in tables])
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
        raise UserError("selection.held_out: a single example cannot be held out; give more")
    share = min(max(selection.held_out, 1 / count), 1 - 1 / count)
    return nli.nested_subset(count, share, seed)


def _labels(table: pa.Table) -> NDArray[np.int64]:
    """Place of each row's label in ``LABELS``."""
    return np.asarray(pc.index_in(table["label"], pa.array(LABELS)).combine_chunks(), np.int64)


def _scores(table: pa.Table) -> NDArray[np.float32]:
    """Probability of each label; 1 for the gold label where none were bought."""
    if SCORES[0] not in table.column_names:
        certain: NDArray[np.float32] = np.eye(len(LABELS), dtype=np.float32)[_labels(table)]
        return certain
    return np.stack([np.asarray(table[name].combine_chunks()) for name in SCORES], axis=1)
