"""From stages to artifacts: each after those that it reads, independent ones side by side."""

from __future__ import annotations

import graphlib
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from rich.markup import escape

from raythief import metering, metrics, takeover
from raythief.artifacts import Artifact, DamagedError, Storage
from raythief.config import Costs
from raythief.errors import explain
from raythief.progress import Display
from raythief.results import RESULTS, Training
from raythief.stages import Stage

_READERS = 16
"""Artifacts that are looked at at once."""
_ABSENT = "is not there"


@dataclass
class Outcome:
    """What became of a stage."""

    artifact: Artifact | None = None
    built: bool = False
    """Whether this run built it; else it was there."""
    lacks: str = ""
    """What is wrong with an artifact that nobody needs any more; it was not built."""
    error: str | None = None
    """Why it failed, or which input of it failed."""
    fault: BaseException | None = field(default=None, repr=False)
    """The exception, unless it is the user's own mistake."""


State = Literal["there", "missing", "damaged", "not needed"]
"""Of a stage's artifact: finished and whole, to be made, to be mended; or absent or damaged while
all that was made from it is whole, so that nobody reads it."""
TO_BE_BUILT: tuple[State, ...] = ("missing", "damaged")


def look(
    stages: Iterable[Stage], storage: Storage, *, closely: bool = False
) -> dict[str, tuple[State, str]]:
    """What is there of stages and of all that they are made from, and what has to be built.

    It is found from the leaves backwards: what only whole artifacts were made from may be archived.

    Args:
        stages: Stages whose artifacts are wanted.
        storage: Where artifacts lie.
        closely: Compare the content of all files with what was written, not only their sizes.

    Returns:
        State, and what is wrong, by fingerprint; stages come after those that read them.
    """
    every = {stage.fingerprint: stage for top in stages for stage in top.ancestors()}
    with ThreadPoolExecutor(_READERS) as pool:
        faults = dict(
            zip(every, pool.map(lambda one: _fault(one, storage, closely), every.values()),
                strict=True)
        )  # fmt: skip
    before = {
        key: [inner.fingerprint for inner in (*stage.inputs.values(), *stage.waits_for)]
        for key, stage in every.items()
    }
    read = {key for inner in before.values() for key in inner}
    needed = set(every) - read
    found: dict[str, tuple[State, str]] = {}
    for key in reversed(list(graphlib.TopologicalSorter(before).static_order())):
        fault = faults[key]
        if fault is None:
            found[key] = "there", ""
        elif key not in needed:
            found[key] = "not needed", fault
        else:
            found[key] = ("missing" if fault == _ABSENT else "damaged"), fault
            needed.update(before[key])
    return found


def _fault(stage: Stage, storage: Storage, closely: bool) -> str | None:
    """What is wrong with a stage's artifact; None if it is finished and whole."""
    artifact = storage.artifact(stage.name, stage.fingerprint)
    try:
        if artifact.manifest() is None:
            return _ABSENT
        if closely:
            artifact.verify()
            return None
    except DamagedError as error:
        return error.how
    return artifact.fault()


def to_be_built(stages: Iterable[Stage], storage: Storage) -> list[Stage]:
    """The stages, of these and of all that they are made from, that a run would build."""
    every = {stage.fingerprint: stage for top in stages for stage in top.ancestors()}
    states = look(every.values(), storage)
    return [stage for key, stage in every.items() if states[key][0] in TO_BE_BUILT]


def meter(stages: Iterable[Stage], storage: Storage, costs: Costs) -> Any:
    """The run's meter, which counts what stages buy; held by who needs it, None if nobody does."""
    asked = [one for stage in stages for one in stage.buys]
    if not asked or not ray.is_initialized():
        return None
    takeover.settle(asked, storage)
    return metering.start(storage, costs, {one.of_model(storage).path for one in asked})


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
    states = look(every.values(), storage, closely=True)
    buying = any(one.buys and states[key][0] in TO_BE_BUILT for key, one in every.items())
    held = meter(every.values(), storage, costs or Costs()) if buying else None  # its last handle
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
        state, fault = states[key]
        if state == "not needed":
            title = escape(titles.get(key, stage.name))
            display.line(f"[dim]-  not needed {title:<28} {fault}; all made from it is whole[/]")
            return Outcome(lacks=fault)
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
            mistake = explain(error)
            if mistake is not None:
                return Outcome(error=str(mistake))
            return Outcome(error=f"{type(error).__name__}: {error}", fault=error)
        how = f"{manifest['seconds']:7.1f} s" if built else "  there   "
        display.line(f"[green]✓[/] {how}  {title:<28} [dim]{artifact.path}[/]")
        if RESULTS.get(stage.name) is Training:
            found = Training.model_validate(manifest["results"], extra="ignore")
            for line in found.warnings(title):
                display.line(f"[yellow]!            {line}[/]")
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
        del held
    return outcomes
