"""What a sweep leaves: a record for the report, tables, and the best spec."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import yaml
from rich.console import Console
from rich.table import Table

from raythief import capacity
from raythief.artifacts import Storage
from raythief.config import Spec
from raythief.errors import UserError
from raythief.report import Place, keeping
from raythief.sweep import space
from raythief.sweep.board import Entry


def conclude(
    spec: Spec,
    storage: Storage,
    place: Place,
    entries: Sequence[Entry],
    command: str,
    started: float,
    console: Console,
) -> dict[str, Any]:
    """Write record, tables, best spec and report, and show the trials.

    Returns:
        The run record, with ``best`` (the best configuration in words), ``best_spec`` and
        ``report``.

    Raises:
        UserError: all trials failed.
    """
    ordered = sorted(entries, key=lambda entry: entry.name)
    points = [entry.point for entry in ordered]
    # Optuna may try a configuration again, which finds what is there: no repetition to learn from.
    entries = [one for i, one in enumerate(ordered) if one.point not in points[:i]]
    unit, held = capacity.held(spec.resources)
    rows = [row for entry in entries for row in _rows(spec, entry, started, held)]
    done = sorted((e for e in entries if e.status == "done"), key=lambda e: -e.objective)
    sweep = spec.sweep.model_dump(mode="json", exclude_unset=True)
    record: dict[str, Any] = {
        "name": place.name,
        "title": f"{spec.title or spec.name}: sweep",
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "spec": spec.model_dump(mode="json"),
        "sweep": {
            "objective": spec.sweep.objective,
            "agreement": sorted(spec.queries_sets),
            "parameters": sweep["parameters"],
            "searcher": spec.sweep.searcher,
            "scheduler": "asha" if spec.sweep.asha else "none",
            "repeats": spec.sweep.repeats,
            "unit": unit,
        },
        "rows": rows,
    }
    beside = _tables(rows)
    if done:
        best = space.chosen(spec, done[0].point).model_dump(mode="json", exclude_unset=True)
        text = yaml.safe_dump(best, sort_keys=False, allow_unicode=True)
        beside["best.yaml"] = text.encode()
        _show(spec, entries, console)
    found = keeping.keep(storage, place, record, console, beside)
    if not done:
        failed = next((one for one in entries if one.error), None)
        raise UserError(
            f"sweep: all {len(entries)} trials failed: {failed.error}"
            if failed
            else "sweep: all trials were stopped before their end; give asha more grace"
        )
    record["best"] = space.title(done[0].point)
    record["best_spec"] = storage.address(f"{storage.root}/{place.folder}/best.yaml")
    record["report"] = found
    return record


def _rows(spec: Spec, entry: Entry, started: float, held: float) -> list[dict[str, Any]]:
    """A row of the record for each repetition; one where there is none."""
    made = entry.runs if entry.status == "done" else []
    common = {
        "trial": entry.name,
        "variant": space.title(entry.point),
        "parameters": entry.point,
        "status": entry.status,
        "error": entry.error,
        "looks": entry.looks,
        "steps": int(entry.looks[-1]["step"]) if entry.looks else None,
        "ended": round(entry.ended - started, 1),
    }
    if not made:
        score = None if math.isnan(entry.objective) else entry.objective
        hours = entry.seconds * held / 3600
        return [
            {
                **common,
                "seed": spec.seed,
                "repeat": 0,
                "objective": score,
                "hours": hours,
                "seconds": round(entry.seconds, 1),
                "scores": {},
                "stages": {},
                "collapse": [],
            }
        ]
    share = entry.seconds / len(made)
    return [
        {**common, **run, "hours": share * held / 3600, "seconds": round(share, 1)} for run in made
    ]


def _tables(rows: Sequence[dict[str, Any]]) -> dict[str, bytes]:
    """All trials as parquet and CSV, a row each; parameters and scores have their own columns."""
    flat = [
        {
            **{name: row.get(name) for name in _COLUMNS},
            **{field: _plain(value) for field, value in row["parameters"].items()},
            **{f"score:{rule}": score for rule, score in row["scores"].items()},
        }
        for row in rows
    ]
    names = list(dict.fromkeys(name for row in flat for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in flat]
        kinds = {type(value) for value in values if value is not None}
        mixed = not (len(kinds) < 2 or kinds <= {int, float})
        columns[name] = [None if v is None else str(v) for v in values] if mixed else values
    table = pa.table(columns)
    parquet, csv = io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(table, parquet)
    pyarrow.csv.write_csv(table, csv)
    return {"trials.parquet": parquet.getvalue(), "trials.csv": csv.getvalue()}


_COLUMNS = (
    "trial", "repeat", "seed", "status", "objective", "steps", "hours", "seconds", "usd", "error"
)  # fmt: skip


def _plain(value: Any) -> Any:
    """A value that a table's column can hold."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _show(spec: Spec, entries: Sequence[Entry], console: Console) -> None:
    unsaid = [one for one in entries if one.status != "done"]
    done = sorted((e for e in entries if e.status == "done"), key=lambda e: -e.objective)
    table = Table(title=f"Trials by {spec.sweep.objective}", title_justify="left")
    for column in ("Trial", "Configuration", "Score %", "Seconds", ""):
        table.add_column(column, justify="left" if column in ("Configuration", "") else "right")
    for one in [*done, *unsaid]:
        score = "" if math.isnan(one.objective) else f"{100 * one.objective:.2f}"
        signs = sorted({sign for run in one.runs for sign in run["collapse"]})
        told = one.error or ("" if one.status == "done" else one.status)
        note = told or ("collapsed: " + ", ".join(signs) if signs else "")
        table.add_row(one.name, space.title(one.point), score, f"{one.seconds:.0f}", note)
    console.print(table)
