"""The paper's results as data, to stand beside ours.

Three places of the paper hold numbers that a run can be compared with: Table 1 (English
development accuracy on MNLI), Table 2 (XNLI test accuracy in 15 languages) and the change of
vocabulary in its section 4. Every row has a canonical name, which is the name that a spec's
variant takes to be matched:

    table1      RoBERTa-Large -> XLMR-Large
    table2      XLMR-Large, 0 %      XLMR-Large, 5 % during      XLMR-Large, 5 % after
    vocabulary  WikiText-103         CORD-19

    find("table2", "XLMR-Large, 5 % after").accuracy["de"]  # 80.5

Spaces, case and the kind of arrow or dash do not matter. Accuracies are in per cent, as printed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from raythief.config import LANGUAGES

Table = Literal["table1", "table2", "vocabulary"]

PAPER = "Keskar, McCann, Xiong and Socher, 2020"
KRISHNA = "Krishna et al., 2020"
CONNEAU_2018 = "Conneau et al., 2018"
CONNEAU_2019 = "Conneau et al., 2019"


@dataclass(frozen=True)
class Row:
    """One row of one of the paper's tables."""

    name: str
    """Canonical name."""
    extractor: str | None
    """The model that was trained; none where the row is the victim itself."""
    accuracy: Mapping[str, float]
    """Per cent by language code."""
    victim: str | None = None
    """Whose labels it was trained on; none where it saw gold labels only."""
    real_percent: float = 0
    """Share of MNLI's training set that it saw."""
    placement: Literal["during", "after"] | None = None
    """When it saw that share; none for baselines and for gibberish alone."""
    by_chance: bool = False
    """Whether the paper gives no number but “random chance”, for which one in three stands here."""
    source: str = PAPER
    """Who measured it: some rows are quoted from earlier work."""

    @property
    def elsewhere(self) -> float | None:
        """Mean over the languages other than English; the paper does not print it."""
        others = [value for language, value in self.accuracy.items() if language != "en"]
        return sum(others) / len(others) if others else None


def _by_language(*values: float) -> dict[str, float]:
    return dict(zip(LANGUAGES, values, strict=True))


def _pair(victim: str, extractor: str, accuracy: float, source: str = PAPER) -> Row:
    """A row of Table 1."""
    name = f"{victim} -> {extractor}"
    return Row(name, extractor, {"en": accuracy}, victim=victim, source=source)


def _baseline(model: str, source: str, *accuracy: float) -> Row:
    """A row of Table 2 that learnt from the whole of MNLI and from no victim."""
    return Row(f"{model}, 100 %", model, _by_language(*accuracy), real_percent=100, source=source)


def _extracted(percent: int, placement: Literal["during", "after"] | None, *acc: float) -> Row:
    """A row of Table 2 that was extracted from RoBERTa-Large into XLMR-Large."""
    name = f"XLMR-Large, {percent} %" + (f" {placement}" if placement else "")
    return Row(
        name,
        "XLMR-Large",
        _by_language(*acc),
        victim="RoBERTa-Large",
        real_percent=percent,
        placement=placement,
    )


VICTIM = Row("RoBERTa-Large", None, {"en": 90.6}, real_percent=100)
"""The victim of every row but one, on MNLI's development set (first row of Table 1)."""

TABLE1: tuple[Row, ...] = (
    VICTIM,
    _pair("BERT-Large", "BERT-Large", 76.3, KRISHNA),
    _pair("RoBERTa-Large", "RoBERTa-Base", 74.8),
    _pair("RoBERTa-Large", "XLMR-Base", 69.0),
    _pair("RoBERTa-Large", "RoBERTa-Large", 84.3),
    _pair("RoBERTa-Large", "XLMR-Large", 78.6),
)
"""Accuracy on MNLI's development set."""

