"""Row ranges on Ray Data: every shard is one unit of work and one parquet file.

A shard's file is written whole or not at all and is named by its rows, so a run that was killed,
on whatever node, goes on with the shards whose files are not there. What a shard holds depends on
its row range alone, never on the number of workers: one worker and sixty-four give equal bytes.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from raythief import accelerators
from raythief.artifacts import WORK, Artifact
from raythief.config import Workers
from raythief.errors import UserError
from raythief.progress import Rate, Tell, silent

log = logging.getLogger(__name__)

# No other way bounds the restarts of an actor in Ray 2.60, though this one is announced to go in
# 2.64. It is said for the whole process: stages run in threads, which share such filters.
warnings.filterwarnings("ignore", message=".*ray_remote_args.*")

PARTS = f"{WORK}/parts"
"""Folder of what workers have of shards that are not whole yet."""
_STATISTICS = b"raythief.statistics"


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` (exclusive) of a folder's table."""

    folder: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """File of the shard, relative to the artifact."""
        prefix = f"{self.folder}/" if self.folder else ""
        return f"{prefix}rows-{self.start:010d}-{self.stop:010d}.parquet"

    @classmethod
    def named(cls, name: str) -> Shard:
        """The shard whose file has this name."""
        folder, _, base = name.rpartition("/")
        _, start, stop = base.removesuffix(".parquet").split("-")
        return cls(folder, int(start), int(stop))


def cut(count: int, rows: int, folder: str = "") -> list[Shard]:
    """Cut ``count`` rows into shards of ``rows`` rows, the last one shorter."""
    return [Shard(folder, start, min(start + rows, count)) for start in range(0, count, rows)]


def write(target: Artifact, table: pa.Table, rows: int, folder: str = "") -> None:
    """Write a table as shards of so many rows, and remove those that are cut otherwise."""
    shards = cut(table.num_rows, rows, folder)
    for name in set(target.tables(folder)) - {shard.name for shard in shards}:
        if name.rpartition("/")[2].startswith("rows-"):
            target.remove(name)
    for shard in shards:
        target.write_table(shard.name, table.slice(shard.start, shard.stop - shard.start))


def read(artifact: Artifact, shard: Shard, columns: list[str] | None = None) -> pa.Table:
    """Read the rows of a shard from an artifact whose own shards may be cut differently."""
    parts = []
    for name in artifact.tables(shard.folder):
        held = Shard.named(name)
        first, last = max(held.start, shard.start), min(held.stop, shard.stop)
        if first < last:
            table = artifact.read_table(name, columns)
            parts.append(table.slice(first - held.start, last - first))
    if sum(part.num_rows for part in parts) != shard.stop - shard.start:
        raise UserError(
            f"{artifact.absolute}: holds not all rows from {shard.start} to {shard.stop}; "
            "delete the folder, then run again"
        )
    return pa.concat_tables(parts)


class ShardWorker:
    """Base of the actors: subclasses turn a shard into a table. The subclass's name is what
    Ray's dashboard shows.
    """

    def __init__(self, target: Artifact) -> None:
        """Subclasses load here, once, what every shard needs."""
        self.target = target
        self.stop: Callable[[str], None] = lambda fault: None
        """Told of a fault, so that those who buy together end together."""

    def work(self, shard: Shard) -> tuple[pa.Table, Mapping[str, Any]]:
        """Return the shard's table, and numbers about it that are kept in its file."""
        raise AssertionError("subclasses say what a shard's table is")

    def written(self, shard: Shard) -> None:
        """Clear away what only the making of a shard needed; its file is whole now."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the shard that is a batch of Ray Data; the answer is only for the progress.

        A mistake of the user's is an answer too: Ray Data would not let its type through.
        """
        [folder], [start], [stop] = batch["folder"], batch["start"], batch["stop"]
        shard, fault = Shard(str(folder), int(start), int(stop)), ""
        try:
            table, statistics = self.work(shard)
            self.target.write_table(shard.name, with_statistics(table, statistics))
            self.written(shard)
        except UserError as error:
            fault = str(error)
            self.stop(fault)
        return {"rows": batch["stop"] - batch["start"], "fault": [fault]}


