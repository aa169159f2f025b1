"""What the owner of an API asks first: how much can be carried off, for how much, what stops it.

The answers hold for the rows of this run and are made from their numbers; where no row can speak to
a question, the answer says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from raythief.report.blocks import NBSP, counted, listed, percent
from raythief.report.cast import Cast, in_miniature, is_miniature
from raythief.report.costs import amount_of_hours, hours, purchases
from raythief.report.fidelity import steps
from raythief.report.findings import share_words, short_words
from raythief.report.measures import Measure, Series, chances, sets_of
from raythief.report.records import Artifact, Run
from raythief.results import Training

Answer = tuple[str, str, str]
"""A question, what this run has to say in a few words, and in full."""

_HOW_MUCH = "How much of the model can be carried off?"

_MADE_UP = " The task and the models are small and made up: these numbers say nothing of real ones."

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
        first, rest = ("Known on gibberish alone", said), _price(run, None, series)
    else:
        first = _amount(run, parts)
        rest = [*_price(run, parts, series), *_obstacles(parts, series)]
    short, full = first
    made_up = _MADE_UP if is_miniature(run) else ""
    return [(_HOW_MUCH, in_miniature(run, short), f"{full}{made_up}"), *rest]


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
            "Differences and shares of a lead are ± half their 95 % interval: the wider of that "
            "over seeds (Student's t) and that over test items."
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
    guess = percent(max(chances(series, sets[0]).values()))
    return (
        f"On held-out gibberish ({sets[0]}) the victim's answer is given by {listed(clauses)} of "
        f"the queries, and by a guess to {guess} %; how well any row does the task was not "
        "measured on real data."
    )


def _amount(run: Run, parts: Cast) -> tuple[str, str]:
    """What the extractor has of the victim, in a few words and in full; accuracies beside it."""
    short, said = _loot(parts) if run.spec else ("Not known", "")  # whose rows are which is not
    sentences = [said, *_accuracies(parts), _agreement(parts)]
    return short, " ".join(filter(None, sentences))


def _loot(parts: Cast) -> tuple[str, str]:
    """The share of the victim's lead over chance in English, and the points beyond it elsewhere."""
    if parts.thief is None:
        return "Not known", (
            "No row that learns from gibberish alone has been evaluated, so the central question "
            "has no answer here."
        )
    if _knows_nothing(parts.victim, parts):
        return "Nothing can be said", (
            "The victim is not above chance in English, so it has no lead of which a part could "
            "be carried off."
        )
    found = [one for one in (_in_english(parts.thief, parts), _abroad(parts.thief, parts)) if one]
    if not found:
        return "Not known", (
            "The victim was not evaluated on what the extractor was, so how much of it was carried "
            "off is not known."
        )
    short = ", ".join(_merged([(what, where) for what, _, where in found]))
    full = listed(_merged([(what, where) for _, what, where in found]))
    return short[0].upper() + short[1:], (
        f"A model extracted with gibberish alone (“{parts.thief.name}”) {full} (95 % intervals, "
        f"{counted(len(parts.thief.samples), 'seed')})."
    )


def _merged(clauses: Sequence[tuple[str, str]]) -> list[str]:
    """no more than chance in English and in 2 other languages: what is alike is said once."""
    places: dict[str, list[str]] = {}
    for what, where in clauses:
        places.setdefault(what, []).append(where)
    return [f"{what} {listed(where)}" for what, where in places.items()]


def _in_english(thief: Series, parts: Cast) -> tuple[str, str, str] | None:
    """What it has, in a few words and in full, and where; None if it cannot be told."""
    english = thief.accuracy(parts.chosen, "en")
    if english and not english.always_above:
        return "no more than chance", "is not above chance", "in English"
    kept = thief.kept(parts.victim, parts.chosen) if parts.victim else None
    if kept is None:
        return None
    share = share_words(kept)
    return (
        f"{share} of its lead over chance",
        f"keeps {share} of the victim's lead over chance",
        "in English",
    )


def _abroad(thief: Series, parts: Cast) -> tuple[str, str, str] | None:
    """The same for the mean of the other languages, where the victim may know nothing."""
    codes = [code for code in thief.languages(parts.chosen) if code != "en"]
    others = thief.elsewhere(parts.chosen)
    if others is None:
        return None
    where = f"in {counted(len(codes), 'other language')}"
    mean = " on average" if len(codes) > 1 else ""
    if not others.always_above:
        return "no more than chance", "is not above chance", where
    beyond = thief.ahead(parts.victim, parts.chosen, codes) if parts.victim else None
    if beyond is None:
        return None
    amount = f"{percent(abs(beyond.mean))}{NBSP}±{NBSP}{percent(beyond.margin)} points"
    if abs(beyond.mean) <= beyond.margin:
        return "no further than it", f"is no further than the victim ({amount} apart){mean}", where
    beside, place = ("beyond", "above") if beyond.mean > 0 else ("short of", "below")
    return f"{amount} {beside} it", f"stands {amount} {place} the victim{mean}", where


def _knows_nothing(victim: Series | None, parts: Cast) -> bool:
    """Whether the victim was scored in English, and is not above chance there."""
    english = victim.accuracy(parts.chosen, "en") if victim else None
    return english is not None and not english.always_above


def _accuracies(parts: Cast) -> list[str]:
    """How often each is right, beside a guess."""
    said = []
    if parts.thief:
        said.append(f"The extractor is right on {_places(parts.thief, parts)}.")
    if parts.victim is None:
        return [*said, "The victim was not evaluated."]
    return [*said, f"The victim is right on {_places(parts.victim, parts)}; {_guess(parts)}."]


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


