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
import torch._inductor.config
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaForSequenceClassification,
)

import hub_server
import training_jobs
from conftest import SMALL
from raythief import bilstm, models, runs
from raythief.artifacts import Storage
from raythief.config import LABELS, Inference, Spec, merge, nest, validate
from raythief.errors import UserError
from raythief.progress import silent
from raythief.training import data, local, loop, parallel
from raythief.training.state import STATE
from raythief.victims import Classifier

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


# --- attention, and compiling -----------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Whether flash attention's package is."""
    found = object() if request.param else None
    monkeypatch.setattr("importlib.util.find_spec", lambda _: found)


def specified(tmp_path: Path, **changes: Any) -> Spec:
    changes = {f"inference__{name}": value for name, value in changes.items()}
    nested = nest({name.replace("__", "."): value for name, value in changes.items()})
    return validate(merge({**SMALL, "storage": str(tmp_path / "storage")}, nested), "spec")


@pytest.mark.parametrize("installed", [False], indirect=True)
def test_flash_attention_that_is_not_installed_is_refused_before_anything_is_built(
    tmp_path: Path, installed: None
) -> None:
    bare = encoder(tmp_path / "bare", "XLM-RoBERTa")
    storage = Storage.at(str(tmp_path / "storage"))
    spec = specified(tmp_path, attention="flash_attention_2")
    own = merge(spec.model_dump(mode="json"), {"extractor": {"model": str(bare)}})
    rows = runs.rows(validate(own, "spec"))
    with pytest.raises(
        UserError, match=r"inference\.attention: flash_attention_2 needs .* install"
    ):
        runs.check(rows, storage)
    runs.check([runs.cut_off(row, "queries") for row in rows], storage)  # no model attends there
    plain = validate(merge(own, {"inference": {"attention": "auto"}}), "spec")
    runs.check(runs.rows(plain), storage)


@pytest.mark.parametrize("installed", [True], indirect=True)
@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_an_attention_that_a_model_has_not_is_refused(
    tmp_path: Path, installed: None, attention: str
) -> None:
    old = DebertaV2Config(**SIZES, pad_token_id=0)
    folder = saved(tmp_path / "deberta", DebertaV2ForSequenceClassification(old))
    with pytest.raises(
        UserError, match=f"{attention} is not to be had for victim.model, .*deberta"
    ):
        models.check_attention(models.Source(path=str(folder)), attention, "victim.model")
    with pytest.raises(UserError, match=f"attention: {attention} cannot be had for .*deberta"):
        models.classifier(folder, attention)
    for one in ("auto", "eager"):
        models.check_attention(models.Source(path=str(folder)), one, "victim.model")
    able = models.Source(path=str(encoder(tmp_path / "bare", "XLM-RoBERTa")))
    models.check_attention(able, attention, "victim.model")


def test_a_worker_without_the_package_or_the_gpu_says_so(tmp_path: Path) -> None:
    head = hub_server.tiny_victim(tmp_path / "victim")
    with pytest.raises(UserError, match=r"flash_attention_2 cannot be had .* installed"):
        models.classifier(head, "flash_attention_2")
    with pytest.raises(UserError, match="computes in bfloat16 on a GPU, and this worker has"):
        Classifier(models.Source(path=str(head)), Inference(attention="flash_attention_2"), 1)


def test_a_model_that_can_not_be_compiled_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    head = models.Source(path=str(hub_server.tiny_victim(tmp_path / "victim")))
    ask = Classifier(head, Inference(compile=True), 1)
    with pytest.raises(UserError, match=r"inference\.compile: torch.compile fails here \(.*C\+\+"):
        ask(["A dog."], ["A cat."])


def test_what_has_nothing_to_do_with_compiling_is_told_as_it_is() -> None:
    for error in (RuntimeError("other"), torch.OutOfMemoryError("CUDA out of memory")):
        with pytest.raises(type(error)), models.compiled("inference.compile"):
            raise error
