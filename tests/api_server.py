"""A classifier behind HTTP that misbehaves on demand, in a process of its own.

    with ApiServer(folder, latency=0.1, script=[429, 500, "shape", "close"]) as server: ...

Every request is logged when it comes in, so that a test can count what was really bought.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

LABELS = ("entailment", "neutral", "contradiction")


def label_of(premise: str, hypothesis: str) -> str:
    """The label that the server gives a pair: a pure function of it."""
    digest = hashlib.sha256(f"{premise}\0{hypothesis}".encode()).digest()
    return LABELS[digest[0] % 3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ApiServer:
    """Starts the server and stops it.

    Args:
        folder: Where its log lies.
        port: None takes a free one.
        host: Address to listen on, and by which it is called.
        latency: Seconds that every answer takes.
        script: What the first requests get instead of an answer: a status, ``shape`` for JSON of
            another shape, ``close`` for a connection that breaks in the middle of the answer.
        refuse: A request that holds this text gets 422.
        babble: A pair that holds this text is answered without a label.
        key: API key that every request must carry.
        gold: File of JSON that maps ``premise\\thypothesis`` to the label to give.
        after: Headers of scripted failures.
    """

    def __init__(
        self, folder: Path, port: int | None = None, host: str = "127.0.0.1", **behaviour: Any
    ) -> None:
        self.port = port or free_port()
        self.log = folder / "requests.jsonl"
        where = {"host": host, "port": self.port, "log": str(self.log)}
        self.behaviour = {**behaviour, **where}
        self.url = f"http://{host}:{self.port}/predict"

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, __file__, json.dumps(self.behaviour)])
        for _ in range(400):
            try:
                with urllib.request.urlopen(self.url.removesuffix("predict"), timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Every request that came in: ``time``, ``pairs`` (premise, hypothesis), ``status``, and
        ``together``, how many were in flight with it when it came.
        """
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @property
    def bought(self) -> Counter[tuple[str, str]]:
        """How often each pair was answered."""
        answered = [request for request in self.requests if request["status"] == 200]
        return Counter(tuple(pair) for request in answered for pair in request["pairs"])


def serve(behaviour: dict[str, Any]) -> None:
    from aiohttp import web

    script = list(behaviour.get("script", []))
    gold = json.loads(Path(behaviour["gold"]).read_text()) if behaviour.get("gold") else {}
    log = Path(behaviour["log"])

    in_flight = 0

    async def predict(request: web.Request) -> web.StreamResponse:
        nonlocal in_flight
        in_flight += 1
        try:
            return await answered(request, in_flight)
        finally:
            in_flight -= 1

    async def answered(request: web.Request, together: int) -> web.StreamResponse:
        def note(pairs: list[list[str]], status: Any) -> None:
            entry = {"time": time.time(), "pairs": pairs, "status": status, "together": together}
            with log.open("a") as file:
                file.write(json.dumps(entry) + "\n")

        body = await request.json()
        pairs = [[pair["premise"], pair["hypothesis"]] for pair in body["pairs"]]
        key = behaviour.get("key")
        if key and request.headers.get("Authorization") != f"Bearer {key}":
            note(pairs, 401)
            return web.Response(status=401, text=f"not {request.headers.get('Authorization')}")
        await asyncio.sleep(behaviour.get("latency", 0))
        if script:
            step = script.pop(0)
            note(pairs, step)
            if step == "shape":
                return web.json_response({"oops": []})
            if step == "close":
                answer = web.StreamResponse(headers={"Content-Length": "1000"})
                await answer.prepare(request)
                await answer.write(b'{"answers": [')
                request.transport.close()
                return answer
            return web.Response(status=step, headers=behaviour.get("after", {}))
        text = json.dumps(pairs)
        if behaviour.get("refuse") and behaviour["refuse"] in text:
            note(pairs, 422)
            return web.Response(status=422, text="cannot read this")
        note(pairs, 200)
        answers: list[dict[str, Any]] = []
        for premise, hypothesis in pairs:
            if behaviour.get("babble") and behaviour["babble"] in hypothesis:
                answers.append({"label": None})
                continue
            label = gold.get(f"{premise}\t{hypothesis}") or label_of(premise, hypothesis)
            answers.append({"label": behaviour.get("names", {}).get(label, label)})
        return web.json_response({"answers": answers})

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/predict", predict)
    app.router.add_get("/", alive)
    web.run_app(
        app, host=behaviour["host"], port=behaviour["port"], print=None, access_log=None,
        handle_signals=True,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("behaviour", type=json.loads)
    serve(parser.parse_args().behaviour)
