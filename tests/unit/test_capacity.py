"""What fits a cluster: told before anything waits for ever. The cluster is made up."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.util.accelerators import accelerators as names

from raythief import accelerators, capacity, clusters, pipeline, runs
from raythief.autoscaling import Growth
from raythief.config import Resources, Workers, validate
from raythief.errors import UserError


def cluster(
    monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float], growth: Growth | None = None
) -> None:
    """A cluster of nodes, each some CPUs and GPUs, that can grow."""
    units = {unit for node in nodes for unit in node}
    total = {unit: sum(node.get(unit, 0) for node in nodes) for unit in units}
    monkeypatch.setattr(capacity.ray, "cluster_resources", lambda: total)
    alive = [{"Alive": True, "Resources": node} for node in nodes]
    monkeypatch.setattr(capacity.ray, "nodes", lambda: alive)
    monkeypatch.setattr(capacity.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(accelerators, "growth", lambda: growth)


def grown(*types: tuple[dict[str, float], int], most: float = math.inf, **of: bool) -> Growth:
    """A head of two CPUs and so many nodes of each type."""
    return Growth((({"CPU": 2.0}, 1), *types), most, **of)


def box(kind: str, gpus: int = 4) -> dict[str, float]:
    """A node with GPUs of a kind."""
    return {"CPU": 32.0, "GPU": float(gpus), f"accelerator_type:{kind}": 1.0}


def resources(**sections: Any) -> Resources:
    return Resources.model_validate(sections)


@pytest.mark.parametrize(
    ("inference", "training", "most", "expected"),
    [
        ({"workers": 1}, {"workers": 1}, None, 3),  # 8 CPUs: two for labelling, and a little
        ({"workers": 0}, {"workers": 0}, None, 8),
        ({"workers": 0}, {"workers": 0}, 2, 2),
        ({"workers": 0}, {"workers": 0, "cpus": 3}, None, 2),
        ({"workers": 0}, {"workers": 3}, None, 2),  # the trial's own, and three workers
        ({"workers": 1}, {"workers": 4, "min_workers": 2}, None, 3),
    ],
)
def test_as_many_trials_as_hold_all_their_workers(
    monkeypatch: pytest.MonkeyPatch, inference: Any, training: Any, most: Any, expected: int
):
    cluster(monkeypatch, {"CPU": 8.0})
    assert capacity.trials(resources(inference=inference, training=training), most) == expected


def test_gpus_bound_trials_too(monkeypatch: pytest.MonkeyPatch):
    cluster(monkeypatch, {"CPU": 64.0, "GPU": 8.0})
    assert capacity.trials(resources(training={"workers": 3}), None) == 2
    half = resources(training={"gpus": 0.5}, inference={"gpus": 0.5})
    assert capacity.trials(half, None) == 16
    alone = resources(training={"workers": 0}, inference={"workers": 0})
    assert capacity.trials(alone, None) == 8
    assert capacity.own(alone) == {"CPU": 1.0, "GPU": 1.0}
    assert capacity.held(resources(training={"workers": 3})) == ("GPU", 3.0)


def test_what_an_autoscaler_may_add_counts(monkeypatch: pytest.MonkeyPatch):
    wanted = resources(training={"workers": 4, "cpus": 8})
    cluster(monkeypatch, {"CPU": 2.0}, growth=grown(({"CPU": 16.0}, 6)))
    assert capacity.trials(wanted, None) == 3  # 98 CPUs, 32 and a little for each
    cluster(monkeypatch, {"CPU": 2.0})
    with pytest.raises(UserError, match="a trial needs 32 CPUs, and the cluster has 2; ask for"):
        capacity.trials(wanted, None)


def test_a_worker_must_fit_on_one_node(monkeypatch: pytest.MonkeyPatch):
    cluster(monkeypatch, {"CPU": 4.0}, {"CPU": 4.0})
    with pytest.raises(UserError) as caught:
        capacity.check(resources(training={"cpus": 6}))
    assert str(caught.value) == (
        "resources.training: a worker needs 6 CPUs and 0 GPUs, and no node of the cluster has "
        "them together; ask for less"
    )
    capacity.check(resources(training={"workers": 2, "cpus": 3}))


def test_what_is_left_over_on_several_nodes_holds_no_worker(monkeypatch: pytest.MonkeyPatch):
    """Nine CPUs are enough for three workers, were they on one node."""
    cluster(monkeypatch, {"CPU": 3.0}, {"CPU": 3.0}, {"CPU": 3.0})
    wanted = resources(training={"workers": 4, "cpus": 2})
    with pytest.raises(UserError) as caught:
        capacity.check(wanted)
    assert str(caught.value) == (
        "resources.training: a training waits for 4 workers, each with 2 CPUs and 0 GPUs, and the "
        "nodes of the cluster hold 3; ask for fewer"
    )
    capacity.check(resources(training={"workers": 4, "min_workers": 3, "cpus": 2}))
    pairs = resources(training={"workers": 2, "cpus": 2}, inference={"workers": 0})
    assert capacity.trials(pairs, None) == 1  # for two there would be CPUs enough


@pytest.mark.parametrize(
    ("share", "gpus", "workers"),
    [(0.25, 1, 4), (0.4, 2, 4), (1.0, 3, 3), (2.0, 5, 2), (0.1, 1, 10)],
)
def test_no_worker_is_given_shares_of_two_gpus(share: float, gpus: int, workers: int):
    assert accelerators.held({"CPU": 0.5, "GPU": share}, {"CPU": 64.0, "GPU": gpus}) == workers


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"gpu_memory": 16}, "T4"),
        ({"gpu_memory": 16.5}, "A10G"),
        ({"gpu_memory": 24}, "A10G"),
        ({"gpu_memory": 41}, "H100"),
        ({"accelerator": "T4"}, "T4"),
        ({}, None),
    ],
)
def test_the_smallest_kind_with_memory_enough_is_taken(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], found: str | None
):
    cluster(monkeypatch, box("H100"), box("T4"), box("A10G"), box("Z9000"))
    workers = Workers.model_validate(asked)
    assert accelerators.kind(workers) == found
    expected = {f"accelerator_type:{found}": 0.001} if found else {}
    assert accelerators.bundle(workers) == {"CPU": 1.0, "GPU": 1.0, **expected}


def test_a_kind_that_an_autoscaler_may_add_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    cluster(monkeypatch, {"CPU": 2.0}, growth=grown((box("H100"), 2), (box("T4"), 9)))
    wanted = resources(training={"workers": 8, "gpu_memory": 80})
    assert accelerators.kind(wanted.training) == "H100"
    capacity.check(wanted)
    with pytest.raises(UserError, match=r"waits for 9 workers, .* the nodes of the cluster hold 8"):
        capacity.check(resources(training={"workers": 9, "gpu_memory": 80}))


def test_gpus_that_an_autoscaler_may_add_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    """A cluster that begins with a head without GPUs, as cluster/aws.yaml does."""
    head = {"CPU": 8.0}
    cluster(monkeypatch, head)
    assert accelerators.bundle(Workers()) == {"CPU": 1.0, "GPU": 0.0}
    cluster(monkeypatch, head, growth=grown((box("L4", 1), 8)))
    assert accelerators.bundle(Workers()) == {"CPU": 1.0, "GPU": 1.0}
    capacity.check(resources(inference={"workers": 8}, training={"workers": 8}))
    assert capacity.trials(resources(training={"workers": 4}), None) == 2
    with pytest.raises(UserError, match="a training needs 9 GPUs, and the cluster has 8"):
        capacity.check(resources(training={"workers": 9}))
    with pytest.raises(UserError, match="no node of the cluster has them together"):
        capacity.check(resources(inference={"cpus": 33}))


def test_no_more_nodes_come_than_the_autoscaler_may_have_in_all(monkeypatch: pytest.MonkeyPatch):
    cluster(monkeypatch, growth=grown((box("L4", 1), 8), (box("L4", 4), 2), most=4))
    capacity.check(resources(training={"workers": 10}))  # 4 + 4 + 1 + 1
    with pytest.raises(UserError, match="a training needs 11 GPUs, and the cluster has 10"):
        capacity.check(resources(training={"workers": 11}))


def test_what_nobody_knows_is_warned_of_and_not_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    wanted = resources(training={"workers": 2, "gpus": 1})
    cluster(monkeypatch, {"CPU": 8.0}, growth=Growth(known=False))
    capacity.check(wanted)
    assert capacity.trials(wanted, None) == 1
    assert "unless the autoscaler adds more: resources: a training needs 2 GPUs" in caplog.text
    assert accelerators.gpus(Workers()) == 0.0


def test_memory_that_no_kind_has_is_refused(monkeypatch: pytest.MonkeyPatch):
    cluster(monkeypatch, box("T4"), box("Z9000"))
    with pytest.raises(UserError) as caught:
        capacity.check(resources(training={"gpu_memory": 80}))
    assert str(caught.value) == (
        "resources.training.gpu_memory: no accelerator of the cluster is known to have 80 GB (it "
        "has T4 with 16 GB, Z9000 of unknown size); ask for less, or for a kind by its name with "
        "accelerator"
    )


def test_a_group_that_the_nodes_of_a_kind_do_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch):
    cluster(monkeypatch, box("H100", 2), box("T4", 8))
    capacity.check(resources(training={"workers": 8}))
    with pytest.raises(UserError, match="8 workers, each with 1 CPUs and 1 GPUs of the kind H100"):
        capacity.check(resources(training={"workers": 8, "accelerator": "H100"}))
    with pytest.raises(UserError, match=r"GPUs of the kind L4, and no node of the cluster has"):
        capacity.check(resources(inference={"accelerator": "L4"}))
    one = resources(training={"accelerator": "H100"}, inference={"gpus": 0.5})
    assert capacity.trials(one, None) == 2


@pytest.mark.parametrize(
    ("worker", "given", "torch_finds", "hip", "environment", "expected"),
    [
        (True, ["3"], True, None, {"CUDA_VISIBLE_DEVICES": "1,3"}, "cuda:1"),
        (True, [0], True, None, {"CUDA_VISIBLE_DEVICES": "0"}, "cuda:0"),
        (True, ["3"], True, "6.4", {"HIP_VISIBLE_DEVICES": "3", "CUDA_VISIBLE_DEVICES": "2,3"},
         "cuda:0"),
        (True, [], True, None, {}, "cpu"),  # Ray hides no GPU from a worker without one
        (True, ["0"], False, None, {"CUDA_VISIBLE_DEVICES": "0"}, "cpu"),
        (False, [], True, None, {}, "cuda:0"),
        (False, [], False, None, {}, "cpu"),
    ],
)  # fmt: skip
def test_a_worker_computes_on_what_ray_gave_it(
    monkeypatch: pytest.MonkeyPatch, worker: bool, given: list[Any], torch_finds: bool,
    hip: str | None, environment: dict[str, str], expected: str,
):  # fmt: skip
    ray, mode = accelerators.ray, SimpleNamespace(mode=1 if worker else 0)
    assert ray.WORKER_MODE == 1
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(worker=mode))
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: given)
    monkeypatch.setattr(accelerators.torch.cuda, "is_available", lambda: torch_finds)
    monkeypatch.setattr(accelerators.torch.version, "hip", hip)
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, environment.get(name, ""))
    assert str(accelerators.device()) == expected


def test_every_kind_is_one_that_ray_knows():
    assert set(accelerators.MEMORY_GB) <= set(map(str, vars(names).values()))


def test_every_stage_that_takes_workers_is_in_the_table() -> None:
    """What a stage's module takes of ``resources`` is what is checked and planned."""
    taken = {name for names in runs.WORKERS.values() for name in names}
    assert {"aligned", "victim_evaluation"} <= taken
    assert "aligned" in runs.WORKERS["training"]
    everything = {
        "name": "x",
        "extractor": {
            "model": "bilstm",
            "bilstm": {"embeddings": {"source": "miniature"}, "parallel": {"source": "miniature"}},
        },
        "figure2": {"model": "miniature:english", "real": "xnli"},
        "victim": {"model": "miniature:english", "training": {"steps": 1}},
        "real": {"train": {"source": "miniature"}, "fraction": 0.5, "placement": "after"},
        "corpus": {"source": "miniature"},
        "evaluation": {"sets": {"xnli": {"source": "miniature", "languages": ["en", "de"]}}},
    }
    made = {stage.name for stage in pipeline.stages(validate(everything, "spec")).values()}
    small = {"encoders", "examples", "vocabulary", "bilstm", "parallel"}
    assert made - taken == small  # of one CPU each


