"""What a sweep says of a choice: where to put real data, and what each selection rule costs.

Its sections are made from the run record alone, but for intervals by test items, made from the
manifests of the evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    percent,
    points,
)
from raythief.report.findings import Finding
from raythief.report.languages import name as language_name
from raythief.report.records import Run, Sweep
from raythief.report.search import INTERVAL, Search, goal, objective
from raythief.report.trials import (
    FRACTION,
    PLACEMENT,
    Gap,
    Pair,
    Pick,
    by_place,
    contenders,
    gap,
    paired,
    picks,
    placed,
    rules,
    stopped,
    unseen,
)

# --- where the real data stand ------------------------------------------------------------------


def placement(found: Search) -> Section | None:
    """The objective by share of real data and where they stand; None if neither was searched."""
    if not {FRACTION, PLACEMENT} <= found.names.keys():
        return None
    means = placed(found.run)
    if not means:
        return None
    several = any(one.count > 1 for shares in means.values() for one in shares.values())
    reach = (
        "Whiskers: the wider of the 95 % interval of Student's t over the trials at a point, "
        "whatever else they differ in, and that of the test items."
        if several
        else "Whiskers: the 95 % interval of the test items."
    )
    if said := _stops(found.run):
        reach += (
            " Those that the scheduler stopped are in none, so that two points may stand for other "
            "settings: compare the pairs."
        )
    lines = [
        (name or "no real data", [(share, one.mean, one.low, one.high)
                                  for share, one in shares.items()])
        for name, shares in means.items()
    ]  # fmt: skip
    blocks: list[Block] = [
        Picture(
            "placement",
            sweepfigures.placements(lines),
            "Points of the objective by share of real data, a line for each placement",
            f"{objective(found.sweep)} by the share of real data and where they stand: means. "
            f"{reach}",
            "placement.csv",
        )
    ]
    if said:
        blocks.append(Text(said))
    values = [(name, share, one.count, one.mean, one.low, one.high)
              for name, shares in means.items() for share, one in shares.items()]  # fmt: skip
    header = ("placement", "share", "trials", "mean", "low", "high")
    sheets = [Sheet("placement.csv", header, values)]
    pairs, left = paired(found.run)
    if pairs:
        blocks.append(_pair_table(found, pairs, left))
        lines_of = [(pair.share, pair.after.trial, pair.during.trial, pair.after.repeat,
                     pair.after.objective, pair.during.objective) for pair in pairs]  # fmt: skip
        names = ("share", "after_trial", "during_trial", "repeat", "after", "during")
        sheets.append(Sheet("pairs.csv", names, lines_of))
    else:
        blocks.append(
            Text("No two trials that were evaluated differ in the placement alone, so none are "
                 "paired: the points above differ in other settings, too.")
        )  # fmt: skip
    return Section("placement", "Real data: how much, and where", blocks, sheets)


def _pair_table(found: Search, pairs: Sequence[Pair], left: int) -> Table:
    rows = []
    for share, own, apart in _gaps(found.run, pairs):
        after, during = (
            math.fsum(row.objective or 0.0 for row in side) / len(side)
            for side in ([pair.after for pair in own], [pair.during for pair in own])
        )
        rows.append(
            [Cell(f"{100 * share:.3g} %"), Cell(str(apart.count)), Cell(percent(after)),
             Cell(percent(during)), Cell(points(apart.mean)), _between(apart.mean, apart.pairs),
             _between(apart.mean, apart.items)]
        )  # fmt: skip
    header = [Cell("real data"), Cell("pairs"), Cell("after", "%"), Cell("during", "%")]
    header += [Cell("difference", "points"), Cell(INTERVAL, "over pairs")]
    notes = [
        "The interval over pairs (Student's t) covers the luck of training, that over items (the "
        "same items in both) the choice of test items: a difference is one beyond the wider."
    ]
    if left:
        verb = "has" if left == 1 else "have"
        notes.append(
            f"{counted(left, 'trial')} {verb} no partner that was evaluated and is equal in all "
            "else, and none here."
        )
    caption = (
        f"{objective(found.sweep)} with real data after extraction less that with the same "
        "mixed in: pairs of trials that are equal in all other parameters and in the repeat."
    )
    head = [*header, Cell(INTERVAL, "over items")]
    return Table(caption, head, rows, notes=notes, csv="pairs.csv")


def findings(found: Search) -> list[Finding]:
    """Whether real data after extraction beat the same data mixed in, by pairs of trials.

    Only trials that came to their end are compared. Where the scheduler stopped some and left a
    single pair, nothing tells the luck of training, and no verdict is drawn from it.
    """
    details: dict[str, list[str]] = {"shows": [], "unclear": [], "absent": []}
    said = _stops(found.run)
    where = f"by {goal(found.sweep)}"
    pairs = paired(found.run)[0]
    if said and not pairs:
        text = "are not compared, since of no pair of trials both came to their end"
        return [("unclear", f"Real data after extraction and real data mixed in {text}. {said}")]
    for share, own, apart in _gaps(found.run, pairs):
        half = apart.margin
        kind = "unclear"
        lone = apart.pairs is None and any(map(stopped, by_place(found.run, share).values()))
        if half is not None and abs(apart.mean) > half and not lone:
            kind = "shows" if apart.mean > 0 else "absent"
        noise = "" if half is None else f" ± {percent(half)}"
        details[kind].append(
            f"{points(apart.mean)}{noise} points with {100 * share:.3g} % of it "
            f"({counted(len(own), 'pair')}{', all that is left' if lone else ''})"
        )
    shows, unclear, absent = (listed(details[kind]) for kind in ("shows", "unclear", "absent"))
    noise = "cannot be told apart from noise"
    end = f" {said}" if said else ""
    if absent:
        rest = f"; elsewhere: {listed(details['shows'] + details['unclear'])}"
        text = f"Real data after extraction does not beat mixing it in {where}: {absent}"
        return [("absent", f"{text}{rest if shows or unclear else ''}.{end}")]
    if unclear:
        beats = f"; it is ahead beyond it by {shows}" if shows else ""
        text = f"Real data after extraction and real data mixed in {noise} {where}"
        return [("unclear", f"{text}: {unclear}{beats}.{end}")]
    if shows:
        return [("shows", f"Real data after extraction beats mixing it in {where}: {shows}.{end}")]
    return []


def _stops(run: Run) -> str:
    """How many trials of either placement the scheduler stopped, and where; empty if none."""
    sides = by_place(run)
    if not any(map(stopped, sides.values())):
        return ""
    cut = {place: stopped(rows) for place, rows in sides.items()}
    early = sum(map(unseen, cut["after"]))
    before = f", {early} of them before they had seen any" if early else ""
    return (
        f"The scheduler stopped {len(cut['after'])} of {counted(len(sides['after']), 'trial')} that"
        f" put real data after{before}, and {len(cut['during'])} of {len(sides['during'])} that mix"
        " it in; only those that came to their end are compared."
    )


def _gaps(run: Run, pairs: Sequence[Pair]) -> list[tuple[float, list[Pair], Gap]]:
    by_share: dict[float, list[Pair]] = {}
    for pair in pairs:
        by_share.setdefault(pair.share, []).append(pair)
    return [
        (share, own, gap(run, [(pair.after, pair.during) for pair in own]))
        for share, own in sorted(by_share.items())
    ]


# --- selection rules ----------------------------------------------------------------------------


def selection(found: Search) -> Section | None:
    """What each selection rule would have chosen; None where there is only the objective."""
    chosen = picks(found.run, found.ranked)
    if len(rules(contenders(found.ranked), found.sweep.objective)) < 2:
        return None
    header = [Cell("selected by"), Cell("would have chosen"), Cell("score by it", "%")]
    header += [Cell("objective", "%"), Cell("loss", "points"), Cell(INTERVAL, "of the loss")]
    main = [pick for pick in chosen if _is_main(pick.rule, found.sweep)]
    others = [pick for pick in chosen if pick not in main]
    caption = (
        f"What each selection rule would have chosen among {_eligible(found)}, what that "
        f"configuration has by {objective(found.sweep, False)}, and how much less than the "
        "objective's own choice that is."
    )
    notes = [
        "The objective's own choice is the highest on the very items of the comparison, luck "
        "included, so losses are on the high side. Intervals are the wider of that over repeats "
        "and that over items."
    ]
    for rule in found.sweep.agreement:
        notes.append(
            f"“{rule}” is agreement with the victim on queries that are held back, and needs no "
            "real data: its loss is the price of having no real data to select on."
        )
    if any(pick.equals for pick in chosen):
        notes.append("= the rule has others that score the same; the first by trial is taken.")
    rows = [_pick(found, pick) for pick in main]
    blocks: list[Block] = [
        Table(caption, header, rows, heads=2, notes=notes, csv="rules.csv"),
    ]
    if sentence := _price(found, chosen):
        blocks.insert(0, Text(sentence))
    if others:
        blocks.append(
            Table("The same for rules of one language other than English.", header,
                  [_pick(found, pick) for pick in others], heads=2, csv="rules.csv",
                  fold=f"{counted(len(others), 'rule')} of one language other than English")
        )  # fmt: skip
    values = [(pick.rule, pick.chosen.name, pick.score, pick.equals,
               pick.chosen.score.mean if pick.chosen.score else None, pick.loss.mean,
               pick.loss.pairs, pick.loss.items) for pick in chosen]  # fmt: skip
    names = ("rule", "trial", "score", "equals", "objective", "loss", "half_interval_repeats",
             "half_interval_items")  # fmt: skip
    title = "What each selection rule would have chosen"
    return Section("rules", title, blocks, [Sheet("rules.csv", names, values)])


def _pick(found: Search, pick: Pick) -> list[Cell]:
    score = pick.chosen.score
    own = pick.chosen is found.best
    interval = Cell("its own choice", muted=True) if own else _between(
        pick.loss.mean, pick.loss.margin
    )  # fmt: skip
    return [
        Cell(pick.rule, rule_words(pick.rule, found.sweep)),
        Cell(found.label(pick.chosen)),
        Cell(percent(pick.score), mark="=" if pick.equals else ""),
        Cell(percent(score.mean) if score else DASH),
        Cell(percent(pick.loss.mean)),
        interval,
    ]


def _price(found: Search, chosen: Sequence[Pick]) -> str:
    """The loss of having no real data to select on, in a sentence."""
    pick = next((pick for pick in chosen if pick.rule in found.sweep.agreement), None)
    if pick is None or pick.rule == found.sweep.objective:
        return ""
    if pick.chosen is found.best:
        return "Selecting without real data, on queries held back, would have chosen the same."
    half = pick.loss.margin
    noise = "" if half is None else f" ± {percent(half)}"
    doubt = ", no more than noise" if half is not None and pick.loss.mean <= half else ""
    return (
        f"Selecting without real data, on queries held back, would have cost "
        f"{percent(pick.loss.mean)}{noise} points{doubt}."
    )


def _is_main(rule: str, sweep: Sweep) -> bool:
    return "/" not in rule or rule.endswith("/en") or rule in (sweep.objective, *sweep.agreement)


def _eligible(found: Search) -> str:
    return counted(len(contenders(found.ranked)), "configuration")


def rule_words(rule: str, sweep: Sweep) -> str:
    """What a rule's name means."""
    if rule in sweep.agreement:
        return "agreement with the victim"
    chosen, _, language = rule.rpartition("/")
    return language_name(language) if chosen else "mean of its languages"


def _between(mean: float, half: float | None) -> Cell:
    if half is None:
        return Cell(DASH, muted=True)
    return Cell(NBSP.join((points(mean - half), "to", points(mean + half))))
