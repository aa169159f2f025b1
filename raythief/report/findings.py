"""What a run shows, and what it does not, in sentences.

The paper makes a handful of claims. For each that a run can speak to, a finding says whether its
numbers bear the claim out (``shows``), bear it out only within the noise (``unclear``) or do not
(``absent``). A model is above chance if it is so in every seed, by the 95 % interval of its test
items. A difference is one beyond half its own interval: the wider of that by test items and that of
Student's t over the seeds.
"""

from __future__ import annotations

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


def share_words(kept: Measure) -> str:
    """80 ± 5 %: a share of a lead and half its 95 % interval."""
    return f"{100 * kept.mean:.0f}{NBSP}±{NBSP}{100 * kept.margin:.0f}{NBSP}%"


def difference_words(apart: Measure) -> str:
    """+1.9 ± 12.6 points over 3 seeds: a difference and half its 95 % interval."""
    seeds = len(apart.values)
    over = "in one seed" if seeds == 1 else f"over {seeds} seeds"
    return f"{points(apart.mean)} ± {percent(apart.margin)} points {over}"


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
        numbers = accuracy_words(others)
        place = "below" if others.below_chance == len(others.values) else "at"
        found.append(
            (
                "absent" if others.always_above else "unclear",
                f"The victim is not at chance in the other languages: {numbers}, above chance"
                f"{_seeds(others, True)}.{exceptions}",
            )
            if others.above_chance
            else (
                "shows",
                f"The victim is {place} chance in the other languages: {numbers}.{exceptions}",
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
        if beyond := _pair("", thief, parts.victim, parts):
            found.append(
                _difference(
                    "The extractor goes further than its victim in the other languages",
                    "The extractor is no better than its victim in the other languages",
                    [beyond],
                )
            )
    return found


def _foreign(one: Series, parts: Cast) -> list[Finding]:
    english, others = one.accuracy(parts.chosen, "en"), one.elsewhere(parts.chosen)
    measures = [m for m in (english, others) if m]
    home = parts.thief.accuracy(parts.chosen, "en") if parts.thief else None
    if not measures or (home and not home.always_above):
        return []  # where nothing was extracted, there is nothing to be brought down
    places = []
    if english:
        places.append(f"{accuracy_words(english)} in English")
    if others:
        places.append(f"{accuracy_words(others)} in the others")
    against = f"; the home vocabulary gives {percent(home.mean)} % in English" if home else ""
    numbers = f"{listed(places)}{against}"
    words = f"Words of a foreign domain (“{one.name}”)"
    if any(measure.always_above for measure in measures):
        return [("absent", f"{words} do not bring extraction down to chance: {numbers}.")]
    able = max(measures, key=lambda measure: measure.above_chance)
    if able.above_chance:
        return [("unclear", f"{words} leave more than chance{_seeds(able, True)}: {numbers}.")]
    return [("shows", f"{words} leave no more than chance: {numbers}.")]


def _real_data(parts: Cast) -> list[Finding]:
    found = [_pair(f"“{one.name}”", one, parts.thief, parts) for one in parts.helped]
    pairs = [pair for pair in found if pair]
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
        after, during = placed.get("after"), placed.get("during")
        if pair := _pair(f"with {100 * share:.3g} % of it", after, during, parts):
            pairs.append(pair)
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


Pair = tuple[str, Measure, Measure, Measure]
"""A label, two measures, and the difference of the two."""


def _pair(label: str, one: Series | None, other: Series | None, parts: Cast) -> Pair | None:
    """What ``_main`` compares of two rows; None where they have no seed in common."""
    ours, theirs = _main(one, parts), _main(other, parts)
    if one is None or other is None or ours is None or theirs is None:
        return None
    others = [code for code in one.languages(parts.chosen) if code != "en"]
    apart = one.ahead(other, parts.chosen, others or ["en"])
    return (label, ours, theirs, apart) if apart else None


def _difference(shown: str, missing: str, pairs: Sequence[Pair]) -> Finding:
    """Compare pairs of measures: all must differ in the claimed direction, beyond the noise."""
    details, kinds = [], set()
    for label, ours, theirs, apart in pairs:
        mean, noise = apart.mean, apart.margin
        kinds.add("absent" if mean <= 0 else "unclear" if mean <= noise else "shows")
        numbers = f"{percent(ours.mean)} against {percent(theirs.mean)}{NBSP}%"
        details.append(f"{label} {difference_words(apart)} ({numbers})".strip())
    text = listed(details)
    if "absent" in kinds:
        return "absent", f"{missing}: {text}."
    if "unclear" in kinds:
        return "unclear", f"{shown}, but by no more than the noise: {text}."
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
