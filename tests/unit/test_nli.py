"""Pairs in one schema, and labels that mean what their source says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hub_server
from raythief import nli
from raythief.config import LABELS, LANGUAGES, FilesPairs, Label, MiniaturePairs
from raythief.errors import UserError

COMMIT = "c" * 40
FIELD = "evaluation.sets.mine"
MNLI_ORDER: tuple[Label, Label, Label] = ("entailment", "neutral", "contradiction")
REAL = Path(os.environ.get("RAYTHIEF_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def write(path: Path, **columns: Any) -> Path:
    """A parquet file with two good pairs, and ``columns`` in place of its own (None: left out)."""
    table = {
        "premise": ["a b", "c d"],
        "hypothesis": ["a", "d"],
        "label": ["neutral", "entailment"],
    }
    pq.write_table(pa.table({k: v for k, v in (table | columns).items() if v is not None}), path)
    return path


def read(root: Path, path: str = "pairs.parquet", **fields: Any) -> pa.Table:
    """Read a file of pairs as English."""
    pairs = FilesPairs(source="files", path=path, **fields)
    return nli.read(pairs, "en", root, seed=0, field=FIELD)


# --- files ------------------------------------------------------------------------------------


def test_a_file_of_names(tmp_path: Path) -> None:
    write(tmp_path / "pairs.parquet", extra=[1, 2])
    table = read(tmp_path)
    assert table.schema == nli.SCHEMA
    assert table.to_pylist() == [
        {"id": 0, "premise": "a b", "hypothesis": "a", "label": "neutral"},
        {"id": 1, "premise": "c d", "hypothesis": "d", "label": "entailment"},
    ]


@pytest.mark.parametrize("kind", [pa.int64(), pa.int8(), pa.uint8()])
def test_integers_take_their_meaning_from_the_spec(tmp_path: Path, kind: pa.DataType) -> None:
    write(tmp_path / "pairs.parquet", label=pa.array([2, 0], kind))
    assert read(tmp_path, labels=MNLI_ORDER)["label"].to_pylist() == ["contradiction", "entailment"]
    reverse = tuple(reversed(MNLI_ORDER))
    assert read(tmp_path, labels=reverse)["label"].to_pylist() == ["entailment", "contradiction"]


def test_one_file_for_each_language(tmp_path: Path) -> None:
    for language in ("en", "sw"):
        write(tmp_path / f"{language}.parquet", premise=[f"{language} 0", f"{language} 1"])
    pairs = FilesPairs(source="files", path="{language}.parquet", languages=("en", "sw"))
    tables = {each: nli.read(pairs, each, tmp_path, 0, FIELD) for each in pairs.languages}
    assert tables["sw"]["premise"].to_pylist() == ["sw 0", "sw 1"]
    assert tables["sw"]["id"].equals(tables["en"]["id"])
    assert nli.file(pairs, "sw", tmp_path, FIELD) == tmp_path / "sw.parquet"
    (tmp_path / "sw.parquet").unlink()
    with pytest.raises(UserError, match=r"^evaluation.sets.mine.path: .*sw.parquet is no file; "):
        nli.file(pairs, "sw", tmp_path, FIELD)


@pytest.mark.parametrize(
    ("columns", "fields", "told"),
    [
        ({"premise": [None, "x"]}, {}, "has no premise in row 0"),
        ({"hypothesis": ["x", None]}, {}, "has no hypothesis in row 1"),
        ({"label": ["neutral", None]}, {}, "has no label in row 1"),
        ({"label": ["neutral", "maybe"]}, {}, "the label 'maybe' in row 1"),
        ({"label": ["NEUTRAL", "neutral"]}, {}, "the label 'NEUTRAL' in row 0"),
        ({"label": [0, 1]}, {}, f"say in {FIELD}.labels what 0, 1 and 2 mean"),
        ({"label": [0, -1]}, {"labels": MNLI_ORDER}, "the label -1 in row 1"),
        ({"label": [3, 0]}, {"labels": MNLI_ORDER}, "the label 3 in row 0"),
        ({"label": [0.0, 1.0]}, {"labels": MNLI_ORDER}, "holds double in the column `label`"),
        ({"hypothesis": [1, 2]}, {}, "holds int64 in the column `hypothesis`; give text"),
        ({"label": None}, {}, "has no column `label`"),
        (
            {name: pa.array([], pa.string()) for name in ("premise", "hypothesis", "label")},
            {},
            "is empty",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_told_in_one_sentence(
    tmp_path: Path, columns: dict[str, Any], fields: dict[str, Any], told: str
) -> None:
    write(tmp_path / "pairs.parquet", **columns)
    with pytest.raises(UserError) as error:
        read(tmp_path, **fields)
    message = str(error.value)
    assert message.startswith(FIELD) and told in message and "\n" not in message


@pytest.mark.parametrize("column", ["premise", "hypothesis", "label"])
def test_what_is_no_utf8_is_told_with_its_row(tmp_path: Path, column: str) -> None:
    cells = pa.array([b"neutral", b"caf\xe9"], pa.binary())
    write(
        tmp_path / "pairs.parquet",
        **{column: pa.Array.from_buffers(pa.string(), 2, cells.buffers())},
    )
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{FIELD}: {tmp_path}/pairs.parquet: the column `{column}`")
    assert "in row 1 (counted from 0) that is not UTF-8" in str(caught.value)


def test_a_column_that_is_there_twice_is_told(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "pairs.parquet"))
    pq.write_table(table.append_column("label", table["label"]), tmp_path / "pairs.parquet")
    with pytest.raises(UserError, match="has several columns `label`"):
        read(tmp_path)


def test_a_file_that_is_missing_or_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{FIELD}.path: .*pairs.parquet is no file"):
        read(tmp_path)
    (tmp_path / "pairs.parquet").write_text("premise,hypothesis,label\n")
    with pytest.raises(UserError, match=f"^{FIELD}: .*pairs.parquet cannot be read"):
        read(tmp_path)


# --- the small world --------------------------------------------------------------------------


def test_the_small_world_says_the_same_in_each_language() -> None:
    pairs = MiniaturePairs(source="miniature", count=60, split="test", languages=("en", "de"))
    english, german = (nli.read(pairs, each, Path(), 3, FIELD) for each in pairs.languages)
    assert english.schema == german.schema == nli.SCHEMA
    assert english.select(["id", "label"]).equals(german.select(["id", "label"]))
    assert english["premise"] != german["premise"]
    assert set(english["label"].to_pylist()) == set(LABELS)


def test_the_splits_of_the_small_world_differ() -> None:
    tables = [
        nli.read(
            MiniaturePairs(source="miniature", count=60, split=split), "en", Path(), seed, FIELD
        )
        for split in ("train", "validation", "test")
        for seed in (0, 1)
    ]
    texts = [tuple(table["premise"].to_pylist()) for table in tables]
    assert len(set(texts)) == len(texts)


# --- labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id2label", "names"),
    [
        (
            {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"},
            ("contradiction", "neutral", "entailment"),
        ),
        ({2: "contradiction", 0: "entailment", 1: "neutral"}, MNLI_ORDER),
        ({0: "Neutral", 1: "Entailment", 2: "Contradiction"}, ("neutral", *MNLI_ORDER[::2])),
    ],
)
def test_outputs_mean_what_the_config_says(
    id2label: dict[int, str], names: tuple[Label, Label, Label]
) -> None:
    assert nli.label_names(id2label, None, "victim.labels") == names


@pytest.mark.parametrize(
    "called",
    [
        ("LABEL_0", "LABEL_1", "LABEL_2"),
        ("entailment", "neutral", "neutral"),
        ("entailment", "neutral", "other"),
    ],
)
def test_outputs_without_a_meaning_need_the_users_word(called: tuple[str, str, str]) -> None:
    with pytest.raises(
        UserError, match=r"^victim.labels: .*; say which of `entailment`, `neutral`"
    ):
        nli.label_names(dict(enumerate(called)), None, "victim.labels")
    given: tuple[Label, Label, Label] = ("contradiction", "neutral", "entailment")
    assert nli.label_names(dict(enumerate(called)), given, "victim.labels") == given


@pytest.mark.parametrize("outputs", [2, 4])
def test_a_victim_has_three_outputs(outputs: int) -> None:
    with pytest.raises(UserError, match=f"^victim.labels: the model has {outputs} outputs"):
        nli.label_names({i: f"LABEL_{i}" for i in range(outputs)}, MNLI_ORDER, "victim.labels")


def test_a_given_order_names_each_label_once() -> None:
    with pytest.raises(UserError, match=r"^victim.labels: name each of"):
        nli.label_names(dict(enumerate(LABELS)), ("neutral",) * 3, "victim.labels")


# --- subsets ----------------------------------------------------------------------------------


def test_smaller_shares_lie_within_larger_ones() -> None:
    shares = [nli.nested_subset(1000, fraction, seed=7) for fraction in (0.01, 0.05, 0.1, 1.0)]
    assert [len(share) for share in shares] == [10, 50, 100, 1000]
    for small, large in pairwise(shares):
        assert set(small) < set(large)
    for share in shares:
        assert share.dtype == np.int64 and np.all(np.diff(share) > 0)
    assert np.array_equal(shares[-1], np.arange(1000))


def test_a_subset_is_a_matter_of_its_seed() -> None:
    first = nli.nested_subset(1000, 0.1, seed=0)
    assert np.array_equal(first, nli.nested_subset(1000, 0.1, seed=0))
    assert not np.array_equal(first, nli.nested_subset(1000, 0.1, seed=1))
    # The very rows: they must not change with numpy, or a finished experiment's data would.
    assert nli.nested_subset(100, 0.05, seed=0).tolist() == [3, 11, 13, 20, 92]


def test_the_paper_s_ten_percent_and_the_smallest_share() -> None:
    assert len(nli.nested_subset(392_702, 0.1, seed=0)) == 39_270
    assert len(nli.nested_subset(10, 0.001, seed=0)) == 1
    assert len(nli.nested_subset(10, 0.0, seed=0)) == 0


# --- the hub ----------------------------------------------------------------------------------

PERMUTED = ("contradiction", "entailment", "neutral")


@pytest.fixture(scope="module")
def from_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What a new process reads from a hub on this machine: columns of tables, or an error."""
    code = f"""
import json
from pathlib import Path
from raythief import nli
from raythief.config import HubPairs
from raythief.errors import UserError
found = {{}}
for name, language, dataset, split in [
    ("mnli", "en", "nyu-mll/multi_nli", "validation_matched"),
    ("xnli", "en", "facebook/xnli", "test"),
    ("xnli", "sw", "facebook/xnli", "test"),
    ("xnli", "fr", "facebook/xnli", "test"),
    ("mnli", "sw", "nyu-mll/multi_nli", "train"),
    ("permuted", "en", "me/permuted", "train"),
    ("unnamed", "en", "me/unnamed", "train"),
    ("other", "en", "me/other", "train"),
    ("torn", "en", "me/torn", "train"),
]:
    pairs = HubPairs(dataset=dataset, split=split, revision="{COMMIT}")
    try:
        result = nli.read(pairs, language, Path(), 0, f"sets.{{name}}").to_pydict()
    except UserError as error:
        result = str(error)
    found[f"{{name}}-{{language}}"] = result
print(json.dumps(found))
"""
    with hub_server.HubServer() as server:
        for repo_id, files in {
            "nyu-mll/multi_nli": hub_server.mnli_files(),
            "facebook/xnli": hub_server.xnli_files(["en", "sw"]),
            "me/permuted": hub_server.mnli_files(names=PERMUTED),
            "me/unnamed": hub_server.mnli_files(bare=True),
            "me/other": hub_server.mnli_files(names=LABELS, file_names=PERMUTED),
            "me/torn": {"train.parquet": b"no parquet"},
        }.items():
            server.add_dataset(repo_id, COMMIT, files)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=server.environment(tmp_path_factory.mktemp("home")),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout.splitlines()[-1])


