"""The dashboard and the alerts name what is exported; what is exported is shown or alerted on."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import yaml
from rich.console import Console

from raythief import building, metrics
from raythief.artifacts import Artifact, Storage
from raythief.config import Costs
from raythief.errors import UserError
from raythief.metering import Meter
from raythief.progress import Display, Tell, silent
from raythief.results import Results
from raythief.stages import Stage
from raythief.training.record import Recorder

FOLDER = Path(__file__).parents[2] / "cluster" / "monitoring"
OURS = {metric.series for metric in metrics.EXPORTED}
RAYS = {
    "ray_node_cpu_utilization": "dashboard/modules/reporter/reporter_agent.py",
    "ray_node_mem_used": "dashboard/modules/reporter/reporter_agent.py",
    "ray_node_gpus_utilization": "dashboard/modules/reporter/reporter_agent.py",
    "ray_node_gram_used": "dashboard/modules/reporter/reporter_agent.py",
    "ray_node_manager_unexpected_worker_failure_total": "core/src/ray/raylet/raylet",
    "ray_memory_manager_worker_eviction_total": "core/src/ray/raylet/raylet",
}
"""Metrics of Ray's own that we use, and the file of its package that defines each."""
WORDS = {"and", "or", "unless", "offset", "bool"}
"""Of PromQL, which are no functions."""


def panels() -> list[dict[str, Any]]:
    tree = json.loads((FOLDER / "grafana" / "raythief.json").read_text())
    found: list[dict[str, Any]] = tree["panels"]
    return found


def graphs() -> list[dict[str, Any]]:
    return [panel for panel in panels() if panel["type"] != "row"]


def shown() -> Iterator[str]:
    """Every query of the dashboard, its variables filled in."""
    for panel in graphs():
        for target in panel["targets"]:
            yield target["expr"].replace("$session", ".*").replace("$__rate_interval", "1m")


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def names(query: str) -> set[str]:
    """The metrics that a query in PromQL reads: names that are no function, tag or word of it."""
    plain = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\boffset\s+\w+', "", query)
    plain = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", plain)
    return set(re.findall(r"\b[a-zA-Z_][\w:]*\b(?!\s*\()", plain)) - WORDS


def used() -> set[str]:
    return set().union(*map(names, shown()), *(names(rule["expr"]) for rule in rules()))


def test_the_names_in_a_query_are_told_from_the_rest_of_it() -> None:
    query = 'sum by (stage) (rate(a_total{b="c"}[5m])) > on (d) (e offset 15m or 0 * f) and g'
    assert names(query) == {"a_total", "e", "f", "g"}


def test_queries_name_only_metrics_that_are_exported() -> None:
    assert used() - OURS - RAYS.keys() == set()


@pytest.mark.parametrize("name", RAYS)
def test_this_ray_exports_the_metrics_that_we_take_from_it(name: str) -> None:
    assert name in used(), "we do not use it: leave it out"
    source = (Path(ray.__file__).parent / RAYS[name]).read_bytes()
    assert name.removeprefix("ray_").removesuffix("_total").encode() in source


def test_every_metric_that_is_exported_is_shown_or_alerted_on() -> None:
    assert OURS - used() == set()


def test_metrics_are_named_as_prometheus_asks() -> None:
    assert len(OURS) == len(metrics.EXPORTED)
    for metric in metrics.EXPORTED:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", metric.name)
        assert not metric.name.endswith("_total"), "Prometheus's name of a counter gets it"
        assert metric.series.endswith("_total") == isinstance(metric, metrics.Counter)
        assert metric.description.endswith(".")
        assert metric.unit
        if metric.unit == "ratio":
            assert metric.name.endswith("_ratio")


def test_the_dashboard_is_the_one_that_its_program_makes() -> None:
    made = runpy.run_path(str(FOLDER / "dashboard.py"))["dashboard"]()
    kept = (FOLDER / "grafana" / "raythief.json").read_text()
    assert kept == json.dumps(made, indent=1, ensure_ascii=False) + "\n", (
        "python cluster/monitoring/dashboard.py > cluster/monitoring/grafana/raythief.json"
    )


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in panels()]
    assert len({panel["id"] for panel in panels()}) == len(places)
    assert len({panel["title"] for panel in panels()}) == len(places)
    covered = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24


def test_panels_say_what_they_show() -> None:
    variables = json.loads((FOLDER / "grafana" / "raythief.json").read_text())["templating"]["list"]
    assert {one["name"]: one["type"] for one in variables} == {
        "datasource": "datasource",
        "session": "query",
    }
    for panel in graphs():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["description"]
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert all(legends)
        assert len(set(legends)) == len(legends)
        for target in panel["targets"]:  # a legend that names a tag which is summed away is empty
            tags = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            summed = re.match(r"(1 - )?sum( by \((?P<kept>\w+)\))? \(?", target["expr"])
            assert not summed or tags == {summed["kept"]} - {None}


def test_grafana_is_pointed_at_the_dashboard_and_at_prometheus() -> None:
    folder = FOLDER / "grafana" / "provisioning"
    [source] = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    [place] = yaml.safe_load((folder / "dashboards/raythief.yml").read_text())["providers"]
    assert place["options"]["path"] == "$RAYTHIEF_DASHBOARDS"
    readme = (FOLDER / "README.md").read_text()
    assert "RAYTHIEF_DASHBOARDS=$PWD/cluster/monitoring/grafana" in readme


def test_an_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


