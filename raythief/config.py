"""The spec: one YAML file is one experiment.

A spec loads into frozen, validated objects, one section per stage. Everything in it decides the
result and enters the fingerprints of the artifacts, except ``name``, ``storage``, ``data_root``,
``resources``, ``serve``, ``costs``, ``sweep`` and ``variants``, which say where, how fast and how
often.

    spec = load("jobs/table2.yaml", overrides=["extractor.training.learning_rate=1e-5"])
    for variant in expand(spec): ...

``raythief reference`` prints every field with its default and its meaning, from this file.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import jmespath
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from raythief.errors import UserError

Label = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = get_args(Label)
"""The canonical labels, in the order of MNLI and XNLI (0, 1, 2)."""

Language = Literal[
    "en", "ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"
]
LANGUAGES: tuple[Language, ...] = get_args(Language)
"""The 15 languages of XNLI in the order of the paper's Table 2."""

Precision = Literal["auto", "float32", "bfloat16"]
DATA_ROOT_VARIABLE = "RAYTHIEF_DATA"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Section(BaseModel):
    """A part of the spec: frozen, no unknown keys, every field described by its docstring."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, given: Any) -> Any:
        for name, value in given.items() if isinstance(given, Mapping) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and field.annotation is not bool:
                raise ValueError(
                    f"{name} takes {_type_name(field.annotation)}, not {str(value).lower()}"
                )
        return given


def _each_once(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    if values is None:
        return None
    if not values:
        raise ValueError("give at least one")
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"names `{twice[0]}` twice")
    return values


def _folder_names(named: dict[str, Any]) -> dict[str, Any]:
    """Refuse names that can not be the folders which they become on storage."""
    if not named:
        raise ValueError("give at least one")
    for name in named:
        if not re.fullmatch(NAME_PATTERN, name):
            raise ValueError(f"`{name}` can name nothing; use letters, digits, `.`, `_` and `-`")
    return named


# --- sources of data --------------------------------------------------------------------------


class HubCorpus(Section):
    """Text from a data set on the Hugging Face hub."""

    source: Literal["hub"] = "hub"
    """Where the text comes from."""
    dataset: str = "Salesforce/wikitext"
    """Data set id, with its namespace."""
    config: str | None = "wikitext-103-raw-v1"
    """Configuration of the data set; null where it has only one."""
    split: str = "train"
    """Split to read."""
    column: str = "text"
    """Column that holds the text."""
    revision: str | None = None
    """Commit hash; null takes the one pinned in `raythief/hub.py`."""
    cleaning: Literal["wikitext", "plain"] = "wikitext"
    """`wikitext` drops headings and undoes ` @-@ ` marks; `plain` only splits sentences."""


class FilesCorpus(Section):
    """Text from files of one's own: .txt (one paragraph a line) or .parquet."""

    source: Literal["files"]
    """Where the text comes from."""
    path: str
    """File, folder or glob; relative to `data_root`."""
    column: str = "text"
    """Column that holds the text (parquet only)."""
    cleaning: Literal["wikitext", "plain"] = "plain"
    """`wikitext` drops headings and undoes ` @-@ ` marks; `plain` only splits sentences."""


class MiniatureCorpus(Section):
    """English text of the project's own small world."""

    source: Literal["miniature"]
    """Where the text comes from."""
    sentences: int = Field(6000, ge=1)
    """Number of sentences."""
    domain: Literal["general", "foreign"] = "general"
    """`foreign` speaks of things that the task's data never mentions (the paper's CORD-19)."""


Corpus = Annotated[HubCorpus | FilesCorpus | MiniatureCorpus, Field(discriminator="source")]


class HubPairs(Section):
    """Labelled premise/hypothesis pairs from the Hugging Face hub."""

    source: Literal["hub"] = "hub"
    """Where the pairs come from."""
    dataset: str = "nyu-mll/multi_nli"
    """Data set id, with its namespace."""
    split: str = "train"
    """Split to read."""
    revision: str | None = None
    """Commit hash; null takes the one pinned in `raythief/hub.py`."""
    languages: Annotated[tuple[Language, ...], AfterValidator(_each_once)] = ("en",)
    """Languages; more than English needs a data set with one configuration per language."""


