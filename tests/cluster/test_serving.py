"""The victim behind a real server: one process of the command line, real sockets, a tiny model."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

import hub_server
from api_server import free_port
from conftest import command, heed_ctrl_c, prepared, raythief, write_spec
from raythief import config, models, pipeline, serving
from raythief.artifacts import Storage
from raythief.config import LABELS
from raythief.errors import UserError
from raythief.serving import replica, web
from raythief.victims import Classifier

KEY = "the-key-of-the-test"
KEY_VARIABLE = "RAYTHIEF_TEST_KEY"
MOST = 64
"""Pairs that a request may hold."""

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny victim that gives each label to some pairs, as random weights alone do not."""
    folder = hub_server.tiny_victim(tmp_path_factory.mktemp("model"))
    found = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = pairs(90)
    classifier = Classifier(models.Source(path=str(folder)), config.Inference(), cpus=1)
    _, scores, _ = classifier.answer(
        [row["premise"] for row in rows], [row["hypothesis"] for row in rows]
    )
    in_order = scores[:, [LABELS.index(label) for label in classifier.labels]]
    with torch.no_grad():
        found.classifier.out_proj.bias -= torch.from_numpy(np.median(np.log(in_order), axis=0))
    found.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return Classifier(models.Source(path=str(model)), config.Inference(), cpus=1)


@pytest.fixture(scope="module")
def sure(classifier: Classifier) -> tuple[Rows, list[str]]:
    """Pairs and their labels, without those near a tie, which the company in a batch may turn."""
    rows = pairs(200)
    premises, hypotheses = columns(rows)
    labels, _ = classifier(premises, hypotheses)
    best = np.sort(classifier.answer(premises, hypotheses)[1], axis=-1)
    kept = np.flatnonzero(best[:, 2] - best[:, 1] > 1e-4)
    assert len(kept) > 100
    return [rows[i] for i in kept], [labels[i] for i in kept]


def pairs(count: int) -> Rows:
    """Pairs of different lengths."""
    found = []
    for item in range(count):
        premise, hypothesis, *_ = hub_server.nli_pair(item, "en")
        found.append(
            {"premise": f"{premise} " * (1 + item % 4), "hypothesis": f"{hypothesis} {item}"}
        )
    return found


def columns(rows: Rows) -> tuple[list[str], list[str]]:
    return [row["premise"] for row in rows], [row["hypothesis"] for row in rows]


def spec_file(folder: Path, model: Path, **options: Any) -> Path:
    file = folder / "spec.yaml"
    tree = {
        "name": "served",
        "title": "A victim to try",
        "storage": str(folder / "artifacts"),
        "victim": {"model": str(model)},
        "serve": options,
    }
    file.write_text(yaml.safe_dump(tree))
    return file


# --- a server ---------------------------------------------------------------------------------


class Server:
    """`raythief serve` in a process group of its own, as a terminal starts it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.port = free_port()
        spec = spec_file(
            folder,
            model,
            port=self.port,
            key_env=KEY_VARIABLE,
            max_pairs_per_request=MOST,
            max_pairs_per_batch=48,
        )
        self.told, self.errors = folder / "stdout", folder / "stderr"
        environment = {**os.environ, KEY_VARIABLE: KEY, "RAY_worker_niceness": "0"}
        environment.pop("RAY_ADDRESS", None)
        with self.told.open("w") as out, self.errors.open("w") as err:
            self.process = subprocess.Popen(
                command("serve", str(spec)),
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + 300
        while "docs:" not in self.told.read_text():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline, self.errors.read_text()
            time.sleep(0.1)
        self.client = httpx2.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=120,
            trust_env=False,
        )

    def ask(self, rows: Rows) -> list[dict[str, Any]]:
        response = self.client.post("/predict", json={"pairs": rows})
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["answers"]
        return found

    def end(self, number: int) -> int:
        """Signal the whole group, as Ctrl-C in a terminal does; returns the exit code."""
        os.killpg(self.process.pid, number)
        return self.process.wait(timeout=120)

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("server"), model)
    yield found
    found.close()


def test_it_says_where_it_answers(server: Server) -> None:
    address = f"http://127.0.0.1:{server.port}"
    assert server.told.read_text() == f"serving: {address}/predict\ndocs: {address}/docs\n"


def test_answers_are_the_classifier_s_own(server: Server, sure: tuple[Rows, list[str]]) -> None:
    rows, labels = sure
    assert set(labels) == set(LABELS)
    assert server.ask(rows[:MOST]) == [{"label": label} for label in labels[:MOST]]
    assert server.ask([]) == []


def test_many_requests_at_once_keep_their_order(
    server: Server, sure: tuple[Rows, list[str]]
) -> None:
    rows, labels = sure
    cuts = [(start, start + size) for start in range(0, 80, 2) for size in (1, 3, 20)]
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda cut: server.ask(rows[slice(*cut)]), cuts))
    for (start, stop), found in zip(cuts, answers, strict=True):
        assert [answer["label"] for answer in found] == labels[start:stop]


@pytest.mark.slow
def test_a_run_buys_its_labels_there(
    server: Server,
    classifier: Classifier,
    whole: tuple[Path, Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The attack against our own API, as an outsider would run it."""
    monkeypatch.setenv("VICTIM_KEY", KEY)
    storage = prepared(whole, tmp_path, "labels", "extractor", "finetuned", "evaluation")
    api = {
        "url": f"http://127.0.0.1:{server.port}/predict",
        "key_env": "VICTIM_KEY",
        "rows_per_request": 16,
        "in_flight": 8,
    }
    victim = {"training": None, "model": "none/none", "api": api, "sanity": {"count": 0}}
    spec = write_spec(tmp_path, storage=str(storage), victim=victim)
    done = raythief("run", str(spec), "--until", "labels")
    assert done.returncode == 0, done.stderr
    [queries], [bought] = storage.glob("queries/*"), storage.glob("labels/*")
    asked, given = (
        pq.read_table([str(file) for file in sorted(folder.glob("rows-*.parquet"))])
        for folder in (queries, bought)
    )
    assert given["id"].to_pylist() == list(range(600))
    texts = asked["premise"].to_pylist(), asked["hypothesis"].to_pylist()
    expected, _ = classifier(*texts)
    best = np.sort(classifier.answer(*texts)[1], axis=-1)
    clear = best[:, 2] - best[:, 1] > 1e-4  # a near-tie may fall otherwise in other company
    pairs = zip(expected, given["label"].to_pylist(), clear, strict=True)
    assert clear.sum() > 500
    assert not [(ours, theirs) for ours, theirs, sure in pairs if sure and ours != theirs]


