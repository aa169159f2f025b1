"""The BiLSTM baseline's model and word vectors, each against a plain reckoning."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from raythief import bilstm, encoding, models, wordvectors
from raythief.config import LABELS, FilesVectors, MiniatureVectors
from raythief.errors import UserError

WORDS = ["the", "dog", "cat", "sleeps", "not", "."]
VECTORS = np.random.default_rng(3).normal(size=(len(WORDS), 5)).astype(np.float32)
SIZES = {"hidden_size": 4, "head_size": 6, "dropout": 0.5}
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BiLSTM with word vectors and nothing else."""
    made = tmp_path / "en"
    made.mkdir()
    bilstm.write(made, WORDS, VECTORS, "en", **SIZES)
    return made


# --- the model --------------------------------------------------------------------------------


def lstm_by_hand(weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """States [steps, 2 * hidden] of a bidirectional LSTM, from its equations alone."""

    def one_way(suffix: str, steps: torch.Tensor) -> list[torch.Tensor]:
        state = cell = torch.zeros(SIZES["hidden_size"])
        found = []
        for step in steps:
            gates = (
                weights[f"encoder.lstm.weight_ih_l0{suffix}"] @ step
                + weights[f"encoder.lstm.bias_ih_l0{suffix}"]
                + weights[f"encoder.lstm.weight_hh_l0{suffix}"] @ state
                + weights[f"encoder.lstm.bias_hh_l0{suffix}"]
            )
            put, keep, new, show = gates.chunk(4)
            cell = keep.sigmoid() * cell + put.sigmoid() * new.tanh()
            state = show.sigmoid() * cell.tanh()
            found.append(state)
        return found

    onwards = one_way("", inputs)
    backwards = one_way("_reverse", inputs.flip(0))[::-1]
    return torch.stack([torch.cat(both) for both in zip(onwards, backwards, strict=True)])


def by_hand(weights: dict[str, torch.Tensor], premise: list[int], hypothesis: list[int]):
    """Logits of one pair, given as token ids, without padding, batches or dropout."""
    u, v = (
        lstm_by_hand(weights, weights["encoder.embeddings.weight"][ids]).max(0).values
        for ids in (premise, hypothesis)
    )
    features = torch.cat([u, v, (u - v).abs(), u * v])
    hidden = torch.tanh(weights["head.1.weight"] @ features + weights["head.1.bias"])
    return weights["head.4.weight"] @ hidden + weights["head.4.bias"]


PAIRS = [
    ("The dog sleeps.", "the cat sleeps"),
    ("dog", "The cat, not the dog, not the CAT."),
    ("", "not"),
    ("the the the the cat sleeps not .", ""),
]
IDS = [
    ([3, 4, 6, 8, 2], [3, 5, 6, 2]),
    ([4, 2], [3, 5, 1, 7, 3, 4, 1, 7, 3, 5, 8, 2]),
    ([2], [7, 2]),
    ([3, 3, 3, 3, 5, 6, 7, 8, 2], [2]),
]
"""Tokens of PAIRS by hand: special tokens 0 to 2, then WORDS; the comma is no word."""


def test_the_logits_are_those_of_the_equations(folder: Path):
    model, tokenizer = models.fresh_classifier(folder, seed=1).eval(), models.tokenizer(folder)
    encoded = encoding.encode(tokenizer, *zip(*PAIRS, strict=True), max_tokens=64)
    weights = model.state_dict()
    expected = torch.stack([by_hand(weights, *pair) for pair in IDS])
    with torch.no_grad():
        together = model(**encoded.batch(np.arange(4), CPU)).logits
        alone = [model(**encoded.batch(np.array([i]), CPU)).logits[0] for i in range(4)]
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.stack(alone), expected, atol=1e-5, rtol=0)
    assert expected.std(0).min() > 1e-3  # the pairs do differ


def test_padding_and_what_it_holds_change_nothing(folder: Path):
    model = models.fresh_classifier(folder, seed=1).eval()
    ids, types = torch.tensor([[3, 4, 2, 5, 2]]), torch.tensor([[0, 0, 0, 1, 1]])
    with torch.no_grad():
        plain = model(ids, torch.ones_like(ids), types).logits
        for filler in (0, 4):
            behind = torch.full((1, 7), filler)
            padded = model(
                torch.cat([ids, behind], 1),
                torch.cat([torch.ones_like(ids), torch.zeros_like(behind)], 1),
                torch.cat([types, torch.zeros_like(behind)], 1),
            ).logits
            torch.testing.assert_close(padded, plain, atol=1e-6, rtol=0)


