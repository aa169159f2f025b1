"""The paper's numbers beside ours.

A difference is drawn only where the two are the same thing: the paper's models, and an evaluation
set as large as the paper's. Otherwise its numbers stand there for reference, and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raythief import paper
from raythief.report.blocks import (
    DASH,
    Block,
    Cell,
    Section,
    Sheet,
    Table,
    Text,
    listed,
    percent,
    points,
)
from raythief.report.cast import is_miniature
from raythief.report.measures import Measure, Series, languages_of, student, wilson
from raythief.report.records import Run
from raythief.report.scores import header_of, plain_cell

_OTHER_TASK = (
    "This run is not the paper's experiment: its task, its data or its models are others, so the "
    "paper's numbers stand here for reference only, and no difference is drawn."
)

_SOME_OTHERS = (
    "Where no difference is drawn, the data or the models of the row are not the paper's, and its "
    "numbers stand there for reference only."
)

_INTERVAL = (
    "Intervals take the items of the two for drawn apart, though they are the same ones, and so "
    "are wide; they hold the luck of training where our seeds are several, and never that of the "
    "paper's one run. A difference whose interval holds 0 is none to speak of."
)


def beside_the_paper(run: Run, series: Sequence[Series]) -> Section | None:
    """The paper's numbers, with the difference where the two are the same task and models."""
    if run.spec is None:
        return None
    if run.spec.paper is None:
        return _reference() if is_miniature(run) else None
    table = run.spec.paper
    chosen = paper.SETS[table]
    languages = languages_of(series, chosen)
    matched = [(one, _row(one, table)) for one in series if one.languages(chosen)]
    pairs = [(one, row, _comparable(one, row, chosen)) for one, row in matched if row]
    compared = [
        (one, same, _compared(one, row, chosen, languages, same)) for one, row, same in pairs
    ]
    rows = [line for one, same, cells in compared for line in _lines(one, same, cells)]
    blocks: list[Block] = []
    if is_miniature(run) or not any(same for _, _, same in pairs):
        blocks.append(Text(_OTHER_TASK))
    elif not all(same for _, _, same in pairs):
        blocks.append(Text(_SOME_OTHERS))
    sheets = []
    if rows:
        caption = (
            f"Ours beside the paper's {paper.TITLES[table]}, on {chosen}, in per cent; the "
            "difference in points ± half its 95 % interval. The paper has one run of each row and "
            "no spread."
        )
        notes = _sources(series, table)
        if any(same for _, same, _ in compared):
            notes.insert(0, _INTERVAL)
        header = header_of(languages, row=2)
        blocks.append(Table(caption, header, rows, heads=2, notes=notes, csv="paper.csv"))
        sheets.append(_sheet(compared, languages))
    else:
        names = listed([f"“{row.name}”" for row in paper.TABLES[table]])
        blocks.append(
            Text(
                f"No evaluated row goes by a name of the paper's {paper.TITLES[table]} on "
                f"{chosen}, so nothing is compared. Its rows are {names}."
            )
        )
    return Section("paper", "Beside the paper", blocks, sheets)


def _reference() -> Section:
    row = paper.find("table2", "XLMR-Large, 0 %")
    assert row is not None and row.elsewhere is not None  # a row of our own table
    text = (
        "This run is in miniature: a small made-up task and small models, so its numbers cannot "
        "be set against the paper's. For reference only: at full size the paper reports "
        f"{row.accuracy['en']} % in English and {row.elsewhere:.1f} % on average in 14 other "
        "languages for gibberish alone (XNLI, RoBERTa-Large to XLMR-Large)."
    )
    return Section("paper", "Beside the paper", [Text(text)])


def _row(one: Series, table: paper.Table) -> paper.Row | None:
    """The paper's row for one of ours; its victim was scored on MNLI alone (Table 1)."""
    if not one.is_victim:
        return paper.find(table, one.name)
    model = paper.model_name(one.spec.victim.model) if one.spec else None
    return paper.VICTIM if table == "table1" and model == paper.VICTIM.name else None


