"""The word table: gibberish encoded without the tokenizer, and exactly as the tokenizer does it."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from raythief import wordtable
from raythief.encoding import Encoded, encode
from raythief.wordtable import PairEncoder, WordTable, longest_first

RNG = random.Random(0)
SYLLABLES = ["ka", "to", "ri", "men", "sul", "gar", "é", "dro", "th", "in", "ed", "un", "ß", "ция"]
ORDINARY = sorted({"".join(RNG.choices(SYLLABLES, k=RNG.randint(1, 5))) for _ in range(400)})
ORDINARY += [word.capitalize() for word in ORDINARY[:60]]
PLAIN = [
    *(
        "'s",
        "'t",
        "'re",
        "'",
        '"',
        "''",
        "``",
        "don't",
        "it's",
        "rock'n'roll",
        "o'",
        "'S",
        "x'll'd",
    ),
    *(
        ".",
        ",",
        "...",
        "…",
        "-",
        "--",
        "–",
        "@-@",
        "(",
        ")",
        "[",
        "e.g.",
        "$5",
        "%",
        "=",
        "|",
        "\\",
    ),
    *("7", "2013", "3.5", "1,000", "½", "²", "٣", "7th", "x7y8"),
    *("中", "中文", "日本語です", "한국어", "ﬁn", "Ｆｕｌｌ", "ｶﾞ", "\u1100\u1161"),
    *("🙂", "👍🏽", "a🙂b", "🇩🇪"),
    *("\u0301", "e\u0301", "\u0301e", "\u0327\u0301", "ก็", "नमस्ते", "שָׁלוֹם", "´", "¨x", "\u20dd"),
    *("<s>", "</s>", "a</s>b", "</s>c", "c</s>", "[SEP]", "x[SEP]", "[CLS]y", "<mask>", "a<mask>b"),
    *("x<mask>", "<mask>x", "<pad>", "<unk>", "<S>", "[sep]", "##ka", "x##", "Ġka", "Ċ"),
    *("▁", "▁▁", "▁ka", "ka▁", "k▁a", "▁to▁", "\ufffd", "·", "_", "a_b", "x" * 300, "ka" * 90),
]
"""Unusual words, but of characters that can be printed."""
INVISIBLE = [
    *("\u00a0", "ka\u00a0to", "\u00a0ka", "ka\u00a0", "\u3000", "\u2028", "\t", "ka\tto", "\n"),
    *(
        "\u200b",
        "ka\u200bto",
        "\u200d",
        "\ufeff",
        "\u00ad",
        "\x00",
        "\x07",
        "a\x07b",
        "\x85",
        "\ue000",
    ),
]
"""Words of characters that tokenizers take for space or drop."""
WORDS = [*ORDINARY, *PLAIN, *INVISIBLE]


def gibberish(
    count: int, seed: int, words: list[str] = WORDS, longest: int = 14
) -> tuple[list[str], list[str]]:
    """Premises and hypotheses, which differ in a word; invisible words are in one row of eight."""
    rng = random.Random(seed)
    visible = [word for word in words if word not in INVISIBLE]
    premises, hypotheses = [], []
    for i in range(count):
        sentence = rng.choices(words if i % 8 == 0 else visible, k=rng.randint(1, longest))
        hypotheses.append(" ".join(sentence))
        sentence[rng.randrange(len(sentence))] = rng.choice(visible)
        premises.append(" ".join(sentence))
    return premises, hypotheses


# --- tokenizers: small ones of each kind, trained on the words ---------------------------------

TEXT = [" ".join(RNG.choices(WORDS, k=12)) for _ in range(1000)]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wrap(inner: Tokenizer, roles: list[str], segments: bool = False) -> PreTrainedTokenizerFast:
    names = ["bos_token", "pad_token", "sep_token", "unk_token", "mask_token"]
    if roles is BERT:
        names = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"]
    special: dict[str, str | AddedToken] = dict(zip(names, roles, strict=False))
    if "mask_token" in special:
        special["mask_token"] = AddedToken(roles[-1], lstrip=True)
    inputs = ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_input_names=inputs, **special)


def byte_bpe() -> PreTrainedTokenizerFast:
    """Like RoBERTa's: the first word has no space before it, so other tokens."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        TEXT,
        BpeTrainer(
            vocab_size=900, special_tokens=ROBERTA, initial_alphabet=alphabet, show_progress=False
        ),
    )
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return wrap(inner, ROBERTA)


