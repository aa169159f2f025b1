"""What a run would build and take, reckoned without network, cluster or model.

Work is counted in floating-point operations from the sizes of models and data (Kaplan et al. 2020:
2 per weight and token forward, 6 for training, attention apart), and turned into hours by what a
stored benchmark reached on the device that the spec's ``costs`` name, else by the speed that they
assume. The plan says which it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raythief import (
    accelerators,
    building,
    labeling,
    metering,
    models,
    nli,
    results,
    runs,
    takeover,
    throughput,
)
from raythief.artifacts import Storage
from raythief.config import Costs, Model, Spec, Training, Workers
from raythief.errors import UserError
from raythief.stages import Stage
from raythief.throughput import Kind
from raythief.training.continuation import endless

FORWARD, TRAINING = 2, 6
"""Operations for each weight and token (Kaplan et al. 2020)."""

CPU_HOURS = 1.0
"""Hours of CPU workers that a stage may take where nobody said that it is to run on CPUs."""

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


_STATES: dict[building.State, str] = {
    "there": "[green]there[/]", "missing": "missing", "damaged": "[red]damaged[/]",
    "not needed": "[dim]not needed[/]",
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What one stage takes."""

    what: str
    flops: float = 0.0
    """Floating-point operations; NaN where the size of the model or of its data is not known."""


@dataclass(frozen=True)
class Step:
    """One stage of a plan."""

    role: str
    owner: str
    """Which rows use it; empty where there is only one."""
    stage: Stage
    state: building.State
    fault: str
    """What is wrong with an artifact that is damaged or absent."""
    lacks: tuple[str, ...]
    """What to tell of files of the user's that are not there, the stage's own and of those that it
    is made from; it cannot be built without them."""
    missing: int
    """Queries that it has yet to buy."""
    work: Work
    kind: Kind
    """Which workers build it."""
    workers: Workers
    """Those workers."""
    hours: float
    """GPU hours, or hours of workers without one; NaN where the work is not known."""
    clock: float
    """Hours until all workers together are through."""


def steps(rows: Sequence[runs.Row], storage: Storage, costs: Costs | None = None) -> list[Step]:
    """Every stage of the rows once, in the order of building.

    Args:
        rows: Of a spec.
        storage: Where stages may lie.
        costs: What to reckon with; None takes each row's own.

    Raises:
        UserError: nothing is known of a device's speed.
    """
    users = {stage.fingerprint: (row, stage) for row in rows for stage in row.stages.values()}
    states = building.look([stage for _, stage in users.values()], storage)
    counted: dict[str, int] = {}  # answers that stages before buy, by where they are kept
    found = []
    for key, (role, owner) in runs.owners(rows).items():
        row, stage = users[key]
        state, fault = states[key]
        missing = 0
        for asked in stage.buys if _is_built(state) else ():
            new = max(0, labeling.missing(asked, storage) - counted.get(asked.path, 0))
            counted[asked.path] = counted.get(asked.path, 0) + new
            missing += new
        lacks = tuple(dict.fromkeys(each for one in stage.ancestors() for each in one.lacks))
        done = work(row, role, storage)
        if _is_built(state) and missing < stage.queries:
            done = replace(done, what=f"{done.what}, {stage.queries - missing:,} there")
        kind: Kind = "training" if stage.name in runs.WORKERS["training"] else "inference"
        group: Workers = getattr(runs.needed(row.variant.spec, stage.name), kind)
        priced = costs or row.variant.spec.costs
        one = done.flops / speed(priced, kind, group)[0] / 3600
        hours = one if priced.device == "CPU" else one * (group.gpus or 1)
        clock = one / max(1, group.workers)
        found.append(
            Step(role, owner, stage, state, fault, lacks, missing, done, kind, group, hours, clock)
        )
    return found


def _is_built(state: building.State) -> bool:
    """Whether a run would build what is in this state."""
    return state in building.TO_BE_BUILT


