"""What the small world's encoders and word vectors learn from: events told twice, and facts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raythief.miniature import world

FOREIGN_SHARE = 0.15
"""Share of English documents that are about the foreign domain."""
FACT_SHARE = 0.12
"""Share of documents that state facts rather than tell an event."""


@dataclass(frozen=True)
class Document:
    """Two passages, each in a language: words joined by blanks."""

    first: str
    second: str
    languages: tuple[str, str]


def draw_document(rng: random.Random, first: str, second: str, domain: str) -> Document:
    """One event told twice, or facts; `first` and `second` are the passages' languages.

    The second telling of an event leaves details out and may add others, never a contradiction.
    """
    if rng.random() < FACT_SHARE:
        fact = world.draw_fact(rng, domain)
        return Document(world.say(fact, first), world.say(fact, second), (first, second))
    scene = world.draw_scene(rng, domain)
    other = world.less_precise(scene, rng, share=0.3)
    if rng.random() < 0.5:
        other = world.add_something(scene, other, rng, domain)
    tellings = [world.tell(scene, rng, domain), world.tell(other, rng, domain)]
    rng.shuffle(tellings)
    one, two = (
        world.say(world.arrange(telling, language), language)
        for telling, language in zip(tellings, (first, second), strict=True)
    )
    return Document(one, two, (first, second))


def linked_documents(languages: Sequence[str], count: int, seed: int) -> list[Document]:
    """Documents of the general domain, their two passages in languages drawn independently."""
    rng = world.generator(seed, "linked documents")
    return [
        draw_document(rng, rng.choice(languages), rng.choice(languages), "general")
        for _ in range(count)
    ]


def monolingual_documents(languages: Sequence[str], seed: int) -> Iterator[Document]:
    """Documents without end, each in one language drawn uniformly."""
    rng = world.generator(seed, "monolingual documents")
    while True:
        language = rng.choice(languages)
        foreign = language == "en" and rng.random() < FOREIGN_SHARE
        yield draw_document(rng, language, language, "foreign" if foreign else "general")


def words_of(languages: Sequence[str]) -> dict[str, list[str]]:
    """Language -> all its words, sorted."""
    return {
        language: sorted(
            {c.words[language] for c in world.lexicon().values() if language in c.words}
        )
        for language in languages
    }
