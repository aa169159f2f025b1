"""Collecting a run: its record and the manifests of its artifacts.

Nothing else is read. A manifest that is absent or damaged becomes a line in ``Run.problems`` and
its numbers are missing from the report; only the run record itself must be sound.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pyarrow import fs as filesystems
from pydantic import BeforeValidator, Field, ValidationError

from raythief.config import Spec, expand, merge, nest, validate
from raythief.errors import UserError
from raythief.report.results import RESULTS, Part, Results, Share, Usage

STAGES = (
    "corpus",
    "vocabulary",
    "encoders",
    "victim",
    "victim_evaluation",
    "queries",
    "vectors:train",
    "vectors:real",
    "vectors:gibberish",
    "figure2",
    "labels",
    "bilstm",
    "parallel",
    "extractor",
    "finetuned",
    "aligned",
    "evaluation",
)
"""Stages of a row in the order in which they are shown."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Input(Part):
    """An artifact that another was made from."""

    stage: str
    fingerprint: str


class Manifest(Part):
    """The manifest of one artifact."""

    fingerprint: str
    inputs: dict[str, Input] = {}
    """By the role that they played."""
    seconds: float | None = None
    created: str | None = None
    config: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    results: dict[str, Any] = {}


class Stage(Part):
    """Where a row's artifact lies, and whether an earlier run or row had made it."""

    path: str
    reused: bool = False


def _known(value: Any) -> Any:
    """What JSON writes for the score of nothing (NaN) is no score."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


MaybeShare = Annotated[Share | None, BeforeValidator(_known)]
MaybeAmount = Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_known)]


class Look(Part):
    """What a trial scored on the way."""

    stage: str | None = None
    """Role of the training that was looked at."""
    step: Annotated[int, Field(ge=0)]
    score: MaybeShare = None


class Sweep(Part):
    """What was searched for, where, and how."""

    objective: str = ""
    """Name of the selection rule that was maximised."""
    agreement: tuple[str, ...] = ()
    """Rules that are agreement with the victim on bought queries."""
    parameters: dict[str, dict[str, Any]] = {}
    """Field path, and where its values come from."""
    searcher: str = ""
    scheduler: str = ""
    repeats: Annotated[int, Field(ge=1)] = 1
    """Seeds of each configuration."""
    unit: str = ""
    """What hours are counted of: GPU or CPU."""


class Row(Part):
    """One variant with one seed; in a sweep, one trial."""

    variant: str
    seed: int = 0
    status: Literal["done", "stopped", "failed", "running"]
    """Stopped is what a sweep's scheduler does to a trial that lags; it is not evaluated."""
    error: str | None = None
    seconds: float | None = None
    stages: dict[str, Stage] = {}
    # Of a trial.
    trial: str | None = None
    parameters: dict[str, Any] = {}
    """Field path and value, of those that apply."""
    repeat: int = 0
    objective: MaybeShare = None
    """By the evaluation or, where the trial was stopped, by its last look."""
    looks: tuple[Look, ...] = ()
    steps: int | None = None
    ended: MaybeAmount = None
    """Seconds from the start of the sweep."""
    hours: MaybeAmount = None
    """What it cost; nothing if all of it was found."""
    scores: dict[str, MaybeShare] = {}
    """By selection rule."""
    collapse: tuple[str, ...] = ()
    """Signs of a collapse, in words."""

    @property
    def label(self) -> str:
        """Name and seed."""
        return f"{self.variant}, seed {self.seed}"


class Record(Part):
    """The run record."""

    name: str
    title: str | None = None
    command: str | None = None
    started: str | None = None
    seconds: float | None = None
    spec: dict[str, Any] = {}
    sweep: Sweep | None = None
    """None where the rows are no trials."""
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """A manifest that was read, and its results if its stage has any that we show."""

    path: str
    manifest: Manifest
    results: Results | None
    usage: Usage


@dataclass(frozen=True)
class Run:
    """Everything that a report is made from."""

    record: Record
    spec: Spec | None
    """The spec, where this version of the program still understands it."""
    variants: Mapping[str, Spec]
    """Each variant's own spec."""
    artifacts: Mapping[tuple[str, str], Artifact]
    """By stage and path."""
    problems: tuple[str, ...]
    """What could not be read, one sentence each."""

    def artifact(self, row: Row, stage: str) -> Artifact | None:
        """The artifact of a row's stage, if there is one and it could be read."""
        entry = row.stages.get(stage)
        return self.artifacts.get((stage, entry.path)) if entry else None

    def of_queries(self, chosen: str) -> bool:
        """Whether an evaluation set's labels are the victim's answers to queries, no gold ones."""
        specs = [self.spec, *self.variants.values()]  # a sweep's trials are no variants
        return any(spec is not None and chosen in spec.queries_sets for spec in specs)

    def names(self) -> list[str]:
        """Names of the variants: those of the spec in its order, then any others that ran."""
        return list(dict.fromkeys([*self.variants, *(row.variant for row in self.record.rows)]))

    def users(self, stage: str) -> Iterator[tuple[Artifact, list[Row]]]:
        """Every artifact of a stage, once, with the rows that rest on it."""
        rows: dict[str, list[Row]] = {}
        for row in self.record.rows:
            if artifact := self.artifact(row, stage):
                rows.setdefault(artifact.path, []).append(row)
        for path, users in rows.items():
            yield self.artifacts[stage, path], users


