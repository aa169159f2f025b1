"""What tests share: a spec that is small in every respect, and ways to run it for real."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from pydantic import ConfigDict
from rich.console import Console

from raythief.artifacts import Artifact, Storage
from raythief.results import Results

Whole = tuple[Path, Path, dict[str, Any]]
"""A finished run: spec file, storage folder, and run record."""

TINY: dict[str, Any] = {
    "name": "tiny",
    "corpus": {"source": "miniature", "sentences": 400},
    "queries": {"count": 600},
    "victim": {
        "model": "miniature:english",
        "training": {
            "steps": 200,
            "learning_rate": 1e-3,
            "batch_size": 16,
            "freeze_embeddings": True,
        },
    },
    "real": {"train": {"source": "miniature", "count": 300}},
    "extractor": {
        "model": "miniature:multilingual",
        "training": {"steps": 40, "learning_rate": 1e-3, "batch_size": 16},
    },
    "evaluation": {
        "sets": {
            "xnli": {
                "source": "miniature",
                "split": "test",
                "count": 60,
                "languages": ["en", "de", "ru"],
            }
        }
    },
    "inference": {"rows_per_shard": 100, "tokens_per_batch": 1024},
    "miniature": {"languages": ["en", "de", "ru"], "english_steps": 20, "multilingual_steps": 20},
    "resources": {"concurrent_stages": 2},
}
"""Everything that a run has, in some seconds; what it learns is of no interest."""


SMALL: dict[str, Any] = {
    "name": "small",
    "corpus": {"source": "miniature", "sentences": 400},
    "queries": {"count": 600},
    "victim": {"model": "miniature:english", "training": {"steps": 30}},
    "real": {"train": {"source": "miniature", "count": 300}},
    "extractor": {"model": "miniature:multilingual", "training": {"steps": 40}},
    "evaluation": {"sets": {"xnli": {"source": "miniature", "split": "test", "count": 60}}},
}
"""A spec whose stages are looked at and not built."""


def write_spec(folder: Path, **changes: Any) -> Path:
    """The tiny spec with dotted fields changed (`queries__count` for `queries.count`)."""
    from raythief.config import merge

    tree = TINY
    for name, value in changes.items():
        for part in reversed(name.split("__")):
            value = {part: value}
        tree = merge(tree, value)
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file


def run_spec(file: Path, *overrides: str, **options: Any) -> dict[str, Any]:
    """Run a spec in this process on a Ray of its own; returns the run record."""
    from raythief import config, runs

    spec = config.load(file, overrides)
    return runs.run(spec, console=Console(file=io.StringIO()), **options)


def command(*arguments: str) -> list[str]:
    """The command line of raythief in another process."""
    return [sys.executable, "-m", "raythief.cli", *arguments]


def raythief(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, **(environment or {})},
        check=False,
    )


def heed_ctrl_c() -> None:
    """Programs inherit that Ctrl-C is ignored, from a shell that started these tests aside, say."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def files_of(folder: Path, stages: Sequence[str]) -> dict[str, bytes]:
    """Content of all data files of some stages below a storage folder, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for stage in stages
        for path in sorted((folder / stage).rglob("*.parquet"))
    }


def folder_of(storage: Path, name: str) -> Path:
    """Where the record and the report of the newest run of a name lie."""
    home = storage / "runs" / name
    return home / json.loads((home / "newest.json").read_text())["fingerprint"]


def artifact(whole: Whole, role: str, row: int = 0) -> Artifact:
    """What a finished run made, by its role in one of the run's rows."""
    _, storage, record = whole
    stage, fingerprint = record["rows"][row]["stages"][role]["path"].split("/")
    return Storage.at(str(storage)).artifact(stage, fingerprint)


def prepared(whole: Whole, folder: Path, *dropped: str) -> Path:
    """A copy of the finished storage in which some stages have yet to be built, from nothing."""
    _, storage, _ = whole
    copy = folder / "artifacts"
    shutil.copytree(storage, copy)
    for stage in dropped:
        shutil.rmtree(copy / stage)
        for place in answered(copy, stage):
            shutil.rmtree(place)
    return copy


class Told(Results):
    """Results of a stage that is none of ours."""

    model_config = ConfigDict(extra="allow")


def answered(storage: Path, stage: str) -> list[Path]:
    """Folders of the answers that a stage asked for."""
    places = sorted(storage.glob("answers/*/*/asked.json"))
    return [file.parent for file in places if json.loads(file.read_text())["stage"] == stage]


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in this process; returns exit code, output and errors."""

    from raythief import cli

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["raythief", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that holds 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root on Linux mounts a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def one_ray() -> Iterator[Callable[[], None]]:
    """One Ray for all runs of a file that are made in this process; a start takes ten seconds.

    It is started with the first of them. What the fixture gives ends it; the next run starts one.
    """
    import ray

    from raythief import clusters

    start = clusters.connect
    with contextlib.ExitStack() as started, pytest.MonkeyPatch.context() as patch:

        def shared(address: str | None) -> contextlib.AbstractContextManager[None]:
            assert address is None, "a cluster that is there needs a process of its own"
            if not ray.is_initialized():
                started.enter_context(start(None))
            return contextlib.nullcontext()

        patch.setattr(clusters, "connect", shared)
        yield started.close


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One run of everything: spec file, storage folder, and run record.

    The first row has workers, and so has the training that goes on from its; the others do without.
    Where tests run in several processes, the first that wants it makes it for all.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "whole"
    file, storage, made = folder / "spec.yaml", folder / "artifacts", folder / "record.json"
    with FileLock(shared / "whole.lock"):
        if not made.exists():
            folder.mkdir(exist_ok=True)
            made.write_text(json.dumps(_run_of_everything(folder, storage)))
    return file, storage, json.loads(made.read_text())


def _run_of_everything(folder: Path, storage: Path) -> dict[str, Any]:
    no_actors = {"resources.inference.workers": 0}
    file = write_spec(
        folder,
        storage=str(storage),
        resources__training={"workers": 0},
        variants={
            "gibberish": {"resources.training.workers": 1},
            "real after": {
                "real.fraction": 0.1,
                "real.placement": "after",
                "resources.training.workers": 1,
                **no_actors,
            },
            "real during": {"real.fraction": 0.1, "real.placement": "during", **no_actors},
            "real only": {"real.fraction": 1.0, "real.placement": "only", **no_actors},
        },
    )
    return run_spec(file)
