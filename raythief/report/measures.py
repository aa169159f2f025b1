"""Numbers of a row over its seeds: means, spreads and intervals.

A *series* is what a table shows as one row: the victim, or a variant, with one sample for each
seed. A *measure* is one number of it, such as the accuracy in German, with one value a seed.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raythief.config import Spec
from raythief.report.languages import in_table_order
from raythief.report.records import Artifact, Run
from raythief.results import Evaluation, Score

VICTIM = "victim (monolingual)"

Interval = tuple[float, float]
Sets = Mapping[str, Mapping[str, Score]]
"""Scores by evaluation set and language."""
Pairs = Sequence[tuple[Score, Score]]
"""Scores of two rows, by language."""
Difference = Callable[[Pairs], tuple[float, float] | None]
"""By how much the first of two rows is more right, and half the interval of that."""


@dataclass(frozen=True)
class Measure:
    """One number of a series, with a value and a 95 % interval for each seed."""

    values: tuple[float, ...]
    intervals: tuple[Interval, ...]
    chances: tuple[float, ...] = ()
    """What a guess would come to, for each seed; empty for what is no accuracy."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds; none for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def reach(self) -> Interval:
        """Smallest and largest value of several seeds; the interval of a single one."""
        if len(self.values) == 1:
            return self.intervals[0]
        return min(self.values), max(self.values)

    @property
    def items(self) -> float:
        """Half the width of the interval that the choice of test items alone gives."""
        return statistics.fmean((high - low) / 2 for low, high in self.intervals)

    @property
    def margin(self) -> float:
        """Half the 95 % interval: the wider of that by test items and, of several seeds, that of
        Student's t over them, which covers the luck of training."""
        return wider(student(self.values), self.items) or 0.0

    @property
    def chance(self) -> float:
        """Mean over seeds of what a guess would come to."""
        return statistics.fmean(self.chances)

    @property
    def above_chance(self) -> int:
        """In how many seeds the whole interval lies above chance."""
        return sum(low > one for (low, _), one in self._beside_chance)

    @property
    def below_chance(self) -> int:
        """In how many seeds the whole interval lies below chance."""
        return sum(high < one for (_, high), one in self._beside_chance)

    @property
    def always_above(self) -> bool:
        """Whether that is so in every seed."""
        return self.above_chance == len(self.values)

    @property
    def _beside_chance(self) -> list[tuple[Interval, float]]:
        return list(zip(self.intervals, self.chances, strict=True))


