"""The victim as an HTTP API on Ray Serve: what `raythief serve` offers.

    POST /predict   {"pairs": [{"premise": "...", "hypothesis": "..."}, ...]}
                    -> {"answers": [{"label": "entailment"}, ...]}, in the order of the pairs
    GET  /healthz   -> {"status": "ok"}
    GET  /docs      a page to try it on, made from /openapi.json

Here it is started and stopped; ``web`` is what clients see and ``replica`` what answers them. Other
commands import none of it: Ray Serve is an extra, ``pip install 'raythief[serve]'``.

Where a platform runs Ray Serve (``serve deploy``, KubeRay's RayService), its config file names
``raythief.serving:app`` as import path.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from rich.console import Console
from rich.markup import escape

from raythief import accelerators, clusters, config, models, pipeline
from raythief.artifacts import Storage
from raythief.config import Label, Spec, Workers
from raythief.errors import UserError
from raythief.victims import check_names

try:
    from ray import serve

    from raythief.serving.replica import Victim
    from raythief.serving.web import digest
except ModuleNotFoundError as absent:
    raise UserError(
        f"serve needs the package {absent.name}; install it with `pip install 'raythief[serve]'`"
    ) from None

APPLICATION = "raythief"
"""Name of the application on the cluster."""
_PATIENCE = 60.0
"""Seconds in which a server whose model is loaded has to answer."""
_FAULT = re.compile(r"raythief\.errors\.UserError: (.+)")


def run(
    spec: Spec,
    *,
    address: str | None = None,
    console: Console | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the spec's victim until SIGINT or SIGTERM.

    Where rows of the spec have victims of their own, the first row's is served.

    Args:
        spec: The experiment.
        address: Ray cluster, whose head node then listens; None starts Ray on this machine.
        console: Where it is told what goes on.
        ready: Told the server's address once it answers.

    Raises:
        UserError: the victim or the key is not there, the port is in use, or the machine is too
            small.
    """
    console = console or Console(stderr=True)
    spec = next(config.expand(spec)).spec
    options, key_digest = spec.serve, _key_digest(spec.serve)
    source, labels = victim(spec)
    here = (address or os.environ.get("RAY_ADDRESS")) is None
    if here:
        _check_address(options)
    with clusters.connect(address), _one_interrupt():
        clusters.quiet("ray.serve")
        if here:
            _check_size(options)
        else:
            _check_cluster(options)
        try:
            console.print(f"loading {escape(spec.victim.model)}")
            _deploy(_bound(spec, source, labels, key_digest), options)
            url = _url(options.host, options.port)
            _on_head(here, _wait_for, url)
            ready(url)
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print("stopping the server")
        finally:
            _shut_down()


def victim(spec: Spec) -> tuple[models.Source, tuple[Label, ...] | None]:
    """Where the spec's victim lies, and the names of its outputs where its config has none.

    Raises:
        UserError: it is yet to be trained, or is no model that can be used.
    """
    # Where a run asks it over HTTP, it may well be us whom it asks.
    chosen = spec.victim.model_copy(update={"api": None})
    if chosen.training:
        stage = pipeline.stages(spec.model_copy(update={"victim": chosen}))["victim"]
        artifact = Storage.at(spec.storage).artifact(stage.name, stage.fingerprint)
        if artifact.manifest() is None:
            raise UserError(
                f"victim: {spec.storage} does not hold it yet; train it with "
                "`raythief run SPEC --until victim` first"
            )
        source = models.Source(artifact=artifact)
        models.check_attention(source, spec.inference.attention, "victim.model")
        return source, None  # it names its outputs itself
    if chosen.model.startswith("miniature:"):
        raise UserError(f"victim.model: `{chosen.model}` is a bare encoder; give victim.training")
    source = models.find(chosen, spec.root, "victim.model")
    check_names(source, chosen.labels)
    models.check_attention(source, spec.inference.attention, "victim.model")
    return source, chosen.labels


def app(arguments: dict[str, Any]) -> serve.Application:
    """Build the application for a config file of Ray Serve, as ``raythief serve`` would.

    Where it listens is the config file's `http_options`, not the spec's `serve` section.

    Args:
        arguments: The file's `args`: `spec`, the spec's file on the cluster's nodes, and perhaps
            `overrides`, a list of what `--set` takes.

    Raises:
        UserError: `args` or the spec is at fault, or the victim or the key is not there.
    """
    if not {"spec"} <= arguments.keys() <= {"spec", "overrides"}:
        raise UserError("args: give `spec`, a file on the cluster's nodes, and at most `overrides`")
    spec = config.load(arguments["spec"], arguments.get("overrides", ()))
    spec = next(config.expand(spec)).spec
    return _bound(spec, *victim(spec), _key_digest(spec.serve))


