"""What is bought from a victim, counted: the budget, the limits of its API, and the account.

    meter -> take 256 -> send 16 requests of 16 rows -> keep the answers -> give back what is unused

What is bought from one victim lies below one folder (``raythief.answers``), and a budget counts all
that was ever taken for it there, by whatever spec.

Every query is taken from the budget, on storage, *before* it is sent. So whatever is killed, and
whenever, the count can only be too high: what was taken and whose answer was never kept is *lost*,
and counts as spent. One meter serves a whole run, so budget and limits hold over all its actors.

Each meter writes a ledger of its own, and what was spent is the sum over them: no meter can undo
what another counted, however late its write lands. It notes which ledgers it found when it began,
and after it wrote what it wants to take it looks whether they are still the same. If not, another
run has taken over (``raythief.leases``), and it takes nothing. A query is therefore either counted
before the other began, and known to it, or not granted. Two that begin at once both end.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.fs
import ray

from raythief import metrics, progress
from raythief.artifacts import Artifact, Storage
from raythief.config import Costs
from raythief.errors import UserError

LEDGER = "ledger"
"""How files beside answers begin that keep what was taken for them from the budget."""
LOOK_S = 5.0
"""Seconds after which what others spent on the victim at hand is read again; a run is taken over
after a longer silence (``leases.STALE_S``)."""
_NAME = "raythief-meter"


@dataclass(frozen=True)
class Account:
    """What some answers took."""

    queries: int
    """Rows to label."""
    kept: int
    """Rows with a label."""
    rejected: int
    """Rows that the victim refused or answered with nonsense."""
    spent: int
    """Queries taken from the budget and not given back; each attempt, where attempts are billed."""
    lost: int
    """Of those, how many a crash left without a kept answer, at most."""
    attempts: int
    """Requests sent, as far as their outcome was kept."""
    retries: int
    """Of those, how many repeated an earlier one."""


def account(artifact: Artifact, parts: Iterable[Mapping[str, Any]]) -> Account:
    """The account of some answers.

    Args:
        artifact: Where they are kept.
        parts: Statistics of all that is kept of it: ``rows``, ``rejected``, ``spent``,
            ``attempts`` and ``retries`` of each part.
    """
    parts = list(parts)
    ledgers = _read(artifact.storage, artifact.path).values()
    spent = _spent(ledgers)
    rejected = sum(len(part["rejected"]) for part in parts)
    return Account(
        queries=_latest(ledgers)["queries"],
        kept=sum(part["rows"] for part in parts) - rejected,
        rejected=rejected,
        spent=spent,
        lost=spent - sum(part["spent"] for part in parts),
        attempts=sum(part["attempts"] for part in parts),
        retries=sum(part["retries"] for part in parts),
    )


def has_ledger(artifact: Artifact) -> bool:
    """Whether something was, or is being, bought there."""
    return bool(_read(artifact.storage, artifact.path))


def ledgers(storage: Storage, path: str) -> list[str]:
    """Names of the ledgers in a folder."""
    return sorted(_names(storage, path))


def started(artifact: Artifact) -> float:
    """When the present or last run began to buy, in seconds since 1970."""
    return float(_latest(_read(artifact.storage, artifact.path).values())["started"])


def spent(storage: Storage, path: str) -> int:
    """Queries spent so far on some answers."""
    return _spent(_read(storage, path).values())


def bought(storage: Storage, victims: Iterable[str]) -> list[str]:
    """Folders of all that was bought from some victims, each named by its own folder."""
    found = []
    for victim in sorted(set(victims)):
        selector = pyarrow.fs.FileSelector(f"{storage.root}/{victim}", allow_not_found=True)
        for info in storage.fs.get_file_info(selector):
            if info.type == pyarrow.fs.FileType.Directory:
                found.append(f"{victim}/{info.base_name}")
    return sorted(found)


def check(storage: Storage, budget: int | None, needed: Mapping[str, int], before: int = 0) -> None:
    """Refuse a purchase that the budget cannot hold, before its first query.

    Args:
        storage: Where the answers lie.
        budget: Queries that may be spent; None sets no limit.
        needed: Queries that have yet to be bought, by the path of the answers.
        before: Queries spent on the same victims that no ledger tells of.

    Raises:
        UserError: what is spent and what is needed exceed the budget.
    """
    if budget is None:
        return
    victims = [path.rpartition("/")[0] for path in needed]
    before += sum(spent(storage, path) for path in bought(storage, victims))
    missing = sum(needed.values())
    if missing and before + missing > budget:
        already = f" and {before:,} are spent already" if before else ""
        raise UserError(
            f"costs.budget: {missing:,} queries are needed{already}, but the budget is {budget:,}; "
            "raise it, or lower queries.count, victim.sanity.count or the evaluation"
        )


class Meter:
    """The actor that counts for a run: what may be spent, how fast, and how far it is."""

    def __init__(self, storage: Storage, costs: Costs, victims: Iterable[str] = ()) -> None:
        """Count for a run.

        Args:
            storage: Where the answers lie.
            costs: The budget, and the price of a query.
            victims: Folders of the victims whose answers count against the budget.
        """
        self.storage, self.budget, self.query_usd = storage, costs.budget, costs.query_usd
        self.victims = set(victims)
        self.name = f"{LEDGER}-{uuid.uuid4().hex}.json"
        self.ledgers: dict[str, dict[str, Any]] = {}
        """Its own, of each purchase."""
        self.known: dict[str, set[str]] = {}
        """Names of all ledgers of each, as it found them before it began its own."""
        self.before: dict[str, int] = {}
        """What others spent on each, before this run began or beside it."""
        self.done: dict[str, list[int]] = {}
        self.free_at: dict[str, float] = {}
        self.faults: dict[str, str] = {}
        self.complaints: dict[str, str] = {}
        self.looked = 0.0
        """When all that was spent was read last."""
        if self.budget is not None:
            metrics.BUDGET_QUERIES.set(self.budget)
        self._look_around(self.victims)
        self._tell_spent()

    def open(self, path: str, queries: int, kept: int, rejected: int) -> None:
        """Begin, or go on with, a purchase of so many queries."""
        self.victims.add(path.rpartition("/")[0])
        self.done[path] = [kept, rejected]
        self.faults.pop(path, None)
        self._begin(path, queries=queries, started=time.time())
        self._look_around(self.victims)
        self._tell_spent()
        self._tell_missing()

    def stop(self, path: str, fault: str) -> None:
        """End a purchase: nothing more is granted, and what is in flight may come home."""
        self.faults.setdefault(path, fault)
        self._tell_missing()

    def take(self, path: str, least: int, most: int) -> int | str:
        """Take ``most`` queries from the budget, or what is left of it; 0 if that is below
        ``least``, and the fault for which the purchase was stopped, if it was. They stand on
        storage before they are granted.
        """
        if path in self.faults:
            return self.faults[path]
        ledger = self._ledger(path)
        grant = most
        if self.budget is not None:
            # No other run buys from this victim while this one does (``raythief.answers``), unless
            # this one was silent for so long that another has taken over.
            silent = time.monotonic() - self.looked > LOOK_S
            self._look_around(self.victims if silent else self.victims - {path.rpartition("/")[0]})
            grant = min(most, self.budget - self._total())
        if grant < least:
            return 0
        self._write(path, {**ledger, "taken": ledger["taken"] + grant})
        if set(_names(self.storage, path)) != self.known[path]:
            self._write(path, ledger)
            self.stop(path, f"{path}: another run goes on with this purchase; this one ends")
            return self.faults[path]
        self._tell_spent()
        return grant

    def give_back(self, path: str, rows: int) -> None:
        """Return queries that were taken and never billed."""
        ledger = self._ledger(path)
        self._write(path, {**ledger, "returned": ledger["returned"] + rows})
        self._tell_spent()

    def keep(self, path: str, kept: int, rejected: int) -> int:
        """Count answers that are on storage; returns how many were rejected so far."""
        done = self.done.setdefault(path, [0, 0])
        done[0] += kept
        done[1] += rejected
        self.complaints.pop(path, None)
        metrics.ROWS.add(kept + rejected)
        metrics.REJECTED_ROWS.add(rejected)
        self._tell_missing()
        return done[1]

    def complain(self, path: str, reason: str) -> None:
        """Note why requests fail; forgotten as soon as answers come again."""
        self.complaints[path] = reason

    def progress(self, path: str) -> tuple[int, int, int, str]:
        """Rows kept, rejected and spent so far, and why requests fail, if they do."""
        kept, rejected = self.done.get(path, (0, 0))
        return kept, rejected, self._spent(path), self.complaints.get(path, "")

    def pace(self, address: str, seconds: float) -> float:
        """Seconds to wait before a request that uses up so many seconds of an API's limit."""
        now = time.monotonic()
        start = max(now, self.free_at.get(address, now))
        self.free_at[address] = start + seconds
        return start - now

    def _ledger(self, path: str) -> dict[str, Any]:
        if path not in self.ledgers:  # the meter was started again, after its node was lost
            self._begin(path)
        return self.ledgers[path]

    def _begin(self, path: str, **changes: Any) -> None:
        """Begin its own ledger, or go on with it, after those that there are."""
        there = _read(self.storage, path)
        own = self.ledgers.get(path, {**_latest(there.values()), "taken": 0, "returned": 0})
        self.known[path] = {*there, self.name}
        self._write(path, {**own, **changes})
        # Read again: what another takes from now on, it finds this ledger and gives it back.
        others = _read(self.storage, path).items()
        self.before[path] = _spent(ledger for name, ledger in others if name != self.name)

    def _look_around(self, victims: Iterable[str]) -> None:
        """Read what was spent on some victims beside the purchases of this run."""
        if set(victims) == self.victims:
            self.looked = time.monotonic()
        for path in bought(self.storage, victims):
            if path not in self.ledgers:
                self.before[path] = spent(self.storage, path)

    def _spent(self, path: str) -> int:
        return self.before.get(path, 0) + _spent(
            [self.ledgers[path]] if path in self.ledgers else []
        )

    def _total(self) -> int:
        return sum(self.before.values()) + _spent(self.ledgers.values())

    def _tell_spent(self) -> None:
        total = self._total()
        metrics.SPENT_QUERIES.set(total)
        metrics.SPENT_DOLLARS.set(total * self.query_usd)

    def _tell_missing(self) -> None:
        going_on = self.done.keys() & self.ledgers.keys() - self.faults.keys()
        missing = sum(
            max(0, self.ledgers[path]["queries"] - sum(self.done[path])) for path in going_on
        )
        metrics.MISSING_ROWS.set(missing)

    def _write(self, path: str, ledger: dict[str, Any]) -> None:
        self.storage.write_bytes(f"{path}/{self.name}", json.dumps(ledger).encode())
        self.ledgers[path] = ledger


