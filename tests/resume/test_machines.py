"""The same experiment on one machine and on a cluster that loses its machines, both on S3.

The cluster's machines have addresses of their own and nothing in common but the network; the job is
submitted by Ray's own command, as cluster/README.md tells.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from test_buying import AT_STAKE, check_labels, spec_for

import netns
from api_server import ApiServer
from conftest import raythief
from raythief import config, runs, status
from raythief.artifacts import DONE, LEASE
from s3_server import KEYS, S3Server

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

STEPS = 60
LATENCY = 8.0
"""Seconds of an answer while machines are to be lost during the purchase."""
WORKERS = 3
"""Machines besides the head, and actors of a stage."""
CPUS = 3
"""Of a machine: an actor, or a worker of a training, has two of them, so each machine holds one."""
PATIENCE_S = 400
"""For a moment to come."""
ROOT = Path(__file__).parent.parent.parent


@dataclass
class World:
    """What both runs use."""

    folder: Path
    s3: S3Server
    api: ApiServer
    network: netns.Network | None
    spec: Path
    one: Path
    """A copy of what the run on one machine left."""
    said: str = ""
    """What that run printed."""
    bought_by_one: int = 0
    """Answers that it got to queries."""

    @cached_property
    def places(self) -> dict[str, str]:
        """Path of each stage's artifact, by its role."""
        [row] = runs.rows(config.load(self.spec))
        return {role: f"{one.name}/{one.fingerprint}" for role, one in row.stages.items()}

    def names(self, bucket: str, role: str) -> list[str]:
        """Files of a stage's artifact."""
        return self.s3.names(f"{bucket}/runs/{self.places[role]}")

    def work(self, role: str) -> str:
        """Where a stage's workers write: answers of a model lie apart from what a stage keeps."""
        for file in self.one.glob("answers/*/*/asked.json"):
            if json.loads(file.read_text())["stage"] == role:
                return file.parent.parent.relative_to(self.one).as_posix()
        return self.places[role]

    def fetched(self, bucket: str) -> Path:
        """A copy of all artifacts."""
        folder = self.folder / bucket
        local = pyarrow.fs.LocalFileSystem()
        pyarrow.fs.copy_files(f"{bucket}/runs", str(folder), self.s3.fs(), local)
        return folder

    def answer_after(self, seconds: float) -> None:
        """Have the API take so long from now on."""
        self.api.stop()
        self.api.behaviour["latency"] = seconds
        self.api.start()

    def bought(self, storage: Path) -> int:
        """Answers that the API gave so far to the queries of a storage."""
        [queries] = storage.glob("queries/*")
        table = pq.read_table([str(file) for file in queries.glob("rows-*.parquet")])
        pairs = set(zip(table["premise"].to_pylist(), table["hypothesis"].to_pylist(), strict=True))
        return sum(times for pair, times in self.api.bought.items() if pair in pairs)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The experiment after its run on one machine, in the bucket `one`; `many` is empty."""
    folder = tmp_path_factory.mktemp("machines")
    with ExitStack() as stack:
        monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {**KEYS, "RAY_worker_niceness": "0"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        network = None if netns.missing() else stack.enter_context(netns.Network(KEYS))
        host = network.address if network else "127.0.0.1"
        s3 = stack.enter_context(S3Server(host))
        api = stack.enter_context(ApiServer(folder, host=host))
        found = World(folder, s3, api, network, specification(folder, api), folder / "one")
        for bucket in ("one", "many"):
            s3.bucket(bucket)
        here = ("--set", f"storage={s3.address('one')}", "--set", "resources.inference.workers=1")
        done = raythief("run", str(found.spec), *here)
        assert done.returncode == 0, done.stderr
        found.said = done.stdout
        found.fetched("one")
        found.bought_by_one = found.bought(found.one)
        yield found


def specification(folder: Path, api: ApiServer) -> Path:
    """The file of the experiment."""
    return spec_for(
        folder, Path("none"), api, api={"identity": "the tests' victim", "evaluate": "nothing"},
        extractor={"training": {"steps": STEPS}},
        figure2={"model": "miniature:english", "count": 40, "real": "xnli"},
        resources={
            "inference": {"workers": WORKERS, "cpus": 2},
            "training": {"workers": 2, "cpus": 2},
            "checkpoint_every": 10,
            "concurrent_stages": 1,
        },
    )  # fmt: skip


def test_a_whole_run_on_s3_leaves_what_a_run_leaves_and_nothing_else(world: World) -> None:
    page = re.search(r"report: s3://one/runs/(runs/tiny/[0-9a-f]{16}/index\.html)", world.said)
    everything = world.s3.names("one/runs")
    assert page is not None
    assert {page[1], "runs/tiny/index.html", "runs/tiny/newest.json"} <= {*everything}
    assert not strays(everything)
    extractor = world.names("one", "extractor")
    assert "model/model.safetensors" in extractor
    assert any(name.startswith("tensorboard/events") for name in extractor)
    results = check_labels(world.one)
    assert (results["spent"], results["lost"], world.bought_by_one) == (600, 0, 600)
    assert steps(world.one) == list(range(1, STEPS + 1))
    states = [one.state for one in status.find(world.s3.address("one"))]
    assert states == ["done"] * len(states)


def test_machines_are_lost_and_the_result_is_that_of_one_machine(world: World) -> None:
    """Of four machines, one is lost in the midst of each kind of stage, and another joins; in that
    of the purchase the head is lost, too, and the job submitted to a new one.

    What is not lost, works like what is: corpus and vectors like queries, a BiLSTM's words and
    languages like encoders.
    """
    network = world.network
    if network is None:
        pytest.skip(netns.missing())
    world.answer_after(LATENCY)
    head = cluster(network)
    with submitted(world, head) as job:
        lose(world, job, head, "encoders")
        lose(world, job, head, "queries")
        added = lose(world, job, head, "labels", lambda names: parts(names) >= WORKERS)
        wait(world, job, "labels", "the added machine buys", lambda _: added.runs("Labeling"))
        for machine in list(network.machines):  # with the head, all is lost
            machine.lose()

    world.answer_after(0.0)
    head = cluster(network)
    with submitted(world, head) as job:
        lose(world, job, head, "figure2")
        lose(world, job, head, "extractor", checkpointed)
        lose(world, job, head, "evaluation")
        assert job.wait(timeout=PATIENCE_S) == 0, said(world)

    one, many = world.one, world.fetched("many")
    assert not strays(world.s3.names("many/runs"))
    assert lasting(many) == lasting(one)
    assert labels(many) == labels(one)
    assert steps(many) == list(range(1, STEPS + 1))
    results = check_labels(many)
    # One worker was lost, and then all.
    bought = world.bought(many) - world.bought_by_one
    assert 600 <= bought <= results["spent"] <= 600 + (1 + WORKERS) * AT_STAKE
    assert results["lost"] == results["spent"] - 600


def test_nothing_is_left_of_machines_when_a_test_fails() -> None:
    if reason := netns.missing():
        pytest.skip(reason)
    with pytest.raises(ZeroDivisionError), netns.Network() as network:
        machine = network.machine()
        program = machine.run("sleep", "1000")
        1 / 0  # noqa: B018
    assert program.wait(timeout=30) != 0
    assert not network.folder.exists()
    for what in (("link",), ("netns",)):
        listed = subprocess.run(["ip", *what, "list"], capture_output=True, text=True, check=True)
        assert network.name not in listed.stdout


def cluster(network: netns.Network) -> netns.Machine:
    """The head, which does no work, of a cluster of machines that do."""
    head = network.machine().start(cpus=0).up()
    for _ in range(WORKERS):  # one after another: Ray gives each half a minute to start
        network.machine().start(head, cpus=CPUS).up()
    return head


@contextlib.contextmanager
def submitted(world: World, head: netns.Machine) -> Iterator[subprocess.Popen[bytes]]:
    """Submit the run from a checkout, as a user does; what is yielded ends with the job."""
    checkout = world.folder / "checkout"
    if not checkout.exists():
        for part in ("raythief", "cluster"):
            shutil.copytree(ROOT / part, checkout / part)
        shutil.copy(world.spec, checkout / "spec.yaml")
    ray = Path(sys.executable).parent / "ray"
    command = [
        str(ray), "job", "submit", "--address", f"http://{head.address}:8265",
        "--runtime-env", "cluster/runtime_env.yaml", "--",
        "python", "-m", "raythief.cli", "run", "spec.yaml",
        "--set", f"storage={world.s3.address('many')}",
    ]  # fmt: skip
    path = {"PATH": "/usr/bin:/bin", "HOME": str(world.folder)}
    environment = {**path, **netns.SETTINGS, "PYTHONUNBUFFERED": "1"}  # for its log is read early
    with (world.folder / "said.txt").open("ab") as log:
        job = subprocess.Popen(
            command, cwd=checkout, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            yield job
        finally:
            job.kill()
            job.wait()


def said(world: World) -> str:
    return (world.folder / "said.txt").read_text(errors="replace")[-5000:]


def wait(
    world: World,
    job: subprocess.Popen[bytes],
    role: str,
    what: str,
    moment: Callable[[list[str]], Any],
) -> None:
    """Wait for a moment of an unfinished stage, which its files tell; machines start meanwhile."""
    assert world.network is not None
    deadline = time.monotonic() + PATIENCE_S
    while True:
        names = world.names("many", role)
        assert DONE not in names, f"{role} ended before {what}\n{said(world)}"
        if moment(names + world.s3.names(f"many/runs/{world.work(role)}")):
            return
        assert job.poll() is None, f"the job ended before {what} ({role})\n{said(world)}"
        assert time.monotonic() < deadline, f"{role}: in vain was it waited: {what}\n{said(world)}"
        for machine in world.network.machines:
            machine.is_up()
        time.sleep(0.2)


def lose(
    world: World,
    job: subprocess.Popen[bytes],
    head: netns.Machine,
    role: str,
    ready: Callable[[list[str]], bool] = lambda _: True,
) -> netns.Machine:
    """Lose a machine in the midst of writing what it made of a stage, once the stage is so far.

    Returns:
        Another, which is about to join.
    """
    assert world.network is not None
    workers = {one.address: one for one in world.network.machines if one is not head}
    wait(world, job, role, "it is so far", ready)
    with world.s3.busy(f"many/runs/{world.work(role)}", workers) as writing:
        wait(world, job, role, "a machine writes", lambda _: writing)
        workers[writing[0]].lose()
    return world.network.machine().start(head, cpus=CPUS)


def checkpointed(names: list[str]) -> bool:
    return any("/checkpoint_" in name for name in names)


def parts(names: list[str]) -> int:
    return sum("_work/parts/" in name for name in names)


def strays(names: list[str]) -> list[str]:
    """Of these files those that should be gone once a run has ended."""
    return [name for name in names if "_work" in name or LEASE in name or ".tmp" in name]


def steps(storage: Path) -> list[int]:
    [told] = storage.glob("extractor/*/steps.jsonl")
    return [json.loads(line)["step"] for line in told.read_text().splitlines()]


def labels(storage: Path) -> dict[int, str]:
    [folder] = storage.glob("labels/*")
    files = [str(file) for file in sorted(folder.glob("rows-*.parquet"))]
    table = pq.read_table(files, columns=["id", "label"])
    return dict(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))


def lasting(storage: Path) -> dict[str, str]:
    """SHA-256 of all files of artifacts by path, but for those that hold times or an account."""
    found = {}
    for file in storage.glob("*/*/manifest.json"):
        for entry in json.loads(file.read_text())["files"]:
            path = f"{file.parent.relative_to(storage)}/{entry['path']}"
            found[path] = entry["sha256"]
    own = ("labels/", "tensorboard/", "steps.jsonl", "speed.json")
    return {path: digest for path, digest in found.items() if not any(one in path for one in own)}
