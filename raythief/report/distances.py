"""The section on how far gibberish is from real data (the paper's Figure 2)."""

from __future__ import annotations

from raythief.report import figures
from raythief.report.blocks import (
    DASH,
    Cell,
    Picture,
    Section,
    Sheet,
    Table,
    number,
    percent,
)
from raythief.report.cast import in_miniature
from raythief.report.course import who
from raythief.report.records import Run
from raythief.results import Distances

MEANINGS = {
    "inner_product": "minus the largest inner product",
    "cosine": "1 minus the largest cosine",
}
"""What the distance to the nearest training pair is."""


def headline(run: Run) -> str | None:
    """The figure in a sentence; none if there is none."""
    clauses = []
    for label, found in (several := _found(run)):
        chance = found.overlap_of_equals
        against = f", where equal ones would by {percent(chance)} %" if chance is not None else ""
        place = f" for {label}" if len(several) > 1 else ""
        clauses.append(
            f"by {percent(found.overlap)} %{place}{against} (Kolmogorov-Smirnov "
            f"{found.ks:.3f}, p {probability(found.p)})"
        )
    if not clauses:
        return None
    said = (
        "The histograms of the distance of gibberish and of real pairs to the nearest real "
        f"training pair overlap {'; '.join(clauses)}."
    )
    return in_miniature(run, said)


def nearest(run: Run) -> Section | None:
    """The two histograms, and how much they overlap."""
    found = _found(run)
    if not found:
        return None
    rows, values = [], []
    for label, one in found:
        cells = [
            text
            for sample in (one.real, one.gibberish)
            for text in (number(sample.count), value(sample.mean), value(sample.sd))
        ]
        chance = one.overlap_of_equals
        cells += [number(one.train), percent(one.overlap)]
        cells += [DASH if chance is None else percent(chance), f"{one.ks:.3f}", probability(one.p)]
        rows.append([Cell(label), *map(Cell, cells)])
        values += [
            (label, *one.edges[i : i + 2], one.real.counts[i], one.gibberish.counts[i])
            for i in range(len(one.edges) - 1)
        ]
    header = [Cell("queries of")]
    header += [
        Cell(text, kind) for kind in ("real", "gibberish") for text in ("pairs", "mean", "sd")
    ]
    header += [Cell("pairs", "training"), Cell("overlap", "%"), Cell("of equals", "%")]
    kinds = list(dict.fromkeys(one.distance for _, one in found))
    meaning = " or ".join(MEANINGS.get(kind, kind) for kind in kinds)
    table = Table(
        f"Distance to the nearest training pair: {meaning} of max-pooled vectors of the last layer "
        "of a pre-trained encoder with those of any training pair; the search is exact.",
        [*header, Cell("KS"), Cell("p")],
        rows,
        notes=[
            "Overlap is the sum, over the bins, of the smaller of the two shares; of equals: what "
            "it is on average when the same distances are divided at random. KS is the two-sample "
            "statistic of Kolmogorov and Smirnov, p its probability if there were no difference."
        ],
        csv="distances.csv",
    )
    panels = [
        (label, one.edges, [("real", one.real.counts), ("gibberish", one.gibberish.counts)])
        for label, one in found
    ]
    picture = Picture(
        "distances",
        figures.histograms(panels, f"distance to the nearest training pair ({meaning})"),
        "Histograms of the distance to the nearest training pair, of real pairs and of gibberish",
        "How far other real pairs, and gibberish, are from the nearest real training pair; smaller "
        "is nearer.",
        "distances.csv",
    )
    sheet = Sheet("distances.csv", ("queries_of", "low", "high", "real", "gibberish"), values)
    return Section("distances", "How far gibberish is from real data", [picture, table], [sheet])


def probability(p: float) -> str:
    """0.0213 -> 0.021; what is smaller than can be told so is only called small."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def value(distance: float | None) -> str:
    """A distance with four digits, a true minus sign, and a dash for what is not known."""
    return DASH if distance is None else f"{distance:.4g}".replace("-", "−")


def _found(run: Run) -> list[tuple[str, Distances]]:
    """Every figure of the run, with whose queries it is about."""
    return [
        (who(run, rows), artifact.results)
        for artifact, rows in run.users("figure2")
        if isinstance(artifact.results, Distances)
    ]