def test_a_stage_is_checked_for_what_it_takes() -> None:
    spec = validate(
        {
            "name": "x",
            "resources": {
                "inference": {"workers": 4, "gpus": 1},
                "training": {"workers": 8, "min_workers": 4, "gpus": 1},
            },
        },
        "spec",
    )
    assert runs.needed(spec, "labels") == runs.needed(spec, "extractor") == spec.resources
    assert runs.needed(spec, "corpus").inference.gpus == 0
    assert runs.needed(spec, "aligned").training.workers == 1
    assert runs.needed(spec, "aligned").training.min_workers is None


def test_a_cluster_that_loses_its_nodes_in_the_midst_is_told_of_once_each_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needed = resources(training={"workers": 2})
    monkeypatch.setattr(capacity, "WATCH_S", 0.01)
    states: Iterator[int] = iter([2, 1, 1, 0, 1, 2, 1, 1])
    looks = []

    def check() -> None:
        cpus = next(states, 2)
        looks.append(cpus)
        if not cpus:
            raise OSError("the storage does not answer")
        cluster(monkeypatch, {"CPU": float(cpus)})
        capacity.check(needed, ("training",))

    with capacity.told_of(check):
        while len(looks) < 10:
            time.sleep(0.01)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0] == said[1]
    assert said[0].startswith("waiting for nodes: resources: a training needs 2 CPUs")


def test_a_run_that_is_terminated_ends_as_by_ctrl_c_and_without_the_errors_that_follow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def init(**_: Any) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(signal.SIGTERM))  # as Ray does

    monkeypatch.setattr("ray.init", init)
    data = logging.getLogger("ray.data._internal.execution")
    monkeypatch.setattr("ray.shutdown", lambda: data.error("Ray has not been started"))
    before, level = signal.getsignal(signal.SIGTERM), logging.getLogger("ray.data").level
    try:
        with clusters.connect("auto"):
            data.error("a real one")
        with pytest.raises(KeyboardInterrupt), clusters.connect("auto"):
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)
        logging.getLogger("ray.data").setLevel(level)
    assert [one.getMessage() for one in caplog.records] == [
        "a real one",
        "Ray has not been started",
    ]


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "127.0.0.1:port", "foo://x", "://"])
def test_an_address_of_no_cluster_is_a_sentence(address: str) -> None:
    with pytest.raises(UserError) as caught, clusters.connect(address):
        pass
    said = f"--address {address}: is no address of a Ray cluster; give `auto`, `HEAD:6379` or "
    assert str(caught.value).startswith(said)
