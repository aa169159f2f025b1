"""YAML files and overrides -> spec -> the variants in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from raythief.config.base import Section
from raythief.config.faults import sentence
from raythief.config.spec import Spec
from raythief.errors import UserError


class Variant(Section):
    """One row of a table for one seed: a spec with no variants and one seed."""

    name: str
    """Name of the row; the experiment's own name where the spec has no variants."""
    spec: Spec
    """The spec with the row's fields set."""
    optional: bool = False
    """Whether the row is left out while a file that it names is not there."""


OF_ALL_ROWS = (
    "name", "title", "storage", "seeds", "paper", "until",
    "tracking", "serve", "costs", "sweep", "variants",
)  # fmt: skip
"""Fields that no variant can set."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-5` is a number (YAML 1.1 wants `1.0e-5`) and keys are unique text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            where = f"{key_node.start_mark.name}: line {key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise UserError(f"{where} has the key `{key}`, which is no text; put it in quotes")
            if key in seen:
                raise UserError(f"{where} repeats the key `{key}`")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """Read a spec file and apply ``a.b=value`` overrides (values are YAML).

    A spec that begins with ``extends: other.yaml`` (relative to its own folder) is laid over that
    one, so that a family of experiments says once what it has in common.

    Raises:
        UserError: the file is absent or no YAML mapping, or a field is unknown or wrong.
    """
    tree = read(path)
    changes: dict[str, Any] = {}
    for override in overrides:
        field, equals, value = override.partition("=")
        if not equals or not field:
            raise UserError(f"--set {override}: write it as field.path=value")
        changes = merge(changes, _branch(field.strip(), _parse(value, f"--set {override}")))
    spec = validate(merge(tree, changes), str(path))
    for _ in expand(spec, str(path)):  # a wrong variant is told before anything starts
        pass
    return spec


def read(path: str | Path) -> dict[str, Any]:
    """The tree of a spec file, laid over those that it extends; nothing in it is checked.

    Raises:
        UserError: a file is absent or no YAML mapping, or they extend each other.
    """
    return _read(Path(path), ())


def validate(tree: Mapping[str, Any], origin: str) -> Spec:
    """Turn a tree of plain values into a spec, or raise ``UserError`` with one sentence a fault."""
    try:
        return Spec.model_validate(tree)
    except ValidationError as error:
        faults = [sentence(dict(fault)) for fault in error.errors()]
        raise UserError("\n".join(f"{origin}: {fault}" for fault in faults)) from None


def expand(spec: Spec, origin: str = "spec") -> Iterator[Variant]:
    """Yield every variant for every seed, each a spec of its own.

    Variants with equal stages share their artifacts, so a row costs only what it does not share.
    """
    base = spec.model_dump(mode="json", exclude={"variants", "seeds"}, exclude_unset=True)
    for name, changes in (spec.variants or {spec.name: {}}).items():
        where = f"{origin}: variants.{name}" if spec.variants else origin
        tree = nest(changes)
        optional = tree.pop("optional", False)
        if not isinstance(optional, bool):
            raise UserError(f"{where}: optional: write true or false")
        for field in tree:
            if field in OF_ALL_ROWS or (field == "seed" and spec.seeds):
                raise UserError(f"{where}: {field} holds for all rows; set it outside of variants")
        for seed in spec.seeds or (spec.seed,):
            whole = merge(merge(base, {"seed": seed}), tree)
            yield Variant(name=name, spec=validate(whole, where), optional=optional)


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``change`` over ``base``, mapping by mapping.

    A mapping that names another ``source`` replaces the old one, whose fields would not fit it.
    """
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            other_source = (
                "source" in old and "source" in value and old["source"] != value["source"]
            )
            merged[key] = dict(value) if other_source else merge(old, value)
        else:
            merged[key] = value
    return merged


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{"a.b": 1}`` into ``{"a": {"b": 1}}``; nested mappings may hold dotted keys too."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        tree = merge(tree, _branch(path, nest(value) if isinstance(value, Mapping) else value))
    return tree


def _branch(path: str, value: Any) -> dict[str, Any]:
    """Turn ``a.b`` and a value into ``{"a": {"b": value}}``; the value stays as it is."""
    *parents, last = path.split(".")
    branch: dict[str, Any] = {last: value}
    for parent in reversed(parents):
        branch = {parent: branch}
    return branch


def _read(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    """The tree of a spec file, laid over those that it extends."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None
    tree = _parse(text, str(path))
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a spec is a mapping of fields to values")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: extends: name one spec file")
    other = path.parent / base
    if other.resolve() in extending:
        raise UserError(f"{path}: extends: {base} extends this file in turn")
    return merge(_read(other, (*extending, path.resolve())), tree)


def _parse(text: str, origin: str) -> Any:
    try:
        loader = _Loader(text)
        loader.name = origin
        return loader.get_single_data()
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise UserError(f"{origin}: not YAML{line}: {problem}") from None
