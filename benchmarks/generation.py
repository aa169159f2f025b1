"""Pairs of gibberish per second, beside a plain Python loop that does the same.

    python benchmarks/generation.py [--text FILE.parquet] [--pairs PAIRS]

Words and sentence lengths are those of the column ``text`` of a parquet file of WikiText, cleaned
as the pipeline cleans it. Without one they are made up: 267,000 words, as many as WikiText-103
has, with lengths of words and sentences as measured on its validation set (of 2,461 paragraphs:
7.2 letters a word of the vocabulary, 25 words a sentence). A large vocabulary costs both sides
more, for its words lie outside the caches.

The loop is what a plain program would be: `random.Random` seeded for each row, so that rows are
functions of their id as ours are, `choices` and `sample` of the standard library, joined words,
and an Arrow table at the end. (NumPy's `default_rng([seed, row])` in its place takes twice as
long.) A query is a list of word numbers (labelling with a model of one's own needs no more), and
the first pair of figures is for those; the second is for the same with text made of them.

Both sides take turns on one core, and their processor time is counted, so that other work on the
machine disturbs them alike. The last line is one JSON object: `ratio_to_python` (word numbers),
`ratio_to_python_text`, and `seconds_392702`, by the clock, for the paper's whole set with its text,
written to parquet as the pipeline writes it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raythief import config, corpora, queries
from raythief.artifacts import Storage
from raythief.vocabulary import Counts, Distribution, restrict

PAPER = 392_702
FILE = 16_384
"""Pairs in each of the pipeline's files."""
TURN = 2_048
"""Pairs that the loop makes in its turn; ours makes a file of them."""
SEED = 0


def synthetic(words: int = 267_000) -> Distribution:
    """A vocabulary of made-up words whose lengths and sentence lengths are like WikiText's."""
    rng = np.random.default_rng(0)
    letters = list("etaoinshrdlucmfwypvbgkjqxz")
    made = ("".join(rng.choice(letters, size)) for size in 1 + rng.poisson(6.2, words))
    lengths = np.arange(corpora.SHORTEST, config.Vocabulary().max_words + 1)
    weights = np.exp(-((np.log(lengths) - 3.12) ** 2) / (2 * 0.233)) / lengths  # log-normal
    counts = (weights / weights.sum() * 1e6).astype(np.int64)
    return Distribution(tuple(made), np.ones(words, np.int64), lengths, counts)


def measured(file: Path) -> Distribution:
    """Words and sentence lengths of a text."""
    text = pq.read_table(file)["text"].to_pylist()
    sentences = corpora.sentences(text, config.HubCorpus().cleaning)
    return restrict(Counts.of(sentences), config.Vocabulary())


def loop(
    words: Sequence[Any], source: Distribution, start: int, stop: int
) -> Iterator[tuple[list[Any], list[Any]]]:
    """Premise and hypothesis of each row, one row after another."""
    lengths = source.lengths.tolist()
    cumulative = list(itertools.accumulate(source.length_counts.tolist()))
    replaced = config.Queries().replaced_words
    for row in range(start, stop):
        rng = random.Random(SEED << 64 | row)
        [length] = rng.choices(lengths, cum_weights=cumulative)
        hypothesis = rng.choices(words, k=length)
        premise = hypothesis.copy()
        for place in rng.sample(range(length), min(replaced, length)):
            premise[place] = rng.choice(words)
        yield premise, hypothesis


def plain_text(source: Distribution, start: int, stop: int) -> pa.Table:
    """The loop's table of pairs."""
    premises, hypotheses = [], []
    for premise, hypothesis in loop(source.words, source, start, stop):
        premises.append(" ".join(premise))
        hypotheses.append(" ".join(hypothesis))
    return pa.table({"id": range(start, stop), "premise": premises, "hypothesis": hypotheses})


def plain_numbers(source: Distribution, start: int, stop: int) -> list[tuple[list[int], list[int]]]:
    """The loop's pairs as indices of words."""
    return list(loop(range(len(source.words)), source, start, stop))


def our_text(source: Distribution, start: int, stop: int) -> pa.Table:
    """Our table of pairs."""
    return queries.generate(source, config.Vocabulary(), config.Queries(), SEED, start, stop)


def our_numbers(source: Distribution, start: int, stop: int) -> list[queries.Drawn]:
    """Our pairs as indices of words."""
    blocks = range(start // queries.BLOCK, stop // queries.BLOCK)
    how = config.Vocabulary(), config.Queries(), SEED
    return [queries.draw(source, *how, block) for block in blocks]


def rates(
    source: Distribution, pairs: int, plain: Callable[..., Any], ours: Callable[..., Any]
) -> tuple[float, float]:
    """Pairs per second of processor time, the loop's and ours, taking turns."""
    seconds = [0.0, 0.0]
    turns = range(0, pairs, FILE)
    for start in turns:
        for side, (make, stop) in enumerate(((plain, start + TURN), (ours, start + FILE))):
            started = time.process_time()
            make(source, start, stop)
            seconds[side] += time.process_time() - started
    return len(turns) * TURN / seconds[0], len(turns) * FILE / seconds[1]


def write(source: Distribution) -> float:
    """Seconds by the clock for the paper's set, from nothing to files."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        target = Storage.at(folder).artifact("queries", "benchmark")
        for start in range(0, PAPER, FILE):
            stop = min(start + FILE, PAPER)
            target.write_table(f"{start}.parquet", our_text(source, start, stop))
    return time.perf_counter() - started


def main() -> None:
    """Time text, numbers and the paper's set."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=Path, help="parquet file of WikiText, column text")
    parser.add_argument("--pairs", type=int, default=40 * FILE, help="pairs of ours to time")
    asked = parser.parse_args()
    pa.set_cpu_count(1)
    source = measured(asked.text) if asked.text else synthetic()
    our_text(source, 0, 10)  # the word array is made once a worker

    figures: dict[str, Any] = {"words": len(source.words)}
    for what, plain, ours in (("", plain_numbers, our_numbers), ("_text", plain_text, our_text)):
        theirs, mine = rates(source, asked.pairs, plain, ours)
        print(f"{what.strip('_') or 'numbers'}: plain loop {theirs:,.0f} pairs/s, ours {mine:,.0f}")
        figures |= {
            f"pairs_per_second{what}": round(mine),
            f"pairs_per_second_python{what}": round(theirs),
            f"ratio_to_python{what}": round(mine / theirs, 1),
        }
    figures["seconds_392702"] = round(write(source), 2)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
