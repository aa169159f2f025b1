"""The report of a run: one HTML file, a Markdown twin, figures as SVG and numbers as CSV.

    write(fs, root, "miniature")  # -> <root>/reports/miniature/index.html

It is made from the run record and the manifests alone, so it can be written anywhere that sees
the storage, at any time, of a run that has finished, failed or is still going. The same files
give the same report, byte for byte.

``records`` reads what ``results`` describes, ``measures`` reckons, ``cast``, ``answers`` and
``findings`` say what holds, ``scores``, ``comparison``, ``fidelity``, ``distances``, ``gibberish``,
``costs``, ``deviations`` and ``course`` make the sections, ``figures`` and ``diagram`` draw,
``render`` makes the files. Of a sweep, ``trials`` reckons, ``search`` and ``choices`` make the
sections and ``sweepfigures`` draws.
"""

from __future__ import annotations

from pyarrow import fs as filesystems

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
    gibberish,
    scores,
    search,
)
from raythief.report.blocks import Answers, Block, Points, Section, Text
from raythief.report.cast import Cast, cast, in_miniature
from raythief.report.findings import findings, verdict
from raythief.report.measures import series_of, sets_of
from raythief.report.records import Run, collect
from raythief.report.render import files

__all__ = ["headline", "write"]


def write(fs: filesystems.FileSystem, root: str, name: str) -> str:
    """Write the report of the run ``name`` and return the path of its ``index.html``.

    Raises:
        UserError: there is no such run, or its record can not be understood.
    """
    run = collect(fs, root, name)
    folder = f"{root.rstrip('/')}/reports/{name}"
    fs.create_dir(folder, recursive=True)
    for file, content in files(run, sections(run)).items():
        with fs.open_output_stream(f"{folder}/{file}") as stream:
            # A lone surrogate can come in through JSON and is no text in UTF-8.
            stream.write(content.encode("utf-8", "replace"))
    return f"{folder}/index.html"


def headline(fs: filesystems.FileSystem, root: str, name: str) -> str:
    """What the run ``name`` came to, in the sentences that its report begins with.

    Raises:
        UserError: there is no such run, or its record can not be understood.
    """
    run = collect(fs, root, name)
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
        Section("summary", "Summary", start),
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
    return [section for section in chosen if section]


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
        Section("summary", "Summary", start),
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
    return [section for section in chosen if section]
