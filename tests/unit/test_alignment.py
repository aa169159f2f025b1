"""Alignment: its loss and its input by hand, and what it does in the small world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from raythief import alignment, bilstm, encoding, models, translations, wordvectors
from raythief.artifacts import Storage
from raythief.config import LABELS, Alignment, MiniatureParallel, MiniatureVectors
from raythief.errors import UserError
from raythief.miniature import world

# --- the loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "contrast"), [(1, 0.25), (2, 0.25), (1, 0.0)])
def test_the_loss_is_that_of_the_formula(shift: int, contrast: float):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 4)).astype(np.float32)

    def d(a: np.ndarray, b: np.ndarray) -> float:
        return float(sum((one - two) ** 2 for one, two in zip(a, b, strict=True)) ** 0.5)

    expected = 0.0
    for i in range(3):
        other = (i - shift) % 3
        far = d(x[other], y[i]) + d(x[i], y[other])
        expected += (d(x[i], y[i]) - contrast * far) / 3
    found = alignment.loss(torch.from_numpy(x), torch.from_numpy(y), shift, contrast)
    assert float(found) == pytest.approx(expected, abs=1e-5)


def test_equal_vectors_have_a_gradient():
    one = torch.ones(2, 3, requires_grad=True)
    alignment.distance(one, torch.ones(2, 3)).sum().backward()
    assert one.grad is not None
    assert bool(one.grad.isfinite().all())


def test_no_sentence_is_set_against_itself_and_each_pass_shows_all():
    batches = alignment._batches(10, 5, np.random.default_rng(0))
    first, second = ([next(batches) for _ in range(2)] for _ in range(2))
    for epoch in (first, second):
        assert sorted(np.concatenate([rows for rows, _ in epoch]).tolist()) == list(range(10))
        assert all(1 <= shift < 5 for _, shift in epoch)
    assert [rows.tolist() for rows, _ in first] != [rows.tolist() for rows, _ in second]


# --- what it does -----------------------------------------------------------------------------

LANGUAGES = ("en", "de", "hi")


@dataclass
class Trained:
    """An English BiLSTM that knows the small world's task, and the languages' folders."""

    folder: Path
    model: bilstm.BiLstmForNli

    def reader(self, language: str, model: bilstm.BiLstmForNli) -> alignment.Reader:
        return alignment.Reader(models.tokenizer(self.folder / language), model, 64)

    def accuracy(self, model: bilstm.BiLstmForNli, language: str) -> float:
        rows = world.pairs(400, 2, LANGUAGES)[language]
        return float((predictions(self, model, language, rows) == gold(rows)).mean())


def gold(rows: Sequence[tuple[str, str, str]]) -> np.ndarray:
    return np.array([LABELS.index(label) for _, _, label in rows])


@torch.no_grad()
def predictions(
    trained: Trained,
    model: bilstm.BiLstmForNli,
    language: str,
    rows: Sequence[tuple[str, str, str]],
) -> np.ndarray:
    tokenizer = models.tokenizer(trained.folder / language)
    data = encoding.encode(tokenizer, [row[0] for row in rows], [row[1] for row in rows], 64)
    logits = model.eval()(**data.batch(np.arange(len(rows)), torch.device("cpu"))).logits
    return logits.argmax(-1).numpy()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("words")
    how = MiniatureVectors(source="miniature", size=32, documents=8000, noise=0.2)
    for language, (words, vectors) in wordvectors.miniature(how, LANGUAGES, 0).items():
        (folder / language).mkdir()
        bilstm.write(
            folder / language, words, vectors, language, hidden_size=32, head_size=32, dropout=0.1
        )
    model = models.fresh_classifier(folder / "en", seed=0)
    rows = world.pairs(4000, 1, ["en"])["en"]
    tokenizer = models.tokenizer(folder / "en")
    data = encoding.encode(tokenizer, [row[0] for row in rows], [row[1] for row in rows], 64)
    labels, order = torch.from_numpy(gold(rows)), np.random.default_rng(0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(250):
        chosen = order.integers(0, len(rows), 32)
        model(**data.batch(chosen, torch.device("cpu")), labels=labels[chosen]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return Trained(folder, model.eval())


HOW = Alignment(steps=150, batch_size=32, learning_rate=5e-3)


def aligned(trained: Trained, language: str, **changes: object):
    """The model as it starts, the model after the alignment, and what this came to."""
    parallel = translations.read(
        MiniatureParallel(source="miniature", count=1500), language, Path(), 0
    )
    start, model = (alignment.start(trained.model, trained.folder / language) for _ in range(2))
    found = alignment.align(
        trained.reader("en", trained.model),
        trained.reader(language, model),
        parallel,
        HOW.model_copy(update=changes),
        [0, 1],
    )
    return start, model, found


@pytest.mark.parametrize("language", ["de", "hi"])
def test_translations_come_nearer_and_the_task_is_done_better(trained: Trained, language: str):
    start, model, found = aligned(trained, language)
    before, after = trained.accuracy(start, language), trained.accuracy(model, language)
    assert found.sentences == 1350
    assert found.after.found > found.before.found + 0.2
    assert after > before + 0.15
    assert after > 0.7


def test_the_english_model_stays_as_it_is_and_so_do_the_words(trained: Trained):
    def copy(model: bilstm.BiLstmForNli) -> dict[str, torch.Tensor]:
        return {name: weights.clone() for name, weights in model.state_dict().items()}

    english = copy(trained.model)
    start, model, _ = aligned(trained, "de", steps=3)
    assert all(weights.equal(english[name]) for name, weights in copy(trained.model).items())
    own = start.state_dict()
    moved = {name for name, weights in model.state_dict().items() if not weights.equal(own[name])}
    assert moved == {name for name in own if "lstm" in name}
    german = models.classifier(trained.folder / "de").encoder.embeddings.weight
    assert own["encoder.embeddings.weight"].equal(german)


def test_the_words_move_where_the_spec_says_so(trained: Trained):
    start, model, _ = aligned(trained, "de", steps=3, tune_words=True)
    one, two = (made.encoder.embeddings.weight for made in (start, model))
    assert not one.equal(two)
    assert not two.requires_grad


def test_the_same_seed_gives_the_same_weights(trained: Trained):
    (_, one, told), (_, two, again) = (aligned(trained, "hi", steps=5) for _ in range(2))
    assert told == again
    for name, weights in one.state_dict().items():
        assert weights.equal(two.state_dict()[name]), name


def test_a_gpu_that_is_too_small_is_told_of(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(alignment, "align", short)
    storage = Storage.at(str(tmp_path))
    words, parallel = storage.artifact("bilstm", "a"), storage.artifact("parallel", "a")
    for language in ("en", "de"):
        words.upload(trained.folder / language, language)
    english = storage.artifact("extractor", "a")
    models.fresh_classifier(trained.folder / "en", seed=0).save_pretrained(tmp_path / "english")
    models.tokenizer(trained.folder / "en").save_pretrained(tmp_path / "english")
    english.upload(tmp_path / "english", "model")
    parallel.write_table("de.parquet", pa.table({"english": ["a"], "translation": ["b"]}))
    with pytest.raises(UserError, match=r"bilstm\.alignment: the GPU's memory does not hold"):
        alignment._align_one(
            storage.artifact("aligned", "a"), english, words, parallel, "de", Alignment(), 0, 1
        )