class FilesPairs(Section):
    """Labelled pairs from parquet files with columns `premise`, `hypothesis` and `label`."""

    source: Literal["files"]
    """Where the pairs come from."""
    path: str
    """Parquet file, relative to `data_root`; `{language}` stands for a language code."""
    labels: Annotated[tuple[Label, Label, Label] | None, AfterValidator(_each_once)] = None
    """Names of the integer labels 0, 1, 2; null where the column already holds names."""
    split: str = "train"
    """What the file holds; `test` can not serve for selection."""
    languages: Annotated[tuple[Language, ...], AfterValidator(_each_once)] = ("en",)
    """Languages; more than one needs `{language}` in `path`."""

    @model_validator(mode="after")
    def _one_file_per_language(self) -> FilesPairs:
        if len(self.languages) > 1 and "{language}" not in self.path:
            raise ValueError("path needs `{language}` in it to tell several languages apart")
        return self


class MiniaturePairs(Section):
    """Labelled pairs of the project's own small world."""

    source: Literal["miniature"]
    """Where the pairs come from."""
    count: int = Field(12000, ge=3)
    """Number of pairs in each language."""
    split: Literal["train", "validation", "test"] = "train"
    """Splits share no random numbers."""
    languages: Annotated[tuple[Language, ...], AfterValidator(_each_once)] = ("en",)
    """Languages; the same items in each."""


Pairs = Annotated[HubPairs | FilesPairs | MiniaturePairs, Field(discriminator="source")]


# --- stages -----------------------------------------------------------------------------------


class Vocabulary(Section):
    """Words and sentence lengths of the corpus: what queries are drawn from (paper, section 2)."""

    sampling: Literal["uniform", "unigram"] = "uniform"
    """`uniform` as in the paper; `unigram` draws words by how often they occur."""
    top_k: int | None = Field(None, ge=1)
    """Keep only the k most frequent words (Krishna et al. 2020 kept 10,000); null keeps all."""
    min_count: int = Field(1, ge=1)
    """Keep only words that occur at least so often."""
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


class Training(Section):
    """Fine-tuning of an encoder on labelled pairs."""

    epochs: float = Field(3.0, gt=0)
    """Passes over the training set; `steps` overrides it."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps (the paper's "maximum iterations"); null derives them from `epochs`."""
    batch_size: int = Field(32, ge=1)
    """Examples per optimiser step, over all workers."""
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate of AdamW."""
    warmup: float = Field(0.06, ge=0, lt=1)
    """Share of the steps over which the rate rises linearly; it then falls linearly to 0."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay; biases and norms are left out."""
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    """AdamW's decay rates (RoBERTa's)."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    class_weights: Literal["none", "inverse_sqrt"] = "none"
    """`inverse_sqrt` weights each class by 1/sqrt(its share): a deviation from the paper."""
    freeze_embeddings: bool = False
    """Leave the embedding layer as pre-trained."""
    max_tokens: int = Field(256, ge=8)
    """Longest encoded pair, or as long as the model can hold; longer ones are cut at the end of the
    longer sentence."""
    tokens_per_micro_batch: int = Field(4096, ge=8)
    """Padded tokens that one worker holds at once; gradients are summed over micro-batches."""
    precision: Precision = "auto"
    """`auto` is bfloat16 where the GPU has it, else float32."""
    seed: int | None = Field(None, ge=0)
    """Seed of classifier head, dropout and data order; null takes the spec's."""


class Model(Section):
    """A pre-trained encoder."""

    model: str
    """Hub id, folder (absolute or relative to `data_root`), or `miniature:english` /
    `miniature:multilingual`."""
    revision: str | None = None
    """Commit hash of a hub id; null takes the one pinned in `raythief/hub.py`."""


PRESETS: dict[str, dict[str, Any]] = {
    "raythief": {
        "request": {"pairs": "{rows}"},
        "row": {"premise": "{premise}", "hypothesis": "{hypothesis}"},
        "answers": "answers",
        "label": "label",
    },
    "tei": {
        "request": {"inputs": "{rows}"},
        "row": ["{premise}", "{hypothesis}"],
        "answers": "@",
        "label": "max_by(@, &score).label",
    },
    "huggingface": {
        "request": {"inputs": "{rows}"},
        "row": {"text": "{premise}", "text_pair": "{hypothesis}"},
        "answers": "@",
        "label": "max_by([@][], &score).label",
    },
}
"""How known servers write a batch of pairs and its answers: our own `raythief serve`,
text-embeddings-inference's `/predict`, and Hugging Face's inference endpoints."""