def test_its_health_and_its_pages_need_no_key(server: Server) -> None:
    with httpx2.Client(base_url=server.client.base_url, trust_env=False) as stranger:
        health = stranger.get("/healthz")
        assert (health.status_code, health.json()) == (200, {"status": "ok"})
        assert stranger.get("/docs").status_code == 200
        described = stranger.get("/openapi.json").json()
    assert described["info"]["title"] == "A victim to try"
    assert list(described["paths"]) == ["/predict", "/healthz"]
    assert described["components"]["securitySchemes"]


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", KEY, f"Basic {KEY}", "Bearer", f"Bearer {KEY}x"]
)
def test_without_the_key_nothing_is_told(server: Server, header: str | None) -> None:
    with httpx2.Client(base_url=server.client.base_url, trust_env=False) as stranger:
        for body in ({"pairs": pairs(1)}, {"no": "pairs"}):
            given = {} if header is None else {"Authorization": header}
            response = stranger.post("/predict", json=body, headers=given)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert KEY not in response.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"pairs": [{"premise": "only this"}]}',
        b'{"pairs": [{"premise": "a", "hypothesis": 1}]}',
        b'{"pairs": [{"premise": "a", "hypothesis": "b", "third": "c"}]}',
        b'{"pairs": [{"premise": "a", "hypothesis": "half of a pair: \\ud83d"}]}',
    ],
)
def test_a_bad_body_is_refused_and_explained(server: Server, body: bytes) -> None:
    response = server.client.post(
        "/predict", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 422
    assert response.json()["detail"]


def test_too_many_pairs_are_refused_in_one_sentence(server: Server) -> None:
    response = server.client.post("/predict", json={"pairs": pairs(MOST + 1)})
    assert response.status_code == 413
    assert response.json() == {
        "detail": f"the request holds {MOST + 1} pairs; send at most {MOST} at once"
    }


def test_a_second_server_finds_the_port_in_use(
    server: Server, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    spec = config.load(spec_file(tmp_path, model, port=server.port))
    with pytest.raises(UserError, match=rf"serve\.port: 127\.0\.0\.1:{server.port} is in use"):
        serving.run(spec)


def test_an_interrupt_ends_it_in_silence(server: Server) -> None:
    """The last test of the module's server."""
    assert server.end(signal.SIGINT) == 0
    errors = server.errors.read_text()
    assert "stopping the server" in errors
    assert "Traceback" not in errors
    assert server.told.read_text().count("\n") == 2
    assert KEY not in errors
    with pytest.raises(httpx2.ConnectError):
        server.client.get("/healthz")


@pytest.mark.slow
def test_ray_serve_builds_it_from_a_config_file(
    tmp_path: Path, model: Path, sure: tuple[Rows, list[str]]
) -> None:
    """As KubeRay's RayService does, on a Ray of its own."""
    application = {
        "name": "raythief",
        "route_prefix": "/",
        "import_path": "raythief.serving:app",
        "args": {
            "spec": str(spec_file(tmp_path, model)),
            "overrides": [f"serve.key_env={KEY_VARIABLE}", f"serve.max_pairs_per_request={MOST}"],
        },
    }
    port = free_port()
    file = tmp_path / "serve.yaml"
    file.write_text(
        yaml.safe_dump(
            {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [application]}
        )
    )
    environment = {**os.environ, KEY_VARIABLE: KEY}
    environment.pop("RAY_ADDRESS", None)
    told = tmp_path / "told"
    with told.open("w") as out:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "serve", "run", file],
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )
    try:
        address, rows = f"http://127.0.0.1:{port}/predict", sure[0][:MOST]
        deadline = time.monotonic() + 300
        with httpx2.Client(timeout=120, trust_env=False) as client:
            while True:
                assert process.poll() is None, told.read_text()
                assert time.monotonic() < deadline, told.read_text()
                try:
                    found = client.post(address, json={"pairs": rows})
                except httpx2.ConnectError:
                    found = None
                if found is not None and found.status_code == 401:  # before that, no route
                    break
                time.sleep(0.2)
            client.headers["Authorization"] = f"Bearer {KEY}"
            answers = client.post(address, json={"pairs": rows}).json()["answers"]
        assert answers == [{"label": label} for label in sure[1][:MOST]]
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=120)


