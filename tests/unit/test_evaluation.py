"""Figures of an evaluation, each reckoned by hand beside the code's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from raythief import asking, bilstm, evaluation, models
from raythief.artifacts import Storage
from raythief.config import LABELS, Inference
from raythief.errors import UserError
from raythief.evaluation import agreement, measure, wilson
from raythief.report.measures import Series
from raythief.results import Score, pack_bits
from raythief.sharding import Shard
from raythief.victims import Classifier

NAMES = {"e": "entailment", "n": "neutral", "c": "contradiction"}


def predictions(gold: str, predicted: str, ids: Sequence[int] | None = None) -> pa.Table:
    return pa.table(
        {
            "id": list(ids or range(len(gold))),
            "label": [NAMES[letter] for letter in gold],
            "predicted": [NAMES[letter] for letter in predicted],
        }
    )


def test_the_figures_of_a_language_are_those_of_a_hand_count():
    found = measure(predictions("eeeennncc", "eennnncce"))
    assert found.count == 9
    assert found.accuracy == pytest.approx(5 / 9)
    assert found.recall == {
        "entailment": pytest.approx(2 / 4),
        "neutral": pytest.approx(2 / 3),
        "contradiction": pytest.approx(1 / 2),
    }
    assert found.majority_rate == pytest.approx(4 / 9)  # four times neutral
    assert found.confusion == ((2, 2, 0), (0, 2, 1), (1, 0, 1))
    assert found.agreement is None


def test_rows_of_the_confusion_are_gold_and_columns_predicted_in_the_order_of_the_labels():
    assert LABELS == ("entailment", "neutral", "contradiction")
    assert measure(predictions("e", "c")).confusion == ((0, 0, 1), (0, 0, 0), (0, 0, 0))


def test_a_class_without_items_has_no_recall():
    found = measure(predictions("een", "ece"))
    assert found.recall == {"entailment": 0.5, "neutral": 0.0, "contradiction": None}


def test_a_model_that_always_says_the_same_has_a_majority_rate_of_one():
    found = measure(predictions("enc", "nnn"))
    assert (found.majority_rate, found.accuracy) == (1.0, pytest.approx(1 / 3))


def test_the_interval_holds_the_accuracy():
    found = measure(predictions("e" * 50, "e" * 40 + "n" * 10))
    assert (found.low, found.high) == wilson(40, 50)
    assert found.low < found.accuracy < found.high


# --- agreement --------------------------------------------------------------------------------


def test_agreement_is_with_the_other_model_not_with_the_gold_labels():
    ours, theirs = predictions("eee", "enc"), predictions("eee", "nnc")
    assert agreement(ours, theirs) == pytest.approx(2 / 3)
    assert measure(ours, theirs).agreement == pytest.approx(2 / 3)


def test_agreement_joins_by_id_not_by_position():
    ours = predictions("eee", "enc", ids=[10, 11, 12])
    theirs = predictions("eee", "cne", ids=[12, 11, 10])
    assert agreement(ours, theirs) == 1.0


def test_agreement_counts_our_items_where_the_reference_has_more():
    ours = predictions("ee", "en", ids=[5, 7])
    theirs = predictions("eeee", "cecn", ids=[4, 5, 6, 7])
    assert agreement(ours, theirs) == 1.0


# --- intervals --------------------------------------------------------------------------------


def test_wilsons_interval_is_that_of_the_books():
    # Both ends solve (p - share)^2 = z^2 p (1 - p) / count.
    for right, count in ((1, 10), (81, 263), (15, 148), (5, 9)):
        for end in wilson(right, count):
            deviation = abs(end - right / count) / math.sqrt(end * (1 - end) / count)
            assert deviation == pytest.approx(1.959964, abs=1e-5)
    low, high = wilson(81, 263)  # Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson(15, 148)
    assert (round(low, 4), round(high, 4)) == (0.0624, 0.1605)


def test_an_interval_never_leaves_0_to_1_and_is_never_empty():
    for count in (1, 3, 1000):
        low, high = wilson(0, count)
        assert low == pytest.approx(0.0, abs=1e-12)
        assert low >= 0.0
        assert 0 < high < 1
        low, high = wilson(count, count)
        assert 0 < low < 1
        assert high == pytest.approx(1.0)
        assert high <= 1.0


def test_more_items_make_the_interval_narrower():
    widths = [high - low for low, high in (wilson(6 * n, 10 * n) for n in (1, 10, 100))]
    assert widths[0] > widths[1] > widths[2] > 0


def test_a_language_of_which_the_victim_rejected_all_is_told_in_a_sentence(tmp_path: Path):
    target = Storage.at(str(tmp_path)).artifact("victim_evaluation", "f")
    nothing = pa.array([None] * 3, pa.string())
    table = pa.table({"id": range(3), "label": ["neutral"] * 3, "predicted": nothing})
    target.write_table(Shard("mine/en", 0, 3).name, table)
    with pytest.raises(
        UserError, match=r"^evaluation\.sets\.mine: the victim rejected all of its 3"
    ):
        evaluation._measured(target, "mine/en", None)


# --- a model for each language ----------------------------------------------------------------


def test_each_language_is_asked_of_its_own_model_one_held_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Models that always give one label, a different one in each language."""
    storage = Storage.at(str(tmp_path))
    trained, examples = storage.artifact("aligned", "f"), storage.artifact("examples", "f")
    always = {"en": "entailment", "de": "neutral", "hi": "contradiction"}
    for language, label in always.items():
        folder = trained.local(f"model/{language}")
        folder.mkdir(parents=True)
        bilstm.write(folder, ["a"], np.ones((1, 2), np.float32), language, hidden_size=2)
        model, tokenizer = models.fresh_classifier(folder, seed=0), models.tokenizer(folder)
        model.head[-1].weight.data.zero_()
        model.head[-1].bias.data = torch.tensor([float(one == label) for one in LABELS])
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        examples.write_table(f"{language}.parquet", nli_rows(4))
    loads: list[str] = []

    class Counted(Classifier):
        def __init__(self, source: models.Source, *others: Any) -> None:
            loads.append(source.folder)
            super().__init__(source, *others)

    monkeypatch.setattr(asking, "Classifier", Counted)
    source = models.Source(artifact=trained, folder="model/{language}")
    texts = {
        one: asking.Texts(examples, f"{one}.parquet", language=one) for one in ("en", "de", "hi")
    }
    actor = evaluation.Evaluation(
        storage.artifact("answers", "f"), texts, source, Inference(), 1, None
    )
    for language in ("en", "en", "de", "hi", "hi"):
        table, _ = actor.work(Shard(language, 1, 4))
        assert table["label"].to_pylist() == [always[language]] * 3
        assert table["id"].to_pylist() == [1, 2, 3]
    assert loads == ["model/en", "model/de", "model/hi"]


