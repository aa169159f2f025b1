"""The Hugging Face hub: models and data sets, each at a pinned commit.

    commit = hub.revision("facebook/xnli", None, "evaluation.sets.xnli.dataset")
    table = hub.dataset("facebook/xnli", config="sw", split="test", revision=commit)
    folder = hub.model_folder("FacebookAI/roberta-large-mnli", commit)

Only what is asked for is fetched: of a data set the card and the parquet files of one split, of a
model its config, its tokenizer and its safetensors. What was fetched once stays in the hub's cache
and needs no network again, for a commit never changes.

``datasets.load_dataset`` would be shorter, but when the hub fails it takes whatever revision lies
in its cache without saying so, and it fetches and converts every split of a configuration to read
one (XNLI's test sets would cost a gigabyte of machine-translated training data). No code of a
repository is ever run.

The hub's own variables hold: HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from raythief.errors import UserError

# Each commit below was found beside its repository's name in several independent public projects
# that pin it too (code search, November 2026).
REVISIONS: dict[str, str] = {
    "FacebookAI/roberta-large-mnli": "2a8f12d27941090092df78e4ba6f0928eb5eac98",
    "FacebookAI/roberta-base": "e2da8e2f811d1448a5b465c236feacd80ffbac7b",
    "FacebookAI/roberta-large": "722cf37b1afa9454edce342e7895e588b6ff1d59",
    "FacebookAI/xlm-roberta-base": "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089",
    "FacebookAI/xlm-roberta-large": "c23d21b0620b635a76227c604d44e43a9f0ee389",
    "google-bert/bert-large-uncased": "6da4b6a26a1877e173fca3225479512db81a5e5b",
    "google-bert/bert-base-multilingual-cased": "3f076fdb1ab68d5b2880cb87a0886f315b8146f8",
    "nyu-mll/multi_nli": "da70db2af9d09693783c3320c4249840212ee221",
    "facebook/xnli": "b8dd5d7af51114dbda02c0e3f6133f332186418e",
    "Salesforce/wikitext": "b08601e04326c79dfdd32d625aee71d232d685c3",
}
"""Commit of every repository that the specs in `jobs/` name."""

MODEL_FILES = (
    "config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "sentencepiece.bpe.model",
    "model*.safetensors",
    "model.safetensors.index.json",
)
"""What a model folder may hold: no pickles, no code, no weights of other frameworks."""

Kind = Literal["model", "dataset"]
CARD = "README.md"
TIMEOUT_SECONDS = 5.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CLASS_NAMES = b"raythief.class_names"


def revision(repo_id: str, given: str | None, field: str) -> str:
    """Return the commit hash at which a repository is read: ``given``, else the pinned one.

    Args:
        repo_id: Repository, with its namespace.
        given: The spec's ``revision``.
        field: Path of the spec's field that names the repository, such as ``extractor.model``.

    Raises:
        UserError: nothing is given or pinned, or what is given is a branch or a tag, which would
            mean something else tomorrow under the same fingerprint.
    """
    section = field.rpartition(".")[0]
    where = f"{section}.revision" if section else "revision"
    if given is not None:
        if not _COMMIT.fullmatch(given):
            raise UserError(
                f"{where}: `{given}` is no commit hash; give the 40 hexadecimal digits of one"
                f" of `{repo_id}`"
            )
        return given
    if repo_id not in REVISIONS:
        raise UserError(
            f"{field}: `{repo_id}` has no pinned revision; give its commit hash in {where}"
        )
    return REVISIONS[repo_id]


# --- models -----------------------------------------------------------------------------------


def model_folder(repo_id: str, revision: str) -> Path:
    """Fetch a model's config, tokenizer and safetensors and return the folder that holds them.

    Raises:
        UserError: the hub or the commit cannot be had, or the repository has no safetensors
            (loading a pickle would run whatever code lies in it).
    """
    folder = _fetch(repo_id, revision, "model", MODEL_FILES)
    if not (folder / "config.json").is_file():
        raise UserError(f"{repo_id}: holds no config.json; name a model that transformers can load")
    if not any(folder.glob("model*.safetensors")):
        raise UserError(
            f"{repo_id}: holds no safetensors weights, the only kind that is loaded; name another"
            " model or commit, or convert it and give the folder"
        )
    return folder


def model_config(repo_id: str, revision: str) -> dict[str, Any]:
    """Fetch a model's ``config.json`` alone: enough to tell what its outputs mean.

    Raises:
        UserError: the hub or the commit cannot be had, or the repository holds no config.
    """
    file = _fetch(repo_id, revision, "model", ("config.json",)) / "config.json"
    if not file.is_file():
        raise UserError(f"{repo_id}: holds no config.json; name a model that transformers can load")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


# --- data sets --------------------------------------------------------------------------------


def dataset(
    repo_id: str,
    *,
    config: str | None,
    split: str,
    revision: str,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Fetch one split of a parquet data set, rows in the order of its files.

    Args:
        repo_id: Data set, with its namespace.
        config: Configuration; None takes the only one or the data set's own default.
        split: Split, as the data set's card names it.
        revision: Commit hash.
        columns: Columns to read; None reads all.

    Returns:
        The split as it is stored: a column of classes keeps its integers, and ``class_names``
        tells what they mean.

    Raises:
        UserError: the hub or the commit cannot be had; the configuration, split or column does
            not exist; or the split is not stored as parquet.
    """
    card = _card(repo_id, revision)
    config = _config(repo_id, card, config)
    patterns = _patterns(repo_id, card, config, split)
    folder = _fetch(repo_id, revision, "dataset", [CARD, *patterns])
    files = _parquet_files(folder, patterns)
    if not files:
        raise UserError(
            f"{repo_id}: split `{split}` has no parquet files, the only kind that is read; name"
            " another split, data set or commit"
        )
    tables = [_read(repo_id, file, columns) for file in files]
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowInvalid:
        raise UserError(
            f"{repo_id}: the files of split `{split}` differ in their columns; take another commit"
        ) from None
    return _with_class_names(repo_id, table, _card_class_names(card, config))


