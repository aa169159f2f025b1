"""Fine-tuning: tokens a second, beside the limit and beside the Trainer of Hugging Face.

    python benchmarks/training.py [--text FILE.parquet] [--steps STEPS]
                                  [--size tiny|base|large|xlmr-large] [--record]

One model of random weights (speed does not depend on them), one set of labelled gibberish, as many
examples in each optimiser step, the same number format and the same threads for

  ours     `raythief run` as far as training goes: `training.train`, in a worker of Ray Train,
  trainer  `transformers.Trainer` with `group_by_length`, each batch padded to its longest row; all
           else as it is by default,
  bare     a loop over batches that are packed, padded and in memory before the clock starts, with
           the rows of the whole set sorted by length: the limit. It cuts them into micro-batches as
           ours does, which on a CPU pays.

All three use AdamW (fused), dropout and clipping. A token is one that is not padding.

Ours meets the others one after another, and in each meeting the two take turns: the signals SIGSTOP
and SIGCONT hold all processes but one contender's, for some seconds each, in the midst of a step as
may be. So a machine whose speed changes over the minutes, and Ray's own daemons, disturb both
alike, and the code is the same that runs without a benchmark. PyTorch's own hook tells when an
optimiser step ends, the same in all. A step's seconds are those of its contender's turns between
the end of the step before and its own end. First steps warm up and do not count; nor do the starts
(`seconds_start`, up to the first step), nor ours' end: `seconds_end` is from the last step to the
return of `train`, with a checkpoint and the model's files.

A batch of long rows and one of short rows do not cost the same by the token, and a benchmark sees
few steps of an epoch. So the batches that the others made of the whole set come in an order such
that each is about as long as the one of ours that it meets; and of many seeds one is taken of which
the batches that count are together as long as the mean. The ratio of a round is that of two steps
that met. The median is told, with the lowest and the highest.

Last, two workers on a core each meet the one worker: the efficiency is the tokens a second of two
over twice those of one. What the machine itself allows stands beside it: `efficiency_of_products`
is the share of its speed that a process keeps when two multiply large matrices at once, for cores
share the bandwidth to memory, a clock, or even their arithmetic units. Gradients go from one worker
to the other through main memory, once a step. On a GPU this part is left out.

On a GPU the default is XLM-R-Large in bfloat16, and `memory_gib` the most that PyTorch held. Two
contenders are in its memory side by side, but one computes at a time: kernels that are queued when
a turn ends, less than a step's, run into the next one. This has not been run on a GPU. On a CPU,
RoBERTa-Base takes about 20 GiB of memory: two contenders in the midst of a step.

The last line is one JSON object: `ratio_to_limit`, `ratio_to_trainer`, `efficiency_2_workers`, and
`share_of_peak`, the model's operations (attention's own left out) as a share of the rate that a
large product of matrices reaches on the same device. `--record` keeps it, and lets plans reckon
with it (record.py).
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import record
import torch
from generation import measured, synthetic
from labeling import TOKENS, generated, operations, save_model
from numpy.typing import NDArray
from torch.nn import functional
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments
from transformers import logging as transformers_logging
from turns import Contender, Counts, Rates, Watched, meet, watch

from raythief import accelerators, clusters, config, encoding, models, planning, speed, training
from raythief.artifacts import Artifact, Storage
from raythief.config import LABELS, Resources, TrainingWorkers
from raythief.progress import silent
from raythief.training.loop import TOKENS_PER_MICRO_BATCH
from raythief.training.schedule import Schedule

SIZES = {
    "tiny": ((2, 64), TOKENS),
    "base": (planning.SHAPES["FacebookAI/roberta-base"], TOKENS),
    "large": (planning.SHAPES["FacebookAI/roberta-large"], TOKENS),
    "xlmr-large": (planning.SHAPES["FacebookAI/xlm-roberta-large"], 250_002),
}
"""Layers and hidden size, and rows of the embedding."""
SEEDS = 1000
"""Seeds from which one is taken whose first batches stand for all."""

Batches = list[NDArray[np.int64]]


@dataclass(frozen=True)
class Task:
    """What all contenders do; travels to their processes."""

    folder: str
    """Model and tokenizer."""
    rows: pa.Table
    training: config.Training
    seed: int
    wanted: tuple[int, ...]
    """Tokens of ours' batches, one after another."""
    threads: int

    def encoded(self) -> encoding.Encoded:
        """The examples as tokens."""
        return encoded(self.folder, self.rows, self.training.max_tokens)

    def gold(self) -> NDArray[np.int64]:
        """The examples' labels, as numbers."""
        return np.array([LABELS.index(label) for label in self.rows["label"].to_pylist()])

    def part(self, first: int, steps: int) -> Task:
        """The same for one that meets ours at some of its steps, after a first that warms up."""
        return replace(self, wanted=(self.wanted[0], *self.wanted[first : first + steps]))

    def seeded(self) -> Task:
        """The same for training of our own, with a seed whose batches are as long as wanted."""
        how = self.training.model_copy(update={"steps": len(self.wanted)})
        wanted = np.array(self.wanted[1:])
        seed, found = planned(
            how, self.encoded().lengths, lambda tokens: float(np.abs(tokens - wanted).sum())
        )
        return replace(self, training=how, seed=seed, wanted=found)

    def likest(self, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> Batches:
        """Batches of consecutive rows, of which the i-th is as long as ours' i-th."""
        size = self.training.batch_size
        left = [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
        tokens = [int(lengths[batch].sum()) for batch in left]
        found = []
        for wanted in self.wanted:
            place = min(range(len(left)), key=lambda i: abs(tokens[i] - wanted))
            tokens.pop(place)
            found.append(left.pop(place))
        return found


def encoded(folder: str, rows: pa.Table, max_tokens: int) -> encoding.Encoded:
    """Pairs as tokens, cut as ours cuts them."""
    texts = rows["premise"].to_pylist(), rows["hypothesis"].to_pylist()
    return encoding.encode(models.tokenizer(Path(folder)), *texts, max_tokens)


def planned(
    how: config.Training, lengths: NDArray[np.int64], off: Callable[[NDArray[np.int64]], float]
) -> tuple[int, tuple[int, ...]]:
    """A seed, and the tokens of its steps' batches.

    The batches that count are off by few tokens, and the first, which only warms up, has few.
    """
    plans = {}
    for seed in range(SEEDS):
        schedule = Schedule(how, lengths, seed)
        rows = [schedule.rows(step) for step in range(schedule.steps)]
        plans[seed] = np.array([lengths[batch].sum() for batch in rows])
    best = min(plans, key=lambda seed: off(plans[seed][1:]) + plans[seed][0])
    return best, tuple(plans[best].tolist())


def bare(task: Task, notes: str) -> Counts:
    """Train in the plainest way on the best batches."""
    torch.set_num_threads(task.threads)
    device = accelerators.device()
    how, data, gold = task.training, task.encoded(), task.gold()
    packed, counts = [], []
    for rows in task.likest(np.argsort(-data.lengths, kind="stable"), data.lengths):
        parts = [rows[p] for p in encoding.pack(data.lengths[rows], how.tokens_per_micro_batch)]
        batches = [data.batch(part, device) for part in parts]
        packed.append(
            [
                (batch, torch.from_numpy(gold[part]).to(device))
                for part, batch in zip(parts, batches, strict=True)
            ]
        )
        padded = sum(batch["input_ids"].numel() for batch in batches)
        counts.append((int(data.lengths[rows].sum()), padded))
    precision = models.dtype(how.precision, device)
    model = models.classifier(Path(task.folder)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), how.learning_rate, how.betas, fused=True)
    watch(notes)
    for step in packed:
        for batch, labels in step:
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                logits = model(**batch).logits
            loss = functional.cross_entropy(logits.float(), labels, reduction="sum")
            (loss / how.batch_size).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), how.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return counts


