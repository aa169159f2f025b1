"""Sections on how well the models do: accuracy, agreement, classes and confusions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from raythief.config import LABELS
from raythief.report import figures
from raythief.report.blocks import (
    DASH,
    NBSP,
    Block,
    Cell,
    Picture,
    Section,
    Sheet,
    Table,
    counted,
    listed,
    percent,
    points,
)
from raythief.report.cast import Cast
from raythief.report.languages import OWN_NAMES, by_family, by_script, in_table_order
from raythief.report.languages import name as language_name
from raythief.report.measures import Measure, Series, chances, languages_of, sets_of
from raythief.report.records import Run
from raythief.results import Score

ELSEWHERE = Cell("mean", "others")


def accuracy(run: Run, series: Sequence[Series], parts: Cast | None) -> Section:
    """Table and figures of accuracy for each evaluation set."""
    blocks: list[Block] = []
    sheets: list[Sheet] = [_sheet(series)]
    for chosen in sets_of(run, series):
        if run.of_queries(chosen):
            blocks.append(_held_back_table(run, series, chosen))
            continue
        blocks.append(_accuracy_table(run, series, chosen))
        pictures, sheet = _accuracy_pictures(series, chosen, parts)
        blocks += pictures
        sheets += [sheet] if sheet else []
        if len(languages_of(series, chosen)) > 2:
            table, sheet = _groups(series, chosen)
            blocks.append(table)
            sheets.append(sheet)
    return Section("accuracy", "Accuracy by language", blocks, sheets)


def agreement(run: Run, series: Sequence[Series]) -> Section | None:
    """How often each row answers as the victim does."""
    blocks: list[Block] = []
    for chosen in sets_of(run, series):
        rows = []
        languages = languages_of(series, chosen)
        for one in series:
            cells = [plain_cell(one.average(chosen, [code], _agreement)) for code in languages]
            if len(languages) > 1:
                others = [code for code in languages if code != "en"]
                cells.append(plain_cell(one.average(chosen, others, _agreement)))
            if any(cell.text != DASH for cell in cells):
                rows.append([Cell(one.name), *cells])
        if rows:
            caption = (
                f"Agreement with the victim on {chosen}, in per cent: the share of items on which "
                "the row gives the victim's answer, right or wrong."
            )
            blocks.append(Table(caption, header_of(languages), rows, csv="scores.csv"))
    return Section("agreement", "Agreement with the victim", blocks) if blocks else None


def classes(series: Sequence[Series], parts: Cast | None) -> Section | None:
    """Recall by class, the share of the commonest answer, and the confusion matrices."""
    if parts is None:
        return None
    languages = languages_of(series, parts.chosen)
    regions = [("English", ["en"])] if "en" in languages else []
    others = [code for code in languages if code != "en"]
    regions += [("others", others)] if others else []
    if not regions:
        return None
    blocks = [_recall_table(series, parts.chosen, regions)]
    confusion = _confusion_table(series, parts.chosen, regions)
    blocks += [confusion] if confusion.rows else []
    return Section("classes", "Classes and confusions", blocks, [_confusion_sheet(series)])


# --- accuracy -----------------------------------------------------------------------------------


def _accuracy_table(run: Run, series: Sequence[Series], chosen: str) -> Table:
    languages = languages_of(series, chosen)
    rows = [_accuracy_row(run, one, chosen, languages) for one in series]
    rows.append(_chance_row(series, chosen))
    items, spread = _items(series, chosen), _spread(series)
    caption = f"Accuracy on {chosen} in per cent ({items} items a language): {spread}."
    notes = [
        "† not above chance by its 95 % interval in every seed. Chance is what always giving the "
        "commonest gold label would come to."
    ]
    return Table(caption, header_of(languages), rows, notes=notes, csv="scores.csv")


def _held_back_table(run: Run, series: Sequence[Series], chosen: str) -> Table:
    """Accuracy where the victim's answers are the labels, of the rows that bought some."""
    buyers = [
        one
        for one in series
        if not one.is_victim and not (one.spec and one.spec.real.placement == "only")
    ]
    caption = (
        f"Agreement with the victim on {chosen}, in per cent ({_items(series, chosen)} gibberish "
        f"queries that were bought and that no row learned from): {_spread(series)}."
    )
    notes = [
        "The labels are the victim's answers, so accuracy on them is agreement with it: all that "
        "a thief without real data can measure. It says nothing of how well a row does the task.",
        "† not above chance by its 95 % interval in every seed. Chance is what always giving the "
        "victim's commonest answer would come to.",
    ]
    rows = [_accuracy_row(run, one, chosen, ["en"]) for one in buyers]
    rows.append(_chance_row(series, chosen))
    header = [Cell("model"), Cell("agreement", "held-out gibberish")]
    return Table(caption, header, rows, notes=notes, csv="scores.csv")


