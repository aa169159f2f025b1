"""The vocabulary: counting, adding up, and what may never enter a query."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from raythief.config import HubCorpus, Vocabulary
from raythief.corpora import sentences
from raythief.errors import UserError
from raythief.vocabulary import Counts, Distribution, is_usable, most_common_only_in, restrict

SENTENCES = ["the cat sees the dog", "a dog sleeps", "the Cat sleeps", "the dog"]
DATA = Path(os.environ.get("RAYTHIEF_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


def limits(**fields: object) -> Vocabulary:
    """Limits under which a word may stand but once: texts here are short."""
    return Vocabulary.model_validate({"min_count": 1, **fields})


def restricted(**fields: object) -> Distribution:
    return restrict(Counts.of(SENTENCES), limits(**fields))


def test_words_are_counted_cased_and_lengths_by_sentence():
    counts = Counts.of(SENTENCES)
    assert counts.words == {
        "the": 4, "dog": 3, "sleeps": 2, "cat": 1, "Cat": 1, "sees": 1, "a": 1
    }  # fmt: skip
    assert counts.lengths == {5: 1, 3: 2, 2: 1}


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_counts_of_shards_add_up_to_the_whole(shards: int):
    rng = random.Random(0)
    text = [" ".join(rng.choices("abcdefgh", k=rng.randint(1, 9))) for _ in range(50)]
    parts = [Counts.of(text[i::shards]) for i in range(shards)]
    rng.shuffle(parts)
    assert sum(parts, Counts()) == Counts.of(text)


def test_adding_leaves_the_parts_alone():
    one, other = Counts.of(["a b"]), Counts.of(["a"])
    assert (one + other).words == {"a": 2, "b": 1}
    assert one == Counts.of(["a b"])
    assert other == Counts.of(["a"])


def test_words_come_by_count_then_by_code_point():
    found = restricted()
    assert found.words == ("the", "dog", "sleeps", "Cat", "a", "cat", "sees")
    assert found.word_counts.tolist() == [4, 3, 2, 1, 1, 1, 1]
    assert found.lengths.tolist() == [2, 3, 5]
    assert found.length_counts.tolist() == [1, 2, 1]
    assert {array.dtype for array in (found.word_counts, found.lengths, found.length_counts)} == {
        np.dtype(np.int64)
    }


def test_the_order_of_sentences_does_not_matter():
    reversed_ = restrict(Counts.of(SENTENCES[::-1]), limits())
    assert reversed_.to_tables() == restricted().to_tables()


def test_words_and_lengths_are_limited():
    assert restricted(top_k=2).words == ("the", "dog")
    assert restricted(min_count=2).words == ("the", "dog", "sleeps")
    assert restricted(min_count=2, top_k=9).words == ("the", "dog", "sleeps")
    assert restricted(max_words=4).lengths.tolist() == [2, 3]
    assert restricted(max_words=5).lengths.tolist() == [2, 3, 5]


def test_top_k_counts_only_words_that_can_be_drawn():
    counts = Counts.of(["<unk> <unk> <unk> a a b"])
    assert restrict(counts, limits(top_k=2)).words == ("a", "b")


@pytest.mark.parametrize(
    "word",
    [
        "<s>", "</s>", "<unk>", "<pad>", "<mask>", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]",
        "<|endoftext|>", "<extra_id_0>", "<UNK>",
        "pre-<unk>", "<s>trong", "x[SEP]y", "a<|im_start|>b", "</s></s>",
        "", "two words", "tab\there", "bell\x07", "zero\u200bwidth", "soft\xadhyphen", "nbsp\xa0",
        "line\u2028break", "\ufeffmark", "private\ue5fb", "surrogate\ud800",
    ],
)  # fmt: skip
def test_what_an_encoder_would_misread_is_dropped(word: str):
    assert not is_usable(word)
    counts = Counts({word: 9, "good": 1}, {1: 10})
    assert restrict(counts, limits()).words == ("good",)


@pytest.mark.parametrize(
    "word", ["unk", "s", "mask", "<", "[", "a<b>c", "[1]", "café", "中文", "हिन्दी", "…", "'s", "🦞"]
)
def test_what_only_looks_like_it_stays(word: str):
    assert is_usable(word)


@pytest.mark.parametrize(
    ("counts", "fields", "told"),
    [
        (Counts(), {}, r"^corpus: no word"),
        (Counts.of(["<unk> <unk>"]), {}, r"^corpus: no word"),
        (Counts.of(["a b a"]), {"min_count": 3}, r"^vocabulary\.min_count: .*3 times.* 2 times"),
        (Counts.of(["a b a"]), {"max_words": 2}, r"^vocabulary\.max_words: .*shortest has 3"),
    ],
)
def test_an_empty_vocabulary_is_told(counts: Counts, fields: dict[str, int], told: str):
    with pytest.raises(UserError, match=told):
        restrict(counts, limits(**fields))


def test_tables_give_the_distribution_back(tmp_path):
    found = restricted()
    for table, name in zip(found.to_tables(), ("words", "lengths"), strict=True):
        pq.write_table(table, tmp_path / name)
    again = Distribution.from_tables(
        pq.read_table(tmp_path / "words"), pq.read_table(tmp_path / "lengths")
    )
    assert again.words == found.words
    assert again.to_tables() == found.to_tables()


def test_words_that_tell_two_corpora_apart():
    general = Counts.of(["the family " * 3 + "the film 's 2013 film . government"])
    medical = Counts.of(["the virus . the virus of RNA . film"])
    a, b = restrict(general, limits()), restrict(medical, limits())
    assert most_common_only_in(a.words, b.words) == ["family", "government"]
    assert most_common_only_in(a.words, b.words, count=1) == ["family"]
    assert most_common_only_in(b.words, a.words) == ["virus", "RNA", "of"]
    assert most_common_only_in(a.words, a.words) == []


# --- the paper's vocabulary -------------------------------------------------------------------


def test_by_default_words_are_those_of_wikitexts_own_vocabulary():
    """Tokens seen three times or more: no compounds, marks too, and nothing that is rarer."""
    lines = [
        " = State @-@ of @-@ the @-@ art art art = ",
        " The state @-@ of @-@ the @-@ art pump cost 1 @,@ 000 francs in <unk> . ",
        " A state @-@ of @-@ the @-@ art pump cost 1 @,@ 000 francs in <unk> . ",
        " The state @-@ of @-@ the @-@ art pump cost 2 @,@ 000 marks in <unk> . ",
    ]
    found = restrict(Counts.of(sentences(lines, HubCorpus().cleaning)), Vocabulary())
    assert found.words == (
        "@-@", ".", "000", "@,@", "art", "cost", "in", "of", "pump", "state", "the"
    )  # fmt: skip
    assert found.lengths.tolist() == [17]  # as many as the corpus has tokens


def test_by_default_real_text_gives_the_words_that_wikitexts_rule_gives():
    path = DATA / "wikitext" / "wikitext103_valid.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is not at hand; set RAYTHIEF_DATA")
    lines = pq.read_table(path)["text"].to_pylist()
    counts = Counter(word for line in lines for word in line.split())
    rule = {word for word, count in counts.items() if count >= 3 and is_usable(word)}
    found = set(restrict(Counts.of(sentences(lines, HubCorpus().cleaning)), Vocabulary()).words)
    assert found < rule  # headings are no sentences, so that their words are counted less often
    assert len(found) > 0.99 * len(rule)
