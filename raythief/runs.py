"""A run: all variants of a spec, built as far as asked, recorded, and reported.

The record tells which artifacts belong to which row of the table; the report is made from it and
from the manifests alone. Where they lie, ``raythief.report.places`` says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from raythief import (
    accelerators,
    building,
    capacity,
    clusters,
    labeling,
    metering,
    models,
    pipeline,
    takeover,
    victims,
)
from raythief.api import Remote
from raythief.artifacts import Storage
from raythief.config import Resources, Spec, Variant, Victim, expand
from raythief.errors import MissingFileError, UserError, explain
from raythief.progress import Display
from raythief.report import Place, keeping
from raythief.stages import Stage
from raythief.training import tracking

WORKERS: dict[capacity.Group, tuple[str, ...]] = {
    "training": ("victim", "extractor", "finetuned", "aligned"),
    "inference": (
        "corpus", "queries", "sanity", "labels", "vectors", "figure2", "evaluation",
        "victim_evaluation",
    ),
}  # fmt: skip
"""Stages by the workers that build them; others take a process of one CPU each."""
_TEXT = ("corpus", "queries")
"""Those that need no GPU whatever the spec says."""
_ASK = ("labels", "sanity", "victim_evaluation")
"""Those that ask the victim, which may be an API."""


@dataclass(frozen=True)
class Row:
    """One variant with one seed."""

    variant: Variant
    stages: Mapping[str, Stage]
    lacks: str = ""
    """Why an optional row is left out, in a sentence; it then has no stages."""


def rows(spec: Spec, only: Sequence[str] = (), *, missing_ok: bool = False) -> list[Row]:
    """All rows of a spec, or those of the named variants, as far as its ``until`` goes.

    An optional row whose files are not there is among them without stages, if it is not named.

    Args:
        spec: The experiment.
        only: Names of the variants; none means all.
        missing_ok: Whether files of other rows may be missing, so that they can be planned only.

    Raises:
        UserError: no variant has that name, a row names a file that is of no use, or no stage is
            called as ``until`` says.
    """
    found = [variant for variant in expand(spec) if not only or variant.name in only]
    for name in only:
        if name not in spec.variants:
            known = ", ".join(spec.variants) or "none"
            raise UserError(f"--only {name}: the spec has no such variant; it has: {known}")
    made = [_made(variant, bool(only), missing_ok) for variant in found]
    return _cut_all_off(made, spec.until, "until:") if spec.until else made


def _made(variant: Variant, named: bool, missing_ok: bool) -> Row:
    can_go = variant.optional and not named
    try:
        return Row(variant, pipeline.stages(variant.spec, missing_ok=missing_ok and not can_go))
    except MissingFileError as error:
        if not can_go:
            raise
        return Row(variant, {}, lacks=str(error))


def owners(all_rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Role and owner of every stage by fingerprint, in the order of building.

    The owner is empty where there is one row, ``all rows``, ``3 rows``, or the row's own name.
    """
    all_rows = [row for row in all_rows if not row.lacks]
    several_seeds = len({row.variant.spec.seed for row in all_rows}) > 1
    roles: dict[str, str] = {}
    users: dict[str, list[Row]] = {}
    for row in all_rows:
        for role, stage in row.stages.items():
            roles.setdefault(stage.fingerprint, role)
            users.setdefault(stage.fingerprint, []).append(row)

    def owner(using: list[Row]) -> str:
        if len(all_rows) == 1:
            return ""
        if len(using) == len(all_rows):
            return "all rows"
        names = {row.variant.name for row in using}
        seeds = {row.variant.spec.seed for row in using}
        name = names.pop() if len(names) == 1 else f"{len(names)} rows"
        return f"{name}, seed {seeds.pop()}" if several_seeds and len(seeds) == 1 else name

    return {key: (role, owner(users[key])) for key, role in roles.items()}


def left_out(all_rows: Sequence[Row]) -> list[str]:
    """What to tell of the optional rows that lack a file."""
    said = {row.variant.name: row.lacks for row in all_rows if row.lacks}
    return [f"Left out: {name}: {lacks}" for name, lacks in said.items()]


def cut_off(row: Row, until: str) -> Row:
    """The row without what comes after a stage."""
    if until not in row.stages:
        return replace(row, stages={})
    needed = {stage.fingerprint for stage in row.stages[until].ancestors()}
    kept = {role: stage for role, stage in row.stages.items() if stage.fingerprint in needed}
    return replace(row, stages=kept)


