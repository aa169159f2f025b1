"""What every section of the spec rests on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from raythief.config.wording import type_name

Label = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = get_args(Label)
"""The canonical labels, in the order of MNLI and XNLI (0, 1, 2)."""

Language = Literal[
    "en", "ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"
]
LANGUAGES: tuple[Language, ...] = get_args(Language)
"""The 15 languages of XNLI in the order of the paper's Table 2."""

Precision = Literal["auto", "float32", "bfloat16"]
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
                    f"{name} takes {type_name(field.annotation)}, not {str(value).lower()}"
                )
        return given


def each_once(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """Refuse a list that is empty or names something twice."""
    if values is None:
        return None
    if not values:
        raise ValueError("give at least one")
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"names `{twice[0]}` twice")
    return values


def folder_names(named: dict[str, Any]) -> dict[str, Any]:
    """Refuse names that cannot be the folders which they become on storage."""
    if not named:
        raise ValueError("give at least one")
    for name in named:
        if not re.fullmatch(NAME_PATTERN, name):
            raise ValueError(f"`{name}` can name nothing; use letters, digits, `.`, `_` and `-`")
    return named
