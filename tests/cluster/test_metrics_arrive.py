"""A sweep that buys from an API, as its figures arrive: at Ray's port, and in a real Prometheus."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api_server import ApiServer, free_port
from conftest import Whole, artifact, folder_of, prepared, raythief, write_spec
from ray_nodes import TOKEN
from raythief import metrics
from raythief.artifacts import Artifact, Storage
from raythief.sharding import kept

pytestmark = pytest.mark.nightly

MONITORING = Path(__file__).parents[2] / "cluster" / "monitoring"
BUDGET, PRICE = 800, 0.25
SWEEP: dict[str, Any] = {
    "evaluation__sets__xnli__split": "validation",
    "extractor__training__steps": 10,
    "real__training": {"steps": 5, "selection": {"every": 5}},
    "resources__inference": {"workers": 1},
    "resources__training": {"workers": 0},
    "costs": {"budget": BUDGET, "query_usd": PRICE},
    # A single real example cannot be held out: the first trial fails.
    "sweep": {"concurrent": 1, "parameters": {"real.fraction": {"grid": [0.0034, 0.1]}}},
}
READ = {
    "tokens": metrics.INFERENCE_TOKENS,
    "padded_tokens": metrics.INFERENCE_PADDED_TOKENS,
}
"""Statistics that a classifier leaves with its answers, and the metrics of the same."""
Tags = tuple[tuple[str, str], ...]


@dataclass
class Watched:
    """What a sweep left behind, and what was seen of it meanwhile."""

    built: list[Artifact]
    record: dict[str, Any]
    seen: dict[str, dict[Tags, float]]
    """The latest value of each series at Ray's port, by name and tags."""
    prometheus: str | None
    """Address of a Prometheus that watched too."""
    began: float

    def bill(self, name: str) -> int:
        """A figure of all purchases together."""
        results = [artifact.verify()["results"] for artifact in self.built]
        return sum(one[name] for one in results if "spent" in one)

    def expected(self) -> dict[tuple[metrics.Metric, str], float]:
        """What the manifests say of each metric, and of the values of its own tags."""
        found: dict[tuple[metrics.Metric, str], float] = {
            (metrics.ROWS, ""): self.bill("queries"),
            (metrics.REJECTED_ROWS, ""): self.bill("rejected"),
            (metrics.MISSING_ROWS, ""): 0,
            (metrics.SPENT_QUERIES, ""): self.bill("spent"),
            (metrics.SPENT_DOLLARS, ""): PRICE * self.bill("spent"),
            (metrics.BUDGET_QUERIES, ""): BUDGET,
            (metrics.API_REQUESTS, ""): self.bill("attempts"),
            (metrics.API_RETRIES, ""): self.bill("retries"),
            (metrics.STAGES, "labels built"): 1,
            (metrics.STAGES, "corpus found"): 1,
            (metrics.STAGES_RUNNING, "labels"): 0,
            (metrics.SWEEP_TRIALS, "running"): 0,
            (metrics.SWEEP_TRIALS, "done"): 1,
            (metrics.SWEEP_TRIALS, "stopped"): 0,
            (metrics.SWEEP_TRIALS, "failed"): 1,
            (metrics.SWEEP_PLANNED_TRIALS, ""): 2,
            (metrics.SWEEP_BEST_OBJECTIVE, ""): self.record["rows"][1]["objective"],
        }
        for built in self.built:
            for name, metric in READ.items():
                count = sum(part.get(name, 0) for part in kept(built).values())
                found[metric, ""] = found.get((metric, ""), 0) + count
            lines = built.storage.read_bytes(f"{built.path}/steps.jsonl")
            if lines is None:
                continue
            stage, steps = built.stage, [json.loads(line) for line in lines.splitlines()]
            found |= {
                (metrics.TRAINING_STEPS, stage): len(steps),
                (metrics.TRAINING_TOKENS, stage): sum(one["tokens"] for one in steps),
                (metrics.TRAINING_PADDED_TOKENS, stage): sum(one["padded_tokens"] for one in steps),
                (metrics.TRAINING_LOSS, stage): steps[-1]["loss"],
                (metrics.TRAINING_LEARNING_RATE, stage): steps[-1]["learning_rate"],
                (metrics.TRAINING_PROGRESS, stage): 1,
            }
        return found


