"""A node of the cluster is lost in the middle of a purchase."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from test_buying import AT_STAKE, bought, check_labels, parts, spec_for
from test_kill import start

from api_server import ApiServer
from conftest import prepared
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