def start(storage: Storage, costs: Costs, victims: Iterable[str] = ()) -> Any:
    """The run's meter; started here, next to the driver, unless there is one already."""
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Meter)
    options = {"name": _NAME, "get_if_exists": True, "scheduling_strategy": progress.here()}
    return actor.options(**options).remote(storage, costs, sorted(set(victims)))


def find() -> Any:
    """The run's meter, from anywhere on the cluster."""
    return ray.get_actor(_NAME)


class Purse:
    """A worker's share of the budget: taken some at a time, given back where it is not used."""

    def __init__(
        self, take: Callable[[int, int], int], give_back: Callable[[int], None], window: int
    ) -> None:
        """An empty purse.

        Args:
            take: Gets queries from the budget: at least so many, at most so many; 0 if it cannot.
            give_back: Returns queries to it.
            window: Queries to take at a time.
        """
        self.take, self.give_back, self.window = take, give_back, window
        self.balance = 0
        self.expected = 0
        """Queries that will be sent, and for which nothing was spent yet."""
        self.lock = threading.Lock()
        self.till = threading.Lock()
        """Held while the meter is asked, by one thread at a time."""

    @classmethod
    def of(cls, meter: Any, path: str, window: int) -> Purse:
        """A purse that the run's meter fills for an artifact."""

        def take(least: int, most: int) -> int:
            grant: int | str = ray.get(meter.take.remote(path, least, most))
            if isinstance(grant, str):
                raise UserError(grant)
            return grant

        return cls(
            take,
            lambda rows: ray.get(meter.give_back.remote(path, rows)),
            window,
        )

    def spend(self, rows: int) -> None:
        """Use ``rows`` queries, asking the meter if there are too few.

        Raises:
            UserError: the budget is spent.
        """
        while not self.use(rows):
            with self.till:
                short = rows - self.balance
                most = min(self.window, short + self.expected)
                if short > 0 and not self._take(short, max(short, most)):
                    raise UserError(
                        "costs.budget: all of it is spent; what is bought is kept: raise it and "
                        "give the same command again"
                    )

    def is_low(self) -> bool:
        """Whether it is time to ask the meter again, before anyone has to wait for it."""
        return self.balance < min(self.expected, -(-self.window // 2)) and not self.till.locked()

    def fill(self) -> None:
        """Ask the meter for what is expected, never for more: another worker may need it."""
        with self.till:
            balance = self.balance  # read first: what is spent meanwhile is no longer expected
            most = min(self.window, self.expected) - balance
            if most > 0:
                self._take(1, most)

    def use(self, rows: int) -> bool:
        """Use ``rows`` queries if there are enough, without waiting for the meter."""
        with self.lock:
            enough = self.balance >= rows
            self.balance -= rows if enough else 0
            return enough

    def _take(self, least: int, most: int) -> int:
        grant = self.take(least, most)
        with self.lock:
            self.balance += grant
        return grant

    def refund(self, rows: int) -> None:
        """Queries that were not billed after all."""
        with self.lock:
            self.balance += rows

    def close(self) -> None:
        """Give back what is left, and what the meter is granting even now."""
        self.expected = 0
        with self.till, self.lock:
            if self.balance:
                self.give_back(self.balance)
                self.balance = 0


def _names(storage: Storage, path: str) -> list[str]:
    """All ledgers in a folder."""
    selector = pyarrow.fs.FileSelector(f"{storage.root}/{path}", allow_not_found=True)
    names = [info.base_name for info in storage.fs.get_file_info(selector)]
    return [name for name in names if name.startswith(LEDGER) and name.endswith(".json")]


def _read(storage: Storage, path: str) -> dict[str, dict[str, Any]]:
    """All ledgers of some answers by their names."""
    texts = {name: storage.read_bytes(f"{path}/{name}") for name in _names(storage, path)}
    return {name: json.loads(text) for name, text in texts.items() if text is not None}


def _spent(ledgers: Iterable[Mapping[str, Any]]) -> int:
    return sum(ledger["taken"] - ledger["returned"] for ledger in ledgers)


def _latest(ledgers: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The ledger of the run that began last; a blank one where there is none."""
    blank = {"queries": 0, "started": 0.0}
    return max(ledgers, key=lambda ledger: ledger["started"], default=blank)
