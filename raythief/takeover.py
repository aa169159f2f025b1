"""Answers that lie elsewhere: taken over where they were bought before ``answers/`` was there.

Until November 2026 an artifact bought for itself: labels, sanity gates and evaluations of an API
each kept what they had paid for in their own folder. What such artifacts hold is copied to where
answers are kept now, and what they cost counts against the budget, whether they are finished or
not. In the same way answers that are lost are found again in the copies that stages keep.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs

from raythief import answers, metering, sharding
from raythief.answers import Answers
from raythief.artifacts import WORK, Artifact, Storage
from raythief.leases import under_way
from raythief.results import Evaluation, Labels, read
from raythief.sharding import Shard

log = logging.getLogger(__name__)

_STAGES = ("labels", "sanity", "victim_evaluation")
"""Stages that buy from a victim."""
_READERS = 16
"""Manifests that are read at once."""


@dataclass(frozen=True)
class Copy:
    """A finished artifact that holds answers of a model."""

    artifact: Artifact
    manifest: Mapping[str, Any]
    results: Labels | Evaluation
    folder: str
    """Where in it they lie."""
    answers: Answers
    spent: int
    """Queries that it took; of an artifact of several folders the first one has them all."""

    @property
    def old(self) -> bool:
        """Whether it bought them for itself."""
        return self.results.answers is None

    def files(self) -> Iterator[tuple[Shard, str]]:
        """Its shards that are as they were written."""
        prefix = f"{self.folder}/" if self.folder else ""
        for entry in self.manifest["files"]:
            name = entry["path"].removeprefix(prefix)
            own = entry["path"].startswith(prefix) and name.startswith("rows-")
            if own and self.artifact.fault_of(entry) is None:
                yield Shard.named(name), entry["path"]


def ledger_of(artifact: Artifact) -> str:
    """Name of the ledger, beside answers, that tells what they took in another artifact."""
    return f"{metering.LEDGER}-{artifact.stage}-{artifact.fingerprint}.json"


def settle(orders: Sequence[Answers], storage: Storage) -> None:
    """Count what earlier versions spent on the models that are asked: before anything is taken over
    or bought, so that nothing which happens later can lose it.

    Args:
        orders: All that is asked of them.
        storage: Where answers are kept.
    """
    for path, name, ledger in _unsettled(orders, storage):
        storage.write_bytes(f"{path}/{name}", ledger)


def unlisted(orders: Sequence[Answers], storage: Storage) -> int:
    """Queries spent on the models that are asked, which no ledger among the answers tells yet."""
    ledgers = [json.loads(ledger) for _, _, ledger in _unsettled(orders, storage)]
    return sum(ledger["taken"] - ledger["returned"] for ledger in ledgers)


def _unsettled(orders: Sequence[Answers], storage: Storage) -> Iterator[tuple[str, str, bytes]]:
    """Where each missing ledger belongs, its name and its content."""
    keys = sorted({one.key for one in orders})
    folders = metering.bought(storage, [f"{answers.ROOT}/{key}" for key in keys])
    told = {name for path in folders for name in metering.ledgers(storage, path)}
    for key in keys:
        for copy in copies(storage, key):
            name = ledger_of(copy.artifact)
            if copy.old and copy.spent and name not in told:
                ledger = {"queries": copy.answers.count, "started": 0.0}
                ledger |= {"taken": copy.spent, "returned": 0}
                told.add(name)
                yield copy.answers.path, name, json.dumps(ledger).encode()
    for one in orders:
        for artifact, _ in _unfinished(one, storage):
            for name in metering.ledgers(storage, f"{artifact.path}/{WORK}"):
                content = storage.read_bytes(f"{artifact.path}/{WORK}/{name}")
                if content is not None and name not in told:
                    told.add(name)
                    yield one.path, name, content


def take(orders: Sequence[Answers], storage: Storage) -> None:
    """Copy answers of a model that lie elsewhere to where they are kept, if some are missing there.
    What they cost was counted by ``settle``.
    """
    for one in orders:
        for artifact, folder in _unfinished(one, storage):
            whose = under_way(artifact, but_this_process=True)
            if not whose and answers.there(one, storage) < one.count:
                _take_unfinished(one.at(storage), artifact, folder, one)
    short = {one.path: one for one in orders if answers.there(one, storage) < one.count}
    for copy in copies(storage, orders[0].key) if short else ():
        if copy.answers.path in short and _is_known(copy):
            one = short[copy.answers.path]
            _take_copy(one.at(storage), copy, one)


def there(one: Answers, storage: Storage) -> int:
    """How many answers need not be bought: those that are kept, and those to be taken over."""
    if (kept := answers.there(one, storage)) >= one.count:
        return kept
    ids = answers.ids(one.at(storage))
    for artifact, folder in _unfinished(one, storage):
        for held, _, _ in _shards(artifact, folder, one):
            ids.update(range(held.start, held.stop))
        for _, table in _parts(artifact, folder):
            ids.update(table["id"].to_pylist())
    for copy in copies(storage, one.key):
        if copy.answers.path == one.path and _is_known(copy):
            for shard, _ in copy.files():
                ids.update(range(shard.start, shard.stop))
    return sum(i < one.count for i in ids)


def _unfinished(one: Answers, storage: Storage) -> Iterator[tuple[Artifact, str]]:
    """Unfinished artifacts in which an earlier version began to buy, and their folders."""
    for stage, fingerprint, folder in one.former:
        artifact = storage.artifact(stage, fingerprint)
        if artifact.fault() is None and artifact.manifest() is None:
            yield artifact, folder


def _is_known(copy: Copy) -> bool:
    """Whether it is known in which number format a model answered: an API's is of no matter."""
    return copy.answers.remote or copy.results.precision is not None or copy.results.device == "CPU"