def check_cpus(rows: Sequence[runs.Row], storage: Storage) -> None:
    """Refuse to fall back to CPUs where a model would take long on them, unless the spec says so.

    A stage whose model or data are of unknown size is let pass.

    Raises:
        UserError: the connected cluster has no GPU and none can come, the spec leaves ``gpus``
            open, and a stage would take more than ``CPU_HOURS``.
    """
    given = [row.variant.spec.resources for row in rows]
    is_open = any(None in (one.inference.gpus, one.training.gpus) for one in given)
    if not is_open or accelerators.any_there():  # storage need not be looked through
        return
    long = [
        step
        for step in steps(rows, storage, Costs(device="CPU"))
        if _is_built(step.state) and step.workers.gpus is None and step.hours > CPU_HOURS
    ]
    for step in long:
        if not accelerators.gpus(step.workers):
            raise UserError(
                f"resources.{step.kind}.gpus: no GPU is there or known to come, and the stage "
                f"`{step.role}` would take about {step.hours:,.0f} hours of CPU workers; set it to "
                "0 if you mean CPUs, else run where there are GPUs"
            )


def speed(costs: Costs, kind: Kind, group: Workers) -> tuple[float, str]:
    """Floating-point operations a second of one worker, and where that figure is from.

    Raises:
        UserError: nothing is known of the device.
    """
    found = throughput.measured(costs.device, kind)
    if found is None:
        peak, whose = costs.gpu_flops, "costs.gpu_flops"
        if peak is None:
            peak, whose = throughput.PEAKS.get(costs.device), "its data sheet"
        if peak is None:
            known = ", ".join(sorted({"CPU", *throughput.PEAKS, *throughput.devices()}))
            raise UserError(
                f"costs.device: nothing is known of the speed of {costs.device}; give "
                f"costs.gpu_flops, its peak in dense bfloat16, or one of {known}"
            )
        return peak * costs.utilisation * (group.gpus or 1), (
            f"assumed, not measured: {costs.utilisation:.0%} of the {peak / 1e12:,.0f} TFLOP/s of "
            f"{whose}; no benchmark on {costs.device} is stored"
        )
    share = group.cpus / found.threads if found.device == "CPU" else group.gpus or 1
    threads = f" with {found.threads} CPU threads" if found.device == "CPU" else ""
    return found.flops * share, (
        f"measured on {found.date}{threads} on a model of {found.model}'s size in {found.dtype}: "
        f"{found.figures}, by `{found.command}`"
    )


def work(row: runs.Row, role: str, storage: Storage) -> Work:
    """What a stage of a row takes."""
    spec = row.variant.spec
    count = spec.queries.count
    gibberish = _tokens_per_query(row, storage)
    real = nli.rows(spec.real.train, spec.root, "real.train")
    if role == "queries":
        return Work(f"{count:,} pairs")
    bought = row.stages[role].queries
    victim_flops = 0.0 if spec.victim.api else FORWARD * _per_token(spec.victim, spec)
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
        tokens = (pairs or math.nan) * min(length, spec.inference.max_tokens)
        return Work(_pairs(pairs), FORWARD * _per_token(spec.figure2, spec) * tokens)
    if role == "figure2" and spec.figure2 is not None:
        known = f"{2 * spec.figure2.count:,} x {real:,} distances"
        return Work(known if real else "distances to pairs not known")
    if role == "aligned":
        assert spec.extractor.bilstm is not None
        count = len(row.stages[role].config["languages"])
        told = f"{count} languages x {spec.extractor.bilstm.alignment.steps:,} steps"
        return Work(told, math.nan)
    if role in ("evaluation", "victim_evaluation"):
        model = spec.extractor if role == "evaluation" else spec.victim
        pairs, tokens = 0, 0.0
        for name, chosen in spec.evaluation.sets.items():
            if f"examples:{name}" in row.stages[role].inputs:
                size = nli.rows(chosen, spec.root, f"evaluation.sets.{name}")
                size *= len(chosen.languages)
                length = gibberish if chosen.source == "queries" else TOKENS_PER_REAL_PAIR
                pairs, tokens = pairs + size, tokens + (size or math.nan) * length
        return Work(_pairs(pairs), FORWARD * _per_token(model, spec) * tokens)
    return Work("")