def _expression(text: str | None) -> str | None:
    if text is not None:
        try:
            jmespath.compile(text)
        except jmespath.exceptions.JMESPathError as error:
            raise ValueError(f"is no JMESPath: {str(error).splitlines()[0]}") from None
    return text


Expression = Annotated[str | None, AfterValidator(_expression)]


class Api(Section):
    """A victim behind JSON over HTTP: how to ask it, how fast, and what it bills."""

    url: str
    """Address that takes POST requests."""
    identity: str | None = None
    """What identifies the model behind the address, such as its name and version; null takes the
    address. Labels bought under one identity are never bought again under it."""
    preset: Literal["raythief", "tei", "huggingface", "custom"] = "raythief"
    """Fills `request`, `row`, `answers` and `label` for our own server, for
    text-embeddings-inference's `/predict`, or for a Hugging Face endpoint."""
    request: Any = None
    """Body of a request, in which the text `{rows}` stands for the list of rows; null takes the
    preset's."""
    row: Any = None
    """One row of it, in which `{premise}` and `{hypothesis}` stand for the sentences; null takes
    the preset's."""
    answers: Expression = None
    """JMESPath from the response to the list of answers, one for each row; null: the preset's."""
    label: Expression = None
    """JMESPath from one answer to its label; null takes the preset's."""
    labels: dict[str, Label] | None = None
    """Canonical label of each label that the API gives; null where it gives them canonical."""
    headers: dict[str, str] = {}
    """Further headers. Keys do not belong here: see `key_env`."""
    key_env: str | None = None
    """Environment variable that holds the API key; it stands nowhere else."""
    key_header: str = "Authorization"
    """Header that carries the key."""
    key_prefix: str = "Bearer "
    """What stands before the key in its header."""
    rows_per_request: int = Field(16, ge=1)
    """Pairs in a request, as many as the API takes."""
    in_flight: int = Field(16, ge=1)
    """Requests under way at once, of each actor."""
    requests_per_second: float | None = Field(None, gt=0)
    """Limit over all actors of a run; null sets none."""
    rows_per_second: float | None = Field(None, gt=0)
    """Limit over all actors of a run; null sets none."""
    timeout_s: float = Field(60.0, gt=0)
    """Seconds after which a request is given up."""
    attempts: int = Field(8, ge=1)
    """Attempts at a request that meets 429, 5xx, time-outs or broken connections."""
    backoff_s: float = Field(1.0, gt=0)
    """Mean wait before the second attempt; it doubles with each one, with jitter."""
    max_backoff_s: float = Field(60.0, gt=0)
    """Longest wait, unless the API asks for a longer one (`Retry-After`)."""
    billed: Literal["answer", "attempt"] = "answer"
    """What the API counts: rows that it answered, or rows of every attempt."""
    max_rejected: float = Field(0.01, ge=0, le=1)
    """Share of the queries that the API may refuse, or answer with nonsense, before the run stops
    with what is bought kept."""
    evaluate: Literal["everything", "english", "nothing"] = "english"
    """Which part of `evaluation.sets` is bought to measure the victim itself; agreement needs
    the English one."""

    @model_validator(mode="after")
    def _complete_and_safe(self) -> Api:
        address = urllib.parse.urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"url: `{self.url}` is no address; write https://host/path")
        if address.username or address.password:
            raise ValueError("url holds a user or password; use key_env for what is secret")
        local = address.hostname in ("localhost", "127.0.0.1", "::1")
        if self.key_env and address.scheme == "http" and not local:
            raise ValueError("url: a key is never sent over plain http; use https")
        secret = [name for name in self.headers if name.lower() in ("authorization", "cookie")]
        if secret:
            raise ValueError(f"headers.{secret[0]} is secret; use key_env, which names a variable")
        if self.preset == "custom":
            absent = [name for name in PRESETS["raythief"] if getattr(self, name) is None]
            if absent:
                raise ValueError(f"{absent[0]} is missing, which preset `custom` needs")
        return self

    def protocol(self) -> dict[str, Any]:
        """``request``, ``row``, ``answers`` and ``label``, the preset's where they are null."""
        preset = PRESETS.get(self.preset, {})
        given = {name: getattr(self, name) for name in PRESETS["raythief"]}
        return {name: preset.get(name) if own is None else own for name, own in given.items()}


