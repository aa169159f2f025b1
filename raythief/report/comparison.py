"""The paper's numbers beside ours.

A difference is drawn only where the two are the same thing: the paper's models, and an evaluation
set as large as the paper's. Otherwise its numbers stand there for reference, and that is said.
"""

from __future__ import annotations

from collections.abc import Sequence

from raythief import paper
from raythief.report.blocks import DASH, Block, Cell, Section, Table, Text, listed, points
from raythief.report.measures import Series, languages_of
from raythief.report.records import Run
from raythief.report.scores import header_of, plain_cell

_OTHER_TASK = (
    "This run is not the paper's experiment: its task, its data or its models are others, so the "
    "paper's numbers stand here for reference only, and no difference is drawn."
)

_SOME_OTHERS = (
    "Where no difference is drawn, the data or the models of the row are not the paper's, and its "
    "numbers stand there for reference only."
)


def beside_the_paper(run: Run, series: Sequence[Series]) -> Section | None:
    """The paper's numbers, with the difference where the two are the same task and models."""
    if run.spec is None:
        return None
    if run.spec.paper is None:
        return _reference() if _is_miniature(run) else None
    table = run.spec.paper
    chosen = paper.SETS[table]
    languages = languages_of(series, chosen)
    matched = [(one, _row(one, table)) for one in series if one.languages(chosen)]
    pairs = [(one, row, _comparable(one, row, chosen)) for one, row in matched if row]
    rows = [
        line for one, row, same in pairs for line in _comparison(one, row, chosen, languages, same)
    ]
    blocks: list[Block] = []
    if _is_miniature(run) or not any(same for _, _, same in pairs):
        blocks.append(Text(_OTHER_TASK))
    elif not all(same for _, _, same in pairs):
        blocks.append(Text(_SOME_OTHERS))
    if rows:
        caption = (
            f"Ours beside the paper's {paper.TITLES[table]}, on {chosen}, in per cent; the "
            "difference in points. The paper gives one run of each row and no spread."
        )
        notes = _sources(series, table)
        blocks.append(Table(caption, header_of(languages, row=2), rows, heads=2, notes=notes))
    else:
        names = listed([f"“{row.name}”" for row in paper.TABLES[table]])
        blocks.append(
            Text(
                f"No evaluated row goes by a name of the paper's {paper.TITLES[table]} on "
                f"{chosen}, so nothing is compared. Its rows are {names}."
            )
        )
    return Section("paper", "Beside the paper", blocks)


def _reference() -> Section:
    row = paper.find("table2", "XLMR-Large, 0 %")
    assert row is not None and row.elsewhere is not None  # a row of our own table
    text = (
        "This run is in miniature: a small made-up task and small models, so its numbers can not "
        "be set against the paper's. For reference only: at full size the paper reports "
        f"{row.accuracy['en']} % in English and {row.elsewhere:.1f} % on average in 14 other "
        "languages for gibberish alone (XNLI, RoBERTa-Large to XLMR-Large)."
    )
    return Section("paper", "Beside the paper", [Text(text)])


def _is_miniature(run: Run) -> bool:
    return any(
        "miniature" in (spec.victim.model + spec.extractor.model)
        or any(pairs.source == "miniature" for pairs in spec.evaluation.sets.values())
        for spec in run.variants.values()
    )


def _row(one: Series, table: paper.Table) -> paper.Row | None:
    """The paper's row for one of ours; its victim was scored on MNLI alone (Table 1)."""
    if not one.is_victim:
        return paper.find(table, one.name)
    model = paper.model_name(one.spec.victim.model) if one.spec else None
    return paper.VICTIM if table == "table1" and model == paper.VICTIM.name else None


def _comparable(one: Series, row: paper.Row, chosen: str) -> bool:
    """Whether the models are the row's, and the set is as large as the paper's."""
    pairs = one.spec.evaluation.sets.get(chosen) if one.spec else None
    if one.spec is None or pairs is None or pairs.source in ("miniature", "queries"):
        return False
    counts = {
        score.count for sets in one.samples.values() for score in sets.get(chosen, {}).values()
    }
    if counts != {paper.ITEMS[chosen]}:
        return False
    if row.victim and paper.model_name(one.spec.victim.model) != row.victim:
        return False
    ours = one.spec.victim.model if one.is_victim else one.spec.extractor.model
    return paper.model_name(ours) == (row.extractor or row.name)


def _comparison(
    one: Series, row: paper.Row, chosen: str, languages: Sequence[str], same: bool
) -> list[list[Cell]]:
    ours = [one.accuracy(chosen, code) for code in languages]
    theirs = [row.accuracy.get(code) for code in languages]
    if len(languages) > 1:
        ours.append(one.elsewhere(chosen))
        whole = {code for code in languages if code != "en"} == row.accuracy.keys() - {"en"}
        theirs.append(row.elsewhere if whole else None)
    lines = [
        [Cell(one.name), Cell("ours"), *(plain_cell(measure) for measure in ours)],
        [Cell(""), Cell("paper"), *(_paper_cell(value) for value in theirs)],
    ]
    if same:
        gaps = [
            Cell(DASH if a is None or b is None else points(a.mean - b / 100), muted=True)
            for a, b in zip(ours, theirs, strict=True)
        ]
        lines.append([Cell(""), Cell("difference"), *gaps])
    return lines


def _paper_cell(value: float | None) -> Cell:
    return Cell(DASH if value is None else f"{value:.1f}", muted=True)


def _sources(series: Sequence[Series], table: paper.Table) -> list[str]:
    """Name those whom the paper quotes; the rest are its own."""
    quoted = []
    for one in series:
        row = paper.find(table, one.name)
        if row and row.source != paper.PAPER:
            quoted.append(f"“{row.name}” is quoted by the paper from {row.source}.")
    if table == "vocabulary":
        quoted.append("For CORD-19 the paper says “random chance”, which is put here as 33.3.")
    return quoted
