"""How a person calls fields, their types and their values."""

from __future__ import annotations

import difflib
import math
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def nearest(name: str, names: Any) -> str:
    """What to write instead of an unknown name: the one that is most like it, or all of them."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; choose from {', '.join(names)}" if names else ""


def sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that an annotation such as ``Annotated[A | B, ...]`` admits."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is dict:
        return []
    return [found for part in get_args(annotation) for found in sections(part)]


def type_name(annotation: Any) -> str:
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
        return f"list of {type_name(arguments[0])}"
    if get_origin(annotation) is dict:
        return f"mapping to {type_name(arguments[1])}"
    names = [type_name(part) for part in arguments if not isinstance(part, FieldInfo)]
    return " or ".join(dict.fromkeys(names))


def shown(value: Any) -> str:
    """A default value as the reference shows it."""
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
