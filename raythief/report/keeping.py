"""Which record and which report of a run replace those that are there.

A run that failed, or found artifacts damaged, must not take the place of one that knew more: then
its record lies beside as ``run-failed.json``, and the good report stays.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from raythief.artifacts import Storage
from raythief.errors import UserError
from raythief.report import KnowsLessError, Place, headline, write
from raythief.report.places import newest
from raythief.report.records import Record, read_record

FAILED = "run-failed.json"
"""Record of a run after which the one that was there stayed."""


def keep(
    storage: Storage,
    place: Place,
    record: Mapping[str, Any],
    console: Console,
    beside: Mapping[str, bytes] | None = None,
) -> str:
    """Keep a run's record and write its report, unless those that are there know more.

    Args:
        storage: Where.
        place: The run.
        record: Plain values, as ``Record`` reads them.
        console: Told what the run came to, or what stays as it was.
        beside: Content of further files that belong to the record, by name.

    Returns:
        Address of the run's report.
    """
    text = json.dumps(record, indent=1, ensure_ascii=False).encode("utf-8", "replace")
    address = storage.address(f"{storage.root}/{place.page}")
    lost = _done(_there(storage, place)) - _done(Record.model_validate(record))
    if lost:
        storage.write_bytes(f"{place.folder}/{FAILED}", text)
        _say(
            console,
            f"{address}: stays as it is, for it has {_counted(len(lost))} that failed now; what "
            f"happened is in {FAILED} beside it",
        )
        return address
    for name, content in (beside or {}).items():
        storage.write_bytes(f"{place.folder}/{name}", content)
    storage.write_bytes(place.record, text)
    with contextlib.suppress(FileNotFoundError):
        storage.fs.delete_file(f"{storage.root}/{place.folder}/{FAILED}")
    try:
        write(storage, place, as_newest=_takes_the_name(storage, place))
    except KnowsLessError as kept:
        _say(console, str(kept))
    else:
        _say(console, headline(storage, place))
    return address


def _there(storage: Storage, place: Place) -> Record | None:
    """The record that is there; None where there is none that could be read."""
    try:
        return read_record(storage, place)
    except UserError:
        return None


def _done(record: Record | None) -> set[tuple[str, int, int]]:
    """The rows that are done, by what tells them apart."""
    rows = record.rows if record else ()
    return {(row.variant, row.seed, row.repeat) for row in rows if row.status == "done"}


def _takes_the_name(storage: Storage, place: Place) -> bool:
    """Whether the name is to mean this run: with nothing to show it takes it from none that has."""
    so_far = newest(storage, place.name)
    if so_far is None or so_far == place.fingerprint:
        return True
    shown, own = (_done(_there(storage, Place(place.name, one)))
                  for one in (so_far, place.fingerprint))  # fmt: skip
    return bool(own or not shown)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _counted(rows: int) -> str:
    return f"{rows} row{'s' if rows > 1 else ''}"