def collect(fs: filesystems.FileSystem, root: str, name: str) -> Run:
    """Read the run ``name`` under ``root``.

    Raises:
        UserError: there is no such run, or its record can not be understood.
    """
    record = _record(fs, root, name)
    problems: list[str] = []
    spec, variants = _specs(record, problems)
    artifacts: dict[tuple[str, str], Artifact] = {}
    tried: set[tuple[str, str]] = set()
    for row in record.rows:
        for stage, entry in row.stages.items():
            key = (stage, entry.path)
            if key not in tried:
                tried.add(key)
                if artifact := _artifact(fs, root, stage, entry.path, row, problems):
                    artifacts[key] = artifact
    for row in record.rows:
        own = variants.get(row.variant)
        whole = own is None or own.until is None
        if row.status == "done" and whole and "evaluation" not in row.stages:
            problems.append(f"{row.label}: it is recorded as done but names no evaluation.")
    return Run(record, spec, variants, artifacts, tuple(problems))


def _record(fs: filesystems.FileSystem, root: str, name: str) -> Record:
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no run's name: letters, digits, `.`, `_` and `-` only")
    path = f"{root.rstrip('/')}/runs/{name}/run.json"
    try:
        content = _json(fs, path)
    except OSError:
        raise UserError(f"{path}: there is no run of this name; start one first") from None
    except ValueError:
        raise UserError(f"{path}: the run record is not JSON") from None
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: the run record is damaged: {_fault(error)}") from None


def _artifact(
    fs: filesystems.FileSystem, root: str, stage: str, path: str, row: Row, problems: list[str]
) -> Artifact | None:
    where = f"{path}/manifest.json ({stage} of {row.label})"
    try:
        manifest = Manifest.model_validate(_json(fs, f"{root.rstrip('/')}/{path}/manifest.json"))
    except OSError:
        problems.append(f"{where}: it is missing.")
        return None
    except ValidationError as error:
        problems.append(f"{where}: it is damaged: {_fault(error)}.")
        return None
    except ValueError:
        problems.append(f"{where}: it is not JSON.")
        return None
    results, usage = None, Usage()
    try:
        usage = Usage.model_validate(manifest.results)
        if kind := RESULTS.get(stage):
            results = kind.model_validate(manifest.results)
    except ValidationError as error:
        problems.append(f"{where}: its results are damaged: {_fault(error)}.")
    return Artifact(path, manifest, results, usage)


def _specs(record: Record, problems: list[str]) -> tuple[Spec | None, dict[str, Spec]]:
    try:
        spec = validate(record.spec, "spec")
        variants = {variant.name: variant.spec for variant in expand(spec)}
    except UserError as error:
        problems.append(
            "The spec in the run record is not one that this version understands, so rows are "
            f"not told apart by what they are: {'; '.join(str(error).splitlines())}."
        )
        return None, {}
    return (spec, _trial_specs(spec, record.rows, problems)) if record.sweep else (spec, variants)


def _trial_specs(spec: Spec, rows: tuple[Row, ...], problems: list[str]) -> dict[str, Spec]:
    """The spec of each trial: the sweep's, with the trial's parameters set."""
    tree = spec.model_dump(mode="json", exclude={"sweep", "variants"}, exclude_unset=True)
    specs: dict[str, Spec] = {}
    faults: list[str] = []
    for row in rows:
        if row.variant not in specs:
            try:
                specs[row.variant] = validate(merge(tree, nest(row.parameters)), "parameters")
            except UserError as error:
                faults.append(f"{row.label}: {'; '.join(str(error).splitlines())}")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        problems.append(
            "The parameters of a trial do not fit the spec in the run record, so it is not told "
            f"which models it used: {faults[0]}{more}."
        )
    return specs


def _json(fs: filesystems.FileSystem, path: str) -> Any:
    with fs.open_input_file(path) as file:
        return json.loads(file.read().decode("utf-8"))


def _fault(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}{more}"
