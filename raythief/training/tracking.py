"""What a training tells to MLflow and to Weights & Biases, from Ray Train's controller.

They are told at each checkpoint what the loss curve gained since the one before, so a run that was
killed and goes on tells nothing twice. A tracker that cannot be reached costs its own curve and
a warning, never the training.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray.train

from raythief.config import Tracking
from raythief.errors import UserError
from raythief.training.job import Job

log = logging.getLogger(__name__)

_PACKAGES = {"mlflow": "mlflow", "wandb": "wandb"}


def check(tracking: Tracking) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        UserError: it is not.
    """
    for name, package in _PACKAGES.items():
        if getattr(tracking, name) is not None and importlib.util.find_spec(package) is None:
            raise UserError(f"tracking.{name}: install it with `pip install 'raythief[{name}]'`")


def callbacks(job: Job) -> list[ray.train.UserCallback]:
    """The trackers that a job asks for."""
    if job.tracking is None:
        return []
    settings = job.training.model_dump(mode="json")
    kinds = {MlflowTracker: job.tracking.mlflow, WandbTracker: job.tracking.wandb}
    return [
        kind(place, job.experiment, job.target.path, settings)
        for kind, place in kinds.items()
        if place is not None
    ]


class Tracker(ray.train.UserCallback, ABC):
    """Told by Ray Train of each report of the workers."""

    def __init__(self, place: str, experiment: str, run: str, settings: Mapping[str, Any]) -> None:
        self.place, self.experiment, self.run = place, experiment, run
        self.settings = dict(settings)
        self._lost = False

    def after_report(
        self,
        run_context: Any,
        metrics: Sequence[Mapping[str, Any]],
        checkpoint: ray.train.Checkpoint | None,
    ) -> None:
        """Pass on what the first worker reports."""
        if self._lost:
            return
        try:
            self.tell(metrics[0]["points"], last=metrics[0]["last"])
        except self.failures() as error:
            self._lost = True
            log.warning("%s is told no more of %s: %s", self.place, self.run, error)

    @abstractmethod
    def failures(self) -> tuple[type[Exception], ...]:
        """What its client raises where the service cannot be reached."""

    @abstractmethod
    def tell(self, points: Sequence[Mapping[str, float]], last: bool) -> None:
        """Pass on points, each a step and its figures; ``last`` ends the run."""


class MlflowTracker(Tracker):
    """A run of MLflow; ``place`` is its tracking URI."""

    def failures(self) -> tuple[type[Exception], ...]:
        """MLflow's own exception."""
        from mlflow.exceptions import MlflowException

        return (MlflowException,)

    def tell(self, points: Sequence[Mapping[str, float]], last: bool) -> None:
        """Log to the run of this artifact, which an earlier process may have begun."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # training waits for it
        client = MlflowClient(self.place)
        key, now = self._run(client), int(time.time() * 1000)
        figures = [Metric(name, value, now, step) for step, name, value in _figures(points)]
        client.log_batch(key, metrics=figures)
        if last:
            client.set_terminated(key)

    def _run(self, client: Any) -> str:
        found = client.get_experiment_by_name(self.experiment)
        place = found.experiment_id if found else client.create_experiment(self.experiment)
        for run in client.search_runs([place], f"tags.artifact = '{self.run}'", max_results=1):
            return str(run.info.run_id)
        run = client.create_run(place, tags={"artifact": self.run}, run_name=self.run)
        for name, value in self.settings.items():
            client.log_param(run.info.run_id, name, value)
        return str(run.info.run_id)


class WandbTracker(Tracker):
    """A run of Weights & Biases; ``place`` is its project."""

    def failures(self) -> tuple[type[Exception], ...]:
        """The package's own exception."""
        import wandb

        return (wandb.Error,)

    def tell(self, points: Sequence[Mapping[str, float]], last: bool) -> None:
        """Log to the run of this artifact, which an earlier process may have begun."""
        import wandb

        run = wandb.init(
            project=self.place,
            group=self.experiment,
            name=self.run,
            id=self.run.replace("/", "-"),
            resume="allow",
            config=self.settings,
            settings=wandb.Settings(console="off", silent=True),
        )
        for step, name, value in _figures(points):
            run.log({name: value}, step=step)
        if last:
            run.finish()


def _figures(points: Sequence[Mapping[str, float]]) -> Iterator[tuple[int, str, float]]:
    """Step, name and value of each figure, in the order of steps."""
    for point in sorted(points, key=lambda one: one["step"]):
        for name, value in point.items():
            if name != "step":
                yield int(point["step"]), name, value
