"""Gibberish -> token ids without a tokenizer: a word's ids are looked up, not worked out.

    encoder = PairEncoder(tokenizer, distribution.word_array, max_tokens)
    encoded = encoder(rows["premise"], rows["hypothesis"])

Gibberish is words of a known vocabulary joined by single spaces. Most tokenizers split text at
spaces before anything else, so what they make of a word depends on the word, and on whether it
begins the sentence, but on nothing else. Then a sentence's ids are its words' ids one after the
other. The results are exactly those of ``encoding.encode``: words for which the above does not
hold are found when the table is built, and rows that have one go to the tokenizer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from raythief.encoding import Encoded, encode

log = logging.getLogger(__name__)

Texts = Any
"""Strings: a sequence, an Arrow array or a chunked Arrow array; nulls are not allowed."""
Integers = NDArray[np.int64]

NEIGHBOURS = ("a", "7", ".")
"""Words of three kinds (letter, digit, punctuation) between which every word is tried out."""
_BLOCK = 16
"""Words that are tried out in one sentence."""
_TEXTS = 8192
"""Texts that the tokenizer gets at once while a table is built."""
_CHECKED_ROWS = 256
"""Rows that a table and the tokenizer both encode before the table is trusted."""
_LEAST_SHARE = 0.5
"""Share of the words that a table must know: below, most rows would go to the tokenizer anyway."""


class PairEncoder:
    """Encodes pairs by table where that gives the tokenizer's own result, else by tokenizer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, words: Texts | None, max_tokens: int
    ) -> None:
        """Build the table, if any.

        Args:
            tokenizer: A fast tokenizer.
            words: The words that the texts consist of; None for texts of any other kind, which
                always go to the tokenizer.
            max_tokens: Length to which pairs are cut, see ``encoding.encode``.
        """
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._table = None if words is None else WordTable.build(tokenizer, words)
        self._unchecked = _CHECKED_ROWS
        if self._table is not None and self._table.share < _LEAST_SHARE:
            self._give_up("encodes words differently next to other words")

    @property
    def used(self) -> Literal["table", "tokenizer"]:
        """What encodes the pairs. It may change once, from table to tokenizer."""
        return "tokenizer" if self._table is None else "table"

    def __call__(self, premises: Texts, hypotheses: Texts) -> Encoded:
        """Encode pairs, with the result of ``encoding.encode``.

        The first pairs are also encoded by the tokenizer. If the results differ, the table is
        given up, with a warning.
        """
        checked = min(self._unchecked, len(premises))
        if self._table is not None and checked:
            self._unchecked -= checked
            if not self._table.agrees(premises[:checked], hypotheses[:checked], self.max_tokens):
                self._give_up("encodes some queries otherwise than word by word")
        if self._table is not None:
            return self._table.encode(premises, hypotheses, self.max_tokens)
        return encode(self.tokenizer, _list(premises), _list(hypotheses), self.max_tokens)

    def _give_up(self, reason: str) -> None:
        self._table = None
        log.warning(
            "%s (%s) %s: every query is tokenised, which is slower but no less exact",
            type(self.tokenizer).__name__,
            self.tokenizer.name_or_path or "no name",
            reason,
        )


