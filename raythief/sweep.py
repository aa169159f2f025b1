"""A search over fields of the spec, through Ray Tune.

A trial is the pipeline with some fields set. What trials have in common is an artifact already:
they buy no label twice, and `after` trials share their gibberish stage. The same holds between
runs: a sweep that was killed draws the same trials again, finds the finished ones on storage and
goes on with the others from their last checkpoints.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import ray
import yaml
from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator
from rich.console import Console
from rich.table import Table

from raythief import metering, pipeline, report, runs
from raythief.artifacts import Storage
from raythief.config import Choice, Spec, Variant, merge, nest, validate
from raythief.errors import UserError
from raythief.progress import Display, Tell, silent

SHARED = ("encoders", "victim", "corpus", "vocabulary", "queries", "labels", "victim_evaluation")
"""Stages that are built before the trials start, as far as no trial changes them."""


def run(spec: Spec, *, address: str | None = None, console: Console) -> dict[str, Any]:
    """Run every trial, record them as rows of one run, and write report and best spec.

    Returns:
        The run record, with ``best`` (title of the best trial) and ``report``.

    Raises:
        UserError: the spec has no sweep, a trial could never run, or all trials failed.
    """
    if not spec.sweep.parameters:
        raise UserError("sweep.parameters is empty: say which fields to search")
    started = time.time()
    storage = Storage.at(spec.storage)
    spec = spec.model_copy(
        update={"storage": storage.uri, "data_root": str(spec.root.resolve()), "variants": {}}
    )
    base = runs.Row(Variant(name=spec.name, spec=spec), pipeline.stages(spec))
    runs.check([base], storage, spec.costs.budget)
    for field, choice in spec.sweep.parameters.items():
        trial_spec(spec, {field: _first(choice)})  # a wrong field or value is told now
    with runs.cluster(address), Display(console) as display:
        concurrent = capacity(spec)
        shared = {role: base.stages[role] for role in SHARED if role in base.stages}
        concurrent_stages = spec.resources.concurrent_stages
        pipeline.build(shared, storage, display, concurrent_stages, spec.costs.budget)
        total = trials(spec)
        with display.stage(f"{total} trials, {concurrent} at once") as tell:
            results = _tune(spec, concurrent, total, tell)
    rows = [result for result in results if result]
    return _conclude(spec, storage, rows, started, console)


def trial_spec(spec: Spec, parameters: Mapping[str, Any]) -> Spec:
    """The spec of one trial.

    Raises:
        UserError: a parameter is no field of the spec, or its value does not fit.
    """
    tree = spec.model_dump(mode="json", exclude={"sweep", "variants"}, exclude_unset=True)
    return validate(merge(tree, nest(parameters)), "sweep.parameters")


def trials(spec: Spec) -> int:
    """How many trials a sweep has."""
    grids = [len(choice.grid) for choice in spec.sweep.parameters.values() if choice.grid]
    return math.prod(grids) * spec.sweep.samples


def capacity(spec: Spec) -> int:
    """Trials that the cluster holds at once, at most ``sweep.concurrent``.

    A trial's own process asks for nearly nothing, but it waits for the workers of its stages; if
    all trials hold some and wait for more, none ever ends. So each gets its full share at once.

    Raises:
        UserError: not even one trial would find its workers.
    """
    resources, have = spec.resources, ray.cluster_resources()
    cpus = max(
        resources.training.workers * resources.training.cpus,
        resources.inference.workers * resources.inference.cpus + 1,  # and one for Ray Data's tasks
    )
    if have.get("CPU", 0) < cpus:
        raise UserError(
            f"resources: a trial needs {cpus:g} CPUs, and the cluster has "
            f"{have.get('CPU', 0):g}; ask for fewer workers"
        )
    fits = have["CPU"] // cpus
    for workers in (resources.training, resources.inference):
        gpus = workers.workers * (workers.gpus or 0)
        if gpus:
            if have.get("GPU", 0) < gpus:
                raise UserError(
                    f"resources: a trial needs {gpus:g} GPUs, and the cluster has "
                    f"{have.get('GPU', 0):g}; ask for fewer workers"
                )
            fits = min(fits, have["GPU"] // gpus)
    return int(min(spec.sweep.concurrent, fits))


def objective(evaluation: Mapping[str, Any], name: str) -> float:
    """Mean accuracy over the languages of an evaluation set."""
    languages = evaluation["sets"][name].values()
    return float(sum(figures["accuracy"] for figures in languages) / len(languages))


def _trial(parameters: dict[str, Any], spec: Spec) -> None:
    """Build one trial's stages and report what it scored."""
    chosen = trial_spec(spec, parameters)
    storage, built, score = Storage.at(spec.storage), {}, math.nan
    meter = metering.start(storage, spec.costs.budget)
    for role, stage in pipeline.stages(chosen).items():
        artifact, new = stage.ensure(storage)
        built[role] = {"path": artifact.path, "reused": not new}
        if role == "evaluation":
            score = objective(artifact.verify()["results"], spec.sweep.set)
    del meter  # held until here: an actor ends with its last handle
    tune.report(
        {
            "objective": score,
            "stages": json.dumps(built),
        }
    )


