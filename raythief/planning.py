"""What a run would build and take, reckoned without network, cluster or model.

Work is counted in floating-point operations from the sizes of models and data (Kaplan et al. 2020:
2 per weight and token forward, 6 for training, attention apart), and turned into GPU hours by the
speed that the spec's ``costs`` assume. Those are estimates, and are called so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from raythief import metering, models, nli, runs
from raythief.artifacts import Storage
from raythief.config import Model, Spec, Training
from raythief.stages import Stage

WORDS_PER_SENTENCE = 25.0
"""Mean length of a sentence of WikiText-103 within the default limits; replaced by the measured
one once the vocabulary is there."""
TOKENS_PER_WORD = 2.9
"""Subwords a uniformly drawn, mostly rare word takes in the encoders of the paper (rough)."""
TOKENS_PER_REAL_PAIR = 45.0
"""Mean encoded length of an MNLI or XNLI pair (rough)."""

_LARGE, _BASE = (24, 1024), (12, 768)
SHAPES: dict[str, tuple[int, int]] = {
    "FacebookAI/roberta-large-mnli": _LARGE,
    "FacebookAI/roberta-large": _LARGE,
    "FacebookAI/roberta-base": _BASE,
    "FacebookAI/xlm-roberta-large": _LARGE,
    "FacebookAI/xlm-roberta-base": _BASE,
    "google-bert/bert-large-uncased": _LARGE,
    "google-bert/bert-base-multilingual-cased": _BASE,
}
"""Layers and hidden size of the paper's encoders (their configs on the hub)."""


@dataclass(frozen=True)
class Work:
    """What one stage takes."""

    what: str
    flops: float = 0.0


@dataclass(frozen=True)
class Step:
    """One stage of a plan."""

    role: str
    owner: str
    """Which rows use it; empty where there is only one."""
    stage: Stage
    there: bool
    work: Work


def steps(rows: Sequence[runs.Row], storage: Storage) -> list[Step]:
    """Every stage of the rows once, in the order of building."""
    users = {stage.fingerprint: (row, stage) for row in rows for stage in row.stages.values()}
    found = []
    for key, (role, owner) in runs.owners(rows).items():
        row, stage = users[key]
        there = storage.artifact(stage.name, key).manifest() is not None
        found.append(Step(role, owner, stage, there, work(row, role, storage)))
    return found


def work(row: runs.Row, role: str, storage: Storage) -> Work:
    """What a stage of a row takes."""
    spec = row.variant.spec
    count = spec.queries.count
    gibberish = _tokens_per_query(row, storage)
    real = nli.rows(spec.real.train, spec.root)
    if role == "queries":
        return Work(f"{count:,} pairs")
    bought = row.stages[role].queries
    victim_flops = 0.0 if spec.victim.api else 2 * _per_token(spec.victim, spec)
    if role == "sanity":
        return Work(f"{bought:,} queries", victim_flops * bought * TOKENS_PER_REAL_PAIR)
    if role == "labels":
        tokens = count * min(gibberish, spec.inference.max_tokens)
        return Work(f"{count:,} queries", victim_flops * tokens)
    if role == "victim_evaluation" and spec.victim.api:
        return Work(f"{bought:,} queries" if bought else "queries not known")
    if role == "victim":
        assert spec.victim.training is not None
        return _training(spec, spec.victim, spec.victim.training, [(real, TOKENS_PER_REAL_PAIR)])
    if role == "finetuned":
        share = [(round(spec.real.fraction * real), TOKENS_PER_REAL_PAIR)]
        how = spec.real.training or spec.extractor.training
        return _training(spec, spec.extractor, how, share)
    if role == "extractor":
        parts = []
        if spec.real.placement != "only":
            parts.append((spec.learned_queries, gibberish))
        if spec.real.placement != "after" and spec.real.fraction:
            parts.append((round(spec.real.fraction * real), TOKENS_PER_REAL_PAIR))
        return _training(spec, spec.extractor, spec.extractor.training, parts)
    if role.startswith("vectors:") and spec.figure2 is not None:
        kind = role.partition(":")[2]
        pairs = real if kind == "train" else spec.figure2.count
        length = gibberish if kind == "gibberish" else TOKENS_PER_REAL_PAIR
        tokens = pairs * min(length, spec.inference.max_tokens)
        return Work(f"{pairs:,} pairs", 2 * _per_token(spec.figure2, spec) * tokens)
    if role == "figure2" and spec.figure2 is not None:
        return Work(f"{2 * spec.figure2.count:,} x {real:,} distances")
    if role == "aligned":
        assert spec.extractor.bilstm is not None
        count = len(row.stages[role].config["languages"])
        return Work(f"{count} languages x {spec.extractor.bilstm.alignment.steps:,} steps")
    if role in ("evaluation", "victim_evaluation"):
        model = spec.extractor if role == "evaluation" else spec.victim
        pairs, tokens = 0, 0.0
        for name, chosen in spec.evaluation.sets.items():
            if f"examples:{name}" in row.stages[role].inputs:
                size = nli.rows(chosen, spec.root) * len(chosen.languages)
                length = gibberish if chosen.source == "queries" else TOKENS_PER_REAL_PAIR
                pairs, tokens = pairs + size, tokens + size * length
        return Work(f"{pairs:,} pairs", 2 * _per_token(model, spec) * tokens)
    return Work("")


