"""The figures of a sweep: what ``figures`` is for those of every run, with the same means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from raythief.report.figures import (
    INK,
    SETTINGS,
    canvas,
    grid,
    legend,
    short,
    style,
    to_svg,
)

State = Literal["best", "done", "collapsed", "stopped"]
MARKS: dict[State, dict[str, Any]] = {
    "stopped": {"marker": "o", "mfc": "none", "mec": INK, "ms": 5.5, "mew": 1.0},
    "done": {"marker": "o", "mfc": "#0072b2", "mec": "white", "ms": 6, "mew": 0.5},
    "collapsed": {"marker": "X", "mfc": "#d55e00", "mec": "white", "ms": 7, "mew": 0.5},
    "best": {"marker": "D", "mfc": "#e69f00", "mec": INK, "ms": 7, "mew": 0.9},
}
"""By the order in which they are drawn: the best lies on top."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
COLUMNS = 8
"""Up to so many different values stand in columns of their own, where an axis has no room."""
NEAR = 0.18
"""The share of a small panel's axis that a label takes."""


@dataclass(frozen=True)
class Slice:
    """A parameter, and the trials along it."""

    title: str
    logarithmic: bool
    points: Sequence[tuple[int, float, State]]
    """Which value, objective, state."""
    labels: Sequence[str]
    """What the figure calls each value, in their order."""
    numbers: Sequence[float] | None
    """The values, where all are numbers."""


def slices(panels: Sequence[Slice]) -> str:
    """Small panels of the objective against each parameter."""
    with matplotlib.rc_context(SETTINGS):
        figure, places, left = grid(len(panels), 3, 0.7, 2.2)
        for axes, panel in zip(places, panels, strict=True):
            _slice(axes, panel)
        for axes in left:
            axes.set_ylabel("objective, %")
        seen = {state for panel in panels for _, _, state in panel.points}
        handles = [_mark(state) for state in reversed(MARKS) if state in seen]
        figure.legend(handles=handles, ncols=4, loc="outside upper left", handlelength=1.2)
        return to_svg(figure)


def _slice(axes: Axes, panel: Slice) -> None:
    numbers = panel.numbers
    if numbers is None or _crowded(numbers, panel.logarithmic):
        numbers = None
        _columns(axes, panel.labels)
    else:
        _number_axis(axes, numbers, panel)
    # Trials of one column are set apart a little, always in the same way.
    aside = [0.0 if numbers else ((i * 0.618) % 1 - 0.5) * 0.5 for i in range(len(panel.points))]
    for state, look in MARKS.items():
        chosen = [
            ((numbers[value] if numbers else value) + shift, 100 * score)
            for (value, score, own), shift in zip(panel.points, aside, strict=True)
            if own == state
        ]
        axes.plot([x for x, _ in chosen], [y for _, y in chosen], ls="", **look)
    axes.set_xlabel(short(panel.title, 36))
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _crowded(numbers: Sequence[float], logarithmic: bool) -> bool:
    """Whether the labels of a few numbers would touch on their axis: columns are better then."""
    if logarithmic and min(numbers) <= 0:
        return True
    places = sorted(math.log(number) if logarithmic else number for number in numbers)
    gaps = [after - before for before, after in pairwise(places)]
    return not gaps or (len(places) <= COLUMNS and min(gaps) < NEAR * (places[-1] - places[0]))


