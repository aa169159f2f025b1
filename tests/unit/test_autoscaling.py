"""What an autoscaler may add: read from what `ray up` and KubeRay leave on the head."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay import node_provider

from raythief import accelerators, autoscaling
from raythief.autoscaling import Growth

CLUSTER = Path(__file__).parents[2] / "cluster"
GCS = "192.0.2.1:6379"


def test_the_clusters_of_this_repository_can_grow_to_their_gpus() -> None:
    for name in ("aws.yaml", "gcp.yaml"):
        found = autoscaling.of(yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8")))
        assert found.total("GPU") == 16
        assert found.total("CPU") == 8 + 8 * 8 + 2 * 48
        assert found.holds(lambda node: accelerators.held({"CPU": 8, "GPU": 1}, node)) == 16
        assert "accelerator_type:L4" in found.units()


def test_the_head_counts_and_all_nodes_together_are_bounded() -> None:
    types = {
        "head": {"resources": {"CPU": 8}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 4, "GPU": 1}},  # as many as there may be in all
        "none": {"resources": {"GPU": 100}, "max_workers": 0},
        "unknown": {"resources": {}, "max_workers": 3},
    }
    config = {"head_node_type": "head", "max_workers": 3, "available_node_types": types}
    found = autoscaling.of(config)
    assert found == Growth((({"CPU": 8}, 1), ({"CPU": 4, "GPU": 1}, 3)), 4)
    assert (found.total("CPU"), found.total("GPU")) == (20, 3)


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Any]:
    """Something with the command line of Ray's monitor."""
    started = []
    script = tmp_path / "monitor.py"
    script.write_text("print(flush=True); input()")

    def start(*options: str, gcs: str = GCS) -> None:
        command = [sys.executable, str(script), f"--gcs-address={gcs}", *options]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe))
        started[-1].stdout.readline()

    yield start
    for one in started:
        one.communicate(b"\n")


def test_the_file_that_ray_s_monitor_was_started_with_is_read(
    monitor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray up` puts it into the home of the head, as JSON."""
    monkeypatch.setenv("HOME", str(tmp_path))
    tree = yaml.safe_load((CLUSTER / "aws.yaml").read_text(encoding="utf-8"))
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(tree))
    monitor("--autoscaling-config=~/other.yaml", gcs="192.0.2.1:6380")
    assert autoscaling._of_monitor(GCS) is None
    monitor("--logs-dir=/tmp", "--autoscaling-config=~/ray_bootstrap_config.yaml")
    assert autoscaling._of_monitor(GCS) == {"config": tree}


def test_a_monitor_without_a_file_adds_nothing(monitor: Any) -> None:
    monitor()
    assert autoscaling._of_monitor(GCS) == {}


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """KubeRay's head, and the RayCluster that Kubernetes would show to it."""
    namespace = tmp_path / "namespace"
    namespace.write_text("lab")
    monkeypatch.setattr(autoscaling, "NAMESPACE", namespace)
    monkeypatch.setenv("RAY_CLUSTER_NAME", "raythief")
    file = CLUSTER / "kuberay/cluster/raycluster.yaml"
    tree: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    tree["metadata"]["namespace"] = "lab"

    class Api:
        def __init__(self, namespace: str) -> None:
            assert namespace == "lab"

        def get(self, path: str) -> dict[str, Any]:
            assert path == "rayclusters/raythief"
            return tree

    monkeypatch.setattr(node_provider, "KubernetesHttpApiClient", Api)
    return tree


def test_kuberay_s_cluster_is_read(pod: dict[str, Any]) -> None:
    config = autoscaling._of_kuberay()
    assert config is not None
    found = autoscaling.of(config)
    assert (found.total("GPU"), found.total("CPU")) == (16, 4 + 8 * 7 + 2 * 44)
    pod["spec"]["enableInTreeAutoscaling"] = False
    assert autoscaling._of_kuberay() is None


def test_elsewhere_there_is_no_kuberay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_CLUSTER_NAME", raising=False)
    assert autoscaling._of_kuberay() is None


def test_what_can_not_be_read_is_told_and_not_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> str:
        raise PermissionError("403 Client Error: Forbidden\nfor url")

    monkeypatch.setattr(autoscaling, "_on_head", refuse)
    assert autoscaling._growth("a session without rights") == Growth(known=False)
    [line] = caplog.messages
    assert line.startswith("what the autoscaler of this cluster may add is not known (PermissionEr")
    assert "say so with resources.inference.gpus" in line
