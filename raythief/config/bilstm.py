"""The BiLSTM baseline: what it consists of, and what aligns its encoders."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from raythief.config.base import Section

BILSTM = "bilstm"
"""What `extractor.model` says of it."""


def _names_the_language(path: str) -> str:
    if "{language}" not in path:
        raise ValueError("needs `{language}` in it to tell the languages apart")
    return path


class FilesVectors(Section):
    """Word vectors from text files (`.vec`, or `.vec.gz`), as fastText and word2vec write them.

    All languages must lie in one space, as fastText's aligned vectors (`wiki.*.align.vec`) do.
    """

    source: Literal["files"]
    """Where the vectors come from."""
    path: str
    """File, relative to `data_root`; `{language}` stands for a language code. Its first line says
    how many words there are and how long their vectors, each other one is a word and its
    numbers, the most frequent word first."""
    max_words: int = Field(200_000, ge=1)
    """Words that are taken of each language, the first ones."""

    _path = field_validator("path")(_names_the_language)


class MiniatureVectors(Section):
    """Word vectors of the project's own small world, counted on linked documents."""

    source: Literal["miniature"]
    """Where the vectors come from."""
    size: int = Field(64, ge=2)
    """Numbers in a vector."""
    documents: int = Field(30_000, ge=1)
    """Linked documents that they are counted on."""
    noise: float = Field(0.1, ge=0)
    """Standard deviation of the noise on each number, where a usual vector has length 1: counting
    as good as finds the dictionary, and no real vectors of translations are the same."""


Vectors = Annotated[FilesVectors | MiniatureVectors, Field(discriminator="source")]


class FilesParallel(Section):
    """English sentences and their translations, from files of one's own."""

    source: Literal["files"]
    """Where the sentences come from."""
    path: str
    """File of each language, relative to `data_root`; `{language}` stands for its code. Text with
    one sentence a line; or, where `english` is null, parquet with two columns of text, called `en`
    and as the language."""
    english: str | None = None
    """File of the same lines in English (`europarl/{language}-en.en`); null where `path` is
    parquet."""
    max_sentences: int = Field(2_000_000, ge=3)
    """Sentences that are taken of each language, the first ones."""

    _path = field_validator("path")(_names_the_language)


class MiniatureParallel(Section):
    """Sentences of the project's own small world, told in two languages."""

    source: Literal["miniature"]
    """Where the sentences come from."""
    count: int = Field(8000, ge=3)
    """Number of sentences."""


Parallel = Annotated[FilesParallel | MiniatureParallel, Field(discriminator="source")]


class Alignment(Section):
    """How a language's encoder learns to say what the English one says of the translation.

    The loss of a sentence x and its translation y (Conneau et al. 2018) is
    d(x, y) - contrast * (d(x', y) + d(x, y')), where d is the Euclidean distance of the encoders'
    vectors and x', y' are other sentences.
    """

    steps: int = Field(20_000, ge=1)
    """Optimiser steps (Adam) in each language."""
    batch_size: int = Field(128, ge=2)
    """Pairs of sentences per step; the other sentences x', y' are drawn from them."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate; it falls linearly to 0."""
    contrast: float = Field(0.25, ge=0, lt=0.5)
    """Weight of the distances that are to grow (lambda); from 0.5 on nothing holds the vectors
    together."""
    tune_words: bool = False
    """Also train the language's word vectors (the English ones stay), which takes four times the
    memory of the vectors; false trains the LSTM alone."""
    max_tokens: int = Field(128, ge=2)
    """Longest sentence in tokens; longer ones are cut."""


class BiLstm(Section):
    """A bidirectional LSTM with maximum pooling on fixed word vectors, one for each language.

    As in Conneau et al. 2018 (X-BiLSTM-max): the English one is trained like any extractor. The
    other languages start from it, take their own word vectors, and are aligned to it on parallel
    sentences.
    """

    embeddings: Vectors
    """The word vectors."""
    parallel: Parallel
    """The sentences and their translations."""
    hidden: int = Field(512, ge=1)
    """Units of the LSTM in each direction."""
    head: int = Field(128, ge=1)
    """Units of the classifier's hidden layer."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in the classifier."""
    alignment: Alignment = Alignment()
    """How the other languages' encoders are aligned."""
