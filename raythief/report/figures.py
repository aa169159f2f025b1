"""The figures, drawn by matplotlib as SVG.

Every figure can be told apart without colour: bars have hatches, points have markers, and what
matters is also written. Ink is one sentinel grey that reads on white and on black; inside the
HTML page it becomes the page's own text colour (see ``inline``).
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from raythief.config import LABELS
from raythief.report.languages import by_script, family, name

INK = "#767676"
VICTIM_STYLE = ("#8c8c8c", "", "X")
# Okabe and Ito's colours, which the colour-blind can tell apart, without black and yellow.
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#a0a032", "#7a5fa8",
    "#5c8f6b",
)  # fmt: skip
HATCHES = ("///", "---", "\\\\\\", "xxx", "|||", "", "//", "+++", "\\\\", "...")
MARKERS = ("o", "s", "^", "D", "v", "P", "<", ">", "h", "d", "p", "8", "*")
SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "raythief",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "hatch.linewidth": 0.7,
}
WIDTH = 9.2

Curve = tuple[str, Sequence[tuple[int, float]]]
"""A name, and (step, loss) along it."""
Chances = Mapping[str, float]
"""Accuracy of the best guess, by language."""


@dataclass(frozen=True)
class Line:
    """One row of the accuracy figures: by language its mean and reach."""

    name: str
    style: tuple[str, str, str]
    values: Mapping[str, tuple[float, float, float]]


def style(index: int) -> tuple[str, str, str]:
    """Colour, hatch and marker of the variant with this place in the spec.

    There are more hatches and markers than colours, so that of one colour none are alike.
    """
    colour, hatch = COLOURS[index % len(COLOURS)], HATCHES[index % len(HATCHES)]
    return colour, hatch, MARKERS[index % len(MARKERS)]


def accuracy_bars(lines: Sequence[Line], chances: Chances) -> str:
    """Grouped bars by language, with error bars; for a handful of rows."""
    groups = by_script(code for line in lines for code in line.values)
    width = 0.82 / len(lines)
    with matplotlib.rc_context(SETTINGS):
        figure, axes = canvas(3.8)
        centres = _language_axis(axes, groups)
        for i, line in enumerate(lines):
            shift = (i - (len(lines) - 1) / 2) * width
            codes = [code for code in centres if code in line.values]
            means = [100 * line.values[code][0] for code in codes]
            places = [centres[code] + shift for code in codes]
            colour, hatch, _ = line.style
            axes.bar(
                places, means, width * 0.94, color=colour, hatch=hatch, edgecolor="white",
                linewidth=0, label=short(line.name, 32),
            )  # fmt: skip
            axes.errorbar(
                places, means, yerr=_whiskers(line, codes), fmt="none", ecolor=INK,
                elinewidth=1, capsize=1.5,
            )  # fmt: skip
        axes.set_ylim(0, 100)
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        level = _chance(axes.axhline, axes.hlines, centres, chances)
        axes.annotate(
            "chance", (1.0, level), xycoords=axes.get_yaxis_transform(), xytext=(4, 0),
            textcoords="offset points", va="center",
        )  # fmt: skip
        legend(axes, columns=min(len(lines), 4))
        return to_svg(figure)


def accuracy_dots(lines: Sequence[Line], chances: Chances) -> str:
    """One line of points a language; for as many rows as a table has."""
    groups = by_script(code for line in lines for code in line.values)
    with matplotlib.rc_context(SETTINGS):
        languages = [code for _, members in groups for code in members]
        figure, axes = canvas(1.3 + 0.36 * len(languages) + 0.1 * len(lines))
        heights: dict[str, float] = {}
        y = 0.0
        for _, members in groups:
            for code in members:
                heights[code] = y
                y += 1
        spread = 0.6 / max(len(lines) - 1, 1)
        for i, line in enumerate(lines):
            colour, _, marker = line.style
            codes = [code for code in heights if code in line.values]
            axes.errorbar(
                [100 * line.values[code][0] for code in codes],
                # Rows are set apart a little, in their order, so that none hides another.
                [heights[code] + (i - (len(lines) - 1) / 2) * spread for code in codes],
                xerr=_whiskers(line, codes), fmt=marker, color=colour, markersize=6,
                elinewidth=0.9, markeredgecolor="white", markeredgewidth=0.4,
                label=short(line.name, 32),
            )  # fmt: skip
        for code in list(heights)[::2]:
            axes.axhspan(heights[code] - 0.5, heights[code] + 0.5, color=INK, alpha=0.07, lw=0)
        axes.set_yticks(list(heights.values()), [short(f"{name(c)}  {c}") for c in heights])
        axes.set_ylim(max(heights.values()) + 0.6, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(min(25.0, axes.get_xlim()[0]), 100)
        axes.set_xlabel("accuracy, %")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        _chance(axes.axvline, axes.vlines, heights, chances, label="chance")
        legend(axes, columns=3)
        return to_svg(figure)


def label_bars(rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Stacked bars: the share of each label on the queries."""
    looks = (("#0072b2", "///"), ("#b0b0b0", ""), ("#d55e00", "\\\\\\"))
    with matplotlib.rc_context(SETTINGS):
        figure, axes = canvas(0.95 + 0.34 * len(rows))
        for place, label in enumerate(LABELS):
            starts = [100 * sum(shares[:place]) for _, shares in rows]
            sizes = [100 * shares[place] for _, shares in rows]
            colour, hatch = looks[place]
            axes.barh(
                range(len(rows)), sizes, 0.72, left=starts, color=colour, hatch=hatch,
                edgecolor="white", linewidth=0, label=label,
            )  # fmt: skip
            for y, (start, size) in enumerate(zip(starts, sizes, strict=True)):
                if size >= 6:
                    _tag(axes, start + size / 2, y, f"{size:.0f}")
        axes.set_yticks(range(len(rows)), [short(label) for label, _ in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the queries, %")
        axes.axvline(100 / 3, color=INK, lw=0.8, ls=":")
        axes.axvline(200 / 3, color=INK, lw=0.8, ls=":")
        _plain_rows(axes)
        legend(axes, columns=3)
        return to_svg(figure)


def loss_curves(panels: Sequence[tuple[str, Sequence[Curve], float | None]]) -> str:
    """Small panels of loss by step: one line a seed and, where it is known, the loss of a guess."""
    with matplotlib.rc_context(SETTINGS):
        figure, places, left = grid(len(panels), 3, 0.5, 1.75)
        for axes, (title, curves, guess) in zip(places, panels, strict=True):
            for j, (label, curve) in enumerate(curves):
                thin = curve[:: max(1, len(curve) // 300)]
                axes.plot(
                    [step for step, _ in thin], [loss for _, loss in thin],
                    color=style(j)[0], ls=("-", "--", "-.", ":")[j % 4], lw=1.3,
                    marker="" if len(thin) > 1 else "o", label=short(label),
                )  # fmt: skip
            if guess is not None:
                axes.axhline(guess, color=INK, lw=0.8, ls=":")
            axes.set_title(short(title, 38))
            axes.grid(axis="y")
        places[0].set_ylim(bottom=0)  # of all, once it is known how far up they go
        for axes in left:
            axes.set_ylabel("loss")
        figure.supxlabel("optimiser step", fontsize=9.5, color=INK)
        if len(panels[0][1]) > 1:
            places[0].legend(fontsize=8, handlelength=1.8, labelspacing=0.2)
        return to_svg(figure)


def by_queries(
    curves: Sequence[tuple[str, tuple[str, str, str], Sequence[tuple[int, float, float, float]]]],
    price: float,
    chances: Sequence[float],
) -> str:
    """Shares by the number of queries, on a logarithmic axis, and their price above it.

    Args:
        curves: Name, style, and queries, mean, low and high of each point.
        price: Dollars a query; 0 leaves the upper axis out.
        chances: Accuracies of the best guess that are marked.
    """
    with matplotlib.rc_context(SETTINGS):
        figure, axes = canvas(3.6)
        for i, (name, (colour, _, marker), points) in enumerate(curves):
            counts = [count for count, *_ in points]
            means = [100 * mean for _, mean, _, _ in points]
            reach = [
                [max(0.0, 100 * (mean - low)) for _, mean, low, _ in points],
                [max(0.0, 100 * (high - mean)) for _, mean, _, high in points],
            ]
            axes.errorbar(
                counts, means, yerr=reach, color=colour, marker=marker, ms=5, lw=1.3,
                ls=("-", "--", "-.", ":")[i % 4], elinewidth=0.9, capsize=2, label=name,
            )  # fmt: skip
        for chance in sorted(set(chances)):
            axes.axhline(100 * chance, color=INK, lw=0.8, ls=":")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_thousands)
        axes.set_xlabel("queries")
        axes.set_ylabel("%")
        axes.set_ylim(0, 100)
        axes.grid(axis="y")
        if price:
            ways: Any = (lambda count: count * price, lambda usd: usd / price)
            dollars = axes.secondary_xaxis("top", functions=ways)
            dollars.xaxis.set_major_formatter(_dollars)
            dollars.set_xlabel("price of the queries")
        axes.legend(loc="lower right")  # above stands the price
        return to_svg(figure)


def histograms(
    panels: Sequence[tuple[str, Sequence[float], Sequence[tuple[str, Sequence[int]]]]], unit: str
) -> str:
    """Small panels of histograms over common bins: (title, edges, (name, counts) of each)."""
    with matplotlib.rc_context(SETTINGS):
        figure, places, left = grid(len(panels), 2, 0.6, 2.6)
        for i, (axes, (title, edges, samples)) in enumerate(zip(places, panels, strict=True)):
            for j, (label, counts) in enumerate(samples):
                colour, hatch, _ = style(j)
                shares = [100 * count / max(1, sum(counts)) for count in counts]
                # Both are seen where they overlap: a hatch lets the other through, and a line, in
                # a pattern of its own, runs along the top.
                axes.stairs(shares, edges, fill=True, alpha=0.35, color=colour, lw=0)
                axes.stairs(
                    shares, edges, color=colour, hatch=hatch, lw=1.6, ls=("-", "--")[j % 2],
                    label=short(label),
                )  # fmt: skip
            if len(panels) > 1:
                axes.set_title(short(title, 44), pad=22 if i == 0 else None)
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            axes.set_xlim(
                min(panel[1][0] for panel in panels), max(panel[1][-1] for panel in panels)
            )
        places[0].set_ylim(bottom=0)
        for axes in left:
            axes.set_ylabel("share of the pairs, %")
        figure.supxlabel(short(unit, 100), fontsize=9.5, color=INK)
        legend(places[0], columns=2)
        return to_svg(figure)


def stage_bars(rows: Sequence[tuple[str, Sequence[tuple[str, float, bool]]]]) -> str:
    """Stacked bars of seconds a stage; stages that were reused are thin lines."""
    names = list(dict.fromkeys(stage for _, parts in rows for stage, _, _ in parts))
    looks = {stage: style(i) for i, stage in enumerate(names)}
    with matplotlib.rc_context(SETTINGS):
        figure, axes = canvas(1.3 + 0.27 * len(rows))
        for y, (_, parts) in enumerate(rows):
            start = 0.0
            for stage, size, reused in parts:
                colour, hatch, _ = looks[stage]
                height = 0.16 if reused else 0.7
                axes.barh(
                    y, size, height, left=start, color=colour, linewidth=0, edgecolor="white",
                    hatch="" if reused else hatch,
                )  # fmt: skip
                start += size
        axes.set_yticks(range(len(rows)), [short(label) for label, _ in rows])
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        _plain_rows(axes)
        handles = [
            Patch(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0, label=stage)
            for stage, (colour, hatch, _) in looks.items()
        ]
        legend(axes, columns=5, handles=handles)
        return to_svg(figure)


def inline(svg: str, prefix: str) -> str:
    """Make a figure part of an HTML page: no prologue, ids of its own, the page's text colour."""
    body = svg[svg.index("<svg") :].replace(INK, "currentColor")
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = body.replace("url(#", f"url(#{prefix}-").replace('href="#', f'href="#{prefix}-')
    # A size in points would keep the page from scaling it; the viewBox holds the proportions.
    return re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", body, count=1)


# --- helpers ------------------------------------------------------------------------------------


def canvas(height: float) -> tuple[Figure, Axes]:
    """A figure as wide as the page, its height in inches, with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def grid(
    count: int, across: int, edge: float, height: float
) -> tuple[Figure, list[Axes], list[Axes]]:
    """Small panels side by side, with one scale for all upwards.

    Args:
        count: Panels.
        across: Most of them in a row.
        edge: Inches of the whole figure besides its rows.
        height: Inches of a row.

    Returns:
        The figure, its panels, and those at the left.
    """
    columns = min(across, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, edge + height * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for left_over in places.flat[count:]:
        left_over.set_axis_off()
    return figure, list(places.flat[:count]), list(places[:, 0])


def _language_axis(axes: Axes, groups: Sequence[tuple[str, Sequence[str]]]) -> dict[str, float]:
    """Place the languages along x, a gap between scripts; families and scripts stand beneath."""
    centres: dict[str, float] = {}
    x = 0.0
    for script, members in groups:
        start = x
        for code in members:
            centres[code] = x
            x += 1
        middle = (start + x - 1) / 2
        axes.annotate(
            script, (middle, 0), xycoords=axes.get_xaxis_transform(), xytext=(0, -36),
            textcoords="offset points", ha="center", fontsize=8, weight="bold",
        )  # fmt: skip
        if len(members) > 1:  # a line joins the languages of one script
            axes.plot(
                (start - 0.4, x - 0.6), (-0.135, -0.135), color=INK, lw=0.8, clip_on=False,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
        x += 0.45
    for code, centre in centres.items():
        axes.annotate(
            family(code), (centre, 0), xycoords=axes.get_xaxis_transform(), xytext=(0, -21),
            textcoords="offset points", ha="center", fontsize=6.5,
        )  # fmt: skip
    axes.set_xticks(list(centres.values()), [short(code, 8) for code in centres])
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel(" ", labelpad=18)
    axes.margins(x=0.01)
    return centres


def _chance(
    through: Callable[..., Any],
    across: Callable[..., Any],
    places: Mapping[str, float],
    chances: Chances,
    label: str = "",
) -> float:
    """Draw what a guess comes to, in per cent, and return that of the last language.

    Args:
        through: Draws one line through all languages.
        across: Draws a piece for each language, where chance is not the same in all.
        places: Where each language stands.
        chances: By language.
        label: What the legend calls it; nothing keeps it out of the legend.
    """
    look: dict[str, Any] = {"color": INK, "lw": 1.1, "ls": "--", "label": label}
    levels = [100 * chances[code] for code in places]
    if len(set(levels)) == 1:
        through(levels[0], **look)
    else:
        across(levels, [x - 0.5 for x in places.values()], [x + 0.5 for x in places.values()],
               **look)  # fmt: skip
    return levels[-1]


def _plain_rows(axes: Axes) -> None:
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _thousands(value: float, _: float) -> str:
    return f"{value:,.0f}"


def _dollars(value: float, _: float) -> str:
    return f"${value:,.2f}"


def legend(axes: Axes, columns: int, handles: list[Any] | None = None) -> None:
    """Explain what is drawn, above the axes, where it hides nothing."""
    chosen = handles or axes.get_legend_handles_labels()[0]
    axes.legend(
        handles=chosen, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1.0),
        borderaxespad=0.3, handlelength=1.9, columnspacing=1.6,
    )  # fmt: skip


def _tag(axes: Axes, x: float, y: float, text: str) -> None:
    """A number on a hatched bar, on a patch of its own so that it can be read."""
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color="#222222", bbox=box)


def _whiskers(line: Line, codes: Sequence[str]) -> list[list[float]]:
    reaches = [line.values[code] for code in codes]
    return [
        [max(0.0, 100 * (mean - low)) for mean, low, _ in reaches],
        [max(0.0, 100 * (high - mean)) for mean, _, high in reaches],
    ]


def short(text: str, length: int = 44) -> str:
    """Names come from users: one line, nothing unprintable, no longer than a figure bears."""
    line = "".join(c if c.isprintable() else " " for c in text)
    # matplotlib hides legend entries whose name starts with an underscore.
    line = line.lstrip("_ ") or "(no name)"
    return line if len(line) <= length else line[: length - 1] + "…"


def to_svg(figure: Figure) -> str:
    """The figure as text; the same figure gives the same text."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # The font that measures the text need not hold every script; the reader's has to.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return buffer.getvalue()
