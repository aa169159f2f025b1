"""Labels bought from an API: each once by id, never above the budget, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from test_kill import kill_when, start, wait

from api_server import ApiServer, label_of
from conftest import Whole, answered, folder_of, prepared, raythief, run_spec, write_spec
from raythief import status

IN_FLIGHT = {"in_flight": 4, "rows_per_request": 5, "backoff_s": 0.05, "attempts": 3}
AT_STAKE = 3 * 4 * 5
"""Rows of an actor that a kill can cost: those in flight, and those not written yet."""


def spec_for(folder: Path, storage: Path, server: ApiServer, **changes: Any) -> Path:
    api = {"url": server.url, **IN_FLIGHT, **changes.pop("api", {})}
    victim = {"training": None, "model": "none/none", "api": api, "sanity": {"count": 0}}
    return write_spec(
        folder, storage=str(storage), victim={**victim, **changes.pop("victim", {})}, **changes
    )


def labels(storage: Path) -> tuple[Path, dict[str, Any]]:
    """Folder and results of the labels that were finished last."""
    manifests = sorted(storage.glob("labels/*/manifest.json"), key=lambda one: one.stat().st_mtime)
    return manifests[-1].parent, json.loads(manifests[-1].read_text())["results"]


def check_labels(storage: Path) -> dict[str, Any]:
    """Exactly the ids 0 to n-1, each once, each with the server's label; returns the results."""
    folder, results = labels(storage)
    given = pq.read_table([str(file) for file in sorted(folder.glob("rows-*.parquet"))])
    inputs = json.loads((folder / "manifest.json").read_text())["inputs"]
    queries = storage / "queries" / inputs["queries"]["fingerprint"]
    asked = pq.read_table([str(file) for file in sorted(queries.glob("rows-*.parquet"))])
    assert given["id"].to_pylist() == asked["id"].to_pylist() == list(range(600))
    pairs = zip(asked["premise"].to_pylist(), asked["hypothesis"].to_pylist(), strict=True)
    assert given["label"].to_pylist() == [label_of(*pair) for pair in pairs]
    assert results["kept"] == 600
    return results


def parts(storage: Path) -> list[Path]:
    return list(storage.glob("answers/*/*/_work/parts/*/*.parquet"))


def bought(server: ApiServer) -> int:
    """Rows that the server answered."""
    return sum(server.bought.values())


@pytest.fixture
def fresh(whole: Whole, tmp_path: Path) -> Path:
    """Storage that holds the queries, and no labels."""
    return prepared(whole, tmp_path, "labels", "extractor", "finetuned", "evaluation")


def test_the_driver_is_killed(fresh: Path, tmp_path: Path) -> None:
    with ApiServer(tmp_path, latency=0.1) as server:
        spec = str(spec_for(tmp_path, fresh, server))
        process = start("run", spec, "--until", "labels")
        kill_when(process, lambda: len(parts(fresh)) >= 4)
        time.sleep(2)  # its workers go down
        before = bought(server)
        [seen] = [one for one in status.find(str(fresh)) if one.what == "labels"]
        assert seen.state == "stopped"
        assert 0 < seen.account.kept <= before < 600
        done = raythief("run", spec, "--until", "labels")
        assert done.returncode == 0, done.stderr
        results = check_labels(fresh)
        again = bought(server) - 600
    assert 0 <= again <= AT_STAKE
    # What was lost is known only to the server; the account may not count less.
    assert bought(server) <= results["spent"] <= 600 + AT_STAKE
    assert results["lost"] == results["spent"] - 600


