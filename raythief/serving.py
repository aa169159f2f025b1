"""The victim as an HTTP API on Ray Serve: what `raythief serve` offers.

    POST /predict   {"pairs": [{"premise": "...", "hypothesis": "..."}, ...]}
                    -> {"answers": [{"label": "entailment"}, ...]}, in the order of the pairs
    GET  /healthz   -> {"status": "ok"}
    GET  /docs      a page to try it on, made from /openapi.json

Pairs of all requests that wait at a replica go through the model together. Nothing here imports
Ray Serve for other commands: it is an extra, ``pip install 'raythief[serve]'``.

Where a platform runs Ray Serve (``serve deploy``, KubeRay's RayService), its config file names
``raythief.serving:app`` as import path.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import hmac
import io
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import ray
from pydantic import BaseModel, ConfigDict
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from rich.console import Console
from rich.markup import escape

from raythief import __version__, accelerators, clusters, models, pipeline
from raythief import config as specs
from raythief.artifacts import Storage
from raythief.config import LABELS, Inference, Label, Spec, Workers
from raythief.errors import UserError
from raythief.victims import Classifier, check_names

try:
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
    from ray import serve
except ModuleNotFoundError as absent:
    raise UserError(
        f"serve needs the package {absent.name}; install it with `pip install 'raythief[serve]'`"
    ) from None

APPLICATION = "raythief"
"""Name of the application on the cluster."""
_PATIENCE = 60.0
"""Seconds in which a server whose model is loaded has to answer."""
_BYTES_PER_PAIR = 1 << 16
"""Of a request, on average: many times what the longest pair takes that an encoder reads whole."""
_FAULT = re.compile(r"raythief\.errors\.UserError: (.+)")
_BEARER = HTTPBearer(auto_error=False, description="The key that `serve.key_env` names.")


# --- what goes over the wire ------------------------------------------------------------------


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Pair(_Message):
    """Two sentences."""

    premise: str
    hypothesis: str


class Pairs(_Message):
    """A request."""

    pairs: list[Pair]


class Answer(_Message):
    """What the model says of one pair."""

    label: Label
    scores: dict[Label, float] | None = None


class Answers(_Message):
    """The response: one answer for each pair, in the order of the request."""

    answers: list[Answer]


class Health(_Message):
    """The server is up and its model is loaded."""

    status: str = "ok"


def application(
    title: str,
    options: specs.Serve,
    key_digest: bytes | None,
    ask: Callable[[Sequence[Pair]], Awaitable[list[Answer]]],
) -> FastAPI:
    """The API over a function that answers pairs.

    Args:
        title: Headline of the page at `/docs`.
        options: The spec's section.
        key_digest: ``digest`` of the key that clients must send; None asks for none.
        ask: Answers any number of pairs, in order.
    """

    def authorised(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> None:
        assert key_digest is not None
        # Headers arrive as Latin-1, whatever their bytes mean.
        sent = given.credentials.encode("latin-1") if given else b""
        if not hmac.compare_digest(hashlib.sha256(sent).digest(), key_digest):
            raise HTTPException(
                401, "send the key as `Authorization: Bearer KEY`", {"WWW-Authenticate": "Bearer"}
            )

    app = FastAPI(title=title, version=__version__)
    app.add_middleware(_Bounded, most=options.max_pairs_per_request * _BYTES_PER_PAIR)

    @app.post(
        "/predict",
        response_model_exclude_none=True,
        dependencies=[Depends(authorised)] if key_digest else [],
        responses={413: {"description": "Too many pairs, or too many bytes"}},
    )
    async def predict(request: Pairs) -> Answers:
        """Label pairs of sentences."""
        if len(request.pairs) > options.max_pairs_per_request:
            raise HTTPException(
                413,
                f"the request holds {len(request.pairs)} pairs; send at most "
                f"{options.max_pairs_per_request} at once",
            )
        for row, pair in enumerate(request.pairs):
            # Half a surrogate pair, which JSON lets through, would fail the batch of others too.
            try:
                (pair.premise + pair.hypothesis).encode()
            except UnicodeEncodeError:
                raise HTTPException(
                    422, f"pair {row} (counted from 0) is not Unicode; send whole characters"
                ) from None
        return Answers(answers=await ask(request.pairs))

    @app.get("/healthz")
    async def healthz() -> Health:
        """Tell that the model is loaded."""
        return Health()

    return app


class _Bounded:
    """Refuses what is too large while it comes in: a body is read whole before it is looked at, and
    before a key is asked for."""

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        size = 0

        async def counted() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.most:
                raise HTTPException(
                    413,
                    f"the request has more than {self.most} bytes; send fewer pairs at once, or "
                    "shorter ones",
                )
            return message

        await self.app(scope, counted, send)


def digest(key: str) -> bytes:
    """What replicas know of a key: enough to recognise it, not to tell it to anybody."""
    return hashlib.sha256(key.encode()).digest()


# --- a copy of the model ----------------------------------------------------------------------


@serve.ingress()
class Victim:
    """A replica: the API and the model in one actor."""

    def __init__(
        self,
        source: models.Source,
        labels: tuple[Label, ...] | None,
        inference: Inference,
        options: specs.Serve,
        title: str,
        key_digest: bytes | None,
    ) -> None:
        self.victim = Classifier(source, inference, options.cpus, labels)
        self.options = options
        self.title = title
        self.key_digest = key_digest
        # One thread of its own: the loop goes on collecting the next batch meanwhile, and torch
        # keeps one pool of threads rather than one for each thread that it was called from.
        self.thread = ThreadPoolExecutor(max_workers=1)
        self._answer.set_max_batch_size(options.max_pairs_per_batch)
        self._answer.set_batch_wait_timeout_s(options.batch_wait_s)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve asks for the API once the model is loaded."""
        return application(self.title, self.options, self.key_digest, self._ask)

    async def _ask(self, pairs: Sequence[Pair]) -> list[Answer]:
        # Each pair waits by itself, so that batches are full whatever the requests' sizes.
        return list(await asyncio.gather(*map(self._answer, pairs)))

    @serve.batch
    async def _answer(self, pairs: list[Pair]) -> list[Answer]:
        loop = asyncio.get_running_loop()
        judged = loop.run_in_executor(self.thread, judge, self.victim, pairs, self.options.scores)
        return await judged


