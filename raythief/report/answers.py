"""What the owner of an API asks first: how much can be carried off, for how much, what stops it.

The answers hold for the rows of this run and are made from their numbers; where no row can speak to
a question, the answer says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from raythief.report.blocks import counted, listed, percent
from raythief.report.cast import Cast
from raythief.report.costs import amount_of_hours, hours, purchases
from raythief.report.fidelity import steps
from raythief.report.findings import short_words
from raythief.report.measures import Series, chances, sets_of
from raythief.report.records import Artifact, Run
from raythief.report.results import Training

Answer = tuple[str, str, str]
"""A question, what this run has to say in a few words, and in full."""

_HOW_MUCH = "How much of the model can be carried off?"

SUCCESS = 0.5
"""Share of the victim's lead over a guess from which on an extraction is said to have succeeded: a
convention of ours. Less of it may be above chance, but says little about what stops one."""


def answers(run: Run, series: Sequence[Series], parts: Cast | None) -> list[Answer]:
    """The three questions; fewer where nothing was measured that could answer them."""
    if parts is None:
        said = _held_back(run, series)
        if not said:
            unknown = "No row of this run has been evaluated yet, so that is not known."
            return [(_HOW_MUCH, "Not known yet", unknown)]
        return [(_HOW_MUCH, "Known on gibberish alone", said), *_price(run, None, series)]
    return [
        (_HOW_MUCH, _amount_short(parts), _amount(run, parts)),
        *_price(run, parts, series),
        *_obstacles(parts),
    ]


def trust(run: Run) -> str:
    """How far the numbers can be trusted: seeds, and what is missing."""
    rows = run.record.rows
    lost = sum(row.status != "done" for row in rows)
    missing = (
        f" {lost} of {counted(len(rows), 'row')} did not finish and give no numbers."
        if lost
        else ""
    )
    collapsed = sum(
        isinstance(a.results, Training) and bool(a.results.collapse) for a in run.artifacts.values()
    )
    if collapsed:
        missing += (
            f" {counted(collapsed, 'training')} collapsed, which is listed below; no row is left "
            "out for that."
        )
    seeds = {row.seed for row in rows if row.status == "done"}
    if len(seeds) > 1:
        return (
            f"Accuracies are means ± one standard deviation over {counted(len(seeds), 'seed')}, "
            "with the smallest and the largest in brackets; every row that finished is in them. "
            "Differences are ± half their 95 % interval: the wider of that over seeds (Student's "
            "t) and that over test items."
        ) + missing
    return (
        "There is one seed, and one seed is no evidence of a trend: ± is half the 95 % interval, "
        "which covers the choice of test items and not the luck of training."
    ) + missing


# --- how much -----------------------------------------------------------------------------------


def _held_back(run: Run, series: Sequence[Series]) -> str:
    """What is known where nothing was measured on real data; empty if nothing was at all."""
    sets = sets_of(run, series)
    if not sets:
        return ""
    scored = [(one.name, one.accuracy(sets[0], "en")) for one in series]
    clauses = [f"“{name}” to {short_words(measure)}" for name, measure in scored if measure]
    return (
        f"On held-out gibberish ({sets[0]}) the victim's answer is given by {listed(clauses)} of "
        "the queries; how well any row does the task was not measured on real data."
    )


def _amount_short(parts: Cast) -> str:
    if parts.thief is None:
        return "Not known"
    clauses = []
    if english := parts.thief.accuracy(parts.chosen, "en"):
        clauses.append(f"{percent(english.mean)} % in English")
    if others := parts.thief.elsewhere(parts.chosen):
        number = sum(code != "en" for code in parts.thief.languages(parts.chosen))
        place = counted(number, "other language")
        clauses.append(f"{percent(others.mean)} % in {place}")
    return ", ".join(clauses) or "Not known"


def _amount(run: Run, parts: Cast) -> str:
    sentences = [_of_thief(run, parts), _of_victim(parts), _share_of_lead(parts)]
    return " ".join(filter(None, sentences))


def _of_thief(run: Run, parts: Cast) -> str:
    if parts.thief is None:
        if run.spec is None:
            return ""
        return (
            "No row that learns from gibberish alone has been evaluated, so the central question "
            "has no answer here."
        )
    return (
        f"A model extracted with gibberish alone (“{parts.thief.name}”) is right on "
        f"{_places(parts.thief, parts)}."
    )


def _of_victim(parts: Cast) -> str:
    if parts.victim is None:
        return "The victim was not evaluated."
    clauses = _places(parts.victim, parts)
    return f"The victim is right on {clauses}; {_guess(parts)}."


def _guess(parts: Cast) -> str:
    """What the best guess comes to: one number where it is the same in all languages."""
    known = [one for one in (parts.victim, parts.thief) if one]
    levels = chances(known, parts.chosen)
    others = [level for code, level in levels.items() if code != "en"]
    shown = {"English": percent(levels["en"])} if "en" in levels else {}
    shown |= {"the others": percent(statistics.fmean(others))} if others else {}
    if len(set(shown.values())) == 1:
        return f"a guess would be right on {next(iter(shown.values()))} %"
    clauses = [f"{level} % in {place}" for place, level in shown.items()]
    return f"a guess would be right on {listed(clauses)}"


def _share_of_lead(parts: Cast) -> str:
    """How far the thief has come from a guess to the victim, and how often it answers alike."""
    if parts.thief is None or parts.victim is None:
        return ""
    share = _share(parts)
    alike = parts.thief.average(parts.chosen, ["en"], lambda score: score.agreement)
    clauses = []
    if share is not None:
        clauses.append(f"the extracted model has {100 * share:.0f} % of the victim's lead over a "
                       "guess")  # fmt: skip
    if alike:
        clauses.append(f"gives the victim's answer on {percent(alike.mean)} % of the items")
    return f"In English {listed(clauses)}." if len(clauses) == 2 else ""


def _share(parts: Cast) -> float | None:
    """What the thief has of the victim's lead over a guess, in English; None if that has none."""
    ours, theirs = (
        one.accuracy(parts.chosen, "en") if one else None for one in (parts.thief, parts.victim)
    )
    if ours is None or theirs is None or not theirs.always_above:
        return None
    return (ours.mean - ours.chance) / (theirs.mean - theirs.chance)


