"""One model on several workers: whole on each of them (DDP), or sharded over them (FSDP2)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray.train.torch
import torch
from numpy.typing import NDArray
from torch.distributed.checkpoint import state_dict as full
from torch.distributed.fsdp import FSDPModule, fully_shard

from raythief import encoding
from raythief.config import TrainingWorkers

_BYTES_PER_WEIGHT = 16
"""Of AdamW in mixed precision: weight, gradient and two moments, four bytes each."""
_SHARE_FOR_WEIGHTS = 0.7
"""Of a GPU's memory; the rest is for activations."""
_WHOLE = full.StateDictOptions(full_state_dict=True, cpu_offload=True)


def spread(
    plain: torch.nn.Module, how: TrainingWorkers, device: torch.device, world: int
) -> torch.nn.Module:
    """Prepare a model for training on all workers; ``plain`` itself is changed in place.

    Returns:
        What the forward pass of a training step goes through.
    """
    if how.activation_checkpointing:
        plain.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    plain.to(device)
    sharded = _is_to_be_sharded(plain, how, device, world)
    if sharded:
        for layer in _layers(plain):
            fully_shard(layer)
        fully_shard(plain)
    if how.compile:
        plain.compile(dynamic=True)
    if sharded:
        return plain
    model: torch.nn.Module = ray.train.torch.prepare_model(plain, move_to_device=device)
    return model


def shares(
    lengths: NDArray[np.int64], tokens: int, world: int
) -> list[list[tuple[NDArray[np.int64], bool]]]:
    """Cut a step's batch into micro-batches, as many for each worker.

    Every forward and backward pass of a sharded model is a collective, without which the other
    workers wait for ever. So whoever has fewer micro-batches goes through the batch's shortest row
    again at the end, which is not to count. All is reckoned from what every worker knows.

    Args:
        lengths: Tokens of each row of the batch, shape [rows].
        tokens: Padded tokens that a worker holds at once.
        world: Number of workers.

    Returns:
        For each worker its micro-batches, each the places of its rows in the batch and whether
        these count.
    """
    places = [np.arange(rank, len(lengths), world) for rank in range(world)]
    packed = [[own[part] for part in encoding.pack(lengths[own], tokens)] for own in places]
    most = max(map(len, packed))
    idle = np.array([lengths.argmin()])
    return [
        [*((part, True) for part in parts), *[(idle, False)] * (most - len(parts))]
        for parts in packed
    ]


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether ``spread`` has sharded it, be it on a single worker."""
    return isinstance(model, FSDPModule)


def gathered(value: Any) -> list[Any]:
    """What each worker gives, in the order of ranks; all workers must call this."""
    if not torch.distributed.is_initialized():
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def unsynchronised(model: torch.nn.Module) -> Iterator[None]:
    """Keep gradients on this worker until the last micro-batch of a step."""
    if is_sharded(model):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    else:
        with model.no_sync() if hasattr(model, "no_sync") else contextlib.nullcontext():
            yield


def clip(model: torch.nn.Module, norm: float) -> torch.Tensor:
    """Clip the gradients to a norm; returns the one that they had."""
    found = torch.nn.utils.clip_grad_norm_(model.parameters(), norm)
    return found.full_tensor() if hasattr(found, "full_tensor") else found


def weights(model: torch.nn.Module) -> dict[str, Any]:
    """The whole model's weights in main memory; all workers must call this."""
    found: dict[str, Any] = full.get_model_state_dict(model, options=_WHOLE)
    return found


def take_weights(model: torch.nn.Module, kept: dict[str, Any]) -> None:
    """Set what ``weights`` gave; all workers must call this."""
    full.set_model_state_dict(model, kept, options=_WHOLE)


def moments(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The whole optimiser's state in main memory; all workers must call this."""
    found: dict[str, Any] = full.get_optimizer_state_dict(model, optimizer, options=_WHOLE)
    return found


def take_moments(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, kept: dict[str, Any]
) -> None:
    """Set what ``moments`` gave; all workers must call this."""
    full.set_optimizer_state_dict(model, optimizer, kept, options=_WHOLE)


def _is_to_be_sharded(
    plain: torch.nn.Module, how: TrainingWorkers, device: torch.device, world: int
) -> bool:
    if how.parallel != "auto":
        return how.parallel == "fsdp"
    if world == 1 or device.type != "cuda":
        return False
    needed: int = _BYTES_PER_WEIGHT * sum(p.numel() for p in plain.parameters())
    there: int = torch.cuda.get_device_properties(device).total_memory
    return bool(needed > _SHARE_FOR_WEIGHTS * there)


def _layers(plain: torch.nn.Module) -> list[torch.nn.Module]:
    """The encoder's equal layers, each of which is gathered and let go by itself."""
    lists = [list(m) for m in plain.modules() if isinstance(m, torch.nn.ModuleList)]
    return max(lists, key=len, default=[])
