"""What is known of the trials while they run: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ray import tune
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from raythief import metrics
from raythief.sweep import space

Status = Literal["running", "done", "stopped", "failed"]
OTHER_LINES = 8
"""Lines of a terminal that are not a trial's: heading, bar, margins."""


@dataclass
class Entry:
    """What is known of one trial."""

    name: str
    point: space.Point
    began: float
    ended: float = 0.0
    status: Status = "running"
    latest: dict[str, Any] = field(default_factory=dict)
    """The last that it told."""
    looks: list[dict[str, float]] = field(default_factory=list)
    error: str | None = None

    @property
    def objective(self) -> float:
        """Its score, or that of its last look; nan if there is none."""
        return float(self.latest.get("objective", math.nan))

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Its repetitions, once they are done."""
        found: list[dict[str, Any]] = json.loads(self.latest.get("runs", "[]"))
        return found

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return (self.ended or time.time()) - self.began


class Board(tune.Callback):
    """Keeps what trials tell, and shows it."""

    def __init__(
        self, points: Sequence[space.Point], total: int, objective: str, console: Console
    ) -> None:
        self.points = points
        """Configurations that are known beforehand; the others are numbered as they begin."""
        self.entries: dict[str, Entry] = {}
        self.total, self.objective, self.console = total, objective, console
        self.bar = Progress(
            TextColumn("trials"), BarColumn(bar_width=28), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        self.task = self.bar.add_task("trials", total=total)
        metrics.SWEEP_PLANNED_TRIALS.set(total)
        self.live = Live(
            get_renderable=self._shown, console=console, transient=True, refresh_per_second=2
        )

    def __enter__(self) -> Board:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def __getstate__(self) -> dict[str, Any]:
        """Tune saves its callbacks with the experiment; a terminal can not go along."""
        return {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial begins, or begins again after its node was lost."""
        point = trial.config["parameters"]
        number = self.points.index(point) if point in self.points else len(self.entries)
        self.entries.setdefault(trial.trial_id, Entry(f"t{number:03d}", point, time.time()))
        self._export()

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict, **info: Any
    ) -> None:
        """A look, or the end."""
        entry = self.entries[trial.trial_id]
        entry.latest = result
        if "step" in result and all(look["step"] < result["step"] for look in entry.looks):
            entry.looks.append({"step": result["step"], "score": result["objective"]})

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial has ended by itself, or was stopped by the scheduler."""
        entry = self.entries[trial.trial_id]
        entry.error = entry.latest.get("error")
        whole: Status = "done" if "runs" in entry.latest else "stopped"
        self._end(entry, "failed" if entry.error else whole)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial's process was lost more often than it may be."""
        if trial.status != trial.ERROR:  # it is tried again
            return
        entry = self.entries[trial.trial_id]
        entry.error = "its process was lost, or a node; see the logs of Ray"
        self._end(entry, "failed")

    def _end(self, entry: Entry, status: Status) -> None:
        entry.status, entry.ended = status, time.time()
        self._export()
        self.bar.update(self.task, completed=sum(one.ended > 0 for one in self.entries.values()))
        self.console.print(
            f"{_SIGNS[status]} {entry.seconds:7.1f} s  {entry.name}  "
            f"{_percent(entry.objective):>6}  {space.title(entry.point)}"
            + (f": {entry.error}" if entry.error else ""),
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip

    def _export(self) -> None:
        statuses = Counter(one.status for one in self.entries.values())
        for status in get_args(Status):
            metrics.SWEEP_TRIALS.set(statuses[status], status=status)
        done = [one.objective for one in self.entries.values() if one.status == "done"]
        if done:
            metrics.SWEEP_BEST_OBJECTIVE.set(max(done))

    def _shown(self) -> Group:
        """The trials under way, and the bar."""
        table = Table(title=f"Trials under way, by {self.objective}", title_justify="left")
        for column in ("Trial", "Configuration", "Step", "Mean %", "English %", "Others %", "Time"):
            table.add_column(column, justify="left" if column == "Configuration" else "right")
        running = [one for one in self.entries.values() if one.status == "running"]
        for one in running[: max(1, self.console.height - OTHER_LINES)]:
            latest = one.latest
            steps = f"{latest['step']}/{latest['steps']}" if "step" in latest else ""
            table.add_row(
                one.name,
                space.title(one.point),
                steps,
                *(_percent(latest.get(name)) for name in ("objective", "english", "elsewhere")),
                f"{one.seconds:.0f} s",
            )
        return Group(table, self.bar)


_SIGNS: dict[Status, str] = {"running": "·", "done": "✓", "stopped": "◦", "failed": "✗"}


def _percent(share: float | None) -> str:
    return "" if share is None or math.isnan(share) else f"{100 * share:.1f}"
