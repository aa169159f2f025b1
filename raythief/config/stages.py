"""The sections that decide what is found out: one for each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from raythief.config.api import Api
from raythief.config.base import (
    LANGUAGES,
    Label,
    Language,
    Precision,
    Section,
    each_once,
    folder_names,
)
from raythief.config.bilstm import BILSTM, BiLstm
from raythief.config.sources import EvaluationPairs, HubPairs, Pairs


class Vocabulary(Section):
    """Words and sentence lengths of the corpus: what queries are drawn from (paper, section 2)."""

    sampling: Literal["uniform", "unigram"] = "uniform"
    """`uniform` as in the paper; `unigram` draws words by how often they occur."""
    top_k: int | None = Field(None, ge=1)
    """Keep only the k most frequent words (Krishna et al. 2020 kept 10,000); null keeps all."""
    min_count: int = Field(3, ge=1)
    """Keep only words that occur at least so often; 3 is the rule of WikiText-103's own vocabulary,
    which the paper draws from."""
    max_words: int = Field(59, ge=1)
    """Longest sentence, in words, whose length is drawn (Krishna et al.: under 60)."""


class Queries(Section):
    """Gibberish pairs: the hypothesis is random words, the premise a copy with some replaced."""

    count: int = Field(392_702, ge=1)
    """Number of queries; the paper's equals the size of MNLI's training set."""
    replaced_words: int = Field(3, ge=0)
    """Words of the hypothesis that are replaced to make the premise; shorter sentences get all
    of theirs replaced."""
    positions: Literal["distinct", "with_replacement"] = "distinct"
    """`distinct` is the plain reading of the paper; Krishna et al. drew positions with
    replacement, so that about one pair in seven
    differs in fewer places."""
    seed: int | None = Field(None, ge=0)
    """Seed of the queries; null takes the spec's."""


Decay = Annotated[float, Field(ge=0, lt=1)]


class SoftLabels(Section):
    """Learning from the victim's probabilities too (Hinton et al. 2015); it must give them."""

    temperature: float = Field(2.0, gt=0)
    """Probabilities of both sides are softened by this exponent's inverse before they are
    compared; 1 compares them as they are."""
    weight: float = Field(1.0, gt=0, le=1)
    """Share of this loss in the whole; the rest is that of the hard label."""


HELD_OUT = "held_out"


class Selection(Section):
    """Keep the weights that are best on data which they are not trained on."""

    on: str = HELD_OUT
    """`held_out`: agreement with the labels of queries that are held out of the training, which is
    all that a thief has (of real examples, where there are no queries); or the name of one of
    `evaluation.sets`: mean accuracy over its languages, or with `SET/LANGUAGE` that of one
    language; never a test split."""
    held_out: float = Field(0.02, gt=0, lt=1)
    """Share of the queries, or of the real examples, that is held out."""
    every: int = Field(500, ge=1)
    """Optimiser steps between looks; the last step is always looked at."""
    patience: int | None = Field(None, ge=1)
    """Looks in a row without a new best after which the training ends; null never ends it."""