def _columns(axes: Axes, labels: Sequence[str]) -> None:
    wide = len(labels) <= 6
    room = max(5, 34 // len(labels)) if wide else 14
    every = math.ceil(len(labels) / 14)
    places = range(0, len(labels), every)
    names = [_middle(labels[place], room) for place in places]
    axes.set_xticks(places, names, rotation=0 if wide else 90)
    axes.set_xlim(-0.5, len(labels) - 0.5)


def _middle(text: str, room: int) -> str:
    """The start and the end of a label: names of models often differ in their last part."""
    line = short(text, 10_000)
    tail = room // 2
    return line if len(line) <= room else f"{line[: room - tail - 1]}…{line[-tail:]}"


def _number_axis(axes: Axes, numbers: Sequence[float], panel: Slice) -> None:
    low, high = min(numbers), max(numbers)
    if panel.logarithmic:
        axes.set_xscale("log")
        margin = (high / low) ** 0.06
        axes.set_xlim(low / margin, high * margin)
    else:
        margin = 0.06 * (high - low)
        axes.set_xlim(low - margin, high + margin)
    few = len(numbers) <= 6
    ticks = list(numbers) if few else _ticks(low, high, panel.logarithmic)
    names = panel.labels if few else [f"{tick:.3g}" for tick in ticks]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([short(name, 9) for name in names])


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers within bounds, so far apart that their labels do not touch."""
    if logarithmic:
        tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = math.ceil(len(tens) / 4)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [float(f"{digit}e{ten}") for ten in tens[::every] for digit in digits]
            inside = [tick for tick in found if low * 0.999 <= tick <= high * 1.001]
            if len(inside) > 1 and not _close(inside, low, high):
                return inside
        return [low, high]
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(times for times in (1, 2, 5, 10) if (high - low) / (step * times) <= 4)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _close(ticks: Sequence[float], low: float, high: float) -> bool:
    nearest = min(math.log(after / before) for before, after in pairwise(ticks))
    return nearest < NEAR * math.log(high / low)


@dataclass(frozen=True)
class Path:
    """The looks of one trial."""

    points: Sequence[tuple[int, float]]
    stopped: bool
    label: str = ""
    """Of the first trial of a leading configuration; others have none."""
    rank: int | None = None
    """Place among the leading configurations."""


def courses(paths: Sequence[Path]) -> str:
    """The objective by optimiser step: a line a trial, the leading ones told apart."""
    with matplotlib.rc_context(SETTINGS):
        faint = max(0.15, min(0.5, 20 / len(paths)))  # many lines would be one dark field
        figure, axes = canvas(3.4 + 0.18 * len({path.rank for path in paths}))
        for path in sorted(paths, key=lambda one: one.rank is not None):
            steps = [step for step, _ in path.points]
            scores = [100 * score for _, score in path.points]
            if path.rank is None:
                axes.plot(steps, scores, color=INK, alpha=faint, lw=0.8)
            else:
                colour, _, marker = style(path.rank)
                axes.plot(
                    steps, scores, color=colour, lw=1.6, ls=DASHES[path.rank % len(DASHES)],
                    marker=marker, ms=4.5, mec="white", mew=0.4,
                )  # fmt: skip
            end = MARKS["stopped"] if path.stopped else {"marker": ".", "color": INK, "ms": 4}
            if path.stopped or path.rank is None:
                axes.plot(steps[-1:], scores[-1:], ls="", **end)
        handles = [
            Line2D(
                [], [], color=style(path.rank)[0], marker=style(path.rank)[2], ms=4.5, mec="white",
                mew=0.4, lw=1.6, ls=DASHES[path.rank % len(DASHES)], label=short(path.label, 100),
            )
            for path in sorted(paths, key=lambda one: one.rank or 0)
            if path.rank is not None and path.label
        ]  # fmt: skip
        if any(path.rank is None for path in paths):
            handles.append(Line2D([], [], color=INK, alpha=0.5, lw=0.8, label="the others"))
        if any(path.stopped for path in paths):
            handles.append(_mark("stopped"))
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("objective, %")
        axes.grid(axis="y")
        legend(axes, columns=1, handles=handles)
        return to_svg(figure)


def placements(
    lines: Sequence[tuple[str, Sequence[tuple[float, float, float | None, float | None]]]],
) -> str:
    """The objective by share of real data, a line a placement: (share, mean, low, high)."""
    shares = sorted({share for _, points in lines for share, *_ in points})
    few = len(shares) <= COLUMNS
    with matplotlib.rc_context(SETTINGS):
        figure, axes = canvas(3.4)
        for i, (name, points) in enumerate(lines):
            colour, _, marker = style(i)
            # Shares stand side by side, for 0, 1 and 100 % would crowd on any axis of numbers;
            # placements are set apart a little, so that no whisker hides another.
            aside = (i - (len(lines) - 1) / 2) * 0.08 if few else 0.0
            places = [(shares.index(share) if few else 100 * share) + aside for share, *_ in points]
            reach = [
                [100 * (mean - low) if low is not None else 0.0 for _, mean, low, _ in points],
                [100 * (high - mean) if high is not None else 0.0 for _, mean, _, high in points],
            ]
            axes.errorbar(
                places, [100 * mean for _, mean, _, _ in points],
                yerr=[[max(0.0, one) for one in side] for side in reach],
                color=colour, marker=marker, ms=6.5, mec="white", mew=0.5, lw=1.3,
                ls=DASHES[i % len(DASHES)] if few else "", elinewidth=0.9, capsize=2.5,
                label=short(name, 40),
            )  # fmt: skip
        if few:
            axes.set_xticks(range(len(shares)), [f"{100 * share:.3g} %" for share in shares])
            axes.set_xlim(-0.5, len(shares) - 0.5)
            axes.set_xlabel("share of the real data (not to scale)")
        else:
            axes.set_xlabel("share of the real data, %")
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 101))  # of two trials the whiskers know no bounds
        axes.set_ylabel("objective, %")
        axes.grid(axis="y")
        legend(axes, columns=4)
        return to_svg(figure)


def budget(points: Sequence[tuple[float, float | None, State]], best: Sequence[tuple[float, float]],
           unit: str) -> str:  # fmt: skip
    """The best objective so far against hours, over what each trial scored when it ended."""
    with matplotlib.rc_context(SETTINGS):
        figure, axes = canvas(3.2)
        if best:
            end = max(hours for hours, *_ in points)
            steps = [*best, (end, best[-1][1])]
            axes.step(
                [hours for hours, _ in steps], [100 * score for _, score in steps], where="post",
                color="#d55e00", lw=1.8, label="best configuration so far",
            )  # fmt: skip
        for state, look in MARKS.items():
            chosen = [(h, s) for h, s, own in points if own == state and s is not None]
            axes.plot([h for h, _ in chosen], [100 * s for _, s in chosen], ls="", **look)
        seen = {state for _, score, state in points if score is not None}
        handles = [*axes.get_legend_handles_labels()[0],
                   *(_mark(state) for state in reversed(MARKS) if state in seen)]  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{short(unit, 12)} hours, of all trials that had ended".strip())
        axes.set_ylabel("objective, %")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        legend(axes, columns=3, handles=handles)
        return to_svg(figure)


LABELS: dict[State, str] = {
    "best": "best configuration",
    "done": "evaluated",
    "collapsed": "evaluated, collapsed",
    "stopped": "stopped: its last look",
}


def _mark(state: State) -> Line2D:
    return Line2D([], [], ls="", label=LABELS[state], **MARKS[state])