def _items(series: Sequence[Series], chosen: str) -> str:
    """How many items a language has, over rows and seeds."""
    counts = {score.count for one in series for s in one.samples.values() for score in
              s.get(chosen, {}).values()}  # fmt: skip
    return f"{min(counts):,}" if len(counts) == 1 else f"{min(counts):,} to {max(counts):,}"


def _spread(series: Sequence[Series]) -> str:
    """What stands behind ±."""
    seeds = max((len(one.samples) for one in series), default=0)
    if seeds > 1:
        return f"mean ± standard deviation over up to {seeds} seeds"
    return "± half the 95 % interval of the test items; one seed"


def _chance_row(series: Sequence[Series], chosen: str) -> list[Cell]:
    """Chance in each language and, of several, its mean over the others than English."""
    levels = chances(series, chosen)
    cells = [percent(level) for level in levels.values()]
    if others := [level for code, level in levels.items() if code != "en"]:
        cells += [percent(statistics.fmean(others))] if len(levels) > 1 else []
    return [Cell("chance", muted=True), *(Cell(text, muted=True) for text in cells)]


def _accuracy_row(run: Run, one: Series, chosen: str, languages: Sequence[str]) -> list[Cell]:
    states = [row.status for row in run.record.rows if row.variant == one.name]
    lost = sum(state != "done" for state in states) if not one.is_victim else 0
    note = f"{lost} of {counted(len(states), 'seed')} not done" if lost and len(states) > 1 else ""
    if not any(chosen in sets for sets in one.samples.values()):
        state = "not run" if not states else "failed" if "failed" in states else "no result"
        state = "running" if "running" in states and "failed" not in states else state
        return [Cell(one.name, state), *_repeat(Cell(DASH, muted=True), languages)]
    cells = [_accuracy_cell(one.accuracy(chosen, code)) for code in languages]
    if len(languages) > 1:
        cells.append(_accuracy_cell(one.elsewhere(chosen)))
    return [Cell(one.name, note), *cells]


def _accuracy_cell(measure: Measure | None) -> Cell:
    if measure is None:
        return Cell(DASH, muted=True)
    spread = measure.sd if measure.sd is not None else measure.margin
    mark = "" if measure.always_above else "†"
    return Cell(percent(measure.mean), f"± {percent(spread)}", mark=mark)


def _accuracy_pictures(
    series: Sequence[Series], chosen: str, parts: Cast | None
) -> tuple[list[Block], Sheet | None]:
    languages = languages_of(series, chosen)
    if len(languages) < 2:
        return [], None
    lines = _lines(series, chosen, languages)
    leads = {one.name for one in _leads(parts)}
    leading = [line for line in lines if line.name in leads] or lines[:3]
    name, file = f"accuracy-{_slug(chosen)}", f"accuracy-{_slug(chosen)}.csv"
    whiskers = "Whiskers: the range over seeds, or the 95 % interval where there is one seed."
    pictures: list[Block] = [
        Picture(
            name,
            figures.accuracy_bars(leading, chances(series, chosen)),
            f"Bars of accuracy on {chosen} by language",
            f"Accuracy on {chosen} of {listed([line.name for line in leading])}; English first, "
            f"then by script and family. {whiskers}",
            file,
        )
    ]
    if len(lines) > len(leading):
        pictures.append(
            Picture(
                f"{name}-all",
                figures.accuracy_dots(lines, chances(series, chosen)),
                f"Points of accuracy on {chosen} by language, for every row",
                f"Accuracy on {chosen} of every row. {whiskers}",
                file,
            )
        )
    header = ("row", "language", "mean", "low", "high")
    values = [(line.name, code, *line.values[code]) for line in lines for code in line.values]
    return pictures, Sheet(file, header, values)


