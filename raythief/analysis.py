"""How far gibberish is from real data, seen by a pre-trained encoder (paper, section 4, Figure 2).

The vector of a pair is the maximum over its tokens of the encoder's last layer. Each of some real
pairs, and of as many queries, has a distance to the nearest of all real training pairs. If the two
histograms of these distances overlap, the encoder can hardly tell gibberish from real data by them.

The paper speaks of the "minimum Inner-Product distance" and gives no formula. An inner product is
larger the nearer two vectors are, so it is read here as minus the inner product, of the vectors as
they come; the nearest pair is the one of the largest product. Long vectors are then near to much,
which `cosine` takes away: 1 minus the inner product of vectors of length 1.

The search is exact: every product is reckoned, in 64 bits, block by block on a pool of actors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from raythief import accelerators, models, nli, results, sharding
from raythief.artifacts import WORK, Artifact
from raythief.config import Inference, Resources
from raythief.errors import UserError
from raythief.progress import Tell
from raythief.victims import Forward, number_format
from raythief.wordtable import Texts

Distance = Literal["inner_product", "cosine"]
Vectors = NDArray[np.floating[Any]]

ROWS_PER_SHARD = 8192
"""Training vectors that are one unit of work of the search: 32 MiB of 1,024 numbers each."""
ROWS_PER_BLOCK = 1024
"""Training vectors in one product of matrices: bounds the memory whatever the number of queries."""
BINS = 40
"""Bins of the histograms, of equal width from the smallest to the largest of all distances."""
SHUFFLES = 200
"""Random divisions by which the overlap of two samples of one distribution is found."""

_PAIRS = f"{WORK}/pairs"
_NEAREST = f"{WORK}/nearest"


# --- vectors ----------------------------------------------------------------------------------


def examples(pairs: Artifact) -> pa.Table:
    """All English pairs of a labelled set."""
    return pairs.read_table("en.parquet", ["id", "premise", "hypothesis"])


def sample(pairs: Artifact, count: int, seed: int, name: str) -> pa.Table:
    """Some English pairs of a labelled set, drawn by the seed, in the order of their ids.

    Raises:
        UserError: the set, which the spec calls ``name``, has fewer.
    """
    table = examples(pairs)
    if table.num_rows < count:
        raise UserError(
            f"figure2.count: asks for {count:,} pairs, and evaluation.sets.{name} has "
            f"{table.num_rows:,} in English; lower it, or name another set in figure2.real"
        )
    return table.take(pa.array(nli.nested_subset(table.num_rows, count / table.num_rows, seed)))


def queries(pairs: Artifact, count: int) -> pa.Table:
    """The first queries: each is drawn by its id alone, so that the first are as good as any."""
    return sharding.read(
        pairs, sharding.Shard("", 0, count), columns=["id", "premise", "hypothesis"]
    )


def max_pool(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The largest value of each dimension over the tokens of a row, special ones included.

    Args:
        states: Outputs of an encoder, float, shape [rows, tokens, size].
        lengths: Tokens of each row, int64, shape [rows]; what comes after them is padding.

    Returns:
        float32, shape [rows, size].
    """
    tokens = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    return states.masked_fill(~tokens[..., None], -math.inf).amax(1).float()


