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

    @property
    def old(self) -> bool:
        """Whether it bought them for itself."""
        return self.results.answers is None

    @property
    def spent(self) -> int:
        """Queries that it took."""
        return self.results.spent or 0

    @property
    def ledger(self) -> str:
        """The ledger that tells of them once they are taken over."""
        return ledger_of(self.artifact)

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


def take(one: Answers, storage: Storage) -> None:
    """Copy answers that lie elsewhere to where they are kept, if some are missing there."""
    target = one.at(storage)
    for stage, fingerprint, folder in one.former:
        artifact = storage.artifact(stage, fingerprint)
        if answers.there(one, storage) < one.count:
            _take_unfinished(target, artifact, folder, one.remote)
    if answers.there(one, storage) >= one.count:
        return
    for copy in copies(storage, one.key):
        if copy.answers.path == one.path:
            _take_copy(target, copy, one.remote)


def there(one: Answers, storage: Storage) -> int:
    """How many answers need not be bought: those that are kept, and those to be taken over."""
    kept = answers.there(one, storage)
    if kept >= one.count:
        return kept
    ids = set(answers.ids(one.at(storage)))
    for stage, fingerprint, folder in one.former:
        artifact = storage.artifact(stage, fingerprint)
        if artifact.fault() is None and artifact.manifest() is None:
            for name in artifact.tables(folder):
                held = Shard.named(name)
                if sharding.statistics(artifact, held) is not None:
                    ids.update(range(held.start, held.stop))
            for _, table in _parts(artifact, folder):
                ids.update(table["id"].to_pylist())
    for copy in copies(storage, one.key):
        if copy.answers.path == one.path:
            for shard, _ in copy.files():
                ids.update(range(shard.start, shard.stop))
    return sum(i < one.count for i in ids)


def unlisted(storage: Storage, keys: Sequence[str]) -> int:
    """Queries spent on some models of which no ledger among the answers tells."""
    found = 0
    for key in sorted(set(keys)):
        for copy in copies(storage, key):
            listed = storage.read_bytes(f"{copy.answers.path}/{copy.ledger}")
            found += copy.spent if copy.old and listed is None else 0
    return found


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
    own = {
        role: fingerprint
        for role, fingerprint in inputs.items()
        if role not in ("queries", "vocabulary", "examples", "judge") and ":" not in role
    }
    who = config["model" if artifact.stage == "victim_evaluation" else "victim"]
    model, shape = answers.asked(
        who, own, config["labels"], config.get("inference", {}), config.get("scores")
    )

    def copy(folder: str, texts: Mapping[str, Any], count: int) -> Copy:
        one = Answers(model, shape, texts, count, artifact.stage)
        return Copy(artifact, manifest, results, folder, one)

    if artifact.stage == "victim_evaluation":
        assert isinstance(results, Evaluation)
        for name, languages in results.sets.items():
            examples = inputs[f"examples:{name}"]
            for language, score in languages.items():
                texts = answers.labelled(examples, language)
                yield copy(f"{name}/{language}", texts, score.count)
    elif artifact.stage == "sanity":
        yield copy("", answers.sample(inputs["examples"], config["count"]), config["count"])
    else:
        queries = storage.artifact("queries", inputs["queries"]).manifest_as_it_is()
        if queries is not None:
            recipe = answers.gibberish(inputs["vocabulary"], queries["config"], queries["version"])
            yield copy("", recipe, queries["config"]["count"])


def _take_copy(target: Artifact, copy: Copy, remote: bool) -> None:
    reasons = {}
    for entry in copy.manifest["files"]:
        if entry["path"] == "rejected/rejected.parquet" and copy.artifact.fault_of(entry) is None:
            table = copy.artifact.read_table(entry["path"])
            reasons = dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))
    taken = 0
    for shard, name in copy.files():
        table = _answered(copy.artifact.read_table(name))
        numbers = sharding.statistics_of(table) if sharding.has_statistics(table) else {
            "device": copy.results.device, "spent": 0, "attempts": 0, "retries": 0
        }  # fmt: skip
        taken += _keep(target, shard, table, numbers, reasons, remote)
    if not taken:
        return
    if copy.old or not metering.has_ledger(target):
        ledger = {"queries": copy.answers.count, "started": 0.0}
        ledger |= {"taken": copy.spent, "returned": 0}
        target.write(copy.ledger, json.dumps(ledger).encode())
    log.info("%s: %d answers taken over from %s", target.path, taken, copy.artifact.path)


def _take_unfinished(target: Artifact, artifact: Artifact, folder: str, remote: bool) -> None:
    """Take over what an earlier version bought for an artifact that it did not finish."""
    if artifact.fault() is not None or artifact.manifest() is not None:
        return
    selector = pa.fs.FileSelector(f"{artifact.absolute}/{WORK}", allow_not_found=True)
    found = [info.base_name for info in artifact.storage.fs.get_file_info(selector)]
    names = [name for name in found if name.startswith(metering.LEDGER)]
    if not names or under_way(artifact, but_this_process=True):
        return
    taken = 0
    for name in artifact.tables(folder):
        shard = Shard.named(name)
        numbers = sharding.statistics(artifact, shard)
        if numbers is not None:
            plain = Shard("", shard.start, shard.stop)
            taken += _keep(target, plain, _answered(artifact.read_table(name)), numbers, {}, remote)
    for name, table in _parts(artifact, folder):
        target.write_table(name, table)
        taken += table.num_rows
    for name in names:
        content = artifact.storage.read_bytes(f"{artifact.path}/{WORK}/{name}")
        if content is not None and artifact.storage.read_bytes(f"{target.path}/{name}") is None:
            target.write(name, content)
    log.info("%s: %d answers taken over from %s", target.path, taken, artifact.path)


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
