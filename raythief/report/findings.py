"""What a run shows, and what it does not, in sentences.

The paper makes a handful of claims. For each that a run can speak to, a finding says whether its
numbers bear the claim out (``shows``), bear it out only within the noise of the test items
(``unclear``) or do not (``absent``). Every threshold is the 95 % interval, in every seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from raythief.report.blocks import NBSP, Verdict, counted, listed, percent, points
from raythief.report.cast import Cast
from raythief.report.languages import name as language_name
from raythief.report.measures import Measure, Series

Finding = tuple[Verdict, str]


def verdict(found: Sequence[Finding]) -> str:
    """One sentence over all findings."""
    if not found:
        return "The rows that finished do not allow any of the paper's claims to be checked."
    absent = sum(kind == "absent" for kind, _ in found)
    unclear = sum(kind == "unclear" for kind, _ in found)
    if not absent and not unclear:
        return "Every effect that this run can speak to shows."
    parts = []
    if absent:
        verb = "does" if absent == 1 else "do"
        parts.append(f"{absent} {verb} not show")
    if unclear:
        verb = "is" if unclear == 1 else "are"
        parts.append(f"{unclear} {verb} too small to tell from noise")
    whole = counted(len(found), "effect")
    return f"Of {whole} that this run can speak to, {listed(parts)}."


def findings(parts: Cast | None) -> list[Finding]:
    """Every claim that the run's finished rows can speak to."""
    if parts is None:
        return []
    found: list[Finding] = []
    if parts.victim:
        found += _victim(parts.victim, parts)
    if parts.thief:
        found += _thief(parts.thief, parts)
    for one in parts.foreign:
        found += _foreign(one, parts)
    found += _real_data(parts)
    found += _placement(parts)
    return found


def accuracy_words(measure: Measure) -> str:
    """86.8 ± 1.2 % (85.4 to 88.0): spread over seeds or, for a single one, its 95 % interval."""
    low, high = measure.reach
    return f"{short_words(measure)} ({percent(low)} to {percent(high)})"


def short_words(measure: Measure) -> str:
    """86.8 ± 1.2 %, the second number as in the table."""
    spread = measure.margin if measure.sd is None else measure.sd
    return f"{percent(measure.mean)}{NBSP}±{NBSP}{percent(spread)}{NBSP}%"


def noise_of(ours: Measure, theirs: Measure, paired: Measure | None) -> float:
    """Half the 95 % interval of a difference: paired by item or, where the items are not known, as
    of two that are independent, which is the wider reading."""
    return paired.margin if paired else math.hypot(ours.margin, theirs.margin)


# --- the claims ---------------------------------------------------------------------------------


def _victim(victim: Series, parts: Cast) -> list[Finding]:
    found: list[Finding] = []
    english, others = victim.accuracy(parts.chosen, "en"), victim.elsewhere(parts.chosen)
    if english:
        found.append(
            ("shows", f"The victim knows the task in English: {accuracy_words(english)}.")
            if english.always_above
            else (
                "absent",
                f"The victim does not know the task in English: {accuracy_words(english)}, not "
                f"above chance{_seeds(english)}. There is nothing to extract.",
            )
        )
    if others:
        able = _abroad(victim, parts, above=True)
        exceptions = f" It is above chance in {able}." if able else ""
        if others.above_chance:
            found.append(
                (
                    "absent",
                    f"The victim is not at chance in the other languages: "
                    f"{accuracy_words(others)}, above chance{_seeds(others, True)}.{exceptions}",
                )
            )
        else:
            place = "below" if others.below_chance == len(others.values) else "at"
            found.append(
                (
                    "shows",
                    f"The victim is {place} chance in the other languages: "
                    f"{accuracy_words(others)}.{exceptions}",
                )
            )
    return found


def _thief(thief: Series, parts: Cast) -> list[Finding]:
    found: list[Finding] = []
    english, others = thief.accuracy(parts.chosen, "en"), thief.elsewhere(parts.chosen)
    if english:
        found.append(_above_chance("The extractor", "in English", english))
    if others:
        status, text = _above_chance("The extractor", "in the other languages", others)
        weak = _abroad(thief, parts, above=False)
        text += f" It is not above chance in {weak}." if weak else ""
        found.append((status, text))
        theirs = parts.victim.elsewhere(parts.chosen) if parts.victim else None
        if theirs:
            found.append(
                _difference(
                    "The extractor goes further than its victim in the other languages",
                    "The extractor is no better than its victim in the other languages",
                    [("", others, theirs, _paired(thief, parts.victim, parts))],
                )
            )
    return found


