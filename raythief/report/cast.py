"""Who plays which part in a run: the victim, the thief, and those it is held against.

A variant's part follows from the fields in which it differs, never from its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raythief.config import MiniatureCorpus, Spec
from raythief.report.measures import Series, languages_of, sets_of
from raythief.report.records import Run

Role = Literal["gibberish", "foreign", "during", "after", "only"]


@dataclass(frozen=True)
class Cast:
    """Who plays which part in a run, on its main evaluation set."""

    chosen: str
    """The evaluation set of most languages, with gold labels."""
    victim: Series | None
    thief: Series | None
    """The extractor that saw nothing but gibberish of the home vocabulary."""
    foreign: tuple[Series, ...]
    helped: tuple[Series, ...]
    """Extractors that also had some real data."""

    @property
    def abroad(self) -> bool:
        """Whether there are languages other than English."""
        everyone = [one for one in (self.victim, self.thief) if one]
        return any(code != "en" for code in languages_of(everyone, self.chosen))


def role(spec: Spec, base: Spec) -> Role:
    """What a variant is; words from another corpus than the spec's own are foreign."""
    if spec.real.placement == "only":
        return "only"
    corpus = spec.corpus
    domestic = (
        corpus.domain == "general" if isinstance(corpus, MiniatureCorpus) else corpus == base.corpus
    )
    if not domestic:
        return "foreign"
    return spec.real.placement if spec.real.fraction else "gibberish"


def cast(run: Run, series: Sequence[Series]) -> Cast | None:
    """Find the parts; none if nothing was evaluated on gold labels."""
    sets = [chosen for chosen in sets_of(run, series) if not run.of_queries(chosen)]
    if not sets:
        return None
    measured = [one for one in series if one.samples.values()]
    parts: dict[str, list[Series]] = {}
    for one in measured:
        if one.spec and run.spec and not one.is_victim:
            parts.setdefault(role(one.spec, run.spec), []).append(one)
    thieves = sorted(
        parts.get("gibberish", []),
        # Of several, the one that is the spec's own: not some other model or sampling.
        key=lambda one: _changes(one.spec, run.spec),
    )
    thief = thieves[0] if thieves else None
    victims = [one for one in measured if one.is_victim]
    victim = next((one for one in victims if _same_victim(one, thief)), None)
    return Cast(
        chosen=sets[0],
        victim=victim or (victims[0] if victims else None),
        thief=thief,
        foreign=tuple(parts.get("foreign", [])),
        helped=tuple(parts.get("during", []) + parts.get("after", [])),
    )


def is_miniature(run: Run) -> bool:
    """Whether a run is of the small made-up world: one of its models, or what it is scored on."""
    return any(
        "miniature" in (spec.victim.model + spec.extractor.model)
        or any(pairs.source == "miniature" for pairs in spec.evaluation.sets.values())
        for spec in (run.spec, *run.variants.values())
        if spec
    )


def in_miniature(run: Run, text: str) -> str:
    """A headline that says so where the run is of the small made-up world."""
    return f"In miniature: {text[0].lower()}{text[1:]}" if is_miniature(run) else text


def _changes(spec: Spec | None, base: Spec | None) -> int:
    if spec is None or base is None:
        return 0
    sections = ("corpus", "vocabulary", "queries", "victim", "extractor")
    return sum(getattr(spec, name) != getattr(base, name) for name in sections)


def _same_victim(one: Series, thief: Series | None) -> bool:
    return bool(thief and thief.spec and one.spec and one.spec.victim == thief.spec.victim)
