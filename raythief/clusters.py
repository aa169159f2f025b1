"""A connection to somebody's Ray cluster, or a Ray of our own for as long as a command takes.

with clusters.connect(address):
    ...                             # any of Ray's calls
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.data
from transformers.utils.logging import disable_progress_bar

from raythief.errors import UserError, first_line, memory_ran_short

log = logging.getLogger(__name__)

LOCAL_CPUS = 4
"""Logical CPUs that Ray is told of, at least, on a machine of our own: stages need one for their
workers and some for Ray's own tasks, and wait for each other for ever with only two."""
_LOGGERS = ("ray.data", "ray.train", "ray.tune", "transformers")


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one of our own and stop it.

    SIGTERM ends what runs meanwhile as Ctrl-C does.

    Args:
        address: ``auto``, ``ray://…`` or ``host:port``; None takes RAY_ADDRESS (which
            ``ray job submit`` sets), else starts Ray on this machine.

    Raises:
        UserError: no cluster answers at the address, or it is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Light actors outnumber the cores of a small machine on purpose; Ray warns of it.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(2 * LOCAL_CPUS))
    with _own_sigterm():
        _init(address or os.environ.get("RAY_ADDRESS"))
        ray.data.DataContext.get_current().enable_progress_bars = False
        quiet(*_LOGGERS)
        try:
            yield
        except KeyboardInterrupt:
            for name in _LOGGERS:  # how each stage under way fails without Ray is of no interest
                logging.getLogger(name).setLevel(logging.CRITICAL)
            raise
        finally:
            ray.shutdown()


def quiet(*loggers: str) -> None:
    """Show only errors of these loggers, and no bars of others: ours tell what there is to tell."""
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    disable_progress_bar()


def _init(address: str | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        cpus = max(LOCAL_CPUS, os.cpu_count() or 1)
        options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    else:
        options |= {"address": address}
    none = (
        f"--address {address}: is no address of a Ray cluster; give `auto`, `HEAD:6379` or "
        "`ray://HEAD:10001` here or in RAY_ADDRESS (`raythief submit` takes http://HEAD:8265)"
    )
    scheme, found, _ = (address or "").partition("://")
    if found and scheme != "ray":  # Ray would take it for the name of a Python module
        raise UserError(none)
    try:
        with _hushed():
            ray.init(**options)
    except ValueError:
        if address is None:
            raise
        raise UserError(none) from None
    except ConnectionError as error:
        raise UserError(
            f"--address {address}: no Ray cluster answers: {first_line(error)}"
        ) from None
    _shorten_what_ray_says()
    if threading.current_thread() is threading.main_thread():
        # As Ctrl-C: Ray's own handler exits in a way that waits for the stages under way.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _shorten_what_ray_says() -> None:
    """Tell of workers that Ray ended for want of memory in a line, where it takes sixty of them,
    and but once that it tries again what was lost with a worker: whatever stays lost fails a stage.

    There is no public way to that; whatever else Ray has to say goes out as it is.
    """
    said = ray._private.worker.print_to_stdstream
    if getattr(said, "shortens", False):
        return

    def shorter(data: dict[str, Any], ignore_prefix: bool) -> None:
        text = "\n".join(map(str, data.get("lines", ())))
        if short := memory_ran_short(text):
            log.warning("%s; it starts again", short)
        elif "the task will be retried" not in text:
            said(data, ignore_prefix)
        elif not told.is_set():
            told.set()
            log.warning("a worker was lost, and Ray tries again what it did; told once")

    told = threading.Event()
    shorter.shortens = True  # type: ignore[attr-defined]
    ray._private.worker.print_to_stdstream = shorter


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Leave SIGTERM to whoever embeds us as it was: Ray sets a handler, and so do we after it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None is a handler that Python did not set, and cannot set again.
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Drop what native code writes to standard error: here, that it heeds RAY_BACKEND_LOG_LEVEL.

    That variable in turn silences a warning about actors' arguments that every pool of Ray Data
    draws and that says nothing to a user.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
