"""The sections that say where and how fast; none of them changes a result."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raythief.config.base import Section
from raythief.config.keys import holds_keys

_ONE_GPU = "gpus is above 1, and a {} computes on one GPU alone; give 1, and more {}"


class Workers(Section):
    """A group of equal workers."""

    workers: int = Field(1, ge=0)
    """Number of actors or training workers. 0 works in the process that builds the stage (of a
    sweep, in the trial's), which starts at once and is for what is small; its CPUs and GPUs are
    then those of that process, and MLflow and Weights & Biases cannot be told."""
    cpus: float = Field(1.0, gt=0)
    """CPUs of each."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of each, at most 1; null takes one where the cluster has any or its autoscaler may add
    some. Where there are none, what would keep CPU workers for over an hour is refused; 0 says that
    CPUs are meant. Several small models share a GPU with a part of one (0.25)."""
    accelerator: str | None = Field(None, min_length=1)
    """Kind of GPU, as Ray's nodes report it (`H100`, `A100`, `T4`, `AMD-Instinct-MI300X-OAM`); null
    takes any."""
    gpu_memory: float | None = Field(None, gt=0)
    """Gigabytes that the GPU must have: the smallest kind of the cluster that has as many is taken.
    Of one that is sold with several sizes the smallest counts."""

    @model_validator(mode="after")
    def _one_kind_of_gpu(self) -> Workers:
        asked = [name for name in ("accelerator", "gpu_memory") if getattr(self, name) is not None]
        if len(asked) > 1:
            raise ValueError("accelerator and gpu_memory exclude each other; give one of them")
        if asked and not self.workers:
            raise ValueError(
                f"{asked[0]} needs workers of their own, and 0 work in the process at hand; "
                "raise workers"
            )
        if self.gpus is not None:
            if asked and not self.gpus:
                raise ValueError(f"{asked[0]} asks for a GPU, and gpus is 0; raise it")
            if self.gpus > 1:
                raise ValueError(_ONE_GPU.format("worker", "workers"))
        return self


class TrainingWorkers(Workers):
    """The workers of a training; on one node where one holds them all."""

    min_workers: int | None = Field(None, ge=1)
    """If given, a training starts with as many workers between this and `workers` as the cluster
    holds, and goes on with more or fewer as nodes come and go; null waits for all `workers`."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """`ddp` keeps the whole model on each worker, `fsdp` shards weights, gradients and optimiser
    over them (FSDP2); `auto` shards only what a GPU's memory would not hold whole."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass, which takes time and saves memory."""
    compile: bool = False
    """Compile the model with `torch.compile` (dynamic shapes)."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> TrainingWorkers:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError("min_workers is above workers; lower it, or leave it null")
        return self

    @model_validator(mode="after")
    def _no_gpu_is_shared(self) -> TrainingWorkers:
        if self.workers > 1 and self.gpus is not None and 0 < self.gpus < 1:
            raise ValueError(
                "gpus: workers of one training cannot share a GPU (NCCL refuses it); give each "
                "one, or take one worker"
            )
        return self


class Resources(Section):
    """What the stages run on. Never part of a fingerprint: it changes no result."""

    inference: Workers = Workers()
    """Actors that label and evaluate."""
    training: TrainingWorkers = TrainingWorkers()
    """Workers that train."""
    concurrent_stages: int = Field(1, ge=1)
    """Independent stages that are built side by side; each takes workers of its own."""
    checkpoint_every: int = Field(500, ge=1)
    """Optimiser steps between checkpoints, the most that a crash can cost."""
    restarts: int = Field(3, ge=0)
    """Failures of workers that a stage bears before it gives up."""


class Tracking(Section):
    """Who is told of trainings, besides TensorBoard's files in the folder of each."""

    mlflow: str | None = None
    """Tracking URI of MLflow (`https://...`, `databricks`); needs `raythief[mlflow]`."""
    wandb: str | None = None
    """Project at Weights & Biases; needs `raythief[wandb]`, and its key in WANDB_API_KEY."""

    @model_validator(mode="after")
    def _safe(self) -> Tracking:
        if self.mlflow is not None and holds_keys(self.mlflow):
            raise ValueError(
                "mlflow holds a user or a key, which the run record would keep; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        return self


class Serve(Section):
    """The victim as an HTTP API of our own: `raythief serve`."""

    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on; `0.0.0.0` lets other machines in."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to listen on."""
    replicas: int = Field(1, ge=1)
    """Copies of the model; with `max_replicas` the least number of them."""
    max_replicas: int | None = Field(None, ge=1)
    """Most copies, which Ray Serve then adds and removes with the load; null keeps `replicas`."""
    requests_per_replica: float = Field(16.0, gt=0)
    """Requests at once, on average, that one copy is to bear before `max_replicas` adds another."""
    cpus: float = Field(1.0, gt=0)
    """CPUs of each copy."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of each copy, at most 1; null takes one where the cluster has any or may get some."""
    max_pairs_per_batch: int = Field(256, ge=1)
    """Pairs, of all requests that wait, that go through the model together;
    `inference.tokens_per_batch` still bounds each forward pass."""
    batch_wait_s: float = Field(0.01, ge=0)
    """Seconds that a pair waits for others to join its batch."""
    max_pairs_per_request: int = Field(512, ge=1)
    """Most pairs in a request; larger ones are refused with status 413, and so are bodies of more
    than 64 KiB for each of so many pairs."""
    scores: bool = False
    """Answer with the probability of each label too, not only with the likeliest label."""
    key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the key which clients must send as `Authorization: Bearer
    KEY`; null asks for none."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Serve:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas is below replicas; raise it, or leave it null")
        if self.gpus is not None and self.gpus > 1:
            raise ValueError(_ONE_GPU.format("copy", "replicas"))
        return self


class Costs(Section):
    """Prices and speeds that `raythief plan` reckons with."""

    query_usd: float = Field(0.0, ge=0)
    """Price of one query."""
    budget: int | None = Field(None, ge=0)
    """Queries that may be spent at most, over all rows of the table; retries that are billed and
    what a crash lost count too. Null sets no limit."""
    gpu_hour_usd: float = Field(0.0, ge=0)
    """Price of one GPU for one hour."""
    device: str = "NVIDIA H100 80GB HBM3"
    """What each worker computes on, as PyTorch calls the GPU, or `CPU`. The plan reckons with its
    measured throughput, where figures of a benchmark on it are stored (`raythief/throughput.json`),
    else with `gpu_flops` x `utilisation`."""
    gpu_flops: float | None = Field(None, gt=0)
    """Peak of one GPU in floating-point operations per second (bfloat16, dense); null takes the
    data sheet's, of the devices that are known. Of another device the plan asks for it."""
    utilisation: float = Field(0.32, gt=0, le=1)
    """Share of the peak that the model's own operations reach: an assumption until measured. 0.32
    of an H100's is 40 % of what a product of matrices reaches on it."""