class Sanity(Section):
    """A look at the victim before anything else is bought from it."""

    count: int = Field(60, ge=0)
    """Real labelled pairs that it is asked, taken evenly by label from the English examples of
    the first of `evaluation.sets`; 0 turns the gate off."""


class Victim(Model):
    """The black box: it turns pairs into hard labels, and nothing else is known of it."""

    model: str = "FacebookAI/roberta-large-mnli"
    """Hub id, folder (absolute or relative to `data_root`), or `miniature:english`."""
    labels: Annotated[tuple[Label, Label, Label] | None, AfterValidator(_each_once)] = None
    """Names of the model's outputs 0, 1, 2; needed only where its config does not name them."""
    training: Training | None = None
    """If given, `model` is a bare encoder that is first fine-tuned on all of `real.train`."""
    api: Api | None = None
    """If given, the victim is asked over HTTP; `model` is then only what `raythief serve` has."""
    sanity: Sanity = Sanity()
    """The gate before the purchase."""

    @model_validator(mode="after")
    def _no_bare_encoder(self) -> Victim:
        if self.model.startswith("miniature:") and self.training is None and self.api is None:
            raise ValueError(f"`{self.model}` is a bare encoder; give training (`training: {{}}`)")
        return self


class Extractor(Model):
    """The thief's model: a pre-trained encoder that is fine-tuned on the victim's labels."""

    model: str = "FacebookAI/xlm-roberta-large"
    """Hub id, folder (absolute or relative to `data_root`), or `miniature:multilingual`."""
    training: Training = Training()
    """How it is fine-tuned."""


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

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Real:
        if self.placement == "only" and self.fraction == 0:
            raise ValueError("placement `only` needs a fraction above 0")
        if "en" not in self.train.languages:
            raise ValueError("train.languages must hold `en`, which is what is trained on")
        return self


class Evaluation(Section):
    """Accuracy per language, and agreement with the victim."""

    sets: Annotated[dict[str, Pairs], AfterValidator(_folder_names)] = {
        "mnli": HubPairs(split="validation_matched"),
        "xnli": HubPairs(dataset="facebook/xnli", split="test", languages=LANGUAGES),
    }
    """Labelled sets by name. Items that share an id across languages are translations."""


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


class Miniature(Section):
    """Sizes of the small world; used only where a source or model is `miniature`."""

    languages: Annotated[tuple[Language, ...], AfterValidator(_each_once)] = LANGUAGES
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


# --- where, how fast, how often ---------------------------------------------------------------


class Workers(Section):
    """A group of equal workers."""

    workers: int = Field(1, ge=1)
    """Number of actors or training workers."""
    cpus: float = Field(1.0, gt=0)
    """CPUs of each."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of each; null takes one where the cluster has any."""


class Resources(Section):
    """What the stages run on. Never part of a fingerprint: it changes no result."""

    inference: Workers = Workers()
    """Actors that label and evaluate."""
    training: Workers = Workers()
    """Workers that train."""
    concurrent_stages: int = Field(1, ge=1)
    """Independent stages that are built side by side; each takes workers of its own."""
    checkpoint_every: int = Field(500, ge=1)
    """Optimiser steps between checkpoints, the most that a crash can cost."""
    restarts: int = Field(3, ge=0)
    """Failures of workers that a stage bears before it gives up."""


class Serve(Section):
    """The victim as an HTTP API of our own: `raythief serve`."""

    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on; `0.0.0.0` lets other machines in."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to listen on."""
    replicas: int = Field(1, ge=1)
    """Copies of the model; with `max_replicas` the least number of them."""
    max_replicas: int | None = Field(None, ge=1)
    """Most copies, which Ray Serve then adds and removes with the load; null keeps `replicas`."""
    requests_per_replica: float = Field(16.0, gt=0)
    """Requests at once, on average, that one copy is to bear before `max_replicas` adds another."""
    cpus: float = Field(1.0, gt=0)
    """CPUs of each copy."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of each copy; null takes one where the cluster has any."""
    max_pairs_per_batch: int = Field(256, ge=1)
    """Pairs, of all requests that wait, that go through the model together;
    `inference.tokens_per_batch` still bounds each forward pass."""
    batch_wait_s: float = Field(0.01, ge=0)
    """Seconds that a pair waits for others to join its batch."""
    max_pairs_per_request: int = Field(512, ge=1)
    """Most pairs in a request; larger ones are refused with status 413."""
    scores: bool = False
    """Answer with the probability of each label too, not only with the likeliest label."""
    key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the key which clients must send as `Authorization: Bearer
    KEY`; null asks for none."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Serve:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas is below replicas; raise it, or leave it null")
        return self


