"""What a worker runs on: so many CPUs and GPUs, of a kind that is asked for by name or by memory.

Ray's nodes report which kind of accelerator they have, as a resource of its own beside their number
of GPUs (CUDA's and ROCm's alike). A worker that needs a kind asks for a sliver of that resource.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping

import ray
import torch

from raythief import autoscaling
from raythief.autoscaling import Growth
from raythief.config import Workers
from raythief.errors import UserError

log = logging.getLogger(__name__)

MEMORY_GB = {
    "P4": 8, "K80": 12, "P100": 12, "T4": 16, "V100": 16, "A10G": 24, "L4": 24, "L40S": 48,
    "A100": 40, "A100-40G": 40, "A100-80G": 80, "H20": 96, "H100": 80, "H200": 141, "B200": 180,
    "AMD-Instinct-MI100": 32, "AMD-Instinct-MI210": 64, "AMD-Instinct-MI250X": 64,
    "AMD-Instinct-MI250X-MI250": 64, "AMD-Instinct-MI300A": 128, "AMD-Instinct-MI300X-OAM": 192,
    "AMD-Instinct-MI325X-OAM": 256, "AMD-Instinct-MI350X-OAM": 288,
    "AMD-Instinct-MI355X-OAM": 288,
}  # fmt: skip
"""Memory of the kinds that Ray tells apart (``ray.util.accelerators``), by their makers' data
sheets; of one that is sold with several sizes the smallest, and of the MI250s that of each of the
two dies, which are devices of their own. Kinds of which that is not known are asked for by name."""
_RESOURCE = "accelerator_type:"
_SLIVER = 0.001
"""Of a node's one unit of its kind, as Ray's own ``accelerator_type`` option takes."""


def gpus(workers: Workers) -> float:
    """GPUs of each worker: what the spec says, else one if a kind is asked for or there are any.

    Those that an autoscaler may add count as there, which it adds once workers ask for them.
    """
    if workers.gpus is not None:
        return workers.gpus
    asked = workers.accelerator is not None or workers.gpu_memory is not None
    return 1.0 if asked or any_there() else 0.0


def any_there() -> bool:
    """Whether the connected cluster has a GPU, or may come to have one."""
    if not ray.is_initialized():
        return False
    if ray.cluster_resources().get("GPU", 0):
        return True
    more = growth()
    return more is not None and more.total("GPU") > 0


def kind(workers: Workers, field: str = "resources") -> str | None:
    """The kind of accelerator that each worker is to have; None if any will do.

    Of the kinds that the cluster has, or can grow to, it is the smallest with as much memory as is
    asked for.

    Args:
        workers: What is asked for.
        field: What the spec calls it, for errors.

    Raises:
        UserError: none is known to have as much.
    """
    if workers.gpu_memory is None:
        return workers.accelerator
    more = growth()
    there: set[str] = {
        name.removeprefix(_RESOURCE)
        for name in {*ray.cluster_resources(), *(more.units() if more else ())}
        if name.startswith(_RESOURCE)
    }
    enough = [(MEMORY_GB[name], name) for name in there if _memory(name) >= workers.gpu_memory]
    if not enough:
        known = ", ".join(
            f"{name} with {MEMORY_GB[name]} GB" if name in MEMORY_GB else f"{name} of unknown size"
            for name in sorted(there)
        )
        raise UserError(
            f"{field}.gpu_memory: no accelerator of the cluster is known to have "
            f"{workers.gpu_memory:g} GB (it has {known or 'none'}); ask for less, or for a kind by "
            "its name with accelerator"
        )
    return min(enough)[1]


def custom(workers: Workers, field: str = "resources") -> dict[str, float]:
    """What Ray is asked for to have the kind of accelerator: besides CPUs and GPUs."""
    name = kind(workers, field)
    return {} if name is None else {f"{_RESOURCE}{name}": _SLIVER}


def without(workers: Workers) -> Workers:
    """As many workers that need no GPU."""
    return workers.model_copy(update={"gpus": 0.0, "accelerator": None, "gpu_memory": None})


def bundle(workers: Workers, field: str = "resources") -> dict[str, float]:
    """All that each worker needs of a node, by Ray's names."""
    return {"CPU": workers.cpus, "GPU": gpus(workers), **custom(workers, field)}


def held(each: Mapping[str, float], node: Mapping[str, float]) -> int:
    """How many workers that each need so much a node holds."""
    most = [
        _shares(amount, node.get(unit, 0.0)) if unit == "GPU" else node.get(unit, 0.0) / amount
        for unit, amount in each.items()
        if amount
    ]
    return math.floor(min(most) + 1e-9)


def worded(each: Mapping[str, float]) -> str:
    """What a worker needs, in words."""
    kinds = [unit.removeprefix(_RESOURCE) for unit in each if unit.startswith(_RESOURCE)]
    of_kind = f" of the kind {kinds[0]}" if kinds else ""
    return f"{each['CPU']:g} CPUs and {each['GPU']:g} GPUs{of_kind}"


def growth() -> Growth | None:
    """What the connected cluster can become; None if it cannot grow."""
    return autoscaling.growth()


def device() -> torch.device:
    """This process's device: in a worker of Ray's what Ray gave it, elsewhere what there is.

    Ray hides no GPU from a worker that was given none. Those of ROCm are called ``cuda``, too.
    """
    given: list[str] = []
    if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        given = [str(one) for one in ray.get_gpu_ids()]
        if not given:
            return torch.device("cpu")
    if not torch.cuda.is_available():
        if given:
            log.warning("Ray gave this worker a GPU, and torch %s finds none", torch.__version__)
        return torch.device("cpu")
    # A worker may see the GPUs of its neighbours too, between which gradients go.
    variable = "HIP_VISIBLE_DEVICES" if torch.version.hip else "CUDA_VISIBLE_DEVICES"
    visible = os.environ.get(variable, "").split(",")
    return torch.device("cuda", visible.index(given[0]) if given and given[0] in visible else 0)


def _memory(name: str) -> float:
    return MEMORY_GB.get(name, 0)


def _shares(amount: float, there: float) -> float:
    """Workers that GPUs hold; none is given a share of two."""
    return math.floor(1 / amount + 1e-9) * math.floor(there) if amount < 1 else there / amount