def _bound(
    spec: Spec,
    source: models.Source,
    labels: tuple[Label, ...] | None,
    key_digest: bytes | None,
) -> serve.Application:
    """The deployment with its options and arguments, not yet running."""
    options = spec.serve
    number: dict[str, Any] = {"num_replicas": options.replicas}
    if options.max_replicas is not None:
        number = {
            "autoscaling_config": {
                "min_replicas": options.replicas,
                "max_replicas": options.max_replicas,
                "target_ongoing_requests": options.requests_per_replica,
            }
        }
    deployment = serve.deployment(
        Victim,
        name="victim",
        # Ray Serve's default of 5 would hold back the requests of one pair that fill a batch;
        # twice a batch, for one that is collected while the other is under way.
        max_ongoing_requests=2 * options.max_pairs_per_batch,
        ray_actor_options={
            "num_cpus": options.cpus,
            "num_gpus": accelerators.gpus(Workers(gpus=options.gpus)),
        },
        graceful_shutdown_wait_loop_s=0.2,
        **number,
    )
    title = spec.title or spec.name
    return deployment.bind(source, labels, spec.inference, options, title, key_digest)


def _deploy(bound: serve.Application, options: config.Serve) -> None:
    """Start Serve and the replicas; return when all have loaded the model."""
    try:
        # The head node alone listens: one address, which is the one that is printed.
        serve.start(
            proxy_location="HeadOnly", http_options={"host": options.host, "port": options.port}
        )
        serve.run(bound, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        why = "\n".join(  # with the replica's stack trace, as text
            part.message
            for one in serve.status().applications.values()
            for part in one.deployments.values()
        )
        found = _FAULT.findall(why)
        if found:
            raise UserError(found[-1]) from None
        error.add_note(why)
        raise


def _key_digest(options: config.Serve) -> bytes | None:
    if options.key_env is None:
        return None
    key = os.environ.get(options.key_env, "").strip()
    if not key:
        raise UserError(f"serve.key_env: the variable {options.key_env} is not set; put the key in")
    return digest(key)


@contextlib.contextmanager
def _one_interrupt() -> Iterator[None]:
    """Make the first SIGINT or SIGTERM a KeyboardInterrupt and ignore what follows: a Ctrl-C may
    come twice, from the terminal and from what started us, and must not cut the end short.
    """
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shut_down() -> None:
    """End Serve, which first answers what is under way, and leave Ray."""
    # Ray prints that the actor died which was asked to end, whenever it dies before it answers.
    with contextlib.redirect_stdout(io.StringIO()):
        serve.shutdown()
        ray.shutdown()


def _on_head(here: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on the node that listens."""
    if here:
        return function(*arguments)
    task = ray.remote(num_cpus=0, resources={HEAD_NODE_RESOURCE_NAME: 0.001})(function)
    try:
        return ray.get(task.remote(*arguments))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # without the task's stack trace, which is no user's business


def _check_cluster(options: config.Serve) -> None:
    """Leave other people's servers alone: two Serves cannot share a cluster."""
    found = serve.status()
    if found.proxies or found.applications:
        raise UserError(
            "--address: Ray Serve runs on that cluster already; end it with `serve shutdown` "
            "there, or take another cluster"
        )
    _on_head(False, _check_address, options)


def _check_address(options: config.Serve) -> None:
    """Raise ``UserError`` unless this machine can listen where the spec says.

    Ray Serve itself would share a port with another server that shares it (SO_REUSEPORT), which
    then got half of the requests.
    """
    where = f"{options.host}:{options.port}"
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
        family, kind, _, _, place = found[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            fault = f"serve.port: {where} is in use; take another port"
        elif error.errno == errno.EACCES:
            fault = f"serve.port: {where} needs rights that you lack; take a port above 1023"
        else:
            fault = f"serve.host: {where} is no address of this machine; take 127.0.0.1 or 0.0.0.0"
        raise UserError(fault) from None


def _check_size(options: config.Serve) -> None:
    """Raise ``UserError`` unless this machine holds all replicas; Ray would wait for ever."""
    there = ray.cluster_resources()
    needs = {"CPU": options.cpus, "GPU": accelerators.gpus(Workers(gpus=options.gpus))}
    for name, each in needs.items():
        if each * options.replicas > there.get(name, 0):
            raise UserError(
                f"serve.replicas: {options.replicas} of them need {each * options.replicas:g} "
                f"{name}s, and there are {there.get(name, 0):g}; lower it, or serve.{name.lower()}s"
            )


def _url(host: str, port: int) -> str:
    """How a client reaches the server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _wait_for(url: str) -> None:
    """Return when the server answers; it learns of its replicas a moment after they are up."""
    until = time.monotonic() + _PATIENCE
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with direct.open(f"{url}/healthz", timeout=5):
                return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