def class_names(table: pa.Table, column: str) -> tuple[str, ...] | None:
    """Return the names of a column's integers 0, 1, ..., or None where its data set gives none."""
    metadata = table.schema.field(column).metadata or {}
    stored = metadata.get(_CLASS_NAMES)
    return None if stored is None else tuple(json.loads(stored))


def configs(repo_id: str, revision: str) -> tuple[str, ...]:
    """Return the names of a data set's configurations, as its card lists them.

    Raises:
        UserError: the hub or the commit cannot be had.
    """
    return tuple(_card_configs(_card(repo_id, revision)))


def _card(repo_id: str, revision: str) -> Mapping[str, Any]:
    """The YAML head of a data set's card; empty where it has none.

    Source: https://huggingface.co/docs/hub/datasets-manual-configuration
    """
    from huggingface_hub import metadata_load

    path = _fetch(repo_id, revision, "dataset", [CARD]) / CARD
    if not path.is_file():
        return {}
    try:
        return metadata_load(path) or {}
    except (ValueError, yaml.YAMLError):
        raise UserError(f"{repo_id}: its card is not valid YAML; take another commit") from None


def _card_configs(card: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(entry["config_name"]): entry for entry in card.get("configs") or []}


def _config(repo_id: str, card: Mapping[str, Any], given: str | None) -> str | None:
    """The configuration to read; None where the data set has none."""
    known = _card_configs(card)
    if given is not None:
        if given in known:
            return given
        raise UserError(f"{repo_id}: has no configuration `{given}`; choose from {_listed(known)}")
    default = [name for name, entry in known.items() if entry.get("default") or name == "default"]
    candidates = default or list(known)
    if len(candidates) > 1:
        raise UserError(f"{repo_id}: has several configurations; choose from {_listed(known)}")
    return candidates[0] if candidates else None


def _patterns(
    repo_id: str, card: Mapping[str, Any], config: str | None, split: str
) -> Sequence[str]:
    """Glob patterns of a split's files, by the card or else by the hub's naming rules."""
    if config is None:
        # Without a card, a split is named by its files (`train.parquet`, `data/train-00000-...`)
        # or by their folder: https://huggingface.co/docs/hub/datasets-file-names-and-splits
        return [
            f"{folder}{split}{rest}.parquet" for folder in ("", "*/") for rest in ("", "-*", "/*")
        ]
    entries = _card_configs(card)[config].get("data_files") or []
    if isinstance(entries, str) or all(isinstance(entry, str) for entry in entries):
        entries = [{"split": "train", "path": entries}]  # the hub's rule for unnamed files
    paths = {str(entry["split"]): entry["path"] for entry in entries}
    if split not in paths:
        raise UserError(f"{repo_id}: has no split `{split}`; choose from {_listed(paths)}")
    return [paths[split]] if isinstance(paths[split], str) else list(paths[split])


