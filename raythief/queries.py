"""Queries: gibberish premise/hypothesis pairs, each a pure function of (seed, id, vocabulary).

    table = generate(distribution, spec.vocabulary, spec.queries, seed, start=0, stop=2048)

Any worker can make any rows in any order: row ``id`` is the same whatever range it is asked for in.
The recipe is the paper's (section 2): "For the hypothesis, we generate sentences of random length
by sampling words uniformly from the word-level vocabulary of WikiText-103. [...] For the premise,
we randomly swap three words of the hypothesis for random words leaving the rest identical."

Where the numbers come from. Rows are made in blocks of 4096, and each block has a generator of its
own: PCG64DXSM, seeded through ``SeedSequence`` with the seed and the block's number, as NumPy
advises for streams that run in parallel. It promises that neither ever changes. From its bits come
the lengths of all rows, then the words of all hypotheses, then positions and replacements: a spec
that differs only in ``replaced_words`` or ``positions`` keeps its hypotheses.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raythief import config
from raythief.vocabulary import Distribution

SCHEMA = pa.schema([("id", pa.int64()), ("premise", pa.string()), ("hypothesis", pa.string())])

BLOCK = 4096
"""Rows made at once. A part of the recipe: another number makes other queries."""

Bits = NDArray[np.uint32]
Integers = NDArray[np.int64]


def generate(
    distribution: Distribution,
    vocabulary: config.Vocabulary,
    queries: config.Queries,
    seed: int,
    start: int,
    stop: int,
) -> pa.Table:
    """Make the queries with ids ``start`` to ``stop - 1``.

    A word drawn as a replacement may by chance be the word that was there, as in Krishna et al.'s
    script; such a pair differs in one place fewer. A sentence shorter than
    ``queries.replaced_words`` gets all its words replaced, whatever ``queries.positions`` says.
    Whole blocks are made, so a range that starts and ends with one is the fastest.

    Args:
        distribution: Words and lengths to draw from.
        vocabulary: Only ``sampling`` is read; the rest has shaped ``distribution``.
        queries: ``replaced_words`` and ``positions`` are read.
        seed: Seed of the queries, 0 or more.
        start: First id, 0 or more.
        stop: Id after the last.

    Returns:
        Columns ``id`` (int64), ``premise`` and ``hypothesis`` (string), ordered by id.
    """
    batches = []
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        ids = np.arange(block * BLOCK, (block + 1) * BLOCK)
        texts = _texts(distribution, draw(distribution, vocabulary, queries, seed, block))
        first, last = max(start, ids[0]), min(stop, ids[-1] + 1)
        batch = pa.record_batch([pa.array(ids), *texts], schema=SCHEMA)
        batches.append(batch.slice(first - ids[0], last - first))
    return pa.Table.from_batches(batches, SCHEMA)


# --- words as numbers -------------------------------------------------------------------------


class Drawn(NamedTuple):
    """A block of pairs as indices into the vocabulary's words, sentence after sentence."""

    offsets: Integers
    """Sentence ``i`` of either side is ``offsets[i]`` to ``offsets[i + 1]``, shape (rows + 1,)."""
    hypothesis: Integers
    """Indices of words, shape (words,)."""
    premise: Integers
    """Indices of words, shape (words,)."""
    replaced: Integers
    """Where the premise got another word, shape (replaced words, rows)."""


def draw(
    distribution: Distribution,
    vocabulary: config.Vocabulary,
    queries: config.Queries,
    seed: int,
    block: int,
) -> Drawn:
    """Draw the words of the rows ``block * BLOCK`` to ``(block + 1) * BLOCK - 1``."""
    source = np.random.PCG64DXSM(np.random.SeedSequence(seed, spawn_key=(block,)))
    lengths = distribution.lengths[_weighted(_bits(source, BLOCK), distribution.length_counts)]
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    hypothesis = _words(_bits(source, int(offsets[-1])), distribution, vocabulary)

    longest = int(distribution.lengths[-1])
    count = min(queries.replaced_words, longest + 1)  # more replace no more than that does
    choose = _distinct if queries.positions == "distinct" else _with_replacement
    replaced = offsets[:-1] + choose(_bits(source, count * BLOCK).reshape(count, BLOCK), lengths)
    substitutes = _words(_bits(source, count * BLOCK), distribution, vocabulary)

    premise = hypothesis.copy()
    for places, words in zip(replaced, substitutes.reshape(count, BLOCK), strict=True):
        premise[places] = words  # in turn: of two words at one position the later one stays
    return Drawn(offsets, hypothesis, premise, replaced)


