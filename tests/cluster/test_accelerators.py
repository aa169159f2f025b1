"""Where workers come to be, and on what: real Ray nodes with accelerators that are made up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

import training_jobs
from raythief import accelerators, capacity, clusters, progress, sharding
from raythief.artifacts import Artifact, Storage
from raythief.config import Resources, Workers
from raythief.errors import UserError
from raythief.training import runner

NODES: dict[str, dict[str, Any]] = {
    "small": {"num_cpus": 2, "num_gpus": 2, "resources": {"accelerator_type:T4": 1}},
    "large": {"num_cpus": 2, "num_gpus": 2, "resources": {"accelerator_type:L4": 1}},
    "wide": {"num_cpus": 5},
}


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, str]]:
    """A cluster of them; names by the id that Ray gives to each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        names = {cluster.add_node(**options).node_id: name for name, options in NODES.items()}
        with clusters.connect(cluster.address):
            yield names
        cluster.shutdown()


def told(place: Path, **workers: Any) -> list[dict[str, Any]]:
    """What actors tell of themselves, on nodes whose torch would find GPUs."""

    class Where(sharding.ShardWorker):  # here, because workers cannot import this file
        def work(self, shard: sharding.Shard) -> tuple[pa.Table, Mapping[str, Any]]:
            torch.cuda.is_available = lambda: True
            found = {"node": ray.get_runtime_context().get_node_id(), "pid": os.getpid()}
            found["device"] = str(accelerators.device())
            return pa.table({"row": range(shard.start, shard.stop)}), found

    target: Artifact = Storage.at(str(place)).artifact("where", "-".join(workers))
    return sharding.run(Where, {}, target, sharding.cut(8, 1), Workers.model_validate(workers), 0)


@pytest.mark.nightly
def test_actors_are_on_the_accelerator_that_is_asked_for(
    nodes: dict[str, str], tmp_path: Path
) -> None:
    by_memory = told(tmp_path, workers=4, cpus=0.25, gpus=0.25, gpu_memory=20)
    assert {nodes[one["node"]] for one in by_memory} == {"large"}
    assert len({one["pid"] for one in by_memory}) > 1  # of which four share a GPU
    assert {one["device"] for one in by_memory} == {"cuda:0"}
    by_name = told(tmp_path, workers=1, accelerator="T4")
    assert {nodes[one["node"]] for one in by_name} == {"small"}
    # Ray hides no GPU from an actor that has none.
    assert {one["device"] for one in told(tmp_path, workers=1, gpus=0)} == {"cpu"}
    with pytest.raises(UserError, match=r"resources\.inference\.gpu_memory: no accelerator"):
        capacity.check(Resources.model_validate({"inference": {"gpu_memory": 40}}))


@pytest.mark.nightly
def test_a_training_is_on_one_node_where_one_holds_it(
    nodes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though two others would hold a part of it."""

    def loop(config: Mapping[str, Any]) -> None:
        context = ray.get_runtime_context()
        (tmp_path / f"{context.get_worker_id()}").write_text(context.get_node_id())

    monkeypatch.setattr(runner, "worker_loop", loop)
    job = training_jobs.job(tmp_path, "placed", {"training": {"workers": 4, "gpus": 0}})
    capacity.check(job.resources, ("training",))
    runner._trainer(job, {}).fit()
    places = [nodes[file.read_text()] for file in tmp_path.iterdir() if file.is_file()]
    assert places == ["wide"] * 4


@pytest.mark.nightly
def test_what_belongs_to_this_process_is_on_its_node(nodes: dict[str, str]) -> None:
    """Though it needs no resources, and Ray likes to put such actors anywhere."""

    class Where:
        def node(self) -> str:
            return ray.get_runtime_context().get_node_id()

    here = ray.remote(num_cpus=0, scheduling_strategy=progress.here())(Where)
    actors = [here.remote() for _ in range(6)]
    places = ray.get([one.node.remote() for one in actors])
    assert places == [ray.get_runtime_context().get_node_id()] * 6
