"""Figure 2 on a real Ray: from a spec to distances that are those of a brute-force search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from conftest import Whole, artifact, files_of, prepared, run_spec, write_spec
from raythief import analysis

COUNT = 50

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One run: spec file, storage folder, run record."""
    folder = tmp_path_factory.mktemp("figure2")
    storage = folder / "artifacts"
    file = write_spec(
        folder,
        name="figure",
        storage=str(storage),
        until="figure2",
        figure2={"model": "miniature:english", "count": COUNT, "real": "xnli"},
        inference__rows_per_shard=64,
        inference__attention="eager",
    )
    return file, storage, run_in_pieces(file)


def run_in_pieces(file: Path, *overrides: str) -> dict[str, Any]:
    """Run a spec with a search of several pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "ROWS_PER_SHARD", 90)
        return run_spec(file, *overrides)


def test_nothing_is_bought_or_trained_and_the_report_shows_the_figure(finished: Whole) -> None:
    _, storage, record = finished
    [row] = record["rows"]
    assert row["status"] == "done"
    assert not {"labels", "victim", "extractor", "evaluation"} & row["stages"].keys()
    assert not (storage / "labels").exists()
    page = Path(record["report"])
    assert "How far gibberish is from real data" in page.read_text(encoding="utf-8")
    assert (page.parent / "distances.svg").is_file()


def test_distances_are_those_of_a_search_by_brute_force_over_plain_transformers(
    finished: Whole,
) -> None:
    """The reference: one pair at a time, no padding; then every product, in 64 bits."""
    folder = artifact(finished, "encoders").local("english")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    model.eval()

    def vectors(rows: list[dict[str, Any]]) -> np.ndarray:
        found = []
        for row in rows:
            pair = tokenizer(row["premise"], row["hypothesis"], return_tensors="pt")
            with torch.no_grad():
                found.append(model(**pair).last_hidden_state[0].max(0).values.numpy())
        return np.stack(found).astype(np.float64)

    train = vectors(artifact(finished, "real").read_table("en.parquet").to_pylist())
    assert len(train) == 300
    told = artifact(finished, "figure2").verify()["results"]
    sources = {
        "real": artifact(finished, "examples:xnli").read_table("en.parquet"),
        "gibberish": artifact(finished, "queries").read_table(),
    }
    for name, pairs in sources.items():
        kept = artifact(finished, "figure2").read_table(f"{name}.parquet")
        assert kept.num_rows == COUNT
        rows = pairs.take(kept["id"]).to_pylist()
        assert [row["id"] for row in rows] == kept["id"].to_pylist()
        products = vectors(rows) @ train.T
        np.testing.assert_allclose(-np.array(kept["distance"]), products.max(1), rtol=1e-5)
        own = products[np.arange(COUNT), kept["nearest"].to_numpy()]
        np.testing.assert_allclose(own, products.max(1), rtol=1e-5)
        assert told[name]["mean"] == pytest.approx(-products.max(1).mean(), rel=1e-5)


def test_distances_do_not_depend_on_the_number_of_actors(finished: Whole, tmp_path: Path) -> None:
    """Byte for byte: one actor's files, two actors' files, and those after some were lost."""
    file, storage, _ = finished
    copy = prepared(finished, tmp_path, "vectors", "figure2")
    run_in_pieces(file, f"storage={copy}", "resources.inference.workers=2")
    stages = ["vectors", "figure2"]
    assert len(files_of(storage, stages)) == 5 + 1 + 1 + 2
    assert files_of(copy, stages) == files_of(storage, stages)
