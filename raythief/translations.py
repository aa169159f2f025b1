"""Sentences in English and their translations: from files that the user names, or the small world.

What is read becomes an artifact before anything is trained, so that a fault in a file is told early
and workers on all nodes see the sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raythief import columns, results
from raythief.artifacts import Artifact
from raythief.config import FilesParallel, Language, Parallel
from raythief.errors import UserError
from raythief.progress import Tell

FIELD = "extractor.bilstm.parallel"
FEWEST = 3
"""Sentences of a language: two to set against each other, and one held out."""


def named(parallel: FilesParallel) -> dict[str, str]:
    """What names the files of a language, by field."""
    every = {"path": parallel.path, "english": parallel.english}
    return {field: path for field, path in every.items() if path}


def file(parallel: FilesParallel, field: str, language: str, root: Path) -> Path:
    """The file of a language that a field names.

    Raises:
        MissingFileError: there is none.
    """
    told = f"{FIELD}.{field}: there is no file {{path}}; put parallel sentences of `{language}` "
    told += "there"
    return columns.of_language(root, named(parallel)[field], language, told)


def read(parallel: Parallel, language: str, root: Path, seed: int) -> pa.Table:
    """Read the parallel sentences of a language; pairs of which one is blank are left out.

    Args:
        parallel: Where they come from.
        language: Code of the language.
        root: Folder from which relative paths start.
        seed: Seed of the small world; files do not depend on it.

    Returns:
        Columns ``english`` and ``translation``, text, at least three rows.

    Raises:
        UserError: a file cannot be read, lacks a column, two files differ in their number of
            lines, or there are fewer than three sentences.
    """
    if isinstance(parallel, FilesParallel):
        found = {field: file(parallel, field, language, root) for field in named(parallel)}
        two = (found["english"], found["path"]) if "english" in found else None
        pairs = _lines(*two) if two else _rows(found["path"], language)
        chosen = [pair for pair in islice(pairs, parallel.max_sentences) if all(pair)]
        if len(chosen) < FEWEST:
            raise UserError(f"{FIELD}.path: {found['path']} holds fewer than three sentences")
    else:
        from raythief.miniature import world

        told = world.parallel(parallel.count, seed, ["en", language])
        chosen = list(zip(told["en"], told[language], strict=True))
    english, translation = (list(side) for side in zip(*chosen, strict=True))
    text = pa.string()
    return pa.table(
        {"english": pa.array(english, text), "translation": pa.array(translation, text)}
    )


def _lines(english: Path, other: Path) -> Iterator[tuple[str, str]]:
    """Pairs of lines. Only ``\\n`` ends a line, as in the tools that write such files."""
    try:
        with english.open("rb") as ours, other.open("rb") as theirs:
            for one, two in zip(ours, theirs, strict=True):
                yield one.decode().strip(), two.decode().strip()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{FIELD}.path: {english} or {other} is not UTF-8 text: {error.reason}"
        ) from None
    except ValueError:  # zip's; a UnicodeDecodeError is one too
        raise UserError(
            f"{FIELD}.path: {other} has not as many lines as {english}; line by line they must be "
            "translations"
        ) from None


def _rows(path: Path, language: str) -> Iterator[tuple[str, str]]:
    two, start = ("en", language), 0
    try:
        table = pq.ParquetFile(path)
        for column in two:
            if column not in table.schema_arrow.names:
                raise UserError(f"{FIELD}.path: {path} has no column `{column}`")
            kind = table.schema_arrow.field(column).type
            if not columns.is_text(kind):
                raise UserError(f"{FIELD}.path: column `{column}` of {path} holds {kind}, not text")
        for batch in table.iter_batches(columns=list(two)):
            for column in two:
                row = columns.undecodable(batch.column(column))
                if row >= 0:
                    fault = columns.not_text(start + row)
                    raise UserError(f"{FIELD}.path: {path}: the column `{column}` {fault}")
            start += batch.num_rows
            sides = (batch.column(column).to_pylist() for column in two)
            for one, other in zip(*sides, strict=True):
                yield (one or "").strip(), (other or "").strip()
    except (pa.ArrowException, OSError):
        raise UserError(
            f"{FIELD}.path: {path} cannot be read as parquet; for plain text name the English "
            f"file in {FIELD}.english"
        ) from None


def build(
    target: Artifact,
    parallel: Parallel,
    languages: Sequence[Language],
    root: Path,
    seed: int,
    tell: Tell,
) -> results.Parallel:
    """Write each language's sentences, as ``read`` gives them, to ``LANGUAGE.parquet``."""
    counts = {}
    for i, language in enumerate(languages):
        table = read(parallel, language, root, seed)
        target.write_table(f"{language}.parquet", table)
        counts[language] = table.num_rows
        tell(i + 1, len(languages), language)
    return results.Parallel(sentences=counts)
