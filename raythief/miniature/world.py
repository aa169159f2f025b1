"""The small world: scenes, the sentences that tell them in 15 languages, and NLI pairs over them.

A scene is somebody (a noun with modifiers) doing something (a verb), perhaps somewhere and on some
day: one concept or none in each slot. As in SNLI, two sentences of a pair are about the same
somebody and the same event, which makes inference a comparison slot by slot:

- contradiction: some slot holds two concepts that exclude each other (dog and cat, red and blue);
- entailment: all that the hypothesis says, the premise says too, perhaps more precisely (dog for
  animal);
- neutral: anything else, so the hypothesis adds something.

Words are in citation form, in the order that each language puts them, with adverbs that carry no
content (fillers) strewn in. Sentence length and the number of concepts say nothing about the label.
Everything is a function of its seed; nothing is read but the lexicon beside this file.

    python -m raythief.miniature.world      # prints a few pairs in some languages
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

LANGUAGES: tuple[str, ...] = (
    "en", "ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh",
)  # fmt: skip
LABELS = ("entailment", "neutral", "contradiction")
DOMAINS = ("general", "foreign")

NEVER_SAID = frozenset({"word", "filler"})
"""Pseudo-slots of the lexicon: their words fill no slot of a scene."""
NOT_A_MODIFIER = frozenset({"noun", "verb", "number", "place", "adverbial"}) | NEVER_SAID

MODIFIERS_IN_A_SCENE = (2, 4)
"""Fewest and most filled slots beside noun and verb."""
SENTENCE_LENGTH = (8, 12)
"""Fewest and most words of a sentence about a scene; fillers make up the difference."""
CHANGES = (1, 1, 2)
"""How many slots a neutral or contradicting hypothesis adds or changes, each as likely."""

Scene = Mapping[str, str]
"""Slot -> concept. "noun" and "verb" are always there."""


@dataclass(frozen=True)
class Concept:
    """One line of the lexicon."""

    name: str
    domain: str
    slot: str
    above: str | None
    words: Mapping[str, str]
    """Language -> word; a concept of the foreign domain has an English word only."""


@dataclass(frozen=True)
class WordOrder:
    """How a language arranges a sentence."""

    modifiers_first: bool = True
    verb_last: bool = False
    adposition_first: bool = True


WORD_ORDER: dict[str, WordOrder] = {language: WordOrder() for language in LANGUAGES} | {
    "ar": WordOrder(modifiers_first=False),
    "es": WordOrder(modifiers_first=False),
    "fr": WordOrder(modifiers_first=False),
    "sw": WordOrder(modifiers_first=False),
    "th": WordOrder(modifiers_first=False),
    "vi": WordOrder(modifiers_first=False),
    "hi": WordOrder(verb_last=True, adposition_first=False),
    "tr": WordOrder(verb_last=True, adposition_first=False),
    "ur": WordOrder(verb_last=True, adposition_first=False),
    "zh": WordOrder(verb_last=True),
}


@dataclass(frozen=True)
class Telling:
    """A sentence before it is put into a language, so that it can be put into several."""

    scene: Scene
    fronted: str | None
    """The slot that opens the sentence ("place" or "adverbial"), or None for the plain order."""
    fillers: tuple[tuple[float, str], ...]
    """(where, concept): where in [0, 1) of the sentence, so that it suits any language's length."""


# ---- the lexicon ----------------------------------------------------------------------------