class Reordered(Trainer):
    """The Trainer on the batches of its own sampler, in the order of the others'."""

    task: Task
    lengths: NDArray[np.int64]
    batches: Batches

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = np.array(list(super()._get_train_sampler(train_dataset)))
        self.batches = self.task.likest(rows, self.lengths)
        return np.concatenate(self.batches).tolist()


def trainer(task: Task, notes: str) -> Counts:
    """Train with the Trainer."""
    torch.set_num_threads(task.threads)
    transformers_logging.set_verbosity_error()
    how, data = task.training, task.encoded()
    examples = [
        {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids), "labels": label}
        for ids, label in zip(np.split(data.ids, data.offsets[1:-1]), task.gold(), strict=True)
    ]
    tokenizer = models.tokenizer(Path(task.folder))
    with tempfile.TemporaryDirectory() as place:
        training = Reordered(
            models.classifier(Path(task.folder)),
            TrainingArguments(
                place,
                per_device_train_batch_size=how.batch_size,
                train_sampling_strategy="group_by_length",
                max_steps=len(task.wanted),
                bf16=models.dtype(how.precision, accelerators.device()) == torch.bfloat16,
                dataloader_pin_memory=torch.cuda.is_available(),
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            DataCollatorWithPadding(tokenizer),
            examples,
            processing_class=tokenizer,
        )
        training.remove_callback(PrinterCallback)
        training.task, training.lengths = task, data.lengths
        watch(notes)
        training.train()
    return [
        (int(data.lengths[rows].sum()), len(rows) * int(data.lengths[rows].max()))
        for rows in training.batches
    ]


def ours(task: Task, notes: Path, target: Artifact, examples: Artifact, workers: int) -> Counts:
    """Train as `raythief run` does."""
    group = TrainingWorkers(workers=workers, cpus=task.threads)
    job = training.Job(
        target=target,
        source=Watched(path=task.folder, notes=str(notes)),
        fresh_head=False,
        examples=(training.Examples(examples),),
        training=task.training,
        seed=task.seed,
        resources=Resources(training=group, restarts=0),
    )
    training.train(job, silent)
    noted = target.storage.read_bytes(f"{target.path}/steps.jsonl")
    assert noted is not None, "training ended without a record of its steps"
    steps = [json.loads(line) for line in noted.splitlines()]
    return [(step["tokens"], step["padded_tokens"]) for step in steps]


@dataclass(frozen=True)
class Stand:
    """Where they meet."""

    storage: Storage
    examples: Artifact
    threads: ThreadPoolExecutor
    spawned: ProcessPoolExecutor
    contenders: dict[str, Contender] = field(default_factory=dict)

    def ours(self, name: str, task: Task, workers: int) -> Contender:
        """Ours, begun."""
        target = self.storage.artifact("trained", f"{workers:016x}")
        return self._begun(
            name,
            workers,
            lambda notes: self.threads.submit(ours, task, notes, target, self.examples, workers),
        )

    def other(self, name: str, task: Task, loop: Callable[[Task, str], Counts]) -> Contender:
        """One of the others, begun."""
        return self._begun(name, 1, lambda notes: self.spawned.submit(loop, task, str(notes)))

    def kill(self) -> None:
        """After a fault: leave none stopped or at work."""
        for contender in self.contenders.values():
            if not contender.work.done():
                contender.send(signal.SIGKILL)

    def _begun(
        self, name: str, processes: int, start: Callable[[Path], Future[Counts]]
    ) -> Contender:
        notes = Path(self.storage.root) / "notes" / name
        notes.mkdir(parents=True)
        one = Contender(notes, processes, time.monotonic(), start(notes))
        self.contenders[name] = one
        one.go(one.begun)
        print(f"{name}: its first step begins after {one.start():.1f} s", flush=True)
        return one


def compare(stand: Stand, task: Task, asked: Any) -> dict[str, Any]:
    """Ours with each of the others, and then with several workers of its own."""
    counts = {"bare": asked.steps, "trainer": asked.steps}
    if asked.workers > 1:
        counts["workers"] = asked.steps_workers
    firsts = dict(zip(counts, itertools.accumulate(counts.values(), initial=1), strict=False))
    mine = stand.ours("ours", task, 1)
    for name, steps in counts.items():
        part = task.part(firsts[name], steps)
        if name == "workers":
            other = stand.ours(name, part.seeded(), asked.workers)
        else:
            other = stand.other(name, part, {"bare": bare, "trainer": trainer}[name])
        meet(mine, other, firsts[name], steps, asked.turn)
    mine.finish()

    rates = {name: stand.contenders[name].rates(1, steps) for name, steps in counts.items()}
    same = {name: mine.rates(firsts[name], steps) for name, steps in counts.items()}
    all_rates = {"ours": mine.rates(1, 2 * asked.steps), **rates}
    found: dict[str, Any] = {
        "tokens_per_second": {name: round(one.overall(), 1) for name, one in all_rates.items()},
        "padding_share": {name: one.padding_share() for name, one in all_rates.items()},
        "seconds_start": {name: round(one.start(), 1) for name, one in stand.contenders.items()},
        "seconds_end": round(mine.end(), 1),
        **ratio("ratio_to_limit", same["bare"], rates["bare"]),
        **ratio("ratio_to_trainer", same["trainer"], rates["trainer"]),
    }
    if "workers" in rates:
        name = f"efficiency_{asked.workers}_workers"
        found |= ratio(name, rates["workers"], same["workers"], asked.workers)
    if torch.cuda.is_available():
        found["memory_gib"] = {
            name: round(one.memory() / 2**30, 2) for name, one in stand.contenders.items()
        }
    return found


def product(threads: int) -> float:
    """Operations a second of large products of matrices, for two seconds."""
    torch.set_num_threads(threads)
    found, end = [], time.monotonic() + 2
    while time.monotonic() < end:
        found.append(speed.matrix_flops(torch.device("cpu"), torch.float32))
    return statistics.median(found)


def shared(workers: int, threads: int) -> float:
    """What share of its own speed a process keeps when as many multiply matrices at once."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(product, [threads] * workers))  # imports are done, too
        alone = pool.submit(product, threads).result()
        return statistics.mean(pool.map(product, [threads] * workers)) / alone


def ratio(name: str, ours: Rates, other: Rates, share: int = 1) -> dict[str, Any]:
    """How many times as fast as the other, by the worker: the median; the lowest and highest."""
    ratios = ours.tokens / ours.seconds / (other.tokens / other.seconds) / share
    print(f"{name}: {', '.join(f'{each:.3f}' for each in ratios)}")
    spread = [round(float(each), 3) for each in (ratios.min(), ratios.max())]
    return {name: round(float(np.median(ratios)), 3), f"{name}_spread": spread}


def main() -> None:
    """All meetings, on one Ray."""
    gpu, standard = torch.cuda.is_available(), config.Training()
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=Path, help="parquet file of WikiText, column text")
    parser.add_argument("--size", choices=SIZES, default="xlmr-large" if gpu else "base")
    parser.add_argument("--steps", type=int, default=50 if gpu else 2, help="steps of each meeting")
    parser.add_argument("--steps-workers", type=int, default=1, help="the same with --workers")
    parser.add_argument("--rows", type=int, default=6400, help="examples of the whole set")
    parser.add_argument("--batch-size", type=int, default=standard.batch_size)
    parser.add_argument(
        "--tokens-per-micro-batch",
        type=int,
        default=TOKENS_PER_MICRO_BATCH["cuda" if gpu else "cpu"],
    )
    parser.add_argument("--precision", default=standard.precision)
    parser.add_argument("--turn", type=float, default=3.0, help="seconds of a turn")
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument(
        "--workers", type=int, default=1 if gpu else 2, help="beside one; 1 leaves that part out"
    )
    parser.add_argument("--record", action="store_true", help="keep the figures, for plans too")
    asked = parser.parse_args()
    if asked.record and asked.size == "tiny":
        parser.error("--record: a tiny model says nothing about the paper's")
    if (1 + asked.workers) * asked.threads > max(clusters.LOCAL_CPUS, os.cpu_count() or 1):
        parser.error("--threads times one more than --workers must be no more than the cores")
    os.environ.update(RAY_worker_niceness="0")  # ours is no nicer than the others
    torch.set_num_threads(asked.threads)
    shape, embedding = SIZES[asked.size]
    dtype = models.dtype(asked.precision, accelerators.device())
    top = speed.matrix_flops(accelerators.device(), dtype)
    torch.cuda.empty_cache()
    source = measured(asked.text) if asked.text else synthetic()
    rows = generated(source, asked.rows)
    rows = rows.append_column("label", [[LABELS[i % len(LABELS)] for i in range(asked.rows)]])
    how = config.Training(
        steps=1 + 2 * asked.steps + asked.steps_workers * (asked.workers > 1),
        batch_size=asked.batch_size,
        tokens_per_micro_batch=asked.tokens_per_micro_batch,
        precision=asked.precision,
    )
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage.at(folder)
        examples = storage.artifact("examples", "0" * 16)
        examples.write_table("rows.parquet", rows)
        model = str(Path(folder) / "model")
        save_model(Path(model), source, *shape, embedding)
        lengths = encoded(model, rows, how.max_tokens).lengths
        mean = how.batch_size * lengths.mean()
        seed, wanted = planned(how, lengths, lambda tokens: abs(tokens.sum() - len(tokens) * mean))
        task = Task(model, rows, how, seed, wanted, asked.threads)
        found = {
            "device": models.name_of(accelerators.device()),
            "threads": asked.threads,
            "model": f"{asked.size}, random weights",
            "dtype": str(dtype).removeprefix("torch."),
            "batch_size": asked.batch_size,
            "tokens_per_micro_batch": asked.tokens_per_micro_batch,
            "steps": asked.steps,
            "tokens_per_step": round(mean),
        }
        if asked.workers > 1:
            found["efficiency_of_products"] = round(shared(asked.workers, asked.threads), 3)
        began = time.monotonic()
        with (
            clusters.connect(None),
            ThreadPoolExecutor(2) as threads,
            ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
            ) as spawned,
        ):
            found["seconds_ray"] = round(time.monotonic() - began, 1)
            stand = Stand(storage, examples, threads, spawned)
            try:
                found |= compare(stand, task, asked)
            except BaseException:
                stand.kill()
                raise
        found["peak_tflops"] = round(top / 1e12, 3)
        work = 3 * operations(*shape, found["tokens_per_second"]["ours"])
        found["share_of_peak"] = round(work / top, 3)
    if asked.record:
        print(f"kept: {record.keep('training', found)}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
