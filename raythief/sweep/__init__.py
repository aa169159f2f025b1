"""A search over fields of the spec, through Ray Tune.

    space      which configurations are tried, and the spec of each
    trial      what Tune runs
    stopping   which trials are stopped early
    board      what is shown meanwhile
    outcome    what is left: record, tables, best spec, report

A trial is the pipeline with some fields set. What trials have in common is an artifact already:
they buy no label twice, encode no pairs twice, and `after` trials share their gibberish stage.
Where the schedule allows it (`constant`), a trial of more steps goes on from one of fewer. The same
holds between runs: a sweep that was killed tries the same configurations again, finds the finished
trials on storage and goes on with the others from their last checkpoints.

Trials run to their end, or ASHA stops them. Population-based training (Jaderberg et al. 2017) was
weighed and left out. A rate that changes on the way could be written down as a schedule and trained
again; but a trial that takes over the weights of others has no configuration of its own before it
ends, so that

    - it has no fingerprint to be found by: nothing is shared, and nothing goes on after a crash;
    - no score belongs to a value of a parameter, which is what slices, repetitions and the price of
      a selection rule are about: what wins is the best of so many draws with one seed;
    - it needs many looks and a population of tens, where a fine-tuning has some ten looks, and
      under the paper's decay a rate means something only together with the number of steps.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator
from rich.console import Console

from raythief import building, capacity, clusters, pipeline, planning, runs
from raythief.artifacts import Storage
from raythief.config import Spec, Variant
from raythief.errors import UserError
from raythief.progress import Display
from raythief.report import Place
from raythief.stages import Stage
from raythief.sweep import outcome, space
from raythief.sweep.board import Board
from raythief.sweep.stopping import ByKind
from raythief.sweep.trial import Trial

__all__ = ["check", "rows", "run"]


def run(
    spec: Spec, *, address: str | None = None, command: str = "", console: Console
) -> dict[str, Any]:
    """Run every trial, record them as rows of one run, and write report and best spec.

    Args:
        spec: The experiment, with its `sweep` section.
        address: Ray cluster.
        command: What the report calls the way to run it again.
        console: Where progress is shown.

    Returns:
        The run record, with ``best`` (the best configuration), ``best_spec`` and ``report``.

    Raises:
        UserError: the spec has no sweep, a trial could never run, or all trials failed.
    """
    started = time.time()
    _check(spec)
    storage = Storage.at(spec.storage)
    spec = spec.model_copy(
        update={"storage": storage.uri, "data_root": str(spec.root.resolve()), "variants": {}}
    )
    points = _points(spec)
    planned = _rows(spec, points or _ends(spec))
    runs.check(planned, storage, spec.costs.budget)
    place = _place(spec, planned)
    total = len(points) or spec.sweep.samples
    with clusters.connect(address):
        planning.check_cpus(planned, storage)
        concurrent = capacity.trials(spec.resources, spec.sweep.concurrent)
        shared = space.shared(spec)
        every = [stage for row in planned for stage in row.stages.values()]
        if points:  # else trials are not known yet, and may need all that they have in common
            states = building.look(every, storage)
            shared = {
                role: stage
                for role, stage in shared.items()
                if states[stage.fingerprint][0] != "not needed"
            }
        meter = building.meter(every, storage, spec.costs)
        with Display(console) as display:
            _build(shared, storage, display, spec.resources.concurrent_stages, spec.costs)
        console.print(f"{total} trials, {min(total, concurrent)} at once", highlight=False)
        with Board(points, total, spec.sweep.objective, console) as board:
            _tune(spec, storage, place, points, concurrent, board)
        del meter  # held until here: an actor ends with its last handle
        entries = list(board.entries.values())
        return outcome.conclude(spec, storage, place, entries, command, started, console)


def check(spec: Spec) -> None:
    """Find the mistakes that can be found before a trial runs, on the cluster that is connected.

    Raises:
        UserError: as ``run`` would.
    """
    _check(spec)
    made, storage = _rows(spec, _points(spec) or _ends(spec)), Storage.at(spec.storage)
    runs.check(made, storage, spec.costs.budget)
    planning.check_cpus(made, storage)
    capacity.trials(spec.resources, spec.sweep.concurrent)


def rows(spec: Spec) -> list[runs.Row]:
    """All trials as rows, as far as they are known before it runs; early stops left aside.

    Files may be missing: the rows are for a plan.

    Raises:
        UserError: the spec has no sweep, or its searcher chooses as it goes.
    """
    _check(spec)
    if spec.sweep.searcher != "random":
        raise UserError(
            "sweep.searcher: optuna chooses its trials as it goes, so they cannot be planned; "
            "plan with --set sweep.searcher=random, which tries as many"
        )
    return _rows(spec, space.points(spec.sweep, spec.seed), missing_ok=True)


def _check(spec: Spec) -> None:
    if not spec.sweep.parameters:
        raise UserError("sweep.parameters is empty: say which fields to search")
    if spec.sweep.searcher == "optuna" and importlib.util.find_spec("optuna") is None:
        raise UserError(
            "sweep.searcher is optuna, which is not installed: pip install 'raythief[optuna]'"
        )
    if spec.sweep.cost and not spec.costs.query_usd and not spec.costs.gpu_hour_usd:
        raise UserError("sweep.cost needs prices: set costs.query_usd or costs.gpu_hour_usd")


def _points(spec: Spec) -> list[space.Point]:
    """The configurations that will be tried, none if the searcher chooses as it goes."""
    return space.points(spec.sweep, spec.seed) if spec.sweep.searcher == "random" else []


def _ends(spec: Spec) -> list[space.Point]:
    """A configuration for either end of each parameter: by these a wrong value is told."""
    return [
        {field: value}
        for field, choice in spec.sweep.parameters.items()
        for value in (choice.values[0], choice.values[-1])
    ]


def _rows(spec: Spec, points: Sequence[space.Point], missing_ok: bool = False) -> list[runs.Row]:
    """Configurations as rows, whose files and purchases can be looked at beforehand."""
    made = [
        Variant(name=f"t{i:03d}", spec=space.trial_spec(spec, point, repeat))
        for i, point in enumerate(points)
        for repeat in range(spec.sweep.repeats)
    ]
    return [
        runs.Row(variant, pipeline.stages(variant.spec, missing_ok=missing_ok)) for variant in made
    ]


def _place(spec: Spec, made: Sequence[runs.Row]) -> Place:
    """Where its record and report lie: a sweep is its trials, and how they are chosen."""
    how = spec.sweep.model_dump(mode="json", exclude={"concurrent"})
    return Place(f"{spec.name}-sweep", runs.fingerprint(made, sweep=how, seed=spec.seed))


def _build(shared: Mapping[str, Stage], *how: Any) -> None:
    """Build what trials have in common; without it none could succeed."""
    for made in building.build(shared, *how).values():
        if made.fault is not None:
            raise made.fault
        if made.error is not None:
            raise UserError(made.error)


def _tune(
    spec: Spec,
    storage: Storage,
    place: Place,
    points: Sequence[space.Point],
    concurrent: int,
    board: Board,
) -> None:
    """Run the trials; what they told is on the board."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints even if it is to be silent
    sweep, own = spec.sweep, capacity.own(spec.resources)
    goals: dict[str, Any] = {"metric": "objective", "mode": "max"}
    if points:
        # Ray Tune heeds its own `max_concurrent_trials` only for searchers of other kinds.
        searcher: Any = BasicVariantGenerator(max_concurrent=concurrent)
        dimensions = {"parameters": tune.grid_search(list(points))}
    else:
        if sweep.cost:
            goals = {"metric": ["objective", "usd"], "mode": ["max", "min"]}
        searcher, dimensions = _optuna(spec, storage, place, goals, board), {}
        goals = {} if sweep.cost else goals
    with tempfile.TemporaryDirectory() as scratch:  # what is worth keeping lies in artifacts
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(Trial, spec=spec, notices=board.notices),
                {"cpu": own["CPU"], "gpu": own["GPU"]},
            ),
            param_space=dimensions,
            tune_config=tune.TuneConfig(
                **goals,
                num_samples=1 if points else sweep.samples,
                max_concurrent_trials=concurrent,
                search_alg=searcher,
                scheduler=sweep.asha and ByKind(sweep.asha),
                reuse_actors=True,
                trial_name_creator=lambda trial: f"trial-{trial.trial_id}",
                trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=spec.name,
                storage_path=scratch,
                verbose=0,
                callbacks=[board],
                failure_config=tune.FailureConfig(max_failures=spec.resources.restarts),
            ),
        ).fit()


