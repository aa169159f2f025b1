"""The hub's loading against a hub on this machine, in processes of their own.

The clients read HF_ENDPOINT and HF_HOME when they are imported; a child process sees the ones of
its test, as the user's process does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hub_server
from raythief import hub
from raythief.errors import UserError

COMMIT = "a" * 40
OTHER = "b" * 40
VICTIM = "FacebookAI/roberta-large-mnli"

Run = Callable[[str], Any]

PREAMBLE = """
import json
from raythief import config, hub, nli
from raythief.errors import UserError
def told(action):
    try:
        return action()
    except UserError as error:
        assert error.__suppress_context__ or error.__context__ is None  # no trace is chained
        return str(error)
"""


@pytest.fixture
def server() -> Iterator[hub_server.HubServer]:
    """A hub with MNLI, XNLI and WikiText in small."""
    with hub_server.HubServer() as running:
        running.add_dataset("nyu-mll/multi_nli", COMMIT, hub_server.mnli_files())
        running.add_dataset("facebook/xnli", COMMIT, hub_server.xnli_files(["en", "sw"]))
        running.add_dataset("Salesforce/wikitext", COMMIT, hub_server.wikitext_files())
        yield running


@pytest.fixture
def run(server: hub_server.HubServer, tmp_path: Path) -> Run:
    """Run code in a new process with this test's hub and cache; its last line prints JSON."""

    def go(code: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", f"{PREAMBLE}\nCOMMIT = '{COMMIT}'\n{code}"],
            env=server.environment(tmp_path / "home"),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return go


def one_sentence(message: str, *parts: str) -> None:
    """Check that an error is one line that holds all ``parts``."""
    assert "\n" not in message and "Traceback" not in message
    for part in parts:
        assert part in message, message


# --- revisions --------------------------------------------------------------------------------


def test_every_pin_is_a_commit() -> None:
    for repo_id, commit in hub.REVISIONS.items():
        assert repo_id.count("/") == 1
        assert hub.revision(repo_id, None, "victim.model") == commit
        assert len(commit) == 40 and set(commit) <= set("0123456789abcdef")


def test_a_given_commit_goes_before_the_pin() -> None:
    assert hub.revision(VICTIM, COMMIT, "victim.model") == COMMIT


def test_an_unknown_repository_needs_a_commit() -> None:
    with pytest.raises(UserError) as error:
        hub.revision("me/my-model", None, "extractor.model")
    one_sentence(str(error.value), "extractor.model: `me/my-model`", "extractor.revision")


@pytest.mark.parametrize("given", ["main", "v1.0", "a" * 39, "A" * 40])
def test_a_branch_is_no_commit(given: str) -> None:
    with pytest.raises(UserError) as error:
        hub.revision("me/my-model", given, "extractor.model")
    one_sentence(str(error.value), "extractor.revision", given, "40 hexadecimal digits")


# --- models -----------------------------------------------------------------------------------


def test_a_model_comes_with_its_label_order_and_without_pickles(
    server: hub_server.HubServer, run: Run, tmp_path: Path
) -> None:
    folder = hub_server.tiny_victim(tmp_path / "victim")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling.py").write_text("raise SystemExit('remote code')")
    server.add_model(VICTIM, COMMIT, folder)
    extractor = hub_server.tiny_extractor(tmp_path / "extractor", ["en", "sw"])
    server.add_model("FacebookAI/xlm-roberta-base", COMMIT, extractor)
    found = run(
        f"""
folder = hub.model_folder({VICTIM!r}, COMMIT)
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
bare = hub.model_folder("FacebookAI/xlm-roberta-base", COMMIT)
print(json.dumps({{
    "files": sorted(file.name for file in folder.iterdir()),
    "labels": nli.label_names(model.config.id2label, None, "victim.labels"),
    "outputs": list(model(**tokenizer("a", "b", return_tensors="pt")).logits.shape),
    "kinds": [AutoModel.from_pretrained(bare).config.model_type,
              type(AutoTokenizer.from_pretrained(bare)).__name__],
}}))
"""
    )
    assert found["labels"] == ["contradiction", "neutral", "entailment"]
    assert found["outputs"] == [1, 3]
    assert found["kinds"] == ["xlm-roberta", "XLMRobertaTokenizer"]
    assert found["files"] == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_model_without_safetensors_is_refused(
    server: hub_server.HubServer, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    server.add_model(VICTIM, COMMIT, tmp_path)
    message = run(f"print(json.dumps(told(lambda: hub.model_folder({VICTIM!r}, COMMIT))))")
    one_sentence(message, VICTIM, "no safetensors")
    assert not any("pytorch_model.bin" in request for request in server.requests)


# --- data sets --------------------------------------------------------------------------------


def test_only_the_split_that_is_asked_for_is_fetched(
    server: hub_server.HubServer, run: Run
) -> None:
    rows, names = run(
        """
table = hub.dataset("facebook/xnli", config="sw", split="test", revision=COMMIT)
print(json.dumps([table.to_pylist(), hub.class_names(table, "label")]))
"""
    )
    premise, hypothesis, label = hub_server.nli_pair(30, "sw")
    assert rows[0] == {"premise": premise, "hypothesis": hypothesis, "label": label}
    assert len(rows) == 30
    assert names == ["entailment", "neutral", "contradiction"]
    fetched = {
        request.split("/resolve/")[1] for request in server.requests if "/resolve/" in request
    }
    assert fetched == {f"{COMMIT}/README.md", f"{COMMIT}/sw/test-00000-of-00001.parquet"}


def test_it_reads_what_the_hubs_own_library_reads(run: Run) -> None:
    differing = run(
        """
import datasets
differing = []
for repo_id, config, split in [
    ("nyu-mll/multi_nli", None, "train"),
    ("nyu-mll/multi_nli", None, "validation_mismatched"),
    ("facebook/xnli", "en", "validation"),
    ("Salesforce/wikitext", "wikitext-103-raw-v1", "train"),
]:
    ours = hub.dataset(repo_id, config=config, split=split, revision=COMMIT)
    theirs = datasets.load_dataset(repo_id, config, split=split, revision=COMMIT)
    same = ours.to_pylist() == theirs.to_list()
    if "label" in ours.column_names:
        same &= list(hub.class_names(ours, "label")) == theirs.features["label"].names
    if not same:
        differing.append([repo_id, split])
print(json.dumps(differing))
"""
    )
    assert differing == []


def test_without_a_card_the_files_names_tell_the_split(
    server: hub_server.HubServer, run: Run
) -> None:
    server.add_dataset("me/bare", COMMIT, hub_server.mnli_files(bare=True))
    sizes, names, message = run(
        """
def read(split):
    return hub.dataset("me/bare", config=None, split=split, revision=COMMIT, columns=["label"])
print(json.dumps([
    [read(split).num_rows for split in ("train", "validation_matched", "validation_mismatched")],
    hub.class_names(read("train"), "label"),
    told(lambda: read("validation")),
]))
"""
    )
    assert sizes == [60, 30, 30]
    assert names is None
    one_sentence(message, "me/bare", "`validation`", "no parquet files")


def test_what_was_fetched_needs_no_hub_again(server: hub_server.HubServer, run: Run) -> None:
    read = """
print(json.dumps(told(lambda: hub.dataset(
    "nyu-mll/multi_nli", config=None, split={!r}, revision=COMMIT).num_rows)))
"""
    assert run(read.format("train")) == 60
    before = len(server.requests)
    assert run(read.format("train")) == 60
    assert len(server.requests) == before
    server.close()
    assert run(read.format("train")) == 60
    # A split that was never fetched is not taken for an empty one.
    message = run(read.format("validation_matched"))
    one_sentence(message, "nyu-mll/multi_nli", "no complete copy")


def test_another_commit_never_stands_in_for_the_one_that_is_asked_for(
    server: hub_server.HubServer, run: Run
) -> None:
    read = """
print(json.dumps(told(lambda: hub.dataset(
    "nyu-mll/multi_nli", config=None, split="train", revision={!r}).num_rows)))
"""
    assert run(read.format(COMMIT)) == 60
    server.close()
    one_sentence(run(read.format(OTHER)), "nyu-mll/multi_nli", "cannot be reached")


# --- failures ---------------------------------------------------------------------------------


def test_a_hub_that_is_away_is_told_at_once(server: hub_server.HubServer, run: Run) -> None:
    server.close()
    seconds, model, data = run(
        f"""
import time
start = time.monotonic()
model = told(lambda: hub.model_folder({VICTIM!r}, COMMIT))
data = told(lambda: hub.dataset("facebook/xnli", config="en", split="test", revision=COMMIT))
print(json.dumps([time.monotonic() - start, model, data]))
"""
    )
    assert seconds < 10
    one_sentence(model, VICTIM, "cannot be reached", "HF_ENDPOINT")
    one_sentence(data, "facebook/xnli", "cannot be reached")


def test_a_hub_that_never_answers_is_given_up_soon(
    server: hub_server.HubServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "answer", lambda *_: time.sleep(60))
    seconds, message = run(
        f"""
import time
hub.TIMEOUT_SECONDS = 0.5
start = time.monotonic()
message = told(lambda: hub.model_folder({VICTIM!r}, COMMIT))
print(json.dumps([time.monotonic() - start, message]))
"""
    )
    assert seconds < 20
    one_sentence(message, VICTIM, "cannot be reached")


def test_every_refusal_is_one_sentence(server: hub_server.HubServer, run: Run) -> None:
    server.refuse("me/gated", 403, "GatedRepo")
    server.refuse("me/locked", 401)
    server.refuse("me/broken", 500)
    messages = run(
        """
def model(repo_id, commit=COMMIT):
    return told(lambda: hub.model_folder(repo_id, commit))
def data(repo_id="facebook/xnli", config="en", split="test", commit=COMMIT, columns=None):
    return told(lambda: hub.dataset(
        repo_id, config=config, split=split, revision=commit, columns=columns))
print(json.dumps([
    model("me/nothing"), data("me/nothing"), model("me/gated"), model("me/locked"),
    model("me/broken"), model("not a repository"), data(commit="b" * 40), data(config="xx"),
    data(config=None), data(split="dev"), data(columns=["text"]),
]))
"""
    )
    expected = [
        ("me/nothing", "no such model"),
        ("me/nothing", "no such data set"),
        ("me/gated", "gated", "hf auth login"),
        ("me/locked", "refuses access (401)"),
        ("me/broken", "error 500"),
        ("not a repository", "namespace/name"),
        ("facebook/xnli", f"no commit {OTHER}"),
        ("facebook/xnli", "no configuration `xx`", "`sw`"),
        ("facebook/xnli", "several configurations", "`sw`"),
        ("facebook/xnli", "no split `dev`", "`validation`"),
        ("facebook/xnli", "no column `text`", "`premise`"),
    ]
    for message, parts in zip(messages, expected, strict=True):
        one_sentence(message, *parts)


def test_a_token_is_never_shown(server: hub_server.HubServer, run: Run) -> None:
    server.refuse("me/locked", 401)
    message = run(
        """
import os
os.environ["HF_TOKEN"] = "hf_secretsecret"
print(json.dumps(told(lambda: hub.model_folder("me/locked", COMMIT))))
"""
    )
    assert "hf_secret" not in message


def test_offline_mode_is_told(run: Run) -> None:
    message = run(
        f"""
import os
os.environ["HF_HUB_OFFLINE"] = "1"
print(json.dumps(told(lambda: hub.model_folder({VICTIM!r}, COMMIT))))
"""
    )
    one_sentence(message, VICTIM, "HF_HUB_OFFLINE")