def _groups(series: Sequence[Series], chosen: str) -> tuple[Table, Sheet]:
    """Means by script, then by family; languages go by the names that they give themselves."""
    languages = languages_of(series, chosen)
    shown = [one for one in series if one.languages(chosen)]
    rows, values = [], []
    for kind, groups in (("script", by_script(languages)), ("family", by_family(languages))):
        for i, (group, members) in enumerate(groups):
            measures = [one.over(chosen, members) for one in shown]
            named = ", ".join(OWN_NAMES.get(code, code) for code in members)
            rows.append([Cell(kind if i == 0 else ""), Cell(group, named),
                         *map(plain_cell, measures)])  # fmt: skip
            values += [
                (kind, group, " ".join(members), one.name, measure.mean)
                for one, measure in zip(shown, measures, strict=True)
                if measure
            ]
    file = f"groups-{_slug(chosen)}.csv"
    table = Table(
        f"Mean accuracy on {chosen} by script and by family, in per cent.",
        [Cell("by"), Cell("group"), *(Cell(one.name) for one in shown)],
        rows,
        heads=2,
        csv=file,
        fold="Means by script and by family",
    )
    return table, Sheet(file, ("by", "group", "languages", "row", "mean"), values)


def _lines(series: Sequence[Series], chosen: str, languages: Sequence[str]) -> list[figures.Line]:
    lines = []
    variants = [one.name for one in series if not one.is_victim]
    for one in series:
        look = figures.VICTIM_STYLE if one.is_victim else figures.style(variants.index(one.name))
        values = {}
        for code in languages:
            if measure := one.accuracy(chosen, code):
                values[code] = (measure.mean, *measure.reach)
        if values:
            lines.append(figures.Line(one.name, look, values))
    return lines


def _leads(parts: Cast | None) -> list[Series]:
    if parts is None:
        return []
    return [one for one in (parts.victim, parts.thief, *parts.foreign[:1]) if one]


# --- differences --------------------------------------------------------------------------------


def differences(series: Sequence[Series], parts: Cast) -> Section | None:
    """Every row beside the extraction with gibberish alone, item by item."""
    thief, chosen = parts.thief, parts.chosen
    if thief is None:
        return None
    others = [code for code in thief.languages(chosen) if code != "en"]
    regions = [("English", ["en"]), ("others", others)]
    header = [Cell("row")]
    for place, codes in regions:
        if codes:
            header += [Cell("difference", place), Cell("95 % interval", place)]
    rows, values, seeds = [], [], 0
    for one in series:
        if one is thief:
            continue
        cells = []
        for place, codes in regions:
            apart = one.apart(thief, chosen, codes) if codes else None
            if apart:
                seeds = max(seeds, len(apart.values))
                low, high = apart.mean - apart.margin, apart.mean + apart.margin
                cells += [
                    Cell(points(apart.mean)),
                    Cell(NBSP.join((points(low), "to", points(high)))),
                ]
                values.append((one.name, place, apart.mean, low, high))
            elif codes:
                cells += [Cell(DASH), Cell(DASH)]
        rows.append([Cell(one.name), *cells])
    if not values:
        return None
    caption = (
        f"Percentage points by which a row is right more often than “{thief.name}” on the same "
        f"items of {chosen}; means over the seeds that both have. {_intervals(seeds)} An interval "
        "that holds 0 is no difference to speak of."
    )
    sheet = Sheet("differences.csv", ("row", "languages", "mean", "low", "high"), values)
    table = Table(caption, header, rows, csv="differences.csv")
    return Section("differences", "Beside gibberish alone, item by item", [table], [sheet])


def _intervals(seeds: int) -> str:
    if seeds == 1:
        return "Intervals are paired by item; of one seed, they leave out the luck of training."
    return "Intervals are the wider of that paired by item and that of Student's t over seeds."


# --- classes ------------------------------------------------------------------------------------

Region = tuple[str, Sequence[str]]