# --- what needs no server ---------------------------------------------------------------------


def test_with_scores_an_answer_has_all_probabilities(
    classifier: Classifier, sure: tuple[Rows, list[str]]
) -> None:
    rows, labels = sure
    answers = replica.judge(classifier, [web.Pair(**row) for row in rows], scores=True)
    assert [answer.label for answer in answers] == labels
    for answer in answers:
        assert answer.scores is not None
        assert tuple(answer.scores) == LABELS
        assert sum(answer.scores.values()) == pytest.approx(1)
        assert max(answer.scores, key=answer.scores.__getitem__) == answer.label


def test_scores_go_over_the_wire_under_their_names(
    classifier: Classifier, sure: tuple[Rows, list[str]]
) -> None:
    from fastapi.testclient import TestClient

    async def ask(asked: Any) -> list[web.Answer]:
        return replica.judge(classifier, asked, scores=True)

    rows, labels = sure
    app = web.application("scores", config.Serve(scores=True), None, ask)
    [answer] = TestClient(app).post("/predict", json={"pairs": rows[:1]}).json()["answers"]
    assert answer["label"] == labels[0]
    assert set(answer["scores"]) == set(LABELS)


def test_a_body_that_is_too_large_is_refused_before_it_is_there() -> None:
    """Whatever it claims to be, and before the key is asked for."""
    from fastapi.testclient import TestClient

    async def ask(asked: Any) -> list[web.Answer]:
        return [web.Answer(label="neutral") for _ in asked]

    sent = []

    def endless() -> Iterator[bytes]:
        yield b'{"pairs": ['
        while len(sent) < 1000:
            sent.append(b" " * (1 << 14))
            yield sent[-1]

    options = config.Serve(max_pairs_per_request=2)
    client = TestClient(web.application("small", options, web.digest(KEY), ask))
    response = client.post("/predict", content=endless())
    assert response.status_code == 413
    said = "the request has more than 131072 bytes; send fewer pairs at once, or shorter ones"
    assert response.json() == {"detail": said}
    long = [{"premise": "p" * 60_000, "hypothesis": "h" * 60_000}]
    key = {"Authorization": f"Bearer {KEY}"}
    assert client.post("/predict", json={"pairs": long}, headers=key).status_code == 200


def test_a_victim_that_is_trained_is_taken_from_storage(tmp_path: Path, model: Path) -> None:
    spec = config.load(write_spec(tmp_path, storage=str(tmp_path / "artifacts")))
    with pytest.raises(UserError, match="`raythief run SPEC --until victim`"):
        serving.victim(spec)
    stage = pipeline.stages(spec)["victim"]
    artifact = Storage.at(spec.storage).artifact(stage.name, stage.fingerprint)
    artifact.upload(model, "model")
    artifact.finish({})
    source, labels = serving.victim(spec)
    assert labels is None
    assert (source.local() / "config.json").is_file()


def test_a_mistake_is_told_before_ray_starts(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    unnamed = hub_server.tiny_victim(tmp_path / "unnamed", labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    for served, options, told in (
        (model, {"key_env": KEY_VARIABLE}, rf"serve\.key_env: .*{KEY_VARIABLE} is not set"),
        (model, {"host": "203.0.113.1"}, r"serve\.host: 203\.0\.113\.1:8000 is no address"),
        (unnamed, {}, r"victim\.labels: "),
    ):
        with pytest.raises(UserError, match=told):
            serving.run(config.load(spec_file(tmp_path, served, **options)))
    with pytest.raises(UserError, match=r"serve: max_replicas is below replicas"):
        config.load(spec_file(tmp_path, model, replicas=2, max_replicas=1))


def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("raythief.serving")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"serve needs .* `pip install 'raythief\[serve\]'`"):
        importlib.import_module("raythief.serving")
