"""The section on a sweep's trials: its configurations, the course of the search, what it cost.

It is made from the run record alone, but for intervals by test items, which are made from the
manifests of the evaluations. What follows for a choice is told by ``choices``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raythief.report import sweepfigures
from raythief.report.blocks import (
    DASH,
    NBSP,
    Block,
    Cell,
    Picture,
    Section,
    Sheet,
    Table,
    Text,
    counted,
    listed,
    number,
    percent,
)
from raythief.report.cast import in_miniature
from raythief.report.languages import name as language_name
from raythief.report.records import Row, Run, Sweep
from raythief.report.trials import (
    Configuration,
    Estimate,
    chance,
    configurations,
    contenders,
    hours,
    is_number,
    key,
    scored,
    spending,
    unseen,
)

LEADING = 5
"""Configurations that figures tell apart, and that the sections of every run show."""
TABLE = 20
"""Configurations that are not folded away."""
_BEFORE_REAL = "stopped before its real data"
INTERVAL = f"95{NBSP}%{NBSP}interval"


@dataclass(frozen=True)
class Search:
    """A sweep, and its configurations, best first."""

    run: Run
    sweep: Sweep
    ranked: Sequence[Configuration]
    names: Mapping[str, str]
    """What each searched field is called in tables and figures, by its path."""

    @property
    def best(self) -> Configuration | None:
        """The best that was evaluated."""
        return next(iter(contenders(self.ranked)), None)

    def label(self, one: Configuration) -> str:
        """t003: learning_rate 1e-05, placement after."""
        values = [f"{name} {shown(one.parameters[path])}" for path, name in self.names.items()
                  if path in one.parameters]  # fmt: skip
        return f"{one.name}: {', '.join(values)}" if values else one.name


def search(run: Run) -> Search | None:
    """The sweep of a run; none where its rows are no trials."""
    sweep = run.record.sweep
    if sweep is None:
        return None
    had = dict.fromkeys(path for row in run.record.rows for path in row.parameters)
    searched = [path for path in sweep.parameters if path in had]
    names = _names(list(dict.fromkeys([*searched, *had])))
    return Search(run, sweep, configurations(run), names)


def headline(found: Search) -> list[str]:
    """What the sweep came to: the best configuration, then the trials and their price."""
    best, evaluated = found.best, sum(one.score is not None for one in found.ranked)
    if best is None or best.score is None:
        said = in_miniature(found.run, "No trial of this sweep has been evaluated.")
        return [f"{said} {_tally(found)}"]
    lead = (
        f"The best of {counted(evaluated, 'evaluated configuration')} by {goal(found.sweep)} is "
        f"“{found.label(best)}”: {_score_words(best.score)}.{_beside_chance(found, best)}"
    )
    return [in_miniature(found.run, lead), f"{_tally(found)} {_caution(found, evaluated)}".strip()]


def leading(found: Search) -> Run:
    """The run with only the best configurations, as variants, a seed for each repeat.

    What sections say of a row, they say of a configuration then; a table of all would hide more
    than it shows.
    """
    rows, specs = [], {}
    for one in contenders(found.ranked)[:LEADING]:
        label = found.label(one)
        alike = len({row.seed for row in one.rows}) < len(one.rows)
        if own := found.run.variants.get(one.rows[0].variant):
            specs[label] = own
        for i, row in enumerate(one.rows):
            seed = i if alike else row.seed
            rows.append(row.model_copy(update={"variant": label, "seed": seed}))
    record = found.run.record.model_copy(update={"rows": tuple(rows)})
    return replace(found.run, record=record, variants=specs)


def restricted(found: Search, section: Section | None) -> Section | None:
    """Say of a section that it shows the best configurations alone."""
    whole, some = len(found.ranked), len(contenders(found.ranked)[:LEADING])
    if section is None or some == whole:
        return section
    said = f"Of the {counted(whole, 'configuration')} of the sweep, the best {some} are shown."
    return replace(section, blocks=[Text(said), *section.blocks])


def trials(found: Search) -> Section:
    """Every configuration, and the course of the search."""
    blocks: list[Block] = []
    sheets = [_trial_sheet(found)]
    if found.ranked:
        blocks += _tables(found)
        if panels := _slices(found):
            blocks.append(
                Picture(
                    "slices",
                    sweepfigures.slices(panels),
                    "Points of the objective against each parameter",
                    f"{objective(found.sweep)} of each trial against each parameter; where others"
                    " were searched too, they vary along with it.",
                    "trials.csv",
                )
            )
    looks = [(row.trial, row.repeat, look.stage, look.step, look.score)
             for row in found.run.record.rows for look in row.looks]  # fmt: skip
    if paths := _paths(found):
        caption = (
            f"{objective(found.sweep)} by optimiser step, as it was looked at on the way; a line "
            "for each trial, the best configurations in styles of their own."
        )
        svg = sweepfigures.courses(paths)
        blocks.append(Picture("looks", svg, "Curves of the objective by step", caption,
                              "looks.csv"))  # fmt: skip
        header = ("trial", "repeat", "stage", "step", "objective")
        sheets.append(Sheet("looks.csv", header, looks))
    budget, sheet = _budget(found)
    return Section(
        "search",
        "The search",
        [*blocks, *budget],
        [*sheets, *([sheet] if sheet else [])],
    )


def _tables(found: Search) -> list[Block]:
    several = any(len(one.rows) > 1 for one in found.ranked)
    header = [Cell("trial"), *(Cell(name) for name in found.names.values())]
    header += [Cell("objective", "%"), Cell(INTERVAL, "%")]
    header += [Cell("repeats", "evaluated")] if several else []
    header += [Cell("state"), Cell("steps"), Cell("hours", found.sweep.unit)]
    rows = [_line(found, one, several) for one in found.ranked]
    over = "the wider of that over repeats (Student's t) and that of the test items"
    caption = (
        f"Configurations, best first, by {objective(found.sweep, False)}"
        + (": means over repeats. " if several else ". ")
        + f"Intervals are {over if several else 'those of the test items alone'}."
    )
    notes = []
    if any(one.last_look is not None and not one.score for one in found.ranked):
        notes.append("‡ the last look of a trial that was stopped; it was not evaluated.")
    if any(one.cut for one in found.ranked):
        notes.append(
            "§ the scheduler stopped some of the repeats, so the mean is that of those which did "
            "well enough, and too high; it comes after all that are whole."
        )
    blocks: list[Block] = [Table(caption, header, rows[:TABLE], notes=notes, csv="trials.csv")]
    if len(rows) > TABLE:
        rest = counted(len(rows) - TABLE, "more configuration")
        blocks.append(Table(caption, header, rows[TABLE:], notes=notes, csv="trials.csv",
                            fold=f"{rest}, from rank {TABLE + 1} on"))  # fmt: skip
    return blocks


def _line(found: Search, one: Configuration, several: bool) -> list[Cell]:
    values = [shown(one.parameters[p]) if p in one.parameters else DASH for p in found.names]
    cells = [Cell(one.name, _more(one)), *(Cell(value, muted=value == DASH) for value in values)]
    score, last = one.score, one.last_look
    if score:
        cells += [Cell(percent(score.mean), mark="§" if one.cut else ""), Cell(_reach(score))]
    elif last is not None:
        cells += [Cell(percent(last), mark="‡", muted=True), Cell(DASH, muted=True)]
    else:
        cells += [Cell(DASH, muted=True)] * 2
    cells += [Cell(f"{len(one.done)} of {len(one.rows)}")] if several else []
    steps = [row.steps for row in one.rows if row.steps is not None]
    return [
        *cells,
        Cell(_state(one)),
        Cell(number(max(steps, default=None))),
        Cell(_hours(hours(one.rows))),
    ]


def _more(one: Configuration) -> str:
    others = [row.trial for row in one.rows[1:] if row.trial]
    return (
        f"and {listed(others)}" if 0 < len(others) < 4 else f"and {len(others)}" if others else ""
    )


def _state(one: Configuration) -> str:
    states = [_BEFORE_REAL if unseen(row) else row.status for row in one.rows]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    single = len(states) == 1
    words = [state if single else f"{count} {state}" for state, count in counts.items()]
    if collapsed := sum(bool(row.collapse) for row in one.rows):
        words.append("collapsed" if single else f"{collapsed} collapsed")
    return ", ".join(words)


def _trial_sheet(found: Search) -> Sheet:
    rows = found.run.record.rows
    names = list(dict.fromkeys(rule for row in rows for rule in row.scores))
    header = ["rank", "trial", "repeat", "seed", "status", *found.names, "objective", "steps"]
    header += ["ended_seconds", "seconds", "hours", "collapse", "error"]
    header += [f"score:{rule}" for rule in names]
    lines = [
        [rank, row.trial, row.repeat, row.seed, row.status,
         *(_raw(row.parameters.get(path)) for path in found.names), row.objective, row.steps,
         row.ended, row.seconds, row.hours, "; ".join(row.collapse), row.error,
         *(row.scores.get(rule) for rule in names)]
        for rank, one in enumerate(found.ranked, 1)
        for row in one.rows
    ]  # fmt: skip
    return Sheet("trials.csv", header, lines)


# --- figures of the trials ----------------------------------------------------------------------


def _slices(found: Search) -> list[sweepfigures.Slice]:
    drawn = [
        (row, row.objective)
        for row in found.run.record.rows
        if row.status in ("done", "stopped") and row.objective is not None
    ]
    panels = []
    for path, name in found.names.items():
        own = [(row.parameters[path], score, _mark(found, row)) for row, score in drawn
               if path in row.parameters]  # fmt: skip
        if own:
            panels.append(_slice(name, found.sweep.parameters.get(path, {}), own))
    return panels


def _slice(
    name: str, domain: Mapping[str, Any], drawn: Sequence[tuple[Any, float, sweepfigures.State]]
) -> sweepfigures.Slice:
    numeric = all(is_number(value) for value, _, _ in drawn)
    values = {_key(value, numeric): value for value, _, _ in drawn}
    # Words stand in the order of their grid, and what a grid does not hold after it, by name.
    listing = [domain.get(kind) for kind in ("grid", "choice")]
    order = {_key(value, False): i for grid in listing if isinstance(grid, list)
             for i, value in enumerate(grid)}  # fmt: skip
    ranked = sorted(values, key=float) if numeric else sorted(
        values, key=lambda value: (order.get(value, len(order)), str(value))
    )  # fmt: skip
    places = {value: i for i, value in enumerate(ranked)}
    numbers = [float(value) for value in ranked] if numeric else None
    positive = [value for value in numbers or () if value > 0]
    # 1.5 decades: beyond, most of a linear axis would hold the largest value alone.
    wide = len(positive) > 1 and math.log10(positive[-1]) - math.log10(positive[0]) > 1.5
    marks = [(places[_key(value, numeric)], score, state)
             for value, score, state in drawn]  # fmt: skip
    labels = [_tail(shown(values[value])) for value in ranked]
    return sweepfigures.Slice(name, "loguniform" in domain or wide, marks, labels, numbers)


def _key(value: Any, numeric: bool) -> str:
    """1 and 1.0 are one number, but two words."""
    return repr(float(value)) if numeric else json.dumps(value, sort_keys=True)


def _mark(found: Search, row: Row) -> sweepfigures.State:
    if found.best and scored(row) and key(row.parameters) == key(found.best.parameters):
        return "best"
    if row.status == "stopped":
        return "stopped"
    return "collapsed" if row.collapse else "done"


def _paths(found: Search) -> list[sweepfigures.Path]:
    best = [one.name for one in contenders(found.ranked)[:LEADING]]
    paths = []
    for one in found.ranked:
        rank, label = (best.index(one.name), found.label(one)) if one.name in best else (None, "")
        for row in one.rows:
            seen = [(look.step, look.score) for look in row.looks if look.score is not None]
            if seen:
                seen.sort()
                paths.append(sweepfigures.Path(seen, row.status == "stopped", label, rank))
                label = ""  # one entry a configuration
    return paths


def _budget(found: Search) -> tuple[list[Block], Sheet | None]:
    course = spending(found.run, found.ranked)
    if not course:
        return [], None
    values = [(one.row.trial, one.row.repeat, one.row.status, one.row.ended, one.row.hours,
               one.hours, one.row.objective, one.best) for one in course]  # fmt: skip
    header = ("trial", "repeat", "status", "ended_seconds", "hours", "hours_so_far", "objective",
              "best_so_far")  # fmt: skip
    sheet = Sheet("budget.csv", header, values)
    if not course[-1].hours:
        said = "All of it was found on storage, or no hours were recorded, so no hours are drawn."
        return [Text(said)], sheet
    marks = [(one.hours, one.row.objective, _mark(found, one.row)) for one in course
             if one.row.status in ("done", "stopped")]  # fmt: skip
    steps = [(one.hours, one.best) for one in course if one.best is not None]
    several = any(len(one.rows) > 1 for one in found.ranked)
    caption = (
        f"{objective(found.sweep)} of the best configuration so far, against the "
        f"{found.sweep.unit} hours of all trials that had ended"
        + ("; a configuration counts, with its mean, once all its repeats have ended." if several
           else ".")
    )  # fmt: skip
    svg = sweepfigures.budget(marks, steps, found.sweep.unit)
    alt = "A stepped curve of the best objective so far by hours"
    return [Picture("budget", svg, alt, caption, "budget.csv")], sheet


# --- words --------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A parameter's value, short: 1e-05, true, or the text itself."""
    if value is None or isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _raw(value: Any) -> Any:
    """A value as a sheet can hold it, in full precision."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


def _tail(text: str) -> str:
    """A model's name without its owner, for a figure."""
    return text.rpartition("/")[2] or text


