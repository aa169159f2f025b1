"""The HTTP client against a real server with real sockets, which misbehaves."""

from __future__ import annotations

import datetime
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from api_server import ApiServer, free_port, label_of
from raythief.api import Client, Remote
from raythief.config import Api
from raythief.errors import UserError
from raythief.metering import Purse

QUICK = {"backoff_s": 0.01, "max_backoff_s": 0.05, "in_flight": 4, "rows_per_request": 4}


def rows(count: int, **texts: str) -> pa.Table:
    hypotheses = [texts.get(f"row{i}", f"word {i}") for i in range(count)]
    return pa.table(
        {
            "id": pa.array(range(100, 100 + count)),
            "premise": [f"premise {i}" for i in range(count)],
            "hypothesis": hypotheses,
        }
    )


class Shop:
    """What a worker does around a client, without Ray: a budget, and a place for the answers."""

    def __init__(self, budget: int = 10**9, pace: Any = None) -> None:
        self.left = budget
        self.answers: dict[int, tuple[str | None, str | None]] = {}
        self.counts: Counter[str] = Counter()
        self.pace = pace
        self.complaints: list[str] = []

    def take(self, least: int, most: int) -> int:
        grant = min(most, self.left)
        if grant < least:
            return 0
        self.left -= grant
        return grant

    def give_back(self, rows: int) -> None:
        self.left += rows

    def keep(self, table: pa.Table, counts: dict[str, int]) -> None:
        for row in table.to_pylist():
            assert row["id"] not in self.answers, "answered twice"
            self.answers[row["id"]] = (row["label"], row["reason"])
        self.counts.update(counts)

    def buy(self, table: pa.Table, api: Api, key: str | None = None, window: int = 16) -> None:
        async def at_once(address: str, seconds: float) -> float:
            return 0.0

        purse = Purse(self.take, self.give_back, window)
        client = Client(Remote(api, key), self.pace or at_once, self.complaints.append)
        try:
            client.ask(table, purse, self.keep)
        finally:
            purse.close()
            client.close()


def expected(table: pa.Table) -> dict[int, tuple[str, None]]:
    return {
        row["id"]: (label_of(row["premise"], row["hypothesis"]), None) for row in table.to_pylist()
    }


def api(server: ApiServer, **changes: Any) -> Api:
    return Api(**{"url": server.url, **QUICK, **changes})


def test_every_row_gets_the_label_that_the_server_gave_it(tmp_path: Path) -> None:
    table, shop = rows(50), Shop(budget=50)
    with ApiServer(tmp_path) as server:
        shop.buy(table, api(server))
        assert set(server.bought.values()) == {1}
    assert shop.answers == expected(table)
    assert shop.left == 0
    assert shop.counts == {"spent": 50, "attempts": 13, "retries": 0}


@pytest.mark.parametrize("billed", ["answer", "attempt"])
def test_failures_pass(tmp_path: Path, billed: str) -> None:
    """A wrong shape was billed; whether a broken connection was is not known, so it counts."""
    table, shop = rows(40), Shop()
    script = [429, 429, 500, 503, "shape", "close"]
    with ApiServer(tmp_path, script=script) as server:
        shop.buy(table, api(server, billed=billed))
        requests = server.requests
    assert [request["status"] for request in requests][:6] == script
    free = {429, 500, 503} if billed == "answer" else set()
    spent = sum(len(request["pairs"]) for request in requests if request["status"] not in free)
    assert shop.answers == expected(table)
    assert shop.counts["spent"] == spent == 10**9 - shop.left
    assert shop.counts["attempts"] == len(requests)
    assert shop.counts["retries"] == 5  # the wrong shape is asked again in halves, as new requests


def test_the_rows_of_two_threads_follow_each_other(tmp_path: Path) -> None:
    """So that the places of a shard's last requests do not stay empty."""
    shops = Shop(), Shop()
    tables = rows(40), rows(40).set_column(1, "premise", pa.array([f"late {i}" for i in range(40)]))

    async def at_once(address: str, seconds: float) -> float:
        return 0.0

    with ApiServer(tmp_path, latency=0.1) as server, ThreadPoolExecutor(2) as threads:
        client = Client(Remote(api(server)), at_once)
        purchases = []
        for shop, table in zip(shops, tables, strict=True):
            purse = Purse(shop.take, shop.give_back, 16)
            purchases.append(threads.submit(client.ask, table, purse, shop.keep))
            while not client.turn.locked():
                time.sleep(0.001)
        for purchase in purchases:
            purchase.result()
        client.close()
        requests = server.requests
    for shop, table in zip(shops, tables, strict=True):
        assert shop.answers == expected(table)
    late = [request["pairs"][0][0].startswith("late") for request in requests]
    assert sum(late) == 10
    assert not any(late[:7])  # four are in flight: the second's turn comes after the seventh
    assert requests[late.index(True)]["together"] > 1
    assert max(request["together"] for request in requests) == 4


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(tmp_path: Path, as_date: bool) -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=3)
    after = format_datetime(soon, usegmt=True) if as_date else "2"
    with ApiServer(tmp_path, script=[429], after={"Retry-After": after}) as server:
        shop = Shop()
        shop.buy(rows(4), api(server))
        refused, answered = server.requests
    assert shop.complaints == ["HTTP 429"]  # what a person sees meanwhile
    assert answered["time"] >= (int(soon.timestamp()) if as_date else refused["time"] + 2)


