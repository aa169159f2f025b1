"""What is bought or trained is found again: fingerprints stay what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model

from fingerprints import JOBS, of_all, of_spec
from raythief import config
from raythief.config import Inference, Section, Selection, Training
from raythief.config.identity import ALWAYS, identity

GOLDEN = Path(__file__).parent.parent / "resources" / "fingerprints.json"

LATE: dict[str, Any] = {}
"""Defaults of the fields that came after fingerprints were fixed, by ``Section.field``. At its
default such a field stands in no fingerprint, so its default never changes."""


def test_all_specs_have_the_fingerprints_that_they_had() -> None:
    """If this fails, everybody's labels are bought again: say why in CHANGELOG.md, or undo it."""
    assert of_all() == json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert (JOBS.parent / "CHANGELOG.md").exists()


def test_what_was_bought_before_the_words_changed_is_found_if_the_spec_says_so() -> None:
    """Fingerprints of November 2026, before words were WikiText-103's own by default."""
    then = ["corpus={source: hub, cleaning: wikitext}", "vocabulary.min_count=1"]
    assert set(of_spec(JOBS / "table2.yaml", then)["labels"].values()) == {"2ae4b75c40c4115e"}
    api = of_spec(JOBS / "api.yaml", then)
    assert {role: api[role]["all rows"] for role in ("labels", "extractor", "evaluation")} == {
        "labels": "3e0653ea60209ba3",
        "extractor": "404d1ff015899b7b",
        "evaluation": "a6c03597a5869c0d",
    }


def sections() -> dict[str, type[Section]]:
    found, pending = {}, list(Section.__subclasses__())
    while pending:
        one = pending.pop()
        pending += one.__subclasses__()
        if one.__module__.startswith("raythief."):
            found[one.__name__] = one
    return found


def test_what_always_enters_is_there() -> None:
    known = sections()
    for name, fields in ALWAYS.items():
        assert fields <= set(known[name].model_fields), name


def test_the_defaults_of_later_fields_do_not_change() -> None:
    known = sections()
    late = {
        f"{name}.{field}": info.get_default(call_default_factory=True)
        for name, fields in ALWAYS.items()
        for field, info in known[name].model_fields.items()
        if field not in fields
    }
    assert late == LATE


@pytest.mark.parametrize("section", [Training, Inference, Selection, config.FilesPairs])
def test_a_new_field_moves_no_fingerprint_until_it_is_set(section: type[Section]) -> None:
    given = {"source": "files", "path": "x"} if section is config.FilesPairs else {}
    longer = create_model(section.__name__, __base__=section, new=(int, 7))
    assert identity(longer(**given)) == identity(section(**given))
    assert identity(longer(**given, new=8)) == {**identity(section(**given)), "new": 8}


def test_a_new_field_of_a_section_within_another_moves_none_either() -> None:
    longer = create_model("Selection", __base__=Selection, new=(int, 7))
    plain = Training(selection=Selection(every=3))
    assert identity(plain.model_copy(update={"selection": longer(every=3)})) == identity(plain)


def test_what_only_decides_how_fast_it_goes_never_enters() -> None:
    assert "tokens_per_batch" not in identity(Inference(tokens_per_batch=64), "tokens_per_batch")
