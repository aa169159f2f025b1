"""How far a purchase is: done, in flight, rejected, spent, rows per second, time left.

Everything is read from storage, so it can be asked from any machine, while a run is under way and
long after. Nothing is changed.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from raythief import metering, sharding, takeover
from raythief.answers import ASKED, ROOT
from raythief.artifacts import Artifact, Storage
from raythief.errors import UserError
from raythief.leases import under_way
from raythief.results import Evaluation, Labels, read

RATE_WINDOW_S = 60.0
"""Seconds over which the present rate is taken."""
_ARTIFACT = re.compile(
    r"(?P<root>.+?)/(?P<stage>[a-z_]+(/[0-9a-f]{16})?)/(?P<fingerprint>[0-9a-f]{16})/?"
)


@dataclass(frozen=True)
class Status:
    """State of something that is bought from a victim."""

    path: str
    what: str
    """The stage that bought it."""
    state: str
    """``done``, ``under way`` or ``stopped``."""
    account: metering.Account
    rows_per_second: float | None
    """Over the last minute while it is under way, over all of it when it is done."""

    @property
    def in_flight(self) -> int:
        """Queries whose answers are not kept yet; of a run that stopped they are lost."""
        return self.account.lost if self.state == "under way" else 0

    @property
    def seconds_left(self) -> float | None:
        """At the present rate."""
        bill = self.account
        left = bill.queries - bill.kept - bill.rejected
        return left / self.rows_per_second if self.rows_per_second and left else None


def find(place: str) -> list[Status]:
    """The purchases at an address: a storage folder, or one artifact in it.

    Raises:
        UserError: nothing was bought there.
    """
    address, mark, query = place.partition("?") if "://" in place else (place, "", "")
    one = _ARTIFACT.fullmatch(address)
    if one:
        storage = Storage.at(one["root"] + mark + query)
        candidates = _bought_for(storage.artifact(one["stage"], one["fingerprint"]))
    else:
        storage = Storage.at(place)
        candidates = _artifacts(storage)
    # What was taken over from artifacts that bought for themselves is not told twice.
    taken = {name for one in candidates for name in metering.ledgers(storage, one.path)}
    own = [one for one in candidates if takeover.ledger_of(one) not in taken]
    found = [status for status in map(_status, own) if status is not None]
    if not found:
        raise UserError(f"{place}: nothing was bought from a victim there")
    return sorted(found, key=lambda status: status.path)


def show(place: str, follow: bool, console: Console) -> None:
    """Print the table once, or again and again until nothing is under way."""
    if not follow:
        console.print(table(find(place)))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            found = find(place)
            live.update(table(found), refresh=True)
            if all(status.state != "under way" for status in found):
                return
            time.sleep(2)


def table(found: list[Status]) -> Table:
    """The statuses as a table."""
    grid = Table(box=box.SIMPLE_HEAD)
    for heading in ("For", "Answers", "State"):
        grid.add_column(heading, no_wrap=True)
    for heading in ("Done", "Of", "In flight", "Rejected", "Spent", "Lost", "Rows/s", "Left"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for status in found:
        bill, rate, left = status.account, status.rows_per_second, status.seconds_left
        grid.add_row(
            status.what,
            status.path.rpartition("/")[2],
            status.state,
            f"{bill.kept + bill.rejected:,}",
            f"{bill.queries:,}",
            f"{status.in_flight:,}",
            f"{bill.rejected:,}",
            f"{bill.spent:,}",
            f"{bill.lost - status.in_flight:,}",
            "" if rate is None else f"{rate:,.1f}",
            "" if left is None else _duration(left),
        )
    return grid


def _artifacts(storage: Storage) -> list[Artifact]:
    """All places where something may have been bought: answers, and what bought for itself once."""
    found = []
    for stage in _folders(storage, storage.root):
        for name in _folders(storage, f"{storage.root}/{stage}"):
            if not re.fullmatch(r"[0-9a-f]{16}", name):
                continue
            inner = _folders(storage, f"{storage.root}/{stage}/{name}") if stage == ROOT else []
            found += [storage.artifact(f"{stage}/{name}", one) for one in inner]
            if stage != ROOT:
                found.append(storage.artifact(stage, name))
    return found


def _bought_for(artifact: Artifact) -> list[Artifact]:
    """Where the answers are kept of which an artifact is a copy; itself, if it bought them."""
    manifest = artifact.manifest_as_it_is()
    found = read(artifact.stage, manifest["results"]) if manifest else None
    kept = found.answers if isinstance(found, Labels | Evaluation) else None
    paths = (kept,) if isinstance(kept, str) else kept or (artifact.path,)
    places = [path.rpartition("/") for path in paths]
    return [artifact.storage.artifact(stage, fingerprint) for stage, _, fingerprint in places]


def _folders(storage: Storage, path: str) -> list[str]:
    selector = pa.fs.FileSelector(path, recursive=False, allow_not_found=True)
    infos = storage.fs.get_file_info(selector)
    return [info.base_name for info in infos if info.type == pa.fs.FileType.Directory]


def _status(artifact: Artifact) -> Status | None:
    """The status of a purchase; None of what was not bought."""
    manifest = artifact.manifest_as_it_is()
    if manifest is not None:
        return _finished(artifact, manifest)
    if not metering.has_ledger(artifact):
        return None
    kept = sharding.kept(artifact)
    bill = metering.account(artifact, kept.values())
    whose = artifact
    if artifact.stage.startswith(f"{ROOT}/"):  # one run at a time asks a model
        whose = artifact.storage.artifact(*artifact.stage.split("/"))
    done = bill.kept + bill.rejected >= bill.queries
    times, began = artifact.times(), metering.started(artifact)
    mine = {name: times[name] for name in kept if times.get(name, 0) >= began}
    seconds = max(max(mine.values(), default=began) - began, 1e-3)
    rows = sum(kept[name]["rows"] for name in mine)
    if done:
        return Status(
            artifact.path, _what(artifact), "done", bill, rows / seconds if rows else None
        )
    if not under_way(whose):
        return Status(artifact.path, _what(artifact), "stopped", bill, None)
    since = time.time() - RATE_WINDOW_S
    recent = {name: times[name] for name in kept if times.get(name, 0) > since}
    rate = None  # of the last minute
    if recent:
        rows = sum(kept[name]["rows"] for name in recent)
        rate = rows / max(time.time() - max(since, began), 1e-3)
    return Status(artifact.path, _what(artifact), "under way", bill, rate)


def _what(artifact: Artifact) -> str:
    """The stage that bought it."""
    text = artifact.storage.read_bytes(f"{artifact.path}/{ASKED}")
    return str(json.loads(text)["stage"]) if text is not None else artifact.stage


def _finished(artifact: Artifact, manifest: dict[str, Any]) -> Status | None:
    """The status of an artifact that bought for itself, as all did once."""
    found = read(artifact.stage, manifest["results"])
    if not isinstance(found, Labels | Evaluation) or found.spent is None or found.answers:
        return None
    names = metering.Account.__dataclass_fields__
    bill = metering.Account(**{name: getattr(found, name) for name in names})
    rate = bill.queries / max(manifest["seconds"], 1e-3)
    return Status(artifact.path, artifact.stage, "done", bill, rate)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