class _Count(tune.Callback):
    """Moves the bar."""

    def __init__(self, total: int, tell: Tell) -> None:
        self.ended, self.total, self.tell = 0, total, tell
        self.best = -math.inf

    def __getstate__(self) -> dict[str, Any]:
        """Tune saves its callbacks with the experiment; a bar on a terminal can not go along."""
        return {**self.__dict__, "tell": silent}

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict, **info: Any
    ) -> None:
        """Remember the best."""
        self.best = max(self.best, result.get("objective", -math.inf))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Count a trial that has ended."""
        self.ended += 1
        self.tell(self.ended, self.total, f"best {self.best:.3f}")

    on_trial_error = on_trial_complete


def _tune(spec: Spec, concurrent: int, total: int, tell: Tell) -> list[dict[str, Any]]:
    """Run the trials; one row of the record for each."""
    tell(0, total)
    with tempfile.TemporaryDirectory() as scratch:  # what is worth keeping lies in artifacts
        grid = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, spec=spec), {"cpu": 0.01}),
            param_space={name: _space(choice) for name, choice in spec.sweep.parameters.items()},
            tune_config=tune.TuneConfig(
                metric="objective",
                mode="max",
                num_samples=spec.sweep.samples,
                max_concurrent_trials=concurrent,
                search_alg=BasicVariantGenerator(random_state=spec.seed),
                trial_name_creator=lambda trial: f"trial-{trial.trial_id}",
                trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=spec.name, storage_path=scratch, verbose=0, callbacks=[_Count(total, tell)]
            ),
        ).fit()
    return [_row(spec, result) for result in grid]


def _row(spec: Spec, result: Any) -> dict[str, Any]:
    parameters = dict(result.config)
    parameters.pop("spec", None)
    failed = result.error is not None
    return {
        "variant": ", ".join(
            f"{name.rpartition('.')[2]} {_shown(value)}" for name, value in parameters.items()
        ),
        "parameters": parameters,
        "objective": None if failed else result.metrics["objective"],
        "seed": spec.seed,
        "status": "failed" if failed else "done",
        "error": str(result.error).strip().splitlines()[-1] if failed else None,
        "seconds": 0.0 if failed else result.metrics["time_total_s"],
        "stages": {} if failed else json.loads(result.metrics["stages"]),
    }


def _conclude(
    spec: Spec, storage: Storage, rows: list[dict[str, Any]], started: float, console: Console
) -> dict[str, Any]:
    """Record, report, best spec, and a table on the terminal."""
    done = [row for row in rows if row["status"] == "done"]
    if not done:
        raise UserError(f"sweep: all {len(rows)} trials failed: {rows[0]['error']}")
    done.sort(key=lambda row: -row["objective"])
    name = f"{spec.name}-sweep"
    record: dict[str, Any] = {
        "name": name,
        "title": f"{spec.title or spec.name}: sweep",
        "command": f"raythief sweep (selected on {spec.sweep.set})",
        "started": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "spec": spec.model_dump(mode="json"),
        "rows": rows,
    }
    storage.write_bytes(f"runs/{name}/run.json", json.dumps(record, indent=1).encode())
    best = trial_spec(spec, done[0]["parameters"]).model_dump(mode="json", exclude_unset=True)
    storage.write_bytes(f"runs/{name}/best.yaml", yaml.safe_dump(best, sort_keys=False).encode())
    table = Table(title=f"Mean accuracy over the languages of {spec.sweep.set}")
    for column in ("Trial", "Objective", "Seconds"):
        table.add_column(column, justify="left" if column == "Trial" else "right")
    for row in done:
        table.add_row(row["variant"], f"{row['objective']:.4f}", f"{row['seconds']:.0f}")
    for row in rows:
        if row["status"] == "failed":
            table.add_row(row["variant"], "failed", row["error"])
    console.print(table)
    record["best"] = done[0]["variant"]
    record["best_spec"] = str(runs.location(storage, f"{storage.root}/runs/{name}/best.yaml"))
    record["report"] = report.write(storage.fs, storage.root, name)
    return record


def _space(choice: Choice) -> Any:
    """Ray Tune's word for one dimension."""
    if choice.grid is not None:
        return tune.grid_search(list(choice.grid))
    if choice.choice is not None:
        return tune.choice(list(choice.choice))
    if choice.uniform is not None:
        return tune.uniform(*choice.uniform)
    assert choice.loguniform is not None
    return tune.loguniform(*choice.loguniform)


def _first(choice: Choice) -> Any:
    return next(value[0] for _, value in choice if value is not None)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
