"""The paper's tables: typed in right, and found by the names that people write."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from raythief.config import LANGUAGES
from raythief.paper import ITEMS, SETS, TABLE1, TABLE2, TABLES, VICTIM, VOCABULARY, find, model_name

# Means over the 14 other languages, added up by hand from the printed table.
ELSEWHERE = {
    "BiLSTM, 100 %": 909.8 / 14,
    "XLMR-Base, 100 %": 1057.3 / 14,
    "XLMR-Large, 100 %": 1124.3 / 14,
    "XLMR-Large, 0 %": 943.1 / 14,
    "XLMR-Large, 1 % during": 1000.0 / 14,
    "XLMR-Large, 5 % during": 1044.8 / 14,
    "XLMR-Large, 10 % during": 1058.6 / 14,
    "XLMR-Large, 1 % after": 1033.5 / 14,
    "XLMR-Large, 5 % after": 1066.6 / 14,
    "XLMR-Large, 10 % after": 1080.3 / 14,
}

# Sums over the ten rows, language by language: two cells of a row that change places show here.
DOWN = (835.0, 729.3, 771.9, 774.4, 757.0, 786.9, 775.5, 706.5, 749.3, 661.7, 720.9, 734.4, 667.1,
        742.1, 741.3)  # fmt: skip


def test_tables_have_the_printed_rows() -> None:
    assert [len(table) for table in (TABLE1, TABLE2, VOCABULARY)] == [6, 10, 2]
    for table in TABLES.values():
        assert len({row.name for row in table}) == len(table)


@pytest.mark.parametrize("row", TABLE2, ids=lambda row: row.name)
def test_table2_has_every_language_and_the_printed_sum(row) -> None:
    assert tuple(row.accuracy) == LANGUAGES
    assert row.elsewhere == pytest.approx(ELSEWHERE[row.name], abs=1e-9)
    assert max(row.accuracy, key=row.accuracy.__getitem__) == "en"
    assert all(50 < value < 90 for value in row.accuracy.values())


@pytest.mark.parametrize(("language", "total"), zip(LANGUAGES, DOWN, strict=True))
def test_table2_has_the_printed_columns(language, total) -> None:
    assert sum(row.accuracy[language] for row in TABLE2) == pytest.approx(total, abs=1e-9)


def test_some_cells_by_eye() -> None:
    assert find("table2", "XLMR-Large, 5 % after").accuracy["de"] == 80.5
    assert find("table2", "XLMR-Large, 0 %").accuracy["sw"] == 60.9
    assert find("table2", "BiLSTM, 100 %").accuracy["ur"] == 58.4
    assert find("table1", "RoBERTa-Large -> XLMR-Large").accuracy == {"en": 78.6}
    assert VICTIM.accuracy == {"en": 90.6}
    assert find("vocabulary", "WikiText-103").accuracy == {"en": 78.6}


def test_after_beats_during_in_every_row_of_the_paper() -> None:
    rows = {(row.real_percent, row.placement): row for row in TABLE2}
    for percent in (1, 5, 10):
        after, during = rows[percent, "after"], rows[percent, "during"]
        assert after.elsewhere > during.elsewhere
        assert after.accuracy["en"] > during.accuracy["en"]


@pytest.mark.parametrize("placement", ["during", "after"])
def test_more_real_data_helps_in_every_language_but_where_the_paper_says_otherwise(
    placement,
) -> None:
    rows = [find("table2", "XLMR-Large, 0 %")]
    rows += [find("table2", f"XLMR-Large, {percent} % {placement}") for percent in (1, 5, 10)]
    falls = {
        (language, more.real_percent)
        for less, more in pairwise(rows)
        for language in LANGUAGES
        if more.accuracy[language] < less.accuracy[language]
    }
    assert falls == ({("vi", 10)} if placement == "during" else set())


def test_one_extraction_has_one_number_in_all_tables() -> None:
    row = find("table1", "RoBERTa-Large -> XLMR-Large")
    assert row.accuracy == find("vocabulary", "WikiText-103").accuracy
    counts = Counter((row.real_percent, row.placement) for row in TABLE2)
    shares = {(percent, place): 1 for percent in (1, 5, 10) for place in ("during", "after")}
    assert counts == {(0, None): 1, (100, None): 3, **shares}


def test_quoted_rows_name_their_source() -> None:
    quoted = {row.name: row.source for table in TABLES.values() for row in table}
    assert "2018" in quoted["BiLSTM, 100 %"] and "Conneau" in quoted["BiLSTM, 100 %"]
    assert "2019" in quoted["XLMR-Base, 100 %"] and "2019" in quoted["XLMR-Large, 100 %"]
    assert "Krishna" in quoted["BERT-Large -> BERT-Large"]
    assert "Keskar" in quoted["XLMR-Large, 0 %"]


@pytest.mark.parametrize(
    "written",
    ["XLMR-Large, 5 % after", "xlmr-large, 5% after", "XLMR-Large,  5 %  After"],
)
def test_names_are_found_as_people_write_them(written) -> None:
    assert find("table2", written).name == "XLMR-Large, 5 % after"


@pytest.mark.parametrize("arrow", ["->", "→", "—", "–"])
def test_arrows_are_all_the_same(arrow) -> None:
    assert find("table1", f"RoBERTa-Large {arrow} XLMR-Base").accuracy["en"] == 69.0


def test_a_strange_name_finds_nothing() -> None:
    assert find("table2", "gibberish") is None
    assert find("table2", "XLMR-Large, 50 % after") is None


def test_checkpoints_have_the_papers_names() -> None:
    assert model_name("FacebookAI/xlm-roberta-large") == "XLMR-Large"
    assert model_name("models/roberta-large-mnli/") == "RoBERTa-Large"
    assert model_name("miniature:english") is None


def test_every_table_has_its_set_and_number_of_items() -> None:
    assert set(SETS) == set(TABLES)
    assert {ITEMS[name] for name in SETS.values()} == {9815, 5010}