def _names(paths: Sequence[str]) -> dict[str, str]:
    """The last part of each path, or as many parts as tell it from the others."""
    names = {}
    for path in paths:
        parts = path.split(".")
        tails = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
        others = [other for other in paths if other != path]
        unlike = (
            tail for tail in tails
            if not any(other == tail or other.endswith(f".{tail}") for other in others)
        )  # fmt: skip
        names[path] = next(unlike, path)
    return names


def goal(sweep: Sweep) -> str:
    """What was maximised, in words."""
    if not sweep.objective:
        return "an objective that was not recorded"
    if sweep.objective in sweep.agreement:
        return f"agreement with the victim on queries that are held back ({sweep.objective})"
    chosen, _, language = sweep.objective.rpartition("/")
    if chosen:
        return f"accuracy in {language_name(language)} on {chosen}"
    return f"mean accuracy over the languages of {sweep.objective}"


def objective(sweep: Sweep, start: bool = True) -> str:
    """The same in a caption, beside tables and axes that speak of the objective."""
    return f"{'The' if start else 'the'} objective ({goal(sweep)})"


def _tally(found: Search) -> str:
    """How many trials there were, how they ended, how they were chosen, and their price."""
    rows = found.run.record.rows
    states = [row.status for row in rows]
    ends = [f"{states.count(state)} {word}" for state, word in _ENDS.items() if state in states]
    collapsed = sum(bool(row.collapse) for row in rows)
    parts = [
        f"{counted(len(rows), 'trial')}: {listed(ends)}." if ends else "There is no trial yet."
    ]
    if collapsed:
        parts.append(f"{collapsed} showed signs of a collapse; none is left out for it.")
    if found.sweep.searcher:
        scheduler = found.sweep.scheduler or "none"
        parts.append(f"The searcher was {found.sweep.searcher}, the scheduler {scheduler}.")
    spent = hours(rows)
    if spent is not None:
        parts.append(f"They cost {' '.join([_hours(spent), found.sweep.unit]).strip()} hours.")
    return " ".join(parts)


