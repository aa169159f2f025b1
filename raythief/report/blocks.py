"""What a report is made of, before it becomes HTML or Markdown.

The sections are built once, from these blocks; both templates only walk over them, so that the
two files cannot say different things. Text here is plain: the templates escape it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["shows", "unclear", "absent"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    note: str = ""
    """Smaller text after it: a spread, a language's name."""
    mark: str = ""
    """Superscript."""
    share: float | None = None
    """Shades the cell, 0 to 1."""
    muted: bool = False
    """A number that is not the point of the row."""


@dataclass(frozen=True)
class Table:
    """A table whose first ``heads`` columns name the row."""

    caption: str
    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    heads: int = 1
    prose: bool = False
    """Cells hold words rather than numbers."""
    notes: Sequence[str] = ()
    csv: str | None = None
    """File with the same numbers in full precision."""
    fold: str | None = None
    """If given, the table is folded away under this line."""
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Picture:
    """A figure; ``name`` is its file's, without the suffix."""

    name: str
    svg: str
    alt: str
    caption: str
    csv: str
    kind: Literal["picture"] = "picture"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    strong: bool = False
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class Answers:
    """Questions, each with its answer in a few words and in full."""

    items: Sequence[tuple[str, str, str]]
    kind: Literal["answers"] = "answers"


@dataclass(frozen=True)
class Points:
    """Findings, each with its verdict."""

    items: Sequence[tuple[Verdict, str]]
    kind: Literal["points"] = "points"


@dataclass(frozen=True)
class Code:
    """Text to be copied as it stands."""

    text: str
    fold: str | None = None
    kind: Literal["code"] = "code"


Block = Table | Picture | Text | Answers | Points | Code


@dataclass(frozen=True)
class Sheet:
    """A CSV file; values go in as they stand in the manifests."""

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    anchor: str
    title: str
    blocks: Sequence[Block]
    sheets: Sequence[Sheet] = field(default=())


DASH = "–"
NBSP = "\N{NO-BREAK SPACE}"


def percent(share: float) -> str:
    """0.8684 -> 86.8"""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """0.0123 -> +1.2, with a true minus sign, and none before a zero."""
    shown = f"{100 * difference:+.1f}".replace("-", "−")
    return "0.0" if shown[1:] == "0.0" else shown


def number(value: int | float | None) -> str:
    """Thousands with a comma; a dash for what is not known."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if isinstance(value, int) or value >= 1000 else f"{value:,.1f}"


def seconds(value: float | None) -> str:
    """Seconds with the precision that is of use."""
    if value is None:
        return DASH
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def duration(value: float) -> str:
    """Seconds in words: 201 -> 3 min 21 s."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{amount} {unit}" for amount, unit in parts if amount]
    return " ".join(shown[:2]) or "under 1 s"


def listed(items: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def counted(amount: int, noun: str, plural: str | None = None) -> str:
    """1 seed, 3 seeds."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"
