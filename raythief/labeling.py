"""Queries x victim -> labels, on a pool of actors; each label bought once, and counted.

A shard's labels are one file, written whole. Until it is there, what an API answered lies beside
it in small parts, so that a run which was killed buys again only what was in flight. Everything is
joined by the query's id.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from raythief import metering, metrics, models, sharding
from raythief.api import Client, Remote
from raythief.artifacts import Artifact
from raythief.config import LABELS, Inference, Label, Resources
from raythief.errors import UserError
from raythief.nli import SCORES
from raythief.progress import Rate, Tell
from raythief.victims import Classifier

LABEL_SCHEMA = pa.schema([("id", pa.int64()), ("label", pa.string())])
Scores = NDArray[np.float32]
REJECTED_SCHEMA = pa.schema([("id", pa.int64()), ("reason", pa.string())])
ROWS_PER_WORD = 0.3
"""Rows of an actor for each word of the vocabulary above which a table of the words' tokens takes
less time than the tokenizer: building it costs some 85 us a word, and the tokenizer 250 us a row
more than the table (measured on one core with a byte-level BPE of 50,265 tokens)."""


class Asker:
    """A victim within an actor: answers the rows of a shard, and accounts for each query."""

    def __init__(
        self,
        target: Artifact,
        victim: models.Source | Remote,
        inference: Inference,
        cpus: float,
        labels: Sequence[Label] | None,
        words: Sequence[str] | None = None,
        may_reject: int = 0,
    ) -> None:
        """Load the model, or open the connections.

        Args:
            target: Artifact that is bought.
            victim: A model for this process, or an API.
            inference: Batching and number format of a model.
            cpus: Threads of a model.
            labels: Names of a model's outputs where its config does not tell.
            words: Vocabulary of the queries, which saves a model the tokenizer.
            may_reject: Rows of the artifact that an API may reject before the run stops.
        """
        self.target, self.may_reject = target, may_reject
        self.meter = metering.find()
        self.client = self._client(victim) if isinstance(victim, Remote) else None
        self.model = (
            None
            if isinstance(victim, Remote)
            else Classifier(victim, inference, cpus, labels, words)
        )

    def _client(self, remote: Remote) -> Client:
        return Client(
            remote,
            self.meter.pace.remote,
            lambda reason: self.meter.complain.remote(self.target.path, reason),
        )

    def __call__(
        self, shard: sharding.Shard, rows: pa.Table
    ) -> tuple[list[Label | None], Scores, dict[str, Any]]:
        """Label the rows of a shard.

        Args:
            shard: Names the place of what is bought.
            rows: Columns ``id``, ``premise``, ``hypothesis``.

        Returns:
            A label for each row, None where it was rejected; the probability of each label,
            shape [rows, 3], not-a-number where none was given; and the shard's statistics:
            ``rows``, ``labels``, ``rejected`` (id and reason), ``spent``, ``attempts``,
            ``retries``, ``device``, and of a model ``tokens`` and ``padded_tokens``.

        Raises:
            UserError: the purchase can not go on; all that was in flight is kept.
        """
        labels, scores, statistics = (self._model if self.model else self._api)(shard, rows)
        given = Counter(label for label in labels if label is not None)
        return labels, scores, {**statistics, "rows": len(labels), "labels": dict(given)}

    def stop(self, fault: str) -> None:
        """End the purchase for all workers, once what they have in flight is kept."""
        ray.get(self.meter.stop.remote(self.target.path, fault))

    def _model(
        self, shard: sharding.Shard, rows: pa.Table
    ) -> tuple[list[Label | None], Scores, dict[str, Any]]:
        assert self.model is not None
        count = rows.num_rows
        purse = metering.Purse.of(self.meter, self.target.path, count)
        purse.spend(count)
        labels, scores, statistics = self.model.answer(rows["premise"], rows["hypothesis"])
        ray.get(self.meter.keep.remote(self.target.path, count, 0))
        return (
            list(labels),
            scores,
            {
                **statistics,
                "rejected": [],
                "spent": count,
                "attempts": 0,
                "retries": 0,
            },
        )

    def _api(
        self, shard: sharding.Shard, rows: pa.Table
    ) -> tuple[list[Label | None], Scores, dict[str, Any]]:
        assert self.client is not None
        api = self.client.api
        folder = sharding.parts_folder(shard)
        answers = [self.target.read_table(name) for name in self.target.tables(folder)]
        counts = dict.fromkeys(("spent", "attempts", "retries"), 0)

        def count(new: Mapping[str, int]) -> None:
            for name in counts:
                counts[name] += new[name]

        for table in answers:
            count(sharding.statistics_of(table))

        def keep(table: pa.Table, new: dict[str, int]) -> None:
            rejected = table.filter(pc.is_null(table["label"]))
            part = sharding.with_statistics(
                table,
                {**new, "rows": table.num_rows, "rejected": _pairs(rejected)},
            )
            self.target.write_table(f"{folder}/{uuid.uuid4().hex}.parquet", part)
            answers.append(table)
            count(new)
            metrics.API_REQUESTS.add(new["attempts"])
            metrics.API_RETRIES.add(new["retries"])
            total = ray.get(
                self.meter.keep.remote(
                    self.target.path, table.num_rows - rejected.num_rows, rejected.num_rows
                )
            )
            if rejected.num_rows and total > self.may_reject:
                raise UserError(
                    f"victim.api.max_rejected: {total:,} queries are rejected, the last because of "
                    f"`{rejected['reason'][-1]}`; what is bought is kept"
                )

        known = {i for table in answers for i in table["id"].to_pylist()}
        missing = rows.filter(pa.array([i not in known for i in rows["id"].to_pylist()]))
        window = api.in_flight * api.rows_per_request
        purse = metering.Purse.of(self.meter, self.target.path, window)
        try:
            self.client.ask(missing, purse, keep)
        finally:
            purse.close()
        plain = [table.replace_schema_metadata(None) for table in answers]
        every = pa.concat_tables(plain, promote_options="default")
        rejected = every.filter(pc.is_null(every["label"])).sort_by("id")
        every = every.take(pc.index_in(rows["id"], every["id"]))
        scores = np.stack([every[name].to_numpy() for name in SCORES], axis=1)
        return (
            every["label"].to_pylist(),
            scores,
            {**counts, "rejected": _pairs(rejected), "device": "API"},
        )


class Labeling(sharding.ShardWorker):
    """An actor with the victim in it."""

    def __init__(
        self, target: Artifact, queries: Artifact, folder: str, scores: bool, **asker: Any
    ) -> None:
        super().__init__(target)
        self.queries, self.folder, self.scores = queries, folder, scores
        words = None
        if asker.get("words") is not None:
            words = asker["words"].read_table("words.parquet", ["word"])["word"].to_pylist()
        self.ask = Asker(target, **{**asker, "words": words})
        self.stop = self.ask.stop

    def work(self, shard: sharding.Shard) -> tuple[pa.Table, Mapping[str, Any]]:
        """Label the shard's queries: ``id``, ``label`` (a canonical name, null if rejected), and,
        if they are wanted, the probability of each label.
        """
        rows = sharding.read(
            self.queries, sharding.Shard(self.folder, shard.start, shard.stop),
            ["id", "premise", "hypothesis"],
        )  # fmt: skip
        if self.ask.model is not None:
            texts = itertools.chain(rows["premise"].to_pylist(), rows["hypothesis"].to_pylist())
            check_plain(self.ask.model.tokenizer.all_special_tokens, texts)
        labels, scores, statistics = self.ask(shard, rows)
        table = pa.table([rows["id"].combine_chunks(), pa.array(labels)], schema=LABEL_SCHEMA)
        if self.scores:
            for name, column in zip(SCORES, scores.T, strict=True):
                column = pa.array(column, pa.float32(), from_pandas=True)  # no number is null
                table = table.append_column(name, column)
        return table, statistics


def check_plain(special_tokens: Sequence[str], texts: Iterator[str]) -> None:
    """Refuse texts that hold a special token, which would cut a query in two at the victim.

    The vocabulary leaves out the special tokens of the encoders it knows; this is for the others.
    """
    everything = "\n".join(texts)
    for token in special_tokens:
        if token in everything:
            raise UserError(
                f"queries: a word holds `{token}`, a special token of the victim's tokenizer; "
                "raise vocabulary.min_count or clean the corpus"
            )


def build(
    target: Artifact,
    queries: Artifact,
    count: int,
    source: models.Source | Remote,
    labels: tuple[Label, ...] | None,
    inference: Inference,
    resources: Resources,
    tell: Tell,
    *,
    words: Artifact | None = None,
    scores: bool = False,
    folder: str = "",
    worker: type[Labeling] = Labeling,
) -> dict[str, Any]:
    """Label ``count`` queries.

    Args:
        target: Artifact that receives ``rows-*.parquet``, and ``rejected.parquet``.
        queries: Artifact that holds ``id``, ``premise``, ``hypothesis``.
        count: Rows of it.
        source: The victim.
        labels: Names of its outputs where its config does not tell.
        inference: Batching and number format.
        resources: Actors.
        tell: Told the rows that are done.
        words: The vocabulary of the queries.
        scores: Keep the probability of each label, too.
        folder: Folder of the queries within their artifact.
        worker: Class of the actors; benchmarks have some that wait for each other.

    Returns:
        Results for the manifest: what was labelled, and the account.
    """
    shards = sharding.cut(count, inference.rows_per_shard)
    with account(target, count, tell):
        parts = sharding.run(
            worker,
            {
                "queries": queries,
                "folder": folder,
                "scores": scores,
                "victim": source,
                "inference": inference,
                "cpus": resources.inference.cpus,
                "labels": labels,
                "words": words if _table_pays(words, count, resources) else None,
                "may_reject": may_reject(source, count),
            },
            target,
            shards,
            resources.inference,
            resources.restarts,
            remote=isinstance(source, Remote),
        )
    used = sharding.used(resources.inference, len(shards), isinstance(source, Remote))
    return {**results(target, parts, count), **used}


def _table_pays(words: Artifact | None, count: int, resources: Resources) -> bool:
    """Whether so many queries are worth a table of all words' tokens in every actor."""
    manifest = words.manifest() if words is not None else None
    if manifest is None:
        return False
    rows_per_actor = count / max(1, resources.inference.workers)
    return bool(rows_per_actor > ROWS_PER_WORD * manifest["results"]["words"])


