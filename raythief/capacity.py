"""Whether a cluster can hold what is asked of it, told before anything waits for ever.

A group of workers that a cluster cannot hold is waited for without an error, and trials that each
hold a part of what they need wait for each other. So what is needed is reckoned beforehand.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Literal

import ray

from raythief import accelerators
from raythief.config import Resources, Workers
from raythief.errors import UserError

log = logging.getLogger(__name__)

WATCH_S = 10.0
"""Seconds between two looks whether the cluster still holds the workers."""
OWN_CPUS = 0.01
"""CPUs of a process that only waits for its workers; Ray Tune refuses 0."""

Group = Literal["inference", "training"]
GROUPS: tuple[Group, ...] = ("inference", "training")


def check(resources: Resources, groups: Collection[Group] = GROUPS) -> None:
    """Raise ``UserError`` if the workers of a stage would never come.

    A training waits for all its workers; what labels and evaluates begins with one.

    Args:
        resources: What stages run on.
        groups: The kinds of workers that are needed.
    """
    if "training" in groups:
        _refuse("a training", _training(resources))
    for name in groups:
        each: Workers = getattr(resources, name)
        bundle = accelerators.bundle(each, f"resources.{name}")  # or no kind has the memory
        if not each.workers:
            continue
        needed, held = _least(resources) if name == "training" else 1, _held(bundle)
        if not held:
            _say(
                f"resources.{name}: a worker needs {accelerators.worded(bundle)}, and no node of "
                "the cluster has them together; ask for less"
            )
        elif held < needed:
            _say(
                f"resources.{name}: a training waits for {needed} workers, each with "
                f"{accelerators.worded(bundle)}, and the nodes of the cluster hold {held}; ask for "
                "fewer"
            )


def trials(resources: Resources, most: int | None) -> int:
    """Trials that the cluster holds at once, each with all its workers.

    Args:
        resources: What a trial's stages run on.
        most: A bound that the user sets.

    Raises:
        UserError: not even one trial would find its workers.
    """
    have, needed = _cluster(), _needed(resources)
    _refuse("a trial", needed)
    check(resources)
    fits = min(have[unit] // amount for unit, amount in needed.items() if amount)
    if resources.training.workers:
        groups = _held(accelerators.bundle(resources.training)) // _least(resources)
        fits = min(fits, groups)
    fits = max(fits, 1)  # the checks found that one fits, or that it is not known what will come
    return int(fits if most is None else min(fits, most))


def own(resources: Resources) -> dict[str, float]:
    """CPUs and GPUs of a trial's own process, in which stages without workers run."""
    alone = [each for each in (resources.training, resources.inference) if not each.workers]
    return {
        "CPU": max((each.cpus for each in alone), default=OWN_CPUS),
        "GPU": max((accelerators.gpus(each) for each in alone), default=0.0),
    }


def held(resources: Resources) -> tuple[str, float]:
    """What a trial's cost is counted in, GPUs if it uses any, else CPUs, and how many it holds."""
    needed = _needed(resources)
    return ("GPU", needed["GPU"]) if needed["GPU"] else ("CPU", needed["CPU"])


@contextlib.contextmanager
def told_of(check: Callable[[], None]) -> Iterator[None]:
    """Repeat a check while the block runs, and warn of what it finds, once until it finds nothing.

    Ray waits for workers without a word, and a cluster that held them may lose its nodes.
    """
    stop = threading.Event()

    def watch() -> None:
        said = ""
        while not stop.wait(WATCH_S):
            try:
                check()
                said = ""
            except OSError:  # a storage that does not answer may do so at the next look
                continue
            except UserError as error:
                if str(error) != said:
                    log.warning("waiting for nodes: %s", error)
                said = str(error)

    watcher = threading.Thread(target=watch, name="capacity", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _needed(resources: Resources) -> dict[str, float]:
    """CPUs and GPUs of a trial: its process and the workers of its largest stage."""
    process, training, pool = own(resources), _training(resources), resources.inference
    data = 1 if pool.workers else 0  # Ray Data's own tasks
    inference = {
        "CPU": pool.workers * pool.cpus + data,
        "GPU": pool.workers * accelerators.gpus(pool),
    }
    return {unit: process[unit] + max(training[unit], inference[unit]) for unit in process}


def _training(resources: Resources) -> dict[str, float]:
    """CPUs and GPUs without which a training does not start."""
    how = resources.training
    size = _least(resources)
    return {"CPU": size * how.cpus, "GPU": size * accelerators.gpus(how)}


def _least(resources: Resources) -> int:
    """Workers without which a training does not start."""
    return resources.training.min_workers or resources.training.workers


def _held(bundle: dict[str, float]) -> int:
    """Workers that the cluster, as it is or can grow, holds if it holds nothing else."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    now, more = sum(accelerators.held(bundle, node) for node in nodes), accelerators.growth()
    return max(now, more.holds(lambda node: accelerators.held(bundle, node)) if more else 0)


def _refuse(what: str, needed: dict[str, float]) -> None:
    for unit, have in _cluster().items():
        if needed[unit] > have:
            _say(
                f"resources: {what} needs {needed[unit]:.3g} {unit}s, and the cluster has "
                f"{have:g}; ask for fewer workers"
            )


def _say(fault: str) -> None:
    """Raise a fault; where nobody knows what an autoscaler may add, only warn of it."""
    more = accelerators.growth()
    if more is None or more.known:
        raise UserError(fault)
    log.warning("unless the autoscaler adds more: %s", fault)


def _cluster() -> dict[str, float]:
    """What the cluster has, or can grow to."""
    now, more = ray.cluster_resources(), accelerators.growth()
    return {unit: max(now.get(unit, 0), more.total(unit) if more else 0) for unit in ("CPU", "GPU")}
