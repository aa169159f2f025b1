"""Counters for Ray's metrics, from which a dashboard can be built (Prometheus: ``ray_raythief_*``).

Rates come from counters: ``rate(ray_raythief_rows_total[1m])``. Everything is labelled by nothing
but Ray's own tags (node, worker, job).
"""

from __future__ import annotations

from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

_COUNTERS = {
    "rows": "Rows that a victim labelled or rejected.",
    "rejected": "Rows that a victim refused or answered with nonsense.",
    "tokens": "Tokens that a victim in an actor read, padding not counted.",
    "padded_tokens": "Tokens that it read, padding counted.",
    "spent": "Queries that were billed.",
    "attempts": "Requests to an API.",
    "retries": "Requests to an API that repeated an earlier one.",
    "trained_steps": "Optimiser steps.",
    "trained_tokens": "Tokens of those steps, padding not counted.",
}
_GAUGES = {"loss": "Loss of the latest step.", "learning_rate": "Its learning rate."}
_PADDING_BOUNDARIES = [0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5]


@cache
def _counter(name: str) -> Counter:
    return Counter(f"raythief_{name}", _COUNTERS[name])


@cache
def _gauge(name: str) -> Gauge:
    return Gauge(f"raythief_{name}", _GAUGES[name])


@cache
def _padding() -> Histogram:
    return Histogram(
        "raythief_padding_share",
        "Share of padding among the tokens of a shard.",
        boundaries=_PADDING_BOUNDARIES,
    )


def _count(**counts: int) -> None:
    for name, value in counts.items():
        if value > 0:
            _counter(name).inc(value)


def labelled(rows: int, tokens: int, padded_tokens: int) -> None:
    """Count a shard that a victim in an actor labelled."""
    _count(rows=rows, spent=rows, tokens=tokens, padded_tokens=padded_tokens)
    _padding().observe(1 - tokens / max(1, padded_tokens))


def bought(rows: int, rejected: int, spent: int, attempts: int, retries: int) -> None:
    """Count what an API answered."""
    _count(rows=rows, rejected=rejected, spent=spent, attempts=attempts, retries=retries)


def trained(steps: int, tokens: int, loss: float, rate: float) -> None:
    """Count steps of a training, and show where it is."""
    _count(trained_steps=steps, trained_tokens=tokens)
    _gauge("loss").set(loss)
    _gauge("learning_rate").set(rate)