def test_the_api_dies_and_comes_back(fresh: Path, tmp_path: Path) -> None:
    server = ApiServer(tmp_path, latency=0.05)
    server.start()
    spec = str(spec_for(tmp_path, fresh, server))
    process = subprocess.Popen(
        _run(spec), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    wait(process, lambda: len(parts(fresh)) >= 3)
    server.stop()
    _, said = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "does not answer" in said
    assert "what is bought is kept" in said
    assert "Traceback" not in said
    with server:
        done = raythief("run", spec, "--until", "labels")
        assert done.returncode == 0, done.stderr
        results = check_labels(fresh)
    assert bought(server) <= 600 + AT_STAKE
    assert results["spent"] >= bought(server)


def test_a_budget_one_row_short_buys_nothing(fresh: Path, tmp_path: Path) -> None:
    with ApiServer(tmp_path) as server:
        spec = str(spec_for(tmp_path, fresh, server))
        refused = raythief("run", spec, "--until", "labels", "--set", "costs.budget=599")
        assert refused.returncode == 2
        assert refused.stderr.startswith("raythief: costs.budget: 600 queries are needed")
        assert not server.requests
        enough = raythief("run", spec, "--until", "labels", "--set", "costs.budget=600")
        assert enough.returncode == 0, enough.stderr
        assert check_labels(fresh)["spent"] == bought(server) == 600


@pytest.mark.slow
@pytest.mark.usefixtures("one_ray")
def test_only_what_is_new_is_bought_whatever_else_the_spec_says(
    fresh: Path, tmp_path: Path
) -> None:
    """Of other queries.count and inference; one lost shard is bought alone, and the budget counts
    all of it.
    """
    with ApiServer(tmp_path) as server:
        spec = spec_for(tmp_path, fresh, server)

        def buy(*changes: str) -> int:
            before = bought(server)
            run_spec(spec, *changes, until="labels")
            return bought(server) - before

        assert buy("queries.count=300") == 300
        assert buy("queries.count=301") == 1
        assert buy("queries.count=299") == 0
        assert buy("queries.count=301", "inference.compile=true") == 0
        assert buy("queries.count=301", "inference.rows_per_shard=64") == 0
        [kept] = answered(fresh, "labels")
        copies = [
            fresh / path for path in fresh.glob("labels/*/rows-0000000100-0000000200.parquet")
        ]
        for lost in (kept / "rows-0000000100-0000000200.parquet", *copies):
            lost.unlink()
        for copy in fresh.glob("labels/*/rows-0000000064-*.parquet"):
            copy.unlink()
        planned = raythief("plan", str(spec), "--set", "until=labels", "--set", "queries.count=301")
        assert "damaged" in planned.stdout
        assert "Queries to buy: 100 " in planned.stdout
        refused = raythief("run", str(spec), "--until", "labels", "--set", "costs.budget=700",
                           "--set", "queries.count=601")  # fmt: skip
        assert "400 queries are needed and 301 are spent already" in refused.stderr
        assert buy("queries.count=301") == 100
        assert buy("queries.count=600") == 299
    check_labels(fresh)


@pytest.mark.slow
def test_all_workers_keep_to_one_limit_one_key_and_one_budget(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts are billed here, and some fail: the budget ends it, and a larger one goes on."""
    monkeypatch.setenv("VICTIM_KEY", key := "sk-never-to-be-seen")
    limits = {"requests_per_second": 40, "key_env": "VICTIM_KEY", "billed": "attempt"}
    with ApiServer(tmp_path, script=[500, 429, 500], key=key) as server:
        spec = spec_for(
            tmp_path, fresh, server, api=limits, resources={"inference": {"workers": 3}}
        )
        stopped = raythief("run", str(spec), "--until", "labels", "--set", "costs.budget=610")
        assert stopped.returncode == 2
        assert "costs.budget: all of it is spent" in stopped.stderr
        sent = sum(len(request["pairs"]) for request in server.requests)
        assert sent <= 610
        done = raythief("run", str(spec), "--until", "labels", "--set", "costs.budget=700")
        assert done.returncode == 0, done.stderr
        check_labels(fresh)
        times = sorted(request["time"] for request in server.requests)
        sent = sum(len(request["pairs"]) for request in server.requests)
        assert labels(fresh)[1]["spent"] >= sent
    first_run = times[: round(600 / 5 * 0.9)]
    assert len(first_run) / 40 - 0.5 <= first_run[-1] - first_run[0]
    everything = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in everything if key.encode() in path.read_bytes()]
    assert key not in stopped.stderr + done.stderr + stopped.stdout + done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("one_ray")
def test_bad_rows_are_set_aside(fresh: Path, tmp_path: Path) -> None:
    [vocabulary] = fresh.glob("vocabulary/*/words.parquet")
    word = pq.read_table(vocabulary)["word"][40].as_py()
    with ApiServer(tmp_path, refuse=f" {word} ") as server:
        spec = spec_for(tmp_path, fresh, server, api={"max_rejected": 0.02})
        stopped = raythief("run", str(spec), "--until", "labels")
        assert stopped.returncode == 2
        assert "victim.api.max_rejected" in stopped.stderr
        assert "422" in stopped.stderr
        record = run_spec(spec, "victim.api.max_rejected=0.9")
        planned = raythief("plan", str(spec))
    assert planned.returncode == 0, planned.stderr
    assert "Missing: 0 stages" in planned.stdout
    page = (folder_of(fresh, "tiny") / "report.md").read_text()
    assert "What the victim says about gibberish" in page
    [row] = record["rows"]
    folder, results = labels(fresh)
    rejected = pq.read_table(folder / "rejected" / "rejected.parquet")
    assert 0 < results["rejected"] == rejected.num_rows < 300
    assert results["kept"] + results["rejected"] == 600
    assert set(server.bought.values()) == {1}  # the first run's labels were not bought again
    given = pq.read_table([str(file) for file in sorted(folder.glob("rows-*.parquet"))])
    missing = [row["id"] for row in given.to_pylist() if row["label"] is None]
    assert sorted(rejected["id"].to_pylist()) == missing
    extractor = json.loads(
        (fresh / row["stages"]["extractor"]["path"] / "manifest.json").read_text()
    )
    assert extractor["results"]["examples"] == results["kept"]


@pytest.mark.slow
@pytest.mark.usefixtures("one_ray")
def test_permuted_labels_are_refused_before_the_purchase(fresh: Path, tmp_path: Path) -> None:
    [examples] = fresh.glob("examples/*/de.parquet")
    table = pq.read_table(examples.with_name("en.parquet")).to_pylist()
    gold = {f"{row['premise']}\t{row['hypothesis']}": row["label"] for row in table}
    (tmp_path / "gold.json").write_text(json.dumps(gold))
    turned = {"entailment": "contradiction", "contradiction": "entailment"}
    with ApiServer(tmp_path, gold=str(tmp_path / "gold.json"), names=turned) as server:
        sane = {"sanity": {"count": 30}}
        spec = spec_for(tmp_path, fresh, server, victim=sane)
        refused = raythief("run", str(spec), "--until", "labels")
        assert refused.returncode == 2
        assert "victim.api.labels: the victim's labels look permuted" in refused.stderr
        assert "`entailment` is `contradiction`" in refused.stderr
        assert bought(server) == 30
        names = {**turned, "neutral": "neutral"}
        spec = spec_for(
            tmp_path, fresh, server, victim=sane, api={"labels": names, "evaluate": "english"}
        )
        record = run_spec(spec, until="victim_evaluation")
        [row] = record["rows"]
        path = fresh / row["stages"]["victim_evaluation"]["path"] / "manifest.json"
        results = json.loads(path.read_text())["results"]
    assert set(results["sets"]["xnli"]) == {"en"}
    assert results["sets"]["xnli"]["en"]["accuracy"] == 1.0
    assert results["spent"] == 60


@pytest.mark.nightly
def test_an_actor_is_killed(fresh: Path, tmp_path: Path) -> None:
    with ApiServer(tmp_path, latency=0.1) as server:
        spec = str(spec_for(tmp_path, fresh, server))
        process = start("run", spec, "--until", "labels")
        wait(process, lambda: len(parts(fresh)) >= 4)
        actors = subprocess.run(
            ["pgrep", "-s", str(process.pid), "-f", "Labeling"], capture_output=True, check=False
        ).stdout.split()
        os.kill(int(actors[0]), signal.SIGKILL)
        assert process.wait(timeout=300) == 0
        results = check_labels(fresh)
    assert bought(server) <= results["spent"] <= 600 + AT_STAKE


@pytest.mark.slow
def test_two_runs_at_once_buy_everything_once(fresh: Path, tmp_path: Path) -> None:
    with ApiServer(tmp_path, latency=0.05) as server:
        spec = str(spec_for(tmp_path, fresh, server))
        one = start("run", spec, "--until", "labels")
        two = start("run", spec, "--until", "labels")
        assert one.wait(timeout=300) == two.wait(timeout=300) == 0
        assert check_labels(fresh)["spent"] == bought(server) == 600


@pytest.mark.nightly
@pytest.mark.usefixtures("one_ray")
def test_the_same_labels_on_any_number_of_actors(fresh: Path, tmp_path: Path) -> None:
    found = []
    with ApiServer(tmp_path) as server:
        for workers in (1, 2, 4):
            for made in ("labels", "answers"):
                shutil.rmtree(fresh / made, ignore_errors=True)
            spec = spec_for(tmp_path, fresh, server)
            run_spec(spec, f"resources.inference.workers={workers}", until="labels")
            check_labels(fresh)
            folder, _ = labels(fresh)
            files = sorted(folder.glob("rows-*.parquet"))
            found.append([pq.read_table(file).to_pydict() for file in files])
    assert found[0] == found[1] == found[2]


def _run(spec: str) -> list[str]:
    from conftest import command

    return command("run", spec, "--until", "labels")