def arrived(metric: metrics.Metric, tags: str, series: dict[Tags, float]) -> float | None:
    """The value of a metric with such tags, over all workers; none where no such series came."""
    values = {
        given: value
        for given, value in series.items()
        if " ".join(dict(given)[name] for name in metric.tags) == tags
    }
    if not values:
        return None
    if isinstance(metric, metrics.Counter):
        return sum(values.values())
    [value] = values.values()
    return value


@pytest.fixture(scope="module")
def watched(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The sweep, on a cluster that is started by hand."""
    folder = tmp_path_factory.mktemp("watched")
    storage = prepared(whole, folder)
    before = set(storage.glob("*/*/manifest.json"))
    refused = _words_of_one_query(whole)
    with ApiServer(folder, script=[500, 429], refuse=refused) as server, _Ray() as ray:
        api = {"url": server.url, "in_flight": 4, "rows_per_request": 5, "backoff_s": 0.05}
        victim = {"training": None, "model": "none/none", "api": api, "sanity": {"count": 0}}
        spec = write_spec(folder, storage=str(storage), victim=victim, **SWEEP)
        with _Prometheus(folder, ray.nodes) as prometheus:
            began = time.time()
            with _Watch(ray.page) as watch:
                done = raythief("sweep", str(spec), "--address", ray.address, environment=TOKEN)
                assert done.returncode == 0, done.stderr
                time.sleep(5)  # the last processes bring their figures as they end
            files = sorted(set(storage.glob("*/*/manifest.json")) - before)
            yield Watched(
                [Storage.at(str(storage)).artifact(*file.parts[-3:-1]) for file in files],
                json.loads((folder_of(storage, "tiny-sweep") / "run.json").read_text()),
                watch.seen,
                prometheus,
                began,
            )


def test_figures_arrive_at_rays_port_as_the_manifests_have_them(watched: Watched) -> None:
    expected = watched.expected()
    assert watched.bill("rejected") == 1
    assert watched.bill("retries") >= 2
    for (metric, tags), value in expected.items():
        got = arrived(metric, tags, watched.seen[metric.series])
        assert got == pytest.approx(value), f"{metric.series} {tags}"
    # Nothing was resumed; all else is among the above, and nothing else is exported.
    resumed = {metrics.TRAINING_RESUMPTIONS.series}
    assert {metric.series for metric, _ in expected} == watched.seen.keys()
    assert watched.seen.keys() == {one.series for one in metrics.EXPORTED} - resumed


def test_series_are_few_and_their_tags_hold_no_text(watched: Watched) -> None:
    rays = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "NodeId"}
    for metric in metrics.EXPORTED:
        for tags in watched.seen.get(metric.series, {}):
            own = {name for name, _ in tags if not name.startswith("otel_")} - rays
            assert own == set(metric.tags)
            assert all(value.replace("_", "").isalpha() for name, value in tags if name in own)


def test_prometheus_has_them_and_the_dashboard_shows_them(watched: Watched) -> None:
    base = watched.prometheus
    if base is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    deadline = time.monotonic() + 120
    # It looks every ten seconds: until then it has what the processes said before they ended.
    while differing := _differing(base, watched.expected()):
        assert time.monotonic() < deadline, differing
        time.sleep(1)
    targets = _ask(base, "targets")["activeTargets"]
    assert targets
    assert {target["scrapePool"] for target in targets} == {"ray"}

    without = {
        ("Time left", "Time left"),  # all rows may come between two looks
        ("GPU utilisation", "{{ip}} GPU {{GpuIndex}}"),
        ("GPU memory", "{{ip}} GPU {{GpuIndex}}"),
        ("Failures", "{{stage}} failed"),
        ("Failures", "{{stage}} resumed"),
        ("Failures", "processes lost"),
        ("Failures", "killed for memory"),
    }
    # What came with the last look lies past the last step of a query until some seconds later.
    while not (empty := _empty_panels(base, watched.began)) <= without:
        assert time.monotonic() < deadline + 60, empty - without
        time.sleep(5)


def _differing(
    base: str, expected: dict[tuple[metrics.Metric, str], float]
) -> dict[str, tuple[float | None, float]]:
    """What Prometheus has of each metric, and what it should have, where they differ."""
    found = {}
    for (metric, tags), value in expected.items():
        results = _ask(base, "query", query=f"last_over_time({metric.series}[1h])")["result"]
        series = {tuple(one["metric"].items()): float(one["value"][1]) for one in results}
        got = arrived(metric, tags, series)
        if got != pytest.approx(value):
            found[f"{metric.series} {tags}"] = (got, value)
    return found


def _empty_panels(base: str, began: float) -> set[tuple[str, str]]:
    """Title and legend of each line of the dashboard that would not be drawn."""
    empty = set()
    for panel in json.loads((MONITORING / "grafana" / "raythief.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$session", ".*").replace("$__rate_interval", "1m")
            span = {"start": began, "end": time.time(), "step": 5}
            if not _ask(base, "query_range", query=query, **span)["result"]:
                empty.add((panel["title"], target["legendFormat"]))
    return empty


def _words_of_one_query(whole: Whole) -> str:
    """Neighbours in a single query, which the API is to refuse."""
    queries = artifact(whole, "queries").read_table()
    texts = [*queries["premise"].to_pylist(), *queries["hypothesis"].to_pylist()]
    for text in texts:
        words = " ".join(text.split()[:3])
        if words.isascii() and words.count(" ") == 2 and sum(words in one for one in texts) == 1:
            return words
    raise AssertionError("no query is like no other")


class _Ray:
    """A cluster of one node, as `ray start` makes it, on ports of its own."""

    def __enter__(self) -> _Ray:
        self.folder = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))  # short: sockets lie below it
        ports = {
            name: free_port()
            for name in (
                "port", "dashboard-port", "ray-client-server-port", "metrics-export-port",
                "dashboard-agent-listen-port",
            )
        }  # fmt: skip
        environment = {**os.environ, **TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
        environment.pop("RAY_ADDRESS", None)
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
                "--num-cpus=4", "--node-ip-address=127.0.0.1", f"--temp-dir={self.folder}",
                *(f"--{name}={port}" for name, port in ports.items()),
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.address = f"127.0.0.1:{ports['port']}"
        self.page = f"http://127.0.0.1:{ports['metrics-export-port']}/metrics"
        """Its figures."""
        self.nodes = self.folder / "prom_metrics_service_discovery.json"
        """Where it lists its nodes for Prometheus."""
        _wait(lambda: self.nodes.exists() and bool(_read(self.page)), self.process)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()  # it ends all that it started
        self.process.wait(timeout=150)
        shutil.rmtree(self.folder, ignore_errors=True)


class _Prometheus:
    """A Prometheus by our configuration, but for where the list of nodes lies."""

    def __init__(self, folder: Path, nodes: Path) -> None:
        self.folder, self.nodes = folder, nodes
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> str | None:
        if shutil.which("prometheus") is None:
            return None
        config = (MONITORING / "prometheus.yml").read_text()
        theirs = "/tmp/ray/prom_metrics_service_discovery.json"
        assert theirs in config
        (self.folder / "prometheus.yml").write_text(config.replace(theirs, str(self.nodes)))
        shutil.copy(MONITORING / "alerts.yml", self.folder)
        address = f"127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            [
                "prometheus", f"--config.file={self.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.folder / 'tsdb'}", f"--web.listen-address={address}",
                "--log.level=error",
            ]
        )  # fmt: skip
        _wait(lambda: bool(_read(f"http://{address}/-/ready")), self.process)
        return f"http://{address}"

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=60)


class _Watch:
    """Reads a page of figures every second, and keeps the latest value of each series of ours."""

    def __init__(self, page: str) -> None:
        self.page, self.ended = page, threading.Event()
        self.seen: dict[str, dict[Tags, float]] = {}
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> _Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _run(self) -> None:
        while not self.ended.wait(1):
            lines = [line for line in _read(self.page).splitlines() if "ray_raythief_" in line]
            for family in text_string_to_metric_families("\n".join([*lines, ""])):
                for sample in family.samples:
                    latest = self.seen.setdefault(sample.name, {})
                    latest[tuple(sample.labels.items())] = sample.value


def _wait(ready: Any, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "it ended at once"
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _read(address: str) -> str:
    """A page; nothing where nobody answers."""
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def _ask(base: str, what: str, **parameters: Any) -> Any:
    """An answer of Prometheus's HTTP interface."""
    query = urllib.parse.urlencode(parameters)
    answer = json.loads(_read(f"{base}/api/v1/{what}?{query}"))
    assert answer["status"] == "success", answer
    return answer["data"]
