"""Which placement of real data wins a search with early stopping, by the paper's numbers.

    python benchmarks/asha.py

Nothing is trained. The trials are those of `jobs/sweep.yaml`, and Ray Tune's schedulers are asked
as in a sweep, some trials at once. Their curves are made up: under the best rate and number of
steps they end at the rows of the paper's Table 2 (means over 15 languages), lower under others,
and rise to it as under a rate that decays. Each training has its own luck, each look its own noise
of a validation set; trials that put real data after share their gibberish stage, luck and all.

It prints, for one scheduler of all looks and for `raythief.sweep.stopping`, how many of the trials
that put real data after came to see any, how often which placement won, and how many of the steps
were trained that all trials would take, each training counted once.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from raythief import config, paper
from raythief.sweep import space
from raythief.sweep.stopping import FINETUNED, KIND, PAID, STEP, ByKind, kind

JOB = Path(__file__).parents[1] / "jobs" / "sweep.yaml"
RATE = "extractor.training.learning_rate"
LOST = {5e-6: 0.01, 1e-5: 0.0, 2e-5: 0.02, 3000: 0.02, 9000: 0.0}
"""What a rate, and a number of steps, costs at the end."""
LUCK, NOISE = 0.005, 0.003
"""Standard deviations: of a training, and of a look at some thousand items."""
MNLI, GUESS = 392_702, 1 / 3

Look = dict[str, Any]


def looks(spec: config.Spec, point: space.Point, seed: int) -> Iterator[Look]:
    """What a trial tells on its way; its last look is its end."""
    share, place = point["real.fraction"], point.get("real.placement")
    rate, steps = point[RATE], point[space.STEPS]
    trainings = [("extractor", 0.0 if place == "after" else share, GUESS, steps)]
    if place == "after":
        epochs = spec.real.training.epochs if spec.real.training else 1.0
        own = round(epochs * MNLI * share / spec.extractor.training.batch_size)
        trainings.append((FINETUNED, share, _end(rate, steps, 0.0, None), own))
    told = 0
    for role, real, start, length in trainings:
        # Those that are equal so far are the same training, with the same luck.
        training = (steps, round(1e7 * rate), round(100 * real), int(role == FINETUNED))
        rng = np.random.default_rng([seed, *training])
        end = _end(rate, steps, real, place if real else None) + rng.normal(0, LUCK)
        assert spec.sweep.asha is not None
        for step in sorted({*range(spec.sweep.asha.every, length, spec.sweep.asha.every), length}):
            done = step / length
            risen = (1 - math.exp(-4 * done * (1.5 - 0.5 * done))) / (1 - math.exp(-4))
            told += 1
            yield {
                "objective": start + (end - start) * risen + rng.normal(0, NOISE),
                "training_iteration": told,
                KIND: kind(spec, role),
                STEP: step,
                PAID: role == trainings[-1][0] and step == length,
                "role": role,
                "training": training,
            }


def _end(rate: float, steps: int, share: float, place: str | None) -> float:
    """Mean accuracy at the end of a training."""
    row = paper.find("table2", " ".join(filter(None, [f"XLMR-Large, {100 * share:.0f} %", place])))
    assert row is not None
    return sum(row.accuracy.values()) / len(row.accuracy) / 100 - LOST[rate] - LOST[steps]


def search(
    spec: config.Spec, points: list[space.Point], specs: list[config.Spec], scheduler: Any,
    seed: int, at_once: int = 4,
) -> dict[int, list[Look]]:  # fmt: skip
    """What each trial told before it ended or was stopped, by its number."""
    ways = {i: looks(specs[i], point, seed) for i, point in enumerate(points)}
    seen: dict[int, list[Look]] = {i: [] for i in ways}
    waiting, running = collections.deque(ways), list[int]()
    for turn in itertools.count():
        while waiting and len(running) < at_once:
            running.append(waiting.popleft())
            scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(running[-1])))
        if not running:
            return seen
        number = running[turn % len(running)]
        look = next(ways[number])
        seen[number].append(look)
        trial = SimpleNamespace(trial_id=str(number))
        if scheduler.on_trial_result(None, trial, look) == TrialScheduler.STOP or look[PAID]:
            running.remove(number)
    raise AssertionError


def _steps(told: Iterable[Iterable[Look]]) -> int:
    """Steps of all trainings, those that several trials share counted once."""
    longest: dict[Any, int] = {}
    for look in itertools.chain.from_iterable(told):
        longest[look["training"]] = max(look[STEP], longest.get(look["training"], 0))
    return sum(longest.values())


def reckoned(seeds: int) -> dict[str, dict[str, Any]]:
    """What came of the search, by scheduler."""
    spec = config.load(JOB)
    asha = spec.sweep.asha
    assert asha is not None
    points = space.points(spec.sweep, spec.seed)
    specs = [space.chosen(spec, point) for point in points]
    specs = [one.model_copy(update={"sweep": spec.sweep}) for one in specs]
    after = [i for i, point in enumerate(points) if point.get("real.placement") == "after"]
    whole = _steps(looks(specs[i], point, 0) for i, point in enumerate(points))
    found: dict[str, dict[str, Any]] = {}
    for name in ("one for all looks", "one for each kind of training"):
        winners: collections.Counter[str] = collections.Counter()
        reached, steps = [], 0
        for seed in range(seeds):
            scheduler: Any = ByKind(asha)
            if name == "one for all looks":
                scheduler = AsyncHyperBandScheduler(
                    metric="objective", mode="max", max_t=1_000_000,
                    grace_period=asha.grace, reduction_factor=asha.reduction,
                )  # fmt: skip
            seen = search(spec, points, specs, scheduler, seed)
            reached.append(sum(seen[i][-1]["role"] == FINETUNED for i in after))
            steps += _steps(seen.values())
            ends = {i: told[-1]["objective"] for i, told in seen.items() if told[-1][PAID]}
            won = points[max(ends, key=lambda i: ends[i])]
            winners[f"{100 * won['real.fraction']:.0f} % {won.get('real.placement', '')}"] += 1
        found[name] = {
            "trials": len(points),
            "after": len(after),
            "reached_real_data": {"least": min(reached), "mean": sum(reached) / seeds},
            "winners": dict(winners),
            "share_of_steps": round(steps / seeds / whole, 3),
        }
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    print(json.dumps(reckoned(parser.parse_args().seeds), indent=1))