class Training(Section):
    """Fine-tuning of an encoder on labelled pairs."""

    epochs: float = Field(3.0, gt=0)
    """Passes over the training set; `steps` overrides it."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps (the paper's "maximum iterations"); null derives them from `epochs`."""
    batch_size: int = Field(32, ge=1)
    """Examples per optimiser step, over all workers."""
    batch_tokens: int | None = Field(None, ge=16)
    """Tokens per optimiser step, over all workers, padding not counted; overrides `batch_size`."""
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["linear", "constant"] = "linear"
    """After the warm-up the rate falls linearly to 0 at the last step, or stays. Only where it
    stays, and the warm-up is given in steps, is a training the beginning of a longer one: one of
    more `steps` that is equal in all else then goes on from it, bit for bit the same."""
    warmup: float = Field(0.06, ge=0, lt=1)
    """Share of the steps over which the rate rises linearly."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps over which it rises; overrides `warmup`."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay; biases and norms are left out."""
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    """AdamW's decay rates (RoBERTa's)."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    class_weights: Literal["none", "inverse_sqrt"] = "none"
    """`inverse_sqrt` weights each class by 1/sqrt(its share): a deviation from the paper."""
    soft_labels: SoftLabels | None = None
    """If given, the loss compares probabilities too; gold labels count as certain."""
    selection: Selection | None = None
    """If given, the best weights are kept, else the last."""
    on_collapse: Literal["continue", "stop"] = "continue"
    """Whether a training that has collapsed goes on to its end; it is told in either case, and
    never begun again with other random numbers."""
    freeze_embeddings: bool = False
    """Leave the embedding layer as pre-trained."""
    max_tokens: int = Field(256, ge=8)
    """Longest encoded pair, or as long as the model can hold; longer ones are cut at the end of the
    longer sentence."""
    tokens_per_micro_batch: int | None = Field(None, ge=8)
    """Padded tokens that one worker holds at once, halved where its GPU's memory does not hold
    them; gradients are summed over micro-batches. Null takes 8,192 on a GPU and 2,048 on a CPU."""
    precision: Precision = "auto"
    """`auto` is bfloat16 where the GPU has it, else float32; a training keeps to its end the one in
    which it began, on whatever device it goes on."""
    seed: int | None = Field(None, ge=0)
    """Seed of classifier head, dropout and data order; null takes the spec's."""

    @property
    def open_ended(self) -> bool:
        """Whether no step depends on how many follow it, as those of a share of the steps do: the
        warm-up, and the last tenth by which a collapse is told."""
        warm = self.warmup_steps is not None or self.warmup == 0
        constant = self.schedule == "constant" and self.steps is not None
        return constant and warm and self.on_collapse == "continue"

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Training:
        if self.warmup_steps and self.steps and self.warmup_steps >= self.steps:
            raise ValueError("warmup_steps must be below steps; lower it")
        return self

    @model_validator(mode="after")
    def _a_batch_holds_two_of_the_longest(self) -> Training:
        if self.batch_tokens is not None and self.batch_tokens < 2 * self.max_tokens:
            raise ValueError(
                f"batch_tokens is below twice max_tokens ({self.max_tokens}); raise it, or lower "
                "max_tokens"
            )
        return self


class Model(Section):
    """A pre-trained encoder."""

    model: str
    """Hub id, folder (absolute or relative to `data_root`), or `miniature:english` /
    `miniature:multilingual`."""
    revision: str | None = None
    """Commit hash of a hub id; null takes the one pinned in `raythief/hub.py`."""


class Sanity(Section):
    """A look at the victim before anything else is bought from it."""

    count: int = Field(60, ge=0)
    """Real labelled pairs that it is asked, taken evenly by label from the English examples of
    the first of `evaluation.sets` of real data, of a test split only if there is no other; 0
    turns the gate off, and so does having no such set."""


class Victim(Model):
    """The black box: it turns pairs into hard labels, and nothing else is known of it."""

    model: str = "FacebookAI/roberta-large-mnli"
    """Hub id, folder (absolute or relative to `data_root`), or `miniature:english`."""
    labels: Annotated[tuple[Label, Label, Label] | None, AfterValidator(each_once)] = None
    """Names of the model's outputs 0, 1, 2; needed only where its config does not name them."""
    training: Training | None = None
    """If given, `model` is a bare encoder that is first fine-tuned on all of `real.train`."""
    scores: bool = False
    """Keep the probability of each label beside the label, which `soft_labels` need; an API must
    give them."""
    api: Api | None = None
    """If given, the victim is asked over HTTP; `model` is then only what `raythief serve` has."""
    sanity: Sanity = Sanity()
    """The gate before the purchase."""

    @model_validator(mode="after")
    def _no_bare_encoder(self) -> Victim:
        if self.model.startswith("miniature:") and self.training is None and self.api is None:
            raise ValueError(f"`{self.model}` is a bare encoder; give training (`training: {{}}`)")
        if self.scores and self.api is not None and self.api.score_path() is None:
            raise ValueError("scores: say in api.scores where the answers hold them")
        return self


class Extractor(Model):
    """The thief's model: a pre-trained encoder that is fine-tuned on the victim's labels."""

    queries: int | None = Field(None, ge=1)
    """Learn from only the first so many of the labelled queries, of which fewer lie within more;
    null takes all but those that `evaluation.sets` of source `queries` hold back. All of
    `queries.count` are bought, once, whatever rows take of them."""
    model: str = "FacebookAI/xlm-roberta-large"
    """Hub id, folder (absolute or relative to `data_root`), `miniature:multilingual`, or `bilstm`
    for the baseline that `bilstm` describes."""
    training: Training = Training()
    """How it is fine-tuned."""
    bilstm: BiLstm | None = None
    """The BiLSTM baseline; used only where `model` is `bilstm`."""

    @model_validator(mode="after")
    def _bilstm_is_described(self) -> Extractor:
        if self.model == BILSTM and self.bilstm is None:
            raise ValueError(
                "model `bilstm` needs the section `bilstm`, with `embeddings` and `parallel`"
            )
        return self


