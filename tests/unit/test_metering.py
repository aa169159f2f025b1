"""The budget: taken before it is used, on storage before it is granted, and never exceeded."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from raythief import metering
from raythief.artifacts import Artifact, Storage
from raythief.config import Costs
from raythief.errors import UserError
from raythief.metering import Meter, Purse


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.at(str(tmp_path))


@pytest.fixture
def labels(storage: Storage) -> Artifact:
    return storage.artifact("answers/" + "0" * 16, "a" * 16)


def opened(storage: Storage, *artifacts: Artifact, budget: int | None) -> Meter:
    meter = Meter(storage, Costs(budget=budget), [artifact.stage for artifact in artifacts])
    for artifact in artifacts:
        meter.open(artifact.path, 100, 0, 0)
    return meter


def test_the_last_queries_are_granted_in_part(storage: Storage, labels: Artifact) -> None:
    meter = opened(storage, labels, budget=10)
    assert meter.take(labels.path, 4, 8) == 8
    assert meter.take(labels.path, 4, 8) == 0  # two are left, and four are needed
    assert meter.take(labels.path, 1, 8) == 2
    assert meter.take(labels.path, 1, 8) == 0


def test_what_is_given_back_may_be_taken_again(storage: Storage, labels: Artifact) -> None:
    meter = opened(storage, labels, budget=10)
    meter.take(labels.path, 10, 10)
    meter.give_back(labels.path, 3)
    assert meter.take(labels.path, 1, 10) == 3


def test_a_budget_is_one_for_all_artifacts(storage: Storage, labels: Artifact) -> None:
    sanity = storage.artifact(labels.stage, "b" * 16)
    meter = opened(storage, labels, sanity, budget=10)
    assert meter.take(sanity.path, 6, 6) == 6
    assert meter.take(labels.path, 1, 10) == 4


def test_without_a_budget_everything_is_granted(storage: Storage, labels: Artifact) -> None:
    assert opened(storage, labels, budget=None).take(labels.path, 1, 10**9) == 10**9


def test_a_new_meter_knows_what_an_old_one_granted(storage: Storage, labels: Artifact) -> None:
    opened(storage, labels, budget=10).take(labels.path, 7, 7)
    started_again = Meter(
        storage, Costs(budget=10), [labels.stage]
    )  # after its node was lost: nobody opens again
    assert started_again.take(labels.path, 1, 10) == 3
    next_run = opened(storage, labels, budget=12)
    assert next_run.take(labels.path, 1, 10) == 2


def test_a_run_that_was_taken_over_gets_and_returns_nothing_more(
    storage: Storage, labels: Artifact
) -> None:
    silent = opened(storage, labels, budget=100)
    silent.take(labels.path, 20, 20)
    heir = opened(storage, labels, budget=100)
    heir.take(labels.path, 30, 30)
    assert "another run goes on" in str(silent.take(labels.path, 1, 10))
    assert metering.spent(storage, labels.path) == 50
    assert heir.take(labels.path, 1, 100) == 50
    silent.give_back(labels.path, 5)
    assert metering.spent(storage, labels.path) == 95


def test_a_grant_that_another_run_overtakes_is_none_and_costs_the_other_nothing(
    storage: Storage, labels: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of the silent run lands after the heir has begun to buy."""
    silent, heirs = opened(storage, labels, budget=100), []
    silent.take(labels.path, 20, 20)
    write = silent._write

    def late(path: str, ledger: dict[str, Any]) -> None:
        if not heirs:
            heirs.append(opened(storage, labels, budget=100))
            assert heirs[0].take(labels.path, 30, 30) == 30
        write(path, ledger)

    monkeypatch.setattr(silent, "_write", late)
    assert "another run goes on" in str(silent.take(labels.path, 10, 10))
    assert metering.spent(storage, labels.path) == 50
    assert heirs[0].take(labels.path, 1, 100) == 50


