"""How labelling grows: with requests in flight to an API, and with the nodes of a cluster.

    python benchmarks/scaling.py [--actors 1 2 4] [--in-flight 1 8 64] [--nodes 1 2 4]

First against an API that answers in 200 ms: rows a second, as a share of the ideal. One row a
request, so that A actors with F requests in flight can get A x F / 0.2 rows a second and no more.
The clock runs from the first request that reaches the API to the last answer. The API and Ray share
the machine's cores.

Then over several Ray nodes on this machine, each with an accelerator that is simulated: a tiny
model whose every batch takes as long as a device of 20,000 tokens a second would need. The rate is
told as a share of what one node reaches, times the nodes; the labels must be the same.

Actors begin together, for on a small machine they start one after another, which is told apart.
The last line is one JSON object: `efficiency` by actors and requests in flight, `efficiency_nodes`
by nodes, and `same_labels`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import secrets
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from generation import synthetic
from labeling import asked_for, first_query, save_model

from raythief import asking, clusters, config, labeling, metering, models, queries, sharding
from raythief.api import Remote
from raythief.artifacts import WORK, Storage
from raythief.config import Api, Costs, Inference, Resources, Workers
from raythief.progress import silent

LATENCY_S = 0.2
TOKENS_PER_SECOND = 20_000.0
ROWS_PER_NODE = 1024
ROUNDS_PER_SHARD = 10
SEED = 0


class Together(labeling.Labeling):
    """Begins when all actors of the pool are there."""

    actors = 1

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.target.write(f"{WORK}/here/{uuid.uuid4().hex}", b"")

    def work(self, shard: sharding.Shard) -> tuple[pa.Table, Mapping[str, Any]]:
        """Label the shard once everyone is there."""
        arrived = Path(self.target.absolute) / WORK / "here"
        while len(list(arrived.iterdir())) < self.actors:
            time.sleep(0.02)
        return super().work(shard)


class Accelerated(Together):
    """Has a device that reads a certain number of tokens a second."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        classifier = self.classifier("en")
        model = classifier.model

        def slowly(input_ids: torch.Tensor, **rest: torch.Tensor) -> Any:
            ready = time.monotonic() + input_ids.numel() / TOKENS_PER_SECOND
            answer = model(input_ids=input_ids, **rest)
            time.sleep(max(0.0, ready - time.monotonic()))
            return answer

        classifier.model = slowly


def label(
    rows: pa.Table, victim: Any, how: Inference, actors: Workers, worker: type[Together]
) -> tuple[float, float, list[str]]:
    """Seconds from the first query to the last label, seconds before it, and the labels."""
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage.at(folder)
        made, target = (storage.artifact(name, "0" * 16) for name in ("queries", "labels"))
        made.write_table(sharding.Shard("", 0, rows.num_rows).name, rows)
        started = time.perf_counter()
        meter = metering.start(storage, Costs())
        gathered = type(worker.__name__, (worker,), {"actors": actors.workers})
        one = asked_for(rows.num_rows, "api" if isinstance(victim, Remote) else "model")
        with first_query(one.at(storage)) as began:
            labeling.build(
                target, one, asking.Texts(made, "", gibberish=True), victim, None, how,
                Resources(inference=actors), silent, worker=gathered,
            )  # fmt: skip
            ended = time.perf_counter()
        del meter
        labels = target.read_table(columns=["label"])["label"].to_pylist()
        return ended - began(), began() - started, labels


# --- an API -----------------------------------------------------------------------------------


class Answering(asyncio.Protocol):
    """Answers a request after the latency. A whole web server would take the clients' cores."""

    ANSWER = b'{"answers": [{"label": "neutral"}]}'

    def __init__(self, times: Any) -> None:
        self.times, self.read = times, b""

    def connection_made(self, transport: Any) -> None:
        """Keep the connection."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take the requests that are whole."""
        self.read += data
        while b"\r\n\r\n" in self.read:
            head, rest = self.read.split(b"\r\n\r\n", 1)
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            if len(rest) < length:
                return
            self.read = rest[length:]
            self.times[0] = self.times[0] or time.time()
            asyncio.get_running_loop().call_later(LATENCY_S, self.answer)

    def answer(self) -> None:
        """Answer one request."""
        self.times[1] = time.time()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.ANSWER)}\r\n\r\n"
        self.transport.write(head.encode() + self.ANSWER)


