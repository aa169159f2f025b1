"""A Hugging Face hub on this machine: enough of its protocol for the real clients, no network.

    with HubServer() as server:
        server.add_dataset("facebook/xnli", COMMIT, xnli_files(["en", "sw"], 30))
        server.add_model("FacebookAI/roberta-large-mnli", COMMIT, tiny_victim(folder))
        subprocess.run([...], env=server.environment(cache))

The clients read HF_ENDPOINT when they are imported, so what loads from here runs in a process of
its own. The builders make repositories with the layout of the real ones, columns and cards
included, and contents of a few rows.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from raythief.config import LABELS, LANGUAGES


class HubServer:
    """A hub on a free loopback port, with the repositories that were added to it.

    ``requests`` lists what was asked for, such as ``GET /api/models/x/y/revision/...``.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._repos: dict[tuple[str, str], dict[str, dict[str, bytes]]] = {}
        self._refusals: dict[str, tuple[int, str]] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The value of HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Go away: the port refuses connections from now on."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()

    def add_model(self, repo_id: str, revision: str, folder: Path) -> None:
        """Publish a folder as a model at a commit."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        self._repos.setdefault(("models", repo_id), {})[revision] = files

    def add_dataset(self, repo_id: str, revision: str, files: Mapping[str, bytes]) -> None:
        """Publish files as a data set at a commit."""
        self._repos.setdefault(("datasets", repo_id), {})[revision] = dict(files)

    def refuse(self, repo_id: str, status: int, code: str = "") -> None:
        """Answer every question about a repository with an error (``GatedRepo`` is a code)."""
        self._refusals[repo_id] = (status, code)

    def environment(self, home: Path) -> dict[str, str]:
        """This process's environment with this hub, an empty cache and no token or proxy."""
        dropped = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in dropped and not name.lower().endswith("_proxy")
        }
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def answer(self, method: str, path: str, query: str, body: str) -> _Answer:
        """Answer one request."""
        self.requests.append(f"{method} {path}")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "api" and len(parts) >= 4:
            kind, repo_id, rest = parts[1], "/".join(parts[2:4]), parts[4:]
        elif parts[0] == "datasets":
            kind, repo_id, rest = parts[0], "/".join(parts[1:3]), parts[3:]
        else:
            kind, repo_id, rest = "models", "/".join(parts[:2]), parts[2:]
        if repo_id in self._refusals:
            return _Answer.error(*self._refusals[repo_id])
        commits = self._repos.get((kind, repo_id))
        if commits is None:
            # The real hub says 401 where it will not tell a private repository from none.
            return _Answer.error(401, "RepoNotFound")
        verb, revision = rest[:2] or ("revision", "main")
        if revision == "main":
            revision = list(commits)[-1]
        if revision not in commits:
            return _Answer.error(404, "RevisionNotFound")
        files, inner = commits[revision], "/".join(rest[2:])
        if verb == "revision":
            return _Answer.json(_info(kind, repo_id, revision, files))
        if verb == "tree":
            recursive = parse_qs(query).get("recursive", ["false"])[0].lower() == "true"
            return _tree(files, inner, recursive, revision)
        if verb == "paths-info":
            wanted = parse_qs(body).get("paths", [])
            return _Answer.json([e for e in _entries(files) if e["path"] in wanted])
        if verb == "resolve":
            if inner not in files:
                return _Answer.error(404, "EntryNotFound", revision)
            return _Answer.file(files[inner], revision)
        return _Answer.error(404, "")


class _Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @staticmethod
    def json(value: Any) -> _Answer:
        return _Answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    @staticmethod
    def file(content: bytes, revision: str) -> _Answer:
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": revision,
            "Content-Type": "application/octet-stream",
        }
        return _Answer(200, headers, content)

    @staticmethod
    def error(status: int, code: str, revision: str | None = None) -> _Answer:
        headers = {"X-Error-Code": code, "X-Error-Message": code}
        if revision is not None:
            headers["X-Repo-Commit"] = revision
        return _Answer(status, headers, b"{}")


def _handler(server: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length).decode()
            address = urlsplit(self.path)
            answer = server.answer(self.command, address.path, address.query, body)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = _reply  # noqa: N815 - the names are http.server's

        def log_message(self, *args: Any) -> None:
            """Nothing: the requests are in ``server.requests``."""

    return Handler


def _info(kind: str, repo_id: str, revision: str, files: Iterable[str]) -> dict[str, Any]:
    return {
        "_id": "0",
        "id": repo_id,
        "sha": revision,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": path} for path in files],
        **({"modelId": repo_id} if kind == "models" else {}),
    }


