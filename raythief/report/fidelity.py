"""What so many queries carry off: accuracy and agreement by their number, and their price."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raythief.report import figures
from raythief.report.blocks import DASH, Cell, Picture, Section, Sheet, Table, number, percent
from raythief.report.measures import Measure, Series
from raythief.report.records import Run

Figure = tuple[str, Callable[[Series], Measure | None]]


def fidelity(run: Run, series: Sequence[Series], chosen: str) -> Section | None:
    """Rows that differ in ``extractor.queries`` alone, in the order of their number."""
    rows = steps(series)
    if len(rows) < 2 or run.spec is None:
        return None
    others = [code for code in rows[0][1].languages(chosen) if code != "en"]
    measured: list[Figure] = [("English", lambda one: one.accuracy(chosen, "en"))]
    if others:
        measured.append(("other languages, mean", lambda one: one.elsewhere(chosen)))
    measured.append(("agreement in English", lambda one: one.agreement(chosen, "en")))
    price = run.spec.costs.query_usd
    curves, values = [], []
    chances: list[float] = []
    table = [
        [Cell(number(count)), Cell(f"${count * price:,.2f}" if price else DASH)]
        for count, _ in rows
    ]
    for i, (name, of) in enumerate(measured):
        points = []
        for (count, one), cells in zip(rows, table, strict=True):
            measure = of(one)
            cells.append(Cell(DASH if measure is None else percent(measure.mean)))
            if measure is not None:
                chances += measure.chances
                points.append((count, measure.mean, *measure.reach))
                values.append((name, count, count * price, measure.mean, *measure.reach))
        curves.append((name, figures.style(i), points))
    caption = (
        "By the number of queries, the fewer among the more, of one purchase: accuracy, and "
        "agreement with the victim. Bars are the reach of several seeds, or the 95 % interval of "
        f"one; dotted, the accuracy of a guess. {_length(rows[-1][1])}"
    )
    header = [Cell("queries"), Cell("price"), *(Cell(name, "%") for name, _ in measured)]
    return Section(
        "fidelity",
        "What so many queries carry off",
        [
            Picture(
                "fidelity",
                figures.by_queries(curves, price, chances),
                "Curves of accuracy and agreement by the number of queries",
                caption,
                "fidelity.csv",
            ),
            Table("The same in numbers.", header, table, csv="fidelity.csv"),
        ],
        [Sheet("fidelity.csv", ("measure", "queries", "usd", "mean", "low", "high"), values)],
    )


def steps(series: Sequence[Series]) -> list[tuple[int, Series]]:
    """Number of queries and row, of the largest group that is alike but for that number."""
    groups: dict[str, dict[int, Series]] = {}
    for one in series:
        if one.is_victim or one.spec is None or not one.samples or one.spec.real.fraction:
            continue
        count = one.spec.learned_queries
        extractor = one.spec.extractor.model_copy(update={"queries": None})
        alike = one.spec.model_copy(update={"extractor": extractor, "seed": 0})
        groups.setdefault(alike.model_dump_json(), {}).setdefault(count, one)
    return sorted(max(groups.values(), key=len, default={}).items())


def _length(one: Series) -> str:
    """How long the rows learn: whoever has few queries can go through them more often."""
    assert one.spec is not None
    training = one.spec.extractor.training
    if training.steps is not None:
        return f"Every row takes {training.steps:,} steps, the fewer its queries the more passes."
    passes = "once" if training.epochs == 1 else f"{training.epochs:g} times"
    return (
        f"Every row goes through its queries {passes}, so that few queries are few steps: more "
        "passes can carry off more with them (extractor.training.steps)."
    )
