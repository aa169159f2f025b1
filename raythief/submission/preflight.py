"""What is looked at on the cluster before a job is sent; runs there, as a small job of its own.

    python -m raythief.submission.preflight run|sweep SPEC [--set FIELD=VALUE ...]

Its last line is JSON: what it found, or an ``error`` for the user. At the top it needs the standard
library alone, so that it can say what else is missing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from raythief.errors import MissingKeyError, UserError, first_line

MARK = "preflight: "
"""What the line of JSON begins with."""
NODE_TIMEOUT_S = 120.0
"""Seconds in which a node must have started a process and imported what a run imports."""
_ABOUT_KEYS = (
    "; set it where `ray start` runs on the head (in Kubernetes, from a Secret): it is not sent "
    "with the job, because the Jobs API shows to everyone what it was sent"
)


def main(arguments: Sequence[str]) -> int:
    """Look, and print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["run", "sweep"])
    parser.add_argument("spec")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    given = parser.parse_args(arguments)
    try:
        found = look(given.command, given.spec, given.overrides)
    except ImportError as error:
        found = {"error": f"the head {_lacking(error)}"}
    except MissingKeyError as error:
        found = {"error": f"{error}{_ABOUT_KEYS}"}
    except UserError as error:
        found = {"error": str(error)}
    print(MARK + json.dumps(found), flush=True)
    return 2 if "error" in found else 0


def look(command: str, path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Find what would stop the job, with this process its driver.

    Returns:
        ``python`` (its version), ``nodes``, the cluster's ``CPU`` and ``GPU``, and ``most``: the
        GPUs that it may come to have where it can grow.

    Raises:
        ImportError: a dependency is missing here.
        UserError: it is missing on a node, or a node cannot write the storage, or sees another
            one; or whatever `raythief run` itself refuses.
    """
    import ray

    from raythief import accelerators, clusters, config, runs
    from raythief import sweep as sweeping
    from raythief.artifacts import Storage

    spec = config.load(path, overrides)
    with clusters.connect(None):
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if command == "sweep":
            sweeping.check(spec)
        else:
            rows, storage = runs.rows(spec), Storage.at(spec.storage)
            runs.check(rows, storage, spec.costs.budget)
            runs.check_workers(rows, storage)
        _check_nodes(nodes, spec.storage)
        units, more = ray.cluster_resources(), accelerators.growth()
    return {
        "python": platform.python_version(),
        "nodes": len(nodes),
        **{unit: units.get(unit, 0) for unit in ("CPU", "GPU")},
        **({"most": more.total("GPU")} if more and more.known else {}),
    }


def _check_nodes(nodes: Sequence[dict[str, Any]], location: str) -> None:
    """Each node imports what a run imports, leaves a marker on the storage, and then reads all
    markers: the storage is one and the same."""
    import ray

    folder = f".preflight-{uuid.uuid4().hex}"
    names = [node["NodeID"] for node in nodes]
    head = ray.get_runtime_context().get_node_id()  # where all is imported already
    try:
        _everywhere([node for node in nodes if node["NodeID"] != head], _import)
        _everywhere(nodes, _write, location, folder)
        _everywhere(nodes, _read, location, folder, names)
    finally:
        for node in nodes:  # one by one: on a shared storage the first removes it for all
            _wait([_on(node, _remove).remote(node["NodeID"], location, folder)], 10)


def _everywhere(nodes: Sequence[dict[str, Any]], task: Callable[..., str], *given: Any) -> None:
    """Run a task on every node; what it returns, if anything, is told as the node's complaint."""
    import ray

    pending = {_on(node, task).remote(node["NodeID"], *given): node for node in nodes}
    late = _wait(list(pending), NODE_TIMEOUT_S)
    if late:
        raise UserError(
            f"{_names([pending[ref] for ref in late])} did not answer within "
            f"{NODE_TIMEOUT_S:.0f} s; see its logs in the dashboard"
        )
    for ref, node in pending.items():
        try:
            complaint = ray.get(ref)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error  # what the task raised, if it did
            complaint = f"{{node}} cannot be looked at: {first_line(cause)}"
        if complaint:
            raise UserError(complaint.replace("{node}", _names([node])))


def _on(node: dict[str, Any], task: Callable[..., str]) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(task).options(
        name="preflight", scheduling_strategy=there
    )


def _wait(references: list[Any], seconds: float) -> list[Any]:
    """Those that are not there in time."""
    import ray

    late: list[Any] = ray.wait(references, num_returns=len(references), timeout=seconds)[1]
    return late


def _names(nodes: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"node {node['NodeManagerAddress']} ({node['NodeID'][:6]})" for node in nodes)


def _import(node: str) -> str:
    try:
        import raythief.runs  # noqa: F401
    except ImportError as error:
        return "{node} " + _lacking(error)
    return ""


def _write(node: str, location: str, folder: str) -> str:
    """Leave a node's marker."""
    from raythief.artifacts import Storage

    try:
        Storage.at(location).write_bytes(f"{folder}/{node}", node.encode())
    except UserError as error:
        return f"{error} (on {{node}})"
    except OSError as error:
        reason = error.strerror or first_line(error)
        return f"storage: {location} cannot be written from {{node}}: {reason}"
    return ""


def _read(node: str, location: str, folder: str, names: Sequence[str]) -> str:
    """Read the markers of all nodes, by name: a listing may be cached."""
    from raythief.artifacts import Storage

    storage = Storage.at(location)
    found = [name for name in names if storage.read_bytes(f"{folder}/{name}") == name.encode()]
    if len(found) == len(names):
        return ""
    return (
        f"storage: {location} is not one folder for all nodes: {{node}} finds there what "
        f"{len(found)} of {len(names)} nodes wrote; name a storage that all share (s3://, gs://, "
        "a mounted NFS)"
    )


def _remove(node: str, location: str, folder: str) -> str:
    from raythief.artifacts import Storage

    storage = Storage.at(location)
    place = f"{storage.root}/{folder}"
    if storage.fs.get_file_info(place).type.name == "Directory":
        storage.fs.delete_dir(place)
    return ""


def _lacking(error: ImportError) -> str:
    what = f"lacks `{error.name}`" if error.name else f"cannot import all it needs ({error})"
    return (
        f"{what} in {sys.executable} ({platform.python_version()}); install this package's "
        "dependencies on every node (`pip install .` from the repository) and start Ray there "
        "with that environment active, or start nodes from an image that holds them"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
