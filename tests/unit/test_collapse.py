"""Signs of a collapse: each is found where it is, and not where it is not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from raythief.training.collapse import Step, majority_rate, signs


def steps(count: int = 50, **changes: Any) -> list[Step]:
    """Sound steps of 30 examples, with changes."""
    usual = {"loss": 0.7, "gradient_norm": 1.0, "predicted": (12, 10, 8)}
    return [Step(**{"step": i + 1, **usual, **changes}) for i in range(count)]


def test_a_sound_training_shows_none() -> None:
    assert signs(steps(), 0.4) == []
    assert signs([], 0.4) == []


def test_one_answer_to_everything() -> None:
    assert signs(steps(predicted=(30, 0, 0)), 0.4) == [
        "one label is given to 100.0% of the examples"
    ]
    assert signs(steps(predicted=(28, 1, 1)), 0.4) == []


def test_another_answer_in_each_step_is_constant_too() -> None:
    both = steps(10, predicted=(30, 0, 0)) + steps(10, predicted=(0, 0, 30))
    assert majority_rate(both) == 1.0
    few = steps(10, predicted=(3, 0, 0)) + steps(10, predicted=(0, 0, 3))
    assert majority_rate(few) == 0.5  # three examples of a step may well be alike


def test_labels_that_are_as_one_sided_are_no_collapse() -> None:
    assert signs(steps(predicted=(30, 0, 0)), 0.97) == []


@pytest.mark.parametrize(("loss", "shown"), [(math.log(3), 1), (1.08, 0), (1.12, 0)])
def test_a_loss_of_chance(loss: float, shown: int) -> None:
    assert len(signs(steps(loss=loss), 0.4)) == shown
    assert signs(steps(5, loss=loss), 0.4) == []  # too few examples to know it


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number(loss: float) -> None:
    assert "the loss is not finite" in signs([*steps(), *steps(1, loss=loss)], 0.4)


def test_gradients_of_zero() -> None:
    assert signs(steps(gradient_norm=0.0), 0.4) == ["the gradients are zero"]
    assert signs([*steps(gradient_norm=0.0), *steps(1)], 0.4) == []
