"""Models: a head that is asked for is new, and the number format is one throughout."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import ray.train
import torch
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaForSequenceClassification,
)

import training_jobs
from raythief import bilstm, models
from raythief.config import LABELS
from raythief.errors import UserError
from raythief.progress import silent
from raythief.training import data, local, loop, parallel
from raythief.training.state import STATE

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 20,
}
CPU, GPU = torch.device("cpu"), torch.device("cuda")

# --- heads ------------------------------------------------------------------------------------

FAMILIES = {
    "XLM-RoBERTa": (XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaForSequenceClassification),
    "BERT": (BertConfig, BertForPreTraining, BertForSequenceClassification),
}
HEADS = {
    "XLM-RoBERTa": {f"classifier.{part}" for part in ("dense.weight", "out_proj.weight")},
    "BERT": {"classifier.weight"},
}
"""The weights of a head that are drawn; its biases begin at 0."""


def saved(folder: Path, model: PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    return folder


def encoder(folder: Path, family: str) -> Path:
    """A pre-trained encoder, without a classifier's head."""
    config, bare, _ = FAMILIES[family]
    torch.manual_seed(3)
    return saved(folder, bare(config(**SIZES)))


def finished(folder: Path, family: str, start: Path, labels: int) -> Path:
    """A classifier of so many labels that was made from an encoder."""
    config, _, kind = FAMILIES[family]
    model = kind.from_pretrained(start, config=config(**SIZES, num_labels=labels))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name in HEADS[family]:
                weights.fill_(1.0)
    return saved(folder, model)


