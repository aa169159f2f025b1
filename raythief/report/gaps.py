"""What a report knows and what it lacks: so that none replaces one that knows more, and each says
at the place what is missing there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from raythief.report.blocks import Section, Text, counted
from raythief.report.records import Run
from raythief.results import Evaluation

_TOLD_IN: dict[str, tuple[str, ...]] = {
    "accuracy": ("evaluation", "victim_evaluation"),
    "distances": ("figure2",),
    "labels": ("labels",),
    "words": ("corpus", "vocabulary"),
    "training": ("victim", "extractor", "finetuned"),
}
"""Stages that a section rests on, by its anchor."""
_SHOWN = {stage for stages in _TOLD_IN.values() for stage in stages}
_TITLES = {
    "accuracy": "Accuracy by language",
    "distances": "How far gibberish is from real data",
    "labels": "What the victim says about gibberish",
    "words": "Vocabularies",
    "training": "Training",
}
_MOST = 3
"""Artifacts that a sentence names; the others are listed under the gaps."""


def knowledge(run: Run) -> list[str]:
    """What the report of a run can tell: rows that are done, and what their artifacts hold."""
    return sorted({*_known(run)})


def _known(run: Run) -> Iterator[str]:
    for row in run.record.rows:
        if row.status == "done":
            yield row.label
        for stage in row.stages:
            artifact = run.artifact(row, stage)
            if artifact is None or (stage in _SHOWN and artifact.results is None):
                continue
            if stage in _SHOWN or artifact.usage.spent is not None:
                yield f"{row.label}: {stage}"
            if isinstance(artifact.results, Evaluation):
                for chosen, languages in artifact.results.sets.items():
                    yield from (f"{row.label}: {stage} on {chosen}/{one}" for one in languages)


def in_brief(run: Run) -> list[Text]:
    """For the top of a report: that it lacks something; nothing where it does not."""
    if not run.gaps:
        return []
    amount = counted(len(run.gaps), "artifact")
    return [Text(f"This report lacks what {amount} told: {_listed(run, None)}.")]


def at_their_places(run: Run, sections: Iterable[Section | None]) -> list[Section]:
    """The sections, each with what is not known there; those that are left out for it, too."""
    told = []
    shown = list(filter(None, sections))
    there = [section.anchor for section in shown]
    for anchor in _TOLD_IN:
        if anchor not in there and _listed(run, anchor):
            shown.insert(-2, Section(anchor, _TITLES[anchor], []))
    for section in shown:
        if lacking := _listed(run, section.anchor):
            text = Text(f"Not known here: {lacking}.")
            section = Section(
                section.anchor, section.title, [text, *section.blocks], section.sheets
            )
        told.append(section)
    return told


def _listed(run: Run, anchor: str | None) -> str:
    """Stages and rows of the gaps of one section, or of all."""
    stages = None if anchor is None else _TOLD_IN.get(anchor, ())
    found = [gap for gap in run.gaps if stages is None or gap.stage in stages]
    named = [f"{gap.stage.replace('_', ' ')} of {gap.row}" for gap in found[:_MOST]]
    more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return f"{'; '.join(named)}{more} (see Failures and gaps)" if found else ""
