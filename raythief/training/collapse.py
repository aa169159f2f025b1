"""Signs that a training has collapsed, as large encoders do at high rates or short warm-ups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raythief import chance
from raythief.config import LABELS

COLLAPSE_SHARE = 0.95
"""A model that gives one label to more than this share of its latest examples, though the labels
themselves are less one-sided, has collapsed."""
COLLAPSE_EXAMPLES = 8
"""Examples that a step must have for its most frequent prediction to mean something."""
CHANCE_WIDTH = 0.01
"""A mean loss so near to that of a guess, over ``CHANCE_EXAMPLES``, is chance."""
CHANCE_EXAMPLES = 1000
"""Examples over which a mean loss is known that well."""
NO_GRADIENT = 1e-6
"""Norm below which a gradient moves nothing."""


@dataclass(frozen=True)
class Guess:
    """What the best guess comes to on the labels of a training."""

    accuracy: float
    loss: float | None
    """With each class as it is weighted, in nats; not known for soft labels."""

    @classmethod
    def of(cls, counts: Sequence[int], weights: Sequence[float], soft: bool = False) -> Guess:
        """The guess by the number of examples of each label, and its weight in the loss."""
        amounts = [count * weight for count, weight in zip(counts, weights, strict=True)]
        return cls(chance.accuracy(counts), None if soft else chance.loss(amounts))


@dataclass(frozen=True)
class Step:
    """What is kept of one step, over all workers."""

    step: int
    """Counted from 1."""
    loss: float
    gradient_norm: float
    """Before clipping."""
    predicted: tuple[int, int, int]
    """How often each label was predicted."""


def majority_rate(latest: Sequence[Step]) -> float:
    """Share of the most frequent prediction.

    A collapsed model may say one thing in one step and another in the next, so that each step is
    looked at by itself where it has examples enough.
    """
    totals = [sum(one.predicted[label] for one in latest) for label in range(3)]
    count = max(1, sum(totals))
    if count >= COLLAPSE_EXAMPLES * len(latest):
        return sum(max(one.predicted) for one in latest) / count
    return max(totals) / count


def signs(latest: Sequence[Step], guess: Guess) -> list[str]:
    """What shows that a training has collapsed, in words; empty for a sound one.

    A guess gives each label the same probability, or that of its share.

    Args:
        latest: Its latest steps, none of them within the warm-up.
        guess: What one comes to on what it is trained on.
    """
    if not latest:
        return []
    found = []
    loss = sum(one.loss for one in latest) / len(latest)
    examples = sum(sum(one.predicted) for one in latest)
    rate = majority_rate(latest)
    if not math.isfinite(loss):
        found.append("the loss is not finite")
    if rate > COLLAPSE_SHARE >= guess.accuracy:
        found.append(f"one label is given to {rate:.1%} of the examples")
    known = [] if guess.loss is None else [math.log(len(LABELS)), guess.loss]
    learnable = guess.accuracy <= COLLAPSE_SHARE and examples >= CHANCE_EXAMPLES
    if learnable and any(abs(loss - one) < CHANCE_WIDTH for one in known):
        found.append(f"the loss of {loss:.3f} is that of chance")
    if max(one.gradient_norm for one in latest) < NO_GRADIENT:
        found.append("the gradients are zero")
    return found
