"""Two encoders for the small world, pre-trained there and then: English, and all languages.

    python -m raythief.miniature.encoders DIRECTORY english|multilingual [SEED]

Each is a normal transformers folder: the RoBERTa or XLM-RoBERTa architecture, small, with a
word-level tokenizer. What goes in, all of it `documents` of the `world` and none of it labelled:

1. Word vectors from co-occurrence (`vectors`), which then stay as they are. A linked document is
   one event told twice, each time in some language, as encyclopedia articles on one subject are.
   Which words meet across the two tellings more often than by chance, or less often, gives the
   vectors. This is the only place where languages meet. No dictionary is put in and no sentence
   beside its translation, but the counting as good as finds one: most of the transfer is in these
   vectors.
2. Attention that starts as "look at similar words of the other passage": query and key weights are
   equal but for the axis that tells passages apart.
3. Masked-language modelling on documents of one language at a time. The softmax runs over the words
   of the document's language.

Facts (definitions, lists) are told among the documents. English has documents of the foreign domain
too, but no linked ones: the encoders know its words, each by a random vector.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch.nn import functional
from transformers import (
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from raythief.miniature import world
from raythief.miniature.documents import (
    Document,
    linked_documents,
    monolingual_documents,
    words_of,
)
from raythief.miniature.vectors import NO_VECTOR, word_vectors

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""In RoBERTa's order, so that the configuration's default ids hold; <mask> comes last."""
BOS, PAD, EOS, UNK, MASK = range(len(SPECIAL_TOKENS))
ROLES = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
"""What transformers calls them."""


@dataclass(frozen=True)
class Recipe:
    """How large the encoders are and how they are pre-trained; the defaults are the demo's."""

    hidden_size: int = 64
    """Width of the encoder, and of its word vectors."""
    layers: int = 2
    """Transformer layers."""
    heads: int = 2
    """Attention heads in each layer."""
    feed_forward: int = 128
    """Width of the feed-forward part of a layer."""
    initializer_range: float = 0.1
    """Standard deviation of fresh weights, those of a classification head put on later included."""
    word_norm: float = 2.0
    """Norm of a vector of a word with content; a fresh one has 0.8, a filler's is nearly 0."""
    position_deviation: float = 0.02
    """Standard deviation of fresh position vectors: small, so that words count, not places."""
    type_norm: float = 1.0
    """Norm of the fresh type embeddings, which tell a pair's passages apart."""
    linked_documents: int = 30_000
    """Documents that the word vectors are counted on."""
    english_steps: int = 1_200
    """Optimiser steps of masked-language modelling for the English encoder."""
    multilingual_steps: int = 1_800
    """The same for the multilingual encoder."""
    batch_size: int = 32
    """Documents in a step."""
    learning_rate: float = 4e-3
    """Peak learning rate: linear warm-up over WARM_UP of the steps, then linear decay to 0."""
    masked_share: float = 0.3
    """Share of the words that are predicted."""
    replaced_by_mask: float = 0.4
    """Of the words predicted, the share shown as <mask>."""
    replaced_at_random: float = 0.4
    """Of the words predicted, the share shown as another word; the rest is shown as it is."""


Kind = Literal["english", "multilingual"]
WARM_UP = 0.06
"""Share of the steps in which the learning rate rises."""


