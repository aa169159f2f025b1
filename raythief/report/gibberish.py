"""Sections on the queries: what the victim says about them, and whose words they are made of."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise, permutations

from raythief.config import LABELS
from raythief.report import figures
from raythief.report.blocks import (
    Block,
    Cell,
    Picture,
    Section,
    Sheet,
    Table,
    Text,
    number,
    percent,
)
from raythief.report.cast import Cast
from raythief.report.course import who
from raythief.report.measures import Series
from raythief.report.records import Row, Run
from raythief.results import Corpus, Labels, Vocabulary
from raythief.vocabulary import most_common_only_in

Head = tuple[str, tuple[str, ...]]
"""Whose vocabulary, and its commonest words."""

SHOWN = 30
"""Words of a list that are shown."""


def labels(run: Run, parts: Cast | None) -> Section | None:
    """What the victim said about the gibberish, one bar for each purchase."""
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
        cells = [number(result.answered), *map(percent, shares), percent(max(shares))]
        rows.append([Cell(label), *map(Cell, [*cells, f"{result.bits:.2f}"])])
    header = [Cell("queries of"), Cell("queries", "answered")]
    header += [Cell(label, "%") for label in LABELS]
    header += [Cell("majority", "%"), Cell("bits", f"of {math.log2(len(LABELS)):.2f}")]
    caption = (
        "The victim's labels on the gibberish; nothing is reweighted. Bits are the entropy of the "
        "labels: the most that one of them can tell, which is nothing where all are alike."
    )
    table = Table(caption, header, rows, csv="labels.csv")
    picture = Picture(
        "labels",
        figures.label_bars([(label, [r.share(name) for name in LABELS]) for label, r in found]),
        "Stacked bars of the share of each label on the queries",
        "Share of each label on the gibberish; dotted lines mark equal thirds.",
        "labels.csv",
    )
    blocks: list[Block] = [picture, table]
    if parts and (told := _told(run, parts)):
        blocks.insert(0, Text(told))
    values = [(label, *(r.label_counts.get(name, 0) for name in LABELS), r.bits)
              for label, r in found]  # fmt: skip
    return Section(
        "labels",
        "What the victim says about gibberish",
        blocks,
        [Sheet("labels.csv", ("queries_of", *LABELS, "bits"), values)],
    )


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
    if contrasts := _contrasts(heads):
        head = [Cell("common in"), Cell("but not in"), Cell("words")]
        kept = f"{max(len(words) for _, words in heads):,}"
        caption = (
            f"The commonest words of each vocabulary that another lacks among its {kept} commonest,"
            " which are those that manifests keep: further down it may still have them."
        )
        blocks.append(Table(caption, head, contrasts, heads=2, prose=True))
    common = [[Cell(label), Cell(", ".join(head[:SHOWN]))] for label, head in heads]
    header = [Cell("queries of"), Cell("words")]
    blocks.append(
        Table("The most common words.", header, common, prose=True,
              fold="The most common words of each vocabulary")
    )  # fmt: skip
    sheet = Sheet(
        "words.csv",
        ("queries_of", "rank", "word"),
        [(label, i, word) for label, head in heads for i, word in enumerate(head, 1)],
    )
    return Section("words", "Vocabularies", blocks, [sheet])


def _told(run: Run, parts: Cast) -> str:
    """How much the labels on queries of foreign words tell, beside those on the thief's own."""
    if parts.thief is None or not parts.foreign:
        return ""
    sentences = []
    for one in (parts.thief, *parts.foreign):
        if own := _labels_of(run, one):
            majority = statistics.fmean(max(map(r.share, LABELS)) for r in own)
            bits = statistics.fmean(r.bits for r in own)
            sentences.append(
                f"of “{one.name}” {percent(majority)} % get one and the same answer, and a label "
                f"tells {bits:.2f} bits at most"
            )
    if len(sentences) < 2:
        return ""
    return (
        f"Of the queries {'; '.join(sentences)}. The less the labels differ, the less there is to "
        "learn from them."
    )


def _labels_of(run: Run, one: Series) -> list[Labels]:
    """What the victim said to a row, by seed."""
    found = (run.artifact(row, "labels") for row in run.record.rows if row.variant == one.name)
    return [a.results for a in found if a and isinstance(a.results, Labels)]


def _contrasts(heads: Sequence[Head]) -> list[list[Cell]]:
    """Words of one list that another lacks; beyond four lists, only neighbours are compared."""
    pairs = permutations(heads, 2) if len(heads) <= 4 else pairwise(heads)
    rows = []
    for (ours, mine), (theirs, others) in pairs:
        if only := most_common_only_in(mine, others, SHOWN):
            rows.append([Cell(ours), Cell(theirs), Cell(", ".join(only))])
    return rows
