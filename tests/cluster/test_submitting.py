"""A spec goes from a terminal to a cluster that asks for a token, and is run there once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from api_server import free_port
from conftest import SMALL, command, folder_of, heed_ctrl_c, raythief
from ray_nodes import Nodes

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """A head with a dashboard and one node with CPUs; what a terminal needs to reach them."""
    folder = tempfile.mkdtemp(dir="/tmp", prefix="ray-")  # short: it holds sockets
    head = {
        "include_dashboard": True,
        "dashboard_port": free_port(),
        "dashboard_agent_listen_port": free_port(),
        "temp_dir": folder,
    }
    with Nodes(1, head, num_cpus=4) as nodes:
        url = f"http://127.0.0.1:{head['dashboard_port']}"
        yield {**nodes.environment, "RAY_API_SERVER_ADDRESS": url, "COLUMNS": "200"}
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def call(environment: dict[str, str]) -> Call:
    return lambda *arguments, **more: raythief(*arguments, environment=environment | more)


def write(folder: Path, **changes: object) -> Path:
    """A spec outside of the repository whose last stage is soon reached."""
    file = folder / "spec.yaml"
    tree = {**SMALL, "until": "queries", "storage": str(folder / "artifacts"), **changes}
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file


def rows(listing: str) -> list[list[str]]:
    """Id, spec and status of each job that `raythief jobs` lists."""
    return [line.split()[:3] for line in listing.splitlines()[3:] if line.strip()]


def test_a_spec_is_run_to_its_report_and_only_once(call: Call, tmp_path: Path):
    file = write(tmp_path)
    first = call("submit", str(file))
    assert first.returncode == 0, first.stderr
    assert "2 nodes, 4 CPUs, 0 GPUs" in first.stderr
    assert f"{tmp_path}/artifacts, the same from each node" in first.stderr
    assert "python -m raythief.cli run small.yaml" in first.stdout
    report = folder_of(tmp_path / "artifacts", "small") / "index.html"
    assert f"report: {report}" in first.stdout
    assert report.is_file()
    assert list((tmp_path / "artifacts").glob(".preflight*")) == []

    again = call("submit", str(file))
    assert again.returncode == 0
    assert "has run already" in again.stderr
    assert again.stdout == first.stdout
    (job,) = rows(call("jobs").stdout)  # neither a second one nor what looked at the cluster
    assert job[0].startswith("small-")
    assert job[1:] == ["small", "succeeded"]


def test_ctrl_c_leaves_the_job_running_and_stop_ends_it(
    call: Call, environment: dict[str, str], tmp_path: Path
):
    endless = {"source": "miniature", "sentences": 50_000_000}
    file = write(tmp_path, name="long", corpus=endless)
    with subprocess.Popen(
        command("submit", str(file)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=heed_ctrl_c,
    ) as following:
        assert following.stderr is not None
        line = next(line for line in following.stderr if line.startswith("submitted as "))
        job = line.removeprefix("submitted as ").strip()
        following.send_signal(signal.SIGINT)
        assert f"{job} goes on; " in following.stderr.read()
        assert following.wait() == 0

    attached = call("submit", str(file), "--detach")
    assert attached.returncode == 0
    assert f"{job} is running already" in attached.stderr
    assert f"raythief stop {job}" in attached.stderr
    assert call("stop", job).stderr == f"{job} stopped\n"
    assert [job, "long", "stopped"] in rows(call("jobs").stdout)
    assert call("stop", job).stderr == f"{job} had ended before: stopped\n"


REFUSALS = {
    "GPUs": (
        ["--set", "until=null", "--set", "resources.training={workers: 2, gpus: 1}"],
        "on the cluster: resources: a training needs 2 GPUs, and the cluster has 0; ask for fewer",
    ),
    "storage": (
        ["--set", "storage=/proc/raythief"],
        "on the cluster: storage: /proc/raythief cannot be written: ",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_cluster_can_not_do_is_refused_before_the_job_is_sent(
    call: Call, tmp_path: Path, case: str
):
    options, sentence = REFUSALS[case]
    refused = call("submit", str(write(tmp_path, name="refused")), *options)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"raythief: {sentence}")
    assert refused.stderr.count("\n") == 1
    assert not [row for row in rows(call("jobs").stdout) if row[1] == "refused"]


def test_a_missing_and_a_wrong_token_are_told_apart(call: Call):
    missing = call("jobs", RAY_AUTH_MODE="disabled")
    assert missing.returncode == 2
    assert "the cluster asks for a token; export RAY_AUTH_MODE=token and" in missing.stderr
    wrong = call("jobs", RAY_AUTH_TOKEN="not-this-one")
    assert wrong.returncode == 2
    assert "the cluster does not accept this token; take the cluster's own" in wrong.stderr
    assert "not-this-one" not in wrong.stderr
