"""Classifiers as black boxes: pairs of sentences in, canonical label *names* out.

Which output means what differs from model to model (RoBERTa-Large-MNLI says contradiction first,
MNLI itself entailment). Numbers therefore never leave this module.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from raythief import accelerators, calls, encoding, metrics, models, nli
from raythief.config import BILSTM, LABELS, Inference, Label, Model, Resources, Spec
from raythief.errors import UserError
from raythief.wordtable import PairEncoder, Texts

log = logging.getLogger(__name__)

TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 8192}
"""Padded tokens per forward pass where the spec does not tell. Measured on a CPU (64 queries,
RoBERTa-Base in float32, two cores): 3.3, 3.8, 4.1, 3.8 and 3.5 rows/s with 256, 512, 1,024, 2,048
and 4,096 tokens. For GPUs it is an estimate."""


def check_names(source: models.Source, labels: Sequence[Label] | None) -> None:
    """Refuse a victim whose outputs have no canonical names; asks the hub for its config alone.

    Raises:
        UserError: neither its config nor ``labels`` names them.
    """
    names = {int(i): name for i, name in source.config().get("id2label", {}).items()}
    nli.label_names(names, labels, "victim.labels")


def number_format(inference: Inference, resources: Resources) -> str:
    """In which number format a model computes: of ``auto``, bfloat16 on GPUs that have it, else
    float32.

    Whoever begins to compute decides, and whoever goes on holds to it, on whatever device: answers
    in two formats differ, and are never mixed. (Of the 20,000 labels of ``raythief run
    jobs/miniature/demo.yaml --until labels`` 99.7 % are the same with ``--set
    inference.precision=bfloat16``, on a CPU.) One worker is asked what its device has.
    """
    workers = resources.inference
    if inference.precision != "auto":
        return inference.precision
    if inference.attention == models.FLASH:  # which has no other
        return "bfloat16"
    if not workers.workers:
        return own_format()
    gpus = accelerators.gpus(workers)
    if not gpus:
        return "float32"
    needs = {"num_gpus": gpus, "num_cpus": workers.cpus, "resources": accelerators.custom(workers)}
    asked = calls.each(own_format, {"": ()}, restarts=resources.restarts, **needs)
    [(_, found)] = asked
    return str(found)


def own_format() -> str:
    """What ``auto`` is on this process's device."""
    return models.format_name(models.dtype("auto", accelerators.device()))


def check_attention(spec: Spec, roles: Collection[str]) -> None:
    """Refuse an attention that is not installed, or that a model has not whose turn is to come.

    Args:
        spec: The experiment.
        roles: The stages that are to be built.

    Raises:
        UserError: it cannot be had.
    """
    asked: dict[str, tuple[str, Model | None]] = {
        "victim.model": ("labels", None if spec.victim.api else spec.victim),
        "extractor.model": ("evaluation", spec.extractor),
        "figure2.model": ("vectors", spec.figure2),
    }
    for field, (role, model) in asked.items():
        if model is None or role not in roles or model.model == BILSTM:
            continue
        if spec.inference.attention in ("auto", "eager"):  # do not ask the hub in vain
            continue
        ours = model.model.startswith("miniature:")
        source = None if ours else models.find(model, spec.root, field)
        models.check_attention(source, spec.inference.attention, field)