class Costs(Section):
    """Prices and speeds that `raythief plan` reckons with."""

    query_usd: float = Field(0.0, ge=0)
    """Price of one query."""
    budget: int | None = Field(None, ge=0)
    """Queries that may be spent at most, over all rows of the table; retries that are billed and
    what a crash lost count too. Null sets no limit."""
    gpu_hour_usd: float = Field(0.0, ge=0)
    """Price of one GPU for one hour."""
    gpu_flops: float = Field(790e12, gt=0)
    """Peak of one GPU in floating-point operations per second (H100, bfloat16, dense)."""
    utilisation: float = Field(0.4, gt=0, le=1)
    """Share of the peak that the model's own operations reach: an assumption until measured."""


class Choice(Section):
    """One dimension of a sweep: exactly one of the keys."""

    grid: tuple[Any, ...] | None = None
    """Every one of these values."""
    choice: tuple[Any, ...] | None = None
    """One of these values, at random."""
    uniform: tuple[float, float] | None = None
    """A number between two bounds."""
    loguniform: tuple[float, float] | None = None
    """A number between two bounds, uniform in its logarithm."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Choice:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of grid, choice, uniform and loguniform")
        values = getattr(self, given[0])
        if not values:
            raise ValueError(f"{given[0]} is empty")
        if given[0].endswith("uniform") and not (values[0] < values[1]):
            raise ValueError(f"{given[0]} needs its lower bound first")
        if given[0] == "loguniform" and values[0] <= 0:
            raise ValueError("loguniform needs bounds above 0")
        return self


class Sweep(Section):
    """A search over any fields of the spec, through Ray Tune."""

    parameters: dict[str, Choice] = {}
    """Field path (`extractor.training.learning_rate`) and where its values come from."""
    samples: int = Field(1, ge=1)
    """Draws of the random dimensions; a grid is gone through once for each."""
    set: str = "xnli"
    """Evaluation set whose mean accuracy over its languages is maximised; never a test split."""
    concurrent: int = Field(1, ge=1)
    """Trials at once, as far as the cluster holds them."""


Seed = Annotated[int, Field(ge=0)]


class Spec(Section):
    """One experiment."""

    name: str = Field(pattern=NAME_PATTERN, max_length=64)
    """Name of the experiment: where its report lies. Letters, digits, `.`, `_` and `-`."""
    title: str | None = None
    """Headline of the report."""
    storage: str = "artifacts"
    """Folder, or any address that pyarrow knows (`s3://bucket/path`, `gs://...`)."""
    data_root: str | None = None
    """Folder from which relative paths of data and models start; null takes the environment
    variable RAYTHIEF_DATA, else the current folder."""
    seed: int = Field(0, ge=0)
    """Seed of everything that does not set its own."""
    seeds: Annotated[tuple[Seed, ...] | None, AfterValidator(_each_once)] = None
    """Repeat the whole experiment with each of these seeds; the report shows mean and spread."""
    paper: Literal["table1", "table2", "vocabulary"] | None = None
    """Which of the paper's results stand beside ours; variants are matched by their names."""
    corpus: Corpus = HubCorpus()
    """Text whose words make the queries."""
    vocabulary: Vocabulary = Vocabulary()
    """What is drawn from the corpus."""
    queries: Queries = Queries()
    """The gibberish."""
    victim: Victim = Victim()
    """The model behind the API."""
    real: Real = Real()
    """Real labelled data."""
    extractor: Extractor = Extractor()
    """The thief's model."""
    evaluation: Evaluation = Evaluation()
    """What it is measured on."""
    inference: Inference = Inference()
    """Batching of labelling and evaluation."""
    miniature: Miniature = Miniature()
    """The small world."""
    resources: Resources = Resources()
    """What it runs on."""
    serve: Serve = Serve()
    """The server of `raythief serve`."""
    costs: Costs = Costs()
    """Prices and speeds for the plan."""
    sweep: Sweep = Sweep()
    """The search of `raythief sweep`."""
    variants: dict[str, dict[str, Any]] = {}
    """Rows of a table: a name, and the fields in which it differs (`real.fraction: 0.05`)."""

    @model_validator(mode="after")
    def _sweep_leaves_the_test_alone(self) -> Spec:
        if self.sweep.parameters:
            chosen = self.evaluation.sets.get(self.sweep.set)
            if chosen is None:
                raise ValueError(
                    f"sweep.set names `{self.sweep.set}`, which evaluation.sets lacks"
                    + _nearest(self.sweep.set, self.evaluation.sets)
                )
            if chosen.split == "test":
                raise ValueError(
                    f"sweep.set names `{self.sweep.set}`, a test split: select on validation data"
                )
        return self

    @property
    def root(self) -> Path:
        """Folder from which relative paths of data start."""
        return Path(self.data_root or os.environ.get(DATA_ROOT_VARIABLE) or ".")


