"""Sections on how a run went: training, faults, and how to repeat it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence

from raythief.report import figures
from raythief.report.blocks import (
    DASH,
    Block,
    Cell,
    Code,
    Picture,
    Section,
    Sheet,
    Table,
    Text,
    counted,
    duration,
    listed,
    number,
    percent,
)
from raythief.report.records import STAGES, Row, Run
from raythief.results import Training

STATES = ("done", "stopped", "failed", "running")
TRAININGS = ("victim", "extractor", "finetuned")


def who(run: Run, rows: Sequence[Row]) -> str:
    """Name what rests on an artifact: its variants, and its seeds where there are several."""
    names = list(dict.fromkeys(row.variant for row in rows))
    label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    if len(names) > 1 and set(names) == {row.variant for row in run.record.rows}:
        label = "all rows"
    every = {row.seed for row in run.record.rows}
    seeds = sorted({row.seed for row in rows})
    if len(every) > 1 and len(seeds) < len(every):
        label += f", seed {listed([str(seed) for seed in seeds])}"
    return label


ENDS = {"collapse": "stopped: collapsed", "patience": "stopped early"}
"""Why a training ended before its last step."""


def training(run: Run) -> Section | None:
    """Loss by step, and how each training ended."""
    panels: dict[str, list[tuple[str, list[tuple[int, float]]]]] = {}
    guesses: dict[str, list[float]] = {}
    rows, values = [], []
    chosen: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    for stage in TRAININGS:
        for artifact, users in run.users(stage):
            result = artifact.results
            if not isinstance(result, Training):
                continue
            name, seeds = _name_and_seed(users)
            curve = [(p.step, p.loss) for p in result.history if p.loss is not None]
            if curve:
                panels.setdefault(f"{stage}: {name}", []).append((seeds, curve))
                if result.loss_of_a_guess is not None:
                    guesses.setdefault(f"{stage}: {name}", []).append(result.loss_of_a_guess)
            values += [
                (stage, name, seeds, point.step, point.loss, point.learning_rate)
                for point in result.history
            ]
            loss = DASH if result.final_loss is None else f"{result.final_loss:.3f}"
            state = "collapsed" if result.collapse else "sound"
            kept, speed = result.selection, result.speed
            best = f"step {number(kept.step)}: {percent(kept.score)} %" if kept else "last"
            if kept:
                chosen.setdefault(kept.metric, []).append(stage)
            for note in result.notes:
                notes.setdefault(note, []).append(f"{stage} of {name}")
            rows.append(
                [Cell(stage), Cell(name), Cell(seeds), Cell(number(result.examples)),
                 Cell(number(result.steps)), Cell(loss), Cell(ENDS.get(result.ended, state)),
                 Cell(best), Cell(number(speed.tokens_per_second)),
                 Cell(DASH if speed.utilisation is None else percent(speed.utilisation)),
                 Cell(result.device or DASH)]
            )  # fmt: skip
    if not rows:
        return None
    blocks: list[Block] = [Text(_selected(run, chosen, len(rows)))]
    blocks += [
        Text(f"Note of {'; '.join(dict.fromkeys(of))}: {note}.") for note, of in notes.items()
    ]
    if panels:
        caption = (
            "Training loss by step, a line for each seed; dotted, where it is recorded, the loss "
            "of a guess that knows how often each label is right."
        )
        drawn = [
            (name, curves, statistics.fmean(guesses[name]) if name in guesses else None)
            for name, curves in panels.items()
        ]
        svg = figures.loss_curves(drawn)
        blocks.append(Picture("training", svg, "Curves of loss by step", caption, "training.csv"))
    names = ("stage", "of", "seed", "examples", "steps", "final loss", "state", "weights kept")
    head = [*(Cell(name) for name in names), Cell("tokens/s"), Cell("MFU", "%"), Cell("device")]
    caption = (
        "How each training ended. MFU is the share of the device's measured matrix peak that the "
        "model's own operations reach; padding counts for nothing."
    )
    fold = "Every training: examples, steps, final loss, speed"
    blocks.append(Table(caption, head, rows, heads=3, fold=fold))
    header = ("stage", "of", "seed", "step", "loss", "learning_rate")
    return Section("training", "Training", blocks, [Sheet("training.csv", header, values)])


def faults(run: Run) -> Section | None:
    """Rows that failed, did not finish or collapsed, and what could not be read."""
    blocks: list[Block] = []
    rows = [
        [Cell(row.variant), Cell(str(row.seed)), Cell(row.status), Cell(_reason(row))]
        for row in run.record.rows
        if row.status not in ("done", "stopped")  # to be stopped is no fault
    ]
    rows += [
        [Cell(row.variant), Cell(str(row.seed)), Cell("collapsed"),
         Cell(f"{stage}: {'; '.join(a.results.collapse)}")]
        for row in run.record.rows
        for stage in TRAININGS
        if (a := run.artifact(row, stage)) and isinstance(a.results, Training)
        and a.results.collapse
    ]  # fmt: skip
    if rows:
        header = [Cell(name) for name in ("row", "seed", "state", "reason")]
        blocks.append(
            Table("Rows that failed, did not finish or collapsed; none is left out of the means "
                  "for having collapsed.", header, rows, heads=2, prose=True)
        )  # fmt: skip
    ran = {row.variant for row in run.record.rows}
    if absent := [name for name in run.variants if name not in ran]:
        blocks.append(Text(f"Not run: {listed(absent)}."))
    if faults := [*(gap.fault for gap in run.gaps), *run.complaints]:
        lines = [[Cell(fault)] for fault in faults]
        blocks.append(Table("What could not be read.", [Cell("file and fault")], lines, prose=True))
    return Section("faults", "Failures and gaps", blocks) if blocks else None


def again(run: Run) -> Section:
    """How to run it again: command, versions, fingerprints and the spec."""
    record = run.record
    blocks: list[Block] = []
    if record.command:
        blocks.append(Code(record.command))
    blocks.append(
        Text("Artifacts are found by fingerprint: the same spec on the same storage builds only "
             "what is missing.")
    )  # fmt: skip
    versions, differ = _versions(run)
    if versions:
        header = [Cell("package"), Cell("version")]
        blocks.append(Table("Versions.", header, versions, prose=True))
    if differ:
        blocks.append(Text("Artifacts of several versions were mixed: they need not fit together."))
    prints = [
        [Cell(row.variant), Cell(str(row.seed)), Cell(stage), Cell(row.stages[stage].path),
         Cell(a.manifest.fingerprint if (a := run.artifact(row, stage)) else "not readable")]
        for row in record.rows
        for stage in [*(s for s in STAGES if s in row.stages),
                      *(s for s in row.stages if s not in STAGES)]
    ]  # fmt: skip
    if prints:
        header = [Cell(name) for name in ("row", "seed", "stage", "folder", "fingerprint")]
        blocks.append(
            Table("Fingerprints.", header, prints, heads=2, prose=True,
                  fold="Fingerprints of every artifact")
        )  # fmt: skip
    spec = json.dumps(record.spec, indent=2, ensure_ascii=False)
    blocks.append(Code(spec, fold="The spec as it was run"))
    return Section("again", "To run it again", blocks)


# --- helpers ------------------------------------------------------------------------------------


def _selected(run: Run, chosen: Mapping[str, Sequence[str]], trainings: int) -> str:
    """What weights were selected on; of a sweep other sections say what trials were chosen by."""
    if chosen:
        clauses = [
            f"{metric} ({', '.join(dict.fromkeys(stages))})"
            for metric, stages in sorted(chosen.items())
        ]
        left = trainings - sum(map(len, chosen.values()))
        said = f"Weights were selected on {listed(clauses)}."
        said += f" {counted(left, 'other training')} kept the last weights." if left else ""
    else:
        said = "The last weights were kept; nothing was selected."
    if run.record.sweep:
        return said
    return f"{said} Settings are those of the spec: no row was chosen among others by its score."


def _name_and_seed(rows: Sequence[Row]) -> tuple[str, str]:
    names = list(dict.fromkeys(row.variant for row in rows))
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    seeds = sorted({row.seed for row in rows})
    return names[0] + more, f"seed {listed([str(seed) for seed in seeds])}"


def _reason(row: Row) -> str:
    if row.status == "running":
        return row.error or "it had not finished when this report was written"
    return row.error or "no reason was recorded"


def _versions(run: Run) -> tuple[list[list[Cell]], bool]:
    """Versions over all artifacts; several of one package are all shown."""
    seen: dict[str, list[str]] = {}
    for artifact in run.artifacts.values():
        for package, version in artifact.manifest.versions.items():
            known = seen.setdefault(package, [])
            if str(version) not in known:
                known.append(str(version))
    rows = [[Cell(package), Cell(", ".join(found))] for package, found in seen.items()]
    return rows, any(len(found) > 1 for found in seen.values())


def overview(run: Run) -> list[tuple[str, str]]:
    """The facts under the headline: (name, value)."""
    record, spec = run.record, run.spec
    states = [row.status for row in record.rows]
    tally = [f"{states.count(s)} {s}" for s in STATES if s in states]
    facts = [("Experiment", record.name)]
    if record.started:
        facts.append(("Started", record.started.replace("T", " ").replace("+00:00", " UTC")))
    if record.seconds is not None:
        facts.append(("Took", duration(record.seconds)))
    facts.append(("Trials" if record.sweep else "Rows", ", ".join(tally) or "none"))
    if record.rows:
        seeds = sorted({row.seed for row in record.rows})
        facts.append(("Seeds", ", ".join(map(str, seeds))))
    if spec:
        variants = run.variants.values()
        if spec.until is None:  # else they need not be there at all
            facts.append(("Victim", _distinct([v.victim.model for v in variants])))
            facts.append(("Extractor", _distinct([v.extractor.model for v in variants])))
        encoders = [v.figure2.model for v in variants if v.figure2]
        if encoders:
            facts.append(("Encoder of the distances", _distinct(encoders)))
        facts.append(("Queries", _distinct([f"{v.queries.count:,}" for v in variants])))
    return facts


def _distinct(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))
