"""Artifacts on a real S3 server: reached, written, claimed, cut off, and refused in a sentence."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from api_server import free_port
from conftest import Told
from raythief import artifacts, leases, status
from raythief.artifacts import DONE, LEASE, MANIFEST, WORK, Artifact, Storage
from raythief.config import Costs
from raythief.errors import UserError
from raythief.leases import lease
from raythief.metering import Meter
from raythief.progress import Tell
from raythief.stages import Build, Stage
from s3_server import KEYS, S3Server, answering


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def place(server: S3Server, request: pytest.FixtureRequest) -> str:
    return server.bucket(f"t{abs(hash(request.node.name))}")


@pytest.fixture
def storage(place: str) -> Storage:
    return Storage.at(place)


def files(artifact: Artifact, server: S3Server) -> list[str]:
    return server.names(artifact.absolute)


def writes(**content: bytes) -> Build:
    def build(target: Artifact, inputs: Mapping[str, Artifact], tell: Tell) -> dict[str, Any]:
        for name, data in content.items():
            target.write(name, data)
        return Told()

    return build


def never(target: Artifact, inputs: Mapping[str, Artifact], tell: Tell) -> dict[str, Any]:
    raise AssertionError("must not be built")


# --- artifacts --------------------------------------------------------------------------------


def test_an_artifact_on_s3_is_built_once_and_holds_what_was_written(
    storage: Storage, server: S3Server, tmp_path: Path
) -> None:
    source = tmp_path / "model"
    (source / "deep").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "deep" / "weights").write_bytes(b"w" * 11_000_000)  # more than one part

    def build(target: Artifact, inputs: Mapping[str, Artifact], tell: Tell) -> dict[str, Any]:
        target.upload(source, "model")
        target.write_table("t.parquet", pa.table({"x": [1, 2]}))
        target.write(f"{WORK}/part", b"1")
        return Told()

    storage.check_writable()
    artifact, built = Stage("s", {}, build).ensure(storage)
    assert built
    assert artifact.read_table().to_pydict() == {"x": [1, 2]}
    assert list(artifact.times()) == ["t.parquet"]
    copy = artifact.local("model")
    assert (copy / "deep" / "weights").read_bytes() == b"w" * 11_000_000
    assert not Stage("s", {}, never).ensure(storage)[1]
    names = ("model/config.json", "model/deep/weights", "t.parquet", MANIFEST, DONE)
    assert files(artifact, server) == sorted(names)


def test_a_machine_holds_one_copy_of_a_folder_and_of_another_build_another(
    storage: Storage,
) -> None:
    stage = Stage("s", {}, writes(**{"model/a": b"alpha"}))
    copies = []
    for _ in range(2):
        artifact, _ = stage.ensure(storage)
        artifacts._download.cache_clear()  # as if another process asked
        copies.append(artifact.local("model"))
    assert copies[0] == copies[1]
    storage.fs.delete_dir(artifact.absolute)
    again, built = Stage("s", {}, writes(**{"model/a": b"beta"})).ensure(storage)
    assert built
    assert [(copy / "a").read_bytes() for copy in (copies[0], again.local("model"))] == [
        b"alpha", b"beta",
    ]  # fmt: skip


def test_of_a_copy_that_fails_nothing_stays_in_the_cache(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, _ = Stage("s", {}, writes(**{"model/a": b"alpha"})).ensure(storage)
    copy = artifacts.pa.fs.copy_files

    def cut_off(source: str, target: str, *rest: Any) -> None:
        copy(source, target, *rest)
        raise OSError("the disk is full")

    monkeypatch.setattr(artifacts.pa.fs, "copy_files", cut_off)
    with pytest.raises(OSError, match="the disk is full"):
        artifact.local("model")
    left = (tmp_path / "cache" / "raythief").iterdir()
    assert [file.suffix for file in left] == [".lock"]
    monkeypatch.setattr(artifacts.pa.fs, "copy_files", copy)
    assert (artifact.local("model") / "a").read_bytes() == b"alpha"


def test_damage_is_found_on_s3_too(storage: Storage, server: S3Server) -> None:
    artifact, _ = Stage("s", {}, writes(a=b"alpha")).ensure(storage)
    time.sleep(1.1)  # a store's times are in whole seconds
    with server.fs().open_output_stream(f"{artifact.absolute}/a") as stream:
        stream.write(b"ALPHA")
    with pytest.raises(UserError, match=r"damaged: a was altered"):
        artifact.verify()


@pytest.mark.parametrize("after", [None, b'{"beat": 10}', b"{}"])
def test_what_changes_while_it_is_read_is_read_whole_or_is_not_there(
    after: bytes | None, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a claim is renewed or taken back, after its length was asked for."""
    from moto.s3.responses import S3Response

    answer, changes = S3Response.get_object, iter([after])

    def late(self: Any) -> Any:
        for content in changes:
            if content is None:
                storage.fs.delete_file(f"{storage.root}/claim")
            else:
                storage.write_bytes("claim", content)
        return answer(self)

    storage.write_bytes("claim", b'{"beat": 9}')
    monkeypatch.setattr(S3Response, "get_object", late)
    assert storage.read_bytes("claim") == after


