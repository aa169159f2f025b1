"""The vocabulary: what queries are drawn from, namely a corpus's words and sentence lengths.

    counts = sum((Counts.of(shard) for shard in shards), Counts())
    distribution = restrict(counts, spec.vocabulary)

The paper (section 2) draws words "uniformly from the word-level vocabulary of WikiText-103" and
lengths from "the distribution of lengths in WikiText-103". That vocabulary leaves out words seen
fewer than three times, which are most words of any text: under uniform sampling ``min_count``
decides what most draws are. Counts of shards add up to the counts of the whole, in whatever way and
order it was cut.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raythief import config
from raythief.errors import UserError


@dataclass(frozen=True)
class Counts:
    """How often each word and each sentence length occurs in some sentences."""

    words: Mapping[str, int] = field(default_factory=dict)
    """Occurrences of each word, cased."""
    lengths: Mapping[int, int] = field(default_factory=dict)
    """Sentences of each length in words."""

    @classmethod
    def of(cls, sentences: Iterable[str]) -> Counts:
        """Count sentences whose words are separated by single spaces, as ``corpora`` has them."""
        words: Counter[str] = Counter()
        lengths: Counter[int] = Counter()
        for sentence in sentences:
            tokens = sentence.split(" ")
            words.update(tokens)
            lengths[len(tokens)] += 1
        return cls(dict(words), dict(lengths))

    def __add__(self, other: Counts) -> Counts:
        words, lengths = Counter(self.words), Counter(self.lengths)
        words.update(other.words)
        lengths.update(other.lengths)
        return Counts(dict(words), dict(lengths))


@dataclass(frozen=True, eq=False)
class Distribution:
    """Words and sentence lengths with their counts: what queries are drawn from."""

    words: tuple[str, ...]
    """Words, the most frequent first, equals in the order of their code points."""
    word_counts: NDArray[np.int64]
    """Occurrences of each word, shape (words,)."""
    lengths: NDArray[np.int64]
    """Sentence lengths in words, ascending, shape (lengths,)."""
    length_counts: NDArray[np.int64]
    """Sentences of each length, shape (lengths,)."""

    def to_tables(self) -> tuple[pa.Table, pa.Table]:
        """Tables of words (``word`` string, ``count`` int64) and lengths (both int64)."""
        words = pa.table({"word": self.word_array, "count": self.word_counts})
        lengths = pa.table({"length": self.lengths, "count": self.length_counts})
        return words, lengths

    @classmethod
    def from_tables(cls, words: pa.Table, lengths: pa.Table) -> Distribution:
        """The distribution that ``to_tables`` wrote."""
        return cls(
            words=tuple(words["word"].to_pylist()),
            word_counts=words["count"].to_numpy(),
            lengths=lengths["length"].to_numpy(),
            length_counts=lengths["count"].to_numpy(),
        )

    @cached_property
    def word_array(self) -> Any:
        """The words as an Arrow string array, from which sentences are built fast."""
        return pa.array(self.words, pa.string())


def restrict(counts: Counts, config: config.Vocabulary) -> Distribution:
    """Keep the words and lengths that queries may have.

    Words that hold a special token of an encoder are dropped first, so that ``top_k`` counts words
    that are really drawn.

    Raises:
        UserError: nothing is left; it names the field that took the last word or length.
    """
    usable = {word: count for word, count in counts.words.items() if is_usable(word)}
    if not usable:
        raise UserError("corpus: no word is left in it after cleaning")
    frequent = [(word, count) for word, count in usable.items() if count >= config.min_count]
    if not frequent:
        most = max(usable.values())
        raise UserError(
            f"vocabulary.min_count: no word occurs {config.min_count} times; the most frequent "
            f"occurs {most} times"
        )
    lengths = sorted(item for item in counts.lengths.items() if 0 < item[0] <= config.max_words)
    if not lengths:
        raise UserError(
            f"vocabulary.max_words: no sentence has {config.max_words} words or fewer; the "
            f"shortest has {min(counts.lengths)}"
        )
    frequent.sort(key=lambda item: (-item[1], item[0]))
    kept = frequent[: config.top_k]
    return Distribution(
        words=tuple(word for word, _ in kept),
        word_counts=np.array([count for _, count in kept], np.int64),
        lengths=np.array([length for length, _ in lengths], np.int64),
        length_counts=np.array([count for _, count in lengths], np.int64),
    )


# Tokenizers find these in running text, inside words too, and read them as control tokens: a `</s>`
# would end the premise in its middle. BERT, RoBERTa, XLM-R; the last two of T5 and GPT-2.
_SPECIAL_TOKEN = re.compile(
    r"</?s>|<(?:unk|pad|mask|cls|sep|bos|eos)>|\[(?:CLS|SEP|PAD|MASK|UNK)\]|<\|.*\|>|<extra[^>]*>",
    re.IGNORECASE,
)


def is_usable(word: str) -> bool:
    """Whether a word reaches any encoder as the one plain word it looks like.

    That rules out special tokens (as a part of the word too), whitespace, and characters that are
    not printable (control, format, private, surrogate), which tokenizers drop or split at.
    """
    return (
        word != ""
        and word.isprintable()
        and " " not in word
        and _SPECIAL_TOKEN.search(word) is None
    )


def most_common_only_in(ours: Sequence[str], others: Sequence[str], count: int = 20) -> list[str]:
    """The ``count`` first of our words that the others lack; both the most frequent first.

    Words of every text, such as ``the``, are in both and so drop out; tokens that are not all
    letters (``"``, ``'s``, ``2013``) are passed over. Of large corpora compare the most frequent
    words only, for each holds nearly every common word somewhere. With such words the paper
    (section 4) shows how far CORD-19 is from WikiText-103.
    """
    known = set(others)
    own = (word for word in ours if word not in known and all(map(_is_letter, word)))
    return list(islice(own, count))


def _is_letter(character: str) -> bool:
    """Vowel signs count, too: without them few words of Hindi or Thai were all letters."""
    return character.isalpha() or unicodedata.category(character).startswith("M")
