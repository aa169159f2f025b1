"""Sweeps on a real Ray Tune: shared work, no hanging, early stops, and the same again."""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import yaml
from ray.util import placement_group_table
from rich.console import Console

from conftest import Whole, command, folder_of, raythief, write_spec
from ray_nodes import Nodes
from raythief import config, sweep
from raythief.errors import UserError

pytestmark = pytest.mark.usefixtures("one_ray")

RATE = "extractor.training.learning_rate"
SWEEP: dict[str, Any] = {
    "evaluation__sets__xnli__split": "validation",
    "real__fraction": 0.1,
    "extractor__training__steps": 10,
    "resources__inference": {"workers": 0},
    "resources__training": {"workers": 0},
    "sweep__concurrent": 2,
}
DURING = {"grid": ["during"]}
GRID = {RATE: {"grid": [1e-3, 3e-3]}, "real.placement": {"grid": ["during", "after"]}}


def over(parameters: dict[str, Any]) -> str:
    """The override that says what is searched."""
    return f"sweep.parameters={json.dumps(parameters)}"


def run(file: Path, *overrides: str) -> dict[str, Any]:
    console = Console(file=io.StringIO())
    return sweep.run(config.load(file, overrides), console=console)


@pytest.fixture
def spec(whole: Whole, tmp_path: Path) -> Path:
    """A sweep over a copy of what the session's run has made."""
    _, storage, _ = whole
    copy = tmp_path / "artifacts"
    shutil.copytree(storage, copy)
    return write_spec(tmp_path, storage=str(copy), **SWEEP)


def held() -> list[Any]:
    """What is not given back: groups of workers, and CPUs."""
    groups = placement_group_table().values()
    kept = [group for group in groups if group["state"] != "REMOVED"]
    there, free = (one().get("CPU") for one in (ray.cluster_resources, ray.available_resources))
    return kept + ([f"{free} of {there} CPUs are free"] if free != there else [])


def objectives(record: dict[str, Any]) -> dict[str, float]:
    return {row["variant"]: row["objective"] for row in record["rows"]}


def test_trials_share_their_labels_and_end_in_a_best_spec(spec: Path, tmp_path: Path) -> None:
    storage = tmp_path / "artifacts"
    encoded = set(storage.glob("encoded/*"))
    record = run(spec, over(GRID))
    assert [row["status"] for row in record["rows"]] == ["done"] * 4
    # Bought once, and that was before the sweep began.
    assert len({row["stages"]["labels"]["path"] for row in record["rows"]}) == 1
    assert len(list(storage.glob("labels/*/_SUCCESS"))) == 1
    # So were queries and real data encoded: for the run whose storage this is.
    assert set(storage.glob("encoded/*")) == encoded
    assert len(encoded) == 3  # real data for the victim's encoder too
    # The two `after` trials of a rate have a gibberish stage, the `during` ones their own.
    extractors = {row["stages"]["extractor"]["path"] for row in record["rows"]}
    assert len(extractors) == 4
    best = max(record["rows"], key=lambda row: row["objective"])
    assert record["best"] == best["variant"]
    chosen = config.load(record["best_spec"])
    assert chosen.extractor.training.learning_rate == best["parameters"][RATE]
    assert chosen.real.placement == best["parameters"]["real.placement"]
    assert Path(record["report"]).is_file()
    table = pq.read_table(folder_of(storage, "tiny-sweep") / "trials.parquet").to_pylist()
    assert {row[RATE]: row["trial"] for row in table}.keys() == {1e-3, 3e-3}
    assert [row["objective"] for row in table] == [row["objective"] for row in record["rows"]]

    # As after a crash, and one at a time: what is finished is found, not made, and says the same.
    again = run(spec, over(GRID), "sweep.concurrent=1")
    assert all(stage["reused"] for row in again["rows"] for stage in row["stages"].values())
    assert objectives(again) == objectives(record)


@pytest.mark.nightly
def test_one_trial_at_a_time_finds_the_same_best_as_two(spec: Path, tmp_path: Path) -> None:
    """And their longer trainings go on from the shorter ones."""
    shutil.copytree(tmp_path / "artifacts", tmp_path / "other")
    search = (
        over({**GRID, "extractor.training.steps": {"grid": [30, 10]}, "real.placement": DURING}),
        "extractor.training={schedule: constant, warmup_steps: 3}",
    )
    two = run(spec, *search)
    one = run(spec, *search, "sweep.concurrent=1", f"storage={tmp_path / 'other'}")
    assert objectives(one) == objectives(two)
    assert one["best"] == two["best"]
    assert not any(row["stages"]["evaluation"]["reused"] for row in one["rows"])
    steps = [row["parameters"]["extractor.training.steps"] for row in one["rows"]]
    assert steps == [10, 10, 30, 30]
    for row in one["rows"][2:]:
        file = tmp_path / "other" / row["stages"]["extractor"]["path"] / "manifest.json"
        assert json.loads(file.read_text())["results"]["continues"]["steps"] == 10


