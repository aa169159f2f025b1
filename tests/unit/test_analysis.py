"""Figure 2: vectors, nearest distances and their statistics, each beside a plain reference."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import hub_server
from raythief import analysis, models, nli, sharding
from raythief.artifacts import Artifact, Storage
from raythief.config import Inference, Resources
from raythief.errors import UserError
from raythief.progress import silent


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.at(str(tmp_path))


# --- vectors ----------------------------------------------------------------------------------


def test_max_pooling_is_the_largest_value_over_the_tokens_whatever_the_padding():
    torch.manual_seed(0)
    states, lengths = torch.randn(5, 7, 3), torch.tensor([7, 1, 3, 5, 2])
    expected = [states[i, : lengths[i]].max(0).values.tolist() for i in range(5)]
    for padding in (0.0, 100.0, -100.0, math.nan):
        padded = states.clone()
        for i, length in enumerate(lengths):
            padded[i, length:] = padding
        assert analysis.max_pool(padded, lengths).tolist() == expected


def test_max_pooling_gives_32_bits_of_16():
    states = torch.tensor([[[0.5, -3.0], [1.5, -4.0]]], dtype=torch.bfloat16)
    pooled = analysis.max_pool(states, torch.tensor([2]))
    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [[1.5, -3.0]]


def test_vectors_of_a_batch_are_those_of_each_pair_alone(tmp_path: Path):
    """The reference: plain transformers, one pair at a time, no padding."""
    folder = hub_server.tiny_victim(tmp_path / "model")
    rows = [hub_server.nli_pair(item, "en") for item in range(30)]
    premises = [f"{row[0]} " * (1 + i % 5) for i, row in enumerate(rows)]
    hypotheses = [row[1] for row in rows]
    source = models.Source(path=str(folder))
    embed = analysis.Embedder(source, Inference(tokens_per_batch=512), cpus=1)
    vectors, told = embed(premises, hypotheses)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    tokens = 0
    for pair, vector in zip(zip(premises, hypotheses, strict=True), vectors, strict=True):
        inputs = tokenizer(*pair, return_tensors="pt")
        with torch.no_grad():
            states = model.eval()(**inputs).last_hidden_state[0]
        np.testing.assert_allclose(vector, states.max(0).values, rtol=0, atol=1e-5)
        tokens += inputs["input_ids"].numel()
    assert vectors.dtype == np.float32
    assert told["tokens"] == tokens


def test_vectors_come_back_from_a_table_as_they_were():
    vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    table = analysis.to_table(np.arange(7), vectors)
    parts = pa.concat_tables([table.slice(0, 2), table.slice(2, 5)])
    assert np.array_equal(analysis.to_vectors(parts), vectors)
    assert np.array_equal(analysis.to_vectors(parts.slice(1, 3)), vectors[1:4])


# --- which pairs ------------------------------------------------------------------------------


def labelled(storage: Storage, rows: int) -> Artifact:
    artifact = storage.artifact("examples", "f")
    texts = [f"text {i}" for i in range(rows)]
    columns = {"id": range(rows), "premise": texts, "hypothesis": texts, "label": texts}
    artifact.write_table(
        "en.parquet", pa.table({k: list(v) for k, v in columns.items()}, nli.SCHEMA)
    )
    return artifact


def test_a_sample_is_drawn_by_the_seed_without_repeats(storage: Storage):
    pairs = labelled(storage, 50)
    ids = analysis.sample(pairs, 20, 0, "dev")["id"].to_pylist()
    assert len(set(ids)) == 20
    assert ids == sorted(ids) != list(range(20))
    assert analysis.sample(pairs, 20, 0, "dev")["id"].to_pylist() == ids
    assert analysis.sample(pairs, 20, 1, "dev")["id"].to_pylist() != ids
    assert analysis.sample(pairs, 50, 0, "dev")["id"].to_pylist() == list(range(50))


def test_a_sample_that_is_larger_than_its_set_is_refused(storage: Storage):
    with pytest.raises(UserError) as caught:
        analysis.sample(labelled(storage, 5), 6, 0, "dev")
    assert str(caught.value) == (
        "figure2.count: asks for 6 pairs, and evaluation.sets.dev has 5 in English; lower it, or "
        "name another set in figure2.real"
    )


def test_the_first_queries_are_taken_over_the_bounds_of_files(storage: Storage):
    artifact = storage.artifact("queries", "f")
    for shard in sharding.cut(10, 4):
        ids = list(range(shard.start, shard.stop))
        texts = [str(i) for i in ids]
        table = pa.table({"id": ids, "premise": texts, "hypothesis": texts})
        artifact.write_table(shard.name, table)
    assert analysis.queries(artifact, 6)["premise"].to_pylist() == [str(i) for i in range(6)]


# --- nearest ----------------------------------------------------------------------------------


def brute(wanted: np.ndarray, given: np.ndarray) -> tuple[list[float], list[int]]:
    """Every product by itself; of equals the first."""
    products, places = [], []
    for one in wanted.astype(np.float64):
        each = [np.float32(np.dot(one, other)) for other in given.astype(np.float64)]
        places.append(max(range(len(each)), key=lambda i: each[i]))
        products.append(float(each[places[-1]]))
    return products, places


@pytest.mark.parametrize("block", [1, 3, 7, 50, 1000])
@pytest.mark.parametrize("size", [1, 8, 65])
def test_the_largest_products_are_those_of_all_products(block: int, size: int):
    rng = np.random.default_rng(size)
    wanted = rng.normal(size=(11, size)).astype(np.float32)
    given = rng.normal(size=(50, size)).astype(np.float32)
    found, ids = analysis.nearest(wanted, given, 100 + np.arange(50), block)
    products, places = brute(wanted, given)
    assert found.dtype == np.float32
    assert found.tolist() == products
    assert (ids - 100).tolist() == places


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_of_equal_products_the_first_counts(block: int):
    wanted = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    given = np.array([[0, 0], [2, 1], [1, 1], [2, 0], [0, 1], [0, -5]], np.float32)
    found, ids = analysis.nearest(wanted, given, np.arange(6), block)
    assert found.tolist() == [2, 1, 0]
    assert ids.tolist() == [1, 1, 0]


def test_products_are_exact_where_32_bits_would_not_do():
    """1e8 + 1 - 1e8 is 0 in 32 bits, and 1 in 64."""
    wanted, given = np.ones((1, 3), np.float32), np.array([[1e8, 1, -1e8]], np.float32)
    assert analysis.nearest(wanted, given, np.arange(1))[0].tolist() == [1.0]


def in_this_process(
    worker: Any, arguments: dict[str, Any], target: Artifact, shards: Iterable[Any], *_: Any
) -> list[dict[str, Any]]:
    """What ``sharding.run`` does, without Ray."""
    own, told = worker(target=target, **arguments), []
    for shard in shards:
        table, numbers = own.work(shard)
        assert table.num_rows == shard.stop - shard.start
        target.write_table(shard.name, sharding.with_statistics(table, numbers))
        told.append(numbers)
    return told


@pytest.mark.parametrize("distance", ["inner_product", "cosine"])
@pytest.mark.parametrize(("cut", "piece"), [(8, 8), (7, 5), (3, 11), (100, 1), (1, 100)])
def test_nearest_distances_do_not_depend_on_how_vectors_are_cut(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, cut: int, piece: int, distance: Any
):
    monkeypatch.setattr(analysis.sharding, "run", in_this_process)
    monkeypatch.setattr(analysis, "ROWS_PER_SHARD", piece)
    rng = np.random.default_rng(1)
    vectors = {
        # Small whole numbers: many products are equal, within pieces and across.
        "train": rng.integers(-2, 3, size=(40, 4)).astype(np.float32) + np.float32(0.5),
        "real": rng.integers(-2, 3, size=(9, 4)).astype(np.float32) + np.float32(0.5),
        "gibberish": rng.integers(-3, 4, size=(13, 4)).astype(np.float32) + np.float32(0.5),
    }
    made = {}
    for name, rows in vectors.items():
        made[name] = storage.artifact("vectors", name)
        for shard in sharding.cut(len(rows), cut):
            table = analysis.to_table(
                np.arange(shard.start, shard.stop), rows[shard.start : shard.stop]
            )
            made[name].write_table(shard.name, table)
    target = storage.artifact("figure2", "f")
    told = analysis.compare(
        target, made["train"], made["real"], made["gibberish"], distance, Resources(), silent
    )
    assert told.train == 40
    train = vectors["train"].astype(np.float64)
    if distance == "cosine":
        train /= np.linalg.norm(train, axis=1, keepdims=True)
    for name in ("real", "gibberish"):
        table = target.read_table(f"{name}.parquet")
        assert table["id"].to_pylist() == list(range(len(vectors[name])))
        if distance == "inner_product":
            products, places = brute(vectors[name], vectors["train"])
            assert table["distance"].to_pylist() == [-product for product in products]
            assert table["nearest"].to_pylist() == places
        else:
            own = vectors[name].astype(np.float64)
            cosines = (own @ train.T / np.linalg.norm(own, axis=1, keepdims=True)).max(1)
            np.testing.assert_allclose(table["distance"], 1 - cosines, rtol=0, atol=1e-6)
        own_figures = told.real if name == "real" else told.gibberish
        assert own_figures.count == len(vectors[name])
        assert own_figures.mean == pytest.approx(np.mean(table["distance"].to_pylist()), abs=1e-6)


# --- statistics -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 1], [1, 2, 1], 1.0),
        ([1, 2, 1], [10, 20, 10], 1.0),  # shares, not counts
        ([4, 0, 0], [0, 0, 9], 0.0),
        ([1, 1, 0], [0, 1, 1], 0.5),
        ([3, 1, 0], [1, 2, 1], 0.5),  # 1/4 + 1/4 + 0
    ],
)
def test_overlap_is_the_common_area(first: list[int], second: list[int], expected: float):
    found = analysis.overlap(np.array(first), np.array(second))
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 0.0),
        ([1, 2, 3, 4], [3, 4, 5, 6], 0.5),  # below 3: two of four against none
        ([1, 2], [3, 4, 5], 1.0),
        ([1, 1, 1, 2], [1, 2, 2, 2], 0.5),  # at 1: 3/4 against 1/4
        ([0, 5], [1, 2, 3, 4], 0.5),
    ],
)
def test_the_ks_statistic_is_the_largest_gap_between_the_two_steps(
    first: list[float], second: list[float], expected: float
):
    found, _ = analysis.kolmogorov_smirnov(np.array(first, float), np.array(second, float))
    assert found == pytest.approx(expected)
    again, _ = analysis.kolmogorov_smirnov(np.array(second, float), np.array(first, float))
    assert again == found


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (0, 1.0),
        (61, 0.0484193),  # 2 exp(-2 * 500 * 0.061^2), the other terms are below 1e-6
        (100, 2 * math.exp(-10)),
        (1000, 0.0),
    ],
)
def test_the_p_of_ks_is_kolmogorovs(gap: int, expected: float):
    sample = np.arange(1000.0)
    found, p = analysis.kolmogorov_smirnov(sample, sample + gap)
    assert found == pytest.approx(gap / 1000)
    assert p == pytest.approx(expected, abs=1e-6)


def test_p_grows_as_the_gap_shrinks_and_stays_a_probability():
    sample = np.arange(1000.0)
    found = [analysis.kolmogorov_smirnov(sample, sample + gap)[1] for gap in range(0, 100)]
    assert found == sorted(found, reverse=True)
    assert 0 <= min(found) <= max(found) == 1.0


def test_samples_are_described_over_common_bins():
    real, gibberish = np.array([0.0, 1, 2, 40]), np.array([1.0, 2, 3])
    found = analysis.describe(real, gibberish)
    assert found["edges"] == pytest.approx(list(range(41)))
    assert found["real"]["counts"] == [1, 1, 1, *[0] * 36, 1]  # the last bin holds its end
    assert found["gibberish"]["counts"] == [0, 1, 1, 1, *[0] * 36]
    assert found["real"]["mean"] == pytest.approx(43 / 4)
    assert found["gibberish"]["sd"] == pytest.approx(1.0)
    assert found["overlap"] == pytest.approx(2 * 1 / 4)
    assert found["ks"] == pytest.approx(1 / 4)  # from 0 to 1, and at the end
    assert analysis.describe(real, gibberish) == found


def test_two_samples_of_one_distribution_overlap_as_equals_do():
    rng = np.random.default_rng(3)
    same = analysis.describe(rng.normal(size=1000), rng.normal(size=1000))
    assert same["overlap"] == pytest.approx(same["overlap_of_equals"], abs=0.05)
    assert 0.8 < same["overlap_of_equals"] < 1
    assert same["p"] > 0.01
    apart = analysis.describe(rng.normal(size=1000), rng.normal(size=1000) + 1)
    # Of two normal distributions one standard deviation apart: 2 Phi(-1/2) and 1 - 2 Phi(-1/2).
    assert apart["overlap"] == pytest.approx(0.617, abs=0.05)
    assert apart["ks"] == pytest.approx(0.383, abs=0.05)
    assert apart["p"] < 1e-10


def test_distances_that_are_all_the_same_are_no_trouble():
    found = analysis.describe(np.full(5, 2.0), np.full(5, 2.0))
    assert (found["overlap"], found["ks"], found["p"]) == (1.0, 0.0, 1.0)