def test_one_purchase_is_asked_for_by_its_address(storage: Storage, place: str) -> None:
    labels = storage.artifact("labels", "a" * 16)
    Meter(storage, Costs(), []).open(labels.path, 100, 0, 0)
    address, _, query = place.partition("?")
    [whole], [one] = status.find(place), status.find(f"{address}/{labels.path}?{query}")
    assert whole == one
    assert storage.address(labels.absolute) == f"{address}/{labels.path}?{query}"


CUT_OFF = """
import sys
from pathlib import Path
from raythief.artifacts import Storage
from raythief.stages import Stage

def build(target, inputs, tell):
    target.write("small", b"whole")
    target.upload(Path(sys.argv[2]), "model")
    return Told()

Stage("s", {}, build).ensure(Storage.at(sys.argv[1]))
"""


def test_of_an_upload_that_is_killed_nothing_is_seen_and_the_next_run_is_whole(
    storage: Storage, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.s3.models import FakeMultipart

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"w" * 25_000_000)
    half, goes_on = threading.Event(), threading.Event()
    store = FakeMultipart.set_part

    def held(self: Any, number: int, *rest: Any) -> Any:
        if number >= 2:  # one part has come in, and no more will
            half.set()
            goes_on.wait(300)
        return store(self, number, *rest)

    monkeypatch.setattr(FakeMultipart, "set_part", held)
    process = subprocess.Popen(
        [sys.executable, "-c", CUT_OFF, storage.uri, str(tmp_path / "model")]
    )
    assert half.wait(300)
    process.kill()
    process.wait()

    def again(target: Artifact, inputs: Mapping[str, Artifact], tell: Tell) -> dict[str, Any]:
        assert files(target, server)[1:] == ["small"]  # besides the claim of this run
        target.upload(tmp_path / "model", "model")
        return Told()

    stage = Stage("s", {}, again)
    artifact = storage.artifact("s", stage.fingerprint)
    [claim, small] = files(artifact, server)
    assert (claim.startswith(LEASE), small) == (True, "small")
    assert artifact.manifest() is None
    goes_on.set()
    monkeypatch.setattr(FakeMultipart, "set_part", store)
    assert stage.ensure(storage)[1]
    assert [entry["bytes"] for entry in artifact.verify()["files"]] == [25_000_000, 5]
    assert files(artifact, server) == sorted(["model/weights", "small", MANIFEST, DONE])


# --- leases -----------------------------------------------------------------------------------


