"""Answers: what a model said about texts, kept by id for all who need it.

    <storage>/answers/<model>/<fingerprint>/
        asked.json           what the fingerprint stands for, and the number format of a model
        rows-*.parquet       whole shards: id, label, and the scores if they are wanted
        _work/parts/         what an API answered of shards that are not whole yet
        ledger-*.json        what was taken from the budget for them (``raythief.metering``)

Labels and evaluations are copies of the part that their spec asks for. So more queries buy the new
ids alone, fewer buy nothing, and a copy that is lost is written again.

An API's answer belongs to its id, whoever asked for it and with how many others. An answer of a
model in an actor is the same to the byte only within the same shard: batches of other rows round
otherwise. Whole shards are therefore reused, and the last, shorter one is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raythief import sharding
from raythief.artifacts import WORK, Artifact, Storage
from raythief.sharding import Shard

log = logging.getLogger(__name__)

ROOT = "answers"
ASKED = "asked.json"


@dataclass(frozen=True)
class Answers:
    """Answers of one model to one sequence of texts."""

    model: Mapping[str, Any]
    """Who answers. A budget counts all that was ever asked of it on a storage."""
    shape: Mapping[str, Any]
    """What else decides an answer."""
    texts: Mapping[str, Any]
    """What is answered: plain values that name a sequence of texts, numbered from 0 on."""
    count: int
    """The first so many of them; 0 where their number is not known yet."""
    stage: str
    """The stage that asks, for people."""
    former: tuple[tuple[str, str, str], ...] = ()
    """Stage, fingerprint and folder of artifacts in which an earlier version kept them."""

    @property
    def remote(self) -> bool:
        """Whether an API answers."""
        return "api" in self.model

    @property
    def key(self) -> str:
        """Folder of the model, below ``answers/``."""
        return _hash(self.model)

    @property
    def fingerprint(self) -> str:
        """Folder of these answers, below the model's. The number of texts is no part of it."""
        return _hash({"shape": self.shape, "texts": self.texts})

    @property
    def path(self) -> str:
        """Folder of these answers on the storage."""
        return f"{ROOT}/{self.key}/{self.fingerprint}"

    def at(self, storage: Storage) -> Artifact:
        """Where the answers are kept."""
        return storage.artifact(f"{ROOT}/{self.key}", self.fingerprint)

    def of_model(self, storage: Storage) -> Artifact:
        """Where all answers of the model are kept, of which these are a folder."""
        return storage.artifact(ROOT, self.key)


