"""The section on what a run cost: queries that were bought, hours, money, and seconds a stage."""

from __future__ import annotations

from dataclasses import dataclass, replace

from raythief import worktime
from raythief.config import Spec
from raythief.report import figures
from raythief.report.blocks import (
    DASH,
    Block,
    Cell,
    Picture,
    Section,
    Sheet,
    Table,
    Text,
    counted,
    duration,
    number,
    seconds,
)
from raythief.report.course import who
from raythief.report.records import STAGES, Artifact, Row, Run
from raythief.results import Training

PURCHASES = ("labels", "sanity", "victim_evaluation")
"""Stages that may have asked a victim which counts its answers."""


@dataclass(frozen=True)
class Purchase:
    """Queries that one stage bought."""

    stage: str
    owner: str
    artifact: Artifact
    price: float
    """Dollars a query; 0 where the spec names none."""

    @property
    def spent(self) -> int:
        """Queries that were billed."""
        return self.artifact.usage.spent or 0


@dataclass(frozen=True)
class Hours:
    """What one artifact took."""

    stage: str
    artifact: Artifact
    built: bool
    """Whether this run built it."""
    cpu: float
    """Worker hours without a GPU."""
    gpu: float
    """GPU hours."""


def purchases(run: Run) -> list[Purchase]:
    """Everything that was bought of victims, each answer once.

    Labels of 100 and of 200 queries have the first 100 answers in common, and each says what all
    its answers took until then. Of such the one that says most is told.
    """
    found: dict[object, Purchase] = {}
    for stage in PURCHASES:
        for artifact, rows in run.users(stage):
            if artifact.usage.spent is None:
                continue
            one = Purchase(stage, who(run, rows), artifact, _spec(run, rows[0]).costs.query_usd)
            key = getattr(artifact.results, "answers", None) or artifact.path
            if key not in found or found[key].spent < one.spent:
                found[key] = one
    return list(found.values())


def hours(run: Run) -> list[Hours]:
    """What every artifact of the run took, each once.

    How many workers there were, with how many GPUs, is in the manifests of trainings, alignments
    and of what asks a model; other stages count for one (``worktime.hours``). A shorter training
    that another went on from is among them, though no row may have it.
    """
    used = [
        (stage, artifact, rows)
        for stage in _used(run)
        for artifact, rows in run.users(stage)
        if artifact.manifest.seconds is not None
    ]
    known = {artifact.path for _, artifact, _ in used}
    taken = []
    for stage, artifact, rows in used:
        results = artifact.results
        taken.append(_hours(stage, artifact, _built(run, stage, artifact, rows)))
        before = results.continues if isinstance(results, Training) else None
        if before is not None and before.path not in known:
            known.add(before.path)
            manifest = artifact.manifest.model_copy(update={"seconds": before.seconds})
            shorter = replace(artifact, path=before.path, manifest=manifest)
            taken.append(_hours(stage, shorter, False))
    return taken


def costs(run: Run) -> Section | None:
    """Spend, hours and money in one place; None where no manifest tells any."""
    taken = hours(run)
    if not taken:
        return None
    bought = purchases(run)
    blocks: list[Block] = [Text(in_all(run))]
    sheets: list[Sheet] = []
    if bought:
        table, sheet = _bought(bought)
        blocks.append(table)
        sheets.append(sheet)
    table, sheet = _taken(run, taken)
    blocks.append(table)
    picture, seconds_table, seconds_sheet = _seconds(run)
    return Section(
        "costs", "What it cost", [*blocks, picture, seconds_table], [*sheets, sheet, seconds_sheet]
    )


