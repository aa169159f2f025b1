"""The report of a run: one HTML file, a Markdown twin, figures as SVG and numbers as CSV.

    write(storage, find(storage, "miniature"))  # -> runs/miniature/<fingerprint>/index.html

It is made from the run record and the manifests alone, so it can be written anywhere that sees
the storage, at any time, of a run that has finished, failed or is still going. The same files
give the same report, byte for byte. None is replaced by one that knows less.

``places`` says where records and reports lie, ``keeping`` which replaces which, ``gaps`` what one
lacks.
``records`` reads what ``results`` describes, ``measures`` reckons, ``cast``, ``answers`` and
``findings`` say what holds, ``scores``, ``comparison``, ``fidelity``, ``distances``, ``gibberish``,
``costs``, ``deviations`` and ``course`` make the sections, ``figures`` and ``diagram`` draw,
``render`` makes the files. Of a sweep, ``trials`` reckons, ``search`` and ``choices`` make the
sections and ``sweepfigures`` draws.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from raythief.artifacts import Storage
from raythief.errors import UserError
from raythief.report import (
    answers,
    choices,
    comparison,
    costs,
    course,
    deviations,
    diagram,
    distances,
    fidelity,
    gaps,
    gibberish,
    scores,
    search,
)
from raythief.report.blocks import Answers, Block, Points, Section, Text
from raythief.report.cast import Cast, cast, in_miniature
from raythief.report.findings import findings, verdict
from raythief.report.measures import series_of, sets_of
from raythief.report.places import Place, find, newest
from raythief.report.records import Run, collect
from raythief.report.render import files, page

__all__ = ["KnowsLessError", "Place", "find", "headline", "write"]

KNOWS = "report.json"
"""File beside a report: what it knows, and what it lacks."""


class KnowsLessError(UserError):
    """The report that is there tells what one written now could not."""


def write(storage: Storage, place: Place, *, as_newest: bool = False) -> str:
    """Write the report of a run and return the path of its ``index.html``.

    Args:
        storage: Where the record and the manifests lie.
        place: The run.
        as_newest: Have its name mean this run from now on.

    Raises:
        UserError: there is no such run, or its record cannot be understood.
        KnowsLessError: the report that is there knows more; it stays as it is.
    """
    run = collect(storage, place)
    made, knows = sections(run), gaps.knowledge(run)
    _check_knows_as_much(storage, place, knows)
    for file, content in files(run, made).items():
        _write(storage, f"{place.folder}/{file}", content)
    lacks = [gap.fault for gap in run.gaps]
    content = json.dumps({"knows": knows, "lacks": lacks}, indent=1, ensure_ascii=False)
    _write(storage, f"{place.folder}/{KNOWS}", content)
    if as_newest:
        content = json.dumps({"fingerprint": place.fingerprint})
        _write(storage, f"{place.home}/newest.json", content)
    if place.fingerprint and newest(storage, place.name) == place.fingerprint:
        _write(storage, f"{place.home}/index.html", page(run, made, f"{place.fingerprint}/"))
    return f"{storage.root}/{place.page}"


def _check_knows_as_much(storage: Storage, place: Place, knows: Sequence[str]) -> None:
    there = json.loads(storage.read_bytes(f"{place.folder}/{KNOWS}") or b"{}").get("knows", [])
    lost = [one for one in there if one not in set(knows)]
    if not lost:
        return
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    address = storage.address(f"{storage.root}/{place.page}")
    raise KnowsLessError(
        f"{address}: stays as it is, for one written now would lack {'; '.join(lost[:3])}{more}: "
        f"run the spec again to build what is missing, or delete {KNOWS} beside it"
    )


def _write(storage: Storage, path: str, content: str) -> None:
    # A lone surrogate can come in through JSON and is no text in UTF-8.
    storage.write_bytes(path, content.encode("utf-8", "replace"))


def headline(storage: Storage, place: Place) -> str:
    """What a run came to, in the sentences that its report begins with.

    Raises:
        UserError: there is no such run, or its record cannot be understood.
    """
    run = collect(storage, place)
    if sweep := search.search(run):
        return search.headline(sweep)[0]
    series = series_of(run)
    if not sets_of(run, series) and (figure := distances.headline(run)):
        return figure
    _, _, said = answers.answers(run, series, cast(run, series))[0]
    return in_miniature(run, said)


def sections(run: Run) -> list[Section]:
    """Everything that the report says, in its order."""
    if sweep := search.search(run):
        return _of_sweep(run, sweep)
    series = series_of(run)
    parts = cast(run, series)
    found = findings(parts)
    figure = distances.headline(run)
    start: list[Block] = []
    if sets_of(run, series) or not figure:
        start += [Answers(answers.answers(run, series, parts)), Text(answers.trust(run))]
    if figure:
        start.append(Text(figure, strong=not start))
    if parts or not figure:  # of Figure 2 alone there is nothing to be judged
        start += [Text(verdict(found)), Points(found)]
    chosen = [
        Section("summary", "Summary", [*start, *gaps.in_brief(run)]),
        diagram.pipeline(run),
        scores.accuracy(run, series, parts) if sets_of(run, series) else None,
        comparison.beside_the_paper(run, series) if parts else None,
        scores.differences(series, parts) if parts else None,
        fidelity.fidelity(run, series, parts.chosen) if parts else None,
        scores.agreement(run, series),
        scores.classes(series, parts),
        distances.nearest(run),
        gibberish.labels(run, parts),
        gibberish.words(run),
        course.training(run),
        costs.costs(run),
        deviations.deviations(run),
        course.faults(run),
        course.again(run),
    ]
    return gaps.at_their_places(run, chosen)


def _of_sweep(run: Run, found: search.Search) -> list[Section]:
    """What the report says of a sweep.

    The paper's claims are not judged by its rows: trials were chosen by their scores, and differ in
    more than what a claim is about. What rows scored is shown of the best configurations.
    """
    start: list[Block] = [
        Text(line, strong=i == 0) for i, line in enumerate(search.headline(found))
    ]
    if points := choices.findings(found):
        start.append(Points(points))
    best = search.leading(found)
    series = series_of(best)
    sets = sets_of(best, series)
    gold = [chosen for chosen in sets if not best.of_queries(chosen)]
    victim = next((one for one in series if one.is_victim), None)
    parts = Cast(gold[0], victim, None, (), ()) if gold else None
    chosen = [
        Section("summary", "Summary", [*start, *gaps.in_brief(run)]),
        search.trials(found),
        choices.placement(found),
        choices.selection(found),
        diagram.pipeline(run),
        search.restricted(found, scores.accuracy(best, series, None)) if sets else None,
        scores.agreement(best, series),
        scores.classes(series, parts),
        distances.nearest(run),
        gibberish.labels(run, parts),
        gibberish.words(run),
        search.restricted(found, course.training(best)),
        search.restricted(found, costs.costs(best)),
        deviations.deviations(run),
        course.faults(run),
        course.again(run),
    ]
    return gaps.at_their_places(run, chosen)