@dataclass(frozen=True)
class Series:
    """One row of a table: its scores by seed, evaluation set and language."""

    name: str
    is_victim: bool
    spec: Spec | None
    samples: Mapping[int, Sets] = field(default_factory=dict)
    shared: Mapping[int, int] = field(default_factory=dict)
    """Of a victim that several seeds share: the seed that its sample stands under, by seed."""

    @property
    def seeds(self) -> list[int]:
        """Seeds that it was scored in, those that share a sample among them."""
        return sorted({*self.samples, *self.shared})

    def at(self, seed: int) -> Sets | None:
        """Scores in one seed."""
        return self.samples.get(self.shared.get(seed, seed))

    def languages(self, chosen: str) -> list[str]:
        """Languages of an evaluation set that this row was scored in."""
        scored = [sets.get(chosen, {}) for sets in self.samples.values()]
        return in_table_order(code for scores in scored for code in scores)

    def scores(self, chosen: str, language: str) -> dict[int, Score]:
        """Scores by seed."""
        found = {seed: sets.get(chosen, {}).get(language) for seed, sets in self.samples.items()}
        return {seed: score for seed, score in found.items() if score}

    def accuracy(self, chosen: str, language: str) -> Measure | None:
        """Accuracy in one language."""
        scores = self.scores(chosen, language).values()
        if not scores:
            return None
        return Measure(
            tuple(s.accuracy for s in scores),
            tuple(map(_interval, scores)),
            tuple(s.chance for s in scores),
        )

    def elsewhere(self, chosen: str) -> Measure | None:
        """Mean accuracy over the languages other than English.

        The items are translations of each other, so they are not independent: the interval is
        that of one language's number of items, which is wide enough whatever the correlation.
        """
        return self.over(chosen, [code for code in self.languages(chosen) if code != "en"])

    def over(self, chosen: str, languages: Sequence[str]) -> Measure | None:
        """Mean accuracy over some languages, with an interval as of ``elsewhere``."""
        values, intervals, chances = [], [], []
        for sets in self.samples.values():
            scores = [s for code, s in sets.get(chosen, {}).items() if code in languages]
            if scores:
                mean = statistics.fmean(score.accuracy for score in scores)
                values.append(mean)
                intervals.append(wilson(mean, min(score.count for score in scores)))
                chances.append(statistics.fmean(score.chance for score in scores))
        return Measure(tuple(values), tuple(intervals), tuple(chances)) if values else None

    def apart(self, other: Series, chosen: str, languages: Sequence[str]) -> Measure | None:
        """By how much more of the same items this row is right than another, paired by item.

        An item's difference is its mean over the languages, in which it is the same text; the
        interval, that of the mean over items, is narrower than that of two rows that saw different
        items. With one language it is what McNemar's test looks at: the items on which only one of
        the two is right.

        Returns:
            A value for each seed that both have; None where manifests do not tell the items.
        """
        return self._less(other, chosen, languages, _paired)

    def ahead(self, other: Series, chosen: str, languages: Sequence[str]) -> Measure | None:
        """As ``apart``, in those of the languages that both were scored in.

        Where manifests do not tell the items, the two are taken to have seen different ones, which
        is the wider reading.
        """
        known = [set(one.languages(chosen)) for one in (self, other)]
        both = [code for code in languages if all(code in codes for codes in known)]
        return self.apart(other, chosen, both) or self._less(other, chosen, both, _unpaired)

    def kept(self, victim: Series, chosen: str, language: str = "en") -> Measure | None:
        """Share of the victim's lead over chance that this row has as well, in one language.

        Half its interval by test items is, by the delta method, that of this row's accuracy less
        the share times the victim's, divided by the lead.

        Returns:
            A value for each seed that both have; None where the victim is not above chance in
            every seed, or was not scored.
        """
        lead = victim.accuracy(chosen, language)
        if lead is None or not lead.always_above:
            return None
        found = []
        for pairs in filter(None, self._pairs(victim, chosen, [language])):
            [(ours, theirs)] = pairs
            whole = theirs.accuracy - theirs.chance
            share = (ours.accuracy - ours.chance) / whole
            _, half = _paired(pairs, share) or _unpaired(pairs, share)
            found.append((share, half / whole))
        return _about(found)

    def _less(
        self, other: Series, chosen: str, languages: Sequence[str], how: Difference
    ) -> Measure | None:
        differences = [
            how(pairs) if pairs else None for pairs in self._pairs(other, chosen, languages)
        ]
        known = [one for one in differences if one is not None]
        return _about(known) if len(known) == len(differences) else None

    def _pairs(self, other: Series, chosen: str, languages: Sequence[str]) -> list[Pairs]:
        """Scores of both by language, for each seed that both have; none where one lacks some."""
        both = [(self.at(seed), other.at(seed)) for seed in self.seeds]
        return [_both(ours, theirs, chosen, languages) for ours, theirs in both if ours and theirs]

    def agreement(self, chosen: str, language: str) -> Measure | None:
        """How often it gives the victim's answer in one language."""
        known = [
            (score.agreement, wilson(score.agreement, score.count))
            for score in self.scores(chosen, language).values()
            if score.agreement is not None
        ]
        if not known:
            return None
        return Measure(tuple(value for value, _ in known), tuple(ends for _, ends in known))

    def average(
        self, chosen: str, languages: Sequence[str], what: Callable[[Score], float | None]
    ) -> Measure | None:
        """Any number of the scores, averaged over languages; it has no interval of its own."""
        values = []
        for sets in self.samples.values():
            found = [what(s) for code, s in sets.get(chosen, {}).items() if code in languages]
            known = [value for value in found if value is not None]
            if known:
                values.append(statistics.fmean(known))
        return Measure(tuple(values), tuple((v, v) for v in values)) if values else None


def series_of(run: Run) -> list[Series]:
    """The victims of a run, then its variants in the spec's order."""
    variants = []
    for name in run.names():
        samples = {}
        for row in run.record.rows:
            scores = scores_of(run.artifact(row, "evaluation"))
            if row.variant == name and scores:
                samples[row.seed] = scores
        variants.append(Series(name, False, run.variants.get(name), samples))
    return _victims(run) + variants


def _victims(run: Run) -> list[Series]:
    """One series for each different victim; seeds that share one count once."""
    groups: dict[str, tuple[str, Spec | None, dict[int, Sets], dict[int, int]]] = {}
    for artifact, rows in run.users("victim_evaluation"):
        scores = scores_of(artifact)
        if scores:
            spec = run.variants.get(rows[0].variant)
            key = json.dumps(spec.victim.model_dump(mode="json")) if spec else ""
            *_, samples, shared = groups.setdefault(key, (rows[0].variant, spec, {}, {}))
            samples.setdefault(rows[0].seed, scores)
            for row in rows:
                shared.setdefault(row.seed, rows[0].seed)
    return [
        Series(
            VICTIM if len(groups) == 1 else f"{VICTIM}, as in {variant}",
            True,
            spec,
            samples,
            shared,
        )
        for variant, spec, samples, shared in groups.values()
    ]