def nli_rows(count: int) -> pa.Table:
    texts = [f"a {i}" for i in range(count)]
    return pa.table(
        {
            "id": range(count),
            "premise": texts,
            "hypothesis": texts,
            "label": ["neutral"] * count,
        }
    )


def test_the_items_that_were_right_can_be_read_again() -> None:
    ids = [3, 0, 2, 1, 4, 5, 6, 7, 8]
    gold = ["neutral"] * 9
    said = ["neutral", "neutral", None, "contradiction", *["neutral"] * 4, "entailment"]
    found = measure(pa.table({"id": ids, "label": gold, "predicted": said}))
    right = Score.model_validate(found.model_dump(mode="json")).right
    # by id: the rejected item 2 counts as wrong here, though it is left out of the accuracy
    assert right.tolist() == [1, 0, 0, 1, 1, 1, 1, 1, 0]
    assert found.accuracy == 6 / 8


@pytest.mark.parametrize("text", ["9:AAA=", "8:AAA=", "x:AA==", "AA==", "-1:", "9:!!"])
def test_items_that_were_altered_are_refused(text: str) -> None:
    table = pa.table({"id": [0], "label": ["neutral"], "predicted": ["neutral"]})
    whole = measure(table).model_dump(mode="json")
    if text == "9:AAA=":  # two bytes hold nine
        assert len(Score.model_validate({**whole, "right": text}).right) == 9
        return
    with pytest.raises(ValidationError):
        Score.model_validate({**whole, "right": text})


