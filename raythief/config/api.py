"""A victim that is asked over HTTP."""

from __future__ import annotations

import urllib.parse
from typing import Annotated, Any, Literal

import jmespath
from pydantic import AfterValidator, Field, model_validator

from raythief.config.base import Label, Section
from raythief.config.keys import holds_keys, is_secret

PRESETS: dict[str, dict[str, Any]] = {
    "raythief": {
        "request": {"pairs": "{rows}"},
        "row": {"premise": "{premise}", "hypothesis": "{hypothesis}"},
        "answers": "answers",
        "label": "label",
        "scores": "scores",
    },
    "tei": {
        "request": {"inputs": "{rows}"},
        "row": ["{premise}", "{hypothesis}"],
        "answers": "@",
        "label": "max_by(@, &score).label",
        "scores": "@",
    },
    "huggingface": {
        "request": {"inputs": "{rows}"},
        "row": {"text": "{premise}", "text_pair": "{hypothesis}"},
        "answers": "@",
        "label": "max_by([@][], &score).label",
        "scores": "[@][]",
    },
}
"""How known servers write a batch of pairs and its answers: our own `raythief serve`,
text-embeddings-inference's `/predict`, and Hugging Face's inference endpoints."""
_ASKED = ("request", "row", "answers", "label")
"""What a label needs."""


def _expression(text: str | None) -> str | None:
    if text is not None:
        try:
            jmespath.compile(text)
        except jmespath.exceptions.JMESPathError as error:
            raise ValueError(f"is no JMESPath: {str(error).splitlines()[0]}") from None
    return text


Expression = Annotated[str | None, AfterValidator(_expression)]


class Api(Section):
    """A victim behind JSON over HTTP: how to ask it, how fast, and what it bills."""

    url: str
    """Address that takes POST requests."""
    identity: str | None = None
    """What identifies the model behind the address, such as its name and version; null takes the
    address. Labels bought under one identity are never bought again under it."""
    preset: Literal["raythief", "tei", "huggingface", "custom"] = "raythief"
    """Fills `request`, `row`, `answers`, `label` and `scores` for our own server, for
    text-embeddings-inference's `/predict`, or for a Hugging Face endpoint."""
    request: Any = None
    """Body of a request, in which the text `{rows}` stands for the list of rows; null takes the
    preset's."""
    row: Any = None
    """One row of it, in which `{premise}` and `{hypothesis}` stand for the sentences; null takes
    the preset's."""
    answers: Expression = None
    """JMESPath from the response to the list of answers, one for each row; null: the preset's."""
    label: Expression = None
    """JMESPath from one answer to its label; null takes the preset's."""
    scores: Expression = None
    """JMESPath from one answer to the probability of each label, a mapping or a list of `label` and
    `score`; null takes the preset's. Used only with `victim.scores`."""
    labels: dict[str, Label] | None = None
    """Canonical label of each label that the API gives; null where it gives them canonical."""
    headers: dict[str, str] = {}
    """Further headers. Keys do not belong here: see `key_env`."""
    key_env: str | None = None
    """Environment variable that holds the API key; it stands nowhere else."""
    key_header: str = "Authorization"
    """Header that carries the key."""
    key_prefix: str = "Bearer "
    """What stands before the key in its header."""
    rows_per_request: int = Field(16, ge=1)
    """Pairs in a request, as many as the API takes."""
    in_flight: int = Field(16, ge=1)
    """Requests under way at once, of each actor."""
    requests_per_second: float | None = Field(None, gt=0)
    """Limit over all actors of a run; null sets none."""
    rows_per_second: float | None = Field(None, gt=0)
    """Limit over all actors of a run; null sets none."""
    timeout_s: float = Field(60.0, gt=0)
    """Seconds after which a request is given up."""
    attempts: int = Field(8, ge=1)
    """Attempts at a request that meets 429, 5xx, time-outs or broken connections."""
    backoff_s: float = Field(1.0, gt=0)
    """Mean wait before the second attempt; it doubles with each one, with jitter."""
    max_backoff_s: float = Field(60.0, gt=0)
    """Longest wait, unless the API asks for a longer one (`Retry-After`)."""
    billed: Literal["answer", "attempt"] = "answer"
    """What the API counts: rows that it answered, or rows of every attempt."""
    max_rejected: float = Field(0.01, ge=0, le=1)
    """Share of the queries that the API may refuse, or answer with nonsense, before the run stops
    with what is bought kept."""
    evaluate: Literal["everything", "english", "nothing"] = "english"
    """Which part of `evaluation.sets` is bought to measure the victim itself; agreement needs
    the English one."""

    @model_validator(mode="after")
    def _complete_and_safe(self) -> Api:
        address = urllib.parse.urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"url: `{self.url}` is no address; write https://host/path")
        if holds_keys(self.url):
            raise ValueError("url holds a user or a key; use key_env for what is secret")
        local = address.hostname in ("localhost", "127.0.0.1", "::1")
        if self.key_env and address.scheme == "http" and not local:
            raise ValueError("url: a key is never sent over plain http; use https")
        secret = [name for name in self.headers if is_secret(name)]
        if secret:
            raise ValueError(f"headers.{secret[0]} is secret; use key_env, which names a variable")
        if self.preset == "custom":
            absent = [name for name in _ASKED if getattr(self, name) is None]
            if absent:
                raise ValueError(f"{absent[0]} is missing, which preset `custom` needs")
        return self

    def protocol(self) -> dict[str, Any]:
        """``request``, ``row``, ``answers`` and ``label``, the preset's where they are null."""
        preset = PRESETS.get(self.preset, {})
        given = {name: getattr(self, name) for name in _ASKED}
        return {name: preset.get(name) if own is None else own for name, own in given.items()}

    def score_path(self) -> str | None:
        """``scores``, the preset's where it is null; None where neither tells."""
        return self.scores or PRESETS.get(self.preset, {}).get("scores")