def copies(storage: Storage, key: str) -> list[Copy]:
    """Finished artifacts that hold answers of a model which were bought."""
    places = []
    for stage in _STAGES:
        selector = pa.fs.FileSelector(f"{storage.root}/{stage}", allow_not_found=True)
        names = [info.base_name for info in storage.fs.get_file_info(selector)]
        places += [storage.artifact(stage, name) for name in sorted(names)]
    with ThreadPoolExecutor(_READERS) as pool:
        manifests = list(pool.map(lambda place: place.manifest_as_it_is(), places))
    found = []
    for artifact, manifest in zip(places, manifests, strict=True):
        if manifest is None or manifest.get("results", {}).get("spent") is None:
            continue
        try:
            found += [copy for copy in _copies(artifact, manifest) if copy.answers.key == key]
        except (KeyError, TypeError, ValueError):  # not as any version of ours wrote it
            log.warning("%s: its manifest tells too little to find its answers", artifact.path)
    return found


def _copies(artifact: Artifact, manifest: Mapping[str, Any]) -> Iterator[Copy]:
    config, storage = manifest["config"], artifact.storage
    results = read(artifact.stage, manifest["results"])
    assert isinstance(results, Labels | Evaluation)
    inputs = {role: given["fingerprint"] for role, given in manifest["inputs"].items()}
    spent = results.spent or 0
    own = {
        role: fingerprint
        for role, fingerprint in inputs.items()
        if role not in ("queries", "vocabulary", "examples", "judge") and ":" not in role
    }
    who = config["model" if artifact.stage == "victim_evaluation" else "victim"]
    model, shape = answers.asked(
        who, own, config["labels"], config.get("inference", {}), config.get("scores")
    )

    def held(folder: str, texts: Mapping[str, Any], count: int, spent: int) -> Copy:
        one = Answers(model, shape, texts, count, artifact.stage)
        return Copy(artifact, manifest, results, folder, one, spent)

    if artifact.stage == "victim_evaluation":
        assert isinstance(results, Evaluation)
        for name, languages in results.sets.items():
            examples = inputs[f"examples:{name}"]
            for language, score in languages.items():
                texts = answers.labelled(examples, language)
                yield held(f"{name}/{language}", texts, score.count, spent)
                spent = 0
    elif artifact.stage == "sanity":
        texts = answers.sample(inputs["examples"], config["count"])
        yield held("", texts, config["count"], spent)
    else:
        queries = storage.artifact("queries", inputs["queries"]).manifest_as_it_is()
        if queries is None:  # its texts are not known, what it cost is
            yield held("", {"labels": artifact.fingerprint}, results.queries or 0, spent)
            return
        recipe = answers.gibberish(inputs["vocabulary"], queries["config"], queries["version"])
        yield held("", recipe, queries["config"]["count"], spent)


