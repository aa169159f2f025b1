"""The start of a training, on the driver."""

from __future__ import annotations

import json
from typing import Any

import ray.train
import ray.train.torch

from raythief import progress, sharding
from raythief.artifacts import WORK
from raythief.training.data import prepared
from raythief.training.job import Job
from raythief.training.loop import SPEED, SUMMARY, worker_loop
from raythief.training.tracking import callbacks


def train(job: Job, tell: progress.Tell) -> dict[str, Any]:
    """Train on a Ray Train worker group; resumes by itself from the last checkpoint.

    Returns:
        Results for the manifest: ``examples``, ``steps``, ``final_loss``, ``history``,
        ``label_counts``, ``majority_rate``, ``collapse`` (its signs),
        ``selection``, ``ended`` (why before its last step), ``device`` and ``speed``. The model
        lies in the artifact's ``model`` folder.
    """
    how, resources = job.resources.training, job.resources
    gpus = sharding.gpus(how)
    workers = min(how.workers, job.training.batch_size)
    least = min(how.min_workers or workers, workers)
    bundle = {"CPU": how.cpus} | ({"GPU": gpus} if gpus else {})
    storage = job.target.storage
    with progress.remote(tell) as mailbox:
        data = prepared(job.source, job.examples, job.judges, job.training, job.seed, mailbox)
        ray.train.torch.TorchTrainer(
            worker_loop,
            train_loop_config={"job": job, "data": data, "mailbox": mailbox},
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers if least == workers else (least, workers),
                use_gpu=gpus > 0,
                resources_per_worker=bundle,
            ),
            run_config=ray.train.RunConfig(
                name=job.target.fingerprint,
                storage_path=f"{job.target.absolute}/{WORK}",
                storage_filesystem=None if storage.is_local else storage.fs,
                failure_config=ray.train.FailureConfig(max_failures=resources.restarts),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
                callbacks=callbacks(job),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        ).fit()
    found: dict[str, Any] = {}
    for name in (SUMMARY, SPEED):
        content = storage.read_bytes(f"{job.target.path}/{name}")
        assert content is not None, f"training ended without {name}"
        found |= json.loads(content)
    return found
