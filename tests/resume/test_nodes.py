"""A node of the cluster is lost in the middle of a purchase, or of a training."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from test_buying import AT_STAKE, bought, check_labels, parts, spec_for
from test_kill import start

from api_server import ApiServer
from conftest import prepared, write_spec
from ray_nodes import Nodes

WORKERS = 3


@pytest.mark.slow
def test_two_nodes_of_three_are_killed(
    whole: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them may hold the meter, which then goes on from the ledger elsewhere."""
    storage = prepared(whole, tmp_path, "labels", "extractor", "finetuned", "evaluation")
    with ApiServer(tmp_path, latency=0.5) as server, Nodes(3, num_cpus=2) as nodes:
        for name, value in nodes.environment.items():
            monkeypatch.setenv(name, value)
        spec = spec_for(tmp_path, storage, server, resources={"inference": {"workers": WORKERS}})
        process = start("run", str(spec), "--until", "labels", "--address", nodes.address)
        for node in (0, 1):
            enough, deadline = len(parts(storage)) + 4, time.monotonic() + 200
            while len(parts(storage)) < enough:
                assert process.poll() is None, "it ended before the moment came"
                assert time.monotonic() < deadline, "the moment did not come"
                time.sleep(0.01)
            nodes.kill(node)
        assert bought(server) < 600
        assert process.wait(timeout=400) == 0
        results = check_labels(storage)
    assert bought(server) <= results["spent"] <= 600 + 2 * AT_STAKE


@pytest.mark.slow
def test_a_training_goes_on_with_the_worker_that_is_left(
    whole: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers on two nodes, then one: as many steps, each told once, on the same data."""
    storage = prepared(whole, tmp_path, "extractor", "finetuned", "evaluation")
    spec = write_spec(
        tmp_path,
        storage=str(storage),
        extractor__training__steps=200,
        resources__checkpoint_every=10,
        resources__training={"workers": 2, "min_workers": 1, "cpus": 2},
    )
    with Nodes(2, num_cpus=3) as nodes:
        for name, value in nodes.environment.items():
            monkeypatch.setenv(name, value)
        process = start("run", str(spec), "--until", "extractor", "--address", nodes.address)
        deadline = time.monotonic() + 200
        while not list(storage.glob("extractor/*/_work/*/checkpoint_*")):
            assert process.poll() is None, "it ended before the moment came"
            assert time.monotonic() < deadline, "the moment did not come"
            time.sleep(0.1)
        nodes.kill(1)
        assert process.wait(timeout=400) == 0
    [told] = storage.glob("extractor/*/steps.jsonl")
    steps = [json.loads(line) for line in told.read_text().splitlines()]
    assert [one["step"] for one in steps] == list(range(1, 201))
    [speed] = storage.glob("extractor/*/speed.json")
    assert json.loads(speed.read_text())["speed"]["workers"] == 1