def run(
    worker: type[ShardWorker],
    arguments: Mapping[str, Any],
    target: Artifact,
    shards: Iterable[Shard],
    workers: Workers,
    restarts: int,
    tell: Tell = silent,
    remote: bool = False,
) -> list[dict[str, Any]]:
    """Do all shards that ``target`` does not hold yet on a pool of actors, or in this process
    where the pool is of 0.

    Args:
        worker: Class of the actors.
        arguments: Passed to it when it is made, besides ``target``.
        target: Artifact that receives the files.
        shards: All shards, done or not.
        workers: Size of the pool and resources of each actor.
        restarts: How often an actor that dies is started again before the run fails.
        tell: Told the rows that are done.
        remote: The work is done, and paid for, elsewhere, and the workers wait for it. They do two
            shards at once, so that no place stays empty while the last rows of one come in; and
            after a fault what is under way is waited for: the workers then end by themselves.

    Returns:
        The statistics of every shard, in the order of ``shards``.

    Raises:
        UserError: a worker met a mistake of the user's. The shards that are done are kept.
    """
    shards = list(shards)
    missing = [shard for shard in shards if statistics(target, shard) is None]
    total = sum(shard.stop - shard.start for shard in shards)
    done = total - sum(shard.stop - shard.start for shard in missing)
    if missing and done:
        log.info("%s: going on after %d of %d rows", target.path, done, total)
    tell(done, total)
    if remote and workers.gpus is None:
        workers = accelerators.without(workers)  # who only waits needs no GPU
    if missing:
        rate = Rate("rows")
        fault = ""
        arguments = {**arguments, "target": target}
        answers = (
            _stream(worker, arguments, missing, workers, restarts, 1 + remote)
            if workers.workers
            else _here(worker, arguments, missing)
        )
        for row in answers:
            fault = fault or row["fault"]
            if fault and not remote:
                break
            if not row["fault"]:
                done += row["rows"]
                tell(done, total, rate.add(row["rows"]))
        if fault:
            raise UserError(fault)
    found = [statistics(target, shard) for shard in shards]
    assert all(entry is not None for entry in found), "Ray Data ended with shards missing"
    return [entry for entry in found if entry is not None]


def pool_size(workers: Workers, shards: int) -> int:
    """Actors that so many shards keep busy; 0 where the process at hand does the work."""
    return min(workers.workers, shards)


def used(workers: Workers, shards: int, remote: bool = False) -> dict[str, Any]:
    """What ``run`` takes for so many shards, for the manifest: ``workers``, and ``gpus`` of each.

    A run that goes on after a crash with fewer shards than it has workers takes fewer of them; its
    manifest names those that it began with.
    """
    if remote and workers.gpus is None:
        workers = accelerators.without(workers)
    return {"workers": max(1, pool_size(workers, shards)), "gpus": accelerators.gpus(workers)}


def statistics(target: Artifact, shard: Shard) -> dict[str, Any] | None:
    """Numbers kept in a shard's file; None where there is no whole file."""
    return _statistics(target, shard.name, shard.stop - shard.start)


def _statistics(target: Artifact, name: str, rows: int | None) -> dict[str, Any] | None:
    try:
        with target.storage.fs.open_input_file(f"{target.absolute}/{name}") as file:
            metadata = pq.read_metadata(file)
        found: dict[str, Any] = json.loads((metadata.metadata or {})[_STATISTICS])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):  # of Arrow's, too
        log.warning("%s/%s is damaged and is made again", target.absolute, name)
        return None
    if rows is not None and metadata.num_rows != rows:
        log.warning("%s/%s has too few rows and is made again", target.absolute, name)
        return None
    return found


def parts_folder(shard: Shard) -> str:
    """Where a worker keeps what it has of a shard that is not whole yet."""
    return f"{PARTS}/{Shard('', shard.start, shard.stop).name.removesuffix('.parquet')}"