class Real(Section):
    """Real labelled data that the thief may have (paper, section 3)."""

    train: Pairs = HubPairs()
    """The data set, English; also what a victim is trained on."""
    fraction: float = Field(0.0, ge=0, le=1)
    """Share of it that the thief has; smaller shares lie within larger ones."""
    placement: Literal["during", "after", "only"] = "after"
    """`during` mixes it with the queries, `after` fine-tunes once more on it, `only` leaves the
    queries out (a baseline)."""
    training: Training | None = None
    """How the `after` stage is fine-tuned; null takes `extractor.training`."""

    @field_validator("train", mode="before")
    @classmethod
    def _gold_labels(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("source") == "queries":
            raise ValueError(
                "source `queries` is for evaluation.sets alone, its labels are the victim's; name "
                "real data"
            )
        return given

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Real:
        if self.placement == "only" and self.fraction == 0:
            raise ValueError("placement `only` needs a fraction above 0")
        if "en" not in self.train.languages:
            raise ValueError("train.languages must hold `en`, which is what is trained on")
        return self


class Evaluation(Section):
    """Accuracy per language, and agreement with the victim."""

    sets: Annotated[dict[str, EvaluationPairs], AfterValidator(folder_names)] = {
        "mnli": HubPairs(split="validation_matched"),
        "xnli": HubPairs(dataset="facebook/xnli", split="test", languages=LANGUAGES),
    }
    """Labelled sets by name. Items that share an id across languages are translations. Source
    `queries` is for a thief that has no real data."""


class Figure2(Model):
    """How far gibberish is from real data, seen by a pre-trained encoder (paper, section 4).

    The vector of a pair is the maximum over its tokens of the encoder's last layer. Each of `count`
    real pairs and `count` queries has a distance to the nearest pair of `real.train`; the figure
    is the histograms of both.
    """

    model: str = "FacebookAI/roberta-large"
    """Hub id, folder (absolute or relative to `data_root`), or `miniature:english` /
    `miniature:multilingual`."""
    count: int = Field(1000, ge=2)
    """Real pairs (drawn by the seed), and queries (the first ones), that are measured."""
    real: str = "mnli"
    """Which of `evaluation.sets` the real pairs are from; English."""
    distance: Literal["inner_product", "cosine"] = "inner_product"
    """`inner_product` is minus the inner product of two vectors, which is how the paper's
    "Inner-Product distance" is read here; `cosine` is 1 minus that of vectors of length 1."""


class Inference(Section):
    """How pairs are batched for labelling and evaluation."""

    rows_per_shard: int = Field(2048, ge=1)
    """Rows that are one unit of work, one file, and what a crash can cost."""
    tokens_per_batch: int | None = Field(None, ge=8)
    """Padded tokens per forward pass, halved by an actor whose GPU memory does not hold them; null
    takes 8,192 on a GPU and 1,024 on a CPU, whose caches hold no more."""
    max_tokens: int = Field(256, ge=8)
    """Longest encoded pair, or as long as the model can hold; longer ones are cut at the end of the
    longer sentence."""
    precision: Precision = "auto"
    """`auto` is bfloat16 where the GPU has it, else float32."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention implementation; `auto` is what transformers takes: sdpa, where a model has it (on
    two CPU cores 6 % faster than eager)."""
    compile: bool = False
    """Compile the model with `torch.compile` (dynamic shapes): on two CPU cores 4 % faster, after
    40 s in every actor. Not measured on a GPU."""

    @model_validator(mode="after")
    def _flash_attention_has_its_format(self) -> Inference:
        if self.attention == "flash_attention_2" and self.precision == "float32":
            raise ValueError(
                "attention flash_attention_2 computes in bfloat16 alone; set precision to it, or "
                "attention to auto"
            )
        return self


class Miniature(Section):
    """Sizes of the small world; used only where a source or model is `miniature`."""

    languages: Annotated[tuple[Language, ...], AfterValidator(each_once)] = LANGUAGES
    """Languages of the multilingual encoder; English is always among them."""
    english_steps: int | None = Field(None, ge=1)
    """Pre-training steps of the English encoder; null takes the recipe's."""
    multilingual_steps: int | None = Field(None, ge=1)
    """Pre-training steps of the multilingual encoder; null takes the recipe's."""

    @model_validator(mode="after")
    def _english_is_there(self) -> Miniature:
        if "en" not in self.languages:
            raise ValueError("languages must hold `en`, the victim's language")
        return self
