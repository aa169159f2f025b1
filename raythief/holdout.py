"""Bought queries that no extractor learns from: a test set for a thief without real data.

They are the last ones by id, so that rows which learn from fewer queries share them; labels are
bought once, whatever is held back.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from raythief import nli
from raythief.artifacts import Artifact
from raythief.errors import UserError
from raythief.results import Examples


def build(
    target: Artifact, queries: Artifact, labels: Artifact, start: int, where: str
) -> Examples:
    """Write the queries from an id on, with the victim's answers in the place of gold labels.

    Args:
        target: Artifact that receives ``en.parquet``, of ``nli.SCHEMA``.
        queries: The gibberish.
        labels: What the victim answered; queries that it rejected are left out.
        start: The first id that is held back.
        where: The set's path in the spec, for errors.

    Raises:
        UserError: the victim rejected all of them.
    """
    texts = _since(queries.read_table("", ["id", "premise", "hypothesis"]), start)
    bought = _since(labels.read_table("", ["id", "label"]), start)
    if not bought["id"].equals(texts["id"]):
        raise ValueError(f"{labels.path} labels other ids than {queries.path} has")
    table = texts.append_column("label", bought["label"])
    table = table.filter(pc.is_valid(table["label"]))
    if not table.num_rows:
        raise UserError(
            f"{where}.count: the victim rejected all of the last {texts.num_rows:,} queries, so "
            "there is nothing to measure on; raise it"
        )
    target.write_table("en.parquet", table.cast(nli.SCHEMA))
    return Examples(pairs=table.num_rows, languages=1)


def answered(labels: Artifact, stop: int) -> int:
    """How many queries before an id have a label."""
    table = labels.read_table("", ["id", "label"])
    return int(pc.sum(pc.and_(pc.less(table["id"], stop), pc.is_valid(table["label"]))).as_py())


def _since(table: pa.Table, start: int) -> pa.Table:
    return table.filter(pc.greater_equal(table["id"], start))
