"""How fast a model could be: what it computes, and what the device can compute."""

from __future__ import annotations

import time

import torch

_SIZES = {"cpu": 1024, "cuda": 8192}
"""Side of the matrices, large enough for the device to reach its peak."""
_ROUNDS = 10


def matrix_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second that a product of large matrices reaches, measured.

    Takes a tenth of a second or so.
    """
    side = _SIZES.get(device.type, 4096)
    one = torch.randn(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        one @ one
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def weights_at_work(model: torch.nn.Module) -> int:
    """Weights that take part in the products of every token: matrices that are no embeddings."""
    embedded = {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)
    }
    return sum(p.numel() for p in model.parameters() if p.ndim > 1 and id(p) not in embedded)


def training_flops(model: torch.nn.Module) -> float:
    """Floating-point operations of a training step per token, attention apart.

    Six for each weight at work: two forward, four backward (Kaplan et al. 2020).
    """
    return 6.0 * weights_at_work(model)