def _cut_all_off(all_rows: Sequence[Row], until: str, field: str) -> list[Row]:
    """All rows without what comes after a stage that at least one of them has."""
    known = list(dict.fromkeys(role for row in all_rows for role in row.stages))
    if until not in known:
        raise UserError(f"{field} {until}: no such stage; choose from {', '.join(known)}")
    return [cut_off(row, until) for row in all_rows]


def fingerprint(all_rows: Sequence[Row], **more: Any) -> str:
    """What a run is, however it is named: 16 hexadecimal digits of the SHA-256 of its rows.

    A row is what its stages are, so that resources, prices and all else that changes no result
    leave it the same, and another text behind the same path does not.

    Args:
        all_rows: The rows; those that are left out do not count.
        more: Plain values that belong to it, too.
    """
    rows = [
        {
            "variant": row.variant.name,
            "seed": row.variant.spec.seed,
            "queries": row.variant.spec.queries.count,
            "stages": {role: stage.fingerprint for role, stage in row.stages.items()},
        }
        for row in all_rows
        if not row.lacks
    ]
    text = json.dumps({"rows": rows, **more}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def check(all_rows: Sequence[Row], storage: Storage, budget: int | None = None) -> None:
    """Find the mistakes that can be found before anything is built, written or paid for.

    Raises:
        UserError: the storage cannot be written, the budget is too small, an API's key is not
            there, a victim's outputs have no names, or an attention cannot be had.
    """
    storage.check_writable()
    for row in all_rows:
        tracking.check(row.variant.spec.tracking)
        victims.check_attention(row.variant.spec, row.stages)
    _check_budget(all_rows, storage, budget)
    seen: list[Victim] = []
    for row in all_rows:
        spec = row.variant.spec
        victim = spec.victim
        if "labels" not in row.stages or victim in seen:
            continue
        seen.append(victim)
        if victim.api is not None:
            Remote.of(victim.api)
        if victim.api is not None or victim.training:
            continue
        victims.check_names(models.find(victim, spec.root, "victim.model"), victim.labels)


def _check_budget(all_rows: Sequence[Row], storage: Storage, budget: int | None) -> None:
    if budget is None:
        return
    stages = [stage for row in all_rows for stage in row.stages.values()]
    asked = [one for stage in stages for one in stage.buys]
    needed = dict.fromkeys((one.path for one in asked), 0)  # all that counts against the budget
    for one in (one for stage in building.to_be_built(stages, storage) for one in stage.buys):
        # Of several that ask for the same answers, the one that asks for most.
        needed[one.path] = max(needed[one.path], labeling.missing(one, storage))
    metering.check(storage, budget, needed, takeover.unlisted(asked, storage))


@contextlib.contextmanager
def _cluster_for(wanted: Sequence[Row], storage: Storage, address: str | None) -> Iterator[None]:
    """A cluster if any stage has yet to be built; starting one takes seconds.

    Raises:
        UserError: it does not hold the workers of such a stage.
    """
    missing = _missing(wanted, storage)
    if not missing:
        yield
        return

    def check() -> None:
        try:
            _check_workers(missing)
        except UserError:  # unless what needs them is built by now
            _check_workers(_missing(wanted, storage))

    with clusters.connect(address):
        check_workers(wanted, storage)
        with capacity.told_of(check):
            yield


def check_workers(wanted: Sequence[Row], storage: Storage) -> None:
    """Compare what the stages that have yet to be built need with the cluster that is connected.

    Raises:
        UserError: it does not hold the workers of such a stage, or has no GPU for one that would
            take long without.
    """
    from raythief import planning  # which plans rows

    _check_workers(_missing(wanted, storage))
    planning.check_cpus(wanted, storage)


def _missing(wanted: Sequence[Row], storage: Storage) -> list[tuple[Resources, str]]:
    """Resources and name of each stage that has yet to be built."""
    every = [stage for row in wanted for stage in row.stages.values()]
    missing = {stage.fingerprint for stage in building.to_be_built(every, storage)}
    return [
        (needed(row.variant.spec, stage.name), stage.name)
        for row in wanted
        for stage in row.stages.values()
        if stage.fingerprint in missing
    ]


def needed(spec: Spec, name: str) -> Resources:
    """A spec's resources as far as one stage needs them."""
    resources = spec.resources
    asks = spec.victim.api is not None and name in _ASK and resources.inference.gpus is None
    if name in _TEXT or asks:
        workers = accelerators.without(resources.inference)
        return resources.model_copy(update={"inference": workers})
    if name == "aligned" and resources.training.workers:  # a process for each language, in turn
        one = resources.training.model_copy(update={"workers": 1, "min_workers": None})
        return resources.model_copy(update={"training": one})
    return resources


def _check_workers(missing: Sequence[tuple[Resources, str]]) -> None:
    for group, names in WORKERS.items():
        checked: list[Resources] = []
        for resources, name in missing:
            if name in names and resources not in checked:
                checked.append(resources)
                capacity.check(resources, (group,))


def run(
    spec: Spec,
    *,
    until: str | None = None,
    only: Sequence[str] = (),
    address: str | None = None,
    command: str = "",
    console: Console | None = None,
) -> dict[str, Any]:
    """Build what is missing of a spec, record it, and write the report.

    Args:
        spec: The experiment.
        until: Role of the last stage to build; None builds all and writes the report.
        only: Names of the variants to build; none means all.
        address: Ray cluster.
        command: What the report calls the way to run it again.
        console: Where progress is shown.

    Returns:
        The run record; with ``report``, the report's address, when everything was to be built.

    Raises:
        UserError: a mistake of the user's, before anything is built; or a row failed, while the
            others are done and recorded.
    """
    console = console or Console(stderr=True)
    started = time.time()
    found = rows(spec, only)
    if until:
        found = _cut_all_off(found, until, "--until")
    for line in left_out(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    wanted = [row for row in found if not row.lacks]
    storage = Storage.at(spec.storage)
    check(wanted, storage, spec.costs.budget)
    stages = {stage.fingerprint: stage for row in wanted for stage in row.stages.values()}
    titled: dict[str, Stage] = {}
    for key, (role, owner) in owners(wanted).items():
        title = f"{role} ({owner})" if owner else role
        # Different stages may belong to "2 rows" each.
        titled[f"{title} {key[:4]}" if title in titled else title] = stages[key]
    with _cluster_for(wanted, storage, address), Display(console) as display:
        concurrent = spec.resources.concurrent_stages
        outcomes = building.build(titled, storage, display, concurrent, spec.costs)
    record = _record(spec, wanted, outcomes, command, started)
    if until is None:
        place = Place(spec.name, fingerprint(wanted))
        with _unless_rows_failed(record, console):
            record["report"] = keeping.keep(storage, place, record, console)
    for outcome in outcomes.values():
        if outcome.fault is not None:
            raise outcome.fault
    failed = [row for row in record["rows"] if row["status"] == "failed"]
    if failed:
        raise UserError("\n".join(dict.fromkeys(f"{row['error']}" for row in failed)))
    return record


@contextlib.contextmanager
def _unless_rows_failed(record: Mapping[str, Any], console: Console) -> Iterator[None]:
    """A disk that is full takes no report either, but why rows failed is told all the same."""
    try:
        yield
    except OSError as error:
        if all(row["status"] == "done" for row in record["rows"]):
            raise
        reason = f"The report was not written: {explain(error) or error}"
        console.print(reason, highlight=False, markup=False, soft_wrap=True)


def _record(
    spec: Spec,
    wanted: Sequence[Row],
    outcomes: Mapping[str, building.Outcome],
    command: str,
    started: float,
) -> dict[str, Any]:
    return {
        "name": spec.name,
        "title": spec.title or spec.name,
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "spec": spec.model_dump(mode="json"),
        "rows": [_row(row, outcomes) for row in wanted],
    }


def _row(row: Row, outcomes: Mapping[str, building.Outcome]) -> dict[str, Any]:
    seconds, built, error = 0.0, {}, None
    for role, stage in row.stages.items():
        outcome = outcomes[stage.fingerprint]
        if outcome.artifact is None:
            error = error or outcome.error
            continue
        built[role] = {"path": outcome.artifact.path, "reused": not outcome.built}
        manifest = outcome.artifact.manifest()
        assert manifest is not None
        seconds += manifest["seconds"]
    return {
        "variant": row.variant.name,
        "seed": row.variant.spec.seed,
        "status": "failed" if error else "done",
        "error": error,
        "seconds": round(seconds, 1),
        "stages": built,
    }