def test_what_was_taken_and_never_kept_is_lost(storage: Storage, labels: Artifact) -> None:
    meter = opened(storage, labels, budget=None)
    meter.take(labels.path, 50, 50)
    meter.give_back(labels.path, 5)
    part = {"rows": 30, "rejected": [[7, "refused"]], "spent": 33, "attempts": 9, "retries": 1}
    bill = metering.account(labels, [part])
    assert (bill.kept, bill.rejected, bill.spent, bill.lost) == (29, 1, 45, 12)
    assert (bill.attempts, bill.retries) == (9, 1)


def test_a_stopped_purchase_gets_nothing_more_until_it_is_opened_again(
    storage: Storage, labels: Artifact
) -> None:
    meter = opened(storage, labels, budget=None)
    meter.stop(labels.path, "the first fault")
    meter.stop(labels.path, "the second fault")
    assert meter.take(labels.path, 1, 1) == "the first fault"
    meter.open(labels.path, 100, 0, 0)
    assert meter.take(labels.path, 1, 1) == 1


def test_complaints_last_until_answers_come_again(storage: Storage, labels: Artifact) -> None:
    meter = opened(storage, labels, budget=None)
    meter.complain(labels.path, "HTTP 503")
    assert meter.progress(labels.path) == (0, 0, 0, "HTTP 503")
    meter.keep(labels.path, 5, 1)
    assert meter.progress(labels.path) == (5, 1, 0, "")


def test_a_pace_spreads_requests_of_all_who_ask(storage: Storage) -> None:
    meter = Meter(storage, Costs())
    waits = [meter.pace("http://victim", 10.0) for _ in range(4)]
    assert waits == pytest.approx([0, 10, 20, 30], abs=1)
    assert meter.pace("http://another", 10.0) == 0


@pytest.mark.parametrize(("budget", "enough"), [(None, True), (30, True), (29, False)])
def test_a_plan_above_the_budget_is_refused(
    storage: Storage, labels: Artifact, budget: int | None, enough: bool
) -> None:
    opened(storage, labels, budget=None).take(labels.path, 20, 20)
    needed = {labels.path: 10}
    if enough:
        metering.check(storage, budget, needed)
        return
    with pytest.raises(UserError, match=r"costs\.budget: 10 queries are needed and 20 are spent"):
        metering.check(storage, budget, needed)


class Till:
    """A budget without a meter, which says how it was asked."""

    def __init__(self, money: int) -> None:
        self.money = money
        self.asked: list[tuple[int, int]] = []
        self.lock = threading.Lock()

    def take(self, least: int, most: int) -> int:
        with self.lock:
            self.asked.append((least, most))
            grant = min(most, self.money) if min(most, self.money) >= least else 0
            self.money -= grant
            return grant

    def give_back(self, rows: int) -> None:
        with self.lock:
            self.money += rows


def test_a_purse_takes_a_window_at_a_time_and_never_more_than_is_expected() -> None:
    till = Till(1000)
    purse = Purse(till.take, till.give_back, window=32)
    purse.expected = 40
    for _ in range(5):
        purse.expected -= 8
        purse.spend(8)
    assert till.asked == [(8, 32), (8, 8)]
    purse.close()
    assert till.money == 960


def test_a_purse_is_filled_before_it_is_empty() -> None:
    till = Till(1000)
    purse = Purse(till.take, till.give_back, window=32)
    purse.expected = 72
    asked = []
    for _ in range(10):
        purse.expected = max(0, purse.expected - 8)
        purse.spend(8)
        if purse.is_low():
            purse.fill()
            asked.append(till.asked[-1])
    assert asked == [(1, 24), (1, 16)]
    assert till.money + purse.balance == 1000 - 80
    purse.expected = 0
    assert not purse.is_low()


def test_two_purses_live_on_a_budget_without_a_query_to_spare() -> None:
    """Neither takes what the other needs, however they take turns."""
    till = Till(64)
    purses = [Purse(till.take, till.give_back, window=32) for _ in range(2)]
    for purse in purses:
        purse.expected = 32
    for _ in range(8):
        for purse in purses:
            purse.expected -= 4
            purse.spend(4)
            if purse.is_low():
                purse.fill()
    assert till.money == 0
    assert [purse.balance for purse in purses] == [0, 0]


