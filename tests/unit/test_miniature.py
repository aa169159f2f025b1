"""The small world says what it means, in every language, and its encoders are ordinary folders."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache
from importlib import resources
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from raythief.miniature import documents, encoders, world
from raythief.miniature.vectors import word_vectors

TINY = encoders.Recipe(
    hidden_size=16,
    feed_forward=16,
    linked_documents=300,
    english_steps=3,
    multilingual_steps=3,
    batch_size=4,
)


# ---- an independent reading of sentences: what could be true, given the words -------------------


@cache
def readings() -> dict[str, tuple[str, frozenset[str]]]:
    """English word -> (slot, the most precise concepts that it leaves open), from the raw file."""
    text = resources.files("raythief.miniature").joinpath("lexicon.txt").read_text("utf-8")
    rows = [line.split() for line in text.splitlines() if line.startswith("general ")]
    above = {row[2]: row[3] for row in rows}
    found = {}
    for _, slot, concept, _, _, english, *_ in rows:
        if slot not in ("word", "filler"):
            below = frozenset(c for c, general in above.items() if general == concept)
            found[english] = (slot, below or frozenset({concept}))
    return found


def possible(sentence: str) -> dict[str, frozenset[str]]:
    """Slot -> what could fill it, for the slots that the sentence speaks of."""
    known = readings()
    said = [known[word] for word in sentence.split() if word in known]
    assert len({slot for slot, _ in said}) == len(said), f"a slot is filled twice: {sentence}"
    return dict(said)


def judge(premise: str, hypothesis: str) -> str:
    """The label by what is possible: nothing in common, nothing more, or something more."""
    before, after = possible(premise), possible(hypothesis)
    if any(slot in before and not before[slot] & values for slot, values in after.items()):
        return "contradiction"
    if all(slot in before and before[slot] <= values for slot, values in after.items()):
        return "entailment"
    return "neutral"


# ---- pairs --------------------------------------------------------------------------------------


def test_labels_are_logically_right() -> None:
    for premise, hypothesis, label in world.pairs(600, 3, ("en",))["en"]:
        assert judge(premise, hypothesis) == label, (premise, hypothesis)


def test_labels_of_known_pairs() -> None:
    dog_runs = {"noun": "dog", "verb": "run", "colour": "red"}
    assert world.relation(dog_runs, {"noun": "animal", "verb": "move"}) == "entailment"
    assert world.relation(dog_runs, {"noun": "dog", "verb": "run", "size": "big"}) == "neutral"
    assert world.relation(dog_runs, {"noun": "cat", "verb": "run"}) == "contradiction"
    assert world.relation({"noun": "animal", "verb": "run"}, dog_runs) == "neutral"
    assert world.relation(dog_runs, {"noun": "dog", "verb": "rest", "size": "big"}) == (
        "contradiction"
    )


def test_labels_are_balanced_and_not_told_by_length() -> None:
    rows = world.pairs(3_000, 0, ("en",))["en"]
    assert set(Counter(label for *_, label in rows).values()) == {1_000}
    for side in (0, 1):
        words, concepts = Counter[str](), Counter[str]()
        for row in rows:
            words[row[2]] += len(row[side].split())
            concepts[row[2]] += len(possible(row[side]))
        assert max(words.values()) - min(words.values()) < 0.03 * max(words.values())
        assert max(concepts.values()) - min(concepts.values()) < 0.05 * max(concepts.values())


def test_the_same_items_in_every_language() -> None:
    items = world.pairs(30, 5, world.LANGUAGES)
    concept = {
        language: {
            c.words[language]: c.name for c in world.lexicon().values() if language in c.words
        }
        for language in world.LANGUAGES
    }
    for language, rows in items.items():
        for (premise, hypothesis, label), (first, second, expected) in zip(
            rows, items["en"], strict=True
        ):
            assert label == expected
            for sentence, english in ((premise, first), (hypothesis, second)):
                assert Counter(concept[language][w] for w in sentence.split()) == Counter(
                    concept["en"][w] for w in english.split()
                )


def test_a_language_does_not_change_the_items_of_another() -> None:
    alone = world.pairs(20, 1, ("en",))["en"]
    assert world.pairs(20, 1, ("sw", "en"))["en"] == alone


def test_pairs_follow_from_the_seed() -> None:
    assert world.pairs(50, 7, ("de",)) == world.pairs(50, 7, ("de",))
    one, other = (set(world.pairs(300, seed, ("en",))["en"]) for seed in (1, 2))
    assert len(one & other) == 0


def test_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="xx"):
        world.pairs(1, 0, ("en", "xx"))


# ---- lexicon and corpus -------------------------------------------------------------------------


def test_fifteen_languages_each_with_its_own_word_for_each_concept() -> None:
    assert world.LANGUAGES[0] == "en"
    assert len(set(world.LANGUAGES)) == 15
    general = [c for c in world.lexicon().values() if c.domain == "general"]
    for language in world.LANGUAGES:
        assert len({c.words[language] for c in general}) == len(general), language


def test_the_foreign_subject_shares_grammar_words_alone() -> None:
    foreign = {word for line in world.corpus(2_000, 0, "foreign") for word in line.split()}
    general = {word for line in world.corpus(2_000, 0) for word in line.split()}
    real = {word for p, h, _ in world.pairs(2_000, 0, ("en",))["en"] for word in f"{p} {h}".split()}
    assert foreign & real <= {"the", "in", "and", "is"}
    assert foreign & general <= {"the", "in", "and", "is"}
    assert real <= general


def test_corpus_is_clean_and_follows_from_the_seed() -> None:
    lines = world.corpus(500, 4)
    assert len(lines) == 500
    assert lines == world.corpus(500, 4) != world.corpus(500, 5)
    assert lines[:100] == world.corpus(100, 4)
    for line in lines:
        assert line == " ".join(line.split())
        assert not set(line.split()) & set(encoders.SPECIAL_TOKENS)


def test_unknown_domain_is_refused() -> None:
    with pytest.raises(ValueError, match="domain"):
        world.corpus(1, 0, "sports")


def test_word_order() -> None:
    scene = {"noun": "dog", "verb": "run", "size": "big", "place": "house", "adverbial": "friday"}
    plain = world.Telling(scene, None, ())
    assert world.say(world.arrange(plain, "en"), "en") == "the big dog runs in the house friday"
    assert world.say(world.arrange(plain, "es"), "es") == "el perro grande corre en el casa viernes"
    assert " ".join(world.arrange(plain, "tr")) == "the big dog the house in friday run"
    fronted = world.Telling(scene, "place", ((0.0, "also"),))
    assert " ".join(world.arrange(fronted, "en")) == "also in the house the big dog run friday"


# ---- text for pre-training ----------------------------------------------------------------------


def test_tellings_of_one_event_never_contradict_each_other() -> None:
    for document in documents.linked_documents(("en",), 300, 0):
        if "verb" in possible_or_nothing(document.first):
            assert judge(document.first, document.second) != "contradiction", document


def possible_or_nothing(sentence: str) -> dict[str, frozenset[str]]:
    """Like `possible`, empty for lists, definitions and the foreign domain."""
    words = sentence.split()
    if "and" in words or "is" in words:
        return {}
    return possible(sentence)


# ---- encoders -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> folder of an encoder that was hardly trained."""
    made = {}
    for kind in ("english", "multilingual"):
        made[kind] = tmp_path_factory.mktemp(kind)
        encoders.pretrain(made[kind], kind, ("en", "de", "zh"), 0, TINY)  # type: ignore[arg-type]
    return made


