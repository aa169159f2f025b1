"""What a person sees while stages run: a bar each on a terminal, a line each elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_S = 30.0
"""How often a stage says where it is, in a log or a pipe."""


class Tell(Protocol):
    """How a stage tells of its progress."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Say that ``done`` of ``total`` units are done; ``note`` is shown beside the bar."""


def silent(done: int, total: int, note: str = "") -> None:
    """Tell nobody."""


class Watch(ABC):
    """A ``Tell`` that also decides, at each look at a training, whether it is to go on."""

    @abstractmethod
    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Say that ``done`` of ``total`` units are done."""

    @abstractmethod
    def look(self, look: Mapping[str, float]) -> bool:
        """Whether to go on after a look (``step``, ``score``, ...); the training waits for it."""


class Display:
    """Bars of the stages under way, and a line for each that has ended."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Tell]:
        """Show a bar under ``title`` for as long as the block runs."""
        task = self.bars.add_task(title, total=None, note="")
        began = said = time.monotonic()
        pace = _Pace()

        def tell(done: int, total: int, note: str = "") -> None:
            nonlocal said
            self.bars.update(task, completed=done, total=total, note=note)
            left = pace.time_left(done, total)
            if not self.console.is_terminal and time.monotonic() - said > LINE_EVERY_S:
                said = time.monotonic()
                parts = [f"{done:,} of {total:,}", "" if left is None else f"{left} left", note]
                where = "  ".join(part for part in parts if part)
                self.line(f"[dim]·[/] {said - began:7.1f} s  {title:<28} {where}")

        try:
            yield tell
        finally:
            self.bars.remove_task(task)

    def line(self, text: str) -> None:
        """Print a line above the bars; no stage is to end of a log whose disk is full."""
        with contextlib.suppress(OSError):
            self.console.print(text, highlight=False, soft_wrap=True)


class _Pace:
    """How long what is left takes, by what was done since the first word of it."""

    def __init__(self) -> None:
        self.since, self.first, self.total = 0.0, 0, -1

    def time_left(self, done: int, total: int) -> datetime.timedelta | None:
        """None until something was done; a stage that begins to count again is timed again."""
        if total != self.total or done < self.first:
            self.since, self.first, self.total = time.monotonic(), done, total
        if not self.first < done < total:
            return None
        each = (time.monotonic() - self.since) / (done - self.first)
        return datetime.timedelta(seconds=round(each * (total - done)))


class _Mailbox:
    """Where workers leave how far they are, and wait to hear whether to go on."""

    def __init__(self) -> None:
        self.latest: tuple[int, int, str] | None = None
        self.look: Mapping[str, float] | None = None
        self.decided: asyncio.Future[bool] | None = None

    async def put(self, done: int, total: int, note: str = "") -> None:
        """Leave word; the latest counts."""
        self.latest = (done, total, note)

    async def get(self) -> tuple[tuple[int, int, str] | None, Mapping[str, float] | None]:
        """The latest word, and the look that is waiting for a decision."""
        return self.latest, self.look

    async def ask(self, look: Mapping[str, float]) -> bool:
        """Leave a look, and wait for the decision."""
        self.decided = asyncio.get_running_loop().create_future()
        self.look = look
        return await self.decided

    async def decide(self, go_on: bool) -> None:
        """Say whether the training that waits is to go on."""
        assert self.decided is not None
        self.look = None
        self.decided.set_result(go_on)


class _Post(Watch):
    """What workers hold of a mailbox."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.mailbox.put.remote(done, total, note)

    def look(self, look: Mapping[str, float]) -> bool:
        go_on: bool = ray.get(self.mailbox.ask.remote(look))
        return go_on


@contextlib.contextmanager
def remote(tell: Tell, every_s: float = 0.5) -> Iterator[Tell]:
    """Yield what workers can tell, and be watched by, in place of ``tell`` itself.

    It is a ``Watch`` if ``tell`` is one.
    """
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here())(_Mailbox).remote()
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(every_s):
            try:
                latest, look = ray.get(mailbox.get.remote(), timeout=5)
            except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                continue  # a bar may miss a beat; the work goes on
            if latest:
                tell(*latest)
            if look and isinstance(tell, Watch):
                ray.get(mailbox.decide.remote(tell.look(look)))

    poller = threading.Thread(target=poll, name="progress", daemon=True)
    poller.start()
    post = _Post(mailbox)
    try:
        yield post if isinstance(tell, Watch) else post.__call__
    finally:
        stop.set()
        poller.join(timeout=10)
        ray.kill(mailbox)


def here() -> NodeAffinitySchedulingStrategy:
    """Keeps an actor on this process's node: the loss of any other does not concern it.

    A soft strategy would not: Ray puts an actor that needs no resources on any node then.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


class Rate:
    """Counts units and words them as a rate."""

    def __init__(self, unit: str) -> None:
        self.unit, self.started, self.count = unit, time.monotonic(), 0

    def add(self, count: int) -> str:
        """Count some more; returns, say, ``1,250 rows/s``."""
        self.count += count
        seconds = max(time.monotonic() - self.started, 1e-9)
        return f"{self.count / seconds:,.0f} {self.unit}/s"
