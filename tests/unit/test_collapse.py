"""Signs of a collapse: each is found where it is, and not where it is not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from raythief.training.collapse import Guess, Step, majority_rate, signs


def steps(count: int = 50, **changes: Any) -> list[Step]:
    """Sound steps of 30 examples, with changes."""
    usual = {"loss": 0.7, "gradient_norm": 1.0, "predicted": (12, 10, 8)}
    return [Step(**{"step": i + 1, **usual, **changes}) for i in range(count)]


EVEN = Guess.of([500, 500, 500], [1.0, 1.0, 1.0])


def test_a_sound_training_shows_none() -> None:
    assert signs(steps(), EVEN) == []
    assert signs([], EVEN) == []


def test_one_answer_to_everything() -> None:
    assert signs(steps(predicted=(30, 0, 0)), EVEN) == [
        "one label is given to 100.0% of the examples"
    ]
    assert signs(steps(predicted=(28, 1, 1)), EVEN) == []


def test_another_answer_in_each_step_is_constant_too() -> None:
    both = steps(10, predicted=(30, 0, 0)) + steps(10, predicted=(0, 0, 30))
    assert majority_rate(both) == 1.0
    few = steps(10, predicted=(3, 0, 0)) + steps(10, predicted=(0, 0, 3))
    assert majority_rate(few) == 0.5  # three examples of a step may well be alike


def test_labels_that_are_as_one_sided_are_no_collapse() -> None:
    one_sided = Guess.of([97, 2, 1], [1.0, 1.0, 1.0])
    assert signs(steps(predicted=(30, 0, 0)), one_sided) == []
    assert signs(steps(predicted=(30, 0, 0), loss=one_sided.loss), one_sided) == []


@pytest.mark.parametrize(("loss", "shown"), [(math.log(3), 1), (1.08, 0), (1.12, 0)])
def test_a_loss_of_chance(loss: float, shown: int) -> None:
    assert len(signs(steps(loss=loss), EVEN)) == shown
    assert signs(steps(5, loss=loss), EVEN) == []  # too few examples to know it


def test_the_loss_of_a_guess_that_knows_how_often_each_label_is_right() -> None:
    """Gibberish has such labels: to give each its share comes to far less than ln 3."""
    skewed = Guess.of([70, 200, 730], [1.0, 1.0, 1.0])
    shares = (0.07, 0.2, 0.73)
    assert skewed.loss == pytest.approx(-sum(share * math.log(share) for share in shares))
    assert signs(steps(loss=skewed.loss), skewed) == ["the loss of 0.738 is that of chance"]
    assert len(signs(steps(loss=math.log(3)), skewed)) == 1
    assert signs(steps(loss=0.7), skewed) == []
    soft = Guess.of([70, 200, 730], [1.0, 1.0, 1.0], soft=True)  # against probabilities
    assert signs(steps(loss=skewed.loss), soft) == []
    even = Guess.of([70, 200, 730], [1 / 70, 1 / 200, 1 / 730])  # as classes are weighted
    assert even.loss == pytest.approx(math.log(3))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number(loss: float) -> None:
    assert "the loss is not finite" in signs([*steps(), *steps(1, loss=loss)], EVEN)


def test_gradients_of_zero() -> None:
    assert signs(steps(gradient_norm=0.0), EVEN) == ["the gradients are zero"]
    assert signs([*steps(gradient_norm=0.0), *steps(1)], EVEN) == []
