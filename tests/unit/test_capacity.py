"""What fits a cluster: told before anything waits for ever. The cluster is made up."""

from __future__ import annotations

from typing import Any

import pytest

from raythief import capacity
from raythief.config import Resources
from raythief.errors import UserError


def cluster(
    monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float], most: dict[str, int] | None = None
) -> None:
    """A cluster of nodes, each some CPUs and GPUs, that can grow to ``most``."""
    total = {unit: sum(node.get(unit, 0) for node in nodes) for unit in ("CPU", "GPU")}
    total = {unit: amount for unit, amount in total.items() if amount}
    monkeypatch.setattr(capacity.ray, "cluster_resources", lambda: total)
    alive = [{"Alive": True, "Resources": node} for node in nodes]
    monkeypatch.setattr(capacity.ray, "nodes", lambda: alive)
    monkeypatch.setattr(capacity._state, "get_max_resources_from_cluster_config", lambda: most)


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
    cluster(monkeypatch, {"CPU": 2.0}, most={"CPU": 100})
    assert capacity.trials(wanted, None) == 3
    cluster(monkeypatch, {"CPU": 2.0})
    with pytest.raises(UserError, match="a trial needs 32 CPUs, and the cluster has 2; ask for"):
        capacity.trials(wanted, None)


def test_a_worker_must_fit_on_one_node(monkeypatch: pytest.MonkeyPatch):
    cluster(monkeypatch, {"CPU": 4.0}, {"CPU": 4.0})
    with pytest.raises(UserError) as caught:
        capacity.check(resources(training={"cpus": 6}))
    assert str(caught.value) == (
        "resources.training: a worker needs 6 CPUs and 0 GPUs, and no node of the cluster has "
        "both; ask for less"
    )
    capacity.check(resources(training={"workers": 2, "cpus": 3}))