def test_of_many_that_claim_at_once_one_at_a_time_holds_the_lease(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the writes of their claims take."""
    monkeypatch.setattr(leases, "POLL_S", 0.05)
    artifact, pauses = storage.artifact("s", "f"), iter([0.4, 0.0, 0.2, 0.1] * 1000)
    write = Storage.write_bytes

    def late(self: Storage, path: str, data: bytes) -> None:
        time.sleep(next(pauses))
        write(self, path, data)

    monkeypatch.setattr(Storage, "write_bytes", late)
    holders, most, done = 0, 0, 0
    lock = threading.Lock()

    def run() -> None:
        nonlocal holders, most, done
        with lease(artifact):
            with lock:
                holders += 1
                most = max(most, holders)
            time.sleep(0.1)
            with lock:
                holders -= 1
                done += 1

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, done) == (1, 4)


def test_an_owner_that_was_given_up_says_so_and_claims_no_more(
    storage: Storage,
    server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.2)
    artifact = storage.artifact("s", "f")
    with lease(artifact):
        [claim] = files(artifact, server)
        server.fs().delete_file(f"{artifact.absolute}/{claim}")
        until = time.monotonic() + 30
        while "s/f was taken over by another run" not in caplog.text:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert files(artifact, server) == []


# --- reaching it ------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "address", "scheme"])
def test_an_endpoint_is_named_in_the_environment_or_in_the_address(
    server: S3Server, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _, query = server.bucket("named").partition("?")
    if named == "address":
        address = f"{address}?{query}"
    elif named == "scheme":
        address = f"{address}?scheme=http&endpoint_override={server.url.partition('://')[2]}"
    else:
        monkeypatch.setenv(named, server.url)
    Storage.at(address).write_bytes(named, b"here")
    assert named in server.names("named/runs")


def refusal(address: str) -> str:
    with pytest.raises(UserError) as caught:
        Storage.at(address).check_writable()
    text = str(caught.value)
    assert text.startswith("storage: s3://bucket/runs: ")
    assert "\n" not in text
    for secret in KEYS.values():
        assert secret not in text
    return text


def test_a_bucket_that_is_not_there_is_told(server: S3Server) -> None:
    said = refusal(f"s3://bucket/runs?endpoint_override={server.url}")
    assert "there is no bucket `bucket`" in said


def test_an_endpoint_that_does_not_answer_is_told() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    said = refusal(f"s3://bucket/runs?endpoint_override=http://{nobody}")
    assert f"{nobody} does not answer; check the network" in said


@pytest.mark.slow
def test_an_endpoint_that_takes_requests_and_never_answers_is_told() -> None:
    with answering(0) as url:
        assert "does not answer" in refusal(f"s3://bucket/runs?endpoint_override={url}")


def test_credentials_that_are_refused_or_missing_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(403) as url:
        address = f"s3://bucket/runs?endpoint_override={url}"
        assert "refuses the credentials; check them" in refusal(address)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in KEYS:
            monkeypatch.delenv(name)
        said = refusal(address)
    assert "no credentials are set; set AWS_ACCESS_KEY_ID" in said


def test_a_bucket_of_another_region_is_told_with_its_region() -> None:
    with answering(301, x_amz_bucket_region="eu-west-1") as url:
        said = refusal(f"s3://bucket/runs?region=us-east-1&endpoint_override={url}")
    assert "add `?region=eu-west-1`" in said


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("bucket/runs?endpoint=http://minio:9000", "`endpoint` is none of endpoint_override, reg"),
        ("minio:9000/bucket", "`minio:9000` is no bucket; an endpoint is named by `?endpoint_ove"),
        ("bucket?region=x&endpoint_override=ftp://minio", "Invalid S3 connection scheme 'ftp'"),
        ("/runs", "it has no bucket"),
    ],
)
def test_what_an_address_can_not_say_is_told(address: str, fault: str) -> None:
    with pytest.raises(UserError) as caught:
        _ = Storage.at(f"s3://{address}").fs
    shown = address.partition("?")[0]
    assert str(caught.value).startswith(f"storage: s3://{shown} cannot be opened: {fault}")


def test_a_store_that_fails_while_it_is_written_is_told(
    server: S3Server, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading is allowed, and writing is not."""
    from moto.s3.responses import S3Response

    def denied(*_: Any) -> Any:
        return 403, {}, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"

    _ = storage.fs
    monkeypatch.setattr(S3Response, "put_object", denied)
    with pytest.raises(UserError, match=r"cannot be written: .* refuses the credentials"):
        storage.check_writable()
