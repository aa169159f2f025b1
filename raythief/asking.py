"""Asking a model: texts -> shards on a pool of actors -> the model, or the API -> answers.

    [given] = ask(storage, [(answers, texts)], source, ..., worker=Labeling)

The model sits in the actors, or they hold connections to an API. Whatever is answered is kept where
all who need it find it (``raythief.answers``); what a stage keeps is a copy.

A crash costs what was in flight: a model's shards are whole or not there, an API's answers are kept
some at a time, and nothing that is kept is asked again.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from raythief import answers, metering, metrics, models, sharding, takeover, victims
from raythief.answers import Answers
from raythief.api import Client, Remote
from raythief.artifacts import Artifact, Storage
from raythief.config import Inference, Label, Resources
from raythief.errors import UserError
from raythief.leases import lease
from raythief.nli import SCORES
from raythief.progress import Rate, Tell, silent
from raythief.sharding import Shard
from raythief.victims import Classifier

LABEL_SCHEMA = pa.schema([("id", pa.int64()), ("label", pa.string())])
Scores = NDArray[np.float32]
REJECTED_SCHEMA = pa.schema([("id", pa.int64()), ("reason", pa.string())])


@dataclass(frozen=True)
class Texts:
    """Pairs to be answered, numbered from 0 on."""

    artifact: Artifact
    table: str
    """Its file that holds all of them; or a folder of shards, ``""`` for the artifact's own."""
    language: str = "en"
    gibberish: bool = False
    """Whether they consist of a vocabulary's words, among which no special token may be."""

    def rows(self, shard: Shard) -> pa.Table:
        """The pairs of a shard: ``id``, ``premise``, ``hypothesis``."""
        columns = ["id", "premise", "hypothesis"]
        if not self.table.endswith(".parquet"):
            place = Shard(self.table, shard.start, shard.stop)
            return sharding.read(self.artifact, place, columns)
        rows = self.artifact.read_table(self.table, columns)
        return rows.slice(shard.start, shard.stop - shard.start)


@dataclass(frozen=True)
class Given:
    """What a model answered."""

    table: pa.Table
    """``id``, ``label`` (null where an API rejected the row), and the scores if they are wanted."""
    statistics: Sequence[Mapping[str, Any]]
    """Of the shards that it consists of."""
    bill: metering.Account | None
    """Of what is bought."""


