"""The Grafana dashboard, made from the metrics that the code exports.

python cluster/monitoring/dashboard.py > cluster/monitoring/grafana/raythief.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from raythief import metrics
from raythief.metrics import Metric

SCHEMA_VERSION = 39
"""Of Grafana 11, which newer ones read."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SESSION = 'SessionName=~"$session"'
"""Ray's own tag: one for each start of a cluster."""
COLUMNS = 24
"""Of Grafana's grid."""
WORKER = '"worker", "$1", "WorkerId", "(.{6}).*"'
"""Arguments of `label_replace`: the first six digits of a worker's id tell it from others."""


@dataclass(frozen=True)
class Panel:
    """A graph, or a single number (`stat`)."""

    title: str
    description: str
    unit: str
    """Grafana's name of it: `short` is a plain number, `percentunit` a share of 1."""
    queries: Sequence[tuple[str, str]]
    """Legend and PromQL of each curve."""
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    custom: dict[str, Any] = field(default_factory=dict)
    """How curves are drawn, where the default does not do."""
    limits: dict[str, float] = field(default_factory=lambda: {"min": 0})
    """Least and largest value of the axis; what is not given follows the curves."""
    thresholds: Sequence[tuple[str, float | None]] = (("green", None),)
    """Colour from each value on."""


def of(metric: Metric | str, **tags: str) -> str:
    """Selector of a metric's series in the session that is looked at."""
    name = metric if isinstance(metric, str) else metric.series
    conditions = [SESSION, *(f'{tag}="{value}"' for tag, value in tags.items())]
    return f"{name}{{{', '.join(conditions)}}}"


def rate(metric: Metric | str, by: str = "") -> str:
    """What a counter gains a second, over all workers."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({of(metric)}[$__rate_interval]))"


def padding(tokens: Metric, padded: Metric, by: str = "") -> str:
    """Share of padding among the tokens of the last minutes."""
    return f"1 - {rate(tokens, by)} / {rate(padded, by)}"


def each(metric: Metric) -> str:
    """A training's gauge, with a short name of its worker."""
    return f"label_replace({of(metric)}, {WORKER})"


def stat(title: str, description: str, unit: str, query: str, **how: Any) -> Panel:
    """A single number."""
    return Panel(title, description, unit, [("", query)], kind="stat", width=4, height=4, **how)


STEPS = {"drawStyle": "line", "lineInterpolation": "stepAfter"}
LATEST = "{{stage}} {{worker}}"

