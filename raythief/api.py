"""A victim behind JSON over HTTP: many requests in flight, paced, retried, and never guessed at.

    client = Client(remote, pace)
    client.ask(rows, purse, keep)         # rows: id, premise, hypothesis

What an API answers is sorted into four: an answer; a failure that passes (429, 5xx, time-outs,
broken connections), which is tried again; a refusal of these rows (400, 413, 422), or nonsense, of
which the bad row is found by halving the request and is *rejected*; and a mistake of the user's
(401, 403, 404, a label without a meaning), at which everything stops with what is bought kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp
import pyarrow as pa
import tenacity

from raythief.config import Api
from raythief.errors import MissingKeyError, UserError
from raythief.metering import Purse
from raythief.nli import SCORES
from raythief.protocol import NO_SCORES, Answer, NonsenseError, Protocol

PASSING = frozenset({408, 425, 429, *range(500, 600)})
"""Statuses that say nothing about the rows: trying again may help."""
REFUSING = frozenset({400, 413, 422})
"""Statuses that speak of the rows that were sent."""
FLUSH_S = 1.0
"""Seconds after which answers are written, however few they are."""

ANSWERS = pa.schema(
    [("id", pa.int64()), ("label", pa.string()), ("reason", pa.string())]
    + [(name, pa.float32()) for name in SCORES]
)
"""An answer has a label and, if they are wanted, the probability of each one; or the reason why it
was rejected."""
Keep = Callable[[pa.Table, dict[str, int]], None]
"""Writes answers to storage, with ``spent``, ``attempts`` and ``retries`` since the last call."""
Pace = Callable[[str, float], Awaitable[float]]
"""From an address, and the seconds of its limit that a request uses up, to seconds of waiting."""
T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """An API and its key: what travels to the actors that ask it."""

    api: Api
    key: str | None = field(default=None, repr=False)

    scores: bool = False
    """Whether the probability of each label is wanted, too."""

    @classmethod
    def of(cls, api: Api, scores: bool = False) -> Remote:
        """The API with its key from the environment.

        Raises:
            MissingKeyError: the variable is not set.
        """
        if api.key_env is None:
            return cls(api, scores=scores)
        key = os.environ.get(api.key_env)
        if not key:
            raise MissingKeyError(
                f"victim.api.key_env: the environment variable {api.key_env} is empty"
            )
        return cls(api, key, scores)

    def hide(self, text: str) -> str:
        """The text without the key, which an API may echo."""
        return text.replace(self.key, "***") if self.key else text


class PassingError(Exception):
    """A failure that may pass; ``wait`` is what ``Retry-After`` asks for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0, busy: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.busy = wait, busy


class RefusedError(Exception):
    """The API refused these rows."""


class Client:
    """Asks an API from a thread of its own, so that its connections outlive a shard."""

    def __init__(
        self, remote: Remote, pace: Pace, complain: Callable[[str], None] = lambda _: None
    ) -> None:
        """Take the connections into use.

        Args:
            remote: The API.
            pace: Tells how long to wait before a request, over all that ask.
            complain: Told why requests have to be sent again, once a second at most.
        """
        self.remote, self.api, self.pace = remote, remote.api, pace
        self.protocol = Protocol(remote.api, remote.scores, remote.hide)
        limits = (self.api.requests_per_second, self.api.rows_per_second)
        self.limits = [1 / limit if limit else 0.0 for limit in limits]
        self.answered = 0
        """Requests that were answered at all: whether the API is alive."""
        self.complain, self.complained = complain, 0.0
        self.quiet_until = 0.0
        """When the API wants to be asked again (`Retry-After`), on the clock of the loop."""
        self.places = asyncio.Semaphore(self.api.in_flight)
        """One for each request in flight, whichever purchase it is of."""
        self.turn = asyncio.Lock()
        """Held by the purchase that hands out its rows: those of the next fill the places that
        the last ones of this leave."""
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="api", daemon=True).start()
        self.session: aiohttp.ClientSession = self._wait(self._open())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _open(self) -> aiohttp.ClientSession:
        headers = dict(self.api.headers)
        if self.remote.key:
            headers[self.api.key_header] = f"{self.api.key_prefix}{self.remote.key}"
        return aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=self.api.in_flight),
            timeout=aiohttp.ClientTimeout(total=self.api.timeout_s),
        )

    def failed(self, outcome: tenacity.Future | None) -> None:
        """Tell whoever watches, who would otherwise see nothing for the length of the back-off."""
        if outcome is not None and time.monotonic() - self.complained > 1:
            self.complained = time.monotonic()
            self.complain(str(outcome.exception()))

    def close(self) -> None:
        """Close the connections; without it they last as long as the process."""
        self._wait(self.session.close())
        self.loop.call_soon_threadsafe(self.loop.stop)

    def ask(self, rows: pa.Table, purse: Purse, keep: Keep) -> None:
        """Buy an answer for each row; ``keep`` gets all of them, some at a time.

        Two threads may ask at once. The requests of the second then follow on those of the first.

        Args:
            rows: Columns ``id``, ``premise``, ``hypothesis``.
            purse: Where the queries come from.
            keep: Writes answers; called from another thread, one call at a time.

        Raises:
            UserError: the API cannot be asked, gives a label without a meaning, or stays silent;
                or the budget is spent. All answers so far were kept.
        """
        self._wait(_Purchase(self, rows.to_pylist(), purse, keep).run())


