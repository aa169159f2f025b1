"""Kill it at any moment and run the same command: the result is the same, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Whole, answered, command, files_of, prepared, raythief, write_spec


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait(process: subprocess.Popen[Any], moment: Callable[[], Any]) -> None:
    """Wait for a moment of a run."""
    deadline = time.monotonic() + 300
    while not moment():
        assert process.poll() is None, "it ended before the moment came"
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(0.01)


def kill_when(process: subprocess.Popen[bytes], moment: Callable[[], bool]) -> None:
    """SIGKILL the driver at a moment, and let its Ray go down with it."""
    wait(process, moment)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def shards(storage: Path) -> list[Path]:
    return [file for place in answered(storage, "labels") for file in place.glob("rows-*.parquet")]


@pytest.mark.parametrize("signalled", ["driver", pytest.param("actor", marks=pytest.mark.nightly)])
def test_labelling_loses_and_doubles_nothing(whole: Whole, tmp_path: Path, signalled: str) -> None:
    changes = {"inference__rows_per_shard": 10}
    reference = prepared(whole, tmp_path / "reference", "labels")
    spec = write_spec(tmp_path, **changes)
    until = ("run", str(spec), "--until", "labels", "--set")
    assert raythief(*until, f"storage={reference}").returncode == 0

    storage = prepared(whole, tmp_path / "killed", "labels")
    process = start(*until, f"storage={storage}")
    if signalled == "driver":
        kill_when(process, lambda: len(shards(storage)) >= 5)
        kept = {path: path.stat().st_mtime_ns for path in shards(storage)}
        assert 5 <= len(kept) < 60
        assert not list(storage.glob("labels/*/_SUCCESS"))
        done = raythief(*until, f"storage={storage}")
        assert done.returncode == 0, done.stderr
        for path, written in kept.items():  # what was bought is not bought again
            assert path.stat().st_mtime_ns == written
    else:
        wait(process, lambda: len(shards(storage)) >= 5)
        actors = subprocess.run(
            ["pgrep", "-s", str(process.pid), "-f", "Labeling"], capture_output=True, check=False
        ).stdout.split()
        assert actors, "no actor of the labelling is running"
        os.kill(int(actors[0]), signal.SIGKILL)
        assert process.wait(timeout=300) == 0
    assert files_of(storage, ["labels"]) == files_of(reference, ["labels"])


@pytest.mark.nightly
def test_training_ends_with_the_same_weights(whole: Whole, tmp_path: Path) -> None:
    """Bit for bit, on a CPU with the same number of workers, from the checkpoint before the last:
    the last one is damaged.
    """
    changes = {
        "extractor__training__steps": 300,
        "extractor__training__selection": {"every": 15, "held_out": 0.1},
        "resources__checkpoint_every": 20,
    }
    spec = write_spec(tmp_path, **changes)
    until = ("run", str(spec), "--until", "extractor", "--set")
    reference = prepared(whole, tmp_path / "reference", "extractor")
    assert raythief(*until, f"storage={reference}").returncode == 0

    storage = prepared(whole, tmp_path / "killed", "extractor")
    process = start(*until, f"storage={storage}")
    kill_when(process, lambda: len(list(storage.glob("extractor/*/_work/*/checkpoint_*"))) >= 2)
    assert not list(storage.glob("extractor/*/_SUCCESS"))
    *_, newest = sorted(storage.glob("extractor/*/_work/*/checkpoint_*/state.pt"))
    os.truncate(newest, newest.stat().st_size // 2)  # as if the machine's disk had lost the rest
    done = raythief(*until, f"storage={storage}")
    assert done.returncode == 0, done.stderr

    [whole_run] = reference.glob("extractor/*/model/model.safetensors")
    [killed_run] = storage.glob("extractor/*/model/model.safetensors")
    assert killed_run.read_bytes() == whole_run.read_bytes()
    [curve], [other] = (
        list(place.glob("extractor/*/training.json")) for place in (reference, storage)
    )
    assert curve.read_bytes() == other.read_bytes()

    [steps], [told] = (
        [
            [json.loads(line) for line in file.read_text().splitlines()]
            for file in place.glob("extractor/*/steps.jsonl")
        ]
        for place in (reference, storage)
    )
    assert [one["step"] for one in told] == list(range(1, 301))  # none is lost, none told twice
    assert [one["loss"] for one in told] == [one["loss"] for one in steps]


@pytest.mark.nightly
def test_two_runs_at_once_build_everything_once(whole: Whole, tmp_path: Path) -> None:
    storage = prepared(whole, tmp_path, "queries", "labels")
    spec = write_spec(tmp_path)
    until = ("run", str(spec), "--until", "labels", "--set", f"storage={storage}")
    one, two = start(*until), start(*until)
    assert one.wait(timeout=500) == 0
    assert two.wait(timeout=500) == 0
    _, first, _ = whole
    assert files_of(storage, ["labels"]) == files_of(first, ["labels"])
    assert not list(storage.rglob("_lease*"))