def parts(target: Artifact, shard: Shard | None = None) -> list[str]:
    """Folders of parts that may hold rows of a shard, however it was cut then; or all of them."""
    selector = pa.fs.FileSelector(f"{target.absolute}/{PARTS}", allow_not_found=True)
    names = sorted(info.base_name for info in target.storage.fs.get_file_info(selector))
    held = [Shard.named(f"{PARTS}/{name}") for name in names if name.startswith("rows-")]
    return [
        parts_folder(one)
        for one in held
        if shard is None or (one.start < shard.stop and shard.start < one.stop)
    ]


def part_ids(target: Artifact) -> set[int]:
    """Ids that the parts hold."""
    found: set[int] = set()
    for folder in parts(target):
        for name in target.tables(folder):
            if part_statistics(target, name) is not None:
                found.update(target.read_table(name, ["id"])["id"].to_pylist())
    return found


def part_statistics(target: Artifact, name: str) -> dict[str, Any] | None:
    """Numbers kept in a part's file; None where it cannot be read."""
    return _statistics(target, name, None)


def kept(target: Artifact) -> dict[str, dict[str, Any]]:
    """Statistics of all that is kept by file: whole shards, and parts of the others.

    A shard within a longer one, and a part whose shard is whole, counts no rows again.
    """
    files = target.tables()
    spans = {name: Shard.named(name) for name in files}
    found = {name: _statistics(target, name, s.stop - s.start) for name, s in spans.items()}
    whole = {name: spans[name] for name, numbers in found.items() if numbers is not None}
    for name, span in whole.items():
        if any(o.start <= span.start and span.stop <= o.stop and o != span for o in whole.values()):
            found[name] = {**(found[name] or {}), "rows": 0, "rejected": []}
    for folder in parts(target):
        start = Shard.named(folder).start
        if not any(span.start <= start < span.stop for span in whole.values()):
            found |= {name: part_statistics(target, name) for name in target.tables(folder)}
    return {name: numbers for name, numbers in found.items() if numbers is not None}


def with_statistics(table: pa.Table, statistics: Mapping[str, Any]) -> pa.Table:
    """The table with numbers about it in its metadata, which its file keeps."""
    kept = {**(table.schema.metadata or {}), _STATISTICS: json.dumps(statistics).encode()}
    return table.replace_schema_metadata(kept)


def statistics_of(table: pa.Table) -> dict[str, Any]:
    """The numbers that ``with_statistics`` put there."""
    found: dict[str, Any] = json.loads(table.schema.metadata[_STATISTICS])
    return found


def has_statistics(table: pa.Table) -> bool:
    """Whether ``with_statistics`` put numbers there."""
    return _STATISTICS in (table.schema.metadata or {})


def _here(
    worker: type[ShardWorker], arguments: Mapping[str, Any], shards: list[Shard]
) -> Iterator[dict[str, Any]]:
    """Yield the answer of each shard, done in this process."""
    one = worker(**arguments)
    for shard in shards:
        batch = {name: np.array([value]) for name, value in asdict(shard).items()}
        yield {name: answer[0] for name, answer in one(batch).items()}


def _stream(
    worker: type[ShardWorker],
    arguments: Mapping[str, Any],
    shards: list[Shard],
    workers: Workers,
    restarts: int,
    at_once: int,
) -> Iterator[dict[str, Any]]:
    """Yield the answer of each shard as it is done."""
    size, kind = pool_size(workers, len(shards)), accelerators.custom(workers)
    rows = ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=len(shards))
    done = rows.map_batches(
        worker,
        fn_constructor_kwargs=dict(arguments),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=size,
            max_tasks_in_flight_per_actor=2,  # more would queue at some while others idle
            max_concurrent_calls_per_actor=at_once,
            enable_true_multi_threading=at_once > 1,
        ),
        num_cpus=workers.cpus,
        num_gpus=accelerators.gpus(workers),
        **({"resources": kind} if kind else {}),
        # Ray's own default starts a dying actor again for ever.
        max_restarts=restarts,
        # Without a bound of its own: while a lost node is not known to be lost, calls to its
        # actors fail many times a second.
        max_task_retries=-1,
    )
    yield from done.iter_rows()
