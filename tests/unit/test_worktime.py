"""What an artifact took: seconds of all attempts, and hours of workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import Told
from raythief import accelerators, alignment, sharding, worktime
from raythief.artifacts import Artifact, Storage
from raythief.config import Resources, Workers, validate
from raythief.results import Alignment, Found, usage
from raythief.stages import Stage
from raythief.sweep import trial
from raythief.training import loop

KILLED = """
import os, sys, time
from raythief import worktime
from raythief.artifacts import Storage

worktime.BEAT_S = 0.01
artifact = Storage.at(sys.argv[1]).artifact("stage", sys.argv[2])
with worktime.counted(artifact) as seconds:
    while not any(worktime._kept(artifact)):
        time.sleep(0.01)
    os._exit(9)
"""


def built(storage: Storage, stage: Stage) -> dict[str, Any]:
    return stage.ensure(storage)[0].verify()


def writes(target: Artifact, *_: Any) -> Told:
    target.write("data.txt", b"data")
    return Told()


def test_what_a_killed_attempt_took_is_counted(tmp_path: Path) -> None:
    storage, stage = Storage.at(str(tmp_path)), Stage("stage", {}, writes)
    program = [sys.executable, "-c", KILLED, str(tmp_path), stage.fingerprint]
    assert subprocess.run(program, check=False).returncode == 9
    [kept] = (tmp_path / stage.name / stage.fingerprint / worktime.FOLDER).iterdir()
    kept.write_text("3600.0")  # as it might have been
    (kept.parent / "cut.json.0.tmp").write_text("36")  # a draft that was cut off
    manifest = built(storage, stage)
    assert 3600 <= manifest["seconds"] < 7200
    assert [entry["path"] for entry in manifest["files"]] == ["data.txt"]


def test_what_a_failed_attempt_took_is_counted(tmp_path: Path) -> None:
    artifact = Storage.at(str(tmp_path)).artifact("stage", "f")
    with pytest.raises(RuntimeError), worktime.counted(artifact) as seconds:
        raise RuntimeError
    [kept] = worktime._kept(artifact)
    with worktime.counted(artifact) as seconds:
        pass
    assert seconds() >= kept > 0
    assert seconds() == seconds()  # the clock stands after the block


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({}, (1.0, 0.0)),
        ({"device": "cpu", "workers": 4, "gpus": 1.0}, (4.0, 0.0)),
        ({"device": "API", "workers": 4}, (4.0, 0.0)),
        ({"device": "H", "workers": 4}, (0.0, 4.0)),
        ({"device": "H", "workers": 4, "gpus": 0.25}, (0.0, 1.0)),
        ({"device": "H", "speed": {"workers": 8}, "gpus": 2.0}, (0.0, 16.0)),
        ({"device": "H", "speed": {"workers": 2, "mean_workers": 5.5}}, (0.0, 5.5)),
        ({"device": "H", "worker_seconds": 1800.0, "gpus": 1.0}, (0.0, 0.5)),
    ],
)
def test_hours_are_those_of_the_workers_that_there_were(
    results: dict[str, Any], expected: tuple[float, float]
) -> None:
    found = worktime.hours(3600.0, usage(results))
    assert (found.cpu, found.gpu) == expected


def test_a_pool_has_no_more_workers_than_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "any_there", lambda: True)
    assert sharding.used(Workers(workers=8), 3) == {"workers": 3, "gpus": 1.0}
    assert sharding.used(Workers(workers=8, gpus=0.5), 99) == {"workers": 8, "gpus": 0.5}
    assert sharding.used(Workers(workers=0), 5) == {"workers": 1, "gpus": 1.0}


def test_who_asks_an_api_holds_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "any_there", lambda: True)
    assert sharding.used(Workers(workers=8), 8, remote=True) == {"workers": 8, "gpus": 0.0}
    assert sharding.used(Workers(gpus=1), 8, remote=True)["gpus"] == 1.0


def test_an_elastic_training_counts_the_workers_that_it_had() -> None:
    steps = [{"seconds": 3.0, "workers": 8}, {"seconds": 1.0, "workers": 4}]
    assert loop._mean_workers(steps, 4) == 7.0


# --- a trial's price --------------------------------------------------------------------------


def test_gpu_hours_of_a_trial_have_a_price_where_the_spec_leaves_gpus_open() -> None:
    costs = {"query_usd": 0.001, "gpu_hour_usd": 3.0}
    spec = validate({"name": "x", "costs": costs, "queries": {"count": 1000}}, "spec")
    results = {"device": "NVIDIA L4", "gpus": 1.0, "speed": {"workers": 4}}
    shorter = {"path": "extractor/f", "seconds": 900.0}
    manifest = {"seconds": 2700.0, "results": {**results, "continues": shorter}}
    hours = trial._gpu_hours("extractor", manifest)
    assert hours == 4.0
    assert trial._price(spec, hours) == pytest.approx(1.0 + 12.0)
    assert trial._gpu_hours("extractor", {"seconds": 2700.0, "results": results}) == 3.0


def test_an_alignment_is_booked_as_what_its_processes_took(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = Storage.at(str(tmp_path)).artifact("aligned", "f")
    (tmp_path / "english").mkdir()

    def align_one(target: Artifact, *given: Any) -> None:
        same = Found(found=1.0)
        told = Alignment(
            sentences=9, steps=1, loss=0.1, before=same, after=same, device="NVIDIA L4", seconds=100
        )
        target.write(f"{given[3]}.json", told.model_dump_json().encode())

    monkeypatch.setattr(alignment, "_align_one", align_one)
    english: Any = SimpleNamespace(local=lambda _: tmp_path / "english")
    resources = Resources.model_validate({"training": {"workers": 0, "gpus": 0.5}})
    given: Any = (english, None, None, ("de", "hi"), None, 0, resources, lambda *_: None)
    results = alignment.build(target, *given)
    assert worktime.hours(1e9, usage(results.plain())).gpu == 200 * 0.5 / 3600
