"""Premise/hypothesis pairs from MNLI, XNLI, files of one's own and the small world: one schema.

    table = nli.read(pairs, "sw", root, seed=0, field="evaluation.sets.xnli")

A label is a *name* from here on. MNLI and XNLI number entailment, neutral, contradiction 0, 1, 2;
RoBERTa-Large-MNLI numbers its outputs the other way round; others permute again without a word.
A mix-up is silent and costs the whole experiment, so names are taken from where the numbers come
from (a data set's own class names, a model's ``id2label``, the spec) and never assumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raythief import columns, hub
from raythief.config import (
    LABELS,
    EvaluationPairs,
    FilesPairs,
    HubPairs,
    Label,
    MiniaturePairs,
    Pairs,
)
from raythief.errors import MissingFileError, UserError

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("premise", pa.string(), nullable=False),
        pa.field("hypothesis", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
    ]
)
"""Columns of every table of pairs; ``label`` is one of ``config.LABELS``."""

COLUMNS = ("premise", "hypothesis", "label")
SCORES = tuple(f"score_{label}" for label in LABELS)
"""Columns of the probability of each label, where a victim gives them."""

SIZES: dict[tuple[str, str], int] = {
    ("nyu-mll/multi_nli", "train"): 392_702,
    ("nyu-mll/multi_nli", "validation_matched"): 9_815,
    ("nyu-mll/multi_nli", "validation_mismatched"): 9_832,
    ("facebook/xnli", "validation"): 2_490,
    ("facebook/xnli", "test"): 5_010,
}
"""Rows of the hub's data sets in each language."""


# --- reading ----------------------------------------------------------------------------------


def read(pairs: Pairs, language: str, root: Path, seed: int, field: str) -> pa.Table:
    """Read the pairs of one language.

    Args:
        pairs: Where they come from.
        language: Code of the language, such as ``sw``.
        root: Folder from which a relative path of files starts.
        seed: Seed of the small world; the rest does not depend on it.
        field: Path of ``pairs`` in the spec, such as ``evaluation.sets.xnli``, for errors.

    Returns:
        A table of ``SCHEMA``, at least one row. ``id`` is the row's place, 0 to n-1, so that an
        item of XNLI has the same id in each language.

    Raises:
        UserError: the source cannot be read, lacks a column, is empty, holds a null, or holds a
            label that is not exactly one of the three.
    """
    if isinstance(pairs, HubPairs):
        return _read_hub(pairs, language, field)
    if isinstance(pairs, FilesPairs):
        return _read_file(pairs, language, root, field)
    return _read_miniature(pairs, language, seed)


def file(pairs: FilesPairs, language: str, root: Path, field: str) -> Path:
    """The file of a language.

    Raises:
        MissingFileError: there is none.
    """
    told = f"{field}.path: {{path}} is no file; put it there, or correct the path or `data_root`"
    return columns.of_language(root, pairs.path, language, told)


def rows(pairs: EvaluationPairs, root: Path, field: str) -> int:
    """Rows in one language, told without the network; 0 where that cannot be.

    Raises:
        UserError: a file is no parquet.
    """
    if pairs.source == "hub":
        return SIZES.get((pairs.dataset, pairs.split), 0)
    if pairs.source != "files":
        return pairs.count
    try:
        path = file(pairs, pairs.languages[0], root, field)
    except MissingFileError:
        return 0
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        raise UserError(f"{field}: {path} cannot be read; give a parquet file") from None


def _read_hub(pairs: HubPairs, language: str, field: str) -> pa.Table:
    commit = hub.revision(pairs.dataset, pairs.revision, f"{field}.dataset")
    per_language = language in hub.configs(pairs.dataset, commit)
    if not per_language and language != "en":
        raise UserError(
            f"{field}.languages: `{pairs.dataset}` has no configuration `{language}`; take the"
            " language out or name another data set"
        )
    table = hub.dataset(
        pairs.dataset,
        config=language if per_language else None,
        split=pairs.split,
        revision=commit,
        columns=COLUMNS,
    )
    origin = f"{field}: {pairs.dataset} ({pairs.split}, {language})"
    classes = hub.class_names(table, "label")
    names = None if classes is None else _canonical(classes)
    if classes is not None and names is None:
        raise UserError(
            f"{origin} has the classes {_quoted(classes)}, not {_quoted(LABELS)}; name another"
            " data set"
        )
    return _checked(
        table,
        names,
        origin,
        unnamed="does not say what its integer labels mean; save it as parquet and read it with"
        " `source: files` and `labels`",
    )


def _read_file(pairs: FilesPairs, language: str, root: Path, field: str) -> pa.Table:
    if pairs.labels is not None and _canonical(pairs.labels) is None:
        raise UserError(f"{field}.labels: name each of {_quoted(LABELS)} once")
    path = file(pairs, language, root, field)
    origin = f"{field}: {path}"
    try:
        names = pq.read_schema(path).names
        twice = [column for column in COLUMNS if names.count(column) > 1]
        if twice:
            raise UserError(f"{origin} has several columns `{twice[0]}`; rename all but one")
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowInvalid, OSError):
        raise UserError(f"{origin} cannot be read; give a parquet file") from None
    missing = [column for column in COLUMNS if column not in table.column_names]
    if missing:
        raise UserError(
            f"{origin} has no column `{missing[0]}`; give it the columns {_quoted(COLUMNS)}"
        )
    return _checked(
        table.select(list(COLUMNS)),
        pairs.labels,
        origin,
        unnamed=f"holds integer labels; say in {field}.labels what 0, 1 and 2 mean",
    )