def series(name: str, *seeds: dict[str, list[int]]) -> Series:
    """A row whose items were right or wrong as given, by language, for each seed."""
    samples = {
        seed: {
            "xnli": {
                code: Score(count=len(bits), accuracy=float(np.mean(bits)),
                            right=pack_bits(np.array(bits, bool)))
                for code, bits in languages.items()
            }
        }
        for seed, languages in enumerate(seeds)
    }  # fmt: skip
    return Series(name, False, None, samples)


def test_two_rows_are_compared_item_by_item() -> None:
    """In one language: the items on which only one is right decide, as in McNemar's test."""
    one = series("one", {"en": [1] * 40 + [1] * 12 + [0] * 4 + [0] * 44})
    two = series("two", {"en": [1] * 40 + [0] * 12 + [1] * 4 + [0] * 44})
    apart = one.apart(two, "xnli", ["en"])
    assert apart is not None
    assert apart.mean == pytest.approx((12 - 4) / 100)
    deviation = math.sqrt((16 - 8**2 / 100) / 99)
    assert apart.margin == pytest.approx(1.959964 * deviation / 10)
    back = two.apart(one, "xnli", ["en"])
    assert back is not None
    assert back.mean == -apart.mean


def test_rows_that_differ_alike_in_each_language_are_no_surer_for_there_being_more() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (2, 90)).tolist()
    single = series("a", {"de": bits[0]}).apart(series("b", {"de": bits[1]}), "xnli", ["de"])
    many = series("a", dict.fromkeys(("de", "fr", "ru"), bits[0])).apart(
        series("b", dict.fromkeys(("de", "fr", "ru"), bits[1])), "xnli", ["de", "fr", "ru"]
    )
    assert single is not None
    assert many is not None
    assert many.margin == pytest.approx(single.margin)


def test_seeds_that_disagree_widen_a_difference_and_those_that_agree_do_not_narrow_it() -> None:
    base = [1] * 60 + [0] * 40
    more = {gain: [1] * (60 + gain) + [0] * (40 - gain) for gain in (2, 10, 11)}
    items = [1.959964 * float(np.std(np.subtract(more[gain], base), ddof=1)) / 10
             for gain in (2, 10, 11)]  # fmt: skip
    wide = series("a", {"en": more[2]}, {"en": more[11]}, {"en": more[10]}).apart(
        series("b", *[{"en": base}] * 3), "xnli", ["en"]
    )
    assert wide is not None
    spread = np.std([0.02, 0.11, 0.10], ddof=1)
    assert wide.margin == pytest.approx(4.3027 * spread / math.sqrt(3), rel=1e-4)
    assert wide.items == pytest.approx(np.mean(items))
    alike = series("a", *[{"en": more[10]}] * 3).apart(
        series("b", *[{"en": base}] * 3), "xnli", ["en"]
    )
    assert alike is not None
    assert alike.margin == pytest.approx(items[1])


def test_rows_whose_items_are_not_known_are_compared_as_independent_ones() -> None:
    def blind(accuracy: float) -> Series:
        score = Score(count=600, accuracy=accuracy)
        return Series("", False, None, {0: {"xnli": {"en": score, "de": score}}})

    one, two = blind(0.7), blind(0.6)
    assert one.apart(two, "xnli", ["en"]) is None
    ahead = one.ahead(two, "xnli", ["en", "de", "fr"])
    assert ahead is not None
    halves = [(high - low) / 2 for low, high in (wilson(420, 600), wilson(360, 600))]
    assert ahead.mean == pytest.approx(0.1)
    assert ahead.margin == pytest.approx(math.hypot(*halves))


def test_what_saw_other_items_is_not_paired() -> None:
    one, two = series("a", {"en": [1, 0, 1]}), series("b", {"en": [1, 0]})
    assert one.apart(two, "xnli", ["en"]) is None
    assert one.apart(one, "xnli", ["en", "de"]) is None
    assert one.apart(series("c"), "xnli", ["en"]) is None