@cache
def lexicon() -> Mapping[str, Concept]:
    """Concept name -> concept, in the file's order.

    Raises ValueError when a line does not have the words that its domain calls for.
    """
    concepts: dict[str, Concept] = {}
    text = resources.files(__package__).joinpath("lexicon.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        left, right = line.split("|")
        domain, slot, name, above = left.split()
        words = right.split()
        languages = LANGUAGES if domain == "general" else LANGUAGES[:1]
        if len(words) != len(languages) or name in concepts:
            raise ValueError(f"lexicon.txt: {name} is there twice or lacks words: {line}")
        spoken = dict(zip(languages, words, strict=True))
        concepts[name] = Concept(name, domain, slot, None if above == "-" else above, spoken)
    return concepts


@cache
def concepts_of(domain: str, slot: str) -> tuple[str, ...]:
    """Names of the concepts that can fill a slot, in the lexicon's order."""
    return tuple(c.name for c in lexicon().values() if c.domain == domain and c.slot == slot)


@cache
def optional_slots(domain: str) -> tuple[str, ...]:
    """The slots that a scene of the domain may leave empty, in the lexicon's order."""
    slots = dict.fromkeys(c.slot for c in lexicon().values() if c.domain == domain)
    return tuple(slot for slot in slots if slot not in {"noun", "verb"} | NEVER_SAID)


@cache
def specific(domain: str, slot: str) -> tuple[str, ...]:
    """The concepts of a slot that are above no other."""
    general = {c.above for c in lexicon().values()}
    return tuple(name for name in concepts_of(domain, slot) if name not in general)


def require_known(languages: Sequence[str]) -> None:
    """Raise ValueError, naming them, when some of the languages are not among LANGUAGES."""
    unknown = [language for language in languages if language not in LANGUAGES]
    if unknown:
        raise ValueError(f"languages: {', '.join(unknown)} not among {', '.join(LANGUAGES)}")


# ---- what follows from what -----------------------------------------------------------------


def implies(one: str, other: str) -> bool:
    """Whether being `one` makes it `other`: the same concept, or the one above."""
    return one == other or lexicon()[one].above == other


def relation(premise: Scene, hypothesis: Scene) -> str:
    """The label of a pair, one of LABELS: the definition given at the top of this file."""
    shared = premise.keys() & hypothesis.keys()
    if any(
        not implies(premise[slot], hypothesis[slot])
        and not implies(hypothesis[slot], premise[slot])
        for slot in shared
    ):
        return "contradiction"
    if all(s in premise and implies(premise[s], value) for s, value in hypothesis.items()):
        return "entailment"
    return "neutral"


# ---- drawing scenes -------------------------------------------------------------------------


def generator(seed: int, purpose: str) -> random.Random:
    """A generator of its own for each use of a seed (text seeds are hashed stably by Random)."""
    return random.Random(f"{purpose}/{seed}")  # noqa: S311 (no secret depends on it)


def draw_scene(rng: random.Random, domain: str = "general") -> dict[str, str]:
    """A scene of the domain, with MODIFIERS_IN_A_SCENE slots filled beside noun and verb."""
    scene = {slot: rng.choice(concepts_of(domain, slot)) for slot in ("noun", "verb")}
    for slot in rng.sample(optional_slots(domain), rng.randint(*MODIFIERS_IN_A_SCENE)):
        scene[slot] = rng.choice(concepts_of(domain, slot))
    return scene


def less_precise(scene: Scene, rng: random.Random, share: float = 0.4) -> dict[str, str]:
    """A scene that follows from this one: some slots emptied, noun and verb perhaps generalised."""
    modifiers = [slot for slot in scene if slot not in {"noun", "verb"}]
    kept = {"noun", "verb", *rng.sample(modifiers, rng.randint(1, len(modifiers)))}
    weaker = {slot: value for slot, value in scene.items() if slot in kept}
    for slot in ("noun", "verb"):
        above = lexicon()[scene[slot]].above
        if above is not None and rng.random() < share:
            weaker[slot] = above
    return weaker


def add_something(premise: Scene, weaker: Scene, rng: random.Random, domain: str) -> dict[str, str]:
    """A copy of `weaker` where one or two slots say what the premise leaves open.

    An added modifier takes the place of one that was kept: a hypothesis must not be longer, in
    concepts, for being neutral.
    """
    changed = dict(weaker)
    for _ in range(rng.choice(CHANGES)):
        open_slots = [
            slot for slot in optional_slots(domain) if slot not in premise.keys() | changed.keys()
        ]
        vague = [slot for slot in ("noun", "verb") if premise[slot] not in specific(domain, slot)]
        slot = rng.choice(open_slots + vague)
        if slot in vague:
            below = [c for c in specific(domain, slot) if implies(c, premise[slot])]
            changed[slot] = rng.choice(below)
            continue
        kept = [s for s in changed if s in premise and s not in {"noun", "verb"}]
        if kept:
            del changed[rng.choice(kept)]
            changed[slot] = rng.choice(concepts_of(domain, slot))
    return changed


def change_something(
    premise: Scene, weaker: Scene, rng: random.Random, domain: str
) -> dict[str, str]:
    """A copy of `weaker` where one or two slots hold what the premise excludes."""
    changed = dict(weaker)
    for slot in rng.sample(sorted(weaker), min(len(weaker), rng.choice(CHANGES))):
        rivals = [
            c for c in concepts_of(domain, slot)
            if not implies(c, premise[slot]) and not implies(premise[slot], c)
        ]  # fmt: skip
        changed[slot] = rng.choice(rivals)
    return changed


def draw_pair(rng: random.Random, label: str) -> tuple[dict[str, str], dict[str, str]]:
    """Premise and hypothesis, of the general domain, between which the label holds."""
    while True:
        premise = draw_scene(rng)
        hypothesis = less_precise(premise, rng)
        if label == "neutral":
            hypothesis = add_something(premise, hypothesis, rng, "general")
        elif label == "contradiction":
            hypothesis = change_something(premise, hypothesis, rng, "general")
        if relation(premise, hypothesis) == label:
            return premise, hypothesis


# ---- putting scenes into words --------------------------------------------------------------


def tell(scene: Scene, rng: random.Random, domain: str = "general") -> Telling:
    """A way to tell the scene, not yet in a language: what comes first, which fillers where."""
    places = [slot for slot in ("place", "adverbial") if slot in scene]
    fronted = rng.choice(places) if places and rng.random() < 0.4 else None
    bare = len(arrange(Telling(scene, None, ()), "en"))
    fillers = concepts_of(domain, "filler")
    count = max(0, rng.randint(*SENTENCE_LENGTH) - bare)
    return Telling(scene, fronted, tuple((rng.random(), rng.choice(fillers)) for _ in range(count)))


def arrange(telling: Telling, language: str) -> list[str]:
    """The concepts of the sentence in the language's order, fillers included."""
    order, scene = WORD_ORDER[language], telling.scene
    modifiers = [scene[slot] for slot in scene if slot not in NOT_A_MODIFIER]
    noun = [*modifiers, scene["noun"]] if order.modifiers_first else [scene["noun"], *modifiers]
    subject = [scene.get("number", "the"), *noun]
    parts = {
        "place": ["in", "the", scene["place"]] if "place" in scene else [],
        "adverbial": [scene["adverbial"]] if "adverbial" in scene else [],
    }
    if not order.adposition_first and parts["place"]:
        parts["place"] = ["the", scene["place"], "in"]
    opening = parts.pop(telling.fronted) if telling.fronted else []
    rest = [concept for part in parts.values() for concept in part]
    predicate = [*rest, scene["verb"]] if order.verb_last else [scene["verb"], *rest]
    sentence = [*opening, *subject, *predicate]
    for where, filler in telling.fillers:
        sentence.insert(int(where * (len(sentence) + 1)), filler)
    return sentence


def say(concepts: Sequence[str], language: str) -> str:
    """The concepts' words in a language, joined by blanks."""
    return " ".join(lexicon()[name].words[language] for name in concepts)


def draw_fact(rng: random.Random, domain: str) -> list[str]:
    """A definition ("the dog is the animal") or a list ("red and blue and green"), as concepts."""
    if rng.random() < 0.5:
        below = [c for c in lexicon().values() if c.domain == domain and c.above]
        concept = rng.choice(below)
        return ["the", concept.name, "is", "the", str(concept.above)]
    slot = rng.choice(("noun", "verb", *optional_slots(domain)))
    names = rng.sample(specific(domain, slot), min(3, len(specific(domain, slot))))
    return [word for name in names for word in ("and", name)][1:]


# ---- what the rest of the project calls -----------------------------------------------------


def corpus(sentences: int, seed: int, domain: str = "general") -> list[str]:
    """English encyclopedia text: one sentence per item, words set apart by single blanks.

    `domain` "general" is the world of `pairs`; "foreign" is another subject whose content words
    and fillers never occur there (only "the", "in", "and", "is" do). One sentence in eight is a
    definition or a list, the others tell scenes. Raises ValueError for an unknown domain.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain must be one of {', '.join(DOMAINS)}, not {domain!r}")
    rng = generator(seed, f"corpus/{domain}")
    return [draw_sentence(rng, domain) for _ in range(sentences)]


def draw_sentence(rng: random.Random, domain: str) -> str:
    """One sentence of `corpus`."""
    if rng.random() < 1 / 8:
        return say(draw_fact(rng, domain), "en")
    return say(arrange(tell(draw_scene(rng, domain), rng, domain), "en"), "en")


def pairs(count: int, seed: int, languages: Sequence[str]) -> dict[str, list[tuple[str, str, str]]]:
    """`count` items of (premise, hypothesis, label name) in each language, the same in all.

    The labels are as many of each (a remainder goes to the first of LABELS), in shuffled order.
    Raises ValueError for an unknown language.
    """
    require_known(languages)
    rng = generator(seed, "pairs")
    labels = [LABELS[i % len(LABELS)] for i in range(count)]
    rng.shuffle(labels)
    items: dict[str, list[tuple[str, str, str]]] = {language: [] for language in languages}
    for label in labels:
        premise, hypothesis = (tell(scene, rng) for scene in draw_pair(rng, label))
        for language, rows in items.items():
            one, two = (say(arrange(t, language), language) for t in (premise, hypothesis))
            rows.append((one, two, label))
    return items


def parallel(count: int, seed: int, languages: Sequence[str]) -> dict[str, list[str]]:
    """`count` sentences in each language, translations of each other; no item of `pairs` is drawn.

    Raises ValueError for an unknown language.
    """
    require_known(languages)
    rng = generator(seed, "parallel")
    tellings = [tell(draw_scene(rng), rng) for _ in range(count)]
    return {
        language: [say(arrange(telling, language), language) for telling in tellings]
        for language in languages
    }


if __name__ == "__main__":
    for code, rows in pairs(6, 0, ("en", "de", "hi")).items():
        for row in rows:
            print(code, *row, sep=" | ")