class Asking(sharding.ShardWorker):
    """An actor with a model in it: answers the rows of a shard, and accounts for each query."""

    def __init__(
        self,
        target: Artifact,
        texts: Mapping[str, Texts],
        source: models.Source | Remote,
        inference: Inference,
        cpus: float,
        labels: Sequence[Label] | None,
        words: Artifact | None = None,
        scores: bool = False,
        bought: Mapping[str, Sequence[tuple[int, int]]] | None = None,
        may_reject: Mapping[str, int] | None = None,
    ) -> None:
        """Open the connections; a model is loaded with the first shard that needs it.

        Args:
            target: Where all answers of the model are kept.
            texts: What is answered, by the folder of the answers.
            source: A model for this process, or an API.
            inference: Batching and number format of a model.
            cpus: Threads of a model.
            labels: Names of a model's outputs where its config does not tell.
            words: Vocabulary of the queries, which saves a model the tokenizer.
            scores: Keep the probability of each label.
            bought: By folder, ids (from, to) that are paid for already; None buys nothing.
            may_reject: By folder, rows that an API may reject before the run stops.
        """
        super().__init__(target)
        self.texts, self.scores, self.bought = texts, scores, bought
        self.may_reject = may_reject or {}
        self.how, self.labels, self.words = (inference, cpus), labels, words
        self.source = None if isinstance(source, Remote) else source
        self.model: Classifier | None = None
        self.loaded: models.Source | None = None
        self.meter = None if bought is None else metering.find()
        self.client = self._client(source) if isinstance(source, Remote) else None
        self.asking = ""
        """For which answers it asks at present."""
        if bought is not None:
            self.stop = self._stop

    def work(self, shard: Shard) -> tuple[pa.Table, Mapping[str, Any]]:
        """Answer a shard: ``id``, ``label`` (a canonical name, null if rejected), and, if they are
        wanted, the probability of each label.

        The statistics are ``rows``, ``labels``, ``rejected`` (id and reason), ``spent``,
        ``attempts``, ``retries``, ``device``, and of a model ``tokens`` and ``padded_tokens``.

        Raises:
            UserError: the purchase cannot go on; all that was in flight is kept.
        """
        rows = self.texts[shard.folder].rows(shard)
        asked = self._api if self.client is not None else self._model
        labels, scores, statistics = asked(shard, rows)
        table = pa.table([rows["id"].combine_chunks(), pa.array(labels)], schema=LABEL_SCHEMA)
        if self.scores:
            for name, column in zip(SCORES, scores.T, strict=True):
                column = pa.array(column, pa.float32(), from_pandas=True)  # no number is null
                table = table.append_column(name, column)
        given = Counter(label for label in labels if label is not None)
        return table, {**statistics, "rows": len(labels), "labels": dict(given)}

    def written(self, shard: Shard) -> None:
        """Remove the parts that went into the shard."""
        if self.client is not None:
            answers.clear(self._place(shard), shard)

    def classifier(self, language: str) -> Classifier:
        """The model of a language. One is held at a time: shards come language by language."""
        assert self.source is not None
        source = self.source.of(language)
        if self.model is None or source != self.loaded:
            self.model = None  # make room first
            words = None
            if self.words is not None:
                words = self.words.read_table("words.parquet", ["word"])["word"].to_pylist()
            self.model = Classifier(source, *self.how, self.labels, words)
            self.loaded = source
        return self.model

    def _client(self, remote: Remote) -> Client:
        assert self.meter is not None
        return Client(remote, self.meter.pace.remote, self._complain)

    def _complain(self, reason: str) -> None:
        assert self.meter is not None
        self.meter.complain.remote(self.asking, reason)

    def _stop(self, fault: str) -> None:
        """End the purchase for all workers, once what they have in flight is kept."""
        assert self.meter is not None
        for folder in self.texts:
            ray.get(self.meter.stop.remote(f"{self.target.path}/{folder}", fault))

    def _place(self, shard: Shard) -> Artifact:
        """Where the answers of a shard are kept."""
        return self.target.storage.artifact(self.target.path, shard.folder)

    def _model(
        self, shard: Shard, rows: pa.Table
    ) -> tuple[list[Label | None], Scores, dict[str, Any]]:
        texts, path = self.texts[shard.folder], self._place(shard).path
        model = self.classifier(texts.language)
        if texts.gibberish:
            both = itertools.chain(rows["premise"].to_pylist(), rows["hypothesis"].to_pylist())
            check_plain(model.tokenizer.all_special_tokens, both)
        new = 0
        if self.bought is not None and self.meter is not None:
            spans = self.bought[shard.folder]
            ids = range(shard.start, shard.stop)
            new = sum(not any(a <= i < b for a, b in spans) for i in ids)
            if new:
                metering.Purse.of(self.meter, path, new).spend(new)
        labels, scores, statistics = model.answer(rows["premise"], rows["hypothesis"])
        if self.meter is not None:
            ray.get(self.meter.keep.remote(path, new, 0))
        account = {"rejected": [], "spent": new, "attempts": 0, "retries": 0}
        return list(labels), scores, {**statistics, **account}

    def _api(
        self, shard: Shard, rows: pa.Table
    ) -> tuple[list[Label | None], Scores, dict[str, Any]]:
        assert self.client is not None
        assert self.meter is not None
        api, target, meter = self.client.api, self._place(shard), self.meter
        self.asking, folder = target.path, sharding.parts_folder(shard)
        found: list[pa.Table] = []
        counts = dict.fromkeys(("spent", "attempts", "retries"), 0)

        def count(new: Mapping[str, int]) -> None:
            for name in counts:
                counts[name] += new[name]

        for held in sharding.parts(target, shard):
            own = shard.start <= Shard.named(held).start < shard.stop  # or another shard tells it
            for name in target.tables(held):
                if sharding.part_statistics(target, name) is None:
                    continue
                table = target.read_table(name)
                ids = table["id"]
                inside = pc.and_(pc.greater_equal(ids, shard.start), pc.less(ids, shard.stop))
                found.append(table.filter(inside))
                if own:
                    count(sharding.statistics_of(table))

        def keep(table: pa.Table, new: dict[str, int]) -> None:
            rejected = table.filter(pc.is_null(table["label"]))
            part = sharding.with_statistics(
                table,
                {**new, "rows": table.num_rows, "rejected": _pairs(rejected)},
            )
            target.write_table(f"{folder}/{uuid.uuid4().hex}.parquet", part)
            found.append(table)
            count(new)
            metrics.API_REQUESTS.add(new["attempts"])
            metrics.API_RETRIES.add(new["retries"])
            total = ray.get(
                meter.keep.remote(
                    target.path, table.num_rows - rejected.num_rows, rejected.num_rows
                )
            )
            if rejected.num_rows and total > self.may_reject[shard.folder]:
                raise UserError(
                    f"victim.api.max_rejected: {total:,} queries are rejected, the last because of "
                    f"`{rejected['reason'][-1]}`; what is bought is kept"
                )

        known = {i for table in found for i in table["id"].to_pylist()}
        missing = rows.filter(pa.array([i not in known for i in rows["id"].to_pylist()]))
        window = api.in_flight * api.rows_per_request
        purse = metering.Purse.of(meter, target.path, window)
        try:
            self.client.ask(missing, purse, keep)
        finally:
            purse.close()
        plain = [table.replace_schema_metadata(None) for table in found]
        every = pa.concat_tables(plain, promote_options="default")
        every = every.take(pc.index_in(rows["id"], every["id"]))
        rejected = every.filter(pc.is_null(every["label"]))
        scores = np.stack([every[name].to_numpy() for name in SCORES], axis=1)
        return (
            every["label"].to_pylist(),
            scores,
            {**counts, "rejected": _pairs(rejected), "device": "API"},
        )


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