# --- loading ----------------------------------------------------------------------------------


class Variant(Section):
    """One row of a table for one seed: a spec with no variants and one seed."""

    name: str
    """Name of the row; the experiment's own name where the spec has no variants."""
    spec: Spec
    """The spec with the row's fields set."""


OF_ALL_ROWS = (
    "name", "title", "storage", "seeds", "paper", "serve", "costs", "sweep", "variants"
)  # fmt: skip
"""Fields that no variant can set."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-5` is a number (YAML 1.1 wants `1.0e-5`) and keys are unique text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            where = f"{key_node.start_mark.name}: line {key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise UserError(f"{where} has the key `{key}`, which is no text; put it in quotes")
            if key in seen:
                raise UserError(f"{where} repeats the key `{key}`")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """Read a spec file and apply ``a.b=value`` overrides (values are YAML).

    A spec that begins with ``extends: other.yaml`` (relative to its own folder) is laid over that
    one, so that a family of experiments says once what it has in common.

    Raises:
        UserError: the file is absent or no YAML mapping, or a field is unknown or wrong.
    """
    tree = _read(Path(path), ())
    changes: dict[str, Any] = {}
    for override in overrides:
        field, equals, value = override.partition("=")
        if not equals or not field:
            raise UserError(f"--set {override}: write it as field.path=value")
        changes = merge(changes, nest({field.strip(): _parse(value, f"--set {override}")}))
    spec = validate(merge(tree, changes), str(path))
    for _ in expand(spec, str(path)):  # a wrong variant is told before anything starts
        pass
    return spec


def validate(tree: Mapping[str, Any], origin: str) -> Spec:
    """Turn a tree of plain values into a spec, or raise ``UserError`` with one sentence a fault."""
    try:
        return Spec.model_validate(tree)
    except ValidationError as error:
        faults = [_sentence(dict(fault)) for fault in error.errors()]
        raise UserError("\n".join(f"{origin}: {fault}" for fault in faults)) from None


def expand(spec: Spec, origin: str = "spec") -> Iterator[Variant]:
    """Yield every variant for every seed, each a spec of its own.

    Variants with equal stages share their artifacts, so a row costs only what it does not share.
    """
    base = spec.model_dump(mode="json", exclude={"variants", "seeds"}, exclude_unset=True)
    for name, changes in (spec.variants or {spec.name: {}}).items():
        where = f"{origin}: variants.{name}" if spec.variants else origin
        tree = nest(changes)
        for field in tree:
            if field in OF_ALL_ROWS or (field == "seed" and spec.seeds):
                raise UserError(f"{where}: {field} holds for all rows; set it outside of variants")
        for seed in spec.seeds or (spec.seed,):
            whole = merge(merge(base, {"seed": seed}), tree)
            yield Variant(name=name, spec=validate(whole, where))


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``change`` over ``base``, mapping by mapping.

    A mapping that names another ``source`` replaces the old one, whose fields would not fit it.
    """
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            other_source = (
                "source" in old and "source" in value and old["source"] != value["source"]
            )
            merged[key] = dict(value) if other_source else merge(old, value)
        else:
            merged[key] = value
    return merged


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{"a.b": 1}`` into ``{"a": {"b": 1}}``; nested mappings may hold dotted keys too."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        branch: dict[str, Any] = {last: nest(value) if isinstance(value, Mapping) else value}
        for parent in reversed(parents):
            branch = {parent: branch}
        tree = merge(tree, branch)
    return tree


def fields() -> Iterator[tuple[str, str, str, str]]:
    """Yield (path, type, default, meaning) of every field, for the reference."""
    yield from _fields(Spec, "")


