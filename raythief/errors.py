"""The one exception that is meant for the user's eyes."""

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


def first_line(error: BaseException) -> str:
    """What a library says of an error, without what it adds on further lines."""
    return str(error).partition("\n")[0] or type(error).__name__


def find_user_error(error: BaseException) -> UserError | None:
    """The ``UserError`` behind an exception that Ray has wrapped on its way to the driver."""
    return find_error(error, UserError)


def find_error(error: BaseException, kind: type[Kind]) -> Kind | None:
    """The exception of a kind behind one that Ray has wrapped on its way to the driver."""
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        # Of an error in a task or an actor Ray makes one that is of its class, too, and whose text
        # is the whole stack; the error itself is its cause.
        wrapped = isinstance(getattr(current, "cause", None), BaseException)
        if isinstance(current, kind) and not wrapped:
            return current
        pending += list(getattr(current, "worker_failures", {}).values())
        for name in ("cause", "controller_failure", "__cause__", "__context__"):
            inner = getattr(current, name, None)
            if isinstance(inner, BaseException):
                pending.append(inner)
    return None