def _places(one: Series, parts: Cast) -> str:
    english, others = one.accuracy(parts.chosen, "en"), one.elsewhere(parts.chosen)
    clauses = []
    if english:
        clauses.append(f"{short_words(english)} of the items in English")
    if others:
        number = sum(code != "en" for code in one.languages(parts.chosen))
        place = f"on average in {number} other languages" if number > 1 else "in the other language"
        clauses.append(f"{short_words(others)} {place}")
    return listed(clauses) or "nothing that was recorded"


# --- for how much -------------------------------------------------------------------------------


def _price(run: Run, parts: Cast | None, series: Sequence[Series]) -> list[Answer]:
    """What one extraction needs: the queries of one seed, and the training on them."""
    thief = parts.thief if parts else next((one for one in series if not one.is_victim), None)
    if thief is None or thief.spec is None:
        return []
    row = next((r for r in run.record.rows if r.variant == thief.name and r.status == "done"), None)
    own = {entry.path for entry in row.stages.values()} if row else set()
    price, rate = thief.spec.costs.query_usd, thief.spec.costs.gpu_hour_usd
    spent = sum(one.spent for one in purchases(run)
                if one.stage == "labels" and one.artifact.path in own)  # fmt: skip
    taken = [one for one in hours(run) if one.stage == "extractor" and one.artifact.path in own]
    gpu, cpu = (sum(getattr(one, unit) * _whole(one.artifact) for one in taken)
                for unit in ("gpu", "cpu"))  # fmt: skip
    clauses = []
    if spent:
        usd = f"${spent * price:,.2f} at ${price:,.6g} each"
        unknown = "to which the spec gives no price, costs.query_usd"
        clauses.append(f"{counted(spent, 'answer')} of the victim ({usd if price else unknown})")
    if taken:
        usd = f" (${gpu * rate:,.2f})" if gpu and rate else ""
        worked = amount_of_hours(gpu, cpu)
        clauses.append(f"{worked}{usd} to fine-tune the copy")
    if not clauses:
        return []
    total = f"${spent * price + gpu * rate:,.2f}"
    full = f"One extraction took {listed(clauses)}.{_fewest(series, parts)}"
    return [("For how much?", total if price else counted(spent, "answer"), full)]


def _whole(artifact: Artifact) -> float:
    """How many times as long a training took with the shorter one that it went on from."""
    results, own = artifact.results, artifact.manifest.seconds
    if not isinstance(results, Training) or results.continues is None or not own:
        return 1.0
    return 1 + results.continues.seconds / own


def _fewest(series: Sequence[Series], parts: Cast | None) -> str:
    """What the fewest queries that were tried bring."""
    tried = steps(series)
    if parts is None or len(tried) < 2:
        return ""
    count, one = tried[0]
    measure = one.accuracy(parts.chosen, "en")
    if measure is None:
        return ""
    price = one.spec.costs.query_usd if one.spec else 0.0
    usd = f" (${count * price:,.2f})" if price else ""
    return f" The fewest tried, {count:,}{usd}, bring {short_words(measure)} in English."


# --- what stops it ------------------------------------------------------------------------------


def _obstacles(parts: Cast) -> list[Answer]:
    """What this run shows to stop it, and what not to."""
    thief = parts.thief
    english = thief.accuracy(parts.chosen, "en") if thief else None
    if thief is None or english is None:
        return []
    share = _share(parts)
    works = english.always_above and (share is None or share >= SUCCESS)
    short, sentences = "Nothing that was tried", []
    if not english.always_above:
        short = "It did not succeed"
        sentences.append("Even with the spec's own words it is no better than a guess.")
    elif share is not None and not works:
        short = "It hardly succeeded"
        sentences.append(
            f"Even with the spec's own words the copy has but {100 * share:.0f} % of the victim's "
            "lead over a guess: too little to tell what stops it."
        )
    for one in parts.foreign:
        if measure := one.accuracy(parts.chosen, "en"):
            stops = not measure.above_chance
            short = "Only words of another domain" if stops and works else short
            sentences.append(
                (
                    "It fails where words are of another domain than the victim's"
                    if stops
                    else "Words of another domain than the victim's do not"
                )
                + f": with queries from such (“{one.name}”) the copy is right on "
                f"{short_words(measure)}, {'no ' if stops else ''}more than a guess."
            )
    if works and thief.spec and not thief.spec.victim.scores:
        sentences.append(
            "Withholding probabilities does not stop it: the victim gave labels and nothing else."
        )
    if works and thief.spec and thief.spec.vocabulary.sampling == "uniform":
        sentences.append("Nor do queries have to be sentences: their words were drawn at random.")
    helped = [(one, m) for one in parts.helped if (m := one.accuracy(parts.chosen, "en"))]
    if helped:
        best, measure = max(helped, key=lambda pair: pair[1].mean)
        ahead = best.ahead(thief, parts.chosen, ["en"])
        clear = ahead is not None and ahead.mean > ahead.margin
        further = "gets further" if clear else "gets hardly further"
        sentences.append(
            f"A thief with some real data as well {further}: {short_words(measure)} in English "
            f"(“{best.name}”)."
        )
    sentences.append("No defence was tried in this run, so it says nothing about any.")
    return [("What stops it?", short, " ".join(sentences))]
