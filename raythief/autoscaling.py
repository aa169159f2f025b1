"""What an autoscaler may add to a cluster.

Ray 2.60 tells that nowhere (``get_max_resources_from_cluster_config`` reads what nothing writes).
So it is read where the autoscaler itself reads it, which is on the head:

    `ray up`    the file that Ray's monitor was started with, ``~/ray_bootstrap_config.yaml``
    KubeRay     the RayCluster, which the head's service account may read

Both name the types of nodes and how many of each there may be at most
(https://docs.ray.io/en/latest/cluster/vms/references/ray-cluster-configuration.html).
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.util import client

log = logging.getLogger(__name__)

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
READ_TIMEOUT_S = 60.0
"""Seconds in which the head must tell; it may have to start a process for it."""


@dataclass(frozen=True)
class Growth:
    """What a cluster is and can become: its head, and nodes of some types."""

    nodes: tuple[tuple[Mapping[str, float], int], ...] = ()
    """What a node of each type has, by Ray's names, and how many of them there may be."""
    most: float = math.inf
    """Nodes that there may be, of all types together."""
    known: bool = True
    """False if there is an autoscaler and what it may add cannot be read."""

    def total(self, unit: str) -> float:
        """Most that there can be of a resource."""
        return self._best(lambda node: node.get(unit, 0.0))

    def holds(self, count: Callable[[Mapping[str, float]], int]) -> int:
        """Most workers that there can be, given how many a node holds."""
        return int(self._best(count))

    def units(self) -> set[str]:
        """Names of all resources that nodes may have."""
        return {unit for node, _ in self.nodes for unit in node}

    def _best(self, worth: Callable[[Mapping[str, float]], float]) -> float:
        """Sum over the nodes that are worth the most, as many as there may be."""
        left, found = self.most, 0.0
        for node, count in sorted(self.nodes, key=lambda one: -worth(one[0])):
            taken = min(left, count)
            found, left = found + taken * worth(node), left - taken
        return found


def growth() -> Growth | None:
    """What the connected cluster can become; None if it stays as it is. Read once a cluster."""
    return _growth(ray.get_runtime_context().get_session_name())


@lru_cache(maxsize=1)
def _growth(session: str) -> Growth | None:
    try:
        config = json.loads(_on_head())
        return None if config is None else of(config)
    except Exception as error:  # whatever is wrong with it is said, and is no reason to end
        log.warning(
            "what the autoscaler of this cluster may add is not known (%s: %s); where GPUs are to "
            "come, say so with resources.inference.gpus and resources.training.gpus",
            type(error).__name__,
            str(error).strip().partition("\n")[0],
        )
        return Growth(known=False)


def of(config: Mapping[str, Any]) -> Growth:
    """What a configuration of Ray's autoscaler allows.

    Types whose resources it does not name are left out: what they have is only known once they run.
    """
    most = int(config.get("max_workers", 2))  # as Ray's own default
    types = []
    for name, kind in config["available_node_types"].items():
        head = name == config.get("head_node_type")
        count = int(kind.get("max_workers", most)) + head
        if kind.get("resources") and count:
            types.append((dict(kind["resources"]), count))
    return Growth(tuple(types), most + 1)


def _on_head() -> str:
    """``read`` there, by a task of its own where that is another node."""
    head = next((n for n in ray.nodes() if HEAD_NODE_RESOURCE_NAME in n["Resources"]), None)
    outside = client.ray.is_connected()  # of the cluster, whose node the context then names
    if head and not outside and head["NodeID"] == ray.get_runtime_context().get_node_id():
        return read()
    task = ray.remote(num_cpus=0, resources={HEAD_NODE_RESOURCE_NAME: 0.001})(read)
    told: str = ray.get(task.options(name="autoscaling").remote(), timeout=READ_TIMEOUT_S)
    return told


def read() -> str:
    """The configuration of the autoscaler, on the head; as JSON, ``null`` if there is none."""
    found = _of_monitor(ray.get_runtime_context().gcs_address)
    return json.dumps(_of_kuberay() if found is None else found.get("config"))


def _of_monitor(gcs_address: str) -> dict[str, Any] | None:
    """What Ray's monitor process was started with; None if the head has no such process.

    Without a configuration it only watches.
    """
    import psutil  # type: ignore[import-untyped]  # which Ray brings along

    for process in psutil.process_iter(["cmdline"]):
        given = process.info["cmdline"] or []
        if f"--gcs-address={gcs_address}" not in given or not any("monitor.py" in g for g in given):
            continue
        named = [g.partition("=")[2] for g in given if g.startswith("--autoscaling-config=")]
        if not named:
            return {}
        text = Path(named[0]).expanduser().read_text(encoding="utf-8")
        return {"config": yaml.safe_load(text)}
    return None


def _of_kuberay() -> dict[str, Any] | None:
    """What the RayCluster says, whose autoscaler has a container of its own; None elsewhere."""
    name = os.environ.get("RAY_CLUSTER_NAME")  # KubeRay sets it in all of its pods
    if not name or not NAMESPACE.exists():
        return None
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

    api = node_provider.KubernetesHttpApiClient(namespace=NAMESPACE.read_text().strip())
    cluster = api.get(f"rayclusters/{name}")
    if not cluster["spec"].get("enableInTreeAutoscaling"):
        return None
    found: dict[str, Any] = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    return found
