"""The start of a training, on the driver."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

import ray
import ray.train
import ray.train.torch

from raythief import accelerators, calls, progress, results
from raythief.artifacts import WORK
from raythief.config import Training
from raythief.errors import UserError, find_error
from raythief.training import memory
from raythief.training.data import prepare
from raythief.training.job import Job
from raythief.training.loop import SPEED, SUMMARY, worker_loop
from raythief.training.tracking import callbacks

log = logging.getLogger(__name__)

_alone = threading.Lock()
"""Ray Train holds one training at a time in a process that is no worker."""


class StoppedError(Exception):
    """A training was told not to go on before its end."""


class _NoSecondTry(ray.train.UserCallback):
    """Ends a training at what Ray Train would mistake for a crash: a user's mistake, which
    restarted workers would meet too, and a batch that does not fit, after which we start it again.
    """

    def after_exception(
        self, run_context: Any, worker_exceptions: Mapping[int, BaseException]
    ) -> None:
        """Fail the controller itself, whose failures Ray Train does not try again."""
        for kind in (UserError, memory.SmallerError):
            for error in worker_exceptions.values():
                found = find_error(error, kind)
                if found is not None:
                    raise found


def train(job: Job, tell: progress.Tell) -> results.Training:
    """Train on a Ray Train worker group, or in this process where ``workers`` is 0.

    Resumes by itself from the last checkpoint.

    Returns:
        Results for the manifest. The model lies in the artifact's ``model`` folder.

    Raises:
        StoppedError: ``tell`` is a ``Watch`` that did not want it to go on. Its checkpoint is kept.
        ray.train.TrainingFailedError: a worker met a user's mistake (``find_user_error`` tells it),
            or workers failed more often than ``restarts`` bears.
    """
    parts = (job.source, job.examples, job.judges, job.training, job.seed)
    if job.resources.training.workers:
        with progress.remote(tell) as far:
            # No CPU of its own: the workers have taken theirs, and do nothing until this is done.
            how = {"restarts": job.resources.restarts, "num_cpus": 0}
            with contextlib.closing(calls.Call(prepare, *parts, far, **how)) as examples:
                _fit(job, {"job": job, "data": examples.result, "tell": far})
    else:
        with _alone:
            data = ray.put(prepare(*parts, tell))
            _fit(job, {"job": job, "data": data, "tell": tell})
    found: dict[str, Any] = {}
    for name in (SUMMARY, SPEED):
        content = job.target.storage.read_bytes(f"{job.target.path}/{name}")
        if content is None:
            raise StoppedError
        found |= json.loads(content)
    return results.Training.model_validate(
        {**found, "gpus": accelerators.gpus(job.resources.training)}
    )


def _fit(job: Job, config: dict[str, Any]) -> None:
    """Train, and begin again as often as micro-batches turn out to be too large.

    Each time they are at most half as large, so that it ends.
    """
    while True:
        try:
            _trainer(job, config).fit()
            return
        except Exception as error:
            smaller = find_error(error, memory.SmallerError)
            if smaller is None:
                raise
            log.warning("%s: %s; on from the last checkpoint", job.target.path, smaller)


def most_rows(training: Training) -> int:
    """Rows that a step may have; more workers would be of no use. Each row has a token or more."""
    return training.batch_tokens or training.batch_size


def _trainer(job: Job, config: dict[str, Any]) -> ray.train.torch.TorchTrainer:
    how, resources, storage = job.resources.training, job.resources, job.target.storage
    bundle = {unit: amount for unit, amount in accelerators.bundle(how).items() if amount}
    workers = min(how.workers, most_rows(job.training))
    least = min(how.min_workers or workers, workers)
    return ray.train.torch.TorchTrainer(
        worker_loop,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers if least == workers else (least, workers),
            use_gpu="GPU" in bundle,
            resources_per_worker=bundle,
            placement_strategy="PACK",  # on one node where one holds them all
        ),
        run_config=ray.train.RunConfig(
            name=job.target.fingerprint,
            storage_path=f"{job.target.absolute}/{WORK}",
            storage_filesystem=None if storage.is_local else storage.fs,
            failure_config=ray.train.FailureConfig(max_failures=resources.restarts),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[*callbacks(job), _NoSecondTry()],
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
