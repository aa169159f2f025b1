"""The same experiment on one machine and on a cluster that loses its machines, both on S3.

The cluster's machines have addresses of their own and nothing in common but the network; the job is
submitted by Ray's own command, as cluster/README.md tells.
"""

from __future__ import annotations

import json
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
from conftest import Whole, files_of, prepared, raythief
from raythief import config, runs, status
from raythief.artifacts import DONE, LEASE
from s3_server import KEYS, S3Server

pytestmark = pytest.mark.timeout(1800)

STEPS = 150
LATENCY = 4.0
"""Seconds of an answer while machines are to be lost during the purchase."""
BUILT = ("labels", "extractor", "finetuned", "evaluation", "runs", "reports")
"""Stages that both runs go through; what comes before lies on the storage."""
CPUS = 3
"""Of a machine: an actor has two of them, so each machine holds one."""
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
def world(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The experiment after its run on one machine, in the bucket `one`; prepared in `many`."""
    folder = tmp_path_factory.mktemp("machines")
    with ExitStack() as stack:
        monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        network = None if netns.missing() else stack.enter_context(netns.Network(KEYS))
        host = network.address if network else "127.0.0.1"
        s3 = stack.enter_context(S3Server(host))
        api = stack.enter_context(ApiServer(folder, host=host))
        found = World(folder, s3, api, network, specification(folder, api), folder / "one")
        copy = prepared(whole, folder / "start", *BUILT)
        for bucket in ("one", "many"):
            s3.bucket(bucket)
            local = pyarrow.fs.LocalFileSystem()
            pyarrow.fs.copy_files(str(copy), f"{bucket}/runs", local, s3.fs())
        here = (f"storage={s3.address('one')}", "resources.inference.cpus=1")
        done = raythief("run", str(found.spec), *(part for one in here for part in ("--set", one)))
        assert done.returncode == 0, done.stderr
        found.said = done.stdout
        found.fetched("one")
        found.bought_by_one = found.bought(found.one)
        yield found


def specification(folder: Path, api: ApiServer) -> Path:
    """The file of the experiment."""
    resources = {"inference": {"workers": 2, "cpus": 2}, "checkpoint_every": 20}
    return spec_for(
        folder, Path("none"), api, api={"identity": "the tests' victim", "evaluate": "nothing"},
        extractor={"training": {"steps": STEPS}},
        resources={**resources, "concurrent_stages": 1},
    )  # fmt: skip


@pytest.mark.nightly
def test_a_whole_run_on_s3_leaves_what_a_run_leaves_and_nothing_else(world: World) -> None:
    assert "report: s3://one/runs/reports/tiny/index.html" in world.said
    everything = world.s3.names("one/runs")
    assert "reports/tiny/index.html" in everything
    assert not [name for name in everything if "_work" in name or LEASE in name or ".tmp" in name]
    extractor = world.names("one", "extractor")
    assert "model/model.safetensors" in extractor
    assert any(name.startswith("tensorboard/events") for name in extractor)
    results = check_labels(world.one)
    assert (results["spent"], results["lost"], world.bought_by_one) == (600, 0, 600)
    assert steps(world.one) == list(range(1, STEPS + 1))
    states = [one.state for one in status.find(world.s3.address("one"))]
    assert states == ["done"] * len(states)


@pytest.mark.nightly
def test_machines_are_lost_and_the_result_is_that_of_one_machine(world: World) -> None:
    """Labels, training and evaluation each lose the machine that works on them; in the midst of
    the purchase the head is lost, too, and the job submitted to a new one.
    """
    network = world.network
    if network is None:
        pytest.skip(netns.missing())
    world.answer_after(LATENCY)
    head = cluster(network, "h", ["a", "b"])
    job = submit(world, head)
    lose(world, job, "labels", "Labeling", lambda names: parts(names) >= 2)
    added = network.machine("c").start(head, cpus=CPUS).up()
    wait(world, job, "labels", lambda _: added.runs("Labeling"))
    for machine in list(network.machines):  # with the head, all is lost
        machine.lose()
    job.kill()

    world.answer_after(0.0)
    head = cluster(network, "i", ["j", "k"])
    job = submit(world, head)
    lose(world, job, "extractor", "TrainWorker", checkpointed)
    network.machine("l").start(head, cpus=CPUS).up()
    lose(world, job, "evaluation", "Evaluation", claimed)
    assert job.wait(timeout=400) == 0, said(world)

    one, many = world.one, world.fetched("many")
    results = check_labels(many)
    assert files_of(many, ["evaluation"]) == files_of(one, ["evaluation"])
    assert labels(many) == labels(one)
    for name in ("model/model.safetensors", "training.json"):
        [here], [there] = (list(place.glob(f"extractor/*/{name}")) for place in (one, many))
        assert here.read_bytes() == there.read_bytes()
    assert steps(many) == list(range(1, STEPS + 1))
    # One worker was lost, and then both.
    bought = world.bought(many) - world.bought_by_one
    assert 600 <= bought <= results["spent"] <= 600 + 3 * AT_STAKE
    assert results["lost"] == results["spent"] - 600


def cluster(network: netns.Network, head: str, workers: list[str]) -> netns.Machine:
    """The head, which does no work, of a cluster of machines that do."""
    first = network.machine(head).start(cpus=0).up()
    for name in workers:  # one after another: Ray gives each half a minute to start
        network.machine(name).start(first, cpus=CPUS).up()
    return first


def submit(world: World, head: netns.Machine) -> subprocess.Popen[bytes]:
    """Submit the run from a checkout, as a user does; ends with the job."""
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
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(world.folder), **netns.SETTINGS}
    with (world.folder / "said.txt").open("ab") as log:
        return subprocess.Popen(
            command, cwd=checkout, stdout=log, stderr=subprocess.STDOUT, env=environment
        )


def said(world: World) -> str:
    return (world.folder / "said.txt").read_text(errors="replace")[-5000:]


def wait(
    world: World, job: subprocess.Popen[bytes], role: str, moment: Callable[[list[str]], Any]
) -> None:
    """Wait for a moment of an unfinished stage, which its files tell."""
    deadline = time.monotonic() + 400
    while True:
        names = world.names("many", role)
        assert DONE not in names, f"{role} ended before the moment came\n{said(world)}"
        if moment(names):
            return
        assert job.poll() is None, f"the job ended before the moment came\n{said(world)}"
        assert time.monotonic() < deadline, f"the moment did not come\n{said(world)}"
        time.sleep(0.2)


def lose(
    world: World,
    job: subprocess.Popen[bytes],
    role: str,
    worker: str,
    ready: Callable[[list[str]], bool],
) -> None:
    """Lose a machine on which a worker of a stage runs, once the stage is so far."""
    assert world.network is not None
    machines = world.network.machines

    def moment(names: list[str]) -> bool:
        found = [one for one in machines if one.runs(worker)]
        if found and ready(names):
            found[0].lose()
            return True
        return False

    wait(world, job, role, moment)


def claimed(names: list[str]) -> bool:
    return any(name.startswith(LEASE) for name in names)


def checkpointed(names: list[str]) -> bool:
    return any("/checkpoint_" in name for name in names)


def parts(names: list[str]) -> int:
    return sum(name.startswith("_work/parts/") for name in names)


def steps(storage: Path) -> list[int]:
    [told] = storage.glob("extractor/*/steps.jsonl")
    return [json.loads(line)["step"] for line in told.read_text().splitlines()]


def labels(storage: Path) -> dict[int, str]:
    [folder] = storage.glob("labels/*")
    files = [str(file) for file in sorted(folder.glob("rows-*.parquet"))]
    table = pq.read_table(files, columns=["id", "label"])
    return dict(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))
