"""What a training worker does.

The loss of a step is the sum over its examples divided by their number, whatever the number of
workers and micro-batches that share them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from numpy.typing import NDArray

from raythief import accelerators, models, results, speed
from raythief.config import LABELS, Training
from raythief.errors import UserError
from raythief.progress import Tell, Watch
from raythief.training import collapse, continuation, memory, objective, parallel, selection
from raythief.training.data import Dataset
from raythief.training.job import Job
from raythief.training.record import MEASURED, Recorder
from raythief.training.schedule import Schedule
from raythief.training.state import State, history_every, latest

log = logging.getLogger(__name__)

SUMMARY = "training.json"
"""What a training came to; the same for every run of it."""
SPEED = "speed.json"
"""How fast it was."""
TOKENS_PER_MICRO_BATCH = {"cpu": 2048, "cuda": 8192}
"""Padded tokens that a worker holds at once by default, by its kind of device. Measured on one CPU
core with two layers of RoBERTa-Base's width: 922, 959, 949 and 798 tokens/s with micro-batches of
900, 1,900, 4,000 and 4,700 tokens. For GPUs it is an estimate."""
HAD_A_HEAD = (
    "the model that it began from is a classifier already: its head was replaced, and its encoder "
    "may know the task"
)
WARM_STEPS = 3
"""Steps that are left out of the speed: caches fill, kernels are chosen."""


def worker_loop(config: Mapping[str, Any]) -> None:
    """Train from the last checkpoint, or from the beginning, to the end.

    Raises:
        UserError: the GPU's memory does not hold the model, or a single row; or it cannot be
            compiled.
        memory.SmallerError: it holds no micro-batch of this size, and several workers share it.
    """
    try:
        with models.compiled("resources.training.compile"):
            _train(config)
    except torch.OutOfMemoryError:
        raise UserError(
            "resources.training: the GPU's memory does not hold the model and its optimiser; take "
            "a larger GPU, or shard them over more workers (parallel: fsdp)"
        ) from None


def _train(config: Mapping[str, Any]) -> None:
    job: Job = config["job"]
    training, how = job.training, job.resources.training
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(how.cpus)))
    device = accelerators.device()

    folder = job.source.local()
    plain = _model(job, folder)
    if training.freeze_embeddings:
        plain.base_model.embeddings.requires_grad_(False)
    flops = speed.training_flops(plain)
    model = parallel.spread(plain, how, device, world)
    optimizer = _optimizer(plain, training, device)

    data: Dataset = ray.get(config["data"])
    lengths, labels = data.pairs.lengths, data.labels[data.train]
    counts = np.bincount(labels, minlength=len(LABELS)).tolist()
    schedule = Schedule(training, lengths[data.train], job.seed)
    kept = latest(job.target)
    if kept is None and job.earlier is not None:
        kept = continuation.take(job.earlier, job.target, schedule, first=rank == 0)
    precision = _precision(training, device, kept)
    peak = speed.matrix_flops(device, precision) if rank == 0 else 0.0
    state = State() if kept is None else State.restored(kept, plain, optimizer)
    state.precision = models.format_name(precision)
    chosen, best = training.selection, selection.Best(job.target)
    asked = training.tokens_per_micro_batch or TOKENS_PER_MICRO_BATCH[device.type]
    tokens = min(asked, memory.most(job.target, device) or asked)
    room = memory.Room(
        job.target,
        device,
        min(parallel.gathered(tokens)),  # all of them cut a step's batch alike
        alone=world == 1 and not parallel.is_sharded(model),
    )
    judge = selection.Judge(job, data, room, precision, rank, world)
    tell: Tell = config["tell"]
    earlier = state.continues["steps"] if state.continues else 0
    recorder = Recorder(job.target, tell, rank, world, state.step, schedule.steps, earlier)
    recorder.share_of_peak = flops / peak / world if peak else 0.0
    weights = objective.class_weights(labels, training.class_weights).to(device)
    guess = collapse.Guess.of(counts, weights.tolist(), training.soft_labels is not None)
    worker = _Worker(model, optimizer, data, weights, training, room, precision, rank, world)

    model.train()
    wanted = all(_wanted(tell, look, schedule, device, rank, world) for look in state.looks)
    mark = time.perf_counter()
    for step in range(state.step, schedule.steps):
        if state.ended or not wanted:
            break
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        rows = data.train[schedule.rows(step)]
        measured = worker.step(rows, _stream(job.seed, step, rank))
        now = time.perf_counter()
        recorder.add(
            measured,
            step=step + 1,
            learning_rate=schedule.rate(step),
            tokens=int(lengths[rows].sum()),
            seconds=now - mark,
            workers=world,
        )
        mark, state.step = now, step + 1

        last = state.step == schedule.steps
        look = chosen is not None and (last or state.step % chosen.every == 0)
        save = last or state.step % job.resources.checkpoint_every == 0
        if look or save or state.step % history_every(schedule.steps) == 0:
            state.take(recorder.settle(), schedule)
            if training.on_collapse == "stop" and state.collapse(schedule, guess, whole=True):
                state.ended, save = "collapse", True
        if look and chosen is not None:
            state.looks.append({"step": state.step, **judge.score(plain)})
            recorder.look(state.looks[-1])
            if state.best == state.looks[-1]:
                found = parallel.weights(plain)
                if rank == 0:
                    best.write(state.step, found)
            if state.lost_patience(chosen.patience):
                state.ended, save = "patience", True
            wanted = _wanted(tell, state.looks[-1], schedule, device, rank, world)
            save = save or not wanted
        if save:
            recorder.save()
            state.save(job, plain, optimizer, rank=rank, last=last or bool(state.ended))
            if rank == 0 and state.best is not None:
                best.checkpointed(int(state.best["step"]))
        if look or save:
            mark = time.perf_counter()

    if not wanted:  # its checkpoint is kept, and there is no model yet
        return
    entries = state.entries(plain, optimizer) if training.open_ended else {}
    found = parallel.weights(plain)
    if rank > 0:
        return
    if training.open_ended:
        continuation.leave(job.target, entries)
    if state.best is not None:
        found = best.read(int(state.best["step"]))
    _write_model(job, folder, found)
    kept_by: results.Selected | None = None
    if chosen is not None and state.best is not None:
        metric = selection.metric(chosen, data, job.examples[0].labels is not None)
        looks = tuple(results.Look.model_validate(look) for look in state.looks)
        kept_by = results.Selected(**state.best, metric=metric, looks=looks)
    notes = (HAD_A_HEAD,) if job.fresh_head and models.has_head(folder) else ()
    summary = _summary(state, schedule, counts, guess, device, kept_by, notes)
    text = summary.model_dump_json(exclude={"speed", "gpus"})  # the same whatever it ran on
    job.target.write(SUMMARY, text.encode())
    fast = _speed(recorder.close(), flops, peak, world, room)
    job.target.write(SPEED, json.dumps({"speed": fast.model_dump()}).encode())


@dataclass
class _Worker:
    """One worker's share of every step."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    data: Dataset
    weights: torch.Tensor
    training: Training
    room: memory.Room
    precision: torch.dtype
    rank: int
    world: int

    def step(self, rows: NDArray[np.int64], stream: int) -> torch.Tensor:
        """One optimiser step on a global batch; ``stream`` is the seed of its dropout.

        Returns:
            Figures of this worker, which summed over the workers are those of the step (loss and
            gradient norm times the number of workers), float64 [MEASURED].
        """
        measured, short = self._gradients(rows, stream)
        while len(short):  # what did not fit is let go by now
            self.optimizer.zero_grad(set_to_none=True)
            self.room.shrink(short)
            measured, short = self._gradients(rows, stream)
        measured[1] = parallel.clip(self.model, self.training.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return measured

    def _gradients(
        self, rows: NDArray[np.int64], stream: int
    ) -> tuple[torch.Tensor, NDArray[np.int64]]:
        """Add up the gradients of a global batch.

        Returns:
            The step's figures, but for the gradient norm; and the tokens of each row of a
            micro-batch that the memory did not hold, none if all is well.
        """
        torch.manual_seed(stream)
        lengths, count = self.data.pairs.lengths[rows], len(rows)
        measured = torch.zeros(MEASURED, dtype=torch.float64, device=self.room.device)
        parts = parallel.shares(lengths, self.room.tokens, self.world)[self.rank]
        for i, (part, counts) in enumerate(parts):
            last = i + 1 == len(parts)
            try:
                with contextlib.nullcontext() if last else parallel.unsynchronised(self.model):
                    loss, logits = self._loss(rows[part])
                    # Gradients are averaged over workers; times ``world`` makes that the sum.
                    (loss * (self.world / count if counts else 0.0)).backward()
            except torch.OutOfMemoryError:
                return measured, lengths[part]
            if counts:
                measured[0] += loss.detach() * self.world / count
                measured[2:5] += torch.bincount(logits.argmax(-1), minlength=len(LABELS))
                measured[5] += len(part) * int(lengths[part].max())
        return measured, lengths[:0]

    def _loss(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed loss of some rows, and the model's outputs for them."""
        with torch.autocast(
            self.room.device.type, self.precision, enabled=self.precision != torch.float32
        ):
            logits = self.model(**self.data.pairs.batch(rows, self.room.device)).logits
        labels = torch.from_numpy(self.data.labels[rows]).to(self.room.device)
        scores = None
        if self.data.scores is not None:
            scores = torch.from_numpy(self.data.scores[rows]).to(self.room.device)
        each = objective.losses(logits, labels, self.weights, scores, self.training.soft_labels)
        return each.sum(), logits.detach()


def _model(job: Job, folder: Path) -> Any:
    """The model to begin with, in canonical label order."""
    if job.fresh_head:
        return models.fresh_classifier(folder, job.seed)
    model = models.classifier(folder)
    names = tuple(model.config.id2label[i] for i in range(len(LABELS)))
    assert names == LABELS, f"{folder} orders its labels {names}"
    return model


def _precision(
    training: Training, device: torch.device, kept: Mapping[str, Any] | None
) -> torch.dtype:
    """The number format of all workers, and of all of a training's steps.

    Where devices differ, it is the one that each of them has. All workers must call this.
    """
    begun = kept.get("precision") if kept else None  # none in checkpoints of earlier versions
    each = parallel.gathered(models.dtype(training.precision, device, begun))
    return torch.float32 if torch.float32 in each else torch.bfloat16


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


def _wanted(
    tell: Tell,
    look: Mapping[str, float],
    schedule: Schedule,
    device: torch.device,
    rank: int,
    world: int,
) -> bool:
    """Whether a training that is watched is to go on; all workers must ask."""
    if not isinstance(tell, Watch):
        return True
    answer = [rank > 0 or tell.look({**look, "steps": schedule.steps})]
    if world > 1:
        torch.distributed.broadcast_object_list(answer, device=device)
    return answer[0]


def _stream(seed: int, step: int, rank: int) -> int:
    """Seed of one worker's dropout in one step."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def _write_model(job: Job, folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write the model as a plain ``transformers`` folder."""
    whole = _model(job, folder)
    whole.load_state_dict(weights)
    with tempfile.TemporaryDirectory() as scratch:
        whole.save_pretrained(scratch)
        models.tokenizer(folder).save_pretrained(scratch)
        job.target.upload(Path(scratch), "model")


def _summary(
    state: State,
    schedule: Schedule,
    counts: list[int],
    guess: collapse.Guess,
    device: torch.device,
    kept_by: results.Selected | None,
    notes: tuple[str, ...],
) -> results.Training:
    state.point(schedule)
    signs = state.collapse(schedule, guess)
    for sign in signs:
        log.warning("training has collapsed: %s", sign)
    return results.Training(
        examples=sum(counts),
        steps=state.step,
        final_loss=state.history[-1]["loss"],
        history=tuple(results.Point.model_validate(point) for point in state.history),
        label_counts=dict(zip(LABELS, counts, strict=True)),
        loss_of_a_guess=guess.loss,
        majority_rate=collapse.majority_rate(state.latest),
        collapse=tuple(signs),
        ended=state.ended,
        continues=results.Continues.model_validate(state.continues) if state.continues else None,
        selection=kept_by,
        notes=notes,
        precision=state.precision,
        device=models.name_of(device),
    )


def _speed(
    steps: list[dict[str, Any]], flops: float, peak: float, world: int, room: memory.Room
) -> results.Speed:
    """How fast a training was: tokens a second, and what share of the measured peak that is."""
    counted = steps[WARM_STEPS:] or steps
    tokens = sum(one["tokens"] for one in counted)
    per_second = tokens / sum(one["seconds"] for one in counted)
    on_gpu = room.device.type == "cuda"
    return results.Speed(
        workers=world,
        mean_workers=_mean_workers(steps, world),
        tokens=sum(one["tokens"] for one in steps),
        tokens_per_second=per_second,
        padding_share=1 - tokens / sum(one["padded_tokens"] for one in counted),
        flops_per_token=flops,
        matrix_flops_per_second=peak,
        utilisation=per_second * flops / (peak * world),
        tokens_per_micro_batch=room.tokens,
        peak_memory_bytes=torch.cuda.max_memory_allocated(room.device) if on_gpu else None,
    )


def _mean_workers(steps: list[dict[str, Any]], world: int) -> float:
    """Workers over the time of all steps; ``world`` in steps of older versions, which tell none."""
    seconds = sum(one["seconds"] for one in steps)
    return float(sum(one["seconds"] * one.get("workers", world) for one in steps) / seconds)