def in_all(run: Run) -> str:
    """Queries, hours and money of all that the run rests on, in a sentence or two."""
    bought, taken = purchases(run), hours(run)
    parts = []
    if bought:
        spent = sum(one.spent for one in bought)
        usd = sum(one.spent * one.price for one in bought)
        parts.append(f"{counted(spent, 'query', 'queries')} ({money(usd, bool(usd))})")
    parts += [amount_of_hours(sum(one.gpu for one in taken), sum(one.cpu for one in taken))]
    rate = run.spec.costs.gpu_hour_usd if run.spec else 0.0
    gpu = sum(one.gpu for one in taken)
    dollars = f", ${gpu * rate:,.2f} at ${rate:,.2f} a GPU hour" if gpu and rate else ""
    found = sum(not one.built for one in taken)
    earlier = (
        f" Of {counted(len(taken), 'artifact')}, {found} lay on storage already and cost this run "
        "nothing; they are counted here all the same."
        if found
        else ""
    )
    budget = run.spec.costs.budget if run.spec else None
    limit = f" The budget is {counted(budget, 'query', 'queries')}." if budget else ""
    # Trials that were stopped or are not shown have their hours in the section on the search.
    shown = "the configurations shown rest" if run.record.sweep else "this report rests"
    said = f"All that {shown} on took {' and '.join(parts)}{dollars}."
    return f"{said}{limit}{earlier}"


def money(usd: float, known: bool) -> str:
    """$20.00, or that there is no price."""
    return f"${usd:,.2f}" if known else "no price in the spec"


def amount_of_hours(gpu: float, cpu: float) -> str:
    """GPU hours where there are any; else the time of workers on CPUs."""
    if gpu:
        return f"{_short(gpu)} GPU hours"
    return f"{duration(3600 * cpu)} of CPU workers (no GPU)"


# --- helpers ------------------------------------------------------------------------------------


def _bought(bought: list[Purchase]) -> tuple[Table, Sheet]:
    rows, values = [], []
    for one in bought:
        used, usd = one.artifact.usage, one.spent * one.price
        rows.append(
            [Cell(one.stage.replace("_", " ")), Cell(one.owner), Cell(number(one.spent)),
             Cell(number(used.rejected)), Cell(number(used.tokens)),
             Cell(money(usd, True) if one.price else DASH), Cell(used.device or DASH)]
        )  # fmt: skip
        values.append((one.stage, one.owner, one.spent, used.rejected, used.tokens, usd))
    header = [Cell("bought for"), Cell("of"), Cell("queries", "spent"), Cell("queries", "rejected")]
    header += [Cell("tokens"), Cell("price"), Cell("answered by")]
    caption = (
        "Queries that the victim was asked, each purchase once. Spent is what was billed, with "
        "what a crash lost and, where attempts are billed, what was tried again."
    )
    sheet = Sheet(
        "queries.csv", ("stage", "of", "spent", "rejected", "tokens", "usd"), values
    )  # fmt: skip
    return Table(caption, header, rows, heads=2, csv="queries.csv"), sheet


def _taken(run: Run, taken: list[Hours]) -> tuple[Table, Sheet]:
    rate = run.spec.costs.gpu_hour_usd if run.spec else 0.0
    rows, values = [], []
    for stage in dict.fromkeys(one.stage for one in taken):
        own = [one for one in taken if one.stage == stage]
        rows.append([Cell(stage.replace("_", " ")), *_sums(own, rate)])
        values += [
            (stage, one.artifact.path, one.artifact.usage.device, one.built,
             one.artifact.manifest.seconds, one.cpu, one.gpu)
            for one in own
        ]  # fmt: skip
    rows.append([Cell("all"), *_sums(taken, rate)])
    header = [Cell("stage"), Cell("artifacts"), Cell("of them", "built now"), Cell("seconds")]
    header += [Cell("CPU hours", "of workers"), Cell("GPU hours")]
    header += [Cell("price", "of GPU hours")] if rate else []
    names = ("stage", "artifact", "device", "built_now", "seconds", "cpu_hours", "gpu_hours")
    caption = (
        "Hours by stage, each artifact once, however many rows share it: seconds from its manifest,"
        " times its workers. A shorter training that another went on from counts too."
    )
    return Table(caption, header, rows, csv="hours.csv"), Sheet("hours.csv", names, values)


