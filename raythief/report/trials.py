"""Numbers of a sweep: what each configuration scored, which is best, and by how much.

A *trial* is one row of the record; a *configuration* is all trials with equal parameters. It is
judged by the mean over its repeats, never by the luckiest of them.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raythief.report.measures import Series, Sets, scores_of, student, wider, wilson
from raythief.report.records import Row, Run

FRACTION, PLACEMENT = "real.fraction", "real.placement"


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval: the wider of that over several values and over test items."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Gap:
    """A mean difference over pairs, with the half widths of two 95 % intervals."""

    mean: float
    pairs: float | None
    items: float | None
    count: int

    @property
    def margin(self) -> float | None:
        """The wider of the two; None where neither is known."""
        return wider(self.pairs, self.items)


@dataclass(frozen=True)
class Configuration:
    """Trials with equal parameters, one a repeat."""

    name: str
    rows: tuple[Row, ...]
    items: tuple[float, float] | None
    """95 % interval by the test items, of the first repeat that was evaluated."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Field path and value."""
        return self.rows[0].parameters

    @property
    def done(self) -> tuple[Row, ...]:
        """Repeats that were evaluated."""
        return tuple(row for row in self.rows if scored(row))

    @property
    def cut(self) -> bool:
        """Whether the scheduler let only some repeats live: their mean is that of the luckier."""
        return bool(self.done) and any(row.status == "stopped" for row in self.rows)

    @property
    def score(self) -> Estimate | None:
        """The objective over the repeats that were evaluated."""
        values = [row.objective for row in self.done if row.objective is not None]
        return estimate(values, self.items)

    @property
    def last_look(self) -> float | None:
        """Mean of what its stopped repeats last scored."""
        seen = [row.objective for row in self.rows if row.status == "stopped"]
        known = [value for value in seen if value is not None]
        return statistics.fmean(known) if known else None

    def by(self, rule: str) -> float | None:
        """Mean over repeats by a selection rule; None where one of them has no score by it."""
        values = [row.scores.get(rule) for row in self.done]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known and len(known) == len(values) else None


@dataclass(frozen=True)
class Pick:
    """What a selection rule would have chosen."""

    rule: str
    chosen: Configuration
    score: float
    """By the rule itself."""
    equals: int
    """How many others the rule cannot tell from it."""
    loss: Gap
    """The best configuration's objective less this one's."""


@dataclass(frozen=True)
class Pair:
    """Two trials that differ in where the real data stand."""

    share: float
    after: Row
    during: Row


def scored(row: Row) -> bool:
    """Whether a trial was evaluated."""
    return row.status == "done" and row.objective is not None


def estimate(values: Sequence[float], items: tuple[float, float] | None = None) -> Estimate | None:
    """The mean of some values; none of none.

    Args:
        values: One a repeat.
        items: The 95 % interval of one of them by its test items.
    """
    if not values:
        return None
    mean, over = statistics.fmean(values), student(values)
    if over is None:
        low, high = items or (None, None)
        return Estimate(mean, low, high, 1)
    half = wider(over, (items[1] - items[0]) / 2 if items else None) or 0.0
    return Estimate(mean, mean - half, mean + half, len(values))


def configurations(run: Run) -> list[Configuration]:
    """All of a sweep's configurations, best first."""
    groups: dict[str, list[Row]] = {}
    for row in run.record.rows:
        groups.setdefault(key(row.parameters), []).append(row)
    found, names = [], set[str]()
    for i, rows in enumerate(groups.values()):
        name = rows[0].trial or f"c{i + 1}"
        while name in names:  # names are told apart, whoever wrote the record
            name += "'"
        names.add(name)
        own = sorted(rows, key=lambda row: row.repeat)
        first = next((row for row in own if scored(row)), None)
        found.append(Configuration(name, tuple(own), items(run, first) if first else None))
    return sorted(found, key=_rank)


def contenders(ranked: Sequence[Configuration]) -> list[Configuration]:
    """Those that can be chosen: what was evaluated, whole where there is any such."""
    evaluated = [one for one in ranked if one.score]
    return [one for one in evaluated if not one.cut] or evaluated