def test_the_folder_loads_in_plain_transformers(folders: dict[str, Path]) -> None:
    for kind, name in (("english", "roberta"), ("multilingual", "xlm-roberta")):
        model = AutoModelForSequenceClassification.from_pretrained(folders[kind], num_labels=3)
        assert model.config.model_type == name
        batch = AutoTokenizer.from_pretrained(folders[kind])(
            ["the dog runs", "the man"], ["the cat", "also the man sits"],
            padding=True, return_tensors="pt",
        )  # fmt: skip
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask"}
        assert model(**batch).logits.shape == (2, 3)


def test_pair_layout(folders: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["english"])
    pair = tokenizer("the dog", "also runs")
    tokens = tokenizer.convert_ids_to_tokens(pair["input_ids"])
    assert " ".join(tokens) == "<s> the dog </s> </s> also runs </s>"
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert "token_type_ids" in tokenizer.model_input_names
    assert tokenizer.pad_token_id == 1
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 2]


def test_the_english_encoder_knows_no_other_language(folders: dict[str, Path]) -> None:
    english = AutoTokenizer.from_pretrained(folders["english"])
    everything = AutoTokenizer.from_pretrained(folders["multilingual"])
    assert english("Hund")["input_ids"][1] == english.unk_token_id
    assert everything("Hund")["input_ids"][1] != everything.unk_token_id
    for word in ("in", "the", "virus"):
        assert english(word)["input_ids"][1] != english.unk_token_id


def test_same_seed_same_bytes(folders: dict[str, Path], tmp_path: Path) -> None:
    def digest(folder: Path) -> dict[str, str]:
        return {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()
        }

    steps: list[tuple[int, int]] = []
    report = encoders.pretrain(
        tmp_path / "again", "english", ("en",), 0, TINY,
        lambda step, of, loss: steps.append((step, of)),
    )  # fmt: skip
    assert digest(tmp_path / "again") == digest(folders["english"])
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert report["steps"] == 3
    assert 0 < report["loss"] < 50
    encoders.pretrain(tmp_path / "other", "english", ("en",), 1, TINY)
    assert digest(tmp_path / "other") != digest(folders["english"])


def test_global_state_is_left_alone(tmp_path: Path) -> None:
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    encoders.pretrain(tmp_path, "english", ("en",), 0, TINY)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="xx"):
        encoders.pretrain(tmp_path, "multilingual", ("en", "xx"), 0, TINY)
    with pytest.raises(ValueError, match="kind"):
        encoders.pretrain(tmp_path, "klingon", ("en",), 0, TINY)  # type: ignore[arg-type]


def test_translations_end_up_with_like_vectors() -> None:
    languages = ("en", "de", "hi")
    tokenizer = encoders.build_tokenizer(languages)
    ids = tokenizer.get_vocab()
    linked = documents.linked_documents(languages, 4_000, 0)
    vectors = torch.from_numpy(word_vectors(linked, ids, 64, 2.0))
    words = world.lexicon()["dog"].words
    same = torch.cosine_similarity(vectors[ids[words["en"]]], vectors[ids[words["de"]]], dim=0)
    other = torch.cosine_similarity(vectors[ids[words["en"]]], vectors[ids["Haus"]], dim=0)
    assert same > 0.8
    assert abs(other) < 0.3
    assert vectors[ids["also"]].norm() < 0.7 * vectors[ids["dog"]].norm()