def _foreign(one: Series, parts: Cast) -> list[Finding]:
    english, others = one.accuracy(parts.chosen, "en"), one.elsewhere(parts.chosen)
    measures = [m for m in (english, others) if m]
    if not measures:
        return []
    places = []
    if english:
        places.append(f"{accuracy_words(english)} in English")
    if others:
        places.append(f"{accuracy_words(others)} in the others")
    home = parts.thief.accuracy(parts.chosen, "en") if parts.thief else None
    against = f"; the home vocabulary gives {percent(home.mean)} % in English" if home else ""
    numbers = f"{listed(places)}{against}"
    if any(measure.above_chance for measure in measures):
        return [
            (
                "absent",
                f"Words of a foreign domain (“{one.name}”) do not bring extraction down to chance: "
                f"{numbers}.",
            )
        ]
    return [
        ("shows", f"Words of a foreign domain (“{one.name}”) leave no more than chance: {numbers}.")
    ]


def _real_data(parts: Cast) -> list[Finding]:
    before = _main(parts.thief, parts)
    pairs = []
    for one in parts.helped:
        after = _main(one, parts)
        if before and after:
            paired = _paired(one, parts.thief, parts)
            pairs.append((f"“{one.name}”", after, before, paired))
    if not pairs:
        return []
    return [
        _difference(
            f"Some real English data helps ({_where(parts)})",
            f"Some real English data does not help everywhere it was tried ({_where(parts)})",
            pairs,
        )
    ]


def _placement(parts: Cast) -> list[Finding]:
    """Post-hoc fine-tuning against mixing, at the same share of real data."""
    by_share: dict[float, dict[str, Series]] = {}
    for one in parts.helped:
        if _main(one, parts) and one.spec:
            placed = by_share.setdefault(one.spec.real.fraction, {})
            placed.setdefault(one.spec.real.placement, one)
    pairs = []
    for share, placed in sorted(by_share.items(), key=lambda entry: entry[0]):
        after, during = (_main(placed.get(place), parts) for place in ("after", "during"))
        if after and during:
            paired = _paired(placed["after"], placed["during"], parts)
            pairs.append((f"with {100 * share:.3g} % of it", after, during, paired))
    if not pairs:
        return []
    return [
        _difference(
            f"Real data after extraction beats mixing it in ({_where(parts)})",
            f"Real data after extraction does not beat mixing it in ({_where(parts)})",
            pairs,
        )
    ]


# --- helpers ------------------------------------------------------------------------------------


Pair = tuple[str, Measure, Measure, Measure | None]
"""A label, two measures, and the difference of the two paired by item, where that is known."""


def _paired(one: Series, other: Series | None, parts: Cast) -> Measure | None:
    """The difference of what ``_main`` compares, item by item."""
    if other is None:
        return None
    others = [code for code in one.languages(parts.chosen) if code != "en"]
    return one.apart(other, parts.chosen, others or ["en"])


def _difference(shown: str, missing: str, pairs: Sequence[Pair]) -> Finding:
    """Compare pairs of measures: all must differ in the claimed direction, beyond the noise."""
    details, kinds = [], set()
    for label, ours, theirs, paired in pairs:
        difference, noise = ours.mean - theirs.mean, noise_of(ours, theirs, paired)
        kinds.add("absent" if difference <= 0 else "unclear" if difference <= noise else "shows")
        numbers = f"{points(difference)} ± {percent(noise)} points ({percent(ours.mean)} against "
        details.append(f"{label} {numbers}{percent(theirs.mean)}{NBSP}%)".strip())
    text = listed(details)
    if "absent" in kinds:
        return "absent", f"{missing}: {text}."
    if "unclear" in kinds:
        return "unclear", f"{shown}, but by no more than the noise of the test items: {text}."
    return "shows", f"{shown}: {text}."


def _above_chance(who: str, where: str, measure: Measure) -> Finding:
    if measure.always_above:
        return "shows", f"{who} is above chance {where}: {accuracy_words(measure)}."
    return "absent", (
        f"{who} is not above chance {where}: {accuracy_words(measure)}{_seeds(measure)}."
    )


def _seeds(measure: Measure, above: bool = False) -> str:
    """In how many seeds it is so, if there are several."""
    number = measure.above_chance if above else len(measure.values) - measure.above_chance
    return f" in {number} of {len(measure.values)} seeds" if len(measure.values) > 1 else ""


def _abroad(one: Series, parts: Cast, above: bool) -> str:
    """Name the other languages that are, or are not, above chance in every seed."""
    others = [code for code in one.languages(parts.chosen) if code != "en"]
    measures = {code: one.accuracy(parts.chosen, code) for code in others}
    found = [code for code, m in measures.items() if m and m.always_above == above]
    if len(found) == len(others) > 1:
        return "every one of them"
    return listed([language_name(code) for code in found])


def _main(one: Series | None, parts: Cast) -> Measure | None:
    """The accuracy that is compared: the other languages' mean, or English where it is alone."""
    if one is None:
        return None
    return one.elsewhere(parts.chosen) or one.accuracy(parts.chosen, "en")


def _where(parts: Cast) -> str:
    return "mean of the other languages" if parts.abroad else "English"