def _read_miniature(pairs: MiniaturePairs, language: str, seed: int) -> pa.Table:
    from raythief.miniature import world

    rows = world.pairs(pairs.count, _split_seed(seed, pairs.split), [language])[language]
    premises, hypotheses, labels = zip(*rows, strict=True)
    ids = np.arange(len(rows), dtype=np.int64)
    return pa.table([ids, list(premises), list(hypotheses), list(labels)], schema=SCHEMA)


def _split_seed(seed: int, split: str) -> int:
    """A seed of 63 bits for one split, so that no two splits or seeds share random numbers."""
    digest = hashlib.blake2b(f"pairs/{split}/{seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


# --- checking ---------------------------------------------------------------------------------


def _checked(table: pa.Table, names: Sequence[Label] | None, origin: str, unnamed: str) -> pa.Table:
    """Turn the columns ``COLUMNS`` into ``SCHEMA``, or tell the first thing that is wrong.

    Args:
        table: Any number of rows.
        names: Meaning of the integer labels 0, 1, 2, if it is known.
        origin: Field and file, the beginning of every sentence.
        unnamed: End of the sentence for integer labels whose meaning is not known.
    """
    if table.num_rows == 0:
        raise UserError(f"{origin} is empty; give at least one pair")
    for column in COLUMNS:
        row = pc.index(pc.is_null(table[column]), True).as_py()
        if row >= 0:
            raise UserError(
                f"{origin} has no {column} in row {row} (counted from 0); fill it in or drop"
                " the row"
            )
    for column in ("premise", "hypothesis"):
        if not columns.is_text(table[column].type):
            raise UserError(
                f"{origin} holds {table[column].type} in the column `{column}`; give text"
            )
    for column in COLUMNS:
        row = columns.undecodable(table[column])
        if row >= 0:
            raise UserError(f"{origin}: the column `{column}` {columns.not_text(row)}")
    arrays = [
        pa.array(np.arange(table.num_rows, dtype=np.int64)),
        table["premise"].cast(pa.string()),
        table["hypothesis"].cast(pa.string()),
        _named(table["label"], names, origin, unnamed),
    ]
    return pa.table(arrays, schema=SCHEMA)


def _named(
    labels: pa.ChunkedArray, names: Sequence[Label] | None, origin: str, unnamed: str
) -> pa.ChunkedArray:
    """Names of a label column that holds names or integers."""
    if columns.is_text(labels.type):
        allowed: pa.Array = pa.array(LABELS, type=labels.type)
        meaning = f"is none of {_quoted(LABELS)}; correct it"
    elif pa.types.is_integer(labels.type):
        if names is None:
            raise UserError(f"{origin} {unnamed}")
        allowed = pa.array(range(len(names)), type=labels.type)
        meaning = "names no class; drop such rows"
    else:
        raise UserError(
            f"{origin} holds {labels.type} in the column `label`; give names or integers"
        )
    row = pc.index(pc.is_in(labels, value_set=allowed), False).as_py()
    if row >= 0:
        raise UserError(
            f"{origin} has the label {labels[row].as_py()!r} in row {row} (counted from 0), which"
            f" {meaning}"
        )
    if columns.is_text(labels.type):
        return labels.cast(pa.string())
    return pa.chunked_array([pc.take(pa.array(names, pa.string()), labels.combine_chunks())])


# --- labels -----------------------------------------------------------------------------------


def label_names(
    id2label: Mapping[int, str], given: Sequence[Label] | None, field: str
) -> tuple[Label, Label, Label]:
    """Return what a classifier's outputs 0, 1, 2 mean.

    Args:
        id2label: The mapping of the model's config; its names may be in any case.
        given: The spec's word on it, which goes before the config's.
        field: Path of the spec's field that may give them, such as ``victim.labels``.

    Raises:
        UserError: the model has more or fewer than three outputs, its config leaves their meaning
            open (``LABEL_0``), or ``given`` does not name each label once.
    """
    outputs = {int(output): name for output, name in id2label.items()}
    if sorted(outputs) != [0, 1, 2]:
        raise UserError(
            f"{field}: the model has {len(outputs)} outputs instead of 3; name a model for"
            f" {_quoted(LABELS)}"
        )
    if given is not None:
        names = _canonical(given)
        if names is None:
            raise UserError(f"{field}: name each of {_quoted(LABELS)} once")
        return names
    called = [outputs[output] for output in range(3)]
    names = _canonical(called)
    if names is None:
        raise UserError(
            f"{field}: the model calls its outputs {_quoted(called)}; say which of"
            f" {_quoted(LABELS)} each output means"
        )
    return names


def _canonical(names: Sequence[str]) -> tuple[Label, Label, Label] | None:
    """``names`` in lower case if they are the three labels in any order, else None."""
    lowered = tuple(name.lower() for name in names)
    if sorted(lowered) != sorted(LABELS):
        return None
    return cast("tuple[Label, Label, Label]", lowered)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# --- subsets ----------------------------------------------------------------------------------


def nested_subset(count: int, fraction: float, seed: int) -> np.ndarray:
    """Choose a share of ``count`` rows so that a smaller share lies within a larger one.

    Args:
        count: Number of rows.
        fraction: Share, 0 to 1; above 0 at least one row is chosen.
        seed: Seed of the order in which rows join.

    Returns:
        Ids of the chosen rows, ascending: int64, shape (round(fraction * count),).
    """
    size = max(round(fraction * count), 1 if fraction > 0 else 0)
    # Raw output of the generator, which numpy keeps the same for ever (NEP 19); `permutation` may
    # change between versions, and with it the labels that a finished experiment was trained on.
    keys = np.random.PCG64(seed).random_raw(count)
    order = np.argsort(keys, kind="stable")
    return np.sort(order[:size]).astype(np.int64)