def _optuna(spec: Spec, storage: Storage, run: Place, goals: dict[str, Any], board: Board) -> Any:
    """A searcher that begins with what an earlier run of the same sweep has tried."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place, earlier = (f"{folder}/suggested.json" for folder in (run.folder, run.home))
    identity = {"sweep": spec.sweep.model_dump(mode="json"), "seed": spec.seed}
    kept = json.loads(storage.read_bytes(place) or storage.read_bytes(earlier) or b"{}")
    tried = kept.get("tried", []) if kept.get("identity") == identity else []

    class Remembered(OptunaSearch):  # type: ignore[misc]  # its package tells no types
        def suggest(self, trial_id: str) -> Any:
            config = super().suggest(trial_id)
            tried_now.append(self._ot_trials[trial_id].params)
            kept = {"identity": identity, "tried": tried_now}
            storage.write_bytes(place, json.dumps(kept).encode())
            return config

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            """Of a trial that was stopped, no score: its last look is not what it would reach."""
            whole = result is not None and "runs" in result
            super().on_trial_complete(trial_id, result if whole else None, error)

        def save(self, checkpoint_path: str) -> None:
            """Nothing more: what was tried is on storage."""
            Path(checkpoint_path).touch()

    tried_now: list[dict[str, Any]] = []
    return Remembered(
        space.suggest(spec.sweep), points_to_evaluate=tried or None, seed=spec.seed, **goals
    )
