"""The sanity gate: every permutation is found, and a victim that is only weak passes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from raythief import sanity
from raythief.config import LABELS, Api, Sanity, Victim
from raythief.errors import UserError


def gold(count: int, seed: int = 0) -> list[str]:
    return list(np.random.default_rng(seed).choice(LABELS, count))


def noisy(labels: Sequence[str], accuracy: float, seed: int = 1) -> list[str]:
    """What a victim of about this accuracy says."""
    rng = np.random.default_rng(seed)
    wrong = {label: [other for other in LABELS if other != label] for label in LABELS}
    return [label if rng.random() < accuracy else str(rng.choice(wrong[label])) for label in labels]


READINGS = [dict(zip(LABELS, names, strict=True)) for names in itertools.permutations(LABELS)]


@pytest.mark.parametrize("renamed", READINGS[1:])
@pytest.mark.parametrize("accuracy", [0.7, 0.9, 1.0])
def test_every_permutation_is_found_and_named(renamed: dict[str, str], accuracy: float) -> None:
    right = gold(120)
    given = [renamed[label] for label in noisy(right, accuracy)]
    back = {said: meant for meant, said in renamed.items()}
    assert sanity.permutation(right, given) == back


@pytest.mark.parametrize("accuracy", [1 / 3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_victim_that_is_only_weak_passes(accuracy: float, seed: int) -> None:
    right = gold(120, seed)
    assert sanity.permutation(right, noisy(right, accuracy, seed + 100)) is None


def test_a_victim_with_one_answer_passes() -> None:
    assert sanity.permutation(gold(300), ["neutral"] * 300) is None


def test_rejected_rows_do_not_count() -> None:
    right = gold(60)
    given = [None if i % 2 else label for i, label in enumerate(right)]
    assert sanity.permutation(right, given) is None
    examples = pa.table({"label": right})
    assert sanity.check_sane(examples, given, Victim()) == 30


@pytest.mark.parametrize(
    ("victim", "field"),
    [(Victim(), "victim.labels"), (Victim(api=Api(url="http://x.test")), "victim.api.labels")],
)
def test_the_refusal_names_the_field_and_the_reading(victim: Victim, field: str) -> None:
    right = gold(60)
    swapped = {"entailment": "contradiction", "contradiction": "entailment", "neutral": "neutral"}
    given = [swapped[label] for label in right]
    with pytest.raises(UserError) as refused:
        sanity.check_sane(pa.table({"label": right}), given, victim)
    said = str(refused.value)
    assert said.startswith(f"{field}: the victim's labels look permuted")
    assert "`entailment` is `contradiction`, `contradiction` is `entailment`" in said
    assert "`neutral` is" not in said


@pytest.mark.parametrize("count", [1, 3, 10, 30, 100])
def test_the_sample_has_all_labels_alike(count: int) -> None:
    table = pa.table({"id": range(900), "label": [LABELS[min(2, i // 100)] for i in range(900)]})
    chosen = sanity.sample(table, count)
    assert chosen.num_rows == count
    ids = chosen["id"].to_pylist()
    assert ids == sorted(set(ids))
    shares = Counter(chosen["label"].to_pylist())
    if count >= 3 and count % 3 == 0:
        assert set(shares.values()) == {count // 3}


def test_a_sample_of_a_small_set_is_all_of_it() -> None:
    table = pa.table({"id": range(9), "label": list(LABELS) * 3})
    assert sanity.sample(table, Sanity().count).num_rows == 9