def test_a_sentence_without_tokens_is_zeros(folder: Path):
    encoder = models.fresh_classifier(folder, seed=1).encoder
    vectors = encoder(torch.tensor([[3, 4], [0, 0]]), torch.tensor([2, 0]))
    assert vectors.shape == (2, 8)
    assert vectors[0].abs().min() > 0
    assert vectors[1].tolist() == [0.0] * 8


def test_premise_and_hypothesis_are_told_apart(folder: Path):
    model, tokenizer = models.fresh_classifier(folder, seed=1).eval(), models.tokenizer(folder)
    encoded = encoding.encode(tokenizer, ["the dog", "the cat"], ["the cat", "the dog"], 64)
    one, other = model(**encoded.batch(np.arange(2), CPU)).logits
    assert (one - other).abs().max() > 1e-3


def test_the_words_stay_and_the_rest_learns(folder: Path):
    model, tokenizer = models.fresh_classifier(folder, seed=1), models.tokenizer(folder)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    batch = encoding.encode(tokenizer, *zip(*PAIRS, strict=True), 64).batch(np.arange(4), CPU)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(**batch, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()
    moved = {
        name for name, weights in model.state_dict().items() if not weights.equal(before[name])
    }
    assert moved == before.keys() - {"encoder.embeddings.weight"}


# --- the folder -------------------------------------------------------------------------------


def test_the_seed_decides_all_that_no_file_holds(folder: Path):
    assert load_file(folder / "model.safetensors").keys() == {"encoder.embeddings.weight"}
    one, again, other = (models.fresh_classifier(folder, seed).state_dict() for seed in (1, 1, 2))
    for name, weights in one.items():
        assert weights.equal(again[name]), name
        assert weights.equal(other[name]) == (name == "encoder.embeddings.weight"), name
    assert one["encoder.embeddings.weight"][3:].equal(torch.from_numpy(VECTORS))
    assert one["encoder.embeddings.weight"][:3].count_nonzero() == 0


@pytest.mark.parametrize("attention", ["auto", "eager", "sdpa", "flash_attention_2"])
def test_a_saved_model_loads_as_it_was(folder: Path, tmp_path: Path, attention: str):
    model = models.fresh_classifier(folder, seed=1)
    model.save_pretrained(tmp_path / "saved")
    models.tokenizer(folder).save_pretrained(tmp_path / "saved")
    loaded = models.classifier(tmp_path / "saved", attention)
    assert isinstance(loaded, bilstm.BiLstmForNli)
    for name, weights in model.state_dict().items():
        assert weights.equal(loaded.state_dict()[name]), name
    assert [loaded.config.id2label[i] for i in range(3)] == list(LABELS)
    assert not loaded.base_model.embeddings.weight.requires_grad
    tokenizer = models.tokenizer(tmp_path / "saved")
    assert models.longest(loaded, tokenizer) == bilstm.LONGEST
    pair = tokenizer("The dog sleeps.", "the cat sleeps")
    assert pair["input_ids"] == [3, 4, 6, 8, 2, 3, 5, 6, 2]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_long_pairs_keep_the_ends_of_both_sentences(folder: Path):
    encoded = encoding.encode(models.tokenizer(folder), ["dog " * 50], ["cat cat"], 10)
    assert encoded.ids.tolist() == [4] * 6 + [2] + [5, 5, 2]


# --- tokens -----------------------------------------------------------------------------------


def tokens(language: str, words: list[str], text: str) -> list[str]:
    tokenizer = bilstm.build_tokenizer(words, language)
    found: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert found.pop() == "</s>"
    return found


def test_punctuation_stands_apart_and_an_underscore_joins():
    words = ["don", "'", "t", "đi_bộ", "?"]
    assert tokens("vi", words, "Don't ĐI_BỘ?") == words


def test_a_script_without_spaces_is_cut_where_the_likeliest_words_come_out():
    words = ["我", "我们", "们", "谁", "是", "是谁"]
    assert tokens("zh", words, "我们是谁。谁") == ["我们", "是谁", "<unk>", "谁"]
    assert tokens("zh", ["我", "们", "是谁"], "我们是谁") == ["我", "们", "是谁"]
    assert tokens("zh", ["我们", "是", "我", "们是"], "我们是") == ["我们", "是"]
    assert tokens("zh", ["我", "们是", "我们", "是"], "我们是") == ["我", "们是"]  # now likelier
    thai = ["ผม", "รัก", "คุณ", "ผ", "ม"]
    assert tokens("th", thai, "ผมรักคุณ ผม") == ["ผม", "รัก", "คุณ", "ผม"]


def test_a_script_with_spaces_is_never_cut_within_a_word():
    assert tokens("de", ["haus", "tür"], "Haustür Haus") == ["<unk>", "haus"]


# --- word vectors -----------------------------------------------------------------------------

VEC = "4 3\nthe 0.1 -0.2 0.3 \nThe 9 9 9\n</s> 8 8 8\nNew York 1 2e-1 3\n"


def vec(tmp_path: Path, text: str, name: str = "wiki.de.align.vec") -> Path:
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["wiki.vec", "wiki.vec.gz"])
def test_words_and_vectors_are_read_in_their_order(tmp_path: Path, name: str):
    words, vectors = wordvectors.read(vec(tmp_path, VEC, name), 100)
    assert words == ["the", "new york"]
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [
        pytest.approx([0.1, -0.2, 0.3]),
        pytest.approx([1, 0.2, 3]),
    ]


