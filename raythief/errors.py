"""The one exception that is meant for the user's eyes, and what a machine lacks, told as one."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

Kind = TypeVar("Kind", bound=BaseException)


class UserError(Exception):
    """A mistake that the user can mend, told in one sentence that names the field or the file.

    The command line prints the sentence and leaves with exit code 2; nothing else about it is
    shown. Anything that is not a ``UserError`` is our own mistake and keeps its stack trace.
    """


class MissingFileError(UserError):
    """A file that the user has to provide is not there."""


class MissingKeyError(UserError):
    """A key that the user has to provide is not in the environment."""


AGAIN = "then give the same command again: what is done is kept"
_FULL = {errno.ENOSPC: "no space is left", errno.EDQUOT: "the disk quota is used up"}
_REFUSED = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "it is not permitted",
}
_FULL_IN_WORDS = re.compile(
    r"No space left on device|os error 28\b|StorageFull"  # of Rust: safetensors, tokenizers
    r"|PytorchStreamWriter failed|unexpected pos \d+ vs \d+"  # of torch.save, which tells no more
)
_QUOTED_PATH = re.compile(r"'(/[^']+)'")
_MEMORY = re.compile(
    r"\(IP: ([^,)]+)[^)]*\).*? was ([\d.]+ ?\w+)(?: used)? / ([\d.]+ ?\w+)", re.DOTALL
)
_LESS_MEMORY = (
    "lower resources.concurrent_stages, the workers of resources.inference, "
    "inference.tokens_per_batch or a training's batch, or take larger machines, " + AGAIN
)


def first_line(error: BaseException) -> str:
    """What a library says of an error, without what it adds on further lines."""
    return str(error).partition("\n")[0] or type(error).__name__


def find_user_error(error: BaseException) -> UserError | None:
    """The ``UserError`` behind an exception that Ray has wrapped on its way to the driver.

    A disk that is full and a file that may not be written are told as one, too: whoever tries
    again meets them again.
    """
    mistake = find_error(error, UserError)
    return mistake or next(filter(None, map(_refused, _chain(error))), None)


def explain(error: BaseException) -> UserError | None:
    """As ``find_user_error``, and also what need not be so at the next try: a store that refuses,
    and what ended a worker from outside: want of memory, a crash, the loss of its machine or of Ray
    itself.

    None for all that is not known: that keeps its stack trace.
    """
    found = find_user_error(error)
    if found is not None:
        return found
    chain = list(_chain(error))
    return next(filter(None, [*map(_of_store, chain), *map(_ended, chain)]), None)


def find_error(error: BaseException, kind: type[Kind]) -> Kind | None:
    """The exception of a kind behind one that Ray has wrapped on its way to the driver."""
    of_kind = (one for one in _chain(error) if isinstance(one, kind) and not _is_wrapper(one))
    return next(of_kind, None)


def memory_ran_short(text: str) -> str:
    """What Ray says in many lines of workers that it ended for want of memory, in one; empty if it
    speaks of something else."""
    if "low on memory" not in text and "memory pressure (OOM)" not in text:
        return ""
    used = _MEMORY.search(text)
    where = f"on {used[1]} ({used[2]} of {used[3]} used)" if used else "on a machine"
    return f"memory ran short {where}, and Ray ended a worker for it"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it came of, itself first."""
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending += list(getattr(current, "worker_failures", {}).values())
        for name in ("cause", "controller_failure", "__cause__", "__context__"):
            inner = getattr(current, name, None)
            if isinstance(inner, BaseException):
                pending.append(inner)


def _is_wrapper(error: BaseException) -> bool:
    """Of an error in a task or an actor Ray makes one that is of its class, too, and whose text is
    the whole stack; the error itself is its cause."""
    return isinstance(getattr(error, "cause", None), BaseException)


def _refused(error: BaseException) -> UserError | None:
    """What is to be told of a disk that takes no more, or of a file that is not to be written."""
    if _is_wrapper(error):
        return None
    number = error.errno if isinstance(error, OSError) else None
    place = _place(error) if isinstance(error, OSError) else ""
    if number in _FULL or _FULL_IN_WORDS.search(str(error)):
        what = _FULL[number] if number in _FULL else _FULL[errno.ENOSPC]
        disk = f"on the disk of {_mount(place)}" if place else "on a disk (the storage's or Ray's)"
        return UserError(f"{what} {disk}; free some, {AGAIN}")
    if number in _REFUSED and place:
        return UserError(f"{place}: {_REFUSED[number]}; allow it or name another place, {AGAIN}")
    return None


def _place(error: OSError) -> str:
    """The file of an error; pyarrow tells it in its text alone."""
    if error.filename is not None:
        return os.fsdecode(error.filename) if not isinstance(error.filename, int) else ""
    found = _QUOTED_PATH.search(str(error))
    return found[1] if found else ""


def _mount(path: str) -> str:
    """Where the disk that holds a file is mounted: many files that do not fit are one cause."""
    place = Path(path)
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return str(place)


def _of_store(error: BaseException) -> UserError | None:
    """What is to be told of an object store that refuses or does not answer."""
    from raythief import s3  # which takes its errors from here

    if _is_wrapper(error) or not isinstance(error, OSError) or "AWS Error" not in str(error):
        return None
    return UserError(f"storage: {s3.explain(error)}; see to it, {AGAIN}")


def _ended(error: BaseException) -> UserError | None:
    """What is to be told of a worker that did not end by an exception of its own."""
    from ray import exceptions  # takes a second, which a mistake in a spec need not wait for

    text = str(error)
    short = memory_ran_short(text) if isinstance(error, exceptions.RayError) else ""
    if short or isinstance(error, exceptions.OutOfMemoryError):
        what = short or "memory ran short on a machine, and Ray ended a worker for it"
        return UserError(f"{what}, more often than resources.restarts bears; {_LESS_MEMORY}")
    if isinstance(error, exceptions.OutOfDiskError):
        return UserError(f"{_FULL[errno.ENOSPC]} for Ray's temporary files; free some, {AGAIN}")
    if isinstance(error, exceptions.NodeDiedError):
        return UserError(f"a machine of the cluster was lost; see that it is back, {AGAIN}")
    if isinstance(error, exceptions.LocalRayletDiedError):
        return UserError(f"Ray ended on this machine (its log: raylet.out); start it, {AGAIN}")
    if isinstance(error, exceptions.WorkerCrashedError) or (
        isinstance(error, exceptions.ActorDiedError) and "exits with a connection error" in text
    ):
        return UserError(
            "a worker's process ended without a word, as when the system's memory runs out or "
            f"native code crashes (Ray's logs tell more); if it was memory, {_LESS_MEMORY}"
        )
    return None
