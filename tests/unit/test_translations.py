"""Parallel sentences: from two files, from one table, and from the small world."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raythief import translations
from raythief.config import FilesParallel, MiniatureParallel
from raythief.errors import UserError
from raythief.miniature import world

TEXT = FilesParallel(source="files", path="{language}-en.{language}", english="{language}-en.en")
PARQUET = FilesParallel(source="files", path="{language}.parquet")


def text(root: Path, english: str, german: str) -> None:
    (root / "de-en.en").write_bytes(english.encode())
    (root / "de-en.de").write_bytes(german.encode())


def test_lines_of_two_files_are_translations_and_blank_ones_are_left_out(tmp_path: Path):
    text(tmp_path, "one\n\nthree\u2028still\n four \n", "eins\nzwei\ndrei\r\nvier")
    table = translations.read(TEXT, "de", tmp_path, 0)
    assert table.to_pylist() == [
        {"english": "one", "translation": "eins"},
        {"english": "three\u2028still", "translation": "drei"},
        {"english": "four", "translation": "vier"},
    ]
    fewer = TEXT.model_copy(update={"max_sentences": 3})
    with pytest.raises(UserError, match="fewer than three sentences"):
        translations.read(fewer, "de", tmp_path, 0)


def test_two_columns_are_translations(tmp_path: Path):
    columns = {"de": ["eins", "zwei", None, "vier"], "n": [1, 2, 3, 4]}
    table = pa.table({**columns, "en": ["one", "two", "three", " four"]})
    pq.write_table(table, tmp_path / "de.parquet")
    assert translations.read(PARQUET, "de", tmp_path, 0).to_pylist() == [
        {"english": "one", "translation": "eins"},
        {"english": "two", "translation": "zwei"},
        {"english": "four", "translation": "vier"},
    ]


def test_the_small_worlds_sentences_are_the_same_in_each_language(tmp_path: Path):
    parallel = MiniatureParallel(source="miniature", count=50)
    german, hindi = (translations.read(parallel, one, tmp_path, 3) for one in ("de", "hi"))
    assert german["english"] == hindi["english"]
    assert german["translation"] != hindi["translation"]
    words = {c.words["de"]: c.words["en"] for c in world.lexicon().values() if "de" in c.words}
    for row in german.to_pylist():  # German orders words as English does
        assert len(row["english"].split()) == len(row["translation"].split())
    assert set(words) >= {word for one in german["translation"].to_pylist() for word in one.split()}


@pytest.mark.parametrize(
    ("english", "german", "fault"),
    [
        ("one\ntwo\n", "eins\nzwei\ndrei\n", "de-en.de has not as many lines as "),
        ("one\ntwo\nthree\n", "eins\nzwei\n", "de-en.de has not as many lines as "),
        ("one\n\n", "eins\nzwei\n", "de-en.de holds fewer than three sentences"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, english: str, german: str, fault: str):
    text(tmp_path, english, german)
    with pytest.raises(UserError) as caught:
        translations.read(TEXT, "de", tmp_path, 0)
    assert str(caught.value).startswith("extractor.bilstm.parallel.path: ")
    assert fault in str(caught.value)


def test_files_of_another_kind_are_refused(tmp_path: Path):
    (tmp_path / "de-en.en").write_text("one\ntwo\n")
    (tmp_path / "de-en.de").write_bytes(b"\xff\n\xfe\n")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        translations.read(TEXT, "de", tmp_path, 0)
    (tmp_path / "de.parquet").write_text("one\teins\n")
    with pytest.raises(UserError, match=r"for plain text name .* in .*parallel\.english"):
        translations.read(PARQUET, "de", tmp_path, 0)
    pq.write_table(pa.table({"en": ["a"], "target": ["b"]}), tmp_path / "de.parquet")
    with pytest.raises(UserError, match="has no column `de`"):
        translations.read(PARQUET, "de", tmp_path, 0)
    pq.write_table(pa.table({"en": ["a"], "de": [1]}), tmp_path / "de.parquet")
    with pytest.raises(UserError, match=r"column `de` of .* holds int64, not text"):
        translations.read(PARQUET, "de", tmp_path, 0)
    cells = pa.array([b"eins", b"zw\xff"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 2, cells.buffers())
    pq.write_table(pa.table({"en": ["a", "b"], "de": broken}), tmp_path / "de.parquet")
    with pytest.raises(UserError, match=r"the column `de` has text in row 1 .* not UTF-8"):
        translations.read(PARQUET, "de", tmp_path, 0)


def test_a_missing_file_is_told_with_its_field(tmp_path: Path):
    with pytest.raises(UserError, match=r"^extractor\.bilstm\.parallel\.path: .*de-en\.de; put"):
        translations.read(TEXT, "de", tmp_path, 0)
    (tmp_path / "de-en.de").touch()
    with pytest.raises(UserError, match=r"^extractor\.bilstm\.parallel\.english: .*de-en\.en; put"):
        translations.read(TEXT, "de", tmp_path, 0)