_ENDS = {
    "done": "done",
    "stopped": "stopped by the scheduler",
    "failed": "failed",
    "running": "still running",
}


def _caution(found: Search, evaluated: int) -> str:
    if evaluated < 2:
        return ""
    return (
        f"The score is the highest of {evaluated} on the data that it was chosen on, and so too "
        "high for others: judge the choice on data that no trial saw."
    )


def _score_words(score: Estimate) -> str:
    if score.low is None or score.high is None:
        return f"{percent(score.mean)} % (one repeat)"
    over = f"over {score.count} repeats" if score.count > 1 else "of the test items; one repeat"
    return f"{percent(score.mean)} % ({_reach(score)} by the {INTERVAL} {over})"


def _beside_chance(found: Search, best: Configuration) -> str:
    """What a guess would come to, and whether the best is above it."""
    level, low = chance(found.run, best), best.score.low if best.score else None
    if level is None:
        return ""
    doubt = "That is not above chance: a" if low is not None and low <= level else "A"
    return f" {doubt} guess would come to {percent(level)} %."


def _reach(score: Estimate) -> str:
    if score.low is None or score.high is None:
        return DASH
    return NBSP.join((percent(score.low), "to", percent(score.high))).replace("-", "−")


def _hours(value: float | None) -> str:
    return DASH if value is None else f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
