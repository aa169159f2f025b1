"""Whether a cluster can hold what is asked of it, told before anything waits for ever.

A group of workers that a cluster can not hold is waited for without an error, and trials that each
hold a part of what they need wait for each other. So what is needed is reckoned beforehand.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import ray
from ray._private.state import state as _state  # what autoscaling may add is told nowhere else

from raythief import sharding
from raythief.config import Resources, Workers
from raythief.errors import UserError

OWN_CPUS = 0.01
"""CPUs of a process that only waits for its workers; Ray Tune refuses 0."""


Group = Literal["inference", "training"]
GROUPS: tuple[Group, ...] = ("inference", "training")


def check(resources: Resources, groups: Collection[Group] = GROUPS, what: str = "a stage") -> None:
    """Raise ``UserError`` if the workers of a stage would never come.

    Args:
        resources: What stages run on.
        groups: The kinds of workers that are needed.
        what: Whose workers they are.
    """
    have = _cluster()
    for unit, needed in _needed(resources, groups).items():
        if needed > have[unit]:
            raise UserError(
                f"resources: {what} needs {needed:.3g} {unit}s, and the cluster has "
                f"{have[unit]:g}; ask for fewer workers"
            )
    if _autoscaled():  # what its nodes will be like is not known here
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name in groups:
        each: Workers = getattr(resources, name)
        bundle = {"CPU": each.cpus, "GPU": sharding.gpus(each)}
        if each.workers and not any(_fits(bundle, node) for node in nodes):
            raise UserError(
                f"resources.{name}: a worker needs {each.cpus:g} CPUs and {bundle['GPU']:g} GPUs, "
                "and no node of the cluster has both; ask for less"
            )


def trials(resources: Resources, most: int | None) -> int:
    """Trials that the cluster holds at once, each with all its workers.

    Args:
        resources: What a trial's stages run on.
        most: A bound that the user sets.

    Raises:
        UserError: not even one trial would find its workers.
    """
    check(resources, what="a trial")
    have, needed = _cluster(), _needed(resources)
    fits = min(have[unit] // amount for unit, amount in needed.items() if amount)
    return int(fits if most is None else min(fits, most))


def own(resources: Resources) -> dict[str, float]:
    """CPUs and GPUs of a trial's own process, in which stages without workers run."""
    alone = [each for each in (resources.training, resources.inference) if not each.workers]
    return {
        "CPU": max((each.cpus for each in alone), default=OWN_CPUS),
        "GPU": max((sharding.gpus(each) for each in alone), default=0.0),
    }


def held(resources: Resources) -> tuple[str, float]:
    """What a trial's cost is counted in, GPUs if it uses any, else CPUs, and how many it holds."""
    needed = _needed(resources)
    return ("GPU", needed["GPU"]) if needed["GPU"] else ("CPU", needed["CPU"])


def _needed(resources: Resources, groups: Collection[Group] = GROUPS) -> dict[str, float]:
    """CPUs and GPUs of a trial or a run: its process and the workers of its largest stage."""
    process = own(resources)
    sizes: list[tuple[Workers, int, int]] = []
    if "training" in groups:
        training = resources.training
        sizes.append((training, training.min_workers or training.workers, 0))
    if "inference" in groups and resources.inference.workers:
        sizes.append((resources.inference, resources.inference.workers, 1))  # Ray Data's own tasks
    return {
        "CPU": process["CPU"] + max((size * w.cpus + more for w, size, more in sizes), default=0),
        "GPU": process["GPU"] + max((size * sharding.gpus(w) for w, size, _ in sizes), default=0),
    }


def _cluster() -> dict[str, float]:
    """What the cluster has, or can grow to."""
    most = _state.get_max_resources_from_cluster_config() or {}
    now = ray.cluster_resources()
    return {unit: max(now.get(unit, 0), most.get(unit, 0)) for unit in ("CPU", "GPU")}


def _autoscaled() -> bool:
    return _state.get_max_resources_from_cluster_config() is not None


def _fits(bundle: dict[str, float], node: dict[str, float]) -> bool:
    return all(node.get(unit, 0) >= amount for unit, amount in bundle.items())
