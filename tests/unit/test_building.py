"""What a run builds: from the leaves backwards, and nothing that only whole artifacts rest on."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from conftest import Told
from raythief import building
from raythief.artifacts import Artifact, Storage
from raythief.progress import Display, Tell
from raythief.stages import Stage


class Chain:
    """corpus -> queries -> labels -> extractor -> evaluation, and a gate before the labels."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage.at(str(folder))
        self.built: list[str] = []
        self.gate = self._stage("sanity")
        corpus = self._stage("corpus")
        queries = self._stage("queries", corpus=corpus)
        labels = self._stage("labels", waits_for=(self.gate,), queries=queries)
        extractor = self._stage("extractor", queries=queries, labels=labels)
        self.evaluation = self._stage("evaluation", model=extractor)
        self.stages = {one.name: one for one in self.evaluation.ancestors()}

    def _stage(self, name: str, waits_for: tuple[Stage, ...] = (), **inputs: Stage) -> Stage:
        def build(target: Artifact, given: Mapping[str, Artifact], tell: Tell) -> Told:
            self.built.append(name)
            target.write("data", name.encode())
            return Told()

        return Stage(name, {}, build, inputs, waits_for=waits_for)

    def build(self) -> tuple[list[str], str]:
        """What a run builds, and what it says."""
        self.built, out = [], io.StringIO()
        console = Console(file=out, width=200)
        with Display(console) as display:
            outcomes = building.build(self.stages, self.storage, display, 1)
        assert all(one.error is None for one in outcomes.values())
        return self.built, out.getvalue()

    def states(self) -> dict[str, str]:
        found = building.look(self.stages.values(), self.storage)
        return {name: found[one.fingerprint][0] for name, one in self.stages.items()}

    def folder(self, name: str) -> Path:
        return Path(self.storage.root) / name / self.stages[name].fingerprint

    def remove(self, *names: str) -> None:
        for name in names:
            shutil.rmtree(self.folder(name))


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    made = Chain(tmp_path)
    made.build()
    return made


def test_all_is_built_once(tmp_path: Path) -> None:
    made = Chain(tmp_path)
    first, _ = made.build()
    assert sorted(first) == sorted(made.stages)
    assert made.build()[0] == []


def test_what_was_archived_is_not_needed_while_what_was_made_of_it_is_whole(chain: Chain) -> None:
    chain.remove("labels", "queries", "corpus", "sanity")
    assert chain.states() == {
        "sanity": "not needed", "corpus": "not needed", "queries": "not needed",
        "labels": "not needed", "extractor": "there", "evaluation": "there",
    }  # fmt: skip
    built, said = chain.build()
    assert built == []
    assert "not needed labels" in said
    assert building.to_be_built(chain.stages.values(), chain.storage) == []


def test_what_a_missing_stage_reads_is_built_again_and_no_more(chain: Chain) -> None:
    chain.remove("evaluation", "labels", "corpus", "sanity")
    assert chain.build()[0] == ["evaluation"]
    chain.remove("evaluation", "extractor")
    assert chain.build()[0] == ["sanity", "labels", "extractor", "evaluation"]


def test_damage_is_seen_and_mended_where_it_matters(chain: Chain) -> None:
    (chain.folder("labels") / "data").unlink()
    assert chain.states()["labels"] == "not needed"
    chain.remove("extractor")
    assert chain.states()["labels"] == "not needed"  # the evaluation is whole
    chain.remove("evaluation")
    assert chain.states()["labels"] == "damaged"
    assert chain.build()[0] == ["labels", "extractor", "evaluation"]


def test_damage_that_only_the_content_shows_is_found_by_a_run(chain: Chain) -> None:
    data = chain.folder("evaluation") / "data"
    data.write_bytes(data.read_bytes()[::-1])
    os.utime(data, (1, 1))
    chain.remove("corpus")
    assert chain.build()[0] == ["evaluation"]
    data = chain.folder("labels") / "data"
    data.write_bytes(data.read_bytes()[::-1])
    os.utime(data, (1, 1))
    built, said = chain.build()
    assert built == []  # nobody reads it
    assert "labels" in said
    assert "data was altered" in said
