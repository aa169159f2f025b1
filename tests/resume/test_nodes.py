"""Nodes of the cluster are lost in the middle of a purchase, and of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_buying import AT_STAKE, bought, check_labels, parts, spec_for
from test_kill import start, wait

from api_server import ApiServer
from conftest import Whole, prepared
from ray_nodes import Nodes


@pytest.mark.nightly
def test_a_node_is_killed_that_buys_and_then_one_that_trains(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three nodes that buy, and of two workers that train. One worker goes on alone: as many
    steps, each told once, on the same data.
    """
    storage = prepared(whole, tmp_path, "labels", "extractor", "finetuned", "evaluation")
    alike = {"cpus": 2}  # of a node's three, so that each node holds one
    with ApiServer(tmp_path, latency=0.5) as server, Nodes(3, num_cpus=3) as nodes:
        for name, value in nodes.environment.items():
            monkeypatch.setenv(name, value)
        spec = spec_for(
            tmp_path,
            storage,
            server,
            extractor={"training": {"steps": 200}},
            resources={
                "checkpoint_every": 10,
                "inference": {"workers": 3, **alike},
                "training": {"workers": 2, "min_workers": 1, **alike},
            },
        )
        process = start("run", str(spec), "--until", "extractor", "--address", nodes.address)
        wait(process, lambda: len(parts(storage)) >= 4)
        nodes.kill(0)
        assert bought(server) < 600
        wait(process, lambda: any(storage.glob("extractor/*/_work/*/checkpoint_*")))
        nodes.kill(1)
        assert process.wait(timeout=400) == 0
        results = check_labels(storage)
    assert bought(server) <= results["spent"] <= 600 + AT_STAKE
    [told] = storage.glob("extractor/*/steps.jsonl")
    steps = [json.loads(line)["step"] for line in told.read_text().splitlines()]
    assert steps == list(range(1, 201))
    [speed] = storage.glob("extractor/*/speed.json")
    assert json.loads(speed.read_text())["speed"]["workers"] == 1