def show(spec: Spec, rows: Sequence[runs.Row], console: Console) -> None:
    """Print the plan of some rows of a spec."""
    storage = Storage.at(spec.storage)
    plan = steps(rows, storage)
    speed = spec.costs.gpu_flops * spec.costs.utilisation
    table = Table(title=f"{spec.name}: {len(plan)} stages", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("Stage", no_wrap=True)
    if any(step.owner for step in plan):
        table.add_column("Rows", no_wrap=True)
    table.add_column("State", no_wrap=True)
    table.add_column("Work", no_wrap=True)
    table.add_column("PFLOP", justify="right")
    table.add_column("GPU hours", justify="right")
    for step in plan:
        flops = step.work.flops
        table.add_row(
            step.role,
            *([step.owner] if len(table.columns) > 5 else []),
            "[green]there[/]" if step.there else "missing",
            step.work.what,
            f"{flops / 1e15:,.1f}" if flops else "",
            f"{flops / speed / 3600:.2f}" if flops else "",
        )
    console.print(table)
    missing = [step for step in plan if not step.there]
    queries = sum(step.stage.queries for step in missing)
    hours = sum(step.work.flops for step in missing) / speed / 3600
    dollars = queries * spec.costs.query_usd + hours * spec.costs.gpu_hour_usd
    console.print(f"There: {len(plan) - len(missing)} stages. Missing: {len(missing)} stages.")
    console.print(f"Queries to buy: {queries:,} (${queries * spec.costs.query_usd:,.2f})")
    console.print(
        f"GPU hours: {hours:,.1f}, estimated at {spec.costs.utilisation:.0%} of "
        f"{spec.costs.gpu_flops / 1e12:,.0f} TFLOP/s (an assumption, not a measurement)"
    )
    if spec.costs.query_usd or spec.costs.gpu_hour_usd:
        console.print(f"Money: ${dollars:,.2f}")
    if spec.costs.budget is not None:
        spent = sum(metering.spent(storage, f"{s.stage.name}/{s.stage.fingerprint}")
                    for s in plan if s.stage.queries)  # fmt: skip
        enough = "enough" if spent + queries <= spec.costs.budget else "[red]not enough[/]"
        console.print(f"Budget: {spec.costs.budget:,} queries, {spent:,} spent: {enough}")


def _training(spec: Spec, model: Model, how: Training, parts: Sequence[tuple[int, float]]) -> Work:
    """Work of a training on so many examples of so many tokens each."""
    examples = sum(count for count, _ in parts)
    tokens = sum(count * min(length, how.max_tokens) for count, length in parts)
    if not examples:
        return Work("examples not known")
    passes = how.steps * how.batch_size / examples if how.steps else how.epochs
    return Work(
        f"{examples:,} examples x {passes:.3g}", 6 * _per_token(model, spec) * tokens * passes
    )


def _per_token(model: Model, spec: Spec) -> float:
    """Weights that take part in a token's forward pass, embeddings left out; 0 if not known."""
    folder = spec.root / Path(model.model).expanduser()
    if model.model in SHAPES:
        layers, hidden = SHAPES[model.model]
        return 12.0 * layers * hidden**2
    if folder.is_dir():
        config = models.config_of(folder, "model")
        layers, hidden = config.get("num_hidden_layers", 0), config.get("hidden_size", 0)
        inner = config.get("intermediate_size", 4 * hidden)
        return float(layers * (4 * hidden**2 + 2 * hidden * inner))
    return 0.0


def _tokens_per_query(row: runs.Row, storage: Storage) -> float:
    """Mean encoded length of a query: measured where labels are there, else an estimate."""
    if "queries" not in row.stages:
        return 0.0

    def results(role: str) -> dict[str, Any]:
        stage = row.stages.get(role)
        manifest = stage and storage.artifact(stage.name, stage.fingerprint).manifest()
        return manifest["results"] if manifest else {}

    labels = results("labels")
    if "tokens" in labels:  # an API tells none
        return float(labels["tokens"] / labels["queries"])
    words = results("vocabulary").get("mean_sentence_words", WORDS_PER_SENTENCE)
    return float(words * 2 * TOKENS_PER_WORD)