def _rank(one: Configuration) -> tuple[int, float]:
    """Evaluated, then what the scheduler let live in part, then stopped, then the others."""
    score, last = one.score, one.last_look
    if score:
        return (1 if one.cut else 0), -score.mean
    return (2, -last) if last is not None else (3, 0.0)


def key(parameters: Mapping[str, Any]) -> str:
    """Equal for equal parameters, whatever their order."""
    return json.dumps(parameters, sort_keys=True)


def is_number(value: Any) -> bool:
    """Whether a value can lie on an axis of numbers: finite, and no more than a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


# --- by selection rules -------------------------------------------------------------------------


def rules(ranked: Sequence[Configuration], objective: str) -> list[str]:
    """Selection rules that trials were scored by: the objective, then as they are recorded."""
    names = dict.fromkeys(rule for one in ranked for row in one.done for rule in row.scores)
    return sorted(names, key=lambda rule: rule != objective)


def picks(run: Run, ranked: Sequence[Configuration]) -> list[Pick]:
    """What each rule would have chosen among the configurations, and what that would have lost."""
    running = contenders(ranked)
    order = {id(row): i for i, row in enumerate(run.record.rows)}
    found = []
    for rule in rules(running, _objective(run)):
        by = {one.name: one.by(rule) for one in running}
        known = [(one, score) for one in running if (score := by[one.name]) is not None]
        # Equals are taken in the order of trials: by the objective would be a peep at it.
        known.sort(key=lambda entry: (-entry[1], order[id(entry[0].rows[0])]))
        if known:
            chosen, score = known[0]
            equals = sum(other == score for _, other in known) - 1
            found.append(Pick(rule, chosen, score, equals, _loss(run, running[0], chosen)))
    return found


def _loss(run: Run, best: Configuration, chosen: Configuration) -> Gap:
    assert best.score and chosen.score  # they were evaluated
    whole = best.score.mean - chosen.score.mean
    if chosen is best:
        return Gap(0.0, None, None, 0)
    ours, theirs = ({row.repeat: row for row in one.done} for one in (best, chosen))
    pairs = [(ours[repeat], theirs[repeat]) for repeat in ours if repeat in theirs]
    # Repeats that only one of the two has count in the means, but in no pair.
    return replace(gap(run, pairs), mean=whole) if pairs else Gap(whole, None, None, 0)


def gap(run: Run, pairs: Sequence[tuple[Row, Row]]) -> Gap:
    """By how much the first of each pair scored more, item by item where manifests tell."""
    differences = [(a.objective or 0.0) - (b.objective or 0.0) for a, b in pairs]
    ours, theirs = (
        Series("", False, None, {i: _sets(run, pair[side]) for i, pair in enumerate(pairs)})
        for side in (0, 1)
    )
    chosen, languages = _place(run, [*ours.samples.values(), *theirs.samples.values()])
    apart = ours.apart(theirs, chosen, languages)
    half = apart.items if apart else None
    return Gap(statistics.fmean(differences), student(differences), half, len(pairs))


def items(run: Run, row: Row) -> tuple[float, float] | None:
    """The 95 % interval of a trial's objective by its number of test items.

    Of several languages it is that of one of them: the items are translations of each other.
    """
    sets = _sets(run, row)
    chosen, languages = _place(run, [sets])
    counts = [score.count for code, score in sets.get(chosen, {}).items() if code in languages]
    return wilson(row.objective, min(counts)) if counts and row.objective is not None else None


def chance(run: Run, one: Configuration) -> float | None:
    """What a guess would come to by the objective; None where no manifest tells."""
    sets = _sets(run, one.done[0]) if one.done else {}
    chosen, languages = _place(run, [sets])
    levels = [score.chance for code, score in sets.get(chosen, {}).items() if code in languages]
    return statistics.fmean(levels) if levels else None


def _place(run: Run, several: Sequence[Sets]) -> tuple[str, Sequence[str]]:
    """Evaluation set and languages of the objective; no languages if it is of no set."""
    objective = _objective(run)
    chosen, _, language = objective.rpartition("/")
    if any(objective in sets for sets in several):
        return objective, sorted({code for sets in several for code in sets.get(objective, {})})
    return chosen, [language] if chosen else []


def _sets(run: Run, row: Row) -> Sets:
    return scores_of(run.artifact(row, "evaluation")) or {}


def _objective(run: Run) -> str:
    return run.record.sweep.objective if run.record.sweep else ""


# --- where the real data stand ------------------------------------------------------------------


def share(row: Row) -> float | None:
    """The share of real data that a trial was given, if it was searched and is a number."""
    value = row.parameters.get(FRACTION)
    return float(value) if value is not None and is_number(value) else None


def unseen(row: Row) -> bool:
    """Whether the scheduler stopped a trial in its gibberish stage, with its real data to come."""
    after = row.parameters.get(PLACEMENT) == "after" and bool(share(row))
    at = row.looks[-1].stage if row.looks else None
    return row.status == "stopped" and after and at == "extractor"


def by_place(run: Run, fraction: float | None = None) -> dict[str, list[Row]]:
    """Trials `after` and `during`, whatever became of them; of all shares of real data, or one."""
    found: dict[str, list[Row]] = {"after": [], "during": []}
    for row in run.record.rows:
        own, place = share(row), row.parameters.get(PLACEMENT)
        if own and place in ("after", "during") and fraction in (None, own):
            found[str(place)].append(row)
    return found


def stopped(rows: Sequence[Row]) -> list[Row]:
    """Those that the scheduler stopped."""
    return [row for row in rows if row.status == "stopped"]


def placed(run: Run) -> dict[str, dict[float, Estimate]]:
    """The objective by placement and share, over all trials that were evaluated there."""
    groups: dict[str, dict[float, list[Row]]] = {}
    for row in run.record.rows:
        fraction = share(row)
        if scored(row) and fraction is not None:
            place = row.parameters.get(PLACEMENT)
            # Without real data there is nothing to place.
            name = "" if not fraction else "as in the spec" if place is None else str(place)
            groups.setdefault(name, {}).setdefault(fraction, []).append(row)
    found: dict[str, dict[float, Estimate]] = {}
    for name, shares in sorted(groups.items()):
        for fraction, rows in sorted(shares.items()):
            values = [row.objective for row in rows if row.objective is not None]
            if one := estimate(values, items(run, rows[0])):
                found.setdefault(name, {})[fraction] = one
    return found


def paired(run: Run) -> tuple[list[Pair], int]:
    """Trials that differ in the placement alone; and how many have no partner."""
    sides: dict[tuple[float, str], dict[str, Row]] = {}
    left = 0
    for row in run.record.rows:
        fraction, place = share(row), row.parameters.get(PLACEMENT)
        if not fraction or place not in ("after", "during"):
            continue
        others = {path: value for path, value in row.parameters.items() if path != PLACEMENT}
        if scored(row):
            sides.setdefault((fraction, f"{key(others)} {row.repeat}"), {})[place] = row
    pairs = []
    for (fraction, _), both in sides.items():
        if len(both) == 2:
            pairs.append(Pair(fraction, both["after"], both["during"]))
        else:
            left += 1
    return sorted(pairs, key=lambda pair: pair.share), left


# --- what it cost -------------------------------------------------------------------------------


def hours(rows: Sequence[Row]) -> float | None:
    """What some trials cost together; None where nothing was recorded."""
    known = [row.hours for row in rows if row.hours is not None]
    return math.fsum(known) if known else None


@dataclass(frozen=True)
class Spent:
    """Where a sweep stood when a trial had ended."""

    row: Row
    hours: float
    """Of all trials so far."""
    best: float | None
    """Of the configurations whose last repeat had ended by then, that of the best."""


def spending(run: Run, ranked: Sequence[Configuration]) -> list[Spent]:
    """The sweep's course, in the order in which trials ended.

    A configuration counts once all its repeats have ended: before, its mean would be one of luck.
    """
    complete = {}
    for one in contenders(ranked):
        if one.score and all(row.ended is not None for row in one.rows):
            last = max(one.rows, key=lambda row: row.ended or 0.0)
            complete[id(last)] = one.score.mean
    spent, best, course = 0.0, None, []
    ended = [row for row in run.record.rows if row.ended is not None]
    for row in sorted(ended, key=lambda row: row.ended or 0.0):
        spent += row.hours or 0.0
        score = complete.get(id(row))
        if score is not None:
            best = score if best is None else max(best, score)
        course.append(Spent(row, spent, best))
    return course