def sets_of(run: Run, series: Sequence[Series]) -> list[str]:
    """Evaluation sets, those of most languages first and those of queries last: the first, if it is
    of real data, is the one of the headline."""
    names = dict.fromkeys(
        chosen for one in series for sets in one.samples.values() for chosen in sets
    )
    return sorted(
        names, key=lambda chosen: (run.of_queries(chosen), -len(languages_of(series, chosen)))
    )


def languages_of(series: Sequence[Series], chosen: str) -> list[str]:
    """Languages of an evaluation set, over all rows."""
    return in_table_order(code for one in series for code in one.languages(chosen))


def chances(series: Sequence[Series], chosen: str) -> dict[str, float]:
    """Accuracy of the best guess by language; the highest where rows saw different items."""
    found: dict[str, float] = {}
    for one in series:
        for code in one.languages(chosen):
            own = [score.chance for score in one.scores(chosen, code).values()]
            found[code] = max(*own, found.get(code, 0.0))
    return {code: found[code] for code in in_table_order(found)}


def _both(ours: Sets, theirs: Sets, chosen: str, languages: Sequence[str]) -> Pairs:
    """Scores of two rows in each of the languages; none where a row lacks one."""
    mine, others = ours.get(chosen, {}), theirs.get(chosen, {})
    whole = all(code in mine and code in others for code in languages)
    return [(mine[code], others[code]) for code in languages] if whole else []


def _paired(pairs: Pairs, times: float = 1.0) -> tuple[float, float] | None:
    """Mean of the first less ``times`` the second over the same items, and half its 95 % interval;
    None if the items are not known."""
    items = [
        a.right - times * b.right
        for a, b in pairs
        if a.right is not None and b.right is not None and len(a.right) == len(b.right)
    ]
    if len(items) != len(pairs) or len({len(one) for one in items}) > 1 or len(items[0]) < 2:
        return None
    difference = np.mean(items, axis=0)
    half = 1.959964 * float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return float(difference.mean()), half


def _unpaired(pairs: Pairs, times: float = 1.0) -> tuple[float, float]:
    """The same, as of two that saw different items."""
    ours, theirs = (_mean_and_half([pair[side] for pair in pairs]) for side in (0, 1))
    return ours[0] - times * theirs[0], math.hypot(ours[1], times * theirs[1])


def _mean_and_half(scores: Sequence[Score]) -> tuple[float, float]:
    mean = statistics.fmean(score.accuracy for score in scores)
    low, high = wilson(mean, min(score.count for score in scores))
    return mean, (high - low) / 2


def _about(found: Sequence[tuple[float, float]]) -> Measure | None:
    """A measure of values with half their intervals; none of none."""
    if not found:
        return None
    intervals = tuple((value - half, value + half) for value, half in found)
    return Measure(tuple(value for value, _ in found), intervals)


def wilson(share: float, count: int) -> Interval:
    """95 % interval of a share of ``count`` items."""
    z = 1.959964
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    return middle - half, middle + half


# Quantiles of Student's t distribution at 97.5 %, for 1 to 30 degrees of freedom.
_STUDENT = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


def student(values: Sequence[float]) -> float | None:
    """Half the 95 % interval of the mean of a sample, by Student's t; none for a single value."""
    freedom = len(values) - 1
    if freedom < 1:
        return None
    if freedom <= len(_STUDENT):
        quantile = _STUDENT[freedom - 1]
    else:  # the first terms of its expansion about the normal quantile, right to four digits
        z = 1.959964
        quantile = (
            z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        )
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def wider(*halves: float | None) -> float | None:
    """The widest of several half intervals; None where none is known.

    That over seeds covers the luck of training, that over test items their choice, and neither
    covers both: only a difference beyond the wider of them is taken for one.
    """
    return max((half for half in halves if half is not None), default=None)


def _interval(score: Score) -> Interval:
    if score.low is None or score.high is None:
        return wilson(score.accuracy, score.count)
    return score.low, score.high


def scores_of(artifact: Artifact | None) -> Sets | None:
    """Scores by evaluation set and language; none of what was not evaluated."""
    results = artifact.results if artifact else None
    return results.sets if isinstance(results, Evaluation) else None
