"""Mistakes of the user's, and what a machine lacks, as they come from elsewhere."""

from __future__ import annotations

import errno
import subprocess
import threading
import types
from pathlib import Path

import pytest
import torch
from ray import exceptions
from ray._private import worker
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from safetensors.torch import save_file

from raythief import clusters
from raythief.artifacts import Storage
from raythief.errors import UserError, explain, find_user_error


def in_a_task(error: BaseException) -> BaseException:
    """An exception as Ray brings it to the driver."""
    return exceptions.RayTaskError("work", "Traceback ...", error).as_instanceof_cause()


def test_a_mistake_on_another_node_is_told_in_its_own_words() -> None:
    raised = in_a_task(UserError("field: wrong"))
    assert isinstance(raised, UserError)
    assert str(raised) != "field: wrong"
    assert str(find_user_error(raised)) == "field: wrong"


def test_what_is_no_mistake_of_the_users_is_none() -> None:
    assert find_user_error(in_a_task(ValueError("ours"))) is None


# --- disks --------------------------------------------------------------------------------------


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(small_disk: Path) -> None:
    storage = Storage.at(str(small_disk / "storage"))
    storage.write_bytes("kept/answers", b"bought")
    for name in ("answers", "more"):
        with pytest.raises(OSError) as caught:
            storage.write_bytes(f"kept/{name}", bytes(1_000_000))
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == f"{small_disk}/storage/kept/{name}"
        said = str(explain(in_a_task(caught.value)))
        assert said.startswith(f"no space is left on the disk of {small_disk}; free some, then")
        assert "what is done is kept" in said and len(said.splitlines()) == 1
    assert [file.name for file in (small_disk / "storage/kept").iterdir()] == ["answers"]
    assert storage.read_bytes("kept/answers") == b"bought"
    storage.write_bytes("kept/more", b"there is room")


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_a_model_that_does_not_fit_is_told_as_well(small_disk: Path, save: object) -> None:
    """Neither library's error is an ``OSError``."""
    with pytest.raises(Exception) as caught:
        save({"weights": torch.zeros(1_000_000)}, small_disk / "weights")  # type: ignore[operator]
    assert not isinstance(caught.value, OSError)
    assert "no space is left" in str(find_user_error(in_a_task(caught.value)))


def test_a_disk_that_is_read_only_is_one_sentence(small_disk: Path) -> None:
    storage = Storage.at(str(small_disk))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError) as caught:
        storage.write_bytes("runs/x", b"")
    said = str(find_user_error(caught.value))
    assert said.startswith(f"{small_disk}/runs: the file system is read-only; ")


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC])
def test_the_cause_is_found_behind_what_a_library_makes_of_it(number: int) -> None:
    try:
        try:
            raise OSError(number, "?", "/proc/x")
        except OSError as inner:
            raise RuntimeError("the writer failed") from inner
    except RuntimeError as outer:
        assert "the disk of /proc; free some" in str(find_user_error(in_a_task(outer)))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error", "/x"),
        PermissionError(errno.EPERM, "Operation not permitted"),  # of a signal, say
        FileNotFoundError(errno.ENOENT, "No such file", "/x"),
        MemoryError(),
        exceptions.RayError("of another kind"),
    ],
)
def test_what_is_not_known_keeps_its_stack(error: Exception) -> None:
    assert explain(error) is None
    assert explain(in_a_task(error)) is None


def test_a_store_that_refuses_is_told_but_may_not_do_so_again() -> None:
    refused = OSError("When completing multiple part upload: AWS Error ACCESS_DENIED during PutObj")
    assert "S3 refuses" in str(explain(in_a_task(refused)))
    assert find_user_error(refused) is None


# --- workers that end ---------------------------------------------------------------------------

SHORT = """1 worker(s) were killed due to the node running low on memory.
Memory on the node (IP: 10.0.0.7, ID: 0123) was 15.20GB used / 16.00GB limit (0.950000)
Object store memory usage: [none]
Ray killed 1 worker(s) based on the killing policy
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/..."""


def dead(why: str) -> exceptions.ActorDiedError:
    return exceptions.ActorDiedError(ActorDiedErrorContext(error_message=why, actor_id=bytes(16)))


@pytest.mark.parametrize("error", [exceptions.OutOfMemoryError(SHORT), dead(SHORT)])
def test_want_of_memory_is_one_sentence_that_says_what_to_lower(error: Exception) -> None:
    said = str(explain(error))
    assert said.startswith("memory ran short on 10.0.0.7 (15.20GB of 16.00GB used), and Ray ended")
    assert "inference.tokens_per_batch" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (exceptions.WorkerCrashedError(), "ended without a word"),
        (
            dead("Worker unexpectedly exits with a connection error code 2. End of file."),
            "ended without a word",
        ),
        (exceptions.NodeDiedError("node 3 is gone"), "a machine of the cluster was lost"),
        (exceptions.LocalRayletDiedError(), "Ray ended on this machine"),
        (exceptions.OutOfDiskError("full"), "no space is left for Ray's temporary files"),
    ],
)
def test_a_worker_that_ended_is_told_but_is_no_mistake(error: Exception, told: str) -> None:
    """A training tries again after it, as it does not after a mistake."""
    assert told in str(explain(error))
    assert find_user_error(error) is None


def test_an_actor_that_failed_by_itself_keeps_its_stack() -> None:
    inner = exceptions.RayTaskError("__init__", "Traceback ...", KeyError("x"))
    assert explain(exceptions.ActorDiedError(inner)) is None


def test_rays_own_word_on_want_of_memory_is_one_line_and_no_other_is_touched(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It goes out as Ray's own thread brings it out."""
    retried = "Task x failed. There are 3 retries remaining, so the task will be retried. Error: y"
    told = [SHORT, retried, "A worker died of something else.\nIts log tells more.", retried]

    class Subscriber:
        def subscribe(self) -> None:
            """Nothing to do."""

        def poll(self) -> tuple[None, dict[str, object] | None]:
            if not told:
                stopped.set()
                return None, None
            return None, {"job_id": None, "error_message": told.pop(0)}

    stopped = threading.Event()
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    clusters._shorten_what_ray_says()
    clusters._shorten_what_ray_says()  # a command may connect twice
    listener = types.SimpleNamespace(
        gcs_error_subscriber=Subscriber(),
        current_job_id=types.SimpleNamespace(binary=lambda: b""),
    )
    worker.listen_error_messages(listener, stopped)
    said = "memory ran short on 10.0.0.7 (15.20GB of 16.00GB used), and Ray ended a worker for it"
    assert caplog.messages == [
        f"{said}; it starts again",
        "a worker was lost, and Ray tries again what it did; told once",
    ]
    out = capsys.readouterr().out
    assert "low on memory" not in out and "retried" not in out
    assert "A worker died of something else." in out
