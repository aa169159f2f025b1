"""Names and order of the languages in tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from raythief.config import LANGUAGES

NAMES: dict[str, str] = {
    "en": "English",
    "ar": "Arabic",
    "bg": "Bulgarian",
    "de": "German",
    "el": "Greek",
    "es": "Spanish",
    "fr": "French",
    "hi": "Hindi",
    "ru": "Russian",
    "sw": "Swahili",
    "th": "Thai",
    "tr": "Turkish",
    "ur": "Urdu",
    "vi": "Vietnamese",
    "zh": "Chinese",
}

OWN_NAMES: dict[str, str] = {
    "en": "English",
    "ar": "العربية",
    "bg": "български",
    "de": "Deutsch",
    "el": "ελληνικά",
    "es": "español",
    "fr": "français",
    "hi": "हिन्दी",
    "ru": "русский",
    "sw": "Kiswahili",
    "th": "ไทย",
    "tr": "Türkçe",
    "ur": "اردو",
    "vi": "Tiếng Việt",
    "zh": "中文",
}
"""What speakers call their language, in its script."""

SCRIPTS: dict[str, tuple[str, ...]] = {
    "English": ("en",),
    "Latin": ("de", "es", "fr", "sw", "tr", "vi"),
    "Greek": ("el",),
    "Cyrillic": ("bg", "ru"),
    "Arabic": ("ar", "ur"),
    "Nagari": ("hi",),
    "Thai": ("th",),
    "Han": ("zh",),
}
"""Groups of the figures: the victim's language first, then by script, and by family within one."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "English": ("en",),
    "Germanic": ("de",),
    "Romance": ("es", "fr"),
    "Slavic": ("bg", "ru"),
    "Greek": ("el",),
    "Indo-Aryan": ("hi", "ur"),
    "Semitic": ("ar",),
    "Turkic": ("tr",),
    "Bantu": ("sw",),
    "Vietic": ("vi",),
    "Tai": ("th",),
    "Sinitic": ("zh",),
}
"""Branches of the families of languages, the victim's language by itself."""


def name(language: str) -> str:
    """English name of a language, or its code where we know none."""
    return NAMES.get(language, language)


def in_table_order(languages: Iterable[str]) -> list[str]:
    """The order of the paper's Table 2; languages that it lacks come last, by code."""
    rank: dict[str, int] = {language: i for i, language in enumerate(LANGUAGES)}
    return sorted(set(languages), key=lambda code: (rank.get(code, len(rank)), code))


def by_script(languages: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Groups (script, languages) for the figures."""
    return _grouped(languages, SCRIPTS)


def by_family(languages: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Groups (family, languages)."""
    return _grouped(languages, FAMILIES)


def family(language: str) -> str:
    """The family of a language; empty where we know none."""
    return next((name for name, members in FAMILIES.items() if language in members), "")


def _grouped(
    languages: Iterable[str], known: Mapping[str, Sequence[str]]
) -> list[tuple[str, list[str]]]:
    left = set(languages)
    groups = []
    for name, members in known.items():
        present = [member for member in members if member in left]
        if present:
            groups.append((name, present))
            left -= set(present)
    return groups + ([("other", sorted(left))] if left else [])
