"""A column of text out of a parquet, CSV or JSON lines file, cell by cell.

CSV is what RFC 4180 says: cells stand between commas, and one in quotes may hold commas, line
breaks and doubled quotes. JSON lines are an object a line. Both are read line by line, by Python's
own readers: those of Arrow read by blocks, and what is longer than a block stops them.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raythief.errors import MissingFileError, UserError, first_line

LONGEST_CELL = 2**24
"""Characters of a cell of CSV. What is longer is no text but the rest of a file in which a quote
was never closed."""
_ROWS = 4096
"""Rows of parquet that become Python strings at once."""


def of_language(root: Path, pattern: str, language: str, told: str) -> Path:
    """The user's file of one language.

    Args:
        root: Folder from which a relative path starts.
        pattern: Path in which ``{language}`` stands for the code.
        language: The code.
        told: What to say where there is none; ``{path}`` stands for the path.

    Raises:
        MissingFileError: there is none.
    """
    path = root / pattern.replace("{language}", language)
    if not path.is_file():
        raise MissingFileError(told.replace("{path}", str(path)))
    return path


def cells(file: Path, column: str) -> Iterator[str]:
    """Yield the texts in a column of a file of one of ``SUFFIXES``; what is empty or null is left
    out.

    Raises:
        UserError: the file cannot be read, is not of its kind, has no such column, or holds there
            what is no text.
    """
    for suffix, read in _READERS.items():
        if file.name.lower().endswith(suffix):
            with _faults_of(file):
                yield from read(file, column)


def texts(column: Any, origin: str, start: int = 0) -> Iterator[str]:
    """Yield the texts of an Arrow column, nulls left out.

    Args:
        column: Array of strings.
        origin: Field and file, the beginning of an error.
        start: Rows that went before it.

    Raises:
        UserError: a cell is no UTF-8.
    """
    row = undecodable(column)
    if row >= 0:
        raise UserError(f"{origin} {not_text(start + row)}")
    return (text for text in column.to_pylist() if text is not None)


def undecodable(column: Any) -> int:
    """The first row of an Arrow column of strings whose bytes are no UTF-8; -1 if all are.

    Arrow checks none of them when it reads parquet. Columns of other types hold none.
    """
    if not is_text(column.type):
        return -1
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
        for row, cell in enumerate(column.cast(binary).to_pylist()):
            try:
                (cell or b"").decode()
            except UnicodeDecodeError:
                return row
        raise
    return -1


def not_text(row: int) -> str:
    """What is told of a row with such bytes, after the field and the file."""
    return f"has text in row {row} (counted from 0) that is not UTF-8; correct it, or drop the row"


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def check(schema: pa.Schema, column: str, origin: str) -> None:
    """Raise ``UserError`` unless a corpus has this column of text, once."""
    _check_names(schema.names, column, origin)
    kind = schema.field(column).type
    if not is_text(kind):
        raise UserError(f"corpus.column: column `{column}` of {origin} holds {kind}, not text")


def _check_names(names: Sequence[str], column: str, origin: str) -> None:
    if column not in names:
        shown = ", ".join(names) or "nothing"
        raise UserError(f"corpus.column: {origin} has no column `{column}`, only {shown}")
    if list(names).count(column) > 1:
        raise UserError(
            f"corpus.column: {origin} has several columns `{column}`; rename all but one"
        )


# --- kinds of files ---------------------------------------------------------------------------


def _parquet(file: Path, column: str) -> Iterator[str]:
    start = 0
    try:
        with pq.ParquetFile(file) as table:
            check(table.schema_arrow, column, str(file))
            for batch in table.iter_batches(batch_size=_ROWS, columns=[column]):
                yield from texts(batch.column(0), f"corpus.path: {file}", start)
                start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        reason = first_line(error)
        raise UserError(f"corpus.path: {file} cannot be read as parquet: {reason}") from None


def _csv(file: Path, column: str) -> Iterator[str]:
    csv.field_size_limit(LONGEST_CELL)
    rows = csv.reader(_lines(file), strict=True)
    header: list[str] = []
    first = 1
    try:
        header = next(rows, [])
        _check_names(header, column, str(file))
        place, first = header.index(column), rows.line_num + 1
        for row in rows:
            if row and len(row) != len(header):
                raise csv.Error(f"it has {len(row)} cells, and the header has {len(header)}")
            if row and row[place]:
                yield row[place]
            first = rows.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"corpus.path: {file}: the row that begins in line {first} is not CSV: {error}; put "
            "cells with commas, quotes or line breaks in quotes, and double the quotes in them"
        ) from None


def _json_lines(file: Path, column: str) -> Iterator[str]:
    names: dict[str, None] = {}
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        where = f"corpus.path: {file}: line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{where} is not a JSON object; write one object a line")
        names |= dict.fromkeys(row)
        text = row.get(column) or ""
        if not isinstance(text, str):
            raise UserError(f"{where} holds no text in `{column}`; give text, or null")
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"{where} holds half a surrogate pair, which is no text; correct it")
        if text:
            yield text
    _check_names(list(names), column, str(file))  # only now, for an object may leave out a null


_READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".csv.gz": _csv,
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
}
SUFFIXES = tuple(_READERS)
"""How the names of files end that have columns."""


def _lines(file: Path) -> Iterator[str]:
    """Lines with their ends, one after another, so that a fault has a number."""
    with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode()
            except UnicodeDecodeError:
                raise UserError(
                    f"corpus.path: {file}: line {number} is not UTF-8 text; save it as UTF-8"
                ) from None
            yield text.removeprefix("\ufeff") if number == 1 else text


@contextlib.contextmanager
def _faults_of(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"corpus.path: {file} cannot be read: {reason}") from None
