"""Word vectors by language: from files that the user names, or counted in the small world.

Only vectors of several languages in one space are of use, such as fastText's aligned ones
(``wiki.de.align.vec``): translations must lie near each other.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from raythief import bilstm, calls, columns, results
from raythief.artifacts import Artifact
from raythief.bilstm import SPECIAL_TOKENS
from raythief.config import LANGUAGES, BiLstm, FilesVectors, Language, MiniatureVectors, Spec
from raythief.errors import UserError
from raythief.progress import Tell

Table = tuple[list[str], NDArray[np.float32]]
"""Words in lower case, each once, the most frequent first; their vectors, shape [words, size]."""

FIELD = "extractor.bilstm.embeddings.path"


def file(vectors: FilesVectors, language: str, root: Path) -> Path:
    """The file of a language.

    Raises:
        MissingFileError: there is none.
    """
    told = f"{FIELD}: there is no file {{path}}; put the vectors of `{language}` there"
    return columns.of_language(root, vectors.path, language, told)


def read(path: Path, max_words: int) -> Table:
    """Read a ``.vec`` file (or ``.vec.gz``): a line ``count size``, then a word and its numbers.

    Words become lower case; of those that thereby become one the first stays, as do the files'
    ``</s>`` and the like out, which the tokenizer has as tokens of its own.

    Args:
        path: The file.
        max_words: Words to take.

    Raises:
        UserError: it cannot be read, or a line is not what it must be.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            return _parse(lines, path, max_words)  # type: ignore[arg-type]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{FIELD}: {path} cannot be read as text: {error}") from None


def _parse(lines: TextIO, path: Path, max_words: int) -> Table:
    header = lines.readline().split()
    if len(header) != 2 or not all(part.isdecimal() for part in header):
        raise UserError(
            f"{FIELD}: {path} does not begin with a line `count size`; give vectors in the text "
            "format of fastText and word2vec"
        )
    count, size = map(int, header)
    table = np.empty((min(count, max_words), size), np.float32)
    found: dict[str, None] = {}
    last = 1
    for number, line in enumerate(lines, start=2):
        if len(found) == len(table):
            break
        last = number
        word, *numbers = line.rstrip("\n ").rsplit(" ", size)  # a word may hold a blank
        try:
            vector = np.array(numbers, np.float32)
        except ValueError:
            vector = np.array([], np.float32)
        if len(vector) != size or not np.isfinite(vector).all():
            raise UserError(
                f"{FIELD}: {path} has no word with {size} numbers in line {number}; "
                "fetch the file again, or correct it"
            )
        word = word.lower()
        if word not in SPECIAL_TOKENS and word not in found:
            table[len(found)] = vector
            found[word] = None
    if len(found) < len(table) and last - 1 < count:
        raise UserError(
            f"{FIELD}: {path} ends after {last - 1:,} of the {count:,} words that it promises; "
            "fetch it again"
        )
    if not found:
        raise UserError(f"{FIELD}: {path} holds no words")
    return list(found), table[: len(found)]


def miniature(
    vectors: MiniatureVectors, languages: Sequence[Language], seed: int
) -> dict[str, Table]:
    """Word vectors of the small world's languages, counted together, by language.

    Words that no document has get noise alone.
    """
    from raythief.miniature.documents import linked_documents, words_of
    from raythief.miniature.vectors import word_vectors

    words = words_of(languages)
    every = sorted({word for own in words.values() for word in own})
    ids = {word: i for i, word in enumerate(every)}
    counted = word_vectors(
        linked_documents(languages, vectors.documents, seed), ids, vectors.size, norm=1.0
    ).astype(np.float32)
    found = {}
    for language, own in words.items():
        places: dict[str, int] = {}
        for word in own:
            places.setdefault(word.lower(), ids[word])
        rng = np.random.default_rng([seed, LANGUAGES.index(language)])
        noise = vectors.noise * rng.standard_normal((len(places), vectors.size))
        table = counted[list(places.values())] + noise
        found[language] = (list(places), table.astype(np.float32))
    return found


# --- the stage --------------------------------------------------------------------------------


def build(
    target: Artifact, how: BiLstm, languages: Sequence[Language], spec: Spec, tell: Tell
) -> results.WordVectors:
    """Write a BiLSTM's folder for each language: word vectors and tokenizer, no LSTM yet.

    Args:
        target: Artifact that receives the folders, each called as its language.
        how: Says where the vectors are from, and the sizes of the model.
        languages: English among them.
        spec: Tells root, seed and restarts.
        tell: Told the languages that are done.

    Raises:
        UserError: a file is missing or ill-formed, or vectors of two languages differ in length.
    """
    together = how.embeddings.source == "miniature"  # its languages are counted at once
    parts = [tuple(languages)] if together else [(language,) for language in languages]
    arguments = {part: (target, how, part, spec.root, spec.seed) for part in parts}
    found: dict[str, dict[str, int]] = {}
    tell(0, len(languages))
    restarts = spec.resources.restarts
    for _, sizes in calls.each(_write, arguments, restarts=restarts, num_cpus=1):
        found |= sizes
        tell(len(found), len(languages))
    for language, sizes in found.items():
        if sizes["size"] != found["en"]["size"]:
            raise UserError(
                f"{FIELD}: the vectors of `{language}` have {sizes['size']} numbers and those of "
                f"`en` {found['en']['size']}; give vectors of one space"
            )
    return results.WordVectors(languages={one: results.Table(**found[one]) for one in languages})


def _write(
    target: Artifact, how: BiLstm, languages: tuple[Language, ...], root: Path, seed: int
) -> dict[str, dict[str, int]]:
    """Write the folders of some languages; how many words each has, of what ``size``."""
    if isinstance(how.embeddings, MiniatureVectors):
        tables = miniature(how.embeddings, languages, seed)
    else:
        limit = how.embeddings.max_words
        tables = {one: read(file(how.embeddings, one, root), limit) for one in languages}
    for language, (words, vectors) in tables.items():
        with tempfile.TemporaryDirectory() as scratch:
            sizes = {"hidden_size": how.hidden, "head_size": how.head, "dropout": how.dropout}
            bilstm.write(Path(scratch), words, vectors, language, **sizes)
            target.upload(Path(scratch), language)
    return {
        language: {"words": len(words), "size": vectors.shape[1]}
        for language, (words, vectors) in tables.items()
    }
