"""Sweeps on a real Ray Tune: shared work, no hanging, the same again."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from conftest import Whole, write_spec
from raythief import config, sweep
from raythief.errors import UserError

SWEEP = {
    "evaluation__sets__xnli__split": "validation",
    "sweep": {
        "concurrent": 2,
        "parameters": {
            "extractor.training.learning_rate": {"grid": [1e-3, 3e-3]},
            "real.placement": {"grid": ["during", "after"]},
        },
    },
    "real__fraction": 0.1,
    "extractor__training__steps": 10,
}


def run(file: Path, *overrides: str) -> dict[str, Any]:
    console = Console(file=io.StringIO())
    return sweep.run(config.load(file, overrides), console=console)


@pytest.mark.slow
def test_trials_share_their_labels_and_end_in_a_best_spec(whole: Whole, tmp_path: Path) -> None:
    _, storage, _ = whole
    copy = tmp_path / "artifacts"
    shutil.copytree(storage, copy)
    file = write_spec(tmp_path, storage=str(copy), **SWEEP)
    record = run(file)
    assert [row["status"] for row in record["rows"]] == ["done"] * 4
    # Bought once, and that was before the sweep began.
    assert len({row["stages"]["labels"]["path"] for row in record["rows"]}) == 1
    assert len(list(copy.glob("labels/*/_SUCCESS"))) == 1
    # The two `after` trials of a rate have a gibberish stage, the `during` ones their own.
    extractors = {row["stages"]["extractor"]["path"] for row in record["rows"]}
    assert len(extractors) == 4
    best = max(record["rows"], key=lambda row: row["objective"])
    assert record["best"] == best["variant"]
    chosen = config.load(record["best_spec"])
    rate = best["parameters"]["extractor.training.learning_rate"]
    assert chosen.extractor.training.learning_rate == rate
    assert chosen.real.placement == best["parameters"]["real.placement"]
    assert Path(record["report"]).is_file()

    again = run(file)  # as after a crash: what is finished is found, not made
    assert all(stage["reused"] for row in again["rows"] for stage in row["stages"].values())
    scores = [{row["variant"]: row["objective"] for row in r["rows"]} for r in (record, again)]
    assert scores[0] == scores[1]
    assert json.loads((copy / "runs" / "tiny-sweep" / "run.json").read_text())["rows"]


def test_a_sweep_that_could_never_start_is_refused(tmp_path: Path) -> None:
    storage = tmp_path / "artifacts"
    file = write_spec(tmp_path, storage=str(storage), **SWEEP)
    with pytest.raises(UserError, match="a trial needs 64 CPUs, and the cluster has"):
        run(file, "resources.training.workers=64")
    assert not storage.exists()