class Embedder(Forward):
    """An encoder in this process that turns pairs into vectors."""

    def __init__(self, source: models.Source, inference: Inference, cpus: float) -> None:
        super().__init__(models.encoder, source, inference, cpus)

    @torch.inference_mode()
    def __call__(
        self, premises: Texts, hypotheses: Texts
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Encode pairs.

        Returns:
            One vector a pair, float32, shape [rows, size]; and ``tokens`` (padding not counted)
            and ``device``.
        """
        encoded = self.encode(premises, hypotheses)
        lengths = torch.from_numpy(encoded.lengths).to(self.device)
        found = [  # on the device until the end: no batch waits for the one before
            (rows, max_pool(output.last_hidden_state, lengths[torch.from_numpy(rows)]))
            for rows, output in self.outputs(encoded)
        ]
        vectors = np.zeros((len(encoded), found[0][1].shape[1]), np.float32)
        for rows, pooled in found:
            vectors[rows] = pooled.cpu().numpy()
        statistics = {
            "tokens": int(encoded.lengths.sum()),
            "device": models.name_of(self.device),
        }
        return vectors, statistics


class Embedding(sharding.ShardWorker):
    """An actor with an encoder in it."""

    def __init__(
        self, target: Artifact, source: models.Source, inference: Inference, cpus: float
    ) -> None:
        super().__init__(target)
        self.embed = Embedder(source, inference, cpus)

    def work(self, shard: sharding.Shard) -> tuple[pa.Table, Mapping[str, Any]]:
        """``id`` and ``vector`` of each pair."""
        pairs = self.target.read_table(sharding.Shard(_PAIRS, shard.start, shard.stop).name)
        vectors, statistics = self.embed(pairs["premise"], pairs["hypothesis"])
        return to_table(pairs["id"], vectors), statistics


def embed(
    target: Artifact,
    pairs: pa.Table,
    source: models.Source,
    inference: Inference,
    resources: Resources,
    tell: Tell,
) -> results.Vectors:
    """Write the vector of each pair.

    Args:
        target: Artifact that receives ``id`` and ``vector``, shard by shard.
        pairs: Columns ``id``, ``premise`` and ``hypothesis``.
        source: The encoder.
        inference: Batching and number format.
        resources: Actors.
        tell: Told the rows that are done.
    """
    # Or vectors of two formats would be mixed, where a run goes on on another device.
    begun = target.storage.read_bytes(f"{target.path}/{WORK}/precision")
    chosen = begun.decode() if begun else number_format(inference, resources)
    target.once(f"{WORK}/precision", chosen.encode())
    inference = inference.model_copy(update={"precision": chosen})
    for shard in sharding.cut(pairs.num_rows, inference.rows_per_shard, _PAIRS):
        target.write_table(shard.name, pairs.slice(shard.start, shard.stop - shard.start))
    shards = sharding.cut(pairs.num_rows, inference.rows_per_shard)
    parts = sharding.run(
        Embedding,
        {"source": source, "inference": inference, "cpus": resources.inference.cpus},
        target,
        shards,
        resources.inference,
        resources.restarts,
        tell,
    )
    return results.Vectors(
        pairs=pairs.num_rows,
        tokens=sum(part["tokens"] for part in parts),
        device=parts[0]["device"],
        precision=chosen,
        **sharding.used(resources.inference, len(shards)),
    )


def to_table(ids: Any, vectors: NDArray[np.float32]) -> pa.Table:
    """Vectors, shape [rows, size], as columns ``id`` and ``vector`` (lists of a fixed size)."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.table({"id": ids, "vector": column})


def to_vectors(table: pa.Table) -> NDArray[np.float32]:
    """The vectors of such a table, float32, shape [rows, size]."""
    flat = table["vector"].combine_chunks().flatten().to_numpy()
    return np.array(flat, np.float32).reshape(table.num_rows, -1)


# --- nearest ----------------------------------------------------------------------------------


def nearest(
    wanted: Vectors, given: Vectors, ids: NDArray[np.int64], block: int = ROWS_PER_BLOCK
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The largest inner product of each wanted vector with any of the given ones.

    Products are reckoned in 64 bits and rounded to 32, so that neither blocks nor devices show in
    them. Of equal products the first counts.

    Args:
        wanted: Shape [rows, size].
        given: Shape [others, size], at least one.
        ids: Ids of the given vectors, shape [others].
        block: Given vectors that are compared at once.

    Returns:
        The products, shape [rows], and whose they are, shape [rows].
    """
    device = accelerators.device()
    rows = torch.from_numpy(wanted).to(device, torch.float64)
    best = torch.full((len(rows),), -math.inf, dtype=torch.float32, device=device)
    place = torch.zeros(len(rows), dtype=torch.int64, device=device)
    for start in range(0, len(given), block):
        others = torch.from_numpy(given[start : start + block]).to(device, torch.float64)
        top, where = (rows @ others.T).float().max(1)  # the first of equals
        better = top > best
        best = torch.where(better, top, best)
        place = torch.where(better, where + start, place)
    return best.cpu().numpy(), ids[place.cpu().numpy()]


def unit(vectors: Vectors) -> NDArray[np.float64]:
    """The vectors brought to length 1, in 64 bits."""
    exact = vectors.astype(np.float64)
    found: NDArray[np.float64] = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    return found


class Nearest(sharding.ShardWorker):
    """An actor that holds all wanted vectors and goes through the training vectors.

    Its shards are numbers of pieces of the training vectors, of ``rows`` rows each.
    """

    def __init__(
        self,
        target: Artifact,
        train: Artifact,
        wanted: Sequence[Artifact],
        distance: Distance,
        rows: int,
        cpus: float,
    ) -> None:
        super().__init__(target)
        torch.set_num_threads(max(1, int(cpus)))
        self.train, self.distance = train, distance
        self.rows, self.count = rows, _rows(train)
        self.wanted = np.concatenate([self._vectors(each.read_table()) for each in wanted])

    def work(self, shard: sharding.Shard) -> tuple[pa.Table, Mapping[str, Any]]:
        """One row: of each wanted vector the largest ``product`` and the ``nearest`` id, lists."""
        start = shard.start * self.rows
        piece = sharding.Shard("", start, min(start + self.rows, self.count))
        table = sharding.read(self.train, piece)
        found, ids = nearest(self.wanted, self._vectors(table), table["id"].to_numpy())
        row = pa.table({"product": to_lists(found), "nearest": to_lists(ids)})
        return row, {"device": models.name_of(accelerators.device())}

    def _vectors(self, table: pa.Table) -> Vectors:
        vectors = to_vectors(table)
        return unit(vectors) if self.distance == "cosine" else vectors


def to_lists(values: NDArray[Any]) -> pa.Array:
    """Numbers as a column of one row, a list."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values), len(values))


def compare(
    target: Artifact,
    train: Artifact,
    real: Artifact,
    gibberish: Artifact,
    distance: Distance,
    resources: Resources,
    tell: Tell,
) -> results.Distances:
    """Measure how far real pairs and queries are from the nearest training pair.

    Args:
        target: Artifact that receives ``real.parquet`` and ``gibberish.parquet``: ``id``,
            ``distance`` and the id of the ``nearest`` training pair.
        train: Vectors of the training pairs.
        real: Vectors of other real pairs.
        gibberish: Vectors of queries.
        distance: How far two vectors are from each other.
        resources: Actors.
        tell: Told the pieces of the training vectors that are done.

    Returns:
        What ``describe`` finds, ``train`` (pairs that were searched), ``distance`` and ``device``.
    """
    count = _rows(train)
    shards = sharding.cut(-(-count // ROWS_PER_SHARD), 1, f"{_NEAREST}-{ROWS_PER_SHARD}")
    parts = sharding.run(
        Nearest,
        {
            "train": train,
            "wanted": (real, gibberish),
            "distance": distance,
            "rows": ROWS_PER_SHARD,
            "cpus": resources.inference.cpus,
        },
        target,
        shards,
        resources.inference,
        resources.restarts,
        lambda done, total, note="": tell(done, total),  # a rate of pieces tells nothing
    )
    tables = [target.read_table(shard.name) for shard in shards]
    products, ids = (
        np.stack([table[name].combine_chunks().flatten().to_numpy() for table in tables])
        for name in ("product", "nearest")
    )
    best = products.argmax(0)  # the first of equals, which has the lowest id
    everyone = np.arange(products.shape[1])
    products, ids = products[best, everyone], ids[best, everyone]
    found = 1 - products if distance == "cosine" else -products
    distances, start = {}, 0
    for name, vectors in (("real", real), ("gibberish", gibberish)):
        asked = vectors.read_table(columns=["id"])["id"]
        own = slice(start, start + len(asked))
        target.write_table(
            f"{name}.parquet",
            pa.table({"id": asked, "distance": found[own], "nearest": ids[own]}),
        )
        distances[name], start = found[own], own.stop
    return results.Distances(
        train=count,
        distance=distance,
        device=parts[0]["device"],
        **sharding.used(resources.inference, len(shards)),
        **describe(distances["real"], distances["gibberish"]),
    )


def _rows(artifact: Artifact) -> int:
    """Rows of an artifact, as the names of its shards tell."""
    return max(sharding.Shard.named(name).stop for name in artifact.tables())


# --- statistics -------------------------------------------------------------------------------


def describe(real: Vectors, gibberish: Vectors) -> dict[str, Any]:
    """Two samples of distances beside each other.

    Returns:
        ``edges`` of the bins; of ``real`` and ``gibberish`` each ``count``, ``mean``, ``sd`` and
        ``counts`` by bin; their ``overlap``, and ``overlap_of_equals``: the mean overlap when the
        distances are divided at random, which is below 1 as samples are finite; and the statistic
        ``ks`` of Kolmogorov and Smirnov with its ``p``.
    """
    samples = {"real": real.astype(np.float64), "gibberish": gibberish.astype(np.float64)}
    pooled = np.concatenate(list(samples.values()))
    edges = np.histogram_bin_edges(pooled, BINS)
    counts = {name: np.histogram(values, edges)[0] for name, values in samples.items()}
    rng = np.random.default_rng(0)  # told in the manifest, so it must not differ from run to run
    chance = []
    for _ in range(SHUFFLES):
        mixed = rng.permutation(pooled)
        halves = mixed[: len(real)], mixed[len(real) :]
        chance.append(overlap(*(np.histogram(half, edges)[0] for half in halves)))
    ks, p = kolmogorov_smirnov(samples["real"], samples["gibberish"])
    return {
        "edges": edges.tolist(),
        **{
            name: {
                "count": len(values),
                "mean": float(values.mean()),
                "sd": float(values.std(ddof=1)),
                "counts": counts[name].tolist(),
            }
            for name, values in samples.items()
        },
        "overlap": overlap(counts["real"], counts["gibberish"]),
        "overlap_of_equals": float(np.mean(chance)),
        "ks": ks,
        "p": p,
    }


def overlap(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Overlap coefficient of two histograms with common bins, 0 to 1.

    It is the sum over the bins of the smaller of the two shares: what two histograms of area 1
    have in common. Narrower bins make it smaller.
    """
    return float(np.minimum(first / first.sum(), second / second.sum()).sum())


def kolmogorov_smirnov(first: Vectors, second: Vectors) -> tuple[float, float]:
    """The two-sample test: do two samples come from one distribution?

    Returns:
        The largest difference between the two empirical distribution functions, 0 to 1; and the
        probability of one as large if they do, by the limit of Kolmogorov 1933 for large samples.
    """
    everywhere = np.concatenate([first, second])
    ours, theirs = (
        np.searchsorted(np.sort(values), everywhere, side="right") / len(values)
        for values in (first, second)
    )
    largest = float(np.abs(ours - theirs).max())
    size = len(first) * len(second) / (len(first) + len(second))
    scaled = math.sqrt(size) * largest
    if scaled < 0.2:  # 1 but for less than 1e-12, and the series would need many terms
        return largest, 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return largest, min(1.0, max(0.0, sum(terms)))
