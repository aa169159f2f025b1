"""What is sent to an API and how its answers are read: presets, and a protocol of one's own."""

from __future__ import annotations

from typing import Any

import pytest

from raythief.config import Api
from raythief.errors import UserError
from raythief.protocol import Protocol


@pytest.mark.parametrize(
    ("preset", "body", "response"),
    [
        (
            "tei",
            {"inputs": [["p {hypothesis}", "h"]]},
            [[{"label": "neutral", "score": 0.1}, {"label": "ENTAILMENT", "score": 0.9}]],
        ),
        (
            "huggingface",
            {"inputs": [{"text": "p {hypothesis}", "text_pair": "h"}]},
            [{"label": "entailment", "score": 0.9}],
        ),
        (
            "huggingface",
            {"inputs": [{"text": "p {hypothesis}", "text_pair": "h"}]},
            [[{"label": "neutral", "score": 0.1}, {"label": "entailment", "score": 0.9}]],
        ),
        (
            "raythief",
            {"pairs": [{"premise": "p {hypothesis}", "hypothesis": "h"}]},
            {"answers": [{"label": "entailment"}]},
        ),
    ],
)
def test_presets(preset: Any, body: Any, response: Any) -> None:
    protocol = Protocol(Api(url="https://example.org/", preset=preset))
    assert protocol.body([{"premise": "p {hypothesis}", "hypothesis": "h"}]) == body
    assert protocol.understand(response, 1) == [("entailment", (None, None, None))]


GIVEN = {"neutral": 0.7, "contradiction": 0.05, "entailment": 0.25}


@pytest.mark.parametrize(
    ("preset", "answer"),
    [
        ("raythief", {"answers": [{"label": "neutral", "scores": GIVEN}]}),
        ("tei", [[{"label": name.upper(), "score": given} for name, given in GIVEN.items()]]),
        ("huggingface", [[{"label": name, "score": given} for name, given in GIVEN.items()]]),
    ],
)
def test_presets_know_where_the_probabilities_are(preset: Any, answer: Any) -> None:
    protocol = Protocol(Api(url="https://example.org/", preset=preset), scores=True)
    assert protocol.understand(answer, 1) == [("neutral", (0.25, 0.7, 0.05))]


@pytest.mark.parametrize(
    "scores", [None, {}, {"neutral": 1.0}, {**GIVEN, "neutral": None}, dict.fromkeys(GIVEN, 0), "x"]
)
def test_an_api_without_probabilities_is_told_of_when_they_are_wanted(scores: Any) -> None:
    answer = {"answers": [{"label": "neutral", "scores": scores}]}
    protocol = Protocol(Api(url="https://example.org/"), scores=True)
    with pytest.raises(UserError, match=r"victim\.scores: the API gives no probability"):
        protocol.understand(answer, 1)


def test_a_protocol_of_ones_own() -> None:
    own = Api(
        url="https://example.org/",
        preset="custom",
        request={"prompt": "{rows}", "n": 1},
        row="Premise: {premise} Hypothesis: {hypothesis}",
        answers="data",
        label="[0]",
        labels={"0": "contradiction", "2": "entailment"},
    )
    protocol = Protocol(own)
    body = protocol.body([{"premise": "a", "hypothesis": "b"}])
    assert body == {"prompt": ["Premise: a Hypothesis: b"], "n": 1}
    answers = protocol.understand({"data": [[2], [0]]}, 2)
    assert [label for label, _ in answers] == ["entailment", "contradiction"]