def judge(victim: Classifier, pairs: Sequence[Pair], scores: bool) -> list[Answer]:
    """Answer pairs, with the probability of each label if ``scores``."""
    premises, hypotheses = [pair.premise for pair in pairs], [pair.hypothesis for pair in pairs]
    labels, found, _ = victim.answer(premises, hypotheses)
    if not scores:
        return [Answer(label=label) for label in labels]
    return [
        Answer(label=label, scores=dict(zip(LABELS, row, strict=True)))
        for label, row in zip(labels, found.tolist(), strict=True)
    ]


# --- the server -------------------------------------------------------------------------------


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
    spec = next(specs.expand(spec)).spec
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
        return models.Source(artifact=artifact), None  # it names its outputs itself
    if chosen.model.startswith("miniature:"):
        raise UserError(f"victim.model: `{chosen.model}` is a bare encoder; give victim.training")
    source = models.find(chosen, spec.root, "victim.model")
    check_names(source, chosen.labels)
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
    spec = specs.load(arguments["spec"], arguments.get("overrides", ()))
    spec = next(specs.expand(spec)).spec
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


def _deploy(bound: serve.Application, options: specs.Serve) -> None:
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


def _key_digest(options: specs.Serve) -> bytes | None:
    if options.key_env is None:
        return None
    key = os.environ.get(options.key_env, "").strip()
    if not key:
        raise UserError(f"serve.key_env: the variable {options.key_env} is not set; put the key in")
    return digest(key)


# --- before and after -------------------------------------------------------------------------


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


def _check_cluster(options: specs.Serve) -> None:
    """Leave other people's servers alone: two Serves can not share a cluster."""
    found = serve.status()
    if found.proxies or found.applications:
        raise UserError(
            "--address: Ray Serve runs on that cluster already; end it with `serve shutdown` "
            "there, or take another cluster"
        )
    _on_head(False, _check_address, options)


def _check_address(options: specs.Serve) -> None:
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


def _check_size(options: specs.Serve) -> None:
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
