"""What is known of the trials while they run: a table on a terminal, lines elsewhere.

Tune brings their looks and their ends. How far they are between these they leave with an actor,
which is asked twice a second.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, get_args

import ray
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
from raythief.progress import LINE_EVERY_S, here
from raythief.sweep import space

Status = Literal["running", "done", "stopped", "failed"]
OTHER_LINES = 8
"""Lines of a terminal that are not a trial's: heading, bar, margins."""
POLL_S = 0.5


class Notices:
    """Where trials leave word of how far they are; an actor."""

    def __init__(self) -> None:
        self.latest: dict[str, tuple[str, int, int]] = {}

    def put(self, trial: str, stage: str, done: int, total: int) -> None:
        """Leave word; the latest counts."""
        self.latest[trial] = (stage, done, total)

    def all(self) -> dict[str, tuple[str, int, int]]:
        """Stage, units done and units of it, by trial."""
        return self.latest


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
    looks: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    stage: str = ""
    """What it is at, of which so many units (steps of a training) are done."""
    done: int = 0
    total: int = 0
    since: tuple[float, int] = (0.0, 0)
    """When it was first heard of this stage, and how many units were done then."""

    def heard(self, stage: str, done: int, total: int) -> None:
        """Take note of how far it is."""
        if (stage, total) != (self.stage, self.total) or done < self.done:
            self.since = (time.time(), done)
        self.stage, self.done, self.total = stage, done, total

    @property
    def left(self) -> float:
        """Seconds until the end of its stage, at the pace so far; nan if there is none yet."""
        began, first = self.since
        if self.done == first:
            return math.nan
        return (self.total - self.done) * (time.time() - began) / (self.done - first)

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

    def groups(self, objective: str) -> tuple[float, float]:
        """Its score in English, and in the other languages; nan where they are not told apart."""
        scores: dict[str, list[float]] = {}
        for run in self.runs:
            for name, score in run["scores"].items():
                if name.startswith(f"{objective}/"):
                    scores.setdefault(name.rpartition("/")[2], []).append(score)
        if not scores:
            return self.latest.get("english", math.nan), self.latest.get("elsewhere", math.nan)
        means = {language: sum(some) / len(some) for language, some in scores.items()}
        english = means.pop("en", math.nan)
        return english, sum(means.values()) / len(means) if means else math.nan


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
        # Beside the driver: the node of a trial may be lost.
        self.notices = ray.remote(num_cpus=0, scheduling_strategy=here())(Notices).remote()
        self.stop, self.said = threading.Event(), time.monotonic()
        self.listener = threading.Thread(target=self._listen, name="board", daemon=True)
        self.listener.start()
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.listener.join(timeout=10)
        self.live.stop()

    def __getstate__(self) -> dict[str, Any]:
        """Tune saves its callbacks with the experiment; a terminal cannot go along."""
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
            told = {name: result[name] for name in ("stage", "step")}
            entry.looks.append({**told, "score": result["objective"]})

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

    def _listen(self) -> None:
        """Hear how far the trials are; where there is no table, say it now and then."""
        while not self.stop.wait(POLL_S):
            with contextlib.suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                for trial, word in ray.get(self.notices.all.remote(), timeout=5).items():
                    if trial in self.entries:
                        self.entries[trial].heard(*word)
            if not self.console.is_terminal and time.monotonic() - self.said > LINE_EVERY_S:
                self.said = time.monotonic()
                for one in self._running():
                    self.console.print(
                        f"  {one.seconds:7.1f} s  {one.name}  {self._scores(one)}  "
                        f"{one.stage} {one.done:,} of {one.total:,}  {space.title(one.point)}",
                        highlight=False, soft_wrap=True, markup=False,
                    )  # fmt: skip

    def _running(self) -> list[Entry]:
        return [one for one in list(self.entries.values()) if one.status == "running"]

    def _scores(self, entry: Entry) -> str:
        """Its score, and what it is in English and in the other languages."""
        english, others = (_percent(share) for share in entry.groups(self.objective))
        apart = f" (en {english}, others {others})" if english and others else ""
        return f"{_percent(entry.objective):>6}{apart}"

    def _end(self, entry: Entry, status: Status) -> None:
        entry.status, entry.ended = status, time.time()
        self._export()
        self.bar.update(self.task, completed=sum(one.ended > 0 for one in self.entries.values()))
        self.console.print(
            f"{_SIGNS[status]} {entry.seconds:7.1f} s  {entry.name}  "
            f"{self._scores(entry)}  {space.title(entry.point)}"
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
        for column in ("Trial", "Configuration", "Stage"):
            table.add_column(column)
        for column in ("Step", "Mean %", "English %", "Others %", "Time", "Left"):
            table.add_column(column, justify="right", no_wrap=True)
        for one in self._running()[: max(1, self.console.height - OTHER_LINES)]:
            table.add_row(
                one.name,
                space.title(one.point),
                one.stage,
                f"{one.done:,}/{one.total:,}" if one.total else "",
                *map(_percent, (one.objective, *one.groups(self.objective))),
                _clock(one.seconds),
                _clock(one.left),
            )
        return Group(table, self.bar)


_SIGNS: dict[Status, str] = {"running": "·", "done": "✓", "stopped": "◦", "failed": "✗"}


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f}"


def _clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    return "" if math.isnan(seconds) else str(timedelta(seconds=round(seconds)))
