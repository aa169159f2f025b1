"""Every field of the spec with its type, default and meaning: `jobs/REFERENCE.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args, get_origin

from pydantic import BaseModel

from raythief.config.spec import Spec
from raythief.config.wording import sections, shown, type_name

ANY_NAME = "NAME"


def fields() -> Iterator[tuple[str, str, str, str]]:
    """Yield (path, type, default, meaning) of every field, for the reference."""
    yield from _fields(Spec, "")


def _fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    source = section.model_fields.get("source")
    only = f"Source `{get_args(source.annotation)[0]}`: " if source else ""
    for name, field in section.model_fields.items():
        path, annotation = f"{prefix}{name}", field.annotation
        default = "required" if field.is_required() else shown(field.default)
        meaning = (field.description or "").strip()
        yield path, type_name(annotation), default, meaning and only + meaning
        if get_origin(annotation) is dict:
            path, annotation = f"{path}.{ANY_NAME}", get_args(annotation)[1]
        for inner in sections(annotation):
            yield from _fields(inner, f"{path}.")
