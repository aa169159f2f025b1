"""Where text and labelled pairs come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from raythief.config.base import Label, Language, Section, each_once

TextCleaning = Literal["wikitext_words", "wikitext", "plain"]
"""What becomes of the text of a corpus, see ``raythief.corpora``."""


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
    cleaning: TextCleaning = "wikitext_words"
    """`wikitext_words` drops headings and leaves words as WikiText's own vocabulary has them
    (`state`, `@-@`, `of`); `wikitext` joins them (`state-of-the-art`), as Krishna et al. did;
    `plain` is for text that is not tokenised yet."""


class FilesCorpus(Section):
    """Text from files of one's own: .txt (one paragraph a line), .parquet, .csv or .jsonl (one
    object a line), the last two also as .gz."""

    source: Literal["files"]
    """Where the text comes from."""
    path: str
    """File, folder or glob; relative to `data_root`."""
    column: str = "text"
    """Column that holds the text (of a .txt file: the whole)."""
    cleaning: TextCleaning = "plain"
    """`wikitext_words` drops headings and leaves words as WikiText's own vocabulary has them
    (`state`, `@-@`, `of`); `wikitext` joins them (`state-of-the-art`), as Krishna et al. did;
    `plain` is for text that is not tokenised yet."""


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
    languages: Annotated[tuple[Language, ...], AfterValidator(each_once)] = ("en",)
    """Languages; more than English needs a data set with one configuration per language."""


class FilesPairs(Section):
    """Labelled pairs from parquet files with columns `premise`, `hypothesis` and `label`."""

    source: Literal["files"]
    """Where the pairs come from."""
    path: str
    """Parquet file, relative to `data_root`; `{language}` stands for a language code."""
    labels: Annotated[tuple[Label, Label, Label] | None, AfterValidator(each_once)] = None
    """Names of the integer labels 0, 1, 2; null where the column already holds names."""
    split: str = "train"
    """What the file holds; `test` cannot serve for selection."""
    languages: Annotated[tuple[Language, ...], AfterValidator(each_once)] = ("en",)
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
    languages: Annotated[tuple[Language, ...], AfterValidator(each_once)] = ("en",)
    """Languages; the same items in each."""


class QueriesPairs(Section):
    """Queries that are bought and held back from every extractor, with the victim's answers.

    Accuracy on them is agreement with the victim, which is all that a thief without real data can
    measure.
    """

    source: Literal["queries"]
    """Bought queries that no extractor learns from. The labels are the victim's answers, so that
    accuracy is agreement with it; they are no gold labels, and cannot be `real.train`."""
    count: int = Field(1000, ge=1)
    """The last so many of `queries.count`, less those that the victim rejected; rows without
    queries (`real.placement: only`) do without the set."""

    @property
    def split(self) -> str:
        """No test split: a thief has these pairs, and may select on them."""
        return "validation"

    @property
    def languages(self) -> tuple[Language, ...]:
        """Queries are made of the victim's language."""
        return ("en",)


Pairs = Annotated[HubPairs | FilesPairs | MiniaturePairs, Field(discriminator="source")]
"""Pairs with gold labels."""

EvaluationPairs = Annotated[
    HubPairs | FilesPairs | MiniaturePairs | QueriesPairs, Field(discriminator="source")
]
"""Pairs that a model may be measured on."""
