"""What an API's requests and responses look like: rows to JSON, and JSON to labels.

    protocol = Protocol(api)
    protocol.body(rows)                   # rows: premise, hypothesis
    protocol.understand(answer, len(rows))

The spec describes both, in ``victim.api``; nothing here knows how they travel.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jmespath

from raythief.config import LABELS, Api, Label
from raythief.errors import UserError

Answer = tuple[Label, tuple[float | None, ...]]
"""A label, and the probability of each in the order of ``LABELS``, None where none are wanted."""
NO_SCORES = (None,) * len(LABELS)


class NonsenseError(Exception):
    """The API took the rows and answered what cannot be understood."""


class Protocol:
    """Requests and responses of one API."""

    def __init__(
        self, api: Api, scores: bool = False, hide: Callable[[str], str] = lambda text: text
    ) -> None:
        """Take the spec's description into use.

        Args:
            api: The API.
            scores: Whether the probability of each label is wanted, too.
            hide: Takes the key out of a text that the API sent, for it may echo it.
        """
        described = api.protocol()
        self.labels, self.hide = api.labels, hide
        self.request, self.row = described["request"], described["row"]
        self.answers = jmespath.compile(described["answers"])
        self.label = jmespath.compile(described["label"])
        path = api.score_path() if scores else None
        self.scores = None if path is None else jmespath.compile(path)

    def body(self, rows: list[dict[str, Any]]) -> Any:
        """The JSON body that asks for these rows."""
        return _fill(self.request, {"{rows}": [_fill(self.row, _texts(row)) for row in rows]})

    def understand(self, answer: Any, count: int) -> list[Answer]:
        """The answers in a response to ``count`` rows.

        Raises:
            NonsenseError: it has another shape.
            UserError: a label has no meaning in the spec, or the probabilities that are wanted are
                not there.
        """
        try:
            found = self.answers.search(answer)
            if not isinstance(found, list) or len(found) != count:
                raise NonsenseError(f"the response does not hold {count} answers")
            labels = [self.label.search(one) for one in found]
            scores = [self.scores.search(one) for one in found] if self.scores else []
        except jmespath.exceptions.JMESPathError:
            raise NonsenseError(
                "the response has another shape than victim.api describes"
            ) from None
        named = [self._canonical(label) for label in labels]
        if self.scores is None:
            return [(label, NO_SCORES) for label in named]
        return list(zip(named, map(self._probabilities, scores), strict=True))

    def _probabilities(self, given: Any) -> tuple[float | None, ...]:
        """The probability of each label, of a mapping or of a list of `label` and `score`."""
        if isinstance(given, list):
            given = {one.get("label"): one.get("score") for one in given if isinstance(one, dict)}
        if isinstance(given, dict):
            named = {self._canonical(label): score for label, score in given.items()}
            found = [named.get(label) for label in LABELS]
            if all(isinstance(one, (int, float)) and one >= 0 for one in found) and any(found):
                return tuple(found)
        raise UserError(
            "victim.scores: the API gives no probability for each of the three labels where "
            "victim.api.scores points (`raythief serve` does with serve.scores); what is bought is "
            "kept"
        )

    def _canonical(self, label: Any) -> Label:
        if isinstance(label, bool) or not isinstance(label, (str, int)):
            raise NonsenseError("the response holds no label where victim.api.label points")
        if self.labels is not None:
            meaning = self.labels.get(str(label))
        else:
            meaning = next((name for name in LABELS if name == str(label).lower()), None)
        if meaning is None:
            said = self.hide(str(label))[:60]
            known = ", ".join(self.labels or LABELS)
            raise UserError(
                f"victim.api.labels: the API answers `{said}`, which has no meaning there (it has: "
                f"{known}); what is bought is kept"
            )
        return meaning


def _texts(row: dict[str, Any]) -> dict[str, Any]:
    return {"{premise}": row["premise"], "{hypothesis}": row["hypothesis"]}


def _fill(template: Any, values: dict[str, Any]) -> Any:
    """The template with placeholders replaced: a text that is one becomes the value itself."""
    if isinstance(template, dict):
        return {key: _fill(inner, values) for key, inner in template.items()}
    if isinstance(template, (list, tuple)):
        return [_fill(inner, values) for inner in template]
    if not isinstance(template, str):
        return template
    if template in values:
        return values[template]
    # In one pass, so that a sentence which itself holds `{hypothesis}` is left as it is.
    known = {name: value for name, value in values.items() if isinstance(value, str)}
    pattern = "|".join(map(re.escape, known))
    return re.sub(pattern, lambda found: known[found[0]], template) if known else template
