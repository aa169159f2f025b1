"""Model cards: true to the manifests, and read by the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raythief.artifacts import Artifact, Storage
from raythief.cards import card
from raythief.config import LABELS
from raythief.results import Labels, Training

HUB = {
    "hub": "FacebookAI/xlm-roberta-large",
    "revision": "c23d21b0620b635a76227c604d44e43a9f0ee389",
}


@pytest.fixture
def labels(tmp_path: Path) -> Artifact:
    bought = Storage.at(str(tmp_path)).artifact("labels", "a" * 16)
    counts = {"entailment": 392_000, "neutral": 600, "contradiction": 100}
    results = Labels(queries=392_702, kept=392_700, rejected=2, label_counts=counts).plain()
    victim = {"api": "https://victim.test/predict", "labels": None}
    bought.write("rows-0000000000-0000000001.parquet", b"")
    bought.finish({"config": {"victim": victim}, "results": results})
    return bought


def made(
    labels: Artifact | None,
    real: float = 0.0,
    collapsed: bool = False,
    selection: Any = None,
    notes: tuple[str, ...] = (),
    **model: Any,
) -> str:
    config = {
        "model": model or HUB,
        "training": {"learning_rate": 5e-6, "seed": 0},
        "fresh_head": True,
        "real_fraction": real,
    }
    results = Training(
        examples=1234,
        steps=77,
        final_loss=0.5,
        label_counts=dict.fromkeys(LABELS, 411),
        collapse=("the gradients are zero",) if collapsed else (),
        selection=selection,
        notes=notes,
    )
    return card(config, results, labels)


def metadata(text: str) -> dict[str, Any]:
    _, front, _ = text.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(front)
    return found


def test_an_extracted_model_says_so_and_from_what(labels: Artifact) -> None:
    text = made(labels)
    assert "# A classifier extracted with gibberish" in text
    assert "the API at https://victim.test/predict" in text
    assert "392,702 pairs of random words: 392,700 were answered, 2 rejected" in text
    assert f"`{HUB['hub']}` at {HUB['revision']}" in text
    assert "| learning_rate | 5e-06 |" in text
    found = metadata(text)
    assert found["base_model"] == HUB["hub"]
    assert "model-extraction" in found["tags"]


def test_a_model_trained_on_gold_labels_is_not_called_extracted() -> None:
    text = made(None, real=1.0, miniature="english")
    assert "extract" not in text
    assert "the real training data, with gold labels" in text
    assert "base_model" not in metadata(text)


@pytest.mark.parametrize("collapsed", [False, True])
def test_a_collapsed_model_says_so(labels: Artifact, collapsed: bool) -> None:
    assert (
        "It collapsed**: the gradients are zero" in made(labels, collapsed=collapsed)
    ) == collapsed


def test_what_a_reader_must_know_is_told(labels: Artifact) -> None:
    assert "**Note**: its head was replaced.\n" in made(labels, notes=("its head was replaced",))


def test_what_weights_were_selected_on_is_told(labels: Artifact) -> None:
    chosen = {"metric": "agreement with the victim on 7,854 held-out queries", "step": 1500,
              "score": 0.912, "looks": [{"step": 1, "score": 0.5}] * 3}  # fmt: skip
    text = made(labels, selection=chosen)
    assert "those of step 1,500, the best of 3 by agreement with the victim on 7,854" in text
    assert "(91.2%)" in text
    assert "Its weights" not in made(labels)
