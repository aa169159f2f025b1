"""Sections on how a run went: words, labels, training, time, faults, and how to repeat it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise, permutations

from raythief.config import LABELS
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
    duration,
    listed,
    number,
    percent,
    seconds,
)
from raythief.report.records import (
    STAGES,
    Corpus,
    Labels,
    Row,
    Run,
    Training,
    Vocabulary,
)

Head = tuple[str, tuple[str, ...]]
"""Whose vocabulary, and its commonest words."""

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


def labels(run: Run) -> Section | None:
    """What the victim said about the gibberish."""
    found = [
        (who(run, rows), artifact.results)
        for artifact, rows in run.users("labels")
        if isinstance(artifact.results, Labels)
    ]
    if not found:
        return None
    rows = []
    for label, result in found:
        shares = [result.share(name) for name in LABELS]
        padding = DASH if result.padding_share is None else percent(result.padding_share)
        answered = sum(result.label_counts.values())
        counts = (answered, result.rejected, result.spent, result.tokens)
        cells = [*map(percent, shares), percent(max(shares)), *map(number, counts), padding]
        rows.append([Cell(label), *map(Cell, cells), Cell(result.device or DASH)])
    header = [Cell("queries of"), *(Cell(label, "%") for label in LABELS), Cell("majority", "%")]
    header += [Cell("queries", "answered"), Cell("queries", "rejected"), Cell("queries", "spent")]
    header += [Cell("tokens"), Cell("padding", "%")]
    caption = (
        "The victim's labels on the gibberish; nothing is reweighted here. Spent is what was "
        "billed, with what a crash lost and, where attempts are billed, what was tried again."
    )
    table = Table(caption, [*header, Cell("device")], rows, csv="labels.csv")
    picture = Picture(
        "labels",
        figures.label_bars([(label, [r.share(name) for name in LABELS]) for label, r in found]),
        "Stacked bars of the share of each label on the queries",
        "Share of each label on the gibberish; dotted lines mark equal thirds.",
        "labels.csv",
    )
    values = [(label, *(r.label_counts.get(name, 0) for name in LABELS)) for label, r in found]
    return Section(
        "labels",
        "What the victim says about gibberish",
        [picture, table],
        [Sheet("labels.csv", ("queries_of", *LABELS), values)],
    )


ENDS = {"collapse": "stopped: collapsed", "patience": "stopped early"}
"""Why a training ended before its last step."""


def training(run: Run) -> Section | None:
    """Loss by step, and how each training ended."""
    panels: dict[str, list[tuple[str, list[tuple[int, float]]]]] = {}
    rows, values, chosen = [], [], set[str]()
    for stage in TRAININGS:
        for artifact, users in run.users(stage):
            result = artifact.results
            if not isinstance(result, Training):
                continue
            name, seeds = _name_and_seed(users)
            curve = [(p.step, p.loss) for p in result.history if p.loss is not None]
            if curve:
                panels.setdefault(f"{stage}: {name}", []).append((seeds, curve))
            values += [
                (stage, name, seeds, point.step, point.loss, point.learning_rate)
                for point in result.history
            ]
            loss = DASH if result.final_loss is None else f"{result.final_loss:.3f}"
            state = "collapsed" if result.collapse else "sound"
            kept, speed = result.selection, result.speed
            best = f"step {number(kept.step)}: {percent(kept.score)} %" if kept else "last"
            chosen.update([kept.metric] if kept else [])
            rows.append(
                [Cell(stage), Cell(name), Cell(seeds), Cell(number(result.examples)),
                 Cell(number(result.steps)), Cell(loss), Cell(ENDS.get(result.ended, state)),
                 Cell(best), Cell(number(speed.tokens_per_second)),
                 Cell(DASH if speed.utilisation is None else percent(speed.utilisation)),
                 Cell(result.device or DASH)]
            )  # fmt: skip
    if not rows:
        return None
    blocks: list[Block] = []
    if panels:
        caption = "Training loss by step, a line for each seed; dotted, the loss of a guess (ln 3)."
        svg = figures.loss_curves(list(panels.items()))
        blocks.append(Picture("training", svg, "Curves of loss by step", caption, "training.csv"))
    names = ("stage", "of", "seed", "examples", "steps", "final loss", "state", "weights kept")
    head = [*(Cell(name) for name in names), Cell("tokens/s"), Cell("MFU", "%"), Cell("device")]
    caption = (
        "How each training ended. MFU is the share of the device's measured matrix peak that the "
        "model's own operations reach; padding counts for nothing. "
        + (f"Weights were selected on {listed(sorted(chosen))}." if chosen else
           "The last weights were kept; nothing was selected.")
    )  # fmt: skip
    fold = "Every training: examples, steps, final loss, speed"
    blocks.append(Table(caption, head, rows, heads=3, fold=fold))
    header = ("stage", "of", "seed", "step", "loss", "learning_rate")
    return Section("training", "Training", blocks, [Sheet("training.csv", header, values)])


def time(run: Run) -> Section | None:
    """Seconds a stage, with those marked that cost nothing because they were there."""
    bars, rows, values = [], [], []
    used = [s for s in STAGES if any(run.artifact(row, s) for row in run.record.rows)]
    for row in run.record.rows:
        parts = []
        cells = []
        for stage in used:
            artifact = run.artifact(row, stage)
            spent = artifact.manifest.seconds if artifact else None
            reused = stage in row.stages and row.stages[stage].reused
            cells.append(Cell(seconds(spent), mark="↺" if reused else "", muted=reused))
            if spent is not None:
                parts.append((stage.replace("_", " "), spent, reused))
                values.append((row.variant, row.seed, stage, spent, reused))
        built = sum(spent for _, spent, reused in parts if not reused)
        rows.append([Cell(row.variant), Cell(str(row.seed)), *cells, Cell(seconds(built))])
        bars += [(row.label, parts)] if parts else []
    if not values:
        return None
    header = [Cell("row"), Cell("seed"), *(Cell(stage.replace("_", " ")) for stage in used)]
    table = Table(
        "Seconds a stage, from the manifests.",
        [*header, Cell("built")],
        rows,
        heads=2,
        notes=[
            "↺ reused: the seconds are those of the run or row that built it, and cost nothing "
            "here. “Built” adds up the others."
        ],
        csv="seconds.csv",
    )
    picture = Picture(
        "seconds",
        figures.stage_bars(bars),
        "Stacked bars of seconds a stage for each row",
        "Seconds a stage; a thin line is a stage that was reused.",
        "seconds.csv",
    )
    sheet = Sheet("seconds.csv", ("row", "seed", "stage", "seconds", "reused"), values)
    return Section("time", "Time", [picture, table], [sheet])


def words(run: Run) -> Section | None:
    """Vocabularies and, where they differ, the words that tell them apart."""
    lines = []
    users: dict[tuple[str, ...], list[Row]] = {}
    for artifact, rows in run.users("vocabulary"):
        vocabulary = artifact.results
        if not isinstance(vocabulary, Vocabulary):
            continue
        corpus = run.artifact(rows[0], "corpus")
        size = corpus.results if corpus and isinstance(corpus.results, Corpus) else Corpus()
        numbers = (size.sentences, size.words, vocabulary.words, vocabulary.tokens,
                   vocabulary.mean_sentence_words)  # fmt: skip
        lines.append([Cell(who(run, rows)), *(Cell(number(value)) for value in numbers)])
        users.setdefault(vocabulary.most_common, []).extend(rows)
    if not lines:
        return None
    heads = [(who(run, rows), head) for head, rows in users.items() if head]
    header = [Cell("queries of"), Cell("sentences", "corpus"), Cell("words", "corpus")]
    header += [Cell("distinct", "vocabulary"), Cell("drawn from", "tokens")]
    header += [Cell("words", "a sentence")]
    blocks: list[Block] = [Table("Corpora and vocabularies.", header, lines)]
    common = [[Cell(label), Cell(", ".join(head))] for label, head in heads]
    blocks.append(
        Table("The most common words.", [Cell("queries of"), Cell("words")], common, prose=True)
    )
    if contrasts := _contrasts(heads):
        head = [Cell("common in"), Cell("but not in"), Cell("words")]
        caption = (
            "Words among the commonest of one vocabulary and not among the commonest of another. "
            "Manifests keep only the head of each list, so a word may still be there, further down."
        )
        blocks.append(Table(caption, head, contrasts, heads=2, prose=True))
    return Section("words", "Vocabularies", blocks)


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
    if run.problems:
        lines = [[Cell(problem)] for problem in run.problems]
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


def _name_and_seed(rows: Sequence[Row]) -> tuple[str, str]:
    names = list(dict.fromkeys(row.variant for row in rows))
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    seeds = sorted({row.seed for row in rows})
    return names[0] + more, f"seed {listed([str(seed) for seed in seeds])}"


def _contrasts(heads: Sequence[Head]) -> list[list[Cell]]:
    """Words of one list that another lacks; beyond four lists, only neighbours are compared."""
    pairs = permutations(heads, 2) if len(heads) <= 4 else pairwise(heads)
    rows = []
    for (ours, mine), (theirs, others) in pairs:
        only = [word for word in mine if word not in others]
        if only:
            rows.append([Cell(ours), Cell(theirs), Cell(", ".join(only))])
    return rows


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