# --- helpers ----------------------------------------------------------------------------------


def _read(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    """The tree of a spec file, laid over those that it extends."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: can not be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None
    tree = _parse(text, str(path))
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a spec is a mapping of fields to values")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: extends: name one spec file")
    other = path.parent / base
    if other.resolve() in extending:
        raise UserError(f"{path}: extends: {base} extends this file in turn")
    return merge(_read(other, (*extending, path.resolve())), tree)


def _parse(text: str, origin: str) -> Any:
    try:
        loader = _Loader(text)
        loader.name = origin
        return loader.get_single_data()
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "it can not be parsed"
        raise UserError(f"{origin}: not YAML{line}: {problem}") from None


ANY_NAME = "NAME"


def _sentence(fault: Mapping[str, Any]) -> str:
    """One sentence for one pydantic fault: the field's path and what to do."""
    shown, siblings, tags = _walk([str(part) for part in fault["loc"]])
    path = ".".join(shown) or "spec"
    if fault["type"] == "extra_forbidden":
        return f"{path} is no field" + _nearest(shown[-1], siblings)
    if fault["type"] == "union_tag_not_found":
        return f"{path}.source is missing; choose from {', '.join(tags)}"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = fault.get("input")
    if isinstance(given, (str, int, float)) and fault["type"] != "value_error":
        return f"{path}: {message}, not {given!r}"
    return f"{path}: {message}"


def _walk(location: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The path that a fault's location stands for, without the tags by which pydantic tells
    sources apart; the fields that may stand at its end; and the sources to choose from there.
    """
    shown: list[str] = []
    here: list[type[BaseModel]] = [Spec]
    known: list[str] = []
    named = False  # the next part is a name of the user's own choice
    for part in location:
        tagged = [one for one in here if part in _tags(one)]
        if tagged and not named:
            here = tagged
            continue
        shown.append(part)
        names = [] if named else [name for one in here for name in one.model_fields]
        known = list(dict.fromkeys(names))
        if named:
            named = False
            continue
        fields_here = [one.model_fields[part] for one in here if part in one.model_fields]
        annotation = fields_here[0].annotation if fields_here else None
        named = get_origin(annotation) is dict
        here = _sections(get_args(annotation)[1] if named else annotation)
    return shown, known, [tag for one in here for tag in _tags(one)]


def _tags(section: type[BaseModel]) -> tuple[str, ...]:
    """The value of `source` that tells a section from others; empty where there is no choice."""
    field = section.model_fields.get("source")
    return get_args(field.annotation) if field else ()


def _nearest(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; choose from {', '.join(names)}" if names else ""


def _fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    source = section.model_fields.get("source")
    only = f"Source `{get_args(source.annotation)[0]}`: " if source else ""
    for name, field in section.model_fields.items():
        path, annotation = f"{prefix}{name}", field.annotation
        default = "required" if field.is_required() else _shown(field.default)
        meaning = (field.description or "").strip()
        yield path, _type_name(annotation), default, meaning and only + meaning
        if get_origin(annotation) is dict:
            path, annotation = f"{path}.{ANY_NAME}", get_args(annotation)[1]
        for inner in _sections(annotation):
            yield from _fields(inner, f"{path}.")


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that an annotation such as ``Annotated[A | B, ...]`` admits."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is dict:
        return []
    return [found for part in get_args(annotation) for found in _sections(part)]


def _type_name(annotation: Any) -> str:
    """What a person calls the type of a field."""
    plain = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "anything"}
    if annotation is type(None):
        return "null"
    if annotation in plain:
        return plain[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        short = arguments if len(arguments) < 6 else (*arguments[:2], "...", arguments[-1])
        return " or ".join(value if value == "..." else f"`{value}`" for value in short)
    if get_origin(annotation) is tuple:
        return f"list of {_type_name(arguments[0])}"
    if get_origin(annotation) is dict:
        return f"mapping to {_type_name(arguments[1])}"
    names = [_type_name(part) for part in arguments if not isinstance(part, FieldInfo)]
    return " or ".join(dict.fromkeys(names))


def _shown(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, dict) and value:
        return ", ".join(value)
    if value is None:
        return "null"
    if isinstance(value, float) and (value >= 1e6 or 0 < value < 1e-3):
        return f"{value:.0e}" if math.log10(value) % 1 == 0 else f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(str(part) for part in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
