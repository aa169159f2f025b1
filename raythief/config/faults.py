"""What pydantic finds wrong with a spec -> one sentence that a person can act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from raythief.config.spec import Spec
from raythief.config.wording import nearest, sections


def sentence(fault: Mapping[str, Any]) -> str:
    """One sentence for one pydantic fault: the field's path and what to do."""
    shown, siblings, sources = _walk([str(part) for part in fault["loc"]])
    path = ".".join(shown) or "spec"
    if fault["type"] == "extra_forbidden":
        return f"{path} is no field" + nearest(shown[-1], siblings)
    if fault["type"] == "union_tag_not_found":
        return f"{path}.source is missing; choose from {', '.join(sources)}"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = fault.get("input")
    if isinstance(given, (str, int, float)) and fault["type"] != "value_error":
        return f"{path}: {message}, not {given!r}"
    return f"{path}: {message}"


def _walk(location: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The path that a fault's location stands for, without the tags by which pydantic tells
    sources apart; the fields that may stand at its end; and the sources to choose from there.
    """
    shown: list[str] = []
    here: list[type[BaseModel]] = [Spec]
    known: list[str] = []
    named = False  # the next part is a name of the user's own choice
    for part in location:
        tagged = [one for one in here if part in _tags(one)]
        if tagged and not named:
            here = tagged
            continue
        shown.append(part)
        names = [] if named else [name for one in here for name in one.model_fields]
        known = list(dict.fromkeys(names))
        if named:
            named = False
            continue
        fields_here = [one.model_fields[part] for one in here if part in one.model_fields]
        annotation = fields_here[0].annotation if fields_here else None
        named = get_origin(annotation) is dict
        here = sections(get_args(annotation)[1] if named else annotation)
    return shown, known, [tag for one in here for tag in _tags(one)]


def _tags(section: type[BaseModel]) -> tuple[str, ...]:
    """The value of `source` that tells a section from others; empty where there is no choice."""
    field = section.model_fields.get("source")
    return get_args(field.annotation) if field else ()