# fmt: off
TABLE2: tuple[Row, ...] = (
    _baseline("BiLSTM", CONNEAU_2018,
        73.7, 64.8, 67.9, 67.7, 68.9, 68.7, 67.7, 64.1, 65.4, 55.7, 64.1, 64.2, 58.4, 66.4, 65.8),
    _baseline("XLMR-Base", CONNEAU_2019,
        85.8, 73.8, 79.6, 78.7, 77.5, 80.7, 79.7, 72.4, 78.1, 66.5, 74.6, 74.2, 68.3, 76.5, 76.7),
    _baseline("XLMR-Large", CONNEAU_2019,
        89.1, 79.8, 84.0, 83.9, 82.9, 85.1, 84.1, 76.9, 81.2, 73.9, 78.1, 79.6, 73.8, 80.8, 80.2),
    _extracted(0, None,
        77.0, 67.5, 71.4, 70.7, 68.4, 71.8, 71.5, 64.2, 68.3, 60.9, 65.8, 67.4, 60.3, 67.3, 67.6),
    _extracted(1, "during",
        82.1, 70.0, 74.6, 75.4, 72.7, 77.1, 75.4, 68.5, 72.4, 64.7, 68.8, 71.4, 64.3, 72.1, 72.6),
    _extracted(5, "during",
        84.9, 74.0, 77.7, 79.0, 76.1, 79.8, 78.3, 71.1, 75.7, 66.7, 73.5, 74.4, 67.5, 75.9, 75.1),
    _extracted(10, "during",
        85.9, 74.9, 78.9, 80.0, 77.0, 81.1, 79.2, 72.6, 76.5, 68.2, 73.6, 76.0, 69.1, 75.7, 75.8),
    _extracted(1, "after",
        82.9, 73.2, 76.8, 77.7, 75.8, 78.8, 77.9, 70.6, 75.0, 66.7, 71.8, 74.2, 67.4, 73.5, 74.1),
    _extracted(5, "after",
        86.2, 75.2, 80.1, 80.5, 78.6, 81.3, 80.2, 72.5, 77.9, 68.7, 74.6, 76.1, 68.3, 76.3, 76.3),
    _extracted(10, "after",
        87.4, 76.1, 80.9, 80.8, 79.1, 82.5, 81.5, 73.6, 78.8, 69.7, 76.0, 76.9, 69.7, 77.6, 77.1),
)
"""Accuracy on XNLI's test set."""
# fmt: on

VOCABULARY: tuple[Row, ...] = (
    Row("WikiText-103", "XLMR-Large", {"en": 78.6}, victim="RoBERTa-Large"),
    Row("CORD-19", "XLMR-Large", {"en": 33.3}, victim="RoBERTa-Large", by_chance=True),
)
"""Accuracy on MNLI's development set by the corpus whose words made the queries."""

TABLES: dict[Table, tuple[Row, ...]] = {
    "table1": TABLE1,
    "table2": TABLE2,
    "vocabulary": VOCABULARY,
}

TITLES: dict[Table, str] = {
    "table1": "Table 1",
    "table2": "Table 2",
    "vocabulary": "section 4, change of vocabulary",
}

SETS: dict[Table, str] = {"table1": "mnli", "table2": "xnli", "vocabulary": "mnli"}
"""Name of the evaluation set that each table's numbers belong to."""

ITEMS = {"mnli": 9_815, "xnli": 5_010}
"""Items per language in those sets: MNLI's matched development set and XNLI's test set."""

_CHECKPOINTS = {
    "bert-large-uncased": "BERT-Large",
    "bilstm": "BiLSTM",
    "roberta-base": "RoBERTa-Base",
    "roberta-large": "RoBERTa-Large",
    "roberta-large-mnli": "RoBERTa-Large",
    "xlm-roberta-base": "XLMR-Base",
    "xlm-roberta-large": "XLMR-Large",
}


def find(table: Table, name: str) -> Row | None:
    """Return the row of ``table`` that goes by ``name``, or none."""
    wanted = _plain(name)
    return next((row for row in TABLES[table] if _plain(row.name) == wanted), None)


def model_name(checkpoint: str) -> str | None:
    """Return the paper's name of a checkpoint (``FacebookAI/xlm-roberta-base``) or ``bilstm``."""
    return _CHECKPOINTS.get(checkpoint.rstrip("/").rpartition("/")[2])


def _plain(name: str) -> str:
    """Fold what people write in different ways: case, spaces, arrows and long dashes."""
    folded = re.sub(r"->|→|[–—]", ">", name.casefold())
    return re.sub(r"\s+", "", folded)