def unigram() -> PreTrainedTokenizerFast:
    """Like XLM-R's."""
    inner = Tokenizer(Unigram())
    inner.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    inner.train_from_iterator(
        TEXT,
        UnigramTrainer(
            vocab_size=500, special_tokens=ROBERTA, unk_token="<unk>", show_progress=False
        ),
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return wrap(inner, ROBERTA)


def wordpiece(lowercase: bool) -> PreTrainedTokenizerFast:
    """Like BERT's: with segments."""
    inner = Tokenizer(WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.train_from_iterator(
        TEXT, WordPieceTrainer(vocab_size=600, special_tokens=BERT, show_progress=False)
    )
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return wrap(inner, BERT, segments=True)


def word_level(
    normalizer: normalizers.Normalizer | None = None, pair: str = "<s> $A </s> </s> $B </s>"
) -> PreTrainedTokenizerFast:
    """A word is a token."""
    ids = {token: i for i, token in enumerate([*ROBERTA, *WORD_LEVEL, "new-york"])}
    inner = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair=pair, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return wrap(inner, ROBERTA)


WORD_LEVEL = ["new", "york", "a", "7", ".", *(f"w{i}" for i in range(20))]
MAKERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level BPE": byte_bpe,
    "unigram": unigram,
    "wordpiece": lambda: wordpiece(lowercase=False),
    "wordpiece, lower case": lambda: wordpiece(lowercase=True),
}


@pytest.fixture(scope="module", params=list(MAKERS))
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return MAKERS[request.param]()


@pytest.fixture(scope="module")
def table(tokenizer: PreTrainedTokenizerFast) -> WordTable:
    return WordTable.build(tokenizer, WORDS)


def assert_same(found: Encoded, expected: Encoded) -> None:
    assert found.pad == expected.pad
    assert (found.types is None) == (expected.types is None)
    for name in ("offsets", "ids", "types"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if theirs is not None:
            assert ours.dtype == theirs.dtype, name
            assert np.array_equal(ours, theirs), name


class Spy:
    """Counts the rows that go to the tokenizer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = 0
        monkeypatch.setattr(wordtable, "encode", self)

    def __call__(
        self, tokenizer: PreTrainedTokenizerBase, a: list[str], b: list[str], max_tokens: int
    ) -> Encoded:
        self.rows += len(a)
        return encode(tokenizer, a, b, max_tokens)


# --- equality ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "max_tokens"), [(10_000, 256), (2000, 20), (2000, 13), (500, 4)])
def test_gibberish_of_the_worst_words_is_encoded_as_by_the_tokenizer(
    tokenizer: PreTrainedTokenizerFast, table: WordTable, count: int, max_tokens: int
):
    premises, hypotheses = gibberish(count, seed=max_tokens)
    expected = encode(tokenizer, premises, hypotheses, max_tokens)
    if max_tokens < 256:
        assert (expected.lengths == max_tokens).mean() > 0.6
    assert_same(table.encode(premises, hypotheses, max_tokens), expected)


def test_rows_of_ordinary_words_need_no_tokenizer(
    tokenizer: PreTrainedTokenizerFast, table: WordTable, monkeypatch: pytest.MonkeyPatch
):
    words = [*ORDINARY, "'s", "don't", ".", "2013", "3.5", "中文", "🙂", "a_b", "x" * 300]
    premises, hypotheses = gibberish(1000, 1, words)
    expected = encode(tokenizer, premises, hypotheses, 64)
    spy = Spy(monkeypatch)
    assert_same(table.encode(premises, hypotheses, 64), expected)
    assert spy.rows == 0


def test_words_that_may_be_space_are_left_to_the_tokenizer(table: WordTable):
    known = set(table.words.to_pylist())
    assert known.isdisjoint(INVISIBLE)
    assert table.share > 0.9
    assert known >= set(ORDINARY)


def test_a_first_word_has_entries_of_its_own_only_where_they_differ():
    first = {name: WordTable.build(make(), ORDINARY).first for name, make in MAKERS.items()}
    assert first.pop("byte-level BPE") == len(ORDINARY)
    assert set(first.values()) == {0}


def test_unknown_words_and_odd_spaces_are_exact_too(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
):
    table = WordTable.build(tokenizer, ["ka", "to", "men"])
    premises = ["ka to", "", "ka  to", " ka", "ka nobody", "men", "", "to", "to ka"]
    hypotheses = ["men", "ka", "ka", "to", "to", "ka ", "", "to to to", "somebody"]
    expected = encode(tokenizer, premises, hypotheses, 16)
    spy = Spy(monkeypatch)
    assert_same(table.encode(premises, hypotheses, 16), expected)
    assert spy.rows == 7


def test_arrow_arrays_of_every_form_are_taken(tokenizer: PreTrainedTokenizerFast, table: WordTable):
    premises, hypotheses = gibberish(50, 3)
    expected = encode(tokenizer, premises[7:40], hypotheses[7:40], 64)
    chunks = [premises[7:20], [], premises[20:40]]
    for left, right in [
        (pa.array(premises)[7:40], pa.array(hypotheses, pa.large_string())[7:40]),
        (pa.chunked_array(chunks, pa.string()), hypotheses[7:40]),
        (tuple(premises[7:40]), pa.chunked_array([hypotheses])[7:40]),
    ]:
        assert_same(table.encode(left, right, 64), expected)
        for words in (WORDS, None):
            assert_same(PairEncoder(tokenizer, words, 64)(left, right), expected)


def test_nothing_encodes_to_nothing(tokenizer: PreTrainedTokenizerFast, table: WordTable):
    expected = encode(tokenizer, [], [], 64)
    for nothing in ([], pa.array([], pa.string()), pa.chunked_array([], pa.string())):
        assert_same(table.encode(nothing, nothing, 64), expected)
        assert_same(PairEncoder(tokenizer, WORDS, 64)(nothing, nothing), expected)


# --- truncation -------------------------------------------------------------------------------

LENGTHS = list(itertools.product(range(9), range(9)))


@pytest.mark.parametrize("max_tokens", range(22))
@pytest.mark.parametrize("side", ["right", "left"])
def test_all_lengths_are_cut_as_by_the_tokenizer(max_tokens: int, side: str):
    words = word_level()
    words.truncation_side = side
    premises = [" ".join(WORD_LEVEL[:a]) for a, _ in LENGTHS]
    hypotheses = [" ".join(WORD_LEVEL[9 : 9 + b]) for _, b in LENGTHS]
    expected = encode(words, premises, hypotheses, max_tokens)
    table = WordTable.build(words, WORD_LEVEL)
    assert_same(table.encode(premises, hypotheses, max_tokens), expected)


def test_the_longer_sentence_loses_its_tokens_first():
    lengths = np.array([[9, 2, 5, 5, 9, 3, 0], [2, 9, 5, 4, 8, 3, 9]])
    kept = longest_first(lengths, 7)
    assert kept.tolist() == [[5, 2, 3, 4, 4, 3, 0], [2, 5, 4, 3, 3, 3, 7]]


# --- tokenizers that look at more than one word -------------------------------------------------


def merging(pattern: str | Regex, into: str) -> PreTrainedTokenizerFast:
    """A normalizer turns the pattern into something else."""
    return word_level(normalizers.Replace(pattern, into))


def test_a_tokenizer_that_merges_two_words_is_found_out_on_the_first_batch(
    caplog: pytest.LogCaptureFixture,
):
    words = merging("new york", "new-york")
    words.name_or_path = "some/model"
    encoder = PairEncoder(words, WORD_LEVEL, 32)
    assert encoder.used == "table"
    for seed in range(3):
        premises, hypotheses = gibberish(300, seed, WORD_LEVEL)
        assert any("new york" in text for text in premises[:256])
        assert_same(encoder(premises, hypotheses), encode(words, premises, hypotheses, 32))
        assert encoder.used == "tokenizer"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "some/model" in caplog.text


def test_pairs_are_checked_over_as_many_batches_as_it_takes(caplog: pytest.LogCaptureFixture):
    words = merging("new york", "new-york")
    encoder = PairEncoder(words, WORD_LEVEL, 32)
    for i in range(10):
        encoder([f"w{i} w3"], ["w4"])
    assert encoder.used == "table"
    assert_same(encoder(["w1 new york"], ["w2"]), encode(words, ["w1 new york"], ["w2"], 32))
    assert encoder.used == "tokenizer"
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "pattern", ["w5 .", "w5 a", ". w5", "7 w5", Regex(r"w5 (?=\d)"), Regex(r"(?<=\w) w5")]
)
def test_a_word_that_depends_on_its_neighbours_is_left_to_the_tokenizer(
    pattern: str | Regex, caplog: pytest.LogCaptureFixture
):
    words = merging(pattern, "w6 ")
    premises, hypotheses = gibberish(500, 0, WORD_LEVEL)
    encoder = PairEncoder(words, WORD_LEVEL, 32)
    assert_same(encoder(premises, hypotheses), encode(words, premises, hypotheses, 32))
    assert encoder.used == "table"
    assert not caplog.records
    known = WordTable.build(words, WORD_LEVEL).words.to_pylist()
    assert [word for word in WORD_LEVEL if word not in known] == ["w5"]


def bpe_across_words() -> PreTrainedTokenizerFast:
    inner = Tokenizer(BPE(unk_token="<unk>"))
    inner.train_from_iterator(
        [" ".join(WORD_LEVEL)] * 9,
        BpeTrainer(vocab_size=400, special_tokens=ROBERTA, show_progress=False),
    )
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return wrap(inner, ROBERTA)


def added_across_words() -> PreTrainedTokenizerFast:
    words = word_level()
    words.add_tokens(["w1 w2"])
    return words


def ids_in_reverse() -> PreTrainedTokenizerFast:
    return word_level(pair="<s> $B </s> </s> $A </s>")


@pytest.mark.parametrize("make", [bpe_across_words, added_across_words, ids_in_reverse])
def test_a_tokenizer_that_does_not_go_word_by_word_is_always_used_itself(
    make: Callable[[], PreTrainedTokenizerFast], caplog: pytest.LogCaptureFixture
):
    words = make()
    table = WordTable.build(words, WORD_LEVEL)
    assert table.share == 0
    encoder = PairEncoder(words, WORD_LEVEL, 32)
    assert encoder.used == "tokenizer"
    assert len(caplog.records) == 1
    premises, hypotheses = gibberish(200, 0, WORD_LEVEL)
    expected = encode(words, premises, hypotheses, 32)
    assert_same(encoder(premises, hypotheses), expected)
    assert_same(table.encode(premises, hypotheses, 32), expected)


# --- the encoder ------------------------------------------------------------------------------


def test_gibberish_is_checked_once_and_then_encoded_by_table(
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    encoder = PairEncoder(tokenizer, ORDINARY, 64)
    batches = [gibberish(400, seed, ORDINARY) for seed in range(3)]
    expected = [encode(tokenizer, *batch, 64) for batch in batches]
    spy = Spy(monkeypatch)
    for batch, result in zip(batches, expected, strict=True):
        assert_same(encoder(*batch), result)
        assert spy.rows == 256
    assert encoder.used == "table"
    assert not caplog.records


def test_texts_of_other_words_always_go_to_the_tokenizer(
    tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
):
    encoder = PairEncoder(tokenizer, None, 64)
    premises, hypotheses = gibberish(100, 0)
    assert encoder.used == "tokenizer"
    assert_same(encoder(premises, hypotheses), encode(tokenizer, premises, hypotheses, 64))
    assert not caplog.records


def test_agreement_is_of_ids_types_and_lengths(table: WordTable, monkeypatch: pytest.MonkeyPatch):
    premises, hypotheses = gibberish(20, 5)
    assert table.agrees(premises, hypotheses, 64)
    real = encode

    def off_by_one(*arguments: object) -> Encoded:
        found = real(*arguments)
        found.ids[-1:] += 1
        return found

    monkeypatch.setattr(wordtable, "encode", off_by_one)
    assert not table.agrees(ORDINARY[:9], ORDINARY[:9], 64)
