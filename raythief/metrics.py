"""Every figure that runs export through Ray for Prometheus, defined in one place.

    metrics.ROWS.add(256)                                # counter ray_raythief_rows_total
    metrics.TRAINING_LOSS.set(0.61, stage="extractor")   # gauge ray_raythief_training_loss

Ray brings them every ten seconds, and once more when a process ends, to the port of its node that
Prometheus reads. It adds tags of its own: session, node, worker. Ours name a stage or a state,
never an artifact, a text or an address, so that there are few series. The dashboard in
``cluster/monitoring`` is made from these definitions, and tests hold it and the alerts to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import ray.util.metrics

NAMESPACE = "raythief"


@dataclass(frozen=True)
class Metric:
    """One figure that is exported."""

    name: str
    """By Prometheus's conventions, without the namespace and a counter's ``_total``."""
    description: str
    unit: str
    """What one is: ``rows``, ``tokens``; ``ratio`` is a share of 1."""
    tags: tuple[str, ...] = ()

    @property
    def series(self) -> str:
        """Its name in Prometheus."""
        return f"ray_{NAMESPACE}_{self.name}"


class Counter(Metric):
    """A figure that only grows."""

    @property
    def series(self) -> str:
        """Its name in Prometheus."""
        return f"{super().series}_total"

    def add(self, value: int, **tags: str) -> None:
        """Count ``value`` more; 0 is no news."""
        if value:
            _exported(ray.util.metrics.Counter, self).inc(value, tags)


class Gauge(Metric):
    """A figure that goes up and down."""

    def set(self, value: float, **tags: str) -> None:
        """Show ``value`` from now on, until this process ends."""
        _exported(ray.util.metrics.Gauge, self).set(value, tags)


@cache
def _exported(kind: type, metric: Metric) -> Any:
    """What Ray knows of a metric in this process."""
    return kind(f"{NAMESPACE}_{metric.name}", metric.description, metric.tags)


# What is bought, told by the one meter of a run.
ROWS = Counter("rows", "Rows that a victim labelled or rejected.", "rows")
REJECTED_ROWS = Counter(
    "rejected_rows", "Rows that a victim refused or answered with nonsense.", "rows"
)
MISSING_ROWS = Gauge("missing_rows", "Rows that purchases under way have yet to buy.", "rows")
SPENT_QUERIES = Gauge(
    "spent_queries", "Queries that count against the budget, those of earlier runs too.", "queries"
)
SPENT_DOLLARS = Gauge("spent_dollars", "What those queries cost at costs.query_usd.", "dollars")
BUDGET_QUERIES = Gauge("budget_queries", "Queries that may be spent: costs.budget.", "queries")
API_REQUESTS = Counter("api_requests", "Requests sent to an API, repeated ones too.", "requests")
API_RETRIES = Counter("api_retries", "Requests to an API that repeated an earlier one.", "requests")

# Classifiers on our own hardware: victims, evaluations, `raythief serve`.
INFERENCE_TOKENS = Counter(
    "inference_tokens", "Tokens that classifiers read, padding not counted.", "tokens"
)
INFERENCE_PADDED_TOKENS = Counter(
    "inference_padded_tokens", "Tokens that classifiers read, padding counted.", "tokens"
)

# Trainings, told by the first worker of each; `stage` is victim, extractor or finetuned.
TRAINING_STEPS = Counter("training_steps", "Optimiser steps.", "steps", ("stage",))
TRAINING_TOKENS = Counter(
    "training_tokens", "Tokens of those steps, padding not counted.", "tokens", ("stage",)
)
TRAINING_PADDED_TOKENS = Counter(
    "training_padded_tokens", "Tokens of those steps, padding counted.", "tokens", ("stage",)
)
TRAINING_LOSS = Gauge("training_loss", "Loss of the latest step.", "nats", ("stage",))
TRAINING_LEARNING_RATE = Gauge(
    "training_learning_rate", "Learning rate of the latest step.", "rate", ("stage",)
)
TRAINING_PROGRESS = Gauge("training_progress_ratio", "Share of steps done.", "ratio", ("stage",))
TRAINING_RESUMPTIONS = Counter(
    "training_resumptions", "Trainings that went on from a checkpoint.", "trainings", ("stage",)
)

# Stages of `raythief run` and what trials share, told by the driver.
STAGES = Counter(
    "stages", "Stages by outcome: built, found or failed.", "stages", ("stage", "outcome")
)
STAGES_RUNNING = Gauge("stages_running", "Stages that are being built.", "stages", ("stage",))

# A sweep, told by the driver.
SWEEP_TRIALS = Gauge(
    "sweep_trials", "Trials by status: running, done, stopped or failed.", "trials", ("status",)
)
SWEEP_PLANNED_TRIALS = Gauge("sweep_planned_trials", "Trials of the whole sweep.", "trials")
SWEEP_BEST_OBJECTIVE = Gauge(
    "sweep_best_objective_ratio", "Objective of the best trial that is done.", "ratio"
)

EXPORTED = tuple(one for one in list(globals().values()) if isinstance(one, Metric))
"""All of them."""