def _parquet_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Files under ``folder`` that match, in the order of their names (shards are numbered)."""
    return sorted(
        file
        for file in folder.rglob("*.parquet")
        if any(fnmatchcase(file.relative_to(folder).as_posix(), each) for each in patterns)
    )


def _read(repo_id: str, file: Path, columns: Sequence[str] | None) -> pa.Table:
    try:
        with pq.ParquetFile(file) as parquet:
            known = parquet.schema_arrow.names
            missing = [column for column in columns or () if column not in known]
            if missing:
                raise UserError(
                    f"{repo_id}: has no column `{missing[0]}`; choose from {_listed(known)}"
                )
            return parquet.read(None if columns is None else list(columns))
    except pa.ArrowInvalid:
        raise UserError(
            f"{repo_id}: {file.name} is no parquet file; delete the data set from the hub's cache"
            " and try again"
        ) from None


def _card_class_names(card: Mapping[str, Any], config: str | None) -> dict[str, list[str]]:
    """Names of the classes of each class column, by the card's ``dataset_info``."""
    infos = card.get("dataset_info") or []
    names = {}
    for info in [infos] if isinstance(infos, Mapping) else infos:
        if info.get("config_name", "default") != (config or "default"):
            continue
        for feature in info.get("features") or []:
            dtype = feature.get("dtype")
            if isinstance(dtype, Mapping) and "class_label" in dtype:
                found = dtype["class_label"]["names"]
                if isinstance(found, Mapping):  # {'0': 'entailment', ...}
                    found = [found[key] for key in sorted(found, key=int)]
                names[str(feature["name"])] = [str(name) for name in found]
    return names


def _file_class_names(table: pa.Table) -> dict[str, list[str]]:
    """The same by the files themselves, which `datasets` writes into their metadata."""
    metadata = table.schema.metadata or {}
    described = json.loads(metadata.get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    return {
        column: list(feature["names"])
        for column, feature in features.items()
        if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"
    }


def _with_class_names(repo_id: str, table: pa.Table, by_card: dict[str, list[str]]) -> pa.Table:
    """Note the names of the classes at their columns; refuse a card and files that disagree."""
    by_file = _file_class_names(table)
    schema = table.schema
    for index, column in enumerate(table.column_names):
        names = by_card.get(column) or by_file.get(column)
        if names is None:
            continue
        if by_file.get(column, names) != names:
            raise UserError(
                f"{repo_id}: its card and its files name the classes of `{column}` differently, so"
                " that labels cannot be trusted; take another commit"
            )
        field = schema.field(index).with_metadata({_CLASS_NAMES: json.dumps(names)})
        schema = schema.set(index, field)
    return table.cast(schema)


# --- fetching ---------------------------------------------------------------------------------


def _fetch(repo_id: str, revision: str, kind: Kind, patterns: Sequence[str]) -> Path:
    """Return the folder of a commit with at least the files that match ``patterns``."""
    # Imported here, for it costs half a second, and no demo and no resumed run needs it.
    from httpx2 import HTTPError, InvalidURL
    from huggingface_hub import HfApi, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import (
        CachedRepoTreeNotFoundError,
        FileMetadataError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        XetDownloadError,
    )

    download = partial(
        snapshot_download,
        repo_id,
        repo_type=kind,
        revision=revision,
        allow_patterns=list(patterns),
        etag_timeout=TIMEOUT_SECONDS,
    )
    try:
        # Where the cache knows what the commit holds, it knows whether its copy is complete.
        get_cached_repo_tree(repo_id, repo_type=kind, revision=revision)
        return Path(download(local_files_only=True))
    except HFValidationError:
        raise UserError(f"{repo_id}: cannot be a repository; write `namespace/name`") from None
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        pass  # not there yet, or only in part
    try:
        # One question with a short limit and no retry: `snapshot_download` alone would retry for
        # half a minute before it told that nobody answers.
        HfApi().repo_info(repo_id, repo_type=kind, revision=revision, timeout=TIMEOUT_SECONDS)
        return Path(download())
    except HfHubHTTPError as error:
        raise _refused(repo_id, revision, kind, error) from None
    except (
        HTTPError,  # no connection, time-out
        InvalidURL,  # HF_ENDPOINT is no address
        json.JSONDecodeError,  # what answers there is no hub
        FileMetadataError,
        LocalEntryNotFoundError,  # the connection broke during the download
        OfflineModeIsEnabled,
        XetDownloadError,
    ):
        raise UserError(
            f"{repo_id}: the hub cannot be reached and the cache holds no complete copy; check"
            " the network, HF_ENDPOINT and HF_HUB_OFFLINE, or fetch it where there is a network"
        ) from None


def _refused(repo_id: str, revision: str, kind: Kind, error: Any) -> UserError:
    """One sentence for what the hub answered; the answer itself may hold addresses and ids."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    noun = {"model": "model", "dataset": "data set"}[kind]
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        message = f"the {noun} is gated; accept its terms on the hub, then run `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError):
        message = (
            f"the hub has no such {noun}; check the name, or run `hf auth login` if it is private"
        )
    elif isinstance(error, RevisionNotFoundError):
        message = f"the {noun} has no commit {revision}; take one from its history on the hub"
    elif status in (401, 403):
        message = f"the hub refuses access ({status}); check HF_TOKEN or run `hf auth login`"
    else:
        message = f"the hub answers with error {status}; check HF_ENDPOINT or try again later"
    return UserError(f"{repo_id}: {message}")


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing, it has none"