def expected(items: range, language: str) -> dict[str, list[Any]]:
    """Columns of the fake hub's items."""
    rows = [hub_server.nli_pair(item, language) for item in items]
    return {
        "id": list(range(len(rows))),
        "premise": [premise for premise, _, _ in rows],
        "hypothesis": [hypothesis for _, hypothesis, _ in rows],
        "label": [MNLI_ORDER[label] for _, _, label in rows],
    }


def test_mnli_and_xnli_come_from_the_hub_by_name(from_hub: dict[str, Any]) -> None:
    assert from_hub["mnli-en"] == expected(range(60, 90), "en")
    assert from_hub["xnli-en"] == expected(range(30, 60), "en")


def test_translations_share_their_ids(from_hub: dict[str, Any]) -> None:
    assert from_hub["xnli-sw"] == expected(range(30, 60), "sw")
    assert from_hub["xnli-sw"]["id"] == from_hub["xnli-en"]["id"]
    assert from_hub["xnli-sw"]["label"] == from_hub["xnli-en"]["label"]


def test_a_data_set_s_own_order_of_classes_is_followed(from_hub: dict[str, Any]) -> None:
    assert from_hub["permuted-en"] == expected(range(60), "en")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("xnli-fr", ("sets.xnli.languages: `facebook/xnli` has no configuration `fr`",)),
        ("mnli-sw", ("sets.mnli.languages: `nyu-mll/multi_nli` has no configuration `sw`",)),
        ("unnamed-en", ("sets.unnamed: me/unnamed", "does not say what its integer labels mean")),
        ("other-en", ("me/other", "name the classes of `label` differently")),
        ("torn-en", ("me/torn", "train.parquet is no parquet file")),
    ],
)
def test_what_is_wrong_on_the_hub_is_told_in_one_sentence(
    from_hub: dict[str, Any], name: str, parts: tuple[str, ...]
) -> None:
    message = from_hub[name]
    assert isinstance(message, str) and "\n" not in message
    for part in parts:
        assert part in message


