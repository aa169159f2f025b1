"""Fine-tuning on Ray Train: victims, extractors and baselines all go through this loop.

The order of the data, the dropout masks and the learning rate are functions of (seed, step), so a
checkpoint needs only weights, optimiser state and the step: a run that was killed and started
again ends with the same weights as one that was not.

The loss of a step is the sum over its examples divided by their number, whatever the number of
workers and micro-batches that share them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import ray
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from torch.nn import functional

from raythief import encoding, models, progress, sharding
from raythief.artifacts import WORK, Artifact
from raythief.config import LABELS, Resources, Training
from raythief.errors import UserError

log = logging.getLogger(__name__)

STATE = "state.pt"
SUMMARY = "training.json"
COLLAPSE_SHARE = 0.95
"""A model that gives one label to more than this share of the last tenth of its training examples,
though the labels themselves are less one-sided, has collapsed."""
COLLAPSE_EXAMPLES = 8
"""Examples that a worker's step must have for its most frequent prediction to mean something."""
HISTORY_POINTS = 200
"""Points of the loss curve."""


COLUMNS = pa.schema([("premise", pa.string()), ("hypothesis", pa.string()), ("label", pa.string())])
"""What a training set consists of, wherever it is from."""


@dataclass(frozen=True)
class Examples:
    """Labelled pairs in artifacts: texts with their own label column, or joined to labels."""

    texts: Artifact
    table: str = ""
    """File or folder of the texts within the artifact."""
    labels: Artifact | None = None
    """Bought labels, joined by id; None where the texts carry gold labels."""
    ids: NDArray[np.int64] | None = None
    """Rows to take; None takes all."""

    def read(self) -> pa.Table:
        """Columns ``premise``, ``hypothesis`` and ``label``, in the order of ids.

        Raises:
            ValueError: texts and labels hold different ids.
        """
        columns = ["id", "premise", "hypothesis"]
        table = self.texts.read_table(self.table, columns + ["label"] * (self.labels is None))
        if self.labels is not None:
            bought = self.labels.read_table()
            if not bought["id"].equals(table["id"]):
                raise ValueError(f"{self.labels.path} labels other ids than {self.texts.path} has")
            table = table.append_column("label", bought["label"])
            table = table.filter(pc.is_valid(table["label"]))  # the victim rejected the others
        if self.ids is not None:
            table = table.take(pa.array(self.ids))
        return table.select(COLUMNS.names).cast(COLUMNS)


@dataclass(frozen=True)
class Job:
    """All that a training worker needs to know; travels to each of them."""

    target: Artifact
    source: models.Source
    fresh_head: bool
    """Put a new classifier head on the encoder, instead of going on with the one that is there."""
    examples: tuple[Examples, ...]
    training: Training
    seed: int
    checkpoint_every: int
    cpus: float