def ask(
    storage: Storage,
    wanted: Sequence[tuple[Answers, Texts]],
    source: models.Source | Remote,
    labels: Sequence[Label] | None,
    inference: Inference,
    resources: Resources,
    tell: Tell,
    *,
    buys: bool = True,
    words: Artifact | None = None,
    worker: type[Asking],
) -> list[Given]:
    """Have a model answer texts, as far as it did not yet.

    One stage at a time buys from a victim, over all runs; others wait for it.

    Args:
        storage: Where answers are kept.
        wanted: What is to be answered, all by one model, and the texts.
        source: The model.
        labels: Names of its outputs where its config does not tell.
        inference: Batching and number format.
        resources: Actors.
        tell: Told the rows that are done.
        buys: Whether the queries are taken from the budget.
        words: The vocabulary of the texts, where they are gibberish.
        worker: Class of the actors; benchmarks have some that wait for each other.

    Raises:
        UserError: the budget is spent, the API cannot be asked, or answers with nonsense.
    """
    remote = isinstance(source, Remote)
    unique = {one.fingerprint: (one, texts) for one, texts in wanted}  # two sets may be the same
    orders = [one for one, _ in unique.values()]
    place = orders[0].of_model(storage)
    with lease(place if buys else orders[0].at(storage)):
        for one in orders:
            answers.drop_damaged(one, storage)
        if buys:
            takeover.take(orders, storage)
        formats = _formats(orders, storage, inference, resources, remote)
        parts = {
            one.fingerprint: answers.shards(one, storage, inference.rows_per_shard)
            for one in orders
        }
        paid = {one.fingerprint: answers.whole(one.at(storage)) for one in orders} if buys else None
        arguments = {
            "texts": {key: texts for key, (_, texts) in unique.items()},
            "source": source,
            "cpus": resources.inference.cpus,
            "labels": labels,
            "words": words,
            "scores": bool(orders[0].shape.get("scores")),
            "bought": paid,
            "may_reject": {one.fingerprint: may_reject(source, one.count) for one in orders},
        }
        with account(storage, orders, tell) if buys else contextlib.nullcontext():
            for precision in dict.fromkeys(formats.values()):
                same = [key for key, chosen in formats.items() if chosen == precision]
                how = inference.model_copy(update={"precision": precision})
                sharding.run(
                    worker,
                    {**arguments, "inference": how},
                    place,
                    [shard for key in same for shard in parts[key]],
                    resources.inference,
                    resources.restarts,
                    silent if buys else tell,
                    remote,
                )
        for one in orders if remote else ():
            answers.tidy(one.at(storage))
        return [_given(one, storage, parts[one.fingerprint], buys) for one, _ in wanted]