class Forward:
    """A model in this process, and what it gives for encoded pairs, batch by batch."""

    def __init__(
        self,
        load: Callable[[Path, str], PreTrainedModel],
        source: models.Source,
        inference: Inference,
        cpus: float,
        words: Sequence[str] | None = None,
    ) -> None:
        """Load the model.

        Args:
            load: Makes it from a folder and the name of an attention implementation.
            source: Where it comes from.
            inference: Batching and number format.
            cpus: Threads to use on a CPU. Fixed rather than "all there are", because the number
                of threads may flip near-ties.
            words: The words of the texts to come, if they are gibberish: spares the tokenizer.
        """
        torch.set_num_threads(max(1, int(cpus)))
        folder = source.local()
        self.tokenizer = models.tokenizer(folder)
        self.device = accelerators.device()
        self.dtype = models.dtype(inference.precision, self.device)
        if inference.attention == models.FLASH and self.dtype == torch.float32:
            raise UserError(
                f"inference.attention: {models.FLASH} computes in bfloat16 on a GPU, and this "
                f"worker has float32 on {models.name_of(self.device)}; set it to auto"
            )
        model = load(folder, inference.attention).to(self.device, self.dtype).eval()
        longest = min(inference.max_tokens, models.longest(model, self.tokenizer))
        self.encode = PairEncoder(self.tokenizer, words, longest)
        self.config = model.config
        self.model = torch.compile(model, dynamic=True) if inference.compile else model
        self.tokens_per_batch = inference.tokens_per_batch or TOKENS_PER_BATCH[self.device.type]
        """Padded tokens per forward pass; halved when they do not fit the GPU's memory."""

    def outputs(self, encoded: encoding.Encoded) -> Iterator[tuple[NDArray[np.int64], Any]]:
        """Yield the rows of each batch and the model's output for them, in its own order.

        Raises:
            UserError: the GPU's memory does not hold a single pair, or the model cannot be
                compiled.
        """
        batches = deque(encoding.pack(encoded.lengths, self.tokens_per_batch))
        while batches:
            rows = batches.popleft()
            try:
                with models.compiled("inference.compile"):
                    output = self.model(**encoded.batch(rows, self.device))
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise UserError(
                        "inference.max_tokens: the GPU's memory does not hold a single pair of "
                        f"{encoded.lengths[rows].max()} tokens; lower it, or take a larger GPU"
                    ) from None
                self.tokens_per_batch //= 2
                log.warning("GPU memory is short: %d tokens a batch now", self.tokens_per_batch)
                torch.cuda.empty_cache()
                left = np.concatenate([rows, *batches])
                again = encoding.pack(encoded.lengths[left], self.tokens_per_batch)
                batches = deque(left[places] for places in again)
                continue
            yield rows, output


class Classifier(Forward):
    """A ``transformers`` sequence classifier in this process."""

    def __init__(
        self,
        source: models.Source,
        inference: Inference,
        cpus: float,
        labels: Sequence[Label] | None = None,
        words: Sequence[str] | None = None,
    ) -> None:
        """Load the model; the arguments are those of ``Forward``, and ``labels``.

        Args:
            source: Where it comes from.
            inference: Batching and number format.
            cpus: Threads to use on a CPU.
            labels: Names of outputs 0, 1, 2 where the model's config does not tell.
            words: The words of the texts to come, if they are gibberish.

        Raises:
            UserError: its config does not name its outputs and ``labels`` is None.
        """
        super().__init__(models.classifier, source, inference, cpus, words)
        self.labels = nli.label_names(self.config.id2label, labels, "victim.labels")

    def __call__(self, premises: Texts, hypotheses: Texts) -> tuple[list[Label], dict[str, Any]]:
        """Label pairs: what ``answer`` gives, without the probabilities."""
        labels, _, statistics = self.answer(premises, hypotheses)
        return labels, statistics

    @torch.inference_mode()
    def answer(
        self, premises: Texts, hypotheses: Texts
    ) -> tuple[list[Label], NDArray[np.float32], dict[str, Any]]:
        """Label pairs.

        Returns:
            The name of the likeliest label of each pair, the first output's of equals; the
            probability of each label, shape [rows, 3], in the order of ``LABELS``; and ``tokens``
            (padding not counted), ``padded_tokens``, ``halved`` (how often the batch had to
            shrink), ``encoding`` and ``device``.
        """
        encoded = self.encode(premises, hypotheses)
        before, padded = self.tokens_per_batch, 0
        answers = []  # they stay on the device until the end: no batch waits for the one before
        for rows, output in self.outputs(encoded):
            logits = output.logits
            answers.append((rows, logits.argmax(-1), logits.float().softmax(-1)))
            padded += len(rows) * int(encoded.lengths[rows].max())
        best = np.zeros(len(encoded), np.int64)
        scores = np.zeros((len(encoded), len(LABELS)), np.float32)
        for rows, chosen, probabilities in answers:
            best[rows] = chosen.cpu().numpy()
            scores[rows] = probabilities.cpu().numpy()
        tokens = int(encoded.lengths.sum())
        metrics.INFERENCE_TOKENS.add(tokens)
        metrics.INFERENCE_PADDED_TOKENS.add(padded)
        statistics = {
            "tokens": tokens,
            "padded_tokens": padded,
            "halved": (before // self.tokens_per_batch).bit_length() - 1,
            "encoding": self.encode.used,
            "device": models.name_of(self.device),
            "precision": str(self.dtype).removeprefix("torch."),
        }
        canonical = scores[:, [self.labels.index(label) for label in LABELS]]
        return [self.labels[i] for i in best], canonical, statistics
