"""Word vectors counted from documents: which words meet across the two tellings of an event."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raythief.miniature.documents import Document

NO_VECTOR = 1e-6
"""Norms below it are zero but for rounding."""


def word_vectors(
    documents: Sequence[Document], ids: dict[str, int], size: int, norm: float
) -> NDArray[np.float64]:
    """Vectors [len(ids), size] from the words that meet across a document's two passages.

    Words that meet more often than by chance become alike. So do, half as much, words that avoid
    each other: an event has one place, so the names of places shun each other. Between languages
    that is too rare to see word by word; a first round therefore finds each word's nearest words,
    its translations, and the second counts them together. Words that meet by chance, the fillers,
    end up near zero; words that no document has, at zero.
    """
    meetings, expected = count_meetings(documents, ids)
    first = leading_vectors(np.maximum(0, surprise(meetings, expected) - 0.5), size)
    alike = nearest_words(first)
    pooled = surprise(alike @ meetings @ alike.T, alike @ expected @ alike.T)
    strength = np.where(pooled > 0, pooled, -0.5 * np.maximum(pooled, -3))
    vectors = leading_vectors(np.maximum(0, strength - 0.1), size)
    return vectors * norm / usual_norm(vectors)


def count_meetings(
    documents: Sequence[Document], ids: dict[str, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often words meet across passages, and would by chance: both [len(ids), len(ids)].

    Chance is reckoned within each pair of languages, so that words do not come out alike for being
    of one language.
    """
    languages = sorted({language for document in documents for language in document.languages})
    index = {language: i for i, language in enumerate(languages)}
    meetings = np.zeros((len(ids), len(ids)))
    frequency = np.zeros((len(ids), len(languages)))
    linked = np.zeros((len(languages), len(languages)))
    for document in documents:
        one, two = (
            sorted({ids[word] for word in passage.split()})
            for passage in (document.first, document.second)
        )
        a, b = (index[language] for language in document.languages)
        meetings[np.ix_(one, two)] += 1
        frequency[one, a] += 1
        frequency[two, b] += 1
        linked[a, b] += 1
    meetings, linked = meetings + meetings.T, linked + linked.T
    frequency /= np.maximum(linked.sum(axis=0), 1)
    return meetings, frequency @ linked @ frequency.T


def surprise(
    meetings: NDArray[np.float64], expected: NDArray[np.float64], prior: float = 2.0
) -> NDArray[np.float64]:
    """Log of how much more often than by chance; `prior` meetings by chance temper rare words."""
    result: NDArray[np.float64] = np.log((meetings + prior) / (expected + prior))
    return result


def leading_vectors(likeness: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Vectors [words, size] whose inner products come closest to a symmetric [words, words]."""
    values, directions = np.linalg.eigh(likeness)
    leading = np.argsort(-values)[:size]
    vectors = np.zeros((len(likeness), size))
    vectors[:, : len(leading)] = directions[:, leading] * np.sqrt(np.maximum(values[leading], 0))
    return vectors


def usual_norm(vectors: NDArray[np.float64]) -> float:
    """The norm of a word with content: the upper quartile over the words that have a vector."""
    norms = np.linalg.norm(vectors, axis=1)
    return float(np.quantile(norms[norms > NO_VECTOR], 0.75))


def nearest_words(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """[words, words], 1 where two vectors with some length have a cosine above 0.5, else 0."""
    norms = np.linalg.norm(vectors, axis=1)
    long_enough = norms > 0.3 * usual_norm(vectors)
    near = vectors @ vectors.T > 0.5 * np.outer(norms, norms)
    near &= np.outer(long_enough, long_enough)
    np.fill_diagonal(near, True)
    return near.astype(float)
