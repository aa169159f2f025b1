"""A victim in an actor: labels by name, and what happens when the GPU's memory is short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hub_server
from raythief import accelerators, calls, config, models, victims
from raythief.config import Inference, Resources
from raythief.errors import UserError
from raythief.victims import Classifier

BUDGET = 512


class ShortOfMemory:
    """A model on a device that holds so many padded tokens and no more."""

    def __init__(self, model: Any, tokens: int) -> None:
        self.model, self.tokens = model, tokens

    def __call__(self, input_ids: torch.Tensor, **rest: torch.Tensor) -> Any:
        if input_ids.numel() > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(input_ids=input_ids, **rest)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub_server.tiny_victim(tmp_path_factory.mktemp("victim"))


def classifier(folder: Path, memory: int | None = None) -> Classifier:
    made = Classifier(
        models.Source(path=str(folder)), config.Inference(tokens_per_batch=BUDGET), cpus=1
    )
    if memory is not None:
        made.model = ShortOfMemory(made.model, memory)
    return made


def texts(count: int) -> tuple[list[str], list[str]]:
    rows = [hub_server.nli_pair(item, "en") for item in range(count)]
    return [f"{row[0]} " * (1 + i % 5) for i, row in enumerate(rows)], [row[1] for row in rows]


def test_short_memory_halves_the_batches_and_changes_no_label(folder: Path) -> None:
    pairs = texts(60)
    labels, roomy = classifier(folder)(*pairs)
    short = classifier(folder, BUDGET // 4)
    assert (again := short(*pairs))[0] == labels
    assert (roomy["halved"], again[1]["halved"]) == (0, 2)
    assert again[1]["tokens"] == roomy["tokens"]
    assert short(*pairs)[1]["halved"] == 0  # the smaller budget stays
    np.testing.assert_allclose(
        short.answer(*pairs)[1], classifier(folder).answer(*pairs)[1], rtol=0, atol=1e-6
    )


def test_memory_for_less_than_a_pair_is_an_error(folder: Path) -> None:
    with pytest.raises(UserError, match=r"inference\.max_tokens: the GPU's memory does not hold"):
        classifier(folder, 4)(*texts(10))


def test_pairs_are_cut_to_what_the_model_can_hold(folder: Path) -> None:
    """Its table of positions has 130 rows, of which RoBERTa's family leaves two unused."""
    made = Classifier(models.Source(path=str(folder)), config.Inference(max_tokens=500), cpus=1)
    made.tokenizer.model_max_length = 10**9  # some tokenizers on the hub do not know
    assert models.longest(made.model, made.tokenizer) == 128
    premises, hypotheses = texts(3)
    long = [f"{premise} " * 60 for premise in premises]
    labels, statistics = made(long, hypotheses)
    assert len(labels) == 3
    assert statistics["tokens"] == 3 * 128


@pytest.mark.parametrize("there", ["float32", "bfloat16"])
def test_the_number_format_is_what_a_worker_has(
    monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    """`auto` is float32 on GPUs without bfloat16, such as the T4."""
    monkeypatch.setattr(accelerators, "gpus", lambda workers: 1.0)
    monkeypatch.setattr(accelerators, "custom", lambda workers: {})
    monkeypatch.setattr(calls, "each", lambda *_, **__: iter([("", there)]))
    assert victims.number_format(Inference(), Resources()) == there
    assert victims.number_format(Inference(precision="float32"), Resources()) == "float32"
    flash = Inference(attention="flash_attention_2")
    assert victims.number_format(flash, Resources()) == "bfloat16"


def test_the_number_format_of_cpus_needs_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "gpus", lambda workers: 0.0)
    monkeypatch.setattr(calls, "each", None)
    assert victims.number_format(Inference(), Resources()) == "float32"
