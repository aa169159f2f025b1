"""The BiLSTM baseline on a real Ray: from a spec to one aligned model per language, evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from conftest import Whole, artifact, run_spec, write_spec
from raythief import bilstm, models
from raythief.victims import Classifier

LANGUAGES = ("en", "de", "hi")
BILSTM = {
    "model": "bilstm",
    "training": {"steps": 300, "batch_size": 32, "learning_rate": 5e-3},
    "bilstm": {
        "embeddings": {"source": "miniature", "size": 32, "documents": 8000, "noise": 0.2},
        "parallel": {"source": "miniature", "count": 1500},
        "hidden": 32,
        "head": 32,
        "alignment": {"steps": 150, "batch_size": 32, "learning_rate": 5e-3},
    },
}

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One run: spec file, storage folder, run record."""
    folder = tmp_path_factory.mktemp("bilstm")
    storage = folder / "artifacts"
    test = {"source": "miniature", "split": "test", "count": 150, "languages": list(LANGUAGES)}
    file = write_spec(
        folder,
        storage=str(storage),
        extractor=BILSTM,
        real={"train": {"source": "miniature", "count": 4000}, "fraction": 1.0},
        real__placement="only",
        evaluation={"sets": {"xnli": test}},
        inference__rows_per_shard=64,
        miniature__languages=list(LANGUAGES),
        victim__training__steps=5,
        resources__training={"workers": 0},
        name="bilstm",
    )
    return file, storage, run_spec(file)


def test_the_row_is_done_and_reported(finished: Whole) -> None:
    _, _, record = finished
    assert [row["status"] for row in record["rows"]] == ["done"]
    assert not {"queries", "labels"} & record["rows"][0]["stages"].keys()
    assert "bilstm" in Path(record["report"]).read_text(encoding="utf-8")


def test_every_language_is_learned_from_english_labels(finished: Whole) -> None:
    scores = artifact(finished, "evaluation").verify()["results"]["sets"]["xnli"]
    assert scores.keys() == set(LANGUAGES)
    for language in LANGUAGES:
        assert scores[language]["count"] == 150
        assert scores[language]["accuracy"] > 0.6, language
        assert scores[language]["agreement"] is not None


def test_each_language_is_evaluated_with_its_own_model(finished: Whole) -> None:
    """The reference: the language's folder by itself, and not that of another."""
    from raythief.config import Inference

    aligned, given = artifact(finished, "aligned"), artifact(finished, "examples:xnli")
    kept = artifact(finished, "evaluation")
    for language in LANGUAGES:
        rows = given.read_table(f"{language}.parquet")
        source = models.Source(artifact=aligned, folder="model/{language}").of(language)
        ask = Classifier(source, Inference(tokens_per_batch=1024), cpus=1)
        expected, _ = ask(rows["premise"], rows["hypothesis"])
        assert kept.read_table(f"xnli/{language}")["predicted"].to_pylist() == expected


def test_alignment_moves_the_lstm_of_the_language_and_nothing_else(finished: Whole) -> None:
    aligned, words = artifact(finished, "aligned"), artifact(finished, "bilstm")
    english = models.classifier(aligned.local("model/en")).state_dict()
    trained = models.classifier(artifact(finished, "extractor").local("model")).state_dict()
    german = models.classifier(aligned.local("model/de")).state_dict()
    own = bilstm.BiLstmForNli.from_pretrained(words.local("de")).state_dict()
    for name, weights in german.items():
        torch.testing.assert_close(english[name], trained[name], atol=0, rtol=0)
        if name == "encoder.embeddings.weight":
            assert torch.equal(weights, own[name])
        else:
            assert torch.equal(weights, english[name]) == ("lstm" not in name), name


def test_translations_are_found_better_than_before(finished: Whole) -> None:
    told = artifact(finished, "aligned").verify()["results"]["languages"]
    assert told.keys() == {"de", "hi"}
    for language, results in told.items():
        assert results["before"]["found"] + 0.2 < results["after"]["found"], language


def test_a_run_that_was_killed_goes_on_with_the_languages_that_lack(
    finished: Whole, tmp_path: Path
) -> None:
    """`de` is done, `hi` is half written; the results of a killed run are those of a whole one."""
    file, storage, _ = finished
    copy = tmp_path / "artifacts"
    shutil.copytree(storage, copy)
    [folder] = (copy / "aligned").iterdir()
    whole = {name: (folder / f"model/{name}/model.safetensors").read_bytes() for name in LANGUAGES}
    for name in ("_SUCCESS", "manifest.json", "hi.json", "model/hi/model.safetensors"):
        (folder / name).unlink()
    told = json.loads((folder / "de.json").read_text())
    (folder / "de.json").write_text(json.dumps({**told, "kept": True}))
    run_spec(file, f"storage={copy}", until="aligned")
    results = json.loads((folder / "manifest.json").read_text())["results"]["languages"]
    assert results["de"]["kept"]
    assert "kept" not in results["hi"]
    for name, content in whole.items():
        assert (folder / f"model/{name}/model.safetensors").read_bytes() == content


def test_a_models_card_says_how_to_load_it(finished: Whole) -> None:
    aligned = artifact(finished, "aligned")
    for language in LANGUAGES:
        card = (aligned.local(f"model/{language}") / "README.md").read_text(encoding="utf-8")
        assert "import raythief.bilstm" in card
    assert "aligned to an English one" in card