def asked(
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    labels: Sequence[str] | None,
    inference: Mapping[str, Any],
    scores: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Who answers, and what else decides an answer.

    Args:
        config: What identifies the model: its stage's config.
        inputs: Fingerprints of the artifacts that it is made from, by role.
        labels: Names of its outputs where its own config does not tell.
        inference: How a model in an actor is run; an API never reads it.
        scores: Whether probabilities are wanted; of an API, the path to them.
    """
    if "api" in config:
        protocol = {name: value for name, value in config.items() if name != "api"}
        return {"api": config["api"]}, {**protocol, "scores": scores or None}
    model = {"config": config, "inputs": inputs}
    names = list(labels) if labels is not None else None
    return model, {"labels": names, "inference": inference, "scores": scores or None}


def gibberish(vocabulary: str, config: Mapping[str, Any], version: int) -> dict[str, Any]:
    """The texts that are queries: made of a vocabulary by a recipe, whatever their number."""
    recipe = {name: value for name, value in config.items() if name != "count"}
    return {"vocabulary": vocabulary, "queries": recipe, "version": version}


def labelled(examples: str, language: str) -> dict[str, Any]:
    """The texts that are labelled examples in one language."""
    return {"examples": examples, "language": language}


def sample(examples: str, count: int) -> dict[str, Any]:
    """The texts that are a sanity gate's sample of labelled examples."""
    return {"examples": examples, "sample": count}


def shards(answers: Answers, storage: Storage, rows_per_shard: int) -> list[Shard]:
    """The shards that make up the answers, whole ones and those to be made, in order.

    Of an API's every whole shard is used, however it was cut; what lies between them is cut again.
    """
    place = answers.fingerprint
    if not answers.remote:
        return sharding.cut(answers.count, rows_per_shard, place)
    found, at = [], 0
    for start, stop in (*whole(answers.at(storage)), (answers.count, answers.count)):
        first = at
        while first < min(start, answers.count):
            end = min((first // rows_per_shard + 1) * rows_per_shard, start, answers.count)
            found.append(Shard(place, first, end))
            first = end
        if start < answers.count and stop > at:
            found.append(Shard(place, start, stop))
        at = max(at, stop)
    return found


def there(answers: Answers, storage: Storage) -> int:
    """How many of the answers are kept already."""
    return sum(i < answers.count for i in ids(answers.at(storage)))


def ids(target: Artifact) -> set[int]:
    """Ids of all answers that are kept in a place."""
    return set().union(*(range(*span) for span in whole(target)), sharding.part_ids(target))


def read(answers: Answers, storage: Storage, parts: Sequence[Shard]) -> pa.Table:
    """The answers, from the shards that make them up."""
    place, tables, at = answers.of_model(storage), [], 0
    for part in parts:  # a late write of a run that was killed may reach into the next one
        table = place.read_table(part.name).replace_schema_metadata(None)
        tables.append(table.slice(at - part.start))
        at = part.stop
    return pa.concat_tables(tables).slice(0, answers.count)


def drop_damaged(answers: Answers, storage: Storage) -> None:
    """Remove whole shards and parts whose content is not as it was written: they are asked again.

    Pages carry checksums, which reading compares.
    """
    target = answers.at(storage)
    parts = [name for folder in sharding.parts(target) for name in target.tables(folder)]
    for name in (*target.tables(), *parts):
        try:
            target.read_table(name)
        except (OSError, ValueError):  # of Arrow's, too
            log.warning("%s/%s is damaged and is asked again", target.path, name)
            target.remove(name)


def describe(answers: Answers, storage: Storage, **more: Any) -> dict[str, Any]:
    """Say beside the answers what they are, once; returns what is said there.

    Args:
        answers: What is asked.
        storage: Where they are kept.
        more: Said besides, by who is the first; later ones are told it.
    """
    what = {"stage": answers.stage, "model": answers.model, "shape": answers.shape,
            "texts": answers.texts, **more}  # fmt: skip
    text = json.dumps(what, indent=1, ensure_ascii=False).encode()
    said: dict[str, Any] = json.loads(answers.at(storage).once(ASKED, text))
    return said


def described(answers: Answers, storage: Storage) -> dict[str, Any] | None:
    """What is said beside the answers; None where nobody asked yet."""
    text = storage.read_bytes(f"{answers.path}/{ASKED}")
    return None if text is None else json.loads(text)


def clear(target: Artifact, shard: Shard) -> None:
    """Remove the parts of a shard that is whole now."""
    place = Shard("", shard.start, shard.stop)
    for name in sharding.parts(target, place):
        held = Shard.named(name)
        if place.start <= held.start and held.stop <= place.stop:
            with contextlib.suppress(FileNotFoundError):
                target.storage.fs.delete_dir(f"{target.absolute}/{name}")


def tidy(target: Artifact) -> None:
    """Remove parts whose rows are all in whole shards, and their folder if none is left in it."""
    kept = set().union(*(range(*span) for span in whole(target)))
    for folder in sharding.parts(target):
        held = Shard.named(folder)
        if kept.issuperset(range(held.start, held.stop)):
            with contextlib.suppress(FileNotFoundError):
                target.storage.fs.delete_dir(f"{target.absolute}/{folder}")
    if not sharding.parts(target):
        with contextlib.suppress(FileNotFoundError):
            target.storage.fs.delete_dir(f"{target.absolute}/{WORK}")


def whole(target: Artifact) -> list[tuple[int, int]]:
    """Starts and stops of the whole shards that are kept, in order."""
    spans = []
    for name in target.tables():
        held = Shard.named(name)
        if sharding.statistics(target, held) is not None:
            spans.append((held.start, held.stop))
    return sorted(spans)


def _hash(plain: Mapping[str, Any]) -> str:
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
