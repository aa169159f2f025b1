"""The API as clients see it: messages, the key, and what is refused. It knows no model."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict

from raythief import __version__, config
from raythief.config import Label

_BYTES_PER_PAIR = 1 << 16
"""Of a request, on average: many times what the longest pair takes that an encoder reads whole."""
_BEARER = HTTPBearer(auto_error=False, description="The key that `serve.key_env` names.")


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Pair(_Message):
    """Two sentences."""

    premise: str
    hypothesis: str


class Pairs(_Message):
    """A request."""

    pairs: list[Pair]


class Answer(_Message):
    """What the model says of one pair."""

    label: Label
    scores: dict[Label, float] | None = None


class Answers(_Message):
    """The response: one answer for each pair, in the order of the request."""

    answers: list[Answer]


class Health(_Message):
    """The server is up and its model is loaded."""

    status: str = "ok"


def application(
    title: str,
    options: config.Serve,
    key_digest: bytes | None,
    ask: Callable[[Sequence[Pair]], Awaitable[list[Answer]]],
) -> FastAPI:
    """The API over a function that answers pairs.

    Args:
        title: Headline of the page at `/docs`.
        options: The spec's section.
        key_digest: ``digest`` of the key that clients must send; None asks for none.
        ask: Answers any number of pairs, in order.
    """

    def authorised(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> None:
        assert key_digest is not None
        # Headers arrive as Latin-1, whatever their bytes mean.
        sent = given.credentials.encode("latin-1") if given else b""
        if not hmac.compare_digest(hashlib.sha256(sent).digest(), key_digest):
            raise HTTPException(
                401, "send the key as `Authorization: Bearer KEY`", {"WWW-Authenticate": "Bearer"}
            )

    app = FastAPI(title=title, version=__version__)
    app.add_middleware(_Bounded, most=options.max_pairs_per_request * _BYTES_PER_PAIR)

    @app.post(
        "/predict",
        response_model_exclude_none=True,
        dependencies=[Depends(authorised)] if key_digest else [],
        responses={413: {"description": "Too many pairs, or too many bytes"}},
    )
    async def predict(request: Pairs) -> Answers:
        """Label pairs of sentences."""
        if len(request.pairs) > options.max_pairs_per_request:
            raise HTTPException(
                413,
                f"the request holds {len(request.pairs)} pairs; send at most "
                f"{options.max_pairs_per_request} at once",
            )
        for row, pair in enumerate(request.pairs):
            # Half a surrogate pair, which JSON lets through, would fail the batch of others too.
            try:
                (pair.premise + pair.hypothesis).encode()
            except UnicodeEncodeError:
                raise HTTPException(
                    422, f"pair {row} (counted from 0) is not Unicode; send whole characters"
                ) from None
        return Answers(answers=await ask(request.pairs))

    @app.get("/healthz")
    async def healthz() -> Health:
        """Tell that the model is loaded."""
        return Health()

    return app


class _Bounded:
    """Refuses what is too large while it comes in: a body is read whole before it is looked at, and
    before a key is asked for."""

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        size = 0

        async def counted() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.most:
                raise HTTPException(
                    413,
                    f"the request has more than {self.most} bytes; send fewer pairs at once, or "
                    "shorter ones",
                )
            return message

        await self.app(scope, counted, send)


def digest(key: str) -> bytes:
    """What replicas know of a key: enough to recognise it, not to tell it to anybody."""
    return hashlib.sha256(key.encode()).digest()