def _take_copy(target: Artifact, copy: Copy, one: Answers) -> None:
    if not one.remote:
        precision = copy.results.precision or "float32"  # on a CPU, before it was told
        answers.describe(one, target.storage, precision=precision)
    reasons = {}
    for entry in copy.manifest["files"]:
        if entry["path"] == "rejected/rejected.parquet" and copy.artifact.fault_of(entry) is None:
            table = copy.artifact.read_table(entry["path"])
            reasons = dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))
    taken = 0
    for shard, name in copy.files():
        table = _answered(copy.artifact.read_table(name))
        numbers: dict[str, Any] = {"device": copy.results.device}
        numbers |= dict.fromkeys(("spent", "attempts", "retries"), 0)
        if sharding.has_statistics(table):
            numbers = sharding.statistics_of(table)
        taken += _keep(target, shard, table, numbers, reasons, one.remote)
    if taken:
        log.info("%s: %d answers taken over from %s", target.path, taken, copy.artifact.path)


def _take_unfinished(target: Artifact, artifact: Artifact, folder: str, one: Answers) -> None:
    """Take over what an earlier version bought for an artifact that it did not finish."""
    taken = 0
    for shard, name, numbers in _shards(artifact, folder, one):
        if not one.remote:
            answers.describe(one, target.storage, precision="float32")
        table, plain = _answered(artifact.read_table(name)), Shard("", shard.start, shard.stop)
        taken += _keep(target, plain, table, numbers, {}, one.remote)
    for name, table in _parts(artifact, folder):
        target.write_table(name, table)
        taken += table.num_rows
    if taken:
        log.info("%s: %d answers taken over from %s", target.path, taken, artifact.path)


def _shards(
    artifact: Artifact, folder: str, one: Answers
) -> Iterator[tuple[Shard, str, dict[str, Any]]]:
    """Shards of an unfinished artifact, of a model those whose number format is known."""
    for name in artifact.tables(folder):
        shard = Shard.named(name)
        numbers = sharding.statistics(artifact, shard)
        if numbers is not None and (one.remote or numbers.get("device") == "CPU"):
            yield shard, name, numbers


def _parts(artifact: Artifact, folder: str) -> Iterator[tuple[str, pa.Table]]:
    """Parts of an unfinished artifact, by the names that they have among answers."""
    if artifact.stage == "sanity":  # by ids of another kind, and few
        return
    base = f"{WORK}/parts/{folder}".rstrip("/")
    selector = pa.fs.FileSelector(f"{artifact.absolute}/{base}", allow_not_found=True)
    for info in artifact.storage.fs.get_file_info(selector):
        if not info.base_name.startswith("rows-"):
            continue
        for name in artifact.tables(f"{base}/{info.base_name}"):
            if sharding.part_statistics(artifact, name) is not None:
                held = Shard.named(info.base_name)
                place = f"{sharding.parts_folder(held)}/{name.rpartition('/')[2]}"
                yield place, artifact.read_table(name)


def _answered(table: pa.Table) -> pa.Table:
    """The answers in a stage's table: an evaluation has the gold label beside them."""
    if "predicted" not in table.column_names:
        return table
    metadata = table.schema.metadata
    plain = table.select(["id", "predicted"]).rename_columns(["id", "label"])
    return plain.replace_schema_metadata(metadata)


def _keep(
    target: Artifact,
    shard: Shard,
    table: pa.Table,
    numbers: Mapping[str, Any],
    reasons: Mapping[int, str],
    remote: bool,
) -> int:
    """Keep a shard's answers, of an API those that are not kept yet; returns how many."""
    spans = answers.whole(target)
    if not remote:
        gaps = [] if (shard.start, shard.stop) in spans else [(shard.start, shard.stop)]
    else:
        gaps, at = [], shard.start
        for start, stop in (*spans, (shard.stop, shard.stop)):
            if at < min(start, shard.stop):
                gaps.append((at, min(start, shard.stop)))
            at = max(at, stop)
    for i, (start, stop) in enumerate(gaps):
        piece = table.slice(start - shard.start, stop - start)
        # Ids are places of rows: the texts of a sanity gate had those of their examples once.
        piece = piece.set_column(0, "id", pa.array(range(start, stop), pa.int64()))
        refused = [
            shard.start + place
            for place, label in enumerate(table["label"].to_pylist())
            if label is None and start <= shard.start + place < stop
        ]
        told = {**reasons, **{int(i): why for i, why in numbers.get("rejected", ())}}
        whole = {**numbers, "rows": stop - start}
        whole["rejected"] = [(i, told.get(i, "rejected")) for i in refused]
        if i:  # its queries are counted with the first piece
            whole |= {"spent": 0, "attempts": 0, "retries": 0}
        counts = pc.value_counts(piece["label"].drop_null()).to_pylist()
        whole["labels"] = {one["values"]: one["counts"] for one in counts}
        target.write_table(Shard("", start, stop).name, sharding.with_statistics(piece, whole))
    return sum(stop - start for start, stop in gaps)
