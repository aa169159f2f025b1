"""A Ray cluster of several nodes on this machine, in a process of its own.

    with Nodes(2, cpus=2) as nodes: ... nodes.address ... nodes.kill(0)

Ray reads its token once a process, so a cluster with another token needs another process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "the-token-of-the-tests"}


class Nodes:
    """A head that does no work, and nodes that do.

    Args:
        count: Nodes besides the head.
        head: Options of the head, as ``ray.cluster_utils.Cluster.add_node`` takes them.
        options: Of each node, likewise.
    """

    def __init__(self, count: int, head: dict[str, Any] | None = None, **options: Any) -> None:
        self.plan = {"count": count, "head": head or {}, "options": options}
        here = Path(sys.executable).parent  # jobs begin with `python`, as in an active environment
        path = f"{here}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**TOKEN, "RAY_USAGE_STATS_ENABLED": "0", "PATH": path}
        """What a driver of the cluster needs."""

    def __enter__(self) -> Nodes:
        environment = {**os.environ, **self.environment}
        environment.pop("RAY_ADDRESS", None)
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(self.plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.address = self._hear()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def kill(self, node: int) -> None:
        """Kill all processes of a node, as a machine that loses its power does."""
        assert self.process.stdin is not None
        print(node, file=self.process.stdin, flush=True)
        assert self._hear() == "killed"

    def _hear(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("nodes: "):
                return line.removeprefix("nodes: ").strip()
        raise AssertionError("the cluster ended")


def main(count: int, head: dict[str, Any], options: dict[str, Any]) -> None:
    from ray._common.utils import get_default_ray_temp_dir
    from ray._private.utils import write_ray_address
    from ray.cluster_utils import Cluster

    # A cluster with a folder of its own still writes its address into Ray's, and does not make it.
    Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
    defaults = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=defaults | head)
    if "temp_dir" in head:  # jobs look there for the cluster that they belong to
        write_ray_address(cluster.address, head["temp_dir"])
    nodes = [cluster.add_node(**options) for _ in range(count)]
    print("nodes:", cluster.address, flush=True)
    for line in sys.stdin:
        cluster.remove_node(nodes[int(line)], allow_graceful=False)
        print("nodes: killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