def may_reject(source: models.Source | Remote, count: int) -> int:
    """Rows of so many that an API may reject before the run stops."""
    return int(source.api.max_rejected * count) if isinstance(source, Remote) else 0


def results(target: Artifact, parts: Sequence[Mapping[str, Any]], count: int) -> dict[str, Any]:
    """Write the rejected rows; what the manifest keeps of a purchase."""
    counts: Counter[str] = sum((Counter(part["labels"]) for part in parts), Counter())
    rejected = [pair for part in parts for pair in part["rejected"]]
    columns = list(zip(*rejected, strict=True)) or [(), ()]
    target.write_table(
        "rejected/rejected.parquet",
        pa.table(
            [pa.array(columns[0], pa.int64()), pa.array(columns[1], pa.string())],
            schema=REJECTED_SCHEMA,
        ),
    )
    bill = metering.account(target, parts)
    found: dict[str, Any] = {
        "queries": count,
        "label_counts": {label: counts[label] for label in LABELS},
        "kept": bill.kept,
        "rejected": bill.rejected,
        "spent": bill.spent,
        "lost": bill.lost,
        "attempts": bill.attempts,
        "retries": bill.retries,
        "device": parts[0]["device"],
    }
    if "tokens" in parts[0]:
        tokens = sum(part["tokens"] for part in parts)
        found["tokens"] = tokens
        found["padding_share"] = 1 - tokens / max(1, sum(part["padded_tokens"] for part in parts))
        found["halved_batches"] = sum(part["halved"] for part in parts)
        found["encoding"] = parts[0]["encoding"]
    return found


