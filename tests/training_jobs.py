"""Trainings without what comes before them: a tiny encoder, and labels that can be learned."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.train
import torch

import hub_server
from raythief import models, training
from raythief.artifacts import Storage
from raythief.config import LABELS, Resources, Tracking, Training, merge
from raythief.progress import silent
from raythief.training import loop

COUNT = 360
SIGNS = ("one", "two", "three")
"""The word that decides a pair's label."""
HOW: dict[str, Any] = {
    "steps": 60,
    "batch_size": 12,
    "learning_rate": 5e-3,
    "weight_decay": 0.0,
    "max_tokens": 128,
}


def pairs(count: int = COUNT, seed: int = 0) -> pa.Table:
    """Pairs of many lengths; the label is the one that a word of the hypothesis stands for."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, count)
    words = np.array(["river", "house", "green", "walks", "seven"])
    texts = [" ".join(draw.choice(words, draw.integers(2, 12))) for _ in range(count)]
    return pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "premise": texts,
            "hypothesis": [f"{SIGNS[i]} {text}" for i, text in zip(labels, texts, strict=True)],
            "label": [LABELS[i] for i in labels],
        }
    )


def prepare(folder: Path) -> Path:
    """A tiny encoder and examples below a folder."""
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 130,
        "type_vocab_size": 1,
        "hidden_dropout_prob": 0.0,  # its masks depend on the number of workers
        "attention_probs_dropout_prob": 0.0,
    }
    hub_server.tiny_extractor(folder / "encoder", ("en",), sizes=sizes)
    examples = Storage.at(str(folder)).artifact("examples", "a")
    examples.write_table("en.parquet", pairs())
    examples.write_table("validation.parquet", pairs(90, seed=1))
    return folder


def job(folder: Path, name: str, resources: dict[str, Any] | None = None, **how: Any) -> Any:
    """A training of the tiny encoder, kept under a name of its own."""
    storage = Storage.at(str(folder))
    examples = storage.artifact("examples", "a")
    chosen = Training.model_validate(merge(HOW, how))
    judges = ()
    if chosen.selection is not None and chosen.selection.on != "held_out":
        judges = (training.Examples(examples, "validation.parquet"),)
    return training.Job(
        storage.artifact("extractor", name),
        models.Source(path=str(folder / "encoder")),
        True,
        (training.Examples(examples, "en.parquet"),),
        chosen,
        0,
        Resources.model_validate(resources or {}),
        judges,
    )


def trained(
    folder: Path,
    name: str,
    resources: dict[str, Any] | None = None,
    tracking: dict[str, str] | None = None,
    **how: Any,
) -> tuple[Path, dict[str, Any]]:
    """Train; returns the artifact's folder and the results."""
    made = dataclasses.replace(
        job(folder, name, resources, **how), tracking=Tracking.model_validate(tracking or {})
    )
    results = training.train(made, silent).plain()
    return Path(made.target.absolute), results


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """What was told of each step."""
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def holds(loss: Any, tokens: int) -> Any:
    """A worker's ``_loss`` on a device that holds micro-batches of so many padded tokens."""

    def of(worker: Any, rows: Any) -> Any:
        if len(rows) * worker.data.pairs.lengths[rows].max() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(worker, rows)

    return of


def with_a_short_second_worker(config: Any) -> None:
    """The loop of a group whose second worker has less memory than the others."""
    if ray.train.get_context().get_world_rank() == 1:
        loop._Worker._loss = holds(loop._Worker._loss, 130)  # type: ignore[method-assign]
    loop.worker_loop(config)