def _agreement(parts: Cast) -> str:
    if parts.thief is None or parts.victim is None:
        return ""
    alike = parts.thief.agreement(parts.chosen, "en")
    if alike is None:
        return ""
    return f"The two give the same answer on {percent(alike.mean)} % of the items in English."


def _worth(one: Series, parts: Cast) -> str:
    """What a row has in English: its share of the victim's lead or, without one, its accuracy."""
    measure = one.accuracy(parts.chosen, "en")
    if measure is None:
        return ""
    if measure.always_above and parts.victim and (kept := one.kept(parts.victim, parts.chosen)):
        return f"{share_words(kept)} of the victim's lead over chance"
    beside = "" if measure.always_above else ", which is not above chance"
    return f"{short_words(measure)} of the items right{beside}"


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
    worth = _worth(one, parts)
    price = one.spec.costs.query_usd if one.spec else 0.0
    usd = f" (${count * price:,.2f})" if price else ""
    return f" The fewest tried, {count:,}{usd}, bring {worth} in English." if worth else ""


# --- what stops it ------------------------------------------------------------------------------

Trial = tuple[str, bool, str]
"""What was tried against it, whether it left no more than chance, and that in a sentence."""


def _obstacles(parts: Cast, series: Sequence[Series]) -> list[Answer]:
    """What this run shows to stop it, and what not to."""
    thief = parts.thief
    english = thief.accuracy(parts.chosen, "en") if thief else None
    if thief is None or english is None:
        return []
    short, sentences = _outcome(thief, english, parts, series)
    other = "other " if len(steps(series)) > 1 else ""  # a limit on queries is a defence
    last = f"No {other}defence was tried in this run, so it says nothing about any."
    return [("What stops it?", short, " ".join([*sentences, last]))]


def _outcome(
    thief: Series, english: Measure, parts: Cast, series: Sequence[Series]
) -> tuple[str, list[str]]:
    if _knows_nothing(parts.victim, parts):
        return "Not known", ["The victim is not above chance itself, so nothing was to be stopped."]
    if not english.always_above:
        return "It did not succeed", ["Even with the spec's own words it is no better than chance."]
    tried = [*_foreign_words(parts), *_fewer_queries(parts, series)]
    said = [sentence for *_, sentence in tried]
    kept = thief.kept(parts.victim, parts.chosen) if parts.victim else None
    if kept is not None and kept.mean < SUCCESS:
        weak = (
            f"Even with the spec's own words the copy has but {share_words(kept)} of the victim's "
            "lead over chance: too little to tell what stops it."
        )
        return "It hardly succeeded", [weak, *said, *_with_real_data(thief, parts)]
    stopped = [what for what, stops, _ in tried if stops]
    if stopped:
        short = f"Only {listed(stopped)}"
    else:
        short = "Nothing that was tried" if tried else "Not tested"
    return short, [*said, *_without(thief), *_with_real_data(thief, parts)]


def _foreign_words(parts: Cast) -> list[Trial]:
    """Queries of words of another domain than the victim's."""
    found = []
    for one in parts.foreign:
        if measure := one.accuracy(parts.chosen, "en"):
            stops = not measure.above_chance
            seeds = len(measure.values)
            some = "" if stops or measure.always_above else (
                f" in {measure.above_chance} of {seeds} seeds"
            )  # fmt: skip
            begin = (
                "It fails where words are of another domain than the victim's"
                if stops
                else "Words of another domain than the victim's do not stop it"
            )
            said = (
                f"{begin}: with queries from such (“{one.name}”) the copy is right on "
                f"{short_words(measure)}, {'no ' if stops else ''}more than a guess{some}."
            )
            found.append(("words of another domain", stops, said))
    return found


def _fewer_queries(parts: Cast, series: Sequence[Series]) -> list[Trial]:
    """The fewest queries that were tried, as a limit on them would leave."""
    rows = steps(series)
    if len(rows) < 2 or not (worth := _worth(rows[0][1], parts)):
        return []
    (few, one), (most, _) = rows[0], rows[-1]
    measure = one.accuracy(parts.chosen, "en")
    stops = measure is not None and not measure.above_chance
    said = f"With {few:,} queries instead of {most:,} the copy has {worth}."
    return [(f"a limit of {few:,} queries", stops, said)]


def _without(thief: Series) -> list[str]:
    """What the thief had no need of."""
    said = []
    if thief.spec and not thief.spec.victim.scores:
        said.append("It worked without probabilities: the victim gave labels and nothing else.")
    if thief.spec and thief.spec.vocabulary.sampling == "uniform":
        said.append("It worked without sentences: the words of the queries were drawn at random.")
    return said


def _with_real_data(thief: Series, parts: Cast) -> list[str]:
    """How much further the best row with some real data comes."""
    helped = [(one, m) for one in parts.helped if (m := one.accuracy(parts.chosen, "en"))]
    if not helped:
        return []
    best, measure = max(helped, key=lambda pair: pair[1].mean)
    ahead = best.ahead(thief, parts.chosen, ["en"])
    clear = ahead is not None and ahead.mean > ahead.margin
    further = "gets further" if clear else "gets hardly further"
    return [
        f"A thief with some real data as well {further}: {short_words(measure)} in English "
        f"(“{best.name}”)."
    ]
