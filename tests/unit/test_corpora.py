"""Corpora: what is read, from where, and how it becomes sentences."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raythief import columns, hub
from raythief.config import FilesCorpus, HubCorpus, MiniatureCorpus
from raythief.corpora import files, paragraphs, sentences
from raythief.errors import UserError

DATA = Path(os.environ.get("RAYTHIEF_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


def at(path: str, **fields: Any) -> FilesCorpus:
    return FilesCorpus(source="files", path=path, **fields)


def real(path: str) -> list[str]:
    if not (DATA / path).is_file():
        pytest.skip(f"{path} is not at hand; set RAYTHIEF_DATA")
    return list(paragraphs(at(path), DATA, 0))


def wikitext(*lines: str) -> list[str]:
    return list(sentences(lines, "wikitext"))


def words_of_wikitext(*lines: str) -> list[str]:
    return list(sentences(lines, "wikitext_words"))


def plain(*lines: str) -> list[str]:
    return list(sentences(lines, "plain"))


# --- WikiText ---------------------------------------------------------------------------------


def test_headings_and_blanks_are_dropped():
    assert wikitext(" = Robert Boulter = \n", "", " \n", " = = Early life = = ") == []


def test_marks_of_the_tokeniser_are_undone():
    text = " The role @-@ playing game sold 3 @,@ 000 @,@ 000 copies at 5 @.@ 5 $ a two @-@ pack . "
    assert wikitext(text) == ["The role-playing game sold 3,000,000 copies at 5.5 $ a two-pack ."]


def test_words_stay_as_wikitexts_vocabulary_has_them():
    text = " The role @-@ playing game sold 3 @,@ 000 copies at 5 @.@ 5 $ . It is well @-@ known . "
    assert words_of_wikitext(" = A @-@ B = ", "", text) == [
        "The role @-@ playing game sold 3 @,@ 000 copies at 5 @.@ 5 $ .",
        "It is well @-@ known .",
    ]


def test_a_paragraph_is_split_at_its_sentences():
    text = " The claws are large . How large are they ? They are very large ! That is known today"
    assert wikitext(text) == [
        "The claws are large .",
        "How large are they ?",
        "They are very large !",
        "That is known today",
    ]


def test_abbreviations_initials_and_numbers_do_not_end_a_sentence():
    text = (
        "Dr. J. R. Smith of St. Mary , No. 5 in the U.S. Army , had 2 @.@ 5 francs . He was rich ."
    )
    assert wikitext(text) == [
        "Dr. J. R. Smith of St. Mary , No. 5 in the U.S. Army , had 2.5 francs .",
        "He was rich .",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'He said " it no longer exists . " In 2005 , the case was reopened .',
            ['He said " it no longer exists . "', "In 2005 , the case was reopened ."],
        ),
        (
            'The station was built here . " It was large , " he said later .',
            ["The station was built here .", '" It was large , " he said later .'],
        ),
        (
            "It stood ( as is told below . ) The remains were moved .",
            ["It stood ( as is told below . )", "The remains were moved ."],
        ),
        (
            'They proposed " Ball City . " , which was refused .',
            ['They proposed " Ball City . " , which was refused .'],
        ),
        (
            "At the Impact ! tapings he was there . . . and he won .",
            ["At the Impact ! tapings he was there . . . and he won ."],
        ),
        (
            "10 @,@ 033 of them live there . 31 @.@ 1 % have children .",
            ["10,033 of them live there .", "31.1 % have children ."],
        ),
    ],
)
def test_quotes_brackets_and_interrupted_sentences(text: str, expected: list[str]):
    assert wikitext(text) == expected


def test_sentences_of_three_tokens_or_fewer_are_dropped():
    assert wikitext("It rained . Then it rained . Rain !") == ["Then it rained ."]


def test_unknown_words_stay_in_their_sentence():
    assert wikitext("The <unk> of <unk> .") == ["The <unk> of <unk> ."]


def test_paragraphs_are_cleaned_each_on_its_own():
    lines = ['An open " quote . ', "And another one . ", ' = A " heading = ', "The last one ."]
    whole = wikitext(*lines)
    assert whole == [sentence for line in lines for sentence in wikitext(line)]


def test_real_wikitext_is_clean():
    found = wikitext(*real("wikitext/wikitext103_valid.parquet"))
    lengths = [len(sentence.split(" ")) for sentence in found]
    assert 7_000 < len(found) < 9_000
    assert min(lengths) == 4
    assert 22 < sum(lengths) / len(lengths) < 28
    assert not any(mark in s for s in found for mark in (" @-@ ", " @,@ ", " @.@ ", "  ", "\n"))
    assert not any(sentence.startswith("=") for sentence in found)
    ended = sum(s.rstrip("\"') ]”’»")[-1:] in tuple(".!?…") for s in found)
    assert ended > 0.95 * len(found)
    # What should have been cut: a full stop in the middle with a capital after it.
    missed = sum(
        before == "." and after in ("The", "He", "In", "It")
        for s in found
        for before, after in zip(s.split(" "), s.split(" ")[1:], strict=False)
    )
    assert missed == 0


# --- plain text -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Cats sleep a lot. Do dogs, too? Yes, they do!",
            ["Cats sleep a lot .", "Do dogs , too ?", "Yes , they do !"],
        ),
        (
            "Dr. J. Smith (U.S.) found E. coli, i.e. a germ, in 3.5 ml. It was new.",
            [
                "Dr. J. Smith ( U.S. ) found E. coli , i.e. a germ , in 3.5 ml .",
                "It was new .",
            ],
        ),
        (
            '"It isn\'t here." "Where is it, then?" he asked.',
            ['" It isn\'t here . "', '" Where is it , then ? " he asked .'],
        ),
        (
            "The 12-(ω)-hydroxy-LA, VP1(4) and IFN-γ... all bind.",
            ["The 12-(ω)-hydroxy-LA , VP1(4) and IFN-γ ... all bind ."],
        ),
        (
            "It is “new” [see below]. (One is not.) 125 are.\tTwo are old.",
            ["It is “ new ” [ see below ] .", "( One is not . )", "Two are old ."],
        ),
        ("See Fig. 2 and Nos. 3 and 4 of Vol. 5.", ["See Fig. 2 and Nos. 3 and 4 of Vol. 5 ."]),
        ("Oh!!! ... well (so", ["Oh ! ! ! ... well ( so"]),
    ],
)
def test_plain_text_is_split_and_tokenised(text: str, expected: list[str]):
    assert plain(text) == expected


def test_real_abstracts_are_split():
    found = plain(*real("cord19/abstracts.parquet"))
    lengths = [len(sentence.split(" ")) for sentence in found]
    assert 4_000 < len(found) < 6_000
    assert 22 < sum(lengths) / len(lengths) < 30
    glued = sum(token[-1] in ",;:?!" and len(token) > 1 for s in found for token in s.split(" "))
    assert glued == 0


# --- reading ----------------------------------------------------------------------------------


def test_text_files_hold_a_paragraph_a_line(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\ufeffeins\n\nzwei\r\ndrei", encoding="utf-8")
    assert list(paragraphs(at("a.txt"), tmp_path, 0)) == ["eins", "", "zwei", "drei"]


def test_parquet_files_hold_it_in_a_column(tmp_path: Path):
    table = pa.table({"id": [1, 2, 3], "abstract": ["a", None, "b"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert list(paragraphs(at("a.parquet", column="abstract"), tmp_path, 0)) == ["a", "b"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "README.md", "deep/c.txt"):
        file = tmp_path / "text" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"of {name}\n", encoding="utf-8")
    pq.write_table(pa.table({"text": ["of ab"]}), tmp_path / "text" / "ab.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("text", ["a.txt", "ab.parquet", "b.txt"]),
        ("text/*.txt", ["a.txt", "b.txt"]),
        ("text/**/*.txt", ["a.txt", "b.txt", "deep/c.txt"]),
        ("text/*", ["a.txt", "ab.parquet", "b.txt"]),
        ("text/b.txt", ["b.txt"]),
    ],
)
def test_files_folders_and_globs(folder: Path, path: str, names: list[str]):
    expected = [folder / "text" / name for name in names]
    assert files(at(path), folder) == expected
    assert files(at(str(folder / path)), Path("/elsewhere")) == expected  # absolute: no root


def test_files_are_read_in_sorted_order(folder: Path):
    assert list(paragraphs(at("text"), folder, 0)) == ["of a.txt", "of ab", "of b.txt"]


@pytest.mark.parametrize(
    "path", ["nowhere", "text/*.csv", "text/README.md", "nowhere/*.txt", "nowhere/metadata.csv"]
)
def test_no_file_is_told_at_once(folder: Path, path: str):
    with pytest.raises(UserError, match=r"^corpus\.path: .*" + Path(path).name.replace("*", ".")):
        paragraphs(at(path), folder, 0)


def test_bad_files_are_told(tmp_path: Path):
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    pq.write_table(pa.table({"text": [1], "body": ["a"]}), tmp_path / "numbers.parquet")
    for corpus, told in [
        (at("latin.txt"), r"corpus\.path: .*latin\.txt is not UTF-8"),
        (at("torn.parquet"), r"corpus\.path: .*torn\.parquet cannot be read as parquet"),
        (at("numbers.parquet"), r"corpus\.column: column `text` of .* holds int64, not text"),
        (at("numbers.parquet", column="words"), r"corpus\.column: .* no column `words`, only text"),
    ]:
        with pytest.raises(UserError, match=told):
            list(paragraphs(corpus, tmp_path, 0))


def told_of(file: Path, column: str = "text") -> str:
    """The sentence in which the fault of a file is told."""
    with pytest.raises(UserError) as caught:
        list(paragraphs(at(str(file), column=column), Path(), 0))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(file), "FILE")


BEGINS = "corpus.path: FILE: the row that begins in line {} is not CSV: "
METADATA = (
    "cord_uid,title,abstract,year\r\n"
    'ug7v899j,"Mycoplasma, again","OBJECTIVE: a ""first"" look.\nMETHODS, too, and ω.",2001\r\n'
    "02tnwd4m,Nitric oxide,,2000\r\n"
    "\r\n"
    "ejv2xln0,,Surfactant protein-D participates.,2000"
)
"""As the official release of CORD-19 is: quotes, commas, line breaks in cells, and empty cells."""
ABSTRACTS = [
    'OBJECTIVE: a "first" look.\nMETHODS, too, and ω.',
    "Surfactant protein-D participates.",
]


@pytest.mark.parametrize("name", ["metadata.csv", "METADATA.CSV", "metadata.csv.gz"])
def test_csv_holds_it_in_a_column(tmp_path: Path, name: str):
    content = METADATA.encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert list(paragraphs(at(name, column="abstract"), tmp_path, 0)) == ABSTRACTS


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_hold_it_in_a_column(tmp_path: Path, name: str):
    lines = [{"id": 1, "abstract": ABSTRACTS[0]}, {"id": 2, "abstract": None}, {"id": 3}]
    lines += [{"abstract": ABSTRACTS[1]}]
    content = "\n\n".join(json.dumps(line) for line in lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert list(paragraphs(at(name, column="abstract"), tmp_path, 0)) == ABSTRACTS


def test_a_cell_may_be_large_and_a_file_larger(tmp_path: Path):
    """Larger than the blocks in which Arrow reads such files, which it refuses to go beyond."""
    large = 'an ""abstract"", long\n' * 200_000
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        file.write("id,text\n")
        file.writelines(f'{i},"{large if i == 2 else "short"}"\n' for i in range(4))
    found = list(paragraphs(at("a.csv"), tmp_path, 0))
    assert found == ["short", "short", large.replace('""', '"'), "short"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "corpus.column: FILE has no column `text`, only nothing"),
        (b"a;text\n1;b\n", "corpus.column: FILE has no column `text`, only a;text"),
        (b"text,text\nb,c\n", "corpus.column: FILE has several columns `text`"),
        (b"a,text\n1,b\n2,b,c\n", BEGINS.format(3) + "it has 3 cells, and the header has 2"),
        (b'a,text\n1,"b\nb"\n\n2\n', BEGINS.format(5) + "it has 1 cells"),
        (b'a,text\n1,"b\n2,c\n3,d\n', BEGINS.format(2) + "unexpected end of data"),
        (b'a,text\n1,"b"c\n', BEGINS.format(2)),
        (b"a,text\n1,ok\n2,caf\xe9\n", "corpus.path: FILE: line 3 is not UTF-8 text"),
        ("a,text\n1,b\n".encode("utf-16"), "corpus.path: FILE: line 1 is not UTF-8 text"),
    ],
)
def test_faults_of_csv_are_told_with_their_line(tmp_path: Path, content: bytes, told: str):
    (tmp_path / "a.csv").write_bytes(content)
    assert told_of(tmp_path / "a.csv").startswith(told)


def test_a_quote_that_is_never_closed_does_not_swallow_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(columns, "LONGEST_CELL", 100)
    (tmp_path / "a.csv").write_text('text\nfine\n"open\n' + "and more\n" * 20)
    limit = csv.field_size_limit()
    try:
        assert told_of(tmp_path / "a.csv").startswith(BEGINS.format(3) + "field larger")
    finally:
        csv.field_size_limit(limit)  # which holds for the whole process


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"a": "b"}\n{"c": 1}', "corpus.column: FILE has no column `text`, only a, c"),
        ('{"text": "b"}\n["text"]', "corpus.path: FILE: line 2 is not a JSON object"),
        ('{"text": "b"}\n\n{"text": ', "corpus.path: FILE: line 3 is not a JSON object"),
        ("[" * 100_000, "corpus.path: FILE: line 1 is not a JSON object"),
        ('{"text": 1.5}', "corpus.path: FILE: line 1 holds no text in `text`"),
        ('{"text": "\\ud83d"}', "corpus.path: FILE: line 1 holds half a surrogate pair"),
    ],
)
def test_faults_of_json_lines_are_told_with_their_line(tmp_path: Path, content: str, told: str):
    (tmp_path / "a.jsonl").write_text(content)
    assert told_of(tmp_path / "a.jsonl").startswith(told)


def test_a_torn_archive_is_told(tmp_path: Path):
    whole = gzip.compress(b"text\n" + bytes(range(48, 58)) * 9)
    for name, content in {"a.csv.gz": whole[:-12], "b.jsonl.gz": b"no archive"}.items():
        (tmp_path / name).write_bytes(content)
        assert told_of(tmp_path / name).startswith("corpus.path: FILE cannot be read: ")


def test_parquet_whose_text_is_no_utf8_is_told_with_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cells = pa.array([b"good", None, b"caf\xe9 au lait"], pa.binary())
    bad = pa.table({"text": pa.Array.from_buffers(pa.string(), 3, cells.buffers())})
    pq.write_table(bad, tmp_path / "a.parquet", row_group_size=1)
    told = "has text in row 2 (counted from 0) that is not UTF-8"
    assert told_of(tmp_path / "a.parquet").startswith(f"corpus.path: FILE {told}")
    monkeypatch.setattr(hub, "dataset", lambda *_, **__: bad)
    with pytest.raises(UserError, match=r"^corpus\.dataset: Salesforce/wikitext has text in row 2"):
        list(paragraphs(HubCorpus(), Path(), 0))


def test_parquet_that_is_damaged_in_its_middle_is_told(tmp_path: Path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a word and another"] * 9}), file, compression="zstd")
    content = bytearray(file.read_bytes())
    content[4:40] = bytes(36)
    file.write_bytes(content)
    assert told_of(file).startswith("corpus.path: FILE cannot be read as parquet: ")


def test_hub_corpora_are_read_at_their_pinned_commit(monkeypatch: pytest.MonkeyPatch):
    asked = {}

    def dataset(repo_id: str, **arguments: Any) -> pa.Table:
        asked.update(arguments, repo_id=repo_id)
        return pa.table({"text": ["one", None, "two"]})

    monkeypatch.setattr(hub, "dataset", dataset)
    assert list(paragraphs(HubCorpus(), Path(), 0)) == ["one", "two"]
    assert asked == {
        "repo_id": "Salesforce/wikitext",
        "config": "wikitext-103-raw-v1",
        "split": "train",
        "revision": hub.REVISIONS["Salesforce/wikitext"],
        "columns": ["text"],
    }


def test_the_miniature_world_speaks(monkeypatch: pytest.MonkeyPatch):
    def corpus(sentences: int, seed: int, domain: str) -> list[str]:
        return [f"{domain} {seed}"] * sentences

    world = SimpleNamespace(corpus=corpus)
    monkeypatch.setitem(sys.modules, "raythief.miniature", SimpleNamespace(world=world))
    spec = MiniatureCorpus(source="miniature", sentences=2, domain="foreign")
    assert list(paragraphs(spec, Path(), 7)) == ["foreign 7"] * 2