def _sums(taken: list[Hours], rate: float) -> list[Cell]:
    gpu = sum(one.gpu for one in taken)
    cells = [
        Cell(str(len(taken))),
        Cell(str(sum(one.built for one in taken))),
        Cell(seconds(sum(one.artifact.manifest.seconds or 0.0 for one in taken))),
        Cell(_short(sum(one.cpu for one in taken))),
        Cell(_short(gpu)),
    ]
    return [*cells, Cell(f"${gpu * rate:,.2f}")] if rate else cells


def _seconds(run: Run) -> tuple[Picture, Table, Sheet]:
    """Seconds a stage, with those marked that cost nothing because they were there."""
    bars, rows, values = [], [], []
    used = [stage for stage in _used(run) if stage in STAGES]
    for row in run.record.rows:
        parts, cells = [], []
        built = sum(
            artifact.manifest.seconds or 0.0
            for stage, entry in row.stages.items()
            if not entry.reused and (artifact := run.artifact(row, stage))
        )
        for stage in used:
            artifact = run.artifact(row, stage)
            spent = artifact.manifest.seconds if artifact else None
            reused = stage in row.stages and row.stages[stage].reused
            cells.append(Cell(seconds(spent), mark="↺" if reused else "", muted=reused))
            if spent is not None:
                parts.append((stage.replace("_", " "), spent, reused))
                values.append((row.variant, row.seed, stage, spent, reused))
        rows.append([Cell(row.variant), Cell(str(row.seed)), *cells, Cell(seconds(built))])
        bars += [(row.label, parts)] if parts else []
    header = [Cell("row"), Cell("seed"), *(Cell(stage.replace("_", " ")) for stage in used)]
    table = Table(
        "Seconds a stage, from the manifests.",
        [*header, Cell("built")],
        rows,
        heads=2,
        notes=[
            "↺ reused: the seconds are those of the run or row that built it, and were not spent "
            "again. “Built” adds up the others, and stages that have no column, such as sanity."
        ],
        csv="seconds.csv",
        fold="Seconds a stage, row by row",
    )
    picture = Picture(
        "seconds",
        figures.stage_bars(bars),
        "Stacked bars of seconds a stage for each row",
        "Seconds a stage; a thin line is a stage that was reused.",
        "seconds.csv",
    )
    return (
        picture,
        table,
        Sheet("seconds.csv", ("row", "seed", "stage", "seconds", "reused"), values),
    )


def _used(run: Run) -> list[str]:
    """Stages that any row has, in the order in which they are shown."""
    there = dict.fromkeys(stage for row in run.record.rows for stage in row.stages
                          if run.artifact(row, stage))  # fmt: skip
    known = [stage for stage in STAGES if stage in there]
    return known + [stage for stage in there if stage not in STAGES]


def _built(run: Run, stage: str, artifact: Artifact, rows: list[Row]) -> bool:
    """Whether this run built an artifact.

    A sweep builds what its trials share before they begin, and may build more in trials that are
    stopped: all of its rows then found it there, so the time of its making tells.
    """
    made, began = artifact.manifest.created, run.record.started
    if run.record.sweep and made and began:
        return made >= began  # both ISO 8601 in UTC
    return any(not row.stages[stage].reused for row in rows)


def _hours(stage: str, artifact: Artifact, built: bool) -> Hours:
    taken = worktime.hours(artifact.manifest.seconds or 0.0, artifact.usage)
    return Hours(stage, artifact, built, taken.cpu, taken.gpu)


def _spec(run: Run, row: Row) -> Spec:
    """A row's own spec, for its prices; one without any where the record's is not understood."""
    return run.variants.get(row.variant) or run.spec or Spec(name="unknown")


def _short(value: float) -> str:
    return "0" if not value else f"{value:,.3f}" if value < 1 else number(value)