def serve(port: int, times: Any) -> None:
    """Answer until the process is ended; note the first request and the last answer."""

    async def forever() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Answering(times), "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(forever())


@contextlib.contextmanager
def api() -> Iterator[tuple[str, Any]]:
    """An API in a process of its own: its address, and the times that it notes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    times = context.RawArray("d", [0.0, 0.0])
    server = context.Process(target=serve, args=(port, times), daemon=True)
    server.start()
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/predict", times
    finally:
        server.terminate()


def over_requests(
    actors: Sequence[int], in_flight: Sequence[int], rounds: int
) -> dict[str, dict[str, float]]:
    """Share of the ideal by actors and requests in flight."""
    found: dict[str, dict[str, float]] = {}
    with api() as (url, times), clusters.connect(None):
        for pool in actors:
            for flying in in_flight:
                count = pool * flying * rounds
                texts = pa.array([f"some {i} words" for i in range(count)])
                rows = pa.table({"id": range(count), "premise": texts, "hypothesis": texts})
                times[0] = times[1] = 0.0
                victim = Remote(Api(url=url, rows_per_request=1, in_flight=flying))
                how = Inference(rows_per_shard=flying * ROUNDS_PER_SHARD)
                workers = Workers(workers=pool, cpus=0.5, gpus=0)
                _, start, _ = label(rows, victim, how, workers, Together)
                share = rounds * LATENCY_S / (times[1] - times[0])
                found.setdefault(str(pool), {})[str(flying)] = round(share, 3)
                print(
                    f"{pool} actors, {flying} in flight: {share:.3f} ({start:.1f} s start)",
                    flush=True,
                )
    return found


# --- nodes ------------------------------------------------------------------------------------


@contextlib.contextmanager
def nodes(count: int) -> Iterator[None]:
    """A cluster of nodes with one accelerator each, and a driver on the first."""
    from ray.cluster_utils import Cluster

    here = {"num_cpus": 2, "num_gpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=here)
    try:
        for _ in range(count - 1):
            cluster.add_node(num_cpus=2, num_gpus=1)
        with clusters.connect(cluster.address):
            yield
    finally:
        cluster.shutdown()


def over_nodes(counts: Sequence[int]) -> tuple[dict[str, float], bool]:
    """Share of the ideal by nodes, and whether all gave the same labels."""
    source = synthetic(20_000)
    rows = queries.generate(
        source, config.Vocabulary(), config.Queries(), SEED, 0, max(counts) * ROWS_PER_NODE
    )
    how = Inference(rows_per_shard=ROWS_PER_NODE // 8, tokens_per_batch=4096)
    found: dict[str, float] = {}
    seen: list[list[str]] = []
    one = None
    with tempfile.TemporaryDirectory() as place:
        save_model(Path(place), source, 2, 64)
        victim = models.Source(path=place)
        for count in counts:
            mine = rows.slice(0, count * ROWS_PER_NODE)
            workers = Workers(workers=count, cpus=1, gpus=1)
            with nodes(count):
                seconds, start, labels = label(mine, victim, how, workers, Accelerated)
            rate = mine.num_rows / seconds
            one = one or rate / count
            seen.append(labels)
            found[str(count)] = round(rate / count / one, 3)
            print(
                f"{count} nodes: {rate:,.0f} rows/s, {found[str(count)]:.3f} of "
                f"{count} x one node ({start:.1f} s start)",
                flush=True,
            )
    longest = max(seen, key=len)
    return found, all(labels == longest[: len(labels)] for labels in seen)


def main() -> None:
    """Both tables, each on a Ray of its own."""
    if "RAY_AUTH_TOKEN" not in os.environ:  # Ray reads these as it is imported: begin again
        settings = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_worker_niceness": "0",  # the API here is no nicer than its clients
        }
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})
    parser = argparse.ArgumentParser()
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=25, help="answers for each place in flight")
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2, 4])
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    if asked.actors:
        found["efficiency"] = over_requests(asked.actors, asked.in_flight, asked.rounds)
    if asked.nodes:
        found["efficiency_nodes"], found["same_labels"] = over_nodes(asked.nodes)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