def _formats(
    orders: Sequence[Answers],
    storage: Storage,
    inference: Inference,
    resources: Resources,
    remote: bool,
) -> dict[str, str]:
    """The number format of each: the one that it was begun in, or that of the others."""
    begun = [said["precision"] for one in orders if (said := answers.described(one, storage))]
    first = begun[0] if begun else "auto"
    if not begun and not remote:
        first = victims.number_format(inference, resources)
    return {
        one.fingerprint: answers.describe(one, storage, precision=first)["precision"]
        for one in orders
    }


def _given(one: Answers, storage: Storage, parts: Sequence[Shard], buys: bool) -> Given:
    place = one.of_model(storage)
    found = [sharding.statistics(place, shard) for shard in parts]
    bill = None
    if buys:
        bill = metering.account(one.at(storage), sharding.kept(one.at(storage)).values())
    table = answers.read(one, storage, parts)
    return Given(table, [numbers for numbers in found if numbers is not None], bill)


def may_reject(source: models.Source | Remote, count: int) -> int:
    """Rows of so many that an API may reject before the run stops."""
    return int(source.api.max_rejected * count) if isinstance(source, Remote) else 0


def write_rejected(target: Artifact, given: Sequence[Given]) -> None:
    """Write the rows that an API rejected, and why."""
    refused: list[tuple[int, str]] = []
    for one in given:
        reasons = {i: why for part in one.statistics for i, why in part["rejected"]}
        ids = one.table.filter(pc.is_null(one.table["label"]))["id"].to_pylist()
        refused += [(i, reasons[i]) for i in ids]
    columns = list(zip(*refused, strict=True)) or [(), ()]
    target.write_table(
        "rejected/rejected.parquet",
        pa.table(
            [pa.array(columns[0], pa.int64()), pa.array(columns[1], pa.string())],
            schema=REJECTED_SCHEMA,
        ),
    )


def tally(given: Sequence[Given]) -> dict[str, int]:
    """How many answers there are, and what they took so far, whoever asked for them."""
    count = sum(one.table.num_rows for one in given)
    rejected = sum(one.table["label"].null_count for one in given)
    found = {"queries": count, "kept": count - rejected, "rejected": rejected}
    for name in ("spent", "lost", "attempts", "retries"):
        found[name] = sum(getattr(one.bill, name) for one in given if one.bill is not None)
    return found


def computed(statistics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a manifest says of how answers came about."""
    found: dict[str, Any] = {"device": statistics[0]["device"]}
    if all("tokens" in part for part in statistics):  # an API tells none
        tokens = sum(part["tokens"] for part in statistics)
        padded = sum(part["padded_tokens"] for part in statistics)
        found |= {
            "tokens": tokens,
            "padding_share": 1 - tokens / max(1, padded),
            "halved_batches": sum(part["halved"] for part in statistics),
            "encoding": statistics[0]["encoding"],
            "precision": statistics[0].get("precision"),
        }
    return found


@contextlib.contextmanager
def account(storage: Storage, wanted: Sequence[Answers], tell: Tell) -> Iterator[None]:
    """Open the accounts of a purchase with the run's meter, and tell how far it is."""
    meter, count = metering.find(), sum(one.count for one in wanted)
    seen = 0
    for one in wanted:
        bill = metering.account(one.at(storage), sharding.kept(one.at(storage)).values())
        ray.get(meter.open.remote(one.path, one.count, bill.kept, bill.rejected))
        seen += bill.kept + bill.rejected
    tell(min(seen, count), count)
    stop, rate = threading.Event(), Rate("rows")

    def poll() -> None:
        nonlocal seen
        while not stop.wait(0.5):
            try:
                told = ray.get([meter.progress.remote(one.path) for one in wanted], timeout=5)
            except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                continue  # a bar may miss a beat; the work goes on
            rejected = sum(one[1] for one in told)
            done = sum(one[0] for one in told) + rejected
            note = rate.add(done - seen)
            seen = done
            if rejected:
                note += f"  rejected {rejected:,}"
            note += f"  spent {sum(one[2] for one in told):,}"
            complaint = next((one[3] for one in told if one[3]), "")
            if complaint:
                note += f"  trying again: {complaint}"
            tell(min(seen, count), count, note)

    poller = threading.Thread(target=poll, name=f"account {wanted[0].path}", daemon=True)
    poller.start()
    try:
        yield
    finally:
        stop.set()
        poller.join(timeout=10)


def _pairs(rejected: pa.Table) -> list[tuple[int, str]]:
    return list(zip(rejected["id"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