def _comparable(one: Series, row: paper.Row, chosen: str) -> bool:
    """Whether the models are the row's, and the set is as large as the paper's."""
    pairs = one.spec.evaluation.sets.get(chosen) if one.spec else None
    if one.spec is None or pairs is None or pairs.source in ("miniature", "queries"):
        return False
    counts = {
        score.count for sets in one.samples.values() for score in sets.get(chosen, {}).values()
    }
    if counts != {paper.ITEMS[chosen]}:
        return False
    if row.victim and paper.model_name(one.spec.victim.model) != row.victim:
        return False
    ours = one.spec.victim.model if one.is_victim else one.spec.extractor.model
    return paper.model_name(ours) == (row.extractor or row.name)


@dataclass(frozen=True)
class _Compared:
    """One number of ours and the paper's, and their difference where it may be drawn."""

    ours: Measure | None
    theirs: float | None
    """Per cent, as printed."""
    gap: tuple[float, float, float] | None = None
    """Ours less theirs, with its 95 % interval."""


def _compared(
    one: Series, row: paper.Row, chosen: str, languages: Sequence[str], same: bool
) -> list[_Compared]:
    ours = [one.accuracy(chosen, code) for code in languages]
    theirs = [row.accuracy.get(code) for code in languages]
    if row.by_chance:
        theirs = [100 * measure.chance if measure else None for measure in ours]
    if len(languages) > 1:
        ours.append(one.elsewhere(chosen))
        whole = {code for code in languages if code != "en"} == row.accuracy.keys() - {"en"}
        theirs.append(row.elsewhere if whole else None)
    return [
        _Compared(a, b, _gap(a, b / 100, paper.ITEMS[chosen]) if same and a and b else None)
        for a, b in zip(ours, theirs, strict=True)
    ]


def _gap(ours: Measure, theirs: float, items: int) -> tuple[float, float, float]:
    """Ours less theirs, as if test items had been drawn separately for each, and the luck of our
    seeds where there are several."""
    low, high = wilson(theirs, items)
    half = math.hypot(ours.items, (high - low) / 2, student(ours.values) or 0.0)
    gap = ours.mean - theirs
    return gap, gap - half, gap + half


def _lines(one: Series, same: bool, cells: Sequence[_Compared]) -> list[list[Cell]]:
    lines = [
        [Cell(one.name), Cell("ours"), *(plain_cell(cell.ours) for cell in cells)],
        [Cell(""), Cell("paper"), *(_paper_cell(cell.theirs) for cell in cells)],
    ]
    if same:
        lines.append([Cell(""), Cell("difference"), *(_gap_cell(cell.gap) for cell in cells)])
    return lines


def _gap_cell(gap: tuple[float, float, float] | None) -> Cell:
    if gap is None:
        return Cell(DASH, muted=True)
    mean, _, high = gap
    return Cell(points(mean), f"± {percent(high - mean)}")


def _sheet(
    compared: Sequence[tuple[Series, bool, Sequence[_Compared]]], languages: Sequence[str]
) -> Sheet:
    header = ("row", "language", "ours", "paper", "difference", "low", "high")
    places = [*languages, *(["others"] if len(languages) > 1 else [])]
    rows = [
        (one.name, place, cell.ours.mean if cell.ours else None,
         None if cell.theirs is None else cell.theirs / 100, *(cell.gap or (None, None, None)))
        for one, _, cells in compared
        for place, cell in zip(places, cells, strict=True)
    ]  # fmt: skip
    return Sheet("paper.csv", header, rows)


def _paper_cell(value: float | None) -> Cell:
    return Cell(DASH if value is None else f"{value:.1f}", muted=True)


def _sources(series: Sequence[Series], table: paper.Table) -> list[str]:
    """Name those whom the paper quotes; the rest are its own."""
    quoted = []
    for one in series:
        row = paper.find(table, one.name)
        if row and row.source != paper.PAPER:
            quoted.append(f"“{row.name}” is quoted by the paper from {row.source}.")
        if row and row.by_chance:
            quoted.append(
                f"For “{row.name}” the paper says “random chance” and no number: here stands what "
                "always giving our set's commonest label comes to."
            )
    return quoted
