"""Encoders of other languages, aligned to the English BiLSTM on parallel sentences.

The method is that of Conneau et al. 2018 (X-BiLSTM-max): the English model learns the task; another
language's encoder starts as the English one on the language's own word vectors, and learns to say
of a sentence what the English encoder, which stays as it is, says of its translation. The
classifier on top is the English one.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from raythief import accelerators, calls, cards, models, results
from raythief.artifacts import Artifact
from raythief.bilstm import BiLstmForNli
from raythief.config import LANGUAGES, Alignment, Language, Resources
from raythief.errors import UserError
from raythief.progress import Tell

HELD_OUT = 500
"""Sentences, at most and at most a tenth of them, on which an alignment is measured."""


def loss(english: torch.Tensor, other: torch.Tensor, shift: int, contrast: float) -> torch.Tensor:
    """Mean of d(x, y) - contrast * (d(x', y) + d(x, y')), d being the Euclidean distance.

    Args:
        english: Vectors x, shape [sentences, size].
        other: Vectors y of their translations, of the same shape.
        shift: How many rows further x' and y' stand, 1 to sentences - 1.
        contrast: Weight of the distances that are to grow.
    """
    near = distance(english, other)
    far = distance(english.roll(shift, 0), other) + distance(english, other.roll(shift, 0))
    return (near - contrast * far).mean()


def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of rows, shape [rows]; its gradient is finite where two are equal."""
    return ((one - other).square().sum(-1) + 1e-12).sqrt()


class Reader:
    """A tokenizer and an encoder: text in, vectors out."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, model: BiLstmForNli, max_tokens: int
    ) -> None:
        self.tokenizer, self.model, self.max_tokens = tokenizer, model, max_tokens

    def __call__(self, sentences: Sequence[str]) -> torch.Tensor:
        """Vectors of sentences, shape [sentences, 2 * hidden]."""
        batch = self.tokenizer(
            list(sentences),
            truncation=True,
            max_length=self.max_tokens,
            padding=True,
            return_tensors="pt",
        ).to(self.model.device)
        vectors: torch.Tensor = self.model.encoder(
            batch["input_ids"], batch["attention_mask"].sum(1)
        )
        return vectors


def start(english: BiLstmForNli, folder: Path) -> BiLstmForNli:
    """The English model on the word vectors of a language's folder."""
    name = "encoder.embeddings.weight"
    words = load_file(folder / "model.safetensors")[name]
    config = copy.deepcopy(english.config)
    config.vocab_size = len(words)
    model = BiLstmForNli(config)
    model.load_state_dict({**english.state_dict(), name: words})
    return model