def _entries(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Files and folders as the hub lists them."""
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
    return [
        *(
            {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "path": path}
            | {"size": 0}
            for path in sorted(folders)
        ),
        *(
            {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "path": path}
            | {"size": len(content)}
            for path, content in sorted(files.items())
        ),
    ]


def _tree(files: Mapping[str, bytes], inside: str, recursive: bool, revision: str) -> _Answer:
    start = PurePosixPath(inside or ".")
    entries = [e for e in _entries(files) if start in PurePosixPath(e["path"]).parents]
    if inside and not entries:
        return _Answer.error(404, "EntryNotFound", revision)
    if not recursive:
        entries = [e for e in entries if PurePosixPath(e["path"]).parent == start]
    return _Answer.json(entries)


# --- data sets --------------------------------------------------------------------------------


def nli_pair(item: int, language: str = "en") -> tuple[str, str, int]:
    """A pair that says its item and language, and its label in the order of ``LABELS``."""
    people = ["teacher", "driver", "farmer", "singer", "doctor", "sailor", "writer"]
    person, label = people[item % len(people)], item % 3
    premise = f"{language}: the {person} sold {item + 2} old books in town"
    hypothesis = (
        f"{language}: a {person} sold books",
        f"{language}: a {person} sold books to a friend",
        f"{language}: no {person} sold any books",
    )[label]
    return premise, hypothesis, label


def mnli_files(
    train: int = 60,
    validation: int = 30,
    names: Sequence[str] = LABELS,
    file_names: Sequence[str] | None = None,
    bare: bool = False,
) -> dict[str, bytes]:
    """``nyu-mll/multi_nli``: ten columns, one configuration, no test split.

    Args:
        train: Rows of ``train``, in two shards.
        validation: Rows of each validation split.
        names: What the integers 0, 1, 2 mean; the same pairs get other integers accordingly.
        file_names: What the parquet files call them, where it is not ``names``.
        bare: Leave out the card and the files' own features.
    """
    rows = [_mnli_row(item, names) for item in range(train + 2 * validation)]
    features = None if bare else (file_names or names)
    half = train // 2
    shards = {
        "data/train-00000-of-00002.parquet": rows[:half],
        "data/train-00001-of-00002.parquet": rows[half:train],
        "data/validation_matched-00000-of-00001.parquet": rows[train : train + validation],
        "data/validation_mismatched-00000-of-00001.parquet": rows[train + validation :],
    }
    files = {path: _parquet(part, features) for path, part in shards.items()}
    if bare:
        return files
    splits = {
        split: f"data/{split}-*"
        for split in ("train", "validation_matched", "validation_mismatched")
    }
    kinds = {column: _yaml_kind(value) for column, value in rows[0].items()} | {
        "promptID": "int32",
        "label": _class_label(names),
    }
    return {**files, "README.md": _card({"default": (splits, kinds)})}


def xnli_files(
    languages: Sequence[str], count: int = 30, names: Sequence[str] = LABELS
) -> dict[str, bytes]:
    """``facebook/xnli``: one configuration per language, and ``all_languages``.

    ``count`` rows in each of ``train``, ``validation`` and ``test``; the same items in each
    language.
    """
    splits = ("train", "test", "validation")
    kinds = {"premise": "string", "hypothesis": "string", "label": _class_label(names)}
    files: dict[str, bytes] = {}
    described: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
        "all_languages": (
            {split: f"all_languages/{split}-*" for split in splits},
            {
                "premise": {"translation": {"languages": list(languages)}},
                "hypothesis": {
                    "translation_variable_languages": {
                        "languages": list(languages),
                        "num_languages": len(languages),
                    }
                },
                "label": _class_label(names),
            },
        )
    }
    for place, split in enumerate(splits):
        items = range(place * count, (place + 1) * count)
        files[f"all_languages/{split}-00000-of-00001.parquet"] = _parquet(
            [_every_language(item, languages, names) for item in items], names
        )
        for language in languages:
            rows = []
            for item in items:
                premise, hypothesis, label = nli_pair(item, language)
                number = names.index(LABELS[label])
                rows.append({"premise": premise, "hypothesis": hypothesis, "label": number})
            files[f"{language}/{split}-00000-of-00001.parquet"] = _parquet(rows, names)
    for language in languages:
        described[language] = ({split: f"{language}/{split}-*" for split in splits}, kinds)
    return {**files, "README.md": _card(described)}


def wikitext_files(paragraphs: int = 60) -> dict[str, bytes]:
    """``Salesforce/wikitext``: headings, blanks and paragraphs with WikiText's marks."""
    described: dict[str, tuple[dict[str, str], dict[str, Any]]] = {}
    files: dict[str, bytes] = {}
    for config in ("wikitext-103-raw-v1", "wikitext-2-raw-v1"):
        shards = {
            "train-00000-of-00002": range(paragraphs // 2),
            "train-00001-of-00002": range(paragraphs // 2, paragraphs),
            "validation-00000-of-00001": range(paragraphs, paragraphs + 5),
            "test-00000-of-00001": range(paragraphs + 5, paragraphs + 10),
        }
        for shard, items in shards.items():
            rows = [{"text": line} for item in items for line in _article(item)]
            files[f"{config}/{shard}.parquet"] = _parquet(rows, None)
        splits = {split: f"{config}/{split}-*" for split in ("test", "train", "validation")}
        described[config] = (splits, {"text": "string"})
    return {**files, "README.md": _card(described)}


def _mnli_row(item: int, names: Sequence[str]) -> dict[str, Any]:
    premise, hypothesis, label = nli_pair(item)
    return {
        "promptID": item,
        "pairID": f"{item}{LABELS[label][0]}",
        "premise": premise,
        "premise_binary_parse": f"( {premise} )",
        "premise_parse": f"(ROOT {premise})",
        "hypothesis": hypothesis,
        "hypothesis_binary_parse": f"( {hypothesis} )",
        "hypothesis_parse": f"(ROOT {hypothesis})",
        "genre": "fiction",
        "label": names.index(LABELS[label]),
    }


def _every_language(item: int, languages: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    said = {language: nli_pair(item, language) for language in languages}
    return {
        "premise": {language: pair[0] for language, pair in said.items()},
        "hypothesis": {
            "language": list(said),
            "translation": [pair[1] for pair in said.values()],
        },
        "label": names.index(LABELS[item % 3]),
    }


def _article(item: int) -> list[str]:
    things = ["river", "castle", "bridge", "engine", "island", "garden", "museum", "harbour"]
    thing, other = things[item % 8], things[(item * 3 + 1) % 8]
    return [
        "",
        f" = The {thing} of {item} = \n",
        "",
        f" The {thing} was built in 18{item % 90 + 10} near a well @-@ known {other} , and it cost"
        f" {item + 1} @,@ 500 pounds in all . Many people came to see the {other} every summer ."
        f" It stood {item % 9 + 1} @.@ 5 miles from the old town when the war began . \n",
    ]


def _parquet(rows: Sequence[Mapping[str, Any]], classes: Sequence[str] | None) -> bytes:
    """Rows as `datasets` writes them: its features lie in the metadata of the schema."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    if "promptID" in table.column_names:
        table = table.set_column(0, "promptID", table["promptID"].cast(pa.int32()))
    if classes is not None:
        features = {
            name: {"names": list(classes), "_type": "ClassLabel"}
            if name == "label"
            else {"dtype": str(table.schema.field(name).type), "_type": "Value"}
            for name in table.column_names
        }
        described = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": described})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _card(configs: Mapping[str, tuple[Mapping[str, str], Mapping[str, Any]]]) -> bytes:
    """A data set's card: the files of each split, and the columns, of each configuration."""
    head = {
        "language": ["en"],
        "dataset_info": [
            {
                "config_name": config,
                "features": [{"name": name, "dtype": kind} for name, kind in kinds.items()],
            }
            for config, (_, kinds) in configs.items()
        ],
        "configs": [
            {
                "config_name": config,
                "data_files": [{"split": split, "path": path} for split, path in splits.items()],
            }
            for config, (splits, _) in configs.items()
        ],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# Data set card\n".encode()


def _class_label(names: Sequence[str]) -> dict[str, Any]:
    return {"class_label": {"names": {str(number): name for number, name in enumerate(names)}}}


def _yaml_kind(value: Any) -> str:
    return "int64" if isinstance(value, int) else "string"


# --- models -----------------------------------------------------------------------------------

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
    "type_vocab_size": 1,
    "initializer_range": 0.3,  # large, so that predictions differ
}


def tiny_victim(folder: Path, labels: Sequence[str] | None = None, seed: int = 0) -> Path:
    """RoBERTa-Large-MNLI in small: its label order, random weights, safetensors, byte-level BPE.

    ``labels`` are the names of the outputs, CONTRADICTION, NEUTRAL, ENTAILMENT by default.
    """
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification, RobertaTokenizer

    labels = labels or ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
    vocabulary, merges = _byte_level_bpe(_sentences(["en"]))
    tokenizer = RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=128)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
        **SIZES,
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    return folder


def tiny_extractor(
    folder: Path,
    languages: Sequence[str] = LANGUAGES,
    seed: int = 0,
    sizes: Mapping[str, Any] = SIZES,
) -> Path:
    """XLM-RoBERTa in small: a bare encoder, random weights, safetensors, a unigram tokenizer."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaTokenizer

    tokenizer = XLMRobertaTokenizer(vocab=_unigram(_sentences(languages)), model_max_length=128)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = XLMRobertaConfig(vocab_size=len(tokenizer), **sizes)
    XLMRobertaForMaskedLM(config).save_pretrained(folder)
    return folder


def _sentences(languages: Sequence[str]) -> list[str]:
    pairs = [nli_pair(item, language) for language in languages for item in range(60)]
    return [sentence for pair in pairs for sentence in pair[:2]] + [
        line for item in range(20) for line in _article(item)
    ]


def _byte_level_bpe(sentences: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges, in the order of RoBERTa's special tokens."""
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(sentences, vocab_size=600, special_tokens=specials)
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _unigram(sentences: Sequence[str]) -> list[tuple[str, float]]:
    """Pieces and their scores, in the order of XLM-RoBERTa's special tokens."""
    from tokenizers import SentencePieceUnigramTokenizer

    trained = SentencePieceUnigramTokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(
        sentences, vocab_size=400, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    pieces = json.loads(trained.to_str())["model"]["vocab"]
    return [(piece, score) for piece, score in pieces] + [("<mask>", 0.0)]