def test_an_empty_till_ends_it_and_refunds_go_on() -> None:
    till = Till(10)
    purse = Purse(till.take, till.give_back, window=8)
    purse.spend(8)
    with pytest.raises(UserError, match=r"costs\.budget: all of it is spent"):
        purse.spend(8)
    purse.refund(8)
    purse.spend(8)
    assert till.money == 2


def test_threads_at_one_purse_spend_each_query_once() -> None:
    till = Till(10_000)
    purse = Purse(till.take, till.give_back, window=7)
    workers = [
        threading.Thread(target=lambda: [purse.spend(3) for _ in range(200)]) for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    purse.close()
    assert till.money == 10_000 - 8 * 200 * 3


def test_what_is_granted_while_a_purse_is_closed_is_given_back() -> None:
    till, asked, go = Till(100), threading.Event(), threading.Event()

    def slowly(least: int, most: int) -> int:
        grant = till.take(least, most)
        asked.set()
        go.wait(10)
        return grant

    purse = Purse(slowly, till.give_back, window=32)
    purse.expected = 100
    fills = [threading.Thread(target=purse.fill) for _ in range(3)]
    for fill in fills:
        fill.start()
    assert asked.wait(10)
    closing = threading.Thread(target=purse.close)
    closing.start()
    go.set()
    for thread in (*fills, closing):
        thread.join()
    assert till.money == 100 - purse.balance == 100


def test_what_another_run_spends_meanwhile_counts(
    storage: Storage, labels: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took over from this one, which was silent."""
    monkeypatch.setattr(metering, "LOOK_S", 0.0)
    sanity = storage.artifact(labels.stage, "b" * 16)
    meter = Meter(storage, Costs(budget=100))
    meter.open(labels.path, 100, 0, 0)
    opened(storage, sanity, budget=None).take(sanity.path, 20, 20)
    assert meter.take(labels.path, 30, 100) == 80


def test_all_that_was_ever_bought_from_a_victim_counts(storage: Storage, labels: Artifact) -> None:
    """Whatever spec it was for; what is bought from another victim does not."""
    earlier = storage.artifact(labels.stage, "c" * 16)
    opened(storage, earlier, budget=None).take(earlier.path, 60, 60)
    other = storage.artifact("answers/" + "9" * 16, "c" * 16)
    opened(storage, other, budget=None).take(other.path, 500, 500)
    assert opened(storage, labels, budget=100).take(labels.path, 1, 100) == 40
    with pytest.raises(UserError, match=r"50 queries are needed and 100 are spent already"):
        metering.check(storage, 100, {labels.path: 50})


def test_a_check_counts_victims_of_which_nothing_more_is_needed(
    storage: Storage, labels: Artifact
) -> None:
    """As the meter of the run will."""
    other = storage.artifact("answers/" + "9" * 16, "c" * 16)
    opened(storage, other, budget=None).take(other.path, 10, 10)
    with pytest.raises(UserError, match="10 queries are needed and 10 are spent already"):
        metering.check(storage, 15, {labels.path: 10, other.path: 0})


def test_a_check_counts_what_no_ledger_tells_of(storage: Storage, labels: Artifact) -> None:
    with pytest.raises(UserError, match="40 queries are needed and 70 are spent already"):
        metering.check(storage, 100, {labels.path: 40}, before=70)


def test_a_grant_just_before_another_run_begins_is_known_to_it(
    storage: Storage, labels: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, heir = (opened(storage, labels, budget=100), Meter(storage, Costs(budget=100)))
    write = heir._write

    def late(path: str, ledger: dict[str, Any]) -> None:
        assert silent.take(path, 30, 30) == 30
        monkeypatch.setattr(heir, "_write", write)
        write(path, ledger)

    monkeypatch.setattr(heir, "_write", late)
    heir.open(labels.path, 100, 0, 0)
    assert heir.take(labels.path, 1, 100) == 70
    assert "another run goes on" in str(silent.take(labels.path, 1, 1))
