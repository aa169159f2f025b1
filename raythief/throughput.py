"""Measured throughput of devices: what a plan reckons with, where a benchmark has run on one.

    throughput.measured("CPU", "training")  # None for a device that no stored benchmark ran on

The figures lie in ``throughput.json`` beside this file, which ``python benchmarks/record.py`` makes
from those under ``benchmarks/results``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

Kind = Literal["inference", "training"]
FILE = "throughput.json"


PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
}
"""Peak of a GPU, as PyTorch calls it, in floating-point operations a second: bfloat16 on tensor
cores, dense, by NVIDIA's data sheets of the H100, H200, A100, L40S and L4. Some of them give twice
as many, "with sparsity"."""


@dataclass(frozen=True)
class Throughput:
    """What one worker reached in a benchmark."""

    device: str
    """As PyTorch calls the GPU, or ``CPU``."""
    work: Kind
    threads: int
    """CPU threads of the worker."""
    model: str
    """Whose size the model had; its weights were random."""
    dtype: str
    tokens_per_second: float
    """Tokens without padding."""
    flops: float
    """Floating-point operations per second, counted as a plan counts them."""
    date: str
    command: str
    figures: str
    """File of the figures in the repository."""


@cache
def stored() -> tuple[Throughput, ...]:
    """All that is known."""
    text = (resources.files("raythief") / FILE).read_text(encoding="utf-8")
    return tuple(Throughput(**one) for one in json.loads(text))


def measured(device: str, work: Kind) -> Throughput | None:
    """The figures of a device, if there are any."""
    return next((one for one in stored() if (one.device, one.work) == (device, work)), None)


def devices() -> set[str]:
    """Devices of which there are figures."""
    return {one.device for one in stored()}