@pytest.mark.parametrize("labels", [2, 3, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_is_asked_for_is_new_whatever_the_folder_has(
    tmp_path: Path, family: str, labels: int
) -> None:
    """It is the one that the same encoder gets which was no classifier, by the same seed."""
    bare = encoder(tmp_path / "bare", family)
    head = finished(tmp_path / "head", family, bare, labels)
    assert not models.has_head(bare)
    assert models.has_head(head)
    for seed in (0, 1):
        expected = models.fresh_classifier(bare, seed).state_dict()
        model = models.fresh_classifier(head, seed)
        found = model.state_dict()
        assert found.keys() == expected.keys()
        assert all(found[name].equal(expected[name]) for name in expected)
        assert tuple(model.config.id2label.values()) == LABELS
        assert model.training == models.fresh_classifier(bare, seed).training
    one, other = (models.fresh_classifier(head, seed).state_dict() for seed in (0, 1))
    assert {name for name in one if not one[name].equal(other[name])} == HEADS[family]


def test_a_bilstm_that_was_trained_gets_a_new_head_too(tmp_path: Path) -> None:
    """What its encoder has learned stays."""
    words = np.ones((2, 4), np.float32)
    (tmp_path / "words").mkdir()
    bilstm.write(tmp_path / "words", ["a", "b"], words, "en", hidden_size=4, head_size=3)
    assert not models.has_head(tmp_path / "words")
    trained = saved(tmp_path / "trained", models.fresh_classifier(tmp_path / "words", seed=0))
    assert models.has_head(trained)
    before, model = load_file(trained / "model.safetensors"), models.fresh_classifier(trained, 1)
    assert not model.encoder.embeddings.weight.requires_grad
    for name, weights in model.state_dict().items():
        assert weights.equal(before[name]) == name.startswith("encoder."), name


def test_heads_of_encoders_are_those_that_they_always_were(tmp_path: Path) -> None:
    """Golden values: of the weights of every model that was trained so far."""
    found = models.fresh_classifier(encoder(tmp_path, "XLM-RoBERTa"), seed=7).state_dict()
    dense, out = (found[f"classifier.{part}.weight"][0, :3] for part in ("dense", "out_proj"))
    assert dense.tolist() == pytest.approx([-0.016403, 0.007913, 0.017978], abs=1e-6)
    assert out.tolist() == pytest.approx([0.000127, -0.030129, -0.012490], abs=1e-6)


# --- number formats ---------------------------------------------------------------------------


@pytest.fixture
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs have it, or not."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: request.param)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")


@pytest.mark.parametrize(
    ("bfloat16", "where", "precision", "begun", "format_name"),
    [
        (True, GPU, "auto", None, "bfloat16"),
        (True, GPU, "auto", "float32", "float32"),
        (True, GPU, "float32", None, "float32"),
        (False, GPU, "auto", None, "float32"),
        (True, CPU, "auto", None, "float32"),
        (True, CPU, "auto", "bfloat16", "bfloat16"),
        (True, CPU, "bfloat16", None, "bfloat16"),
    ],
    indirect=["bfloat16"],
)
def test_work_goes_on_in_the_format_in_which_it_began(
    bfloat16: None, where: torch.device, precision: Any, begun: str | None, format_name: str
) -> None:
    assert models.format_name(models.dtype(precision, where, begun)) == format_name


@pytest.mark.parametrize("bfloat16", [False], indirect=True)
def test_a_gpu_without_bfloat16_is_told_of(bfloat16: None) -> None:
    with pytest.raises(UserError, match=r"Tesla T4 has no bfloat16, .*; set precision: float32"):
        models.dtype("bfloat16", GPU)
    with pytest.raises(UserError, match="Tesla T4 has no bfloat16, which the work has begun in"):
        models.dtype("auto", GPU, "bfloat16")


class KilledError(Exception):
    """In the midst of a training."""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop in this process, without Ray."""
    context = SimpleNamespace(
        get_world_rank=lambda: 0, get_local_rank=lambda: 0, get_world_size=lambda: 1
    )
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: None)
    monkeypatch.setattr(ray, "get", lambda given: given)


def run(job: Any, *, last: int | None = None) -> dict[str, Any]:
    """Train to the end, or until a step."""
    parts = (job.source, job.examples, job.judges, job.training, job.seed)
    with pytest.MonkeyPatch.context() as patch:
        if last is not None:
            one = loop._Worker.step

            def step(worker: Any, rows: Any, stream: int) -> Any:
                worker.steps = getattr(worker, "steps", 0) + 1
                if worker.steps > last:
                    raise KilledError
                return one(worker, rows, stream)

            patch.setattr(loop._Worker, "step", step)
        loop.worker_loop({"job": job, "data": data.prepare(*parts, silent), "tell": silent})
    content = job.target.storage.read_bytes(f"{job.target.path}/{loop.SUMMARY}")
    assert content is not None
    found: dict[str, Any] = json.loads(content)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_jobs.prepare(tmp_path_factory.mktemp("formats"))


HOW: dict[str, Any] = {"steps": 6, "tokens_per_micro_batch": 200}


@pytest.mark.parametrize(
    ("kept", "ends"), [({"precision": "bfloat16"}, "bfloat16"), ({}, "float32")]
)
def test_a_training_goes_on_in_the_format_of_its_checkpoint(
    folder: Path, alone: None, kept: dict[str, str], ends: str
) -> None:
    """Checkpoints of earlier versions do not tell it."""
    job = training_jobs.job(
        folder, f"went on in {ends}", {"training": {"workers": 0}, "checkpoint_every": 3}, **HOW
    )
    with pytest.raises(KilledError):
        run(job, last=4)
    checkpoint = local.latest(job.target)
    file = Path(checkpoint.path) / STATE
    entries = torch.load(file)
    assert entries.pop("precision") == "float32"
    torch.save(entries | kept, file)
    formats = []
    with pytest.MonkeyPatch.context() as patch:
        once = torch.autocast

        def autocast(device: str, dtype: torch.dtype, enabled: bool) -> Any:
            formats.append(dtype)
            return once(device, dtype, enabled)

        patch.setattr(torch, "autocast", autocast)
        assert run(job)["precision"] == ends
    assert {models.format_name(one) for one in formats} == {ends}


def test_workers_of_different_devices_agree_on_a_format(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = training_jobs.job(folder, "agreed", **HOW)
    for others, agreed in (([], "float32"), ([torch.bfloat16], "float32")):
        monkeypatch.setattr(parallel, "gathered", lambda own, others=others: [own, *others])
        assert models.format_name(loop._precision(job.training, CPU, None)) == agreed
    assert loop._precision(job.training, CPU, {"precision": "bfloat16"}) == torch.bfloat16


def test_a_model_that_was_a_classifier_is_told_of(folder: Path, alone: None) -> None:
    """In the manifest, which terminal and card read."""
    resources = {"training": {"workers": 0}}
    plain = training_jobs.job(folder, "from an encoder", resources, **HOW)
    assert run(plain)["notes"] == []
    model = Path(plain.target.absolute) / "model"
    again = dataclasses.replace(
        training_jobs.job(folder, "from a classifier", resources, **HOW),
        source=models.Source(path=str(model)),
    )
    [note] = run(again)["notes"]
    assert "is a classifier already: its head was replaced" in note
    target = plain.target.storage.artifact("finetuned", "a")
    went_on = dataclasses.replace(again, fresh_head=False, target=target)
    assert run(went_on)["notes"] == []
