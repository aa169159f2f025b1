"""The command line: a user's mistake is one sentence, told before anything is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raythief import __version__, cli, config
from raythief.config import merge, nest

LABELS = ["entailment", "neutral", "contradiction"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Everything that a spec of local files names."""
    folder = tmp_path / "data"
    (folder / "victim").mkdir(parents=True)
    (folder / "text.txt").write_text("The dog sleeps.\n", encoding="utf-8")
    rows = {"premise": ["p"] * 6, "hypothesis": ["h"] * 6, "label": [0, 1, 2] * 2}
    pq.write_table(pa.table(rows), folder / "pairs.parquet")
    model = {"id2label": dict(enumerate(LABELS))}
    (folder / "victim/config.json").write_text(json.dumps(model), encoding="utf-8")
    (folder / "victim/model.safetensors").write_bytes(b"w")
    return folder


def write(data: Path, **changes: Any) -> Path:
    pairs = {"source": "files", "path": "pairs.parquet", "labels": LABELS}
    tree = {
        "name": "x",
        "storage": str(data.parent / "storage"),
        "data_root": str(data),
        "corpus": {"source": "files", "path": "text.txt"},
        "victim": {"model": "victim"},
        "extractor": {"model": "victim"},
        "real": {"train": pairs},
        "evaluation": {"sets": {"dev": pairs}},
        "variants": {"a": {}, "b": {"queries.count": 5}},
    }
    changes = {field.replace("__", "."): value for field, value in changes.items()}
    file = data.parent / "spec.yaml"
    file.write_text(yaml.safe_dump(merge(tree, nest(changes))), encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def no_cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here may get as far as starting Ray."""
    import ray

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("starts Ray")

    monkeypatch.setattr(ray, "init", refuse)


def nameless(data: Path) -> dict[str, Any]:
    names = {"id2label": {i: f"LABEL_{i}" for i in range(3)}}
    (data / "victim/config.json").write_text(json.dumps(names), encoding="utf-8")
    return {}


def without(name: str) -> Callable[[Path], dict[str, Any]]:
    def remove(data: Path) -> dict[str, Any]:
        (data / name).unlink()
        return {}

    return remove


def fields(**changes: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda data: changes


MISTAKES: list[Any] = [
    pytest.param(
        ["run"], fields(querys={}), "querys is no field; did you mean `queries`?", id="misspelt"
    ),
    pytest.param(["run"], fields(queries__count=-3), "queries.count: ", id="negative"),
    pytest.param(
        ["run"], fields(evaluation__sets__dev__languages=["xx"]), ".languages.0: ", id="language"
    ),
    pytest.param(["run"], without("text.txt"), "corpus.path: ", id="no corpus"),
    pytest.param(["run"], without("pairs.parquet"), "pairs.parquet is no file", id="no pairs"),
    pytest.param(["plan"], without("victim/config.json"), "no config.json", id="plan"),
    pytest.param(
        ["run"], fields(victim__model="none"), "victim.model: `none` is neither", id="no model"
    ),
    pytest.param(
        ["run"], without("victim/model.safetensors"), "no safetensors", id="unsafe weights"
    ),
    pytest.param(["run"], nameless, "victim.labels: the model calls its outputs", id="nameless"),
    pytest.param(
        ["run"], fields(storage="/proc/raythief"), "storage: /proc/raythief", id="storage"
    ),
    pytest.param(["run", "--until", "lables"], fields(), "--until lables: no such", id="until"),
    pytest.param(["run", "--only", "c"], fields(), "--only c: the spec has no such", id="only"),
    pytest.param(["plan", "--only", "c"], fields(), "--only c: the spec has no such", id="plan o"),
    pytest.param(["run", "--set", "seed"], fields(), "--set seed: write it as", id="set"),
    pytest.param(
        ["run", "--set", "queries.cuont=5"], fields(), "did you mean `count`?", id="set field"
    ),
    pytest.param(["sweep"], fields(variants={}), "sweep.parameters is empty", id="sweep"),
    pytest.param(
        ["sweep"],
        fields(
            evaluation__sets__dev__split="test",
            sweep={"objective": "dev", "parameters": {"seed": {"grid": [1]}}},
        ),
        "a test split",
        id="sweep on test",
    ),
    pytest.param(
        ["sweep"],
        fields(sweep={"objective": "dev", "parameters": {"sede": {"grid": [1]}}}),
        "sweep.parameters: sede is no field; did you mean `seed`?",
        id="sweep field",
    ),
]


@pytest.mark.parametrize(("arguments", "harm", "sentence"), MISTAKES)
def test_a_mistake_is_one_line_with_exit_code_2_and_nothing_is_written(
    call: Callable[..., tuple[int, str, str]],
    data: Path,
    arguments: list[str],
    harm: Callable[[Path], dict[str, Any]],
    sentence: str,
):
    file = write(data, **harm(data))
    before = sorted(data.parent.rglob("*"))
    code, out, err = call(arguments[0], str(file), *arguments[1:])
    assert (code, out) == (2, "")
    assert err.startswith("raythief: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert sentence in err
    assert sorted(data.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "address",
    [
        "s3://KEYID:HIDDEN@bucket/x",
        "s3://KEYID:HID/DEN@bucket/x?region=a",
        "s3://HIDDEN@bucket/x",
        "gs://me:HIDDEN@bucket/x",
        "s3://bucket/x?access_key=KEYID&secret_key=HIDDEN",
        "s3://bucket/x?endpoint_override=http://me:HIDDEN@minio:9000",
    ],
)
def test_no_command_takes_a_storage_with_a_key_or_repeats_the_key(
    call: Callable[..., tuple[int, str, str]], data: Path, address: str
):
    file = str(write(data, sweep={"objective": "dev", "parameters": {"seed": {"grid": [1]}}}))
    before = sorted(data.parent.rglob("*"))
    there = ["--set", f"storage={address}"]
    for command in (
        *(["run", file, *there], ["plan", file, *there], ["sweep", file, *there]),
        *(["submit", file, *there], ["report", address, "x"], ["status", address]),
    ):
        code, out, err = call(*command)
        assert (code, out) == (2, ""), command
        assert "keys do not belong in the address" in err
        assert not any(part in err for part in ("KEYID", "HID", "DEN"))
    assert sorted(data.parent.rglob("*")) == before


def test_a_spec_that_is_not_there_is_one_line(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
):
    file = tmp_path / "none.yaml"
    for command in ("run", "plan", "sweep"):
        code, out, err = call(command, str(file))
        assert (code, out) == (2, "")
        assert err == f"raythief: {file}: cannot be read: No such file or directory\n"


def test_a_report_of_what_never_ran_is_one_line(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
):
    code, out, err = call("report", str(tmp_path), "none")
    assert (code, out) == (2, "")
    assert err.startswith("raythief: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_our_own_mistakes_keep_their_trace(
    data: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
):
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(config, "load", broken)
    with pytest.raises(ZeroDivisionError):
        call("plan", str(write(data)))


def test_a_run_that_is_stopped_says_how_to_go_on(
    data: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
):
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load", stopped)
    monkeypatch.setattr(os, "_exit", sys.exit)
    code, _, err = call("plan", str(write(data)))
    assert code == 130
    assert "raythief: stopped; the same command goes on from here" in err


def test_a_plan_is_printed_and_changes_nothing(
    data: Path, call: Callable[..., tuple[int, str, str]]
):
    file = write(data)
    before = sorted(data.parent.rglob("*"))
    less = ["--set", "victim.sanity.count=2", "--set", "costs.budget=6"]
    code, out, err = call("plan", str(file), "--only", "b", "--set", "costs.query_usd=0.1", *less)
    assert (code, err) == (0, "")
    assert "Queries to buy: 7 ($0.70)" in out
    assert "Budget: 6 queries, 0 spent: not enough" in out
    assert sorted(data.parent.rglob("*")) == before


def test_the_plan_of_a_sweep_counts_what_trials_share_once(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
):
    """Three trials of one rate each: their labels are bought once, their extractors are three."""
    file = tmp_path / "sweep.yaml"
    rates = "extractor.training.learning_rate: {grid: [0.1, 0.2, 0.3]}"
    sets = "evaluation: {sets: {dev: {source: miniature, split: validation, count: 3}}}"
    file.write_text(
        "name: x\ncorpus: {source: miniature}\nqueries: {count: 7}\n"
        "victim: {model: miniature:english, training: {}}\nreal: {train: {source: miniature}}\n"
        f"extractor: {{model: miniature:multilingual}}\n{sets}\nstorage: {tmp_path / 'a'}\n"
        f"sweep: {{objective: dev, parameters: {{{rates}}}}}\n"
    )
    code, out, _ = call("plan", str(file), "--sweep")
    assert code == 0
    assert "Queries to buy: 7 " in out
    stages = [line.split()[0] for line in out.splitlines() if "missing" in line.split()]
    assert stages.count("extractor") == 3
    assert stages.count("labels") == 1
    code, _, told = call("plan", str(file), "--sweep", "--set", "sweep.searcher=optuna")
    assert code == 2
    assert "optuna chooses its trials as it goes" in told


# --- help -------------------------------------------------------------------------------------

OPTIONS = {
    "run": ["SPEC", "--set", "--until", "--only", "--address"],
    "plan": ["SPEC", "--set", "--only", "--sweep"],
    "status": ["path", "--follow"],
    "sweep": ["SPEC", "--set", "--address"],
    "serve": ["SPEC", "--set", "--address"],
    "submit": ["SPEC", "--set", "--sweep", "--address", "--detach"],
    "jobs": ["--address"],
    "stop": ["ID", "--address"],
    "report": ["storage", "name"],
    "demo": ["--set", "--full"],
    "reference": [],
}


@pytest.mark.parametrize("command", OPTIONS)
def test_every_command_explains_itself(
    command: str, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = call(command, "--help")
    assert (code, err) == (0, "")
    assert [option for option in OPTIONS[command] if option not in out] == []


def test_the_help_lists_every_command(call: Callable[..., tuple[int, str, str]]):
    code, out, _ = call("--help")
    assert code == 0
    assert [command for command in OPTIONS if command not in out] == []
    registered = {
        command.name or command.callback.__name__ for command in cli.app.registered_commands
    }  # type: ignore[union-attr]
    assert registered == set(OPTIONS)


def test_an_unknown_command_or_option_is_refused(call: Callable[..., tuple[int, str, str]]):
    assert call("rnu")[0] == 2
    assert call("plan", "spec.yaml", "--sett", "a=b")[0] == 2


def test_the_reference_has_a_row_for_every_field(call: Callable[..., tuple[int, str, str]]):
    code, out, _ = call("reference")
    assert code == 0
    rows = [line for line in out.splitlines() if line.startswith("| `")]
    assert len(rows) == len(list(config.fields()))
    assert any("Number of queries; the paper's equals" in row for row in rows)


# --- as a process -----------------------------------------------------------------------------


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raythief.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "RAY_ADDRESS": "203.0.113.1:1"},  # nobody may be asked
    )


def test_the_version_is_told():
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")


def test_a_mistake_of_a_process_is_the_same_one_line(data: Path):
    file = write(data, queries={"cuont": 5})
    done = process("run", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (f"raythief: {file}: queries.cuont is no field; did you mean `count`?\n")
    assert not (data.parent / "storage").exists()


@pytest.mark.parametrize("arguments", [["reference"], ["plan", "SPEC"], ["plan", "--help"]])
def test_an_output_that_takes_no_more_is_one_line(data: Path, arguments: list[str]):
    """As of `raythief plan > file` on a full disk."""
    file = str(write(data))
    command = [file if part == "SPEC" else part for part in arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "raythief.cli", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    fault = "No space left on device"
    assert done.stderr == f"raythief: standard output cannot be written: {fault}\n"


def test_a_reader_that_leaves_is_no_fault():
    """As of `raythief reference | head`."""
    with subprocess.Popen(
        [sys.executable, "-m", "raythief.cli", "reference"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as made:
        assert made.stdout is not None and made.stderr is not None
        made.stdout.close()
        assert made.stderr.read() == b""


def test_a_log_that_takes_no_more_does_not_change_the_exit_code(data: Path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "raythief.cli", "plan", str(data / "none.yaml")],
            stderr=full,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2


def test_what_the_machine_lacks_is_one_line(
    data: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "/proc/x")

    monkeypatch.setattr(config, "load", full)
    code, out, err = call("plan", str(write(data)))
    assert (code, out) == (2, "")
    assert err.startswith("raythief: no space is left on the disk of /proc; free some")
    assert err.count("\n") == 1
