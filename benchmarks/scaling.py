"""Labelling against an API that answers in 200 ms: rows a second, as a share of the ideal.

    python benchmarks/scaling.py [--actors 1 2 4] [--in-flight 1 8 64] [--rounds 20]

One row a request, so that A actors with F requests in flight can get A x F / 0.2 rows a second and
no more. The clock runs from the first request that reaches the API to the last answer: the start
of actors is told apart. The API and Ray share the machine's cores. The last line is one JSON object
with `efficiency`, by actors and requests in flight.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import tempfile
import time
from typing import Any

LATENCY_S = 0.2


def serve(port: int, times: Any) -> None:
    """Answer every pair after the latency; note the first request and the last answer."""
    import asyncio

    from aiohttp import web

    async def predict(request: web.Request) -> web.Response:
        pairs = (await request.json())["pairs"]
        times[0] = times[0] or time.time()
        await asyncio.sleep(LATENCY_S)
        times[1] = time.time()
        return web.json_response({"answers": [{"label": "neutral"}] * len(pairs)})

    app = web.Application()
    app.router.add_post("/predict", predict)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


def measure(port: int, times: Any, actors: int, in_flight: int, rounds: int) -> tuple[float, float]:
    """Share of the ideal that labelling reaches, and the seconds before its first request."""
    import pyarrow as pa

    from raythief import labeling, metering, sharding
    from raythief.api import Remote
    from raythief.artifacts import Storage
    from raythief.config import Api, Inference, Resources, Workers
    from raythief.progress import silent

    per_actor = in_flight * rounds
    rows = actors * per_actor
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage.at(folder)
        queries, target = (storage.artifact(name, "0" * 16) for name in ("queries", "labels"))
        texts = pa.array([f"some {i} words" for i in range(rows)])
        table = pa.table({"id": range(rows), "premise": texts, "hypothesis": texts})
        queries.write_table(sharding.Shard("", 0, rows).name, table)
        meter = metering.start(storage, None)
        url = f"http://127.0.0.1:{port}/predict"
        api = Api(url=url, rows_per_request=1, in_flight=in_flight)
        times[0] = times[1] = 0.0
        started = time.time()
        labeling.build(
            target,
            queries,
            rows,
            Remote(api),
            None,
            Inference(rows_per_shard=per_actor),
            Resources(inference=Workers(workers=actors, cpus=0.5, gpus=0)),
            silent,
        )
        del meter
    ideal = rows / (actors * in_flight) * LATENCY_S
    return ideal / (times[1] - times[0]), times[0] - started


def main() -> None:
    """Measure every combination on a Ray of our own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=20, help="answers for each place in flight")
    asked = parser.parse_args()
    os.environ.update(RAY_worker_niceness="0")  # the API here is no nicer than its clients
    from raythief import runs

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    times = context.Array("d", [0.0, 0.0])
    server = context.Process(target=serve, args=(port, times), daemon=True)
    server.start()
    found: dict[str, dict[str, float]] = {}
    try:
        with runs.cluster(None):
            for actors in asked.actors:
                for in_flight in asked.in_flight:
                    share, wait = measure(port, times, actors, in_flight, asked.rounds)
                    found.setdefault(str(actors), {})[str(in_flight)] = round(share, 3)
                    print(
                        f"{actors} actors, {in_flight} in flight: {share:.3f} ({wait:.1f} s start)"
                    )
    finally:
        server.terminate()
    print(json.dumps({"efficiency": found}))


if __name__ == "__main__":
    main()