# --- table ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class WordTable:
    """Token ids of words, as a sentence's first word and as a later one."""

    tokenizer: PreTrainedTokenizerBase
    """Encodes the rows that the table cannot."""
    words: Any
    """Words that the table knows, an Arrow large_string array."""
    ids: NDArray[np.int32]
    """Token ids of all entries, shape [tokens]. Entry i is word i where it is a later word."""
    offsets: Integers
    """Where entries begin in ``ids``, shape [entries + 1]."""
    first: int
    """Entry of word 0 where it is the first word; 0 if position makes no difference to any word."""
    template: Template
    """What surrounds the sentences of a pair."""
    share: float
    """Share of the given words that the table knows, 0 to 1."""

    @classmethod
    def build(cls, tokenizer: PreTrainedTokenizerBase, words: Texts) -> WordTable:
        """Tokenise each word as a first word and as a later one.

        Words that may depend on their neighbours are left out. That goes for all words if the
        tokenizer looks for tokens that reach across spaces.

        Args:
            tokenizer: A fast tokenizer.
            words: Words without spaces, a sequence or an Arrow string array.
        """
        given = dict.fromkeys(_list(words))
        template = Template.of(tokenizer) if tokenizer.is_fast else None
        usable = template is not None and _splits_at_spaces(tokenizer)
        plain = [word for word in given if _plain(word)] if usable else []
        known, later, alone = _independent(tokenizer, plain)
        rows = later if later == alone else later + alone
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(
            tokenizer=tokenizer,
            words=pa.array(known, pa.large_string()),
            ids=np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())),
            offsets=_offsets(lengths),
            first=len(rows) - len(known),
            template=template or Template.empty(),
            share=len(known) / max(1, len(given)),
        )

    def agrees(self, premises: Texts, hypotheses: Texts, max_tokens: int) -> bool:
        """Whether the table gives the tokenizer's result for these pairs."""
        found = self.encode(premises, hypotheses, max_tokens)
        expected = encode(self.tokenizer, _list(premises), _list(hypotheses), max_tokens)
        same_types = (
            found.types is None
            or expected.types is None
            or np.array_equal(found.types, expected.types)
        )
        return (
            same_types
            and np.array_equal(found.ids, expected.ids)
            and np.array_equal(found.offsets, expected.offsets)
        )

    def encode(self, premises: Texts, hypotheses: Texts, max_tokens: int) -> Encoded:
        """Encode pairs, with the result of ``encoding.encode``."""
        rows = len(premises)
        sentences = pa.concat_arrays([_strings(premises), _strings(hypotheses)])
        tokens, lengths, known = self._look_up(sentences)
        starts = (np.cumsum(lengths) - lengths).reshape(2, rows)
        lengths, known = lengths.reshape(2, rows), known.reshape(2, rows)

        room = max_tokens - len(self.template.ids)
        kept = longest_first(lengths, max(0, room))
        if self.tokenizer.truncation_side == "left":
            starts += lengths - kept
        by_table = known.all(0) & (room >= 0)  # what to do without room is the tokenizer's choice
        others = np.flatnonzero(~by_table)
        rest = encode(
            self.tokenizer,
            sentences.take(pa.array(others)).to_pylist(),
            sentences.take(pa.array(others + rows)).to_pylist(),
            max_tokens,
        )

        # A row has six pieces. By table: special tokens and sentences in turn, and the last piece
        # is empty. By the tokenizer: everything is in the last piece.
        piece_starts = np.zeros((rows, 6), np.int64)
        piece_lengths = np.zeros((rows, 6), np.int64)
        piece_starts[:, [0, 2, 4]] = len(tokens) + self.template.offsets[:-1]
        piece_lengths[:, [0, 2, 4]] = np.diff(self.template.offsets)
        piece_starts[:, [1, 3]] = starts.T
        piece_lengths[:, [1, 3]] = kept.T
        piece_lengths[~by_table] = 0
        piece_starts[others, 5] = len(tokens) + len(self.template.ids) + rest.offsets[:-1]
        piece_lengths[others, 5] = rest.lengths

        places = _ranges(piece_starts.ravel(), piece_lengths.ravel())
        types = None
        if rest.types is not None:
            boundary = int(lengths[0].sum())
            sides = np.repeat(self.template.sides, [boundary, len(tokens) - boundary])
            types = np.concatenate([sides, self.template.types, rest.types])[places]
        return Encoded(
            ids=np.concatenate([tokens, self.template.ids, rest.ids])[places],
            types=types,
            offsets=_offsets(piece_lengths.sum(1)),
            pad=rest.pad,
        )

    def _look_up(self, sentences: Any) -> tuple[NDArray[np.int32], Integers, NDArray[np.bool_]]:
        """Ids of sentences.

        Returns:
            Their tokens, flat; the number of tokens of each sentence; whether all its words are
            known. The tokens of a sentence with unknown words are those of its other words.
        """
        split = pc.split_pattern(sentences, " ")
        counts = pc.list_value_length(split).to_numpy().astype(np.int64)
        starts = np.cumsum(counts) - counts  # of sentences; each has a word, if an empty one
        found = pc.index_in(split.flatten(), value_set=self.words)
        entries = found.fill_null(-1).to_numpy().astype(np.int64)
        unknown = entries < 0
        entries[starts] += self.first
        lengths = np.where(unknown, 0, self.offsets[entries + 1] - self.offsets[entries])
        tokens = self.ids[_ranges(self.offsets[entries], lengths)]
        return tokens, np.add.reduceat(lengths, starts), ~np.logical_or.reduceat(unknown, starts)


@dataclass(frozen=True, eq=False)
class Template:
    """The special tokens of a pair: before the premise, between the two, after the hypothesis."""

    ids: NDArray[np.int32]
    """Special tokens of all three places, shape [tokens]."""
    types: NDArray[np.int8]
    """Their segments, shape [tokens]."""
    offsets: Integers
    """Where the places begin, shape [4]."""
    sides: NDArray[np.int8]
    """Segment of the premise's and of the hypothesis's tokens, shape [2]."""

    @classmethod
    def empty(cls) -> Template:
        """No special tokens."""
        none = np.zeros(0, np.int32)
        return cls(none, none.astype(np.int8), np.zeros(4, np.int64), np.zeros(2, np.int8))

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Template | None:
        """The tokenizer's template, read off a pair; None if it is not of this form."""
        sentence = [NEIGHBOURS[0]]
        output = tokenizer(sentence, sentence, return_token_type_ids=True)
        ids = np.array(output["input_ids"][0], np.int32)
        types = np.array(output["token_type_ids"][0], np.int8)
        origins = output.encodings[0].sequence_ids  # 0 or 1, None for special tokens
        form = "".join("-" if origin is None else str(origin) for origin in origins)
        match = re.fullmatch("(-*)(0+)(-*)(1+)(-*)", form)
        if match is None:
            return None
        places = [np.arange(*match.span(group)) for group in (1, 3, 5)]
        special = np.concatenate(places)
        return cls(
            ids=ids[special],
            types=types[special],
            offsets=_offsets(np.array([len(place) for place in places])),
            sides=types[[match.start(2), match.start(4)]],
        )


