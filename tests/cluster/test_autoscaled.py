"""A cluster that begins without a GPU and gets one when labels ask for it: Ray's own autoscaler."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._private.services import get_node_ip_address

from api_server import free_port
from conftest import raythief, write_spec
from ray_nodes import TOKEN

pytestmark = pytest.mark.slow

TYPES: dict[str, Any] = {
    "ray.head.default": {"resources": {"CPU": 4}, "max_workers": 0, "node_config": {}},
    "gpu": {
        "resources": {"CPU": 2, "GPU": 1, "accelerator_type:L4": 1},
        "min_workers": 0,
        "max_workers": 2,
        "node_config": {},
    },
}

MAPS = ("auth", "file_mounts")
LISTS = (
    "cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
    "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip
"""What `ray up` would fill in."""


@pytest.fixture
def address() -> Iterator[str]:
    """A head with an autoscaler whose nodes are processes of this machine, with made-up GPUs."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="ray-"))  # short: it holds sockets
    port = free_port()
    place = f"{get_node_ip_address()}:{port}"
    config = {
        "cluster_name": "fake",
        "max_workers": 2,
        "provider": {"type": "fake_multinode", "gcs_address": place},
        "available_node_types": TYPES,
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1,
        "idle_timeout_minutes": 5,
        **{key: {} for key in MAPS},
        **{key: [] for key in LISTS},
        "file_mounts_sync_continuously": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    start = [
        f"{Path(sys.executable).parent}/ray", "start", "--head", "--block", f"--port={port}",
        f"--autoscaling-config={folder}/config.json", "--num-cpus=4", "--num-gpus=0",
        f"--temp-dir={folder}", "--include-dashboard=false", "--object-store-memory=200000000",
        f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    environment = {
        **os.environ,
        **TOKEN,
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    import psutil  # which Ray brings along

    log = folder / "log"
    with log.open("wb") as out:
        head = subprocess.Popen(start, env=environment, stdout=out, stderr=out)
    try:
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            time.sleep(0.1)
        yield place
    finally:
        head.terminate()
        head.wait(timeout=60)
        for process in psutil.process_iter(["cmdline"]):  # nodes outlive the head that added them
            if any(str(folder) in part for part in process.info["cmdline"] or ()):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_labels_ask_for_the_gpu_that_the_autoscaler_may_add(address: str, tmp_path: Path) -> None:
    storage = tmp_path / "artifacts"
    file = write_spec(tmp_path, storage=str(storage), resources__training={"workers": 0})
    run = raythief("run", str(file), "--until", "labels", "--address", address, environment=TOKEN)
    assert run.returncode == 0, run.stderr
    [manifest] = storage.glob("labels/*/manifest.json")
    results = json.loads(manifest.read_text())["results"]
    assert (results["workers"], results["gpus"]) == (1, 1.0)