@pytest.mark.parametrize(
    "workers",
    [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.nightly)],
)
def test_a_bad_trial_is_stopped_and_gives_its_workers_back(
    spec: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_ray: Callable[[], None],
    workers: int,
) -> None:
    """Of six trials, those with a rate that learns nothing do not come to their end.

    With workers of their own they do so beside another Ray on this machine, which is the one that
    an `auto` address would find.
    """
    storage = tmp_path / "artifacts"
    left: list[Any] = []

    def conclude(*arguments: Any) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while found := held():
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        left.append(found)
        return concluded(*arguments)

    concluded = sweep.outcome.conclude
    monkeypatch.setattr(sweep.outcome, "conclude", conclude)
    search = (
        "sweep.asha={every: 10, grace: 1, reduction: 2}",
        "extractor.training.steps=60",
        "real.fraction=0",
        f"resources.training.workers={workers}",
        over({RATE: {"grid": [3e-3, 1e-9, 1e-10, 1e-11, 1e-12, 2e-3]}}),
    )
    if workers:
        one_ray()
        with Nodes(0):
            record = run(spec, *search)
    else:
        record = run(spec, *search)
    assert left == [[]]
    states = {row["parameters"][RATE]: row["status"] for row in record["rows"]}
    assert len(states) == 6
    assert states[3e-3] == "done"
    stopped = [row for row in record["rows"] if row["status"] == "stopped"]
    assert stopped
    assert all(row["looks"][-1]["step"] < 60 for row in stopped)
    best = config.load(record["best_spec"])
    assert best.extractor.training.learning_rate in (3e-3, 2e-3)
    assert best.extractor.training.selection == config.Selection(on="xnli", every=10)
    # What was stopped has its checkpoint and no model.
    whole = [path.parent for path in storage.glob("extractor/*/_SUCCESS")]
    begun = [path for path in (storage / "extractor").iterdir() if path not in whole]
    assert len(begun) == len(stopped)
    assert not any((path / "model").exists() for path in begun)


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_where_it_was(spec: Path, tmp_path: Path) -> None:
    storage, reference = tmp_path / "artifacts", tmp_path / "reference"
    shutil.copytree(storage, reference)
    steps: list[str] = []
    for change in (over(GRID), "extractor.training.steps=60", "resources.checkpoint_every=10"):
        steps += ["--set", change]
    done = raythief("sweep", str(spec), *steps, "--set", f"storage={reference}")
    assert done.returncode == 0, done.stderr

    before = set(storage.glob("extractor/*/_SUCCESS"))
    process = subprocess.Popen(
        command("sweep", str(spec), *steps),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not set(storage.glob("extractor/*/_SUCCESS")) - before:  # one is done, others under way
        assert process.poll() is None, "it ended before the moment came"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in storage.glob("extractor/*/_SUCCESS")}
    assert 1 <= len(finished.keys() - before) < 4
    done = raythief("sweep", str(spec), *steps)
    assert done.returncode == 0, done.stderr
    for path, written in finished.items():
        assert path.stat().st_mtime_ns == written
    records = [
        json.loads((folder_of(place, "tiny-sweep") / "run.json").read_text())
        for place in (storage, reference)
    ]
    assert shlex.split(records[0]["command"]) == ["raythief", "sweep", str(spec), *steps]
    assert [row["status"] for row in records[0]["rows"]] == ["done"] * 4
    assert objectives(records[0]) == objectives(records[1])
    assert len(list(storage.glob("labels/*/_SUCCESS"))) == 1


@pytest.mark.slow
def test_repetitions_count_by_their_mean_and_a_failed_trial_stops_no_other(
    spec: Path, tmp_path: Path
) -> None:
    """A single real example cannot be held out, which is found only when it is read."""
    record = run(
        spec,
        "sweep.repeats=2",
        over({"real.fraction": {"grid": [0.0034, 0.1]}}),
        "real.training={steps: 5, selection: {every: 5}}",
    )
    failed, *done = record["rows"]
    assert failed["status"] == "failed"
    assert "a single example cannot be held out" in failed["error"]
    assert [(row["status"], row["repeat"], row["seed"]) for row in done] == [
        ("done", 0, 0),
        ("done", 1, 1),
    ]
    folder = folder_of(tmp_path / "artifacts", "tiny-sweep")
    table = pq.read_table(folder / "trials.parquet").to_pylist()
    assert [row["status"] for row in table] == ["failed", "done", "done"]
    assert math.isclose(done[0]["objective"], done[0]["scores"]["xnli"])
    assert done[0]["stages"]["labels"] == done[1]["stages"]["labels"]
    assert done[0]["stages"]["extractor"]["path"] != done[1]["stages"]["extractor"]["path"]


@pytest.mark.nightly
def test_optuna_tries_again_what_it_had_tried(spec: Path, tmp_path: Path) -> None:
    search = (
        "sweep.searcher=optuna",
        "sweep.samples=3",
        "sweep.cost=true",
        "costs.query_usd=0.001",
        over({RATE: {"loguniform": [1e-4, 1e-2]}, "extractor.queries": {"choice": [200, 600]}}),
    )
    record = run(spec, *search)
    assert {row["status"] for row in record["rows"]} == {"done"}
    assert 2 <= len(record["rows"]) <= 3  # what is suggested twice is one configuration
    prices = {row["parameters"]["extractor.queries"]: row["usd"] for row in record["rows"]}
    assert all(price == pytest.approx(0.001 * count) for count, price in prices.items())
    again = run(spec, *search)
    assert objectives(again) == objectives(record)
    assert all(row["stages"]["evaluation"]["reused"] for row in again["rows"])
    best = yaml.safe_load(Path(record["best_spec"]).read_text())
    assert "sweep" not in best


def test_a_sweep_that_could_never_start_is_refused(tmp_path: Path) -> None:
    storage = tmp_path / "artifacts"
    file = write_spec(tmp_path, storage=str(storage), **SWEEP)
    with pytest.raises(UserError, match="a trial needs 65 CPUs, and the cluster has"):
        run(file, over(GRID), "resources.training.workers=64")
    assert not storage.exists()