def build_tokenizer(languages: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the languages' words; any other word is <unk>.

    A pair becomes <s> A </s></s> B </s>, with token type 0 up to the first </s> and 1 after it.
    """
    vocabulary = sorted({word for words in words_of(languages).values() for word in words})
    ids = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *vocabulary))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=SPECIAL_TOKENS[UNK]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="<s>:0 $A:0 </s>:0",
        pair="<s>:0 $A:0 </s>:0 </s>:1 $B:1 </s>:1",
        special_tokens=[("<s>", BOS), ("</s>", EOS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **ROLES,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=64,
    )


def build_model(kind: Kind, vocabulary_size: int, recipe: Recipe) -> RobertaForMaskedLM:
    """A fresh masked-language model, weights drawn from torch's global generator."""
    config_class, model_class = (
        (RobertaConfig, RobertaForMaskedLM)
        if kind == "english"
        else (XLMRobertaConfig, XLMRobertaForMaskedLM)
    )
    config = config_class(
        vocab_size=vocabulary_size,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.feed_forward,
        initializer_range=recipe.initializer_range,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=66,
        type_vocab_size=2,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        tie_word_embeddings=False,
    )
    return model_class(config)


def start_words(
    model: RobertaForMaskedLM, vectors: NDArray[np.float64], seed: int, recipe: Recipe
) -> None:
    """Put the word vectors in, as what is read and as what predictions are compared to.

    Only the latter learn: what is read stays alike across languages. The vectors are turned at
    random, since heads split a vector by position and the leading dimensions would all fall to the
    first head. Words without a vector keep their fresh one.
    """
    rng = np.random.default_rng([seed, vectors.shape[1]])
    rotation = np.linalg.qr(rng.normal(size=(vectors.shape[1], vectors.shape[1])))[0]
    noise = rng.normal(size=vectors.shape) * 0.02
    known = torch.from_numpy(np.linalg.norm(vectors, axis=1) > NO_VECTOR)
    words = torch.from_numpy(vectors @ rotation + noise).float()
    embeddings = model.roberta.embeddings
    with torch.no_grad():
        embeddings.word_embeddings.weight[known] = words[known]
        model.lm_head.decoder.weight.copy_(embeddings.word_embeddings.weight)
        embeddings.position_embeddings.weight.mul_(
            recipe.position_deviation / recipe.initializer_range
        )
    embeddings.word_embeddings.weight.requires_grad_(False)


def start_attention(model: RobertaForMaskedLM, recipe: Recipe) -> None:
    """Let attention start as similarity, with a liking for the other passage.

    Queries and keys are the same random rotation, but that keys are mirrored along the axis on
    which the type embeddings of the two passages are opposite: so a word looks at words like it
    beyond the separator, and the first token, which sums up, at the second passage.
    """
    axis = torch.randn(model.config.hidden_size)
    axis -= axis.mean()  # layer normalisation would take the mean away
    axis /= axis.norm()
    mirror = torch.eye(len(axis)) - 2 * torch.outer(axis, axis)
    with torch.no_grad():
        types = model.roberta.embeddings.token_type_embeddings.weight
        types.copy_(recipe.type_norm * torch.stack([axis, -axis]))
        for layer in model.roberta.encoder.layer:
            attention = layer.attention.self
            rotation = torch.linalg.qr(torch.randn_like(attention.query.weight))[0]
            attention.query.weight.copy_(rotation)
            attention.key.weight.copy_(rotation @ mirror)


@dataclass(frozen=True)
class Batch:
    """Documents as tensors [documents, tokens], int64; allowed [documents, vocabulary], bool."""

    tokens: torch.Tensor
    types: torch.Tensor
    allowed: torch.Tensor


def batches(
    documents: Iterator[Document],
    tokenizer: PreTrainedTokenizerFast,
    size: int,
    allowed: dict[str, torch.Tensor],
) -> Iterator[Batch]:
    """Batches without end; `allowed` is language -> the vocabulary entries it may predict."""
    while True:
        chosen = [next(documents) for _ in range(size)]
        encoded = tokenizer(
            [d.first for d in chosen], [d.second for d in chosen], padding=True, return_tensors="pt"
        )
        masks = torch.stack([allowed[d.languages[0]] for d in chosen])
        yield Batch(encoded["input_ids"], encoded["token_type_ids"], masks)


def hide(
    tokens: torch.Tensor, recipe: Recipe, vocabulary_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens with some hidden, [documents, tokens] bool: which are to be predicted)."""
    hidden = (torch.rand(tokens.shape) < recipe.masked_share) & (tokens > MASK)
    fate = torch.rand(tokens.shape)
    another = torch.randint(MASK + 1, vocabulary_size, tokens.shape)
    shown = tokens.masked_fill(hidden & (fate < recipe.replaced_by_mask), MASK)
    at_random = hidden & (fate > 1 - recipe.replaced_at_random)
    return torch.where(at_random, another, shown), hidden


def train(
    model: RobertaForMaskedLM,
    source: Iterator[Batch],
    steps: int,
    recipe: Recipe,
    progress: Callable[[int, int, float], None] | None,
) -> tuple[float, float]:
    """(loss in nats, share predicted right), each the mean over the last tenth of the steps."""
    model.train()
    optimizer = torch.optim.AdamW(
        [weights for weights in model.parameters() if weights.requires_grad],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: pace(step, steps))
    seen: list[tuple[float, float]] = []
    for step in range(1, steps + 1):
        batch = next(source)
        shown, hidden = hide(batch.tokens, recipe, model.config.vocab_size)
        states = model.roberta(
            input_ids=shown,
            token_type_ids=batch.types,
            attention_mask=(batch.tokens != PAD).long(),
        )[0]
        allowed = batch.allowed.repeat_interleave(hidden.sum(1), dim=0)
        logits = model.lm_head(states[hidden]).masked_fill(~allowed, -1e9)
        loss = functional.cross_entropy(logits, batch.tokens[hidden])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        right = (logits.argmax(-1) == batch.tokens[hidden]).float().mean()
        seen.append((loss.item(), right.item()))
        if progress is not None:
            progress(step, steps, seen[-1][0])
    loss_at_end, accuracy = np.mean(seen[-max(1, steps // 10) :], axis=0)
    return float(loss_at_end), float(accuracy)


def pace(step: int, steps: int) -> float:
    """Factor on the learning rate: linear up over WARM_UP of the steps, then linear down to 0."""
    warm = max(1, round(WARM_UP * steps))
    return (step + 1) / warm if step < warm else (steps - step) / (steps - warm + 1)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch inside, and leave its generator and thread count as they were.

    One thread: sums are then made in one order, so that the same seed gives the same bytes.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def pretrain(
    directory: Path,
    kind: Kind,
    languages: Sequence[str],
    seed: int,
    recipe: Recipe = Recipe(),
    progress: Callable[[int, int, float], None] | None = None,
) -> dict[str, float]:
    """Pre-train an encoder and write it to `directory` as a transformers folder.

    `kind` "english" sees English alone, whatever `languages` holds; "multilingual" sees them all.
    The folder loads with AutoTokenizer and AutoModelForSequenceClassification. `progress` is called
    after each step with (step, steps, loss). Returns the final "loss" (nats) and "masked_accuracy",
    "seconds" and "steps". Raises ValueError for an unknown language or kind.
    """
    if kind not in ("english", "multilingual"):
        raise ValueError(f"kind must be english or multilingual, not {kind!r}")
    world.require_known(languages)
    started = time.perf_counter()
    known = tuple(languages) if kind == "multilingual" else ("en",)
    steps = recipe.multilingual_steps if kind == "multilingual" else recipe.english_steps
    tokenizer = build_tokenizer(known)
    ids = tokenizer.get_vocab()
    vectors = word_vectors(
        linked_documents(known, recipe.linked_documents, seed),
        ids,
        recipe.hidden_size,
        recipe.word_norm,
    )
    allowed = {}
    for language, words in words_of(known).items():
        allowed[language] = torch.zeros(len(ids), dtype=torch.bool)
        allowed[language][[ids[word] for word in words]] = True
    with own_randomness(seed):
        model = build_model(kind, len(ids), recipe)
        start_words(model, vectors, seed, recipe)
        start_attention(model, recipe)
        text = monolingual_documents(known, seed)
        source = batches(text, tokenizer, recipe.batch_size, allowed)
        loss, accuracy = train(model, source, steps, recipe, progress)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return {
        "loss": loss,
        "masked_accuracy": accuracy,
        "seconds": time.perf_counter() - started,
        "steps": float(steps),
    }


if __name__ == "__main__":
    folder, which, *rest = sys.argv[1:]
    chosen: Kind = "english" if which == "english" else "multilingual"
    print(pretrain(Path(folder), chosen, world.LANGUAGES, int(rest[0]) if rest else 0))
