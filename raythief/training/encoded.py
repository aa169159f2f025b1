"""Pairs as tokens on storage, where all trainings that read the same pairs share them.

A table is encoded whole, once for each tokenizer and length, whatever share of it a training takes:
trials of a sweep that differ in rates, steps, shares or placements find it there. It is an artifact
like others, named by what is encoded, but decides no result: it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from raythief import encoding
from raythief.artifacts import Artifact
from raythief.progress import Tell
from raythief.results import Encoded
from raythief.sharding import Shard, cut
from raythief.stages import Stage

ROWS_AT_ONCE = 20_000
"""Pairs that go through the tokenizer together, and are one file: the tokenizer's lists take 40
times the memory of arrays."""


def pairs(
    texts: Artifact,
    table: str,
    rows: NDArray[np.int64],
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    tell: Tell,
) -> encoding.Encoded:
    """Rows of a table of pairs, encoded now or before, by this training or by another.

    Args:
        texts: Artifact that holds the pairs.
        table: File or folder of them within it.
        rows: Their places in the table, shape [rows], ascending.
        tokenizer: A fast tokenizer.
        longest: Tokens to which pairs are cut.
        tell: Told how far it is.
    """

    def build(target: Artifact, _: Mapping[str, Artifact], tell: Tell) -> Encoded:
        whole = texts.read_table(table, ["premise", "hypothesis"])
        tokens = 0
        for shard in cut(whole.num_rows, ROWS_AT_ONCE):
            tell(shard.start, whole.num_rows, "encoding")
            part = whole.slice(shard.start, ROWS_AT_ONCE)
            premises, hypotheses = part["premise"].to_pylist(), part["hypothesis"].to_pylist()
            found = encoding.encode(tokenizer, premises, hypotheses, longest)
            target.write_table(shard.name, _table(found))
            tokens += len(found.ids)
        return Encoded(pairs=whole.num_rows, tokens=tokens)

    config = {
        "pairs": texts.path,
        "table": table,
        "tokenizer": _identity(tokenizer),
        "max_tokens": longest,
    }
    artifact, _ = Stage("encoded", config, build).ensure(texts.storage, tell)
    parts = []
    for name in artifact.tables():
        shard = Shard.named(name)
        first, last = np.searchsorted(rows, [shard.start, shard.stop])
        part = artifact.read_table(name).take(pa.array(rows[first:last] - shard.start))
        parts.append(_encoded(part, encoding.pad(tokenizer)))
    return encoding.joined(parts)


def _identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of all that decides what a tokenizer makes of a pair, used before or not."""
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    told |= {"truncation": None, "padding": None}  # as it was used last; each call says its own
    parts = (json.dumps(told), tokenizer.model_input_names, tokenizer.pad_token,
             tokenizer.truncation_side)  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _table(pairs: encoding.Encoded) -> pa.Table:
    """Encoded pairs as columns of lists: ``ids`` and, where the encoder has segments, ``types``."""
    columns = {"ids": pairs.ids} | ({} if pairs.types is None else {"types": pairs.types})
    lists = [pa.LargeListArray.from_arrays(pairs.offsets, values) for values in columns.values()]
    return pa.table(lists, names=list(columns))


def _encoded(table: pa.Table, pad: int) -> encoding.Encoded:
    """The pairs of such a table."""
    lists = {name: table[name].combine_chunks() for name in table.column_names}
    lengths = np.asarray(pc.list_value_length(lists["ids"]))
    flat = {name: np.asarray(values.flatten()) for name, values in lists.items()}
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    return encoding.Encoded(flat["ids"], flat.get("types"), offsets, pad)