# --- real data --------------------------------------------------------------------------------


@pytest.mark.skipif(not (REAL / "xnli_dev").is_dir(), reason="no XNLI here (RAYTHIEF_DATA)")
def test_real_xnli_is_aligned_in_all_languages() -> None:
    pairs = FilesPairs(
        source="files", path="xnli_dev/{language}.parquet", labels=MNLI_ORDER, languages=LANGUAGES
    )
    english = nli.read(pairs, "en", REAL, 0, FIELD)
    assert english.num_rows == 2490
    assert Counter(english["label"].to_pylist()) == dict.fromkeys(LABELS, 830)
    for language in LANGUAGES:
        table = nli.read(pairs, language, REAL, 0, FIELD)
        assert table.select(["id", "label"]).equals(english.select(["id", "label"]))
    assert english["hypothesis"][1].as_py() == "He didn't say a word."
    assert english["label"][1].as_py() == "contradiction"


@pytest.mark.skipif(not (REAL / "mnli").is_dir(), reason="no MNLI here (RAYTHIEF_DATA)")
def test_real_mnli_is_read_by_name() -> None:
    path = "mnli/validation_matched.parquet"
    pairs = FilesPairs(source="files", path=path, labels=MNLI_ORDER)
    table = nli.read(pairs, "en", REAL, 0, FIELD)
    assert table.num_rows == 9815
    # The published counts of the matched development set.
    counts = Counter(table["label"].to_pylist())
    assert counts == {"entailment": 3479, "neutral": 3123, "contradiction": 3213}