class Schedule:
    """Which rows a step trains on, and at what rate: a pure function of the step."""

    def __init__(self, training: Training, lengths: NDArray[np.int64], seed: int) -> None:
        self.training, self.lengths, self.seed = training, lengths, seed
        self.batch = min(training.batch_size, len(lengths))
        self.per_epoch = max(1, len(lengths) // self.batch)
        self.steps = training.steps or max(1, round(training.epochs * len(lengths) / self.batch))
        self._epoch: tuple[int, list[NDArray[np.int64]]] | None = None

    def rows(self, step: int) -> NDArray[np.int64]:
        """Rows of a step's global batch, longest first; each row is drawn once an epoch.

        An epoch is shuffled, cut into windows of 50 batches, sorted by length within each window
        so that a batch holds rows of like length, and its batches are shuffled again. The few
        rows that fill no batch sit that epoch out.
        """
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][place]

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then linear decay to 0."""
        warm = self.training.warmup * self.steps
        if step < warm:
            return self.training.learning_rate * (step + 1) / (warm + 1)
        return self.training.learning_rate * (self.steps - step) / max(1.0, self.steps - warm)

    def _shuffled(self, epoch: int) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.lengths))
        window = 50 * self.batch
        batches = []
        for start in range(0, self.per_epoch * self.batch, window):
            rows = order[start : min(start + window, self.per_epoch * self.batch)]
            rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
            batches += [rows[i : i + self.batch] for i in range(0, len(rows), self.batch)]
        return [batches[i] for i in generator.permutation(len(batches))]


def train(job: Job, resources: Resources, tell: progress.Tell) -> dict[str, Any]:
    """Train on a Ray Train worker group; resumes by itself from the last checkpoint.

    Returns:
        Results for the manifest: ``examples``, ``steps``, ``final_loss``, ``history``,
        ``label_counts``, ``majority_rate``, ``collapsed``, ``device``. The model lies in the
        artifact's ``model`` folder.
    """
    gpus = sharding.gpus(resources.training)
    workers = min(resources.training.workers, job.training.batch_size)
    bundle = {"CPU": resources.training.cpus} | ({"GPU": gpus} if gpus else {})
    storage = job.target.storage
    with progress.remote(tell) as mailbox:
        ray.train.torch.TorchTrainer(
            worker_loop,
            train_loop_config={"job": job, "mailbox": mailbox},
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=gpus > 0, resources_per_worker=bundle
            ),
            run_config=ray.train.RunConfig(
                name=job.target.fingerprint,
                storage_path=f"{job.target.absolute}/{WORK}",
                storage_filesystem=None if storage.is_local else storage.fs,
                failure_config=ray.train.FailureConfig(max_failures=resources.restarts),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        ).fit()
    summary = storage.read_bytes(f"{job.target.path}/{SUMMARY}")
    assert summary is not None, "training ended without a summary"
    found: dict[str, Any] = json.loads(summary)
    return found


def worker_loop(config: Mapping[str, Any]) -> None:
    """The loop of one worker."""
    job, mailbox = config["job"], config["mailbox"]
    training: Training = job.training
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(job.cpus)))
    device = ray.train.torch.get_device()
    precision = models.dtype(training.precision, device)

    folder = job.source.local()
    table = pa.concat_tables([part.read() for part in job.examples])
    plain = models.fresh_classifier(folder, job.seed) if job.fresh_head else _trained(folder)
    tokenizer = models.tokenizer(folder)
    data = encoding.encode(
        tokenizer,
        table["premise"].to_pylist(),
        table["hypothesis"].to_pylist(),
        min(training.max_tokens, models.longest(plain, tokenizer)),
    )
    labels = np.array([LABELS.index(label) for label in table["label"].to_pylist()])
    weights = class_weights(labels, training.class_weights).to(device)
    schedule = Schedule(training, data.lengths, job.seed)

    if training.freeze_embeddings:
        plain.base_model.embeddings.requires_grad_(False)
    model = ray.train.torch.prepare_model(plain, move_to_device=device)
    optimizer = _optimizer(plain, training, device)

    state = State.restored(plain, optimizer, device)
    model.train()
    every = max(1, schedule.steps // HISTORY_POINTS)
    for step in range(state.step, schedule.steps):
        torch.manual_seed(_stream(job.seed, step, rank))  # dropout
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        rows = schedule.rows(step)
        loss, predicted = _step(
            model,
            optimizer,
            data,
            labels,
            weights,
            rows[rank::world],
            len(rows),
            world,
            training,
            precision,
            device,
        )
        state.count(step, schedule.steps, loss, predicted)
        if (step + 1) % every == 0 or step + 1 == schedule.steps:
            state.note(step + 1, schedule.rate(step), world)
            if rank == 0:
                mailbox.put.remote(
                    step + 1, schedule.steps, f"loss {state.history[-1]['loss']:.3f}"
                )
        if (step + 1) % job.checkpoint_every == 0 or step + 1 == schedule.steps:
            state.save(plain, optimizer, rank)
    if rank == 0:
        _finish(job, plain, folder, state, labels, device)


def class_weights(labels: NDArray[np.int64], kind: str) -> torch.Tensor:
    """Weight of each class in the loss, shape [3], with mean 1 over the examples."""
    counts = np.bincount(labels, minlength=len(LABELS))
    shares = np.maximum(counts, 1) / len(labels)
    raw = np.ones(len(LABELS)) if kind == "none" else 1 / np.sqrt(shares)
    return torch.tensor(raw * len(labels) / (raw * counts).sum(), dtype=torch.float32)


@dataclass
class State:
    """Where the training is."""

    step: int
    history: list[dict[str, float]]
    """Points of the loss curve: step, mean loss since the point before, learning rate."""
    losses: list[torch.Tensor]
    """Losses since the last point."""
    predictions: torch.Tensor
    """How often each label was predicted in the last tenth of the steps, shape [3]."""
    commonest: int
    """Of those predictions, how many were their own step's most frequent label."""
    counted: int
    """Steps that were counted so."""

    @property
    def majority_rate(self) -> float:
        """Share of the most frequent prediction in the last tenth of the steps.

        A collapsed model may say one thing in one step and another in the next, so that each step
        is looked at by itself where it has examples enough.
        """
        total = max(1, int(self.predictions.sum()))
        if total >= COLLAPSE_EXAMPLES * self.counted:
            return self.commonest / total
        return int(self.predictions.max()) / total

    @classmethod
    def restored(
        cls, model: torch.nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
    ) -> State:
        """From the last checkpoint of the run that is whole, or from the beginning."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return cls(0, [], [], torch.zeros(len(LABELS), dtype=torch.int64), 0, 0)
        kept = load(checkpoint)
        if torch.distributed.is_initialized():
            steps = [0] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(steps, kept["step"])
            if len(set(steps)) > 1:  # Ray Train starts the workers anew
                raise RuntimeError(f"the workers read checkpoints of different steps: {steps}")
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        losses = [loss.to(device) for loss in kept["losses"]]
        return cls(
            kept["step"],
            kept["history"],
            losses,
            kept["predictions"].cpu(),
            kept["commonest"],
            kept["counted"],
        )

    def count(self, step: int, steps: int, loss: torch.Tensor, predicted: torch.Tensor) -> None:
        """Take note of one step."""
        self.step = step + 1
        self.losses.append(loss)
        if step >= 0.9 * steps:
            counts = torch.bincount(predicted.cpu(), minlength=len(LABELS))
            self.predictions += counts
            self.commonest += int(counts.max())
            self.counted += 1

    def note(self, step: int, rate: float, world: int) -> None:
        """Add a point to the loss curve: the mean over all workers since the last one."""
        mean = torch.stack(self.losses).mean()
        if world > 1:
            torch.distributed.all_reduce(mean)
            mean /= world
        self.history.append({"step": step, "loss": float(mean), "learning_rate": rate})
        self.losses = []

    def save(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> None:
        """Report a checkpoint; every worker must call this equally often."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                kept = {
                    "step": self.step,
                    "history": self.history,
                    "losses": self.losses,
                    "predictions": self.predictions,
                    "commonest": self.commonest,
                    "counted": self.counted,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                }
                torch.save(kept, Path(folder) / STATE)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": self.step}, checkpoint=checkpoint)


