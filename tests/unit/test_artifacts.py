"""Artifacts: built once, whole or not at all, and never trusted once something is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pytest

from conftest import Told
from raythief import artifacts, leases
from raythief.artifacts import DONE, LEASE, MANIFEST, WORK, Artifact, Storage
from raythief.errors import UserError
from raythief.leases import lease
from raythief.progress import Tell
from raythief.stages import Build, Stage

PROGRAM = """
import sys, time
from pathlib import Path
from raythief import artifacts
from raythief.artifacts import Storage
from raythief.results import Results
from raythief.stages import Stage

storage, side, seconds, pause = sys.argv[1], Path(sys.argv[2]), *map(float, sys.argv[3:5])

write = Storage.write_bytes
def slow_write(self, path, data):
    if artifacts.LEASE in path and b'"beat": 0' in data:
        time.sleep(pause)  # between reading that nobody holds the lease and taking it
    write(self, path, data)
Storage.write_bytes = slow_write

def build(target, inputs, tell):
    with side.open("a") as file:
        file.write("built\\n")
    time.sleep(seconds)
    target.write("data.txt", b"data")
    return Results()

artifact, built = Stage("slow", {}, build).ensure(Storage.at(storage))
print("built" if built else "there", artifact.verify()["stage"])
"""


def start(storage: Path, side: Path, seconds: float, pause: float = 0.0) -> subprocess.Popen[str]:
    """Another process that ensures one and the same stage, whose build takes so long."""
    arguments = [str(storage), str(side), str(seconds), str(pause)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return out.strip()


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def writes(**files: str) -> Build:
    """A build that writes these files and tells their number."""

    def build(target: Artifact, inputs: Mapping[str, Artifact], tell: Tell) -> Told:
        for name, text in files.items():
            target.write(f"{name}.txt", text.encode())
        return Told(files=len(files))

    return build


def never(target: Artifact, inputs: Mapping[str, Artifact], tell: Tell) -> Told:
    raise AssertionError("must not be built")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.at(str(tmp_path / "storage"))


@pytest.fixture
def finished(storage: Storage) -> Artifact:
    return Stage("stage", {}, writes(a="alpha", b="beta")).ensure(storage)[0]


def folder(artifact: Artifact) -> Path:
    return Path(artifact.absolute)


# --- finished ---------------------------------------------------------------------------------


def test_a_stage_is_built_once_and_found_from_then_on(storage: Storage):
    artifact, built = Stage("stage", {"x": 1}, writes(a="alpha")).ensure(storage)
    again, rebuilt = Stage("stage", {"x": 1}, never).ensure(storage)
    assert (built, rebuilt) == (True, False)
    assert again == artifact
    assert (folder(artifact) / "a.txt").read_text() == "alpha"


def test_the_manifest_tells_what_was_made_from_what(storage: Storage):
    first = Stage("first", {"x": 1}, writes(a="alpha"), version=3)
    first.ensure(storage)
    second = Stage("second", {"y": [1, 2]}, writes(), {"role": first})
    manifest = second.ensure(storage)[0].verify()
    assert manifest["stage"] == "second"
    assert manifest["config"] == {"y": [1, 2]}
    assert manifest["inputs"] == {"role": {"stage": "first", "fingerprint": first.fingerprint}}
    assert manifest["results"] == {"files": 0}
    assert manifest["versions"]["pyarrow"] == pa.__version__
    entries = storage.artifact("first", first.fingerprint).verify()["files"]
    assert entries == [
        {"path": "a.txt", "bytes": 5, "sha256": hashlib.sha256(b"alpha").hexdigest()}
    ]


def test_the_done_marker_is_written_last(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    written: list[str] = []
    write = Storage.write_bytes

    def noted(self: Storage, path: str, data: bytes) -> None:
        written.append(path.rpartition("/")[2])
        write(self, path, data)

    monkeypatch.setattr(Storage, "write_bytes", noted)
    Stage("stage", {}, writes(a="alpha")).ensure(storage)
    kept = [name for name in written if not name.startswith(LEASE)]
    assert kept == ["a.txt", MANIFEST, DONE]


def test_no_lease_and_no_work_folder_and_no_cut_off_write_outlive_the_build(storage: Storage):
    def build(target: Artifact, inputs: Mapping[str, Artifact], tell: Tell) -> Told:
        target.write("a.txt", b"alpha")
        target.write("sub/b.txt", b"beta")
        target.write(f"{WORK}/state/half.bin", b"half")
        (folder(target) / "a.txt.0123.tmp").write_bytes(b"al")
        (folder(target) / "sub" / "b.txt.4567.tmp").write_bytes(b"b")
        return Told()

    artifact, _ = Stage("stage", {}, build).ensure(storage)
    left = {
        str(f.relative_to(folder(artifact))) for f in folder(artifact).rglob("*") if f.is_file()
    }
    assert left == {"a.txt", "sub/b.txt", MANIFEST, DONE}
    assert [entry["path"] for entry in artifact.verify()["files"]] == ["a.txt", "sub/b.txt"]
    assert not (folder(artifact) / WORK).exists()


def test_finishing_leaves_the_drafts_of_a_living_lease_alone(storage: Storage):
    artifact = storage.artifact("stage", "f")
    artifact.write("a.txt", b"alpha")
    draft = folder(artifact) / f"{LEASE}.0123.tmp"  # its owner is about to move it in place
    draft.write_bytes(b"{}")
    artifact.finish({})
    assert draft.exists()
    assert [entry["path"] for entry in artifact.verify()["files"]] == ["a.txt"]


# --- unfinished -------------------------------------------------------------------------------


def test_files_without_a_done_marker_are_no_artifact(finished: Artifact, storage: Storage):
    (folder(finished) / DONE).unlink()
    assert finished.manifest() is None
    with pytest.raises(UserError, match="not finished"):
        finished.verify()
    _, built = Stage("stage", {}, writes(a="alpha", b="beta")).ensure(storage)
    assert built


def test_an_unfinished_input_is_refused(storage: Storage):
    first = Stage("first", {}, writes(a="alpha"))
    with pytest.raises(UserError, match="not finished"):
        Stage("second", {}, never, {"first": first}).ensure(storage)


def test_a_failed_build_leaves_the_stage_unfinished_and_can_be_tried_again(storage: Storage):
    def fails(target: Artifact, inputs: Mapping[str, Artifact], tell: Tell) -> Told:
        target.write("a.txt", b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Stage("stage", {}, fails).ensure(storage)
    artifact = storage.artifact("stage", Stage("stage", {}, fails).fingerprint)
    assert artifact.manifest() is None
    assert not list(folder(artifact).glob(f"{LEASE}*"))
    started = time.monotonic()
    _, built = Stage("stage", {}, writes(a="whole")).ensure(storage)
    assert built
    assert time.monotonic() - started < 5
    assert (folder(artifact) / "a.txt").read_bytes() == b"whole"


def test_the_next_build_finds_what_the_last_one_left(storage: Storage):
    def fails(target: Artifact, inputs: Mapping[str, Artifact], tell: Tell) -> Told:
        target.write(f"{WORK}/part", b"1")
        raise ZeroDivisionError

    def goes_on(target: Artifact, inputs: Mapping[str, Artifact], tell: Tell) -> Told:
        return Told(left=(folder(target) / WORK / "part").read_text())

    with pytest.raises(ZeroDivisionError):
        Stage("stage", {}, fails).ensure(storage)
    artifact, _ = Stage("stage", {}, goes_on).ensure(storage)
    assert artifact.verify()["results"] == {"left": "1"}


# --- damage -----------------------------------------------------------------------------------


def cut_short(where: Path) -> None:
    (where / "a.txt").write_bytes(b"alph")


def altered(where: Path) -> None:
    (where / "a.txt").write_bytes(b"ALPHA")


def removed(where: Path) -> None:
    (where / "a.txt").unlink()


def manifest_altered(where: Path) -> None:
    text = (where / MANIFEST).read_text()
    (where / MANIFEST).write_text(text.replace('"files": 2', '"files": 3'))


def manifest_removed(where: Path) -> None:
    (where / MANIFEST).unlink()


def marker_altered(where: Path) -> None:
    (where / DONE).write_bytes(b"\xff\xfe")


DAMAGE = [
    (cut_short, "a.txt has 4 bytes instead of 5"),
    (altered, "a.txt was altered"),
    (removed, "a.txt is missing"),
    (manifest_altered, f"{MANIFEST} is not the one that was written"),
    (manifest_removed, f"{MANIFEST} is not the one that was written"),
    (marker_altered, f"{MANIFEST} is not the one that was written"),
]


@pytest.mark.parametrize(("harm", "how"), DAMAGE, ids=[harm.__name__ for harm, _ in DAMAGE])
def test_damage_is_told_with_the_file(
    finished: Artifact, storage: Storage, harm: Callable[[Path], None], how: str
):
    harm(folder(finished))
    expected = f"{finished.absolute}: damaged: {how}; run the spec that makes it to mend it"
    with pytest.raises(UserError) as caught:
        finished.verify()
    assert str(caught.value) == expected
    artifact, built = Stage("stage", {}, writes(a="alpha", b="beta")).ensure(storage)
    assert built
    assert (folder(artifact) / "a.txt").read_text() == "alpha"
    artifact.verify()


def test_what_is_whole_of_a_damaged_artifact_is_there_when_it_is_mended(
    finished: Artifact, storage: Storage
):
    altered(folder(finished))
    seen: dict[str, bool] = {}

    def build(target: Artifact, inputs: Mapping[str, Artifact], tell: Tell) -> Told:
        seen.update({name: (folder(target) / name).exists() for name in ("a.txt", "b.txt")})
        target.write("a.txt", b"alpha")
        return Told()

    Stage("stage", {}, build).ensure(storage)
    assert seen == {"a.txt": False, "b.txt": True}


@pytest.mark.parametrize("harm", [cut_short, removed, manifest_altered, manifest_removed])
def test_damage_is_seen_at_a_glance(finished: Artifact, harm: Callable[[Path], None]):
    assert finished.fault() is None
    harm(folder(finished))
    assert finished.fault() == next(how for harm_, how in DAMAGE if harm_ is harm)


@pytest.mark.parametrize("harm", [cut_short, altered, removed, manifest_altered])
def test_no_stage_is_built_from_a_damaged_input(
    finished: Artifact, storage: Storage, harm: Callable[[Path], None]
):
    harm(folder(finished))
    source = Stage("stage", {}, never)
    with pytest.raises(UserError, match="damaged"):
        Stage("next", {}, never, {"source": source}).ensure(storage)


def test_a_deleted_artifact_is_built_again(finished: Artifact, storage: Storage):
    altered(folder(finished))
    for file in folder(finished).iterdir():
        file.unlink()
    folder(finished).rmdir()
    artifact, built = Stage("stage", {}, writes(a="alpha", b="beta")).ensure(storage)
    assert built
    artifact.verify()


# --- leases -----------------------------------------------------------------------------------


def test_two_processes_at_once_build_once_however_slow_they_are_to_claim(tmp_path: Path):
    side = tmp_path / "side"
    both = [start(tmp_path / "storage", side, 2.0, pause) for pause in (0.5, 1.5)]
    assert sorted(ended(process) for process in both) == ["built slow", "there slow"]
    assert side.read_text() == "built\n"


@pytest.mark.timeout(120)
def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path: Path):
    side, place = tmp_path / "side", tmp_path / "storage"
    victim = start(place, side, 600)
    wait_for(side.exists)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert list(place.rglob(f"{LEASE}*"))
    started = time.monotonic()
    _, built = Stage("slow", {}, writes(data="data")).ensure(Storage.at(str(place)))
    assert built
    assert time.monotonic() - started < 5
    assert not list(place.rglob(f"{LEASE}*"))


def test_a_living_owner_is_waited_for_however_long_it_takes(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    monkeypatch.setattr(leases, "STALE_S", 1.0)
    artifact, order = storage.artifact("stage", "f"), []

    def wait() -> None:
        with lease(artifact):
            order.append("second")

    with lease(artifact):
        second = threading.Thread(target=wait)
        second.start()
        time.sleep(2.0)  # twice as long as a silent owner is given
        order.append("first")
    second.join(30)
    assert order == ["first", "second"]


def elsewhere(storage: Storage) -> Artifact:
    """An artifact whose lease is held on another machine, by whom is not known here."""
    artifact = storage.artifact("stage", "f")
    claim = {"owner": "x", "host": "elsewhere", "pid": os.getpid(), "boot": "b", "beat": 3}
    artifact.write(f"{LEASE}x.json", json.dumps(claim).encode())
    return artifact


@pytest.mark.timeout(120)
def test_a_silent_owner_on_another_machine_is_given_its_time_and_no_more(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(leases, "STALE_S", 1.0)
    artifact, started = elsewhere(storage), time.monotonic()
    with lease(artifact):
        assert 1.0 <= time.monotonic() - started < 10.0


@pytest.mark.timeout(120)
def test_a_run_that_waits_says_for_whom(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(leases, "STALE_S", 1.2)
    with lease(elsewhere(storage)):
        pass
    assert [record.getMessage() for record in caplog.records] == [
        f"stage/f is being worked on by process {os.getpid()} on elsewhere; waiting for it"
    ]


# --- fingerprints -----------------------------------------------------------------------------


def stage(name: str = "s", config: Any = None, version: int = 1, **inputs: Stage) -> Stage:
    return Stage(name, config or {}, never, inputs, version)


def test_a_fingerprint_depends_on_name_version_config_and_inputs():
    a, b = stage("a"), stage("b")
    found = [
        stage(),
        stage("t"),
        stage(version=2),
        stage(config={"x": 1}),
        stage(config={"x": 2}),
        stage(config={"x": "1"}),
        stage(config={"x": [1, 2]}),
        stage(config={"x": [2, 1]}),
        stage(left=a),
        stage(left=b),
        stage(right=a),
        stage(left=a, right=b),
        stage(left=b, right=a),
        stage(left=stage("a", {"deep": 1})),
    ]
    prints = [one.fingerprint for one in found]
    assert len(set(prints)) == len(prints)
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in prints)


def test_a_fingerprint_does_not_depend_on_the_order_of_keys_or_the_build():
    a, b = stage("a"), stage("b")
    one = Stage("s", {"x": 1, "y": {"p": 1, "q": 2}}, never, {"a": a, "b": b})
    other = Stage("s", {"y": {"q": 2, "p": 1}, "x": 1}, writes(), {"b": b, "a": a})
    assert one.fingerprint == other.fingerprint


def test_the_same_stage_has_the_same_name_on_every_storage(tmp_path: Path):
    places = [Storage.at(str(tmp_path / name)) for name in ("one", "other")]
    first, second = (Stage("s", {}, writes(a="alpha")).ensure(place)[0] for place in places)
    assert first.path == second.path
    assert (folder(first) / "a.txt").read_bytes() == (folder(second) / "a.txt").read_bytes()


def test_files_of_ones_own_are_known_by_content_not_by_place_or_time(tmp_path: Path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("same")
    os.utime(tmp_path / "other" / "file", (1, 1))
    one = artifacts.hash_files({"en": tmp_path / "one" / "file"})
    other = artifacts.hash_files({"en": tmp_path / "other" / "file"})
    assert one == other == {"en": hashlib.sha256(b"same").hexdigest()}
    (tmp_path / "other" / "file").write_text("else")
    assert artifacts.hash_files({"en": tmp_path / "other" / "file"}) != one


# --- tables -----------------------------------------------------------------------------------


def test_equal_tables_give_equal_bytes_however_they_came_about(storage: Storage):
    numbers = list(range(5_000))
    words = [f"word {i % 977}" * (i % 7) for i in numbers]
    whole = pa.table({"id": numbers, "text": words})
    parts = pa.concat_tables([whole.slice(0, 13), whole.slice(13, 777), whole.slice(790)])
    assert parts.equals(whole)
    one, other = storage.artifact("s", "one"), storage.artifact("s", "other")
    one.write_table("t.parquet", whole)
    other.write_table("t.parquet", parts)
    assert (folder(one) / "t.parquet").read_bytes() == (folder(other) / "t.parquet").read_bytes()


def test_a_folder_of_tables_is_read_in_the_order_of_names(storage: Storage):
    artifact = storage.artifact("s", "f")
    for name, values in (("b", [3]), ("a", [1, 2]), ("c", [4])):
        artifact.write_table(f"part/{name}.parquet", pa.table({"x": values, "y": values}))
    artifact.write("part/notes.txt", b"no table")
    assert artifact.tables("part") == ["part/a.parquet", "part/b.parquet", "part/c.parquet"]
    assert artifact.read_table("part", ["x"]).to_pydict() == {"x": [1, 2, 3, 4]}
    assert artifact.read_table("part/b.parquet").to_pydict() == {"x": [3], "y": [3]}
    with pytest.raises(UserError, match="holds no tables"):
        artifact.read_table("absent")


# --- places -----------------------------------------------------------------------------------


def test_a_file_uri_is_the_same_place_as_its_path(tmp_path: Path):
    by_path, by_uri = Storage.at(str(tmp_path / "s")), Storage.at(f"file://{tmp_path}/s")
    assert by_uri.is_local
    Stage("s", {}, writes(a="alpha")).ensure(by_uri)
    _, built = Stage("s", {}, never).ensure(by_path)
    assert not built


def test_relative_places_are_fixed_when_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    place = Storage.at("here")
    monkeypatch.chdir("/")
    assert place.root == str(tmp_path / "here")


def test_an_address_that_pyarrow_does_not_know_is_told():
    with pytest.raises(UserError, match="storage: ftp://host/path cannot be opened"):
        _ = Storage.at("ftp://host/path").fs


def test_an_address_names_the_storage_wherever_it_is_opened(tmp_path: Path):
    azure = Storage.at("abfs://container@account.dfs.core.windows.net/p?enable_tls=true")
    shown = "abfs://container@account.dfs.core.windows.net/p/runs/x?enable_tls=true"
    assert azure.address(f"{azure.root}/runs/x") == shown
    assert Storage.at(str(tmp_path)).address(f"{tmp_path}/runs") == f"{tmp_path}/runs"


class Remote:
    """Storage on a filesystem that is none of this machine's folders."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        inner = pa.fs.SubTreeFileSystem(str(tmp_path / "bucket"), pa.fs.LocalFileSystem())
        (tmp_path / "bucket" / "prefix").mkdir(parents=True)
        local = artifacts._open

        def opened(uri: str) -> tuple[pa.fs.FileSystem, str]:
            return (inner, "prefix") if uri == "mock://bucket/prefix" else local(uri)

        monkeypatch.setattr(artifacts, "_open", opened)
        self.storage = Storage.at("mock://bucket/prefix")
        self.bucket = tmp_path / "bucket"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    return Remote(tmp_path, monkeypatch)


def test_a_place_that_can_not_be_written_is_told_and_left_alone(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("mine")
    for place in (file, file / "deep" / "er", Path("/proc/raythief"), tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match=r"^storage: ") as caught:
            Storage.at(str(place)).check_writable()
        assert str(place) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "mine"


def test_looking_whether_a_place_can_be_written_leaves_no_trace(tmp_path: Path, remote: Remote):
    before = sorted(tmp_path.rglob("*"))
    Storage.at(str(tmp_path / "not" / "yet" / "there")).check_writable()
    Storage.at(str(tmp_path)).check_writable()
    remote.storage.check_writable()
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == [
        path for path in before if path.is_file()
    ]
    assert not (tmp_path / "not").exists()


def test_a_write_is_whole_or_not_at_all(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    storage.write_bytes("a/b", b"old")

    class Full(pa.fs.LocalFileSystem):
        def move(self, source: str, target: str) -> None:
            raise OSError("no space left")

    monkeypatch.setattr(artifacts, "_open", lambda uri: (Full(), uri))
    with pytest.raises(OSError, match="no space"):
        storage.write_bytes("a/b", b"new")
    assert storage.read_bytes("a/b") == b"old"
