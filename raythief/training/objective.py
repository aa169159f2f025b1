"""The loss of an example: against the hard label, and against the victim's probabilities."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from raythief.config import LABELS, SoftLabels


def class_weights(labels: NDArray[np.int64], kind: str) -> torch.Tensor:
    """Weight of each class in the loss, shape [3], with mean 1 over the examples."""
    counts = np.bincount(labels, minlength=len(LABELS))
    shares = np.maximum(counts, 1) / len(labels)
    raw = np.ones(len(LABELS)) if kind == "none" else 1 / np.sqrt(shares)
    return torch.tensor(raw * len(labels) / (raw * counts).sum(), dtype=torch.float32)


def losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    scores: torch.Tensor | None = None,
    soft: SoftLabels | None = None,
) -> torch.Tensor:
    """Loss of each example, shape [rows].

    With soft labels (Hinton et al. 2015) it is ``w T² KL(p_T || q_T) + (1 - w) CE``, where ``p_T``
    are the victim's probabilities to the power of 1/T, made to sum to 1, and ``q_T`` the model's.
    T² keeps the gradients of the two parts at one scale.

    Args:
        logits: The model's outputs, shape [rows, 3].
        labels: Hard labels, int64, shape [rows].
        weights: Weight of each class, shape [3].
        scores: The victim's probabilities, shape [rows, 3]; needed with ``soft``.
        soft: How they count; None leaves them out.
    """
    logits = logits.float()
    hard = functional.cross_entropy(logits, labels, reduction="none")
    if soft is None:
        return hard * weights[labels]
    assert scores is not None, "soft labels need scores"
    target = functional.normalize(scores ** (1 / soft.temperature), p=1.0, dim=-1)
    found = functional.log_softmax(logits / soft.temperature, dim=-1)
    apart = functional.kl_div(found, target, reduction="none").sum(-1)
    both = soft.weight * soft.temperature**2 * apart + (1 - soft.weight) * hard
    return both * weights[labels]
