"""Queries: pure in (seed, id, vocabulary), and distributed as the paper says."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pytest

from raythief.config import Queries, Vocabulary
from raythief.queries import BLOCK, generate
from raythief.vocabulary import Distribution

WORDS = 500
MANY = 100_000
"""Words among which chance seldom draws the same one twice."""


def distribution(words: int = WORDS, lengths: dict[int, int] | None = None) -> Distribution:
    """Words w0, w1, ... with falling counts; lengths about as WikiText's sentences have them."""
    chosen = lengths or {4: 2, 9: 8, 15: 17, 20: 21, 25: 20, 30: 16, 40: 12, 59: 4}
    return Distribution(
        words=tuple(f"w{i}" for i in range(words)),
        word_counts=np.arange(words, 0, -1, dtype=np.int64),
        lengths=np.array(list(chosen), np.int64),
        length_counts=np.array(list(chosen.values()), np.int64),
    )


def made(
    stop: int,
    start: int = 0,
    seed: int = 0,
    sampling: str = "uniform",
    drawn_from: Distribution | None = None,
    **fields: object,
) -> pa.Table:
    return generate(
        drawn_from or distribution(),
        Vocabulary.model_validate({"sampling": sampling}),
        Queries.model_validate(fields),
        seed,
        start,
        stop,
    )


def sides(table: pa.Table) -> list[tuple[list[str], list[str]]]:
    """Words of premise and hypothesis of each row."""
    pairs = zip(table["premise"].to_pylist(), table["hypothesis"].to_pylist(), strict=True)
    return [(premise.split(" "), hypothesis.split(" ")) for premise, hypothesis in pairs]


def differences(table: pa.Table) -> list[int]:
    """Number of places in which premise and hypothesis differ, of each row."""
    return [sum(a != b for a, b in zip(p, h, strict=True)) for p, h in sides(table)]


def chi_square(observed: np.ndarray, weights: np.ndarray) -> float:
    """Pearson's statistic in standard deviations from its mean (normal for many classes)."""
    expected = weights / weights.sum() * observed.sum()
    degrees = len(observed) - 1
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float((statistic - degrees) / np.sqrt(2 * degrees))


# --- purity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["uniform", "unigram"])
@pytest.mark.parametrize("positions", ["distinct", "with_replacement"])
@pytest.mark.parametrize("block", [1, 7, 1000, BLOCK])
def test_rows_do_not_depend_on_the_block(sampling: str, positions: str, block: int):
    rows = 5000 if block > 100 else 60  # some blocks end beside those that are made at once
    options = {"sampling": sampling, "positions": positions}
    whole = made(rows, **options)
    parts = [made(min(i + block, rows), i, **options) for i in range(0, rows, block)]
    assert pa.concat_tables(parts).equals(whole)


def test_columns_and_ids():
    table = made(start=4090, stop=4103)
    assert table.schema == pa.schema(
        [("id", pa.int64()), ("premise", pa.string()), ("hypothesis", pa.string())]
    )
    assert table["id"].to_pylist() == list(range(4090, 4103))
    assert made(start=5, stop=5).num_rows == 0


def test_queries_never_change():
    """Labels are bought for these very sentences: other numbers would be another attack."""
    table = made(start=392_701, stop=392_703, drawn_from=distribution(9, {4: 1, 6: 1}), seed=3)
    assert table.to_pylist() == [
        {"id": 392701, "premise": "w0 w6 w0 w6", "hypothesis": "w7 w6 w0 w4"},
        {"id": 392702, "premise": "w8 w6 w7 w6", "hypothesis": "w7 w6 w7 w4"},
    ]


def test_other_seeds_give_other_queries():
    for seed in (1, 2**64, 2**64 + 1):
        other = made(200, seed=seed)["hypothesis"].to_pylist()
        assert not set(other) & set(made(200)["hypothesis"].to_pylist())


def test_rows_differ_from_one_another():
    assert len(set(made(20_000)["hypothesis"].to_pylist())) == 20_000


def test_hypotheses_do_not_depend_on_how_premises_are_made():
    expected = made(5000)["hypothesis"]
    assert made(5000, replaced_words=7)["hypothesis"] == expected
    assert made(5000, positions="with_replacement")["hypothesis"] == expected


# --- the recipe, word by word -----------------------------------------------------------------


