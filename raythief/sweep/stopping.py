"""Which trials are stopped early: ASHA, which ranks every look among its like.

A score on the way says nothing by itself. 68 % are much for an extractor that has seen gibberish
alone, and little for one that has seen real data; half-way through a long training the rate is
still high, where a short one has ended. So looks are ranked

    - within one *kind* of training, by what it learns from: gibberish alone, gibberish with real
      data mixed in (`during`), real data put after (`after`), or real data alone (`only`);
    - among trainings of one length, since under a rate that decays the shorter is ahead at each
      step and behind at its end; at a constant rate the shorter is the longer one's beginning, so
      that all lengths are ranked together;
    - at the same step of that training, from which `grace` is counted, too.

A trial that puts real data after is thus ranked twice: first among the trainings on gibberish
alone, which it shares with the trials without real data, then among those that put theirs after.
It never stands against a trial that has seen real data while it has not. Each kind keeps its own
best, so that placements meet at their ends, evaluated, and nowhere before.

With one scheduler for all looks no trial of `jobs/sweep.yaml` that puts real data after would see
any: `python benchmarks/asha.py` reckons it with the paper's numbers.
"""

from __future__ import annotations

import json
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from raythief.config import Asha, Spec

KIND, STEP, PAID = "kind", "training_step", "paid"
"""What a look tells of itself: its kind, the step of that training, whether all are paid for."""
GIBBERISH, FINETUNED = "gibberish", "finetuned"
_UNBOUNDED = 10**9
"""Steps that no training reaches: a trial ends by itself, not by ASHA's `max_t`."""


def kind(spec: Spec, role: str) -> str:
    """What a training is compared with: equal for trainings whose looks can be ranked.

    Args:
        spec: Of the trial.
        role: Of the training, `extractor` or `finetuned`.

    Returns:
        What it learns from and how long, as JSON.

    The share that is mixed in makes no kind of its own, though by so much a training of some
    epochs is longer; a share that is put after does, because it alone decides the length.
    """
    real, training = spec.real, spec.extractor.training
    if role == FINETUNED:
        training, data = real.training or training, "after"
    elif real.placement == "after" or not real.fraction:
        data = GIBBERISH
    else:
        data = real.placement
    rows = spec.learned_queries if data in (GIBBERISH, "during") else real.fraction
    batch = training.batch_tokens or training.batch_size
    length = training.steps or {"epochs": training.epochs, "rows": rows, "batch": batch}
    return json.dumps([data, "any" if training.open_ended else length])


class ByKind(FIFOScheduler):  # type: ignore[misc]  # Ray Tune tells no types
    """Asynchronous successive halving (Li et al. 2020, Ray Tune's), one for each kind of training.

    A trial whose trainings are all paid for is never stopped: not at the look at which its last one
    ends, and at none if an earlier sweep came to its end. Its looks count for the others.
    """

    def __init__(self, asha: Asha) -> None:
        super().__init__()
        self.asha = asha
        self.kinds: dict[str, AsyncHyperBandScheduler] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on after a look."""
        if KIND not in result:  # the end, which is no look
            return str(TrialScheduler.CONTINUE)
        one = self.kinds.setdefault(result[KIND], self._scheduler())
        one.on_trial_add(tune_controller, trial)  # again at each look, which changes nothing
        decision = str(one.on_trial_result(tune_controller, trial, result))
        return str(TrialScheduler.CONTINUE) if result[PAID] else decision

    def _scheduler(self) -> AsyncHyperBandScheduler:
        return AsyncHyperBandScheduler(
            metric="objective",
            mode="max",
            time_attr=STEP,
            grace_period=self.asha.grace * self.asha.every,
            reduction_factor=self.asha.reduction,
            max_t=_UNBOUNDED,
        )
