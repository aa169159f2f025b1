"""Collecting a run: its record and the manifests of its artifacts.

Nothing else is read. A manifest that is absent or damaged becomes one of ``Run.gaps`` and its
numbers are missing from the report, which says so; only the run record itself must be sound.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from raythief.artifacts import Storage
from raythief.config import Spec, expand, merge, nest, validate
from raythief.errors import UserError, first_line
from raythief.report.places import Place
from raythief.results import Results, Share, Usage, read, usage

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


SHOWN = (
    "corpus", "vocabulary", "labels", "victim", "extractor", "finetuned", "figure2",
    "victim_evaluation", "evaluation",
)  # fmt: skip
"""Stages whose results a report shows."""


class Part(BaseModel):
    """A part of a JSON file: what we do not know in it is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


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
class Gap:
    """What one artifact of a row would tell, had it been there and sound."""

    stage: str
    row: str
    """The row's label; of an artifact that rows share, that of the first."""
    fault: str
    """The file and what is wrong with it, as a sentence."""


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
    gaps: tuple[Gap, ...]
    """What artifacts do not tell."""
    complaints: tuple[str, ...]
    """What else is wrong with the record, one sentence each."""

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


def collect(storage: Storage, place: Place) -> Run:
    """Read a run.

    Raises:
        UserError: its record is not there, or cannot be understood.
    """
    record = read_record(storage, place)
    complaints: list[str] = []
    spec, variants = _specs(record, complaints)
    artifacts: dict[tuple[str, str], Artifact] = {}
    gaps: dict[tuple[str, str], Gap] = {}
    for row in record.rows:
        for stage, entry in row.stages.items():
            key = (stage, entry.path)
            if key in artifacts or key in gaps:
                continue
            artifact, fault = _artifact(storage, *key)
            if artifact is not None:
                artifacts[key] = artifact
            if fault:
                told = f"{entry.path}/manifest.json ({stage} of {row.label}): {fault}."
                gaps[key] = Gap(stage, row.label, told)
    for row in record.rows:
        for stage, path in _unrecorded(row, artifacts):
            told = f"{path} ({stage} of {row.label}): it was archived, or is gone."
            gaps.setdefault((stage, path), Gap(stage, row.label, told))
        own = variants.get(row.variant)
        whole = own is None or own.until is None
        if row.status == "done" and whole and "evaluation" not in row.stages:
            complaints.append(f"{row.label}: it is recorded as done but names no evaluation.")
    return Run(record, spec, variants, artifacts, tuple(gaps.values()), tuple(complaints))


def read_record(storage: Storage, place: Place) -> Record:
    """Read a run's record.

    Raises:
        UserError: it is not there, or cannot be understood.
    """
    path = f"{storage.root}/{place.record}"
    content = storage.read_bytes(place.record)
    if content is None:
        raise UserError(f"{path}: there is no run of this name; start one first")
    try:
        return Record.model_validate(json.loads(content.decode("utf-8")))
    except ValidationError as error:
        raise UserError(f"{path}: the run record is damaged: {_fault(error)}") from None
    except ValueError:
        raise UserError(f"{path}: the run record is not JSON") from None


def _artifact(storage: Storage, stage: str, path: str) -> tuple[Artifact | None, str]:
    """An artifact's manifest, as far as it can be read, and what is wrong with it."""
    try:
        content = storage.read_bytes(f"{path}/manifest.json")
        if content is None:
            return None, "it is missing, archived or deleted"
        manifest = Manifest.model_validate(json.loads(content.decode("utf-8")))
    except OSError as error:
        return None, f"it cannot be read: {first_line(error)}"
    except ValidationError as error:
        return None, f"it is damaged: {_fault(error)}"
    except ValueError:
        return None, "it is not JSON"
    results, used, fault = None, Usage(), ""
    try:
        used = usage(manifest.results)
        results = read(stage, manifest.results)
    except ValidationError as error:
        fault = f"its results are damaged: {_fault(error)}"
    return Artifact(path, manifest, results, used), fault


def _unrecorded(
    row: Row, artifacts: Mapping[tuple[str, str], Artifact]
) -> Iterator[tuple[str, str]]:
    """Stage and path of what a finished row was made from and its record does not name: a run
    looks for it no more once what was made from it is whole."""
    if row.status != "done":
        return
    named = {entry.path for entry in row.stages.values()}
    for stage, entry in row.stages.items():
        artifact = artifacts.get((stage, entry.path))
        for given in artifact.manifest.inputs.values() if artifact else ():
            path = f"{given.stage}/{given.fingerprint}"
            if given.stage in SHOWN and path not in named:
                yield given.stage, path


def _specs(record: Record, complaints: list[str]) -> tuple[Spec | None, dict[str, Spec]]:
    try:
        spec = validate(record.spec, "spec")
        variants = {variant.name: variant.spec for variant in expand(spec)}
    except UserError as error:
        complaints.append(
            "The spec in the run record is not one that this version understands, so rows are "
            f"not told apart by what they are: {'; '.join(str(error).splitlines())}."
        )
        return None, {}
    return (spec, _trial_specs(spec, record.rows, complaints)) if record.sweep else (spec, variants)


def _trial_specs(spec: Spec, rows: tuple[Row, ...], complaints: list[str]) -> dict[str, Spec]:
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
        complaints.append(
            "The parameters of a trial do not fit the spec in the run record, so it is not told "
            f"which models it used: {faults[0]}{more}."
        )
    return specs


def _fault(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}{more}"