def missing(artifact: Artifact, queries: int) -> int:
    """Of so many queries, those that an artifact has yet to buy."""
    if artifact.manifest() is not None:
        return 0
    there: int = sum(part["rows"] for part in sharding.kept(artifact).values())
    return queries - there


@contextlib.contextmanager
def account(target: Artifact, count: int, tell: Tell) -> Iterator[None]:
    """Open the account of a purchase with the run's meter, and tell how far it is."""
    bill = metering.account(target, sharding.kept(target).values())
    meter = metering.find()
    ray.get(meter.open.remote(target.path, count, bill.kept, bill.rejected))
    tell(bill.kept + bill.rejected, count)
    stop, rate = threading.Event(), Rate("rows")
    seen = bill.kept + bill.rejected

    def poll() -> None:
        nonlocal seen
        while not stop.wait(0.5):
            try:
                kept, rejected, spent, complaint = ray.get(
                    meter.progress.remote(target.path), timeout=5
                )
            except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                continue  # a bar may miss a beat; the work goes on
            note = rate.add(kept + rejected - seen)
            seen = kept + rejected
            if rejected:
                note += f"  rejected {rejected:,}"
            note += f"  spent {spent:,}"
            if complaint:
                note += f"  trying again: {complaint}"
            tell(seen, count, note)

    poller = threading.Thread(target=poll, name=f"account {target.path}", daemon=True)
    poller.start()
    try:
        yield
    finally:
        stop.set()
        poller.join(timeout=10)


def _pairs(rejected: pa.Table) -> list[tuple[int, str]]:
    return list(zip(rejected["id"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
