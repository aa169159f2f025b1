"""The report of a run: one HTML file, a Markdown twin, figures as SVG and numbers as CSV.

    write(fs, root, "miniature")  # -> <root>/reports/miniature/index.html

It is made from the run record and the manifests alone, so it can be written anywhere that sees
the storage, at any time, of a run that has finished, failed or is still going. The same files
give the same report, byte for byte.

``records`` reads, ``measures`` reckons, ``cast`` and ``findings`` say what holds, ``scores``,
``comparison``, ``fidelity``, ``distances`` and ``course`` make the sections, ``figures`` draws,
``render`` makes the files.
"""

from __future__ import annotations

from pyarrow import fs as filesystems

from raythief.report import comparison, course, distances, fidelity, scores
from raythief.report.blocks import Block, Points, Section, Text
from raythief.report.cast import Cast, cast
from raythief.report.findings import findings, summary, verdict
from raythief.report.measures import series_of
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
    """What the run ``name`` came to, in the two sentences that its report begins with.

    Raises:
        UserError: there is no such run, or its record can not be understood.
    """
    run = collect(fs, root, name)
    return _lines(run, cast(run, series_of(run)))[0]


def sections(run: Run) -> list[Section]:
    """Everything that the report says, in its order."""
    series = series_of(run)
    parts = cast(run, series)
    found = findings(parts)
    start: list[Block] = [Text(line, strong=i == 0) for i, line in enumerate(_lines(run, parts))]
    if parts or not distances.headline(run):  # of Figure 2 alone there is nothing to be judged
        start += [Text(verdict(found)), Points(found)]
    chosen = [
        Section("summary", "Summary", start),
        scores.accuracy(run, series, parts) if parts else None,
        comparison.beside_the_paper(run, series) if parts else None,
        scores.differences(series, parts) if parts else None,
        fidelity.fidelity(run, series, parts.chosen) if parts else None,
        scores.agreement(series),
        scores.classes(series, parts),
        distances.nearest(run),
        course.labels(run),
        course.words(run),
        course.training(run),
        course.time(run),
        course.faults(run),
        course.again(run),
    ]
    return [section for section in chosen if section]


def _lines(run: Run, parts: Cast | None) -> list[str]:
    """What a run came to: of its scores if it has any, and of its Figure 2."""
    figure = distances.headline(run)
    scored = summary(run, parts) if parts or not figure else []
    return [*scored, figure] if figure else scored