def load(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    """What a checkpoint holds; if it is damaged, what the newest one before it holds.

    Returns:
        The entries that ``State.save`` wrote, with tensors in main memory.

    Raises:
        UserError: all checkpoints are damaged.
    """
    fs, (place, _, newest) = checkpoint.filesystem, checkpoint.path.rpartition("/")
    names = [info.base_name for info in fs.get_file_info(pa.fs.FileSelector(place))]
    for name in sorted((name for name in names if name <= newest), reverse=True):
        if not name.startswith("checkpoint_"):
            continue
        # Workers of one node share the download of Ray's own object.
        one = checkpoint if name == newest else ray.train.Checkpoint(f"{place}/{name}", fs)
        try:
            with one.as_directory() as folder:
                file = Path(folder) / STATE
                kept: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
                return kept
        # What a file cut short gives; a storage that does not answer is another OSError.
        except (FileNotFoundError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            log.warning("%s/%s is damaged, the one before is taken: %s", place, name, error)
    raise UserError(f"{place}: all checkpoints are damaged; delete the folder to train anew")


def _step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    data: encoding.Encoded,
    labels: NDArray[np.int64],
    weights: torch.Tensor,
    rows: NDArray[np.int64],
    count: int,
    world: int,
    training: Training,
    precision: torch.dtype,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimiser step on this worker's ``rows`` of a global batch of ``count``.

    Returns:
        The step's loss as this worker saw it (its mean over workers is the global one), and the
        predicted classes of its rows, shape [rows].
    """
    parts = encoding.pack(data.lengths[rows], training.tokens_per_micro_batch)
    total = torch.zeros((), device=device)
    predicted = []
    for i, part in enumerate(parts):
        chosen = rows[part]
        gold = torch.from_numpy(labels[chosen]).to(device)
        last = i + 1 == len(parts)
        with contextlib.nullcontext() if last else _unsynchronised(model):
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                logits = model(**data.batch(chosen, device)).logits
            each = functional.cross_entropy(logits.float(), gold, reduction="none")
            # DDP averages gradients over workers; times ``world`` makes that the sum.
            loss = (each * weights[gold]).sum() * world / count
            loss.backward()
        total += loss.detach()
        predicted.append(logits.detach().argmax(-1))
    torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, torch.cat(predicted)


@contextlib.contextmanager
def _unsynchronised(model: torch.nn.Module) -> Iterator[None]:
    """Keep gradients on this worker until the last micro-batch of a step."""
    with model.no_sync() if hasattr(model, "no_sync") else contextlib.nullcontext():
        yield


def _optimizer(
    model: torch.nn.Module, training: Training, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW; vectors (biases and norms) do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [
            {
                "params": [p for p in trained if p.ndim > 1],
                "weight_decay": training.weight_decay,
            },
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=training.learning_rate,
        betas=training.betas,
        fused=device.type in ("cuda", "cpu"),
    )


def _trained(folder: Path) -> Any:
    model = models.classifier(folder)
    names = tuple(model.config.id2label[i] for i in range(len(LABELS)))
    assert names == LABELS, f"{folder} orders its labels {names}"
    return model


def _stream(seed: int, step: int, rank: int) -> int:
    """Seed of one worker's dropout in one step."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def _finish(
    job: Job,
    model: Any,
    folder: Path,
    state: State,
    labels: NDArray[np.int64],
    device: torch.device,
) -> None:
    """Write the model as a plain ``transformers`` folder, and the summary."""
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        models.tokenizer(folder).save_pretrained(scratch)
        job.target.upload(Path(scratch), "model")
    counts = np.bincount(labels, minlength=len(LABELS))
    majority = state.majority_rate
    final = state.history[-1]["loss"]
    summary = {
        "examples": len(labels),
        "steps": state.step,
        "final_loss": final,
        "history": state.history,
        "label_counts": dict(zip(LABELS, counts.tolist(), strict=True)),
        "majority_rate": majority,
        "collapsed": not math.isfinite(final)
        or (majority > COLLAPSE_SHARE >= float(counts.max() / counts.sum())),
        "device": models.name_of(device),
    }
    job.target.write(SUMMARY, json.dumps(summary).encode())