def test_only_the_first_words_are_taken(tmp_path: Path):
    words, vectors = wordvectors.read(vec(tmp_path, "9 2\na 1 2\nb 3 4\nc 5 6\n"), 2)
    assert (words, vectors.tolist()) == (["a", "b"], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "does not begin with a line `count size`"),
        ("the 0.1 0.2\n", "does not begin with a line `count size`"),
        ("2 3\nthe 1 2 3\ndog 1 2\n", "has no word with 3 numbers in line 3"),
        ("2 3\nthe 1 2 3\ndog 1 2 x\n", "has no word with 3 numbers in line 3"),
        ("2 3\nthe 1 2 nan\n", "has no word with 3 numbers in line 2"),
        ("5 3\nthe 1 2 3\n", "ends after 1 of the 5 words"),
        ("1 2\n</s> 1 2\n", "holds no words"),
    ],
)
def test_an_ill_formed_file_is_told_by_field_and_name(tmp_path: Path, text: str, fault: str):
    path = vec(tmp_path, text)
    with pytest.raises(UserError) as caught:
        wordvectors.read(path, 100)
    told = str(caught.value)
    assert told.startswith(f"extractor.bilstm.embeddings.path: {path} ")
    assert fault in told
    assert "\n" not in told


@pytest.mark.parametrize(("name", "content"), [("a.vec", b"\xff\xfe1 2"), ("a.vec.gz", b"1 2\n")])
def test_what_is_no_text_is_refused(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as text"):
        wordvectors.read(tmp_path / name, 100)


def test_a_missing_language_is_named(tmp_path: Path):
    vec(tmp_path, VEC)
    vectors = FilesVectors(source="files", path="wiki.{language}.align.vec")
    assert wordvectors.file(vectors, "de", tmp_path).name == "wiki.de.align.vec"
    with pytest.raises(UserError, match=r"wiki\.sw\.align\.vec; put the vectors of `sw` there"):
        wordvectors.file(vectors, "sw", tmp_path)


def test_in_the_small_world_a_words_translation_is_nearest_to_it():
    how = MiniatureVectors(source="miniature", documents=4000, size=32, noise=0.05)
    tables = wordvectors.miniature(how, ("en", "de"), seed=0)
    again = wordvectors.miniature(how, ("en", "de"), seed=0)
    assert all(np.array_equal(tables[one][1], again[one][1]) for one in tables)
    (english, ours), (german, theirs) = tables["en"], tables["de"]
    for word, translation in {"dog": "hund", "house": "haus", "monday": "montag"}.items():
        distances = np.linalg.norm(theirs - ours[english.index(word)], axis=1)
        assert german[int(distances.argmin())] == translation
        assert distances.min() > 0.05  # near, and not the same
