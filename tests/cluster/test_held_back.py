"""Agreement on queries that were bought and not learned from, beside plain transformers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import artifact, run_spec, write_spec

HELD_BACK, COUNT = 100, 600


@pytest.mark.slow
def test_accuracy_on_held_back_queries_is_agreement_with_the_victim(tmp_path: Path) -> None:
    """No set of real data at all: the victim is not evaluated, and the report says what it can."""
    storage = tmp_path / "artifacts"
    file = write_spec(
        tmp_path,
        storage=str(storage),
        resources__training={"workers": 0},
        extractor__training__selection={"on": "bought", "every": 20},
    )
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    tree["evaluation"]["sets"] = {"bought": {"source": "queries", "count": HELD_BACK}}
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    whole = file, storage, run_spec(file)

    queries = artifact(whole, "queries").read_table().to_pylist()
    labels = artifact(whole, "labels").read_table()["label"].to_pylist()
    kept = artifact(whole, "examples:bought").read_table("en.parquet").to_pylist()
    assert [row["id"] for row in kept] == list(range(COUNT - HELD_BACK, COUNT))
    for row in kept:
        query = queries[row["id"]]
        assert (row["premise"], row["hypothesis"]) == (query["premise"], query["hypothesis"])
        assert row["label"] == labels[row["id"]]

    extractor = artifact(whole, "extractor")
    learned = extractor.verify()["results"]
    assert learned["examples"] == COUNT - HELD_BACK
    assert Counter(learned["label_counts"]) == Counter(labels[: COUNT - HELD_BACK])
    assert learned["selection"]["metric"] == "accuracy on bought"

    folder = extractor.local("model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    same = ties = 0
    for row in kept:
        pair = tokenizer(row["premise"], row["hypothesis"], return_tensors="pt")
        with torch.no_grad():
            logits = model(**pair).logits[0]
        ties += bool(logits.topk(2).values.diff().abs() < 1e-4)  # may fall either way
        same += model.config.id2label[int(logits.argmax())] == row["label"]
    results = artifact(whole, "evaluation").verify()["results"]["sets"]["bought"]["en"]
    assert results["count"] == HELD_BACK
    assert abs(results["accuracy"] * HELD_BACK - same) <= ties
    assert results["agreement"] is None
    assert abs(learned["selection"]["score"] * HELD_BACK - same) <= ties

    page = Path(whole[2]["report"]).read_text(encoding="utf-8")
    assert "On held-out gibberish (bought)" in page