def _recall_table(series: Sequence[Series], chosen: str, regions: Sequence[Region]) -> Table:
    header = [Cell("model")]
    for place, _ in regions:
        header += [Cell(label, place) for label in (*LABELS, "majority")]
    rows = []
    for one in series:
        cells = []
        for _, codes in regions:
            for label in LABELS:
                cells.append(plain_cell(one.average(chosen, codes, _recall(label))))
            cells.append(plain_cell(one.average(chosen, codes, lambda s: s.majority_rate)))
        if any(cell.text != DASH for cell in cells):
            rows.append([Cell(one.name), *cells])
    caption = (
        f"Recall by class on {chosen} and the share of the commonest answer (“majority”), in per "
        "cent; means over languages and seeds. A majority of 100 is a constant answer."
    )
    return Table(caption, header, rows, csv="scores.csv")


def _confusion_table(series: Sequence[Series], chosen: str, regions: Sequence[Region]) -> Table:
    header = [Cell("model"), Cell("gold")]
    for place, _ in regions:
        header += [Cell(label, place) for label in LABELS]
    rows = []
    for one in series:
        totals = [_confusion(one, chosen, codes) for _, codes in regions]
        if not any(map(any, (row for matrix in totals for row in matrix))):
            continue
        for i, gold in enumerate(LABELS):
            cells = [Cell(one.name if i == 0 else ""), Cell(gold)]
            for matrix in totals:
                whole = sum(matrix[i])
                for amount in matrix[i]:
                    share = amount / whole if whole else 0.0
                    cells.append(Cell(percent(share) if whole else DASH, share=share))
            rows.append(cells)
    caption = (
        f"Confusions on {chosen}: of the items with a gold label (line), the per cent that got "
        "each answer (column), over all seeds."
    )
    return Table(caption, header, rows, heads=2, csv="confusions.csv")


def _confusion(one: Series, chosen: str, codes: Sequence[str]) -> list[list[int]]:
    total = [[0] * len(LABELS) for _ in LABELS]
    for sets in one.samples.values():
        for code in codes:
            score = sets.get(chosen, {}).get(code)
            for i, line in enumerate(score.confusion or () if score else ()):
                total[i] = [a + b for a, b in zip(total[i], line, strict=True)]
    return total


# --- sheets and helpers -------------------------------------------------------------------------


def _sheet(series: Sequence[Series]) -> Sheet:
    header = ["row", "seed", "set", "language", "count", "accuracy", "low", "high"]
    header += ["majority_rate", "agreement", *(f"recall_{label}" for label in LABELS)]
    rows = [
        [one.name, seed, chosen, code, s.count, s.accuracy, s.low, s.high, s.majority_rate,
         s.agreement, *(s.recall.get(label) for label in LABELS)]
        for one, seed, chosen, code, s in _each(series)
    ]  # fmt: skip
    return Sheet("scores.csv", header, rows)


def _confusion_sheet(series: Sequence[Series]) -> Sheet:
    header = ["row", "seed", "set", "language", "gold", *LABELS]
    rows = [
        [one.name, seed, chosen, code, gold, *line]
        for one, seed, chosen, code, score in _each(series)
        for gold, line in zip(LABELS, score.confusion or (), strict=False)
    ]
    return Sheet("confusions.csv", header, rows)


def _each(series: Sequence[Series]) -> list[tuple[Series, int, str, str, Score]]:
    return [
        (one, seed, chosen, code, scores[code])
        for one in series
        for seed, sets in one.samples.items()
        for chosen, scores in sets.items()
        for code in in_table_order(scores)
    ]


def header_of(languages: Sequence[str], row: int = 1) -> list[Cell]:
    """The row's name in ``row`` columns, the languages and, if there are several, their mean."""
    cells = [Cell("model"), Cell("")][:row]
    cells += [Cell(code, language_name(code)) for code in languages]
    return cells + ([ELSEWHERE] if len(languages) > 1 else [])


def _repeat(cell: Cell, languages: Sequence[str]) -> list[Cell]:
    return [cell] * (len(languages) + (len(languages) > 1))


def plain_cell(measure: Measure | None) -> Cell:
    """A mean, with its standard deviation where there are several seeds."""
    if measure is None:
        return Cell(DASH, muted=True)
    return Cell(percent(measure.mean), f"± {percent(measure.sd)}" if measure.sd is not None else "")


def _agreement(score: Score) -> float | None:
    return score.agreement


def _recall(label: str) -> Callable[[Score], float | None]:
    return lambda score: {str(k): v for k, v in score.recall.items()}.get(label)


def _slug(text: str) -> str:
    """A file name from an evaluation set's name, which a user chose."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)[:40] or "set"