ROWS: dict[str, list[Panel]] = {
    "Purchase": [
        stat("Rows bought", metrics.ROWS.description, "short", f"sum({of(metrics.ROWS)})"),
        stat(
            "Rows to buy",
            metrics.MISSING_ROWS.description,
            "short",
            f"sum({of(metrics.MISSING_ROWS)})",
        ),
        stat(
            "Time left",
            "Rows to buy at the rate of the last five minutes.",
            "s",
            f"sum({of(metrics.MISSING_ROWS)}) / (sum(rate({of(metrics.ROWS)}[5m])) > 0)",
        ),
        stat(
            "Budget spent",
            "Queries spent, as a share of the budget; empty where there is none.",
            "percentunit",
            f"max({of(metrics.SPENT_QUERIES)} / {of(metrics.BUDGET_QUERIES)})",
            thresholds=(("green", None), ("orange", 0.9), ("red", 1.0)),
        ),
        stat(
            "Spent",
            metrics.SPENT_DOLLARS.description,
            "currencyUSD",
            f"sum({of(metrics.SPENT_DOLLARS)})",
        ),
        stat(
            "Rejected",
            metrics.REJECTED_ROWS.description,
            "percentunit",
            f"(sum({of(metrics.REJECTED_ROWS)}) or vector(0)) / sum({of(metrics.ROWS)})",
            thresholds=(("green", None), ("orange", 0.01), ("red", 0.05)),
        ),
        Panel(
            "Rows per second",
            "Labelled and rejected rows, over all workers.",
            "short",
            [("rows", rate(metrics.ROWS)), ("rejected", rate(metrics.REJECTED_ROWS))],
        ),
        Panel(
            "Queries spent against the budget",
            metrics.SPENT_QUERIES.description,
            "short",
            [
                ("spent", f"sum({of(metrics.SPENT_QUERIES)})"),
                ("budget", f"sum({of(metrics.BUDGET_QUERIES)})"),
            ],
        ),
        Panel(
            "Requests to the API per second",
            "All requests, and those that repeat an earlier one.",
            "reqps",
            [("requests", rate(metrics.API_REQUESTS)), ("retries", rate(metrics.API_RETRIES))],
        ),
    ],
    "Speed": [
        Panel(
            "Tokens per second",
            "Padding not counted. Inference labels, evaluates and serves.",
            "short",
            [
                ("inference", rate(metrics.INFERENCE_TOKENS)),
                ("training {{stage}}", rate(metrics.TRAINING_TOKENS, "stage")),
            ],
        ),
        Panel(
            "Padding share",
            "Share of the tokens that a model computes for nothing.",
            "percentunit",
            [
                (
                    "inference",
                    padding(metrics.INFERENCE_TOKENS, metrics.INFERENCE_PADDED_TOKENS),
                ),
                (
                    "training {{stage}}",
                    padding(metrics.TRAINING_TOKENS, metrics.TRAINING_PADDED_TOKENS, "stage"),
                ),
            ],
        ),
        Panel(
            "GPU utilisation",
            "Share of time in which the GPU computed at all, as Ray's agents measure it.",
            "percent",
            [("{{ip}} GPU {{GpuIndex}}", of("ray_node_gpus_utilization"))],
            limits={"min": 0, "max": 100},
        ),
        Panel(
            "GPU memory",
            "Used memory of each GPU.",
            "mbytes",
            [("{{ip}} GPU {{GpuIndex}}", of("ray_node_gram_used"))],
        ),
        Panel(
            "CPU utilisation",
            "All cores of a node.",
            "percent",
            [("{{ip}}", of("ray_node_cpu_utilization"))],
            limits={"min": 0, "max": 100},
        ),
        Panel(
            "Memory",
            "Used memory of each node.",
            "bytes",
            [("{{ip}}", of("ray_node_mem_used"))],
        ),
    ],
    "Training": [
        Panel(
            "Loss",
            "Of the latest step. A loss that stays at ln 3 = 1.0986 is that of a model which "
            "answers by chance: a collapse.",
            "none",
            [(LATEST, each(metrics.TRAINING_LOSS)), ("chance", "ln(vector(3))")],
        ),
        Panel(
            "Learning rate",
            metrics.TRAINING_LEARNING_RATE.description,
            "sci",
            [(LATEST, each(metrics.TRAINING_LEARNING_RATE))],
        ),
        Panel(
            "Steps done",
            metrics.TRAINING_PROGRESS.description,
            "percentunit",
            [(LATEST, each(metrics.TRAINING_PROGRESS))],
            limits={"min": 0, "max": 1},
        ),
        Panel(
            "Steps per second",
            metrics.TRAINING_STEPS.description,
            "short",
            [("{{stage}}", rate(metrics.TRAINING_STEPS, "stage"))],
        ),
    ],
    "Sweep": [
        Panel(
            "Trials",
            metrics.SWEEP_TRIALS.description,
            "short",
            [
                ("{{status}}", f"sum by (status) ({of(metrics.SWEEP_TRIALS)})"),
                ("planned", f"sum({of(metrics.SWEEP_PLANNED_TRIALS)})"),
            ],
            custom=STEPS,
        ),
        Panel(
            "Best objective",
            metrics.SWEEP_BEST_OBJECTIVE.description,
            "percentunit",
            [("best", f"max({of(metrics.SWEEP_BEST_OBJECTIVE)})")],
            custom=STEPS,
            limits={},
        ),
    ],
    "Stages and failures": [
        Panel(
            "Stages under way",
            metrics.STAGES_RUNNING.description,
            "short",
            [("{{stage}}", f"sum by (stage) ({of(metrics.STAGES_RUNNING)})")],
            custom={**STEPS, "fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}},
        ),
        Panel(
            "Stages by outcome",
            metrics.STAGES.description,
            "short",
            [("{{outcome}}", f"sum by (outcome) ({of(metrics.STAGES)})")],
            custom=STEPS,
        ),
        Panel(
            "Failures",
            "Stages and trials that failed, trainings that went on from a checkpoint, and "
            "processes that Ray lost or killed for want of memory.",
            "short",
            [
                (
                    "{{stage}} failed",
                    f"sum by (stage) ({of(metrics.STAGES, outcome='failed')})",
                ),
                ("trials failed", f"sum({of(metrics.SWEEP_TRIALS, status='failed')})"),
                (
                    "{{stage}} resumed",
                    f"sum by (stage) ({of(metrics.TRAINING_RESUMPTIONS)})",
                ),
                (
                    "processes lost",
                    f"sum({of('ray_node_manager_unexpected_worker_failure_total')})",
                ),
                (
                    "killed for memory",
                    f"sum({of('ray_memory_manager_worker_eviction_total')})",
                ),
            ],
            custom=STEPS,
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False,
             "gridPos": place, "panels": []}
        )  # fmt: skip
        top, left, height = top + 1, 0, 0
        for panel in row:
            if left + panel.width > COLUMNS:
                top, left = top + height, 0
            height = panel.height  # of a whole line: neighbours are equally tall
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
            left += panel.width
        top += height
    return {
        "uid": "raythief",
        "title": "raythief",
        "description": "What is bought, how fast, what is learned, and what fails.",
        "tags": ["ray", "raythief"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    query = "label_values(ray_node_cpu_utilization, SessionName)"
    return [
        {
            "name": "datasource",
            "label": "Prometheus",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "hide": 0,
        },
        {
            "name": "session",
            "label": "Ray session",
            "type": "query",
            "datasource": DATASOURCE,
            "definition": query,
            "query": {"query": query, "refId": "session"},
            "refresh": 2,
            "sort": 2,
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "current": {"text": ["All"], "value": ["$__all"]},
            "hide": 0,
        },
    ]


def _panel(panel: Panel) -> dict[str, Any]:
    steps = [{"color": color, "value": value} for color, value in panel.thresholds]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        **panel.limits,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.kind == "stat":
        options: dict[str, Any] = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
        }
    else:
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {"lineWidth": 1, "showPoints": "never"}
        defaults["custom"] |= panel.custom
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": DATASOURCE,
                "expr": query,
                "legendFormat": legend or panel.title,
            }
            for i, (legend, query) in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1, ensure_ascii=False))
