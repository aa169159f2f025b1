"""From sections to files: the HTML page, its Markdown twin, the figures and the sheets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from raythief.report import figures
from raythief.report.blocks import Cell, Picture, Section, Sheet
from raythief.report.course import overview
from raythief.report.records import Run

_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")


def files(run: Run, sections: Sequence[Section]) -> dict[str, str]:
    """Name and text of every file of the report; those that tell of others come last."""
    written = {}
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Picture):
                written[f"{block.name}.svg"] = block.svg
        for sheet in section.sheets:
            written[sheet.name] = _csv(sheet)
    written["report.md"] = _rendered("report.md.j2", run, sections)
    return {**written, "index.html": page(run, sections)}


def page(run: Run, sections: Sequence[Section], folder: str = "") -> str:
    """The page; its sheets lie in a folder below it, as ``name/``, or beside it."""
    return _rendered("report.html.j2", run, sections, folder)


def _rendered(template: str, run: Run, sections: Sequence[Section], folder: str = "") -> str:
    facts = {
        "title": run.record.title or run.record.name,
        "facts": overview(run),
        "sections": sections,
        "folder": folder,
    }
    return _environment().get_template(template).render(facts)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("raythief.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = _figure
    environment.filters["spanned"] = _spanned
    environment.filters["md"] = _markdown
    environment.filters["cell"] = _markdown_cell
    environment.filters["fenced"] = _fenced
    return environment


def _figure(picture: Picture) -> Markup:
    """The drawing as part of the page; matplotlib has escaped the text in it."""
    return Markup(figures.inline(picture.svg, picture.name))  # noqa: S704


def _spanned(rows: Sequence[Sequence[Cell]]) -> list[tuple[Sequence[Cell], int]]:
    """Each row with the number of rows that its name stands for; 0 where it has none."""
    found: list[tuple[Sequence[Cell], int]] = []
    below = 1
    for row in reversed(rows):
        named = bool(row[0].text or row[0].note) or len(found) == len(rows) - 1
        found.append((row, below if named else 0))
        below = 1 if named else below + 1
    return found[::-1]


def _markdown(text: str) -> str:
    """Plain text as Markdown that shows just that, on one line."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A bare address would become a link in many viewers.
    return _SPECIAL.sub(r"\\\1", line).replace("://", ":&#47;&#47;")


def _markdown_cell(cell: Cell) -> str:
    """A cell with its note and mark on one line."""
    return _markdown(" ".join(filter(None, [cell.text + cell.mark, cell.note]))) or " "


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks within."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _csv(sheet: Sheet) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(sheet.header)
    writer.writerows([_plain(value) for value in row] for row in sheet.rows)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