def slowly(source: Distribution, queries: Queries, sampling: str, seed: int) -> Iterator[dict]:
    """The rows of the first block from the same bits, by plain integers and lists."""
    generator = np.random.PCG64DXSM(np.random.SeedSequence(seed, spawn_key=(0,)))

    def bits(count: int) -> list[int]:
        raw = [int(number) for number in generator.random_raw((count + 1) // 2)]
        return [half for number in raw for half in (number % 2**32, number // 2**32)][:count]

    def weighted(number: int, weights: np.ndarray) -> int:
        ends = list(accumulate(weights.tolist()))
        return bisect_right([end * 2**32 // ends[-1] for end in ends[:-1]], number)

    def word(number: int) -> str:
        if sampling == "unigram":
            return source.words[weighted(number, source.word_counts)]
        return source.words[number * len(source.words) // 2**32]

    chosen = [weighted(number, source.length_counts) for number in bits(BLOCK)]
    lengths = [int(source.lengths[index]) for index in chosen]
    words = iter([word(number) for number in bits(sum(lengths))])
    count = min(queries.replaced_words, max(source.lengths) + 1)
    draws, substitutes = bits(count * BLOCK), [word(number) for number in bits(count * BLOCK)]
    for row, length in enumerate(lengths):
        hypothesis = [next(words) for _ in range(length)]
        premise, before = hypothesis.copy(), set()
        for turn in range(count):
            number = draws[turn * BLOCK + row]
            if queries.positions == "distinct":
                last = max(length - count + turn, 0)
                place = number * (last + 1) // 2**32
                place = last if place in before else place
            else:
                place = min(turn, length - 1) if length < count else number * length // 2**32
            before.add(place)
            premise[place] = substitutes[turn * BLOCK + row]
        yield {"id": row, "premise": " ".join(premise), "hypothesis": " ".join(hypothesis)}


@pytest.mark.parametrize("sampling", ["uniform", "unigram"])
@pytest.mark.parametrize("positions", ["distinct", "with_replacement"])
@pytest.mark.parametrize("replaced", [0, 3, 9])
def test_rows_are_what_a_plain_loop_makes_of_the_same_bits(
    sampling: str, positions: str, replaced: int
):
    source = Distribution(  # of some words Arrow's views hold the text, of others they do not
        words=tuple("é" * size + "x" * (size % 3) for size in range(1, 24)),
        word_counts=np.arange(23, 0, -1, dtype=np.int64),
        lengths=np.array([1, 2, 4, 7], np.int64),
        length_counts=np.array([3, 1, 5, 2], np.int64),
    )
    options = {"positions": positions, "replaced_words": replaced}
    expected = list(slowly(source, Queries.model_validate(options), sampling, seed=5))
    table = made(BLOCK, seed=5, sampling=sampling, drawn_from=source, **options)
    table.validate(full=True)
    assert table.to_pylist() == expected


# --- distributions ----------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["uniform", "unigram"])
def test_words_are_drawn_as_asked(sampling: str):
    source = distribution()
    weights = np.ones(WORDS) if sampling == "uniform" else source.word_counts
    pairs = sides(made(20_000, sampling=sampling))
    places = [place for pair in pairs for place in zip(*pair, strict=True)]
    for words in ([h for _, h in places], [p for p, h in places if p != h]):
        counts = Counter(words)
        observed = np.array([counts[word] for word in source.words])
        assert abs(chi_square(observed, weights)) < 4


def test_lengths_are_those_of_the_corpus():
    source = distribution()
    counts = Counter(len(hypothesis) for _, hypothesis in sides(made(20_000)))
    assert set(counts) == set(source.lengths.tolist())
    observed = np.array([counts[length] for length in source.lengths.tolist()])
    assert abs(chi_square(observed, source.length_counts)) < 4


@pytest.mark.parametrize("positions", ["distinct", "with_replacement"])
def test_every_position_is_replaced_equally_often(positions: str):
    table = made(10_000, positions=positions, drawn_from=distribution(MANY, {12: 1}))
    observed = np.zeros(12)
    for premise, hypothesis in sides(table):
        observed += np.array(premise) != np.array(hypothesis)
    assert abs(chi_square(observed, np.ones(12))) < 4


def test_every_set_of_positions_is_equally_likely():
    table = made(10_000, drawn_from=distribution(MANY, {6: 1}))
    sets = Counter(
        tuple(i for i in range(6) if premise[i] != hypothesis[i])
        for premise, hypothesis in sides(table)
    )
    triples = np.array([count for places, count in sets.items() if len(places) == 3])
    assert len(triples) == 20  # 6 choose 3
    assert abs(chi_square(triples, np.ones(20))) < 4


# --- replacement ------------------------------------------------------------------------------


def test_three_distinct_positions_are_replaced():
    found = Counter(differences(made(10_000, drawn_from=distribution(MANY))))
    assert set(found) <= {2, 3}
    assert found[2] < 5  # three chances in a hundred thousand for each row


def test_a_replacement_may_be_the_same_word_by_chance():
    found = Counter(differences(made(10_000, drawn_from=distribution(10, {20: 1}))))
    expected = {3: 0.9**3, 2: 3 * 0.1 * 0.9**2, 1: 3 * 0.1**2 * 0.9, 0: 0.1**3}
    assert {places: count / 10_000 for places, count in found.items()} == pytest.approx(
        expected, abs=0.015
    )


def test_positions_with_replacement_coincide_as_often_as_they_should():
    source = distribution(MANY)
    table = made(40_000, positions="with_replacement", drawn_from=source)
    found = Counter(differences(table))
    share = source.length_counts / source.length_counts.sum()
    three = float((share * (1 - 1 / source.lengths) * (1 - 2 / source.lengths)).sum())
    one = float((share / source.lengths**2).sum())
    assert 0.82 < three < 0.88  # Krishna et al.'s script, at lengths such as WikiText's
    assert found[3] / 40_000 == pytest.approx(three, abs=0.007)
    assert found[2] / 40_000 == pytest.approx(1 - three - one, abs=0.007)
    assert found[1] / 40_000 == pytest.approx(one, abs=0.002)


@pytest.mark.parametrize("positions", ["distinct", "with_replacement"])
@pytest.mark.parametrize("replaced", [3, 1000])
def test_short_sentences_get_all_their_words_replaced(positions: str, replaced: int):
    source = distribution(MANY, {1: 1, 2: 1})
    table = made(2000, positions=positions, replaced_words=replaced, drawn_from=source)
    assert all(
        premise[i] != hypothesis[i]
        for premise, hypothesis in sides(table)
        for i in range(len(hypothesis))
    )


@pytest.mark.parametrize("positions", ["distinct", "with_replacement"])
def test_no_replacement_leaves_the_premise_equal(positions: str):
    table = made(100, positions=positions, replaced_words=0)
    assert table["premise"] == table["hypothesis"]


def test_one_word_and_one_length_are_enough():
    table = made(3, drawn_from=distribution(1, {4: 9}))
    assert table["premise"].to_pylist() == ["w0 w0 w0 w0"] * 3