class _Purchase:
    """One call of ``Client.ask``."""

    def __init__(
        self, client: Client, rows: list[dict[str, Any]], purse: Purse, keep: Keep
    ) -> None:
        self.client, self.api = client, client.api
        self.rows, self.purse, self.keep = rows, purse, keep
        purse.expected = len(rows)
        self.filling: asyncio.Task[None] | None = None
        """Keeps a reference to what fills the purse, for the loop itself does not."""
        self.fault: BaseException | None = None
        self.answers: list[tuple[Any, ...]] = []
        """Rows of ``ANSWERS``."""
        self.counts = {"spent": 0, "attempts": 0, "retries": 0}
        self.flushed = time.monotonic()
        self.writing = asyncio.Lock()

    async def run(self) -> None:
        size, places = self.api.rows_per_request, self.client.places
        under_way = []
        async with self.client.turn:
            for start in range(0, len(self.rows), size):
                await places.acquire()
                if self.fault is not None:
                    places.release()
                    break
                under_way.append(asyncio.create_task(self._buy(self.rows[start : start + size])))
        await asyncio.gather(*under_way)
        if self.filling is not None:
            await self.filling
        await self._flush(last=True)
        if self.fault is not None:
            raise self.fault

    async def _buy(self, chunk: list[dict[str, Any]]) -> None:
        """Settle a chunk in the place that was taken for it."""
        self.purse.expected -= len(chunk)
        try:
            await self._settle(chunk)
            await self._flush()
        except Exception as error:  # raised by run, once what is under way has ended
            self.fault = self.fault or error
        finally:
            self.client.places.release()

    async def _settle(self, chunk: list[dict[str, Any]], again: bool = True) -> None:
        """Get an answer to every row of a chunk, or a reason for having none."""
        alive = self.client.answered
        try:
            answers: list[Answer] = await self._send(chunk)
        except (RefusedError, NonsenseError, PassingError) as error:
            if self.fault is not None:
                return
            # While others are answered, a failure that does not pass is the fault of these rows.
            if isinstance(error, PassingError) and (error.busy or self.client.answered == alive):
                raise UserError(
                    f"victim.api: {self.api.url} does not answer: {error} after "
                    f"{self.api.attempts} attempts; what is bought is kept: give the same command "
                    "again later"
                ) from None
            if len(chunk) > 1:
                half = len(chunk) // 2
                await self._settle(chunk[:half])
                await self._settle(chunk[half:])
            elif isinstance(error, NonsenseError) and again:
                await self._settle(chunk, again=False)
            else:
                self.answers.append((chunk[0]["id"], None, str(error), *NO_SCORES))
            return
        for row, (label, scores) in zip(chunk, answers, strict=True):
            self.answers.append((row["id"], label, None, *scores))

    async def _send(self, chunk: list[dict[str, Any]]) -> list[Answer]:
        """Send a request until it is answered or its attempts are used up."""
        body = self.client.protocol.body(chunk)
        try:
            return await self._attempt(body, len(chunk), 1)
        except PassingError as error:
            failure = error
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(PassingError),
            stop=lambda state: state.attempt_number >= self.api.attempts or self.fault is not None,
            wait=self._backoff,
            sleep=self._sleep,
            before_sleep=lambda state: self.client.failed(state.outcome),
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                number = attempt.retry_state.attempt_number
                if number == 1:  # was sent above: tenacity takes half as long as the whole request
                    raise failure
                answers = await self._attempt(body, len(chunk), number)
        return answers

    def _backoff(self, state: tenacity.RetryCallState) -> float:
        doubling = tenacity.wait_random_exponential(
            multiplier=2 * self.api.backoff_s, max=self.api.max_backoff_s
        )
        assert state.outcome is not None
        error = state.outcome.exception()
        return max(doubling(state), error.wait if isinstance(error, PassingError) else 0.0)

    async def _attempt(self, body: Any, rows: int, number: int) -> list[Answer]:
        if not self.purse.use(rows):  # asks the meter, which may take a moment
            await asyncio.to_thread(self.purse.spend, rows)
        if self.purse.is_low() and (self.filling is None or self.filling.done()):
            self.filling = asyncio.create_task(self._fill())
        await self._turn(rows)
        if self.fault is not None:
            self.purse.refund(rows)
            raise PassingError("the purchase has ended")
        try:
            async with self.client.session.post(
                self.api.url, json=body, allow_redirects=False
            ) as response:
                status, asked = response.status, response.headers.get("Retry-After")
                text = await response.text(errors="replace")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self._count(rows, number, billed=False)  # it never reached the API
            raise PassingError(f"no connection ({type(error).__name__})") from None
        except TimeoutError:  # whether it was billed is not known, so it counts
            self._count(rows, number, billed=True)
            raise PassingError(f"no answer within {self.api.timeout_s:g} s") from None
        except aiohttp.ClientError as error:
            self._count(rows, number, billed=True)
            raise PassingError(f"the connection broke ({type(error).__name__})") from None
        self._count(rows, number, billed=status == 200 or self.api.billed == "attempt")
        if status in PASSING:
            wait = _retry_after(asked)
            self.client.quiet_until = max(self.client.quiet_until, self.client.loop.time() + wait)
            raise PassingError(f"HTTP {status}", wait, busy=status == 429)
        self.client.answered += 1
        if status in REFUSING:
            raise RefusedError(f"HTTP {status}: {self.client.remote.hide(text)[:200]}")
        if status != 200:
            raise UserError(_hint(self.api, status) + "; what is bought is kept")
        try:
            answer = json.loads(text)
        except ValueError:
            raise NonsenseError("the response is not JSON") from None
        return self.client.protocol.understand(answer, rows)

    async def _fill(self) -> None:
        try:
            await asyncio.to_thread(self.purse.fill)
        except Exception as error:  # raised by run, as those of the requests are
            self.fault = self.fault or error

    async def _turn(self, rows: int) -> None:
        """Wait until the limits of the API, and what it asked for, allow a request."""
        while (pause := self.client.quiet_until - self.client.loop.time()) > 0:
            await self._sleep(pause)
            if self.fault is not None:
                return
        seconds = max(self.client.limits[0], rows * self.client.limits[1])
        if seconds:  # one actor keeps the pace, so that it holds over all that ask
            await self._sleep(await self.client.pace(self.api.url, seconds))

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not for long after the purchase has ended."""
        end = self.client.loop.time() + seconds
        while self.fault is None and (left := end - self.client.loop.time()) > 0:
            await asyncio.sleep(min(left, 1.0))

    def _count(self, rows: int, number: int, billed: bool) -> None:
        """Count an attempt whose outcome is known."""
        self.counts["attempts"] += 1
        self.counts["retries"] += number > 1
        if billed:
            self.counts["spent"] += rows
        else:
            self.purse.refund(rows)

    async def _flush(self, last: bool = False) -> None:
        """Write answers often enough that a crash costs little more than what is in flight."""
        window = self.api.in_flight * self.api.rows_per_request
        due = time.monotonic() - self.flushed > FLUSH_S or len(self.answers) >= window
        if not (due or last) or (self.writing.locked() and not last):
            return
        async with self.writing:
            answers, self.answers = self.answers, []
            counts, self.counts = self.counts, dict.fromkeys(self.counts, 0)
            self.flushed = time.monotonic()
            if answers or any(counts.values()):
                columns = zip(*answers, strict=True) if answers else [[]] * len(ANSWERS)
                table = pa.table(
                    [pa.array(list(column), kind) for column, kind in zip(
                        columns, ANSWERS.types, strict=True
                    )],
                    schema=ANSWERS,
                )  # fmt: skip
                await asyncio.to_thread(self.keep, table, counts)


def _retry_after(value: str | None) -> float:
    """Seconds that a ``Retry-After`` header asks for, as a number or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _hint(api: Api, status: int) -> str:
    """One sentence for a status at which everything stops."""
    if status in (401, 403):
        key = f"the key in {api.key_env}" if api.key_env else "the request, for it has no key_env"
        return f"victim.api: {api.url} answers {status}: it does not accept {key}"
    if status == 404:
        return f"victim.api.url: {api.url} answers 404: there is nothing at that address"
    return f"victim.api: {api.url} answers {status}, which trying again would not change"