def align(
    english: Reader, other: Reader, sentences: pa.Table, how: Alignment, seed: list[int]
) -> results.Alignment:
    """Train the other language's LSTM in place; all else stays as it is.

    Args:
        english: Reads English.
        other: Reads the other language.
        sentences: As ``translations.read`` gives them; the last ones are held out.
        how: Steps, rate and so on.
        seed: Decides which sentences a step sees, and what they are set against.

    Returns:
        What it came to; its loss is the mean over the last tenth of the steps.
    """
    held = max(1, min(HELD_OUT, sentences.num_rows // 10))
    count = sentences.num_rows - held
    english.model.requires_grad_(False)
    other.model.requires_grad_(False)
    other.model.encoder.lstm.requires_grad_(True)
    other.model.encoder.embeddings.requires_grad_(how.tune_words)
    trained = [weights for weights in other.model.parameters() if weights.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=how.learning_rate)
    before = _found(english, other, sentences.slice(count))
    losses = []
    batches = _batches(count, how.batch_size, np.random.default_rng(seed))
    for step, (rows, shift) in enumerate(islice(batches, how.steps)):
        for group in optimizer.param_groups:
            group["lr"] = how.learning_rate * (1 - step / how.steps)
        batch = sentences.take(pa.array(rows))
        with torch.no_grad():
            ours = english(batch["english"].to_pylist())
        now = loss(ours, other(batch["translation"].to_pylist()), shift, how.contrast)
        optimizer.zero_grad(set_to_none=True)
        now.backward()
        optimizer.step()
        losses.append(now.detach())
    other.model.encoder.embeddings.requires_grad_(False)
    return results.Alignment(
        sentences=count,
        steps=how.steps,
        loss=float(torch.stack(losses[-max(1, how.steps // 10) :]).mean()),
        before=results.Found(found=before),
        after=results.Found(found=_found(english, other, sentences.slice(count))),
    )


def _batches(
    count: int, size: int, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Rows of each step, in passes through all of them, and how far others are shifted."""
    size = min(size, count)
    while True:
        order = rng.permutation(count)
        for first in range(0, count - size + 1, size):
            yield order[first : first + size], int(rng.integers(1, max(2, size)))


@torch.no_grad()
def _found(english: Reader, other: Reader, held: pa.Table) -> float:
    ours, theirs = english(held["english"].to_pylist()), other(held["translation"].to_pylist())
    nearest = torch.cdist(theirs, ours).argmin(1)
    return float((nearest == torch.arange(len(nearest), device=nearest.device)).float().mean())


# --- the stage --------------------------------------------------------------------------------


def build(
    target: Artifact,
    english: Artifact,
    words: Artifact,
    parallel: Artifact,
    languages: Sequence[Language],
    how: Alignment,
    seed: int,
    resources: Resources,
    tell: Tell,
) -> results.Aligned:
    """Align every language, each in a process of its own; in this one where a training works there.

    A language's result is written when its model lies there whole, so a run that was killed goes
    on with the languages that have none. Within a language it begins again.

    Args:
        target: Artifact that receives ``model/LANGUAGE``, English as it was trained.
        english: The trained English model.
        words: Folders with each language's word vectors and tokenizer.
        parallel: Parallel sentences of each language.
        languages: The languages but English.
        how: Steps, rate and so on.
        seed: Seed; each language has a stream of its own.
        resources: Of the training; each language takes as much as one of its workers.
        tell: Told the languages that are done.

    Returns:
        Results for the manifest.
    """
    target.upload(english.local("model"), "model/en")
    cpus = resources.training.cpus
    missing = {
        one: (target, english, words, parallel, one, how, seed, cpus)
        for one in languages
        if _result(target, one) is None
    }
    done = len(languages) - len(missing)
    tell(done, len(languages))
    for language in _aligned(missing, resources):
        done += 1
        tell(done, len(languages), language)
    found = {one: result for one in languages if (result := _result(target, one)) is not None}
    devices = [one.device for one in found.values()]
    return results.Aligned(
        languages=found,
        device=devices[0] if devices else None,
        gpus=accelerators.gpus(resources.training),
        worker_seconds=sum(one.seconds for one in found.values()),
    )


def _aligned(missing: Mapping[Language, Sequence[Any]], resources: Resources) -> Iterator[Language]:
    """Align languages, and yield each as it is done."""
    how = resources.training
    if not how.workers:
        for language, given in missing.items():
            _align_one(*given)
            yield language
        return
    for language, _ in calls.each(
        _align_one,
        missing,
        restarts=resources.restarts,
        num_cpus=how.cpus,
        num_gpus=accelerators.gpus(how),
        resources=accelerators.custom(how),
    ):
        yield language


def _result(target: Artifact, language: str) -> results.Alignment | None:
    """What a language's alignment came to; None if it has not been done."""
    text = target.storage.read_bytes(f"{target.path}/{language}.json")
    if text is None:
        return None
    return results.Alignment.model_validate(json.loads(text), extra="ignore")


def _align_one(
    target: Artifact,
    english: Artifact,
    words: Artifact,
    parallel: Artifact,
    language: Language,
    how: Alignment,
    seed: int,
    cpus: float,
) -> None:
    """Align one language and write its model."""
    started = time.monotonic()
    torch.set_num_threads(max(1, int(cpus)))
    device, own = accelerators.device(), words.local(language)
    source = english.local("model")
    ours = models.classifier(source).to(device).eval()
    assert isinstance(ours, BiLstmForNli), f"{source} is no BiLSTM"
    theirs = start(ours, own).to(device)
    tokenizer = models.tokenizer(own)
    try:
        found = align(
            Reader(models.tokenizer(source), ours, how.max_tokens),
            Reader(tokenizer, theirs, how.max_tokens),
            parallel.read_table(f"{language}.parquet"),
            how,
            [seed, LANGUAGES.index(language)],
        )
    except torch.OutOfMemoryError:
        raise UserError(
            "extractor.bilstm.alignment: the GPU's memory does not hold its sentences; lower "
            "batch_size or max_tokens, or take a larger GPU"
        ) from None
    seconds = round(time.monotonic() - started, 3)
    found = found.model_copy(update={"device": models.name_of(device), "seconds": seconds})
    with tempfile.TemporaryDirectory() as scratch:
        theirs.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        (Path(scratch) / "README.md").write_text(cards.aligned(language, found), encoding="utf-8")
        target.upload(Path(scratch), f"model/{language}")
    target.write(f"{language}.json", found.model_dump_json().encode())
