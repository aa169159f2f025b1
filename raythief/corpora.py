"""Corpora: WikiText, CORD-19 or files of one's own, as clean sentences.

    text = paragraphs(spec.corpus, spec.root, spec.seed)
    for sentence in sentences(text, spec.corpus.cleaning): ...

A sentence is its tokens joined by single spaces, so ``sentence.split(" ")`` gives them back. Every
paragraph is cleaned on its own: a corpus may be cut into shards between any two of them.

The paper draws words from "the word-level vocabulary of WikiText-103" and lengths from "the
distribution of lengths in WikiText-103". Its 267,735 words (Merity et al. 2016) are the tokens that
its training text has three times or more, marks such as ``@-@`` among them. ``wikitext_words``
leaves tokens as they are, so that a ``min_count`` of 3 gives this vocabulary, but for

- words that reach three only with headings and with sentences of three tokens or fewer, for no
  sentence here is made of these (0.9 % of the words, in WikiText-103's validation text);
- ``<unk>``, ``<eos>`` and what else an encoder would take for a control token.

How sentences are cut the paper does not say. It follows Krishna et al. (2020), "Thieves on Sesame
Street! Model Extraction of BERT-based APIs", and so do we: headings and blanks go, sentences of
three tokens or fewer go. Two points differ from their script. Theirs cuts at every `` . ``; ours
also cuts at ``!`` and ``?``, but never inside ``" City . " , he said``. And theirs undoes the marks
and glues ``,`` and ``'`` to the word before them, so that ``lobster,`` is a word beside
``lobster``; ``wikitext`` undoes the marks alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from raythief import columns
from raythief.config import Corpus, FilesCorpus, HubCorpus, TextCleaning
from raythief.errors import MissingFileError, UserError

SUFFIXES = (".txt", *columns.SUFFIXES)
SHORTEST = 4
"""Tokens of the shortest sentence that is kept (Krishna et al.: longer than three)."""
_PARAGRAPHS = 4096
"""Paragraphs of the hub that become Python strings at once."""


# --- reading ----------------------------------------------------------------------------------


def paragraphs(corpus: Corpus, root: Path, seed: int) -> Iterator[str]:
    """Yield the raw paragraphs of a corpus, always in the same order; nulls are left out.

    Those of the miniature world are clean sentences already, which ``plain`` leaves as they are.

    Args:
        corpus: Section ``corpus`` of the spec.
        root: Folder from which a relative ``corpus.path`` starts.
        seed: Seed of the miniature world's text; the other sources ignore it.

    Raises:
        UserError: no file, a file that cannot be read, or a column that is absent or no text.
    """
    if isinstance(corpus, FilesCorpus):
        return _from_files(files(corpus, root), corpus.column)
    if isinstance(corpus, HubCorpus):
        return _from_hub(corpus)
    from raythief.miniature import world

    return iter(world.corpus(corpus.sentences, seed, corpus.domain))


def files(corpus: FilesCorpus, root: Path) -> list[Path]:
    """The files that a corpus consists of, sorted by path.

    A folder stands for the files of ``SUFFIXES`` directly in it, a glob for those it matches
    (``**`` reaches into subfolders); other files beside them are passed over.

    Raises:
        MissingFileError: there are none.
        UserError: the one file named is of another kind.
    """
    path = root / corpus.path
    if path.is_file():
        if not _is_ours(path):
            raise UserError(f"corpus.path: {path} is no text; name a file that ends in {_ENDS}")
        return [path]
    if path.is_dir():
        candidates = path.iterdir()
    else:
        pattern = Path(corpus.path)  # its anchor is "" where it is relative, so root remains
        candidates = (root / pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
    found = sorted(file for file in candidates if _is_ours(file))
    if not found:
        what = "file" if _is_ours(path) else f"file that ends in {_ENDS}"
        raise MissingFileError(
            f"corpus.path: there is no {what} at {path}; put it there, or correct the path or "
            "`data_root`"
        )
    return found


_ENDS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def _is_ours(file: Path) -> bool:
    return file.name.lower().endswith(SUFFIXES)


def _from_hub(corpus: HubCorpus) -> Iterator[str]:
    from raythief import hub

    table = hub.dataset(
        corpus.dataset,
        config=corpus.config,
        split=corpus.split,
        revision=hub.revision(corpus.dataset, corpus.revision, "corpus.dataset"),
        columns=[corpus.column],
    )
    columns.check(table.schema, corpus.column, corpus.dataset)
    start = 0
    for batch in table.to_batches(max_chunksize=_PARAGRAPHS):
        yield from columns.texts(batch.column(0), f"corpus.dataset: {corpus.dataset}", start)
        start += batch.num_rows


def _from_files(found: Iterable[Path], column: str) -> Iterator[str]:
    for file in found:
        is_text = file.suffix.lower() == ".txt"
        yield from _from_text(file) if is_text else columns.cells(file, column)


def _from_text(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for line in lines:
                yield line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"corpus.path: {file} is not UTF-8 text: {error.reason}") from None
    except OSError as error:
        raise UserError(f"corpus.path: {file} cannot be read: {error.strerror}") from None


# --- cleaning ---------------------------------------------------------------------------------


def sentences(paragraphs: Iterable[str], cleaning: TextCleaning) -> Iterator[str]:
    """Yield clean sentences of four tokens or more, each its tokens joined by single spaces.

    - ``wikitext_words`` is for text that is tokenised already: it drops ``= Heading =`` lines and
      leaves the tokens alone. Each counts as a word of its sentence: ``1 @,@ 000`` are three.
      ``<unk>`` is one, too; the vocabulary leaves it out.
    - ``wikitext`` also undoes `` @-@ ``, `` @,@ `` and `` @.@ ``: ``1,000`` is one.
    - ``plain`` is for running text: it first splits quotes, brackets and ``, ; : . ! ?`` off both
      ends of words. What lies inside a word stays (``3.5``, ``don't``, ``12-(ω)-hydroxy``), and so
      does the point of an abbreviation (``Dr.``, ``e.g.``) and of an initial (``J.``).

    A sentence ends after a token ``.``, ``!``, ``?`` or an ellipsis and the quotes and brackets
    that it closes, unless the text goes on in lower case or with a comma, colon, dash or the like.
    """
    for paragraph in paragraphs:
        for sentence in _split(_CLEAN[cleaning](paragraph)):
            if sentence.count(" ") + 1 >= SHORTEST:
                yield sentence


_MARK = re.compile(r" @([-,.])@ ")


def _tokens_of_wikitext(paragraph: str) -> str:
    """Tokens of a WikiText line, joined by single spaces; nothing for a heading."""
    text = " ".join(paragraph.split())
    return "" if text.startswith("=") else text


def _words_of_wikitext(paragraph: str) -> str:
    """The same, with the marks of WikiText's tokeniser undone."""
    return _MARK.sub(r"\1", _tokens_of_wikitext(paragraph))


_TERMINATORS = re.compile(r"(?: (?:[.!?]+|…))+(?= |$)")
_CLOSERS = re.compile(r""" [)\]}"'”’»]+(?= |$)""")
_CONTINUATIONS = frozenset(",;:)]}”’»-–—")


def _split(text: str) -> Iterator[str]:
    """Cut tokens that are joined by single spaces into sentences."""
    start = 0
    for match in _TERMINATORS.finditer(text):
        end = _after_closers(text, match.end())
        following = text[end + 1 : end + 2]
        if following.islower() or following in _CONTINUATIONS:
            continue
        yield text[start:end]
        start = end + 1
    if start < len(text):
        yield text[start:]


def _after_closers(text: str, end: int) -> int:
    """Move past the quotes and brackets that close what the sentence before ``end`` opened.

    A straight ``"`` does not show its side: it closes if an odd number of them went before.
    """
    while closer := _CLOSERS.match(text, end):
        if closer.group() == ' "' and text.count('"', 0, end) % 2 == 0:
            break
        end = closer.end()
    return end


_OPENERS = "([{\"'“‘«¿¡"
_PARTNERS = {")": "(", "]": "[", "}": "{"}
_TRAILER = re.compile(r"""\.{2,}$|…$|[,;:.!?)\]}"'”’»]$""")
_ABBREVIATION = re.compile(
    r"(?:[^\W\d_]\.){2,}|[A-Z]\."  # e.g., U.S., J.
    r"|(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Gen|Col|Lt|Capt|Sgt|Rev|Hon|Gov|Sen|Rep|Bros|Inc|Ltd|Corp"
    r"|No|Nos|Fig|Figs|Vol|vol|pp|ca|cf|vs|al|viz|approx)\."
)


def _tokenise(paragraph: str) -> str:
    """Split punctuation off words; the tokens are joined by single spaces."""
    return " ".join(token for chunk in paragraph.split() for token in _tokens(chunk))


def _tokens(chunk: str) -> list[str]:
    """The word in a chunk without spaces, and the marks around it, each a token."""
    if chunk[0].isalnum() and chunk[-1].isalnum():
        return [chunk]
    word = chunk.lstrip(_OPENERS)
    marks = list(chunk[: len(chunk) - len(word)])
    trailers = []
    while (trailer := _TRAILER.search(word)) and not _belongs(trailer.group(), word):
        trailers.append(trailer.group())
        word = word[: trailer.start()]
    return [*marks, *([word] if word else []), *reversed(trailers)]


def _belongs(trailer: str, word: str) -> bool:
    """Whether a mark at the end of a word is a part of it: ``Dr.``, ``VP1(4)``."""
    if trailer in _PARTNERS:
        return 0 < word.count(_PARTNERS[trailer]) == word.count(trailer)
    return _ABBREVIATION.fullmatch(word) is not None


_CLEAN: dict[TextCleaning, Callable[[str], str]] = {
    "wikitext_words": _tokens_of_wikitext,
    "wikitext": _words_of_wikitext,
    "plain": _tokenise,
}
"""A paragraph's tokens, joined by single spaces."""