def _bits(source: np.random.BitGenerator, count: int) -> Bits:
    """``count`` random 32-bit integers: the halves of 64-bit ones, the lower half first."""
    raw = np.asarray(source.random_raw(-(-count // 2)), np.dtype("<u8"))
    return raw.view(np.dtype("<u4"))[:count]


def _below(bits: Bits, bound: int | Integers) -> Integers:
    """Integers from 0 to ``bound - 1``: ``bits * bound // 2**32``.

    Of the 2**32 values of ``bits`` each integer gets the same number or one more, so probabilities
    differ by a share of bound / 2**32 at most, 6e-5 for WikiText-103's 267,000 words. Among the 10
    million words of the paper's hypotheses that shifts a word's expected count of 37 by 0.002 at
    most, where chance alone shifts it by 6. Float64 holds the product exactly up to 2**21 words,
    and never rounds it up to ``bound``.
    """
    return (bits * (bound * 2.0**-32)).astype(np.int64)


def _weighted(bits: Bits, weights: Integers) -> Integers:
    """Indices into ``weights``, each as likely as its weight says, to within 2**-32."""
    ends = np.cumsum(weights)
    bounds = (ends[:-1] * (2.0**32 / ends[-1])).astype(np.uint32)
    return np.searchsorted(bounds, bits, side="right")


def _words(bits: Bits, distribution: Distribution, vocabulary: config.Vocabulary) -> Integers:
    """Indices of words, one for each of ``bits``."""
    if vocabulary.sampling == "uniform":
        return _below(bits, len(distribution.words))
    return _weighted(bits, distribution.word_counts)


def _distinct(bits: Bits, lengths: Integers) -> Integers:
    """Positions that do not repeat, each set of them as likely as the others.

    Floyd's algorithm: the last ``count`` positions of a sentence have a turn each. In its turn any
    position up to it is drawn; if that was chosen before, it is chosen itself. A sentence with
    fewer positions has its first chosen until theirs come.

    Returns:
        Position for each of ``bits``, shape (count, rows).
    """
    count = len(bits)
    positions = np.empty(bits.shape, np.int64)
    for step in range(count):
        turn = np.maximum(lengths - count + step, 0)
        drawn = _below(bits[step], turn + 1)
        taken = (positions[:step] == drawn).any(axis=0)
        positions[step] = np.where(taken, turn, drawn)
    return positions


def _with_replacement(bits: Bits, lengths: Integers) -> Integers:
    """Positions drawn independently, except where there are too few: then each of them.

    Returns:
        Position for each of ``bits``, shape (count, rows).
    """
    count = len(bits)
    each = np.minimum(np.arange(count)[:, None], lengths - 1)
    return np.where(lengths < count, each, _below(bits, lengths))


# --- text -------------------------------------------------------------------------------------


def _texts(distribution: Distribution, drawn: Drawn) -> list[Any]:
    """Premises and hypotheses as Arrow strings."""
    (spaced, plain), long = _forms(distribution)
    offsets, hypothesis, premise, replaced = drawn
    ends = offsets[1:] - 1

    words = spaced.take(hypothesis)
    words[ends] = plain[hypothesis[ends]]
    hypotheses = _strings(words, long, offsets)
    words[replaced] = spaced[premise[replaced]]  # all others are the hypothesis's
    words[ends] = plain[premise[ends]]
    return [_strings(words, long, offsets), hypotheses]


@lru_cache(maxsize=1)
def _forms(distribution: Distribution) -> tuple[NDArray[np.void], list[Any]]:
    """The words as Arrow's string views: each with a space after it, and each without.

    A view is 16 bytes that hold a short string (as most words are) or tell where a long one lies.
    NumPy moves them as they are, which is several times as fast as moving strings.

    Returns:
        The views, shape (2, words), and the buffers that hold the long ones.
    """
    np.empty(2**24, np.uint8)  # freed at once: from then on glibc keeps blocks' memory for the next
    plain = distribution.word_array
    spaced = pc.binary_join_element_wise(plain, "", " ")
    _, views, *long = pa.concat_arrays([spaced, plain]).cast(pa.string_view()).buffers()
    return np.frombuffer(views, np.dtype("V16")).reshape(2, -1), long


def _strings(words: NDArray[np.void], long: list[Any], offsets: Integers) -> Any:
    """Arrow strings: sentence ``i`` is the words ``offsets[i]`` to ``offsets[i + 1]``.

    Nothing is joined: words bring their spaces along, so the text of all words, one after the
    other, is that of all sentences. It only remains to tell where these begin.
    """
    buffers = [None, pa.py_buffer(words), *long]
    views = pa.Array.from_buffers(pa.string_view(), len(words), buffers)
    _, starts, text = views.cast(pa.string()).buffers()
    starts = np.frombuffer(starts, np.int32)[offsets]
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(starts), text)