def longest_first(lengths: Integers, room: int) -> Integers:
    """Tokens that truncation ``longest_first`` leaves to the two sentences of pairs.

    A pair that is too long loses tokens of its longer sentence until that is as short as the other
    one, and then of both; an odd token is left to the longer sentence, of two equals to the second.

    Args:
        lengths: Tokens of the sentences, shape [2, rows].
        room: Tokens that both may have together, 0 or more.

    Returns:
        Tokens that are left, shape [2, rows].
    """
    shorter = np.minimum(lengths.min(0), room // 2)
    longer = np.minimum(lengths.max(0), room - shorter)
    return np.where(lengths[0] > lengths[1], [longer, shorter], [shorter, longer])


# --- which words do not depend on their neighbours ---------------------------------------------


def _plain(word: str) -> bool:
    """Whether a word has nothing that a tokenizer may take for space, or drop.

    Space next to space is special to many tokenizers, and what is dropped joins its neighbours.
    """
    return word != "" and word.isprintable() and " " not in word


def _splits_at_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer splits text at every space before it looks for tokens.

    Otherwise a token may span several words, such as ``of the``. No test of single words would
    find those.
    """
    if any(" " in token.content for token in tokenizer.added_tokens_decoder.values()):
        return False
    text = " ".join(f"{left} {right}" for left in NEIGHBOURS for right in NEIGHBOURS)
    encoding = tokenizer([text], add_special_tokens=False).encodings[0]
    pieces = {piece for piece in encoding.word_ids if piece is not None}
    spans = (encoding.word_to_chars(piece) for piece in pieces)
    return not any(" " in text[start:end].strip() for start, end in spans)


def _independent(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> tuple[list[str], list[list[int]], list[list[int]]]:
    """Words whose tokens do not depend on the words around them.

    Each word is tokenised between a letter, a digit and a punctuation mark, on either side.

    Returns:
        The words, and the ids of each as a later word and as a first word.
    """
    wanted = set(words)
    words = list(dict.fromkeys([*NEIGHBOURS, *words]))
    alone = _tokenise(tokenizer, words)
    later = _tokenise(tokenizer, [f"{NEIGHBOURS[0]} {word}" for word in words])
    start = alone[0]
    starts_well = [ids[: len(start)] == start for ids in later]
    later = [ids[len(start) :] for ids in later]
    # Neighbours of a word that comes to nothing are each other's neighbours.
    good = [i for i in range(len(words)) if starts_well[i] and alone[i] and later[i]]

    def wrong(sentences: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
        texts = [" ".join(words[word] for word in sentence) for sentence in sentences]
        for sentence, ids in zip(sentences, _tokenise(tokenizer, texts), strict=True):
            expected = chain(alone[sentence[0]], *(later[word] for word in sentence[1:]))
            if ids != list(expected):
                yield sentence

    def between(block: Sequence[int], turn: int) -> list[int]:
        """The words with neighbours 0, 1, 2, 0, ... around them, the first of which is ``turn``."""
        kinds = (kind % len(NEIGHBOURS) for kind in range(turn, turn + len(block) + 1))
        return [next(kinds), *chain.from_iterable(zip(block, kinds, strict=True))]

    blocks = [good[i : i + _BLOCK] for i in range(0, len(good), _BLOCK)]
    turns = range(len(NEIGHBOURS))
    suspects = {
        word
        for turn in turns
        for sentence in wrong([between(block, turn) for block in blocks])
        for word in sentence[1::2]
    }
    dependent = {
        sentence[1]
        for turn in turns
        for sentence in wrong([between([word], turn) for word in sorted(suspects)])
    }
    kept = [i for i in good if words[i] in wanted and i not in dependent]
    return [words[i] for i in kept], [later[i] for i in kept], [alone[i] for i in kept]


def _tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens and however long."""
    ids: list[list[int]] = []
    for i in range(0, len(texts), _TEXTS):
        output = tokenizer(
            list(texts[i : i + _TEXTS]),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # of texts that are longer than the model takes
        )
        ids += output["input_ids"]
    return ids


# --- arrays -----------------------------------------------------------------------------------


def _strings(texts: Texts) -> Any:
    """Texts as one Arrow array, whose 64-bit offsets never overflow."""
    if isinstance(texts, pa.ChunkedArray):
        return texts.cast(pa.large_string()).combine_chunks()
    if isinstance(texts, pa.Array):
        return texts.cast(pa.large_string())
    return pa.array(texts, pa.large_string())


def _list(texts: Texts) -> list[str]:
    """Texts as a list."""
    return texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)


def _offsets(lengths: Integers) -> Integers:
    """Where consecutive pieces begin and the last one ends, shape [pieces + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _ranges(starts: Integers, lengths: Integers) -> Integers:
    """The numbers ``start`` to ``start + length - 1`` of each piece, one piece after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(lengths.sum())