def test_a_bad_row_is_rejected_and_costs_no_other(tmp_path: Path) -> None:
    table = rows(40, row7="this is POISON", row20="BABBLE here", row21="and BABBLE there")
    shop = Shop()
    with ApiServer(tmp_path, refuse="POISON", babble="BABBLE") as server:
        shop.buy(table, api(server))
    rejected = {i: reason for i, (label, reason) in shop.answers.items() if label is None}
    assert set(rejected) == {107, 120, 121}
    assert "422" in str(rejected[107])
    assert "no label" in str(rejected[120])
    right = expected(table)
    assert all(shop.answers[i] == right[i] for i in right if i not in rejected)


@pytest.mark.parametrize(
    ("status", "said"), [(401, "does not accept"), (403, "does not accept"), (404, "404")]
)
def test_some_statuses_stop_at_once(tmp_path: Path, status: int, said: str) -> None:
    shop = Shop()
    with (
        ApiServer(tmp_path, script=[status] * 99) as server,
        pytest.raises(UserError, match=said),
    ):
        shop.buy(rows(400), api(server))
    assert len(server.requests) <= QUICK["in_flight"]


def test_what_is_bought_is_kept_when_the_api_dies(tmp_path: Path) -> None:
    table, shop = rows(400), Shop()
    server = ApiServer(tmp_path, latency=0.02)
    server.start()
    kept = shop.keep

    def keep(part: pa.Table, counts: dict[str, int]) -> None:
        kept(part, counts)
        if len(shop.answers) > 50:
            server.stop()

    shop.keep = keep  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"no connection.*what is bought is kept"):
        shop.buy(table, api(server, attempts=3))
    right = expected(table)
    assert 50 < len(shop.answers) < 400
    assert all(right[i] == answer for i, answer in shop.answers.items())
    # All that was taken is either spent with a known outcome or was given back.
    assert shop.counts["spent"] == 10**9 - shop.left


def test_a_label_without_a_meaning_is_an_error(tmp_path: Path) -> None:
    with ApiServer(tmp_path, names={"neutral": "LABEL_1"}) as server:
        with pytest.raises(UserError, match=r"victim.api.labels.*`LABEL_1`"):
            Shop().buy(rows(40), api(server))
        names = {"LABEL_1": "neutral", **{name: name for name in ("entailment", "contradiction")}}
        table, shop = rows(40), Shop()
        shop.buy(table, api(server, labels=names))
    assert shop.answers == expected(table)


def test_the_budget_is_never_exceeded(tmp_path: Path) -> None:
    shop = Shop(budget=30)
    with ApiServer(tmp_path, script=[500, 500, 500]) as server:
        with pytest.raises(UserError, match=r"costs\.budget"):
            shop.buy(rows(40), api(server, billed="attempt"))
        sent = sum(len(request["pairs"]) for request in server.requests)
    assert sent <= 30
    assert len(shop.answers) == sent - 12


def test_a_key_is_sent_and_never_shown(tmp_path: Path) -> None:
    with ApiServer(tmp_path, key="secret-key") as server:
        Shop().buy(rows(8), api(server), key="secret-key")
        with pytest.raises(UserError) as caught:  # the server echoes what it was sent
            Shop().buy(rows(8), api(server, key_env="THE_KEY"), key="wrong-secret")
    assert "THE_KEY" in str(caught.value)
    assert "wrong-secret" not in str(caught.value) + repr(Remote(api(server), "wrong-secret"))


def test_a_silent_server_times_out(tmp_path: Path) -> None:
    shop = Shop()
    with (
        ApiServer(tmp_path, latency=30) as server,
        pytest.raises(UserError, match=r"no answer within 0.2 s after 2 attempts"),
    ):
        shop.buy(rows(4), api(server, timeout_s=0.2, attempts=2))
    assert shop.counts["spent"] == 8  # it may have been billed


def test_no_server_costs_nothing(tmp_path: Path) -> None:
    shop = Shop()
    with pytest.raises(UserError, match="no connection"):
        shop.buy(rows(4), Api(url=f"http://127.0.0.1:{free_port()}/", **QUICK, attempts=2))
    assert shop.counts["spent"] == 0
    assert shop.left == 10**9


def test_every_attempt_waits_for_its_turn(tmp_path: Path) -> None:
    asked: list[float] = []

    async def pace(address: str, seconds: float) -> float:
        asked.append(seconds)
        return 0.0

    with ApiServer(tmp_path, script=[500]) as server:
        shop = Shop(pace=pace)
        shop.buy(rows(16), api(server, requests_per_second=50, rows_per_second=100))
    assert asked == [pytest.approx(0.04)] * 5  # four rows at 100 a second


def test_the_worst_words_arrive_as_they_are(tmp_path: Path) -> None:
    worst = ['"quoted"', "it's", "<s>", "\u0007bell", "🙂‍↔️", "x" * 300, "\\u0041", "{premise}", "₤"]
    table, shop = rows(9, **{f"row{i}": word for i, word in enumerate(worst)}), Shop()
    with ApiServer(tmp_path) as server:
        shop.buy(table, api(server))
        assert {pair[1] for pair in server.bought} == set(worst)
    assert shop.answers == expected(table)


def test_answers_are_written_while_others_are_under_way(tmp_path: Path) -> None:
    """A crash costs what is in flight, not the whole shard."""
    table, shop, sizes = rows(200), Shop(), []
    kept = shop.keep

    def keep(part: pa.Table, counts: dict[str, int]) -> None:
        sizes.append(part.num_rows)
        kept(part, counts)
        time.sleep(0.01)

    shop.keep = keep  # type: ignore[method-assign]
    with ApiServer(tmp_path, latency=0.02) as server:
        shop.buy(table, api(server))
    assert max(sizes) <= 3 * QUICK["in_flight"] * QUICK["rows_per_request"]
    assert sum(sizes) == 200