class Told:
    """What a test's process exported: the sum of a counter, the latest of a gauge."""

    def __init__(self) -> None:
        self.values: dict[tuple[metrics.Metric, str], float] = {}

    def __call__(self, metric: metrics.Metric, tag: str = "") -> float | None:
        return self.values.get((metric, tag))

    def exported(self, kind: type, metric: metrics.Metric) -> Any:
        def change(value: float, tags: dict[str, str]) -> None:
            key = metric, "".join(tags.values())
            before = self.values.get(key, 0) if isinstance(metric, metrics.Counter) else 0
            self.values[key] = before + value

        return SimpleNamespace(inc=change, set=change)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setattr(metrics, "_exported", told.exported)
    return told


def test_a_meter_tells_what_is_spent_over_all_runs_and_what_is_missing(
    told: Told, tmp_path: Path
) -> None:
    storage = Storage.at(str(tmp_path))
    victim = "answers/" + "0" * 16
    sanity, labels = storage.artifact(victim, "a" * 16), storage.artifact(victim, "b" * 16)
    before = Meter(storage, Costs())
    before.open(sanity.path, 10, 0, 0)
    before.take(sanity.path, 10, 10)
    before.keep(sanity.path, 10, 0)
    meter = Meter(storage, Costs(budget=200, query_usd=0.5), [victim])
    assert (told(metrics.BUDGET_QUERIES), told(metrics.SPENT_QUERIES)) == (200, 10)
    meter.open(labels.path, 100, 0, 0)
    assert told(metrics.MISSING_ROWS) == 100
    meter.take(labels.path, 40, 40)
    meter.keep(labels.path, 28, 2)
    meter.give_back(labels.path, 10)
    assert (told(metrics.SPENT_QUERIES), told(metrics.SPENT_DOLLARS)) == (40, 20)
    assert (told(metrics.ROWS), told(metrics.REJECTED_ROWS)) == (10 + 30, 2)
    assert told(metrics.MISSING_ROWS) == 70
    meter.stop(labels.path, "refused")
    assert told(metrics.MISSING_ROWS) == 0, "nobody buys them any more"


def test_stages_are_counted_by_what_became_of_them(told: Told, tmp_path: Path) -> None:
    def build(target: Artifact, given: Mapping[str, Artifact], tell: Tell) -> Results:
        assert told(metrics.STAGES_RUNNING, target.stage) == 1
        if target.stage == "bad":
            raise UserError("corpus: is empty")
        return Results()

    good, bad = Stage("good", {}, build), Stage("bad", {}, build)
    after = Stage("after", {}, build, {"input": bad})
    for _ in range(2):
        with Display(Console(file=io.StringIO())) as display:
            building.build(
                {"good": good, "after": after}, Storage.at(str(tmp_path)), display, concurrent=2
            )
    outcomes = {tag: n for (metric, tag), n in told.values.items() if metric is metrics.STAGES}
    assert outcomes == {"goodbuilt": 1, "goodfound": 1, "badfailed": 2}
    assert told(metrics.STAGES_RUNNING, "good") == told(metrics.STAGES_RUNNING, "bad") == 0


def test_a_stage_that_is_damaged_before_it_is_used_fails_and_is_under_way_no_more(
    told: Told, tmp_path: Path
) -> None:
    class Damaging(Display):
        @contextlib.contextmanager
        def stage(self, title: str) -> Iterator[Tell]:
            yield silent
            next(tmp_path.glob("torn/*/manifest.json")).write_text("{}")

    torn = Stage("torn", {}, lambda *_: Results())
    with Damaging(Console(file=io.StringIO())) as display:
        outcomes = building.build({"torn": torn}, Storage.at(str(tmp_path)), display, concurrent=1)
    assert "damaged: manifest.json" in str(outcomes[torn.fingerprint].error)
    assert told(metrics.STAGES_RUNNING, "torn") == 0


def test_a_training_that_goes_on_from_a_checkpoint_is_counted(told: Told, tmp_path: Path) -> None:
    target = Storage.at(str(tmp_path)).artifact("extractor", "a" * 16)
    Recorder(target, silent, rank=0, world=2, done=0, steps=10)
    assert not told(metrics.TRAINING_RESUMPTIONS, "extractor")
    for rank in range(2):  # one training, whatever the number of its workers
        Recorder(target, silent, rank, world=2, done=5, steps=10)
    assert told(metrics.TRAINING_RESUMPTIONS, "extractor") == 1
    for done in (4, 7):  # the end of a shorter training is no crash, a checkpoint after it is
        Recorder(target, silent, rank=0, world=1, done=done, steps=10, earlier=4)
    assert told(metrics.TRAINING_RESUMPTIONS, "extractor") == 2


def test_a_metric_without_its_tag_is_refused() -> None:
    with pytest.raises(ValueError, match="stage"):
        metrics.TRAINING_LOSS.set(1.0)


def promtool(*arguments: str, folder: Path = FOLDER) -> str:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run(
        ["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_its_configuration_and_the_alerts() -> None:
    assert "1 rule files found" in promtool("check", "config", "prometheus.yml")


def test_alerts_fire_when_they_should_and_at_no_other_time() -> None:
    promtool("test", "rules", "alerts_test.yml")
    tested = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tested
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in rules()}


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    recorded = [{"record": f"shown:{i}", "expr": query} for i, query in enumerate(shown())]
    file = tmp_path / "shown.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "shown", "rules": recorded}]}))
    promtool("check", "rules", str(file))
