"""The whole path from a hub: a small server stands in for it, with the real ids and layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hub_server
from conftest import raythief
from raythief import hub

VICTIM, EXTRACTOR = "FacebookAI/roberta-large-mnli", "FacebookAI/xlm-roberta-large"
ENCODER = "FacebookAI/roberta-large"
SPEC = {
    "name": "from-hub",
    "queries": {"count": 80},
    "vocabulary": {"max_words": 20},
    "extractor": {"training": {"steps": 4, "batch_size": 8, "max_tokens": 64}},
    "inference": {"max_tokens": 64},
    "figure2": {"count": 20},
    "evaluation": {
        "sets": {
            "mnli": {"source": "hub", "split": "validation_matched"},
            "xnli": {
                "source": "hub",
                "dataset": "facebook/xnli",
                "split": "test",
                "languages": ["en", "sw"],
            },
        }
    },
    "real": {"fraction": 0.5, "placement": "after"},
    # No group of workers is started for four steps. By their ids these models are large, and a run
    # on CPUs needs consent.
    "resources": {"training": {"workers": 0, "gpus": 0}, "inference": {"gpus": 0}},
}


def test_the_paper_s_own_ids_run_from_hub_to_report(tmp_path: Path) -> None:
    victim = hub_server.tiny_victim(tmp_path / "victim")
    extractor = hub_server.tiny_extractor(tmp_path / "extractor")
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump({**SPEC, "storage": str(tmp_path / "artifacts")}))
    with hub_server.HubServer() as server:
        pins = hub.REVISIONS
        server.add_model(VICTIM, pins[VICTIM], victim)
        server.add_model(EXTRACTOR, pins[EXTRACTOR], extractor)
        server.add_model(ENCODER, pins[ENCODER], victim)
        for name, files in {
            "nyu-mll/multi_nli": hub_server.mnli_files(),
            "facebook/xnli": hub_server.xnli_files(("en", "sw")),
            "Salesforce/wikitext": hub_server.wikitext_files(),
        }.items():
            server.add_dataset(name, pins[name], files)
        environment = server.environment(tmp_path / "home")
        done = raythief("run", str(spec), environment=environment)
        assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip().removeprefix("report: ")).is_file()

    [figure] = (tmp_path / "artifacts").glob("figure2/*/manifest.json")
    assert json.loads(figure.read_text())["results"]["train"] == 60

    # The victim's order is contradiction, neutral, entailment: names must come out right.
    tokenizer = AutoTokenizer.from_pretrained(victim)
    model = AutoModelForSequenceClassification.from_pretrained(victim).eval()
    assert model.config.id2label[0] == "CONTRADICTION"
    [queries] = (tmp_path / "artifacts").glob("queries/*/*.parquet")
    [labels] = (tmp_path / "artifacts").glob("labels/*/*.parquet")
    bought = pq.read_table(labels)["label"].to_pylist()
    for query, label in zip(pq.read_table(queries).to_pylist(), bought, strict=True):
        pair = tokenizer(
            query["premise"], query["hypothesis"], truncation=True, max_length=64,
            return_tensors="pt",
        )  # fmt: skip
        with torch.no_grad():
            logits = model(**pair).logits[0]
        if logits.topk(2).values.diff().abs() > 1e-4:
            assert model.config.id2label[int(logits.argmax())].lower() == label


@pytest.mark.parametrize("command", ["run", "plan"])
def test_with_the_hub_away_a_run_says_so_and_a_plan_does_not_mind(
    tmp_path: Path, command: str
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump({**SPEC, "storage": str(tmp_path / "artifacts")}))
    server = hub_server.HubServer()
    environment = server.environment(tmp_path / "home")
    server.close()
    done = raythief(command, str(spec), environment=environment)
    if command == "plan":
        assert done.returncode == 0, done.stderr
        assert "Queries to buy: 140" in done.stdout  # 60 to check the victim
    else:
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert VICTIM in done.stderr
    assert not (tmp_path / "artifacts").exists()