def _pairs(count: int) -> str:
    return f"{count:,} pairs" if count else "pairs not known"


def show(spec: Spec, rows: Sequence[runs.Row], console: Console) -> None:
    """Print the plan of some rows of a spec."""
    storage = Storage.at(spec.storage)
    plan = steps(rows, storage)
    unit = "CPU hours" if spec.costs.device == "CPU" else "GPU hours"

    def tell(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    for line in runs.left_out(rows):
        tell(escape(line))
    console.print(_table(f"{spec.name}: {len(plan)} stages", plan, unit))
    for step in plan:
        if step.state == "damaged":
            tell(escape(f"Damaged: {step.role} ({step.stage.name}/{step.stage.fingerprint}): "
                        f"{step.fault}; a run mends it"))  # fmt: skip
    missing = [step for step in plan if _is_built(step.state)]
    known = [step for step in missing if not math.isnan(step.hours)]
    queries, hours = sum(step.missing for step in missing), sum(step.hours for step in known)
    bill = queries * spec.costs.query_usd
    rate = 0.0 if spec.costs.device == "CPU" else spec.costs.gpu_hour_usd
    there, gone = (sum(step.state == state for step in plan) for state in ("there", "not needed"))
    archived = f" Not needed, for what was made from them is whole: {gone}." if gone else ""
    tell(f"There: {there} stages. Missing: {len(missing)} stages.{archived}")
    lacks = list(dict.fromkeys(each for step in plan for each in step.lacks))
    for line in lacks:
        tell(escape(f"Data missing: {line}"))
    if lacks:
        tell("A run is refused until they are there; what is made from them may be there already.")
    wanted: dict[str, int] = {}
    for one in (one for step in missing for one in step.stage.buys):
        wanted[one.path] = max(one.count, wanted.get(one.path, 0))
    bought = sum(wanted.values()) - queries
    already = f"; {bought:,} more are bought already" if bought > 0 else ""
    tell(f"Queries to buy: {queries:,} (${bill:,.2f}){already}")
    least = "at least " if len(known) < len(missing) else ""
    tell(f"{unit}: {least}{hours:,.1f} on {spec.costs.device}")
    for kind in get_args(Kind):
        if any(step.kind == kind and step.hours for step in known):
            group: Workers = getattr(spec.resources, kind)
            flops, source = speed(spec.costs, kind, group)
            tell(f"  {kind}, {max(1, group.workers)} x {flops / 1e12:,.3g} TFLOP/s, {source}")
    wall = sum(step.clock for step in known)
    others = "starts, reading, communication" + (", the API" if spec.victim.api else "")
    clock = f"{wall:,.1f} hours" if wall >= 1 else f"{60 * wall:.0f} minutes"
    tell(f"Wall-clock: {least}{clock}, stages one after another; {others} come on top")
    shortened = _continuing(plan)
    if shortened:
        tell(f"An upper bound: {shortened} trainings can go on from shorter ones of this plan")
    if len(known) < len(missing):
        lacking = len(missing) - len(known)
        tell(f"Not reckoned: {lacking} stages (?) whose model or data are of unknown size")
    if spec.costs.query_usd or rate:
        tell(f"Money: {least if rate else ''}${bill + hours * rate:,.2f}")
    else:
        tell("Money: no prices given (costs.query_usd, costs.gpu_hour_usd)")
    if spec.costs.budget is not None:
        asked = [one for step in plan for one in step.stage.buys]
        victims = [one.of_model(storage).path for one in asked]
        spent = takeover.unlisted(asked, storage)
        spent += sum(metering.spent(storage, path) for path in metering.bought(storage, victims))
        enough = "enough" if spent + queries <= spec.costs.budget else "[red]not enough[/]"
        tell(f"Budget: {spec.costs.budget:,} queries, {spent:,} spent: {enough}")


def _continuing(plan: Sequence[Step]) -> int:
    """Missing trainings of which a shorter one of the plan is the beginning."""
    equal: dict[str, list[Step]] = {}
    for step in plan:
        if "training" in step.stage.config:
            how = Training.model_validate(step.stage.config["training"])
            if how.open_ended:
                equal.setdefault(endless(step.stage.identity), []).append(step)
    by_length = (
        sorted(e, key=lambda s: s.stage.config["training"]["steps"]) for e in equal.values()
    )
    return sum(_is_built(step.state) for group in by_length for step in group[1:])


def _table(title: str, plan: Sequence[Step], unit: str) -> Table:
    table = Table(title=title, title_style="bold", box=box.SIMPLE_HEAD)
    several = any(step.owner for step in plan)
    for name in ("Stage", *(["Rows"] if several else []), "State", "Work"):
        table.add_column(name, no_wrap=True)
    for name in ("PFLOP", unit):
        table.add_column(name, justify="right")
    for step in plan:
        table.add_row(
            step.role,
            *([step.owner] if several else []),
            "[red]data missing[/]" if step.lacks else _STATES[step.state],
            step.work.what,
            _amount(step.work.flops / 1e15, 1),
            _amount(step.hours, 2),
        )
    return table


def _amount(value: float, digits: int) -> str:
    """A cell: blank for nothing, a question mark for what is not known."""
    if math.isnan(value):
        return "?"
    return f"{value:,.{digits}f}" if value else ""


def _training(spec: Spec, model: Model, how: Training, parts: Sequence[tuple[int, float]]) -> Work:
    """Work of a training on so many examples of so many tokens each."""
    examples = sum(count for count, _ in parts)
    tokens = sum(count * min(length, how.max_tokens) for count, length in parts)
    if not all(count for count, _ in parts):
        return Work("examples not known", math.nan)
    passes = how.epochs
    if how.steps:
        batches = how.batch_tokens / tokens if how.batch_tokens else how.batch_size / examples
        passes = how.steps * batches
    times = f"{passes:.3g}" if passes < 1000 else f"{passes:,.0f}"  # not 1.18e+03
    return Work(
        f"{examples:,} examples x {times}",
        TRAINING * _per_token(model, spec) * tokens * passes,
    )


def weights(layers: int, hidden: int) -> float:
    """Weights of an encoder that take part in a token's forward pass: 4 h^2 of attention in each
    layer, and 8 h^2 of a feed-forward net four times as wide."""
    return 12.0 * layers * hidden**2


def _per_token(model: Model, spec: Spec) -> float:
    """Weights that take part in a token's forward pass, embeddings left out; NaN if not known."""
    folder = spec.root / Path(model.model).expanduser()
    if model.model in SHAPES:
        return weights(*SHAPES[model.model])
    if folder.is_dir():
        config = models.config_of(folder, "model")
        layers, hidden = config.get("num_hidden_layers", 0), config.get("hidden_size", 0)
        inner = config.get("intermediate_size", 4 * hidden)
        return float(layers * (4 * hidden**2 + 2 * hidden * inner)) or math.nan
    return math.nan


def _tokens_per_query(row: runs.Row, storage: Storage) -> float:
    """Mean encoded length of a query: measured where labels are there, else an estimate."""
    if "queries" not in row.stages:
        return 0.0

    def found(role: str) -> results.Results | None:
        stage = row.stages.get(role)
        manifest = stage and storage.artifact(stage.name, stage.fingerprint).manifest_as_it_is()
        return results.read(role, manifest["results"]) if manifest else None

    labels, words = found("labels"), found("vocabulary")
    if isinstance(labels, results.Labels) and labels.tokens and labels.queries:  # an API tells none
        return labels.tokens / labels.queries
    length = words.mean_sentence_words if isinstance(words, results.Vocabulary) else None
    return (length or WORDS_PER_SENTENCE) * 2 * TOKENS_PER_WORD
