"""From stages to artifacts: each after those that it reads, independent ones side by side."""

from __future__ import annotations

import graphlib
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import ray
from rich.markup import escape

from raythief import metering, metrics
from raythief.artifacts import Artifact, Storage
from raythief.config import Costs
from raythief.errors import find_user_error
from raythief.progress import Display
from raythief.stages import Stage


@dataclass
class Outcome:
    """What became of a stage."""

    artifact: Artifact | None = None
    built: bool = False
    """Whether this run built it; else it was there."""
    error: str | None = None
    """Why it failed, or which input of it failed."""
    fault: BaseException | None = field(default=None, repr=False)
    """The exception, unless it is the user's own mistake."""


def bought(stages: Iterable[Stage]) -> list[str]:
    """Paths of the artifacts among these that are bought from a victim."""
    return [f"{stage.name}/{stage.fingerprint}" for stage in stages if stage.queries]


def build(
    wanted: Mapping[str, Stage],
    storage: Storage,
    display: Display,
    concurrent: int,
    costs: Costs | None = None,
) -> dict[str, Outcome]:
    """Build stages and all that they are made from; independent ones side by side.

    A stage that fails stops those that are made from it; the others go on.

    Args:
        wanted: Stages by title, which the display shows.
        storage: Where artifacts lie.
        display: Shows progress.
        concurrent: Stages under way at once.
        costs: What queries cost, and how many all of them may spend; None sets no limit.

    Returns:
        The outcome of every stage by fingerprint.
    """
    every = {stage.fingerprint: stage for top in wanted.values() for stage in top.ancestors()}
    titles = {stage.fingerprint: title for title, stage in wanted.items()}
    after = {
        key: [inner.fingerprint for inner in (*stage.inputs.values(), *stage.waits_for)]
        for key, stage in every.items()
    }
    # Labels cost money: none is bought before it is known that all labelled sets can be read, but
    # those that consist of labels.
    sets = [key for key, stage in every.items() if stage.name == "examples" and not stage.inputs]
    after |= {key: after[key] + sets for key, stage in every.items() if stage.name == "labels"}
    paths = bought(every.values())
    meter = None  # an actor ends with its last handle, so this one is held to the end
    if paths and ray.is_initialized():
        meter = metering.start(storage, costs or Costs(), paths)
    order = graphlib.TopologicalSorter(after)
    order.prepare()
    outcomes: dict[str, Outcome] = {}
    running: dict[Future[Outcome], str] = {}
    under_way: Counter[str] = Counter()
    lock = threading.Lock()

    def count(name: str, change: int) -> None:
        with lock:
            under_way[name] += change
            metrics.STAGES_RUNNING.set(under_way[name], stage=name)

    def one(key: str) -> Outcome:
        stage = every[key]
        for error in (outcomes[before].error for before in after[key]):
            if error:
                return Outcome(error=error)
        count(stage.name, 1)
        outcome = make(stage, escape(titles.get(key, stage.name)))
        count(stage.name, -1)
        what = "failed" if outcome.error else "built" if outcome.built else "found"
        metrics.STAGES.add(1, stage=stage.name, outcome=what)
        return outcome

    def make(stage: Stage, title: str) -> Outcome:
        try:
            with display.stage(title) as tell:
                artifact, built = stage.ensure(storage, tell)
            manifest = artifact.verify()
        except Exception as error:  # kept in the outcome; the caller raises or reports it
            mistake = find_user_error(error)
            if mistake is not None:
                return Outcome(error=str(mistake))
            return Outcome(error=f"{type(error).__name__}: {error}", fault=error)
        how = f"{manifest['seconds']:7.1f} s" if built else "  there   "
        display.line(f"[green]✓[/] {how}  {title:<28} [dim]{artifact.path}[/]")
        for sign in manifest["results"].get("collapse", ()):
            display.line(f"[yellow]!            {title} has collapsed: {sign}[/]")
        for note in manifest["results"].get("notes", ()):
            display.line(f"[yellow]!            {title}: {note}[/]")
        return Outcome(artifact, built)

    pool = ThreadPoolExecutor(concurrent)
    try:
        while order.is_active():
            for key in order.get_ready():
                running[pool.submit(one, key)] = key
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                key = running.pop(future)
                outcomes[key] = future.result()
                order.done(key)
    finally:  # Ctrl-C does not wait for what is under way
        pool.shutdown(wait=False, cancel_futures=True)
        del meter
    return outcomes
