"""Submit a spec as a job, follow it, list jobs, stop one."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import shlex
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import ray
import requests
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raythief import config
from raythief.artifacts import Storage
from raythief.errors import UserError, first_line
from raythief.submission import package as packages
from raythief.submission import preflight
from raythief.submission.connection import connect
from raythief.submission.package import Package

ON_HEAD = {HEAD_NODE_RESOURCE_NAME: 0.001}
"""What a driver takes: a place on the head, which costs little and is not reclaimed, but no CPU,
of which a head has none to give, and no GPU."""
LOST_AFTER_S = 60.0
"""How long a dashboard may not answer before a job is no longer followed."""
_PREFLIGHT = "raythief.submission.preflight"
_ATTEMPTS = 3
"""How often the log of a job that has ended is asked for in vain."""
_POLL_S = 0.5


def submit(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    sweep: bool = False,
    address: str | None = None,
    detach: bool = False,
    console: Console,
) -> int:
    """Check a spec and the cluster, run the spec there, and follow its log.

    The same submission given again attaches to the job that runs, or tells how it ended; one that
    failed or was stopped is submitted again, and goes on where it was.

    Args:
        path: The spec.
        overrides: As ``config.load`` takes them.
        sweep: Run the sweep instead.
        address: The dashboard's, see ``connect``.
        detach: Return as soon as the job is submitted.
        console: Shows what is done here; the job's log goes to standard output.

    Returns:
        The exit code of the job; 0 if it is no longer followed.

    Raises:
        UserError: a mistake, before the job is submitted; or the cluster was lost.
    """
    _hush()
    spec = config.load(path, overrides)
    check_storage(spec.storage)
    command = "sweep" if sweep else "run"
    with packages.pack(path, spec, command, overrides) as package:
        client = connect(address)
        earlier = attempts(client.list_jobs(), package.submission_id)
        latest = earlier[-1] if earlier else None
        if latest is not None and latest.status not in (JobStatus.FAILED, JobStatus.STOPPED):
            job = str(latest.submission_id)
            ended = latest.status.is_terminal()
            how = f"{job} {'has run' if ended else 'is running'} already"
        else:
            _preflight(client, package, spec.storage, console)
            job = _submit(client, package, len(earlier), spec.name)
            how = f"submitted as {job}"
    if detach:
        _say(console, how)
        _say(
            console,
            "the same command without --detach follows it; "
            f"`raythief stop {job}` stops it; `raythief jobs` lists all",
        )
        return 0
    return follow(client, job, console, how)


def check_storage(location: str) -> None:
    """Raise ``UserError`` if a job could not know the storage by that name, or should not.

    A job works in a copy of its package, in which a relative folder would be lost; and the Jobs
    API shows its command, so that no key may be in it.
    """
    Storage.at(location)
    if "://" in location or Path(location).is_absolute():
        return
    raise UserError(
        f"storage: {location} is a folder of this machine, which the cluster does not see; name "
        "one that all its nodes share, as --set storage=s3://bucket/path, gs://..., or the "
        "absolute path of a mounted folder"
    )


def attempts(jobs: Sequence[JobDetails], submission_id: str) -> list[JobDetails]:
    """Jobs of a submission, oldest first: ``ID``, ``ID-2``, ``ID-3``.

    Ray takes an id once only.
    """
    found = {job.submission_id: job for job in jobs}
    earlier: list[JobDetails] = []
    while (job := found.get(_numbered(submission_id, len(earlier)))) is not None:
        earlier.append(job)
    return earlier


def follow(client: JobSubmissionClient, job: str, console: Console, how: str = "") -> int:
    """Say how a job came about and print its log as it grows, until it ends or Ctrl-C.

    Returns:
        The exit code of the job; 0 after Ctrl-C, which leaves the job alone.

    Raises:
        UserError: the dashboard no longer answers, or the cluster lost the job.
    """
    log, broken = _Log(), 0
    try:
        if how:  # said here, so that whoever reads it can already let go of the job by Ctrl-C
            _say(console, how)
        while True:
            try:
                asyncio.run(log.stream(client, job))
                broken = 0
            except BrokenPipeError:  # whoever read the log has gone
                raise
            except (aiohttp.ClientError, OSError, RuntimeError):
                broken += 1
            ended = _ended(client, job)
            if ended is not None and (not broken or broken > _ATTEMPTS):
                return _tell_end(ended, console)
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        _say(
            console,
            f"\n{job} goes on; the same command follows it again, "
            f"and `raythief stop {job}` stops it",
        )
        return 0


def show(address: str | None, console: Console) -> None:
    """Print the jobs that run raythief, newest first."""
    _hush()
    jobs = [job for job in connect(address).list_jobs() if _is_ours(job)]
    console.print(table(jobs, time.time()) if jobs else "No job there runs raythief.")


def _is_ours(job: JobDetails) -> bool:
    """Whether a job was submitted to run raythief, by whatever hand."""
    command = job.entrypoint
    return job.type == JobType.SUBMISSION and "raythief" in command and _PREFLIGHT not in command


def table(jobs: Sequence[JobDetails], now: float) -> Table:
    """Jobs, newest first, at a time in seconds."""
    grid = Table(box=box.SIMPLE_HEAD)
    for heading in ("Id", "Spec", "Status", "Started"):
        grid.add_column(heading, no_wrap=True)
    grid.add_column("Took", justify="right", no_wrap=True)
    for job in sorted(jobs, key=lambda job: job.start_time or 0, reverse=True):
        began = (job.start_time or 0) / 1000
        ended = job.end_time / 1000 if job.end_time else now
        grid.add_row(
            escape(job.submission_id or ""),
            escape((job.metadata or {}).get("spec", "")),
            job.status.lower(),
            f"{datetime.datetime.fromtimestamp(began):%Y-%m-%d %H:%M}" if began else "",
            str(datetime.timedelta(seconds=round(ended - began))) if began else "",
        )
    return grid


def stop(job: str, address: str | None, console: Console) -> None:
    """Stop a job and wait until it has ended.

    Raises:
        UserError: there is no such job.
    """
    _hush()
    client = connect(address)
    try:
        was_running = client.stop_job(job)
    except RuntimeError:
        raise UserError(f"{job}: the cluster has no such job; see `raythief jobs`") from None
    ended = _wait(client, job)
    how = f"{ended.status.lower()}" if was_running else f"had ended before: {ended.status.lower()}"
    _say(console, f"{job} {how}")


def _submit(client: JobSubmissionClient, package: Package, earlier: int, spec: str) -> str:
    """Submit a job; returns its id, be it that of another submission at the same moment."""
    job = _numbered(package.submission_id, earlier)
    try:
        client.submit_job(
            entrypoint=package.entrypoint,
            submission_id=job,
            runtime_env=dict(package.runtime_env),
            metadata={"spec": spec},
            entrypoint_num_gpus=0,
            entrypoint_resources=ON_HEAD,
        )
    except RuntimeError as error:
        if "already exists" not in str(error):
            raise UserError(f"the cluster refuses the job: {first_line(error)}") from None
    return job


def _preflight(
    client: JobSubmissionClient, package: Package, storage: str, console: Console
) -> None:
    """Look at the cluster from within, and tell what was found.

    Raises:
        UserError: the job would not do there.
    """
    found = _look(client, package, console)
    if "error" in found:
        raise UserError(f"on the cluster: {found['error']}")
    most = f" (up to {found['most']:g})" if "most" in found else ""
    lines = {
        "cluster": f"Ray {ray.__version__}, Python {found['python']}, {found['nodes']} nodes, "
        f"{found['CPU']:g} CPUs, {found['GPU']:g} GPUs{most}",
        "package": f"{package.bytes / 2**20:.1f} MiB in {len(package.files)} files",
        "storage": f"{storage}, the same from each node",
    }
    for what, line in lines.items():
        _say(console, f"[green]✓[/] {what:<9} {escape(line)}")
    here = sys.version_info[:2]
    if tuple(map(int, found["python"].split(".")[:2])) != here:
        _say(
            console,
            f"[yellow]![/] the job runs on Python {found['python']}, this machine on "
            f"{'.'.join(map(str, here))}",
        )


def _look(client: JobSubmissionClient, package: Package, console: Console) -> dict[str, Any]:
    """Run the preflight job to its end, and take what it found.

    It is not deleted: Ray 2.60 would then record it again, as failed.
    """
    job = f"preflight-{uuid.uuid4().hex[:12]}"
    with console.status("looking at the cluster from within"):
        try:
            client.submit_job(
                entrypoint=shlex.join(["python", "-m", _PREFLIGHT, *package.arguments]),
                submission_id=job,
                runtime_env=dict(package.runtime_env),
                entrypoint_num_gpus=0,
                entrypoint_resources=ON_HEAD,
            )
        except RuntimeError as error:
            raise UserError(f"the cluster refuses the package: {first_line(error)}") from None
        try:
            ended = _wait(client, job)
        except KeyboardInterrupt:
            if client.stop_job(job):
                _wait(client, job)
            raise
        log = client.get_job_logs(job)
    told = [line for line in log.splitlines() if line.startswith(preflight.MARK)]
    if told:
        found: dict[str, Any] = json.loads(told[-1].removeprefix(preflight.MARK))
        return found
    last = [line for line in (log or ended.message or "").splitlines() if line.strip()][-3:]
    raise UserError(
        f"the preflight job {ended.status.lower()} on the cluster without an answer: "
        + " / ".join(last)
    )


class _Log:
    """What was printed of a log, so that a connection that broke is taken up where it was."""

    def __init__(self) -> None:
        self.printed = 0

    async def stream(self, client: JobSubmissionClient, job: str) -> None:
        """Print what is new until the log ends; Ray tells it from its start each time."""
        heard = 0
        async for text in client.tail_job_logs(job):
            heard += len(text)
            if heard > self.printed:
                sys.stdout.write(text[self.printed - heard :])
                sys.stdout.flush()
                self.printed = heard


def _ended(client: JobSubmissionClient, job: str) -> JobDetails | None:
    """The job if it has ended, None if it runs; a dashboard may be away for a while."""
    since = time.monotonic()
    while True:
        try:
            found = client.get_job_info(job)
        except (requests.exceptions.RequestException, RuntimeError) as error:
            if "does not exist" in str(error):
                raise UserError(
                    f"{job}: the cluster does not know it any more, as after a new start of its "
                    "head; submit it again, and it goes on where it was"
                ) from None
            if time.monotonic() - since > LOST_AFTER_S:
                raise UserError(
                    f"{client.get_address()} no longer answers; the job may go on, and the same "
                    "command follows it again"
                ) from None
            time.sleep(_POLL_S)
            continue
        return found if found.status.is_terminal() else None


def _wait(client: JobSubmissionClient, job: str) -> JobDetails:
    while (ended := _ended(client, job)) is None:
        time.sleep(_POLL_S)
    return ended


def _tell_end(ended: JobDetails, console: Console) -> int:
    milliseconds = (ended.end_time or 0) - (ended.start_time or 0)
    took = datetime.timedelta(seconds=round(milliseconds / 1000))
    good = ended.status == JobStatus.SUCCEEDED
    sign = "[green]✓[/]" if good else "[red]✗[/]"
    outcome = f"{ended.submission_id} {ended.status.lower()} after {took}"
    _say(console, f"{sign} {outcome}")
    if good:
        return 0
    if ended.driver_exit_code is None and ended.message:  # no log would tell
        _say(console, escape(ended.message))
    return ended.driver_exit_code or 1


def _numbered(submission_id: str, earlier: int) -> str:
    return f"{submission_id}-{earlier + 1}" if earlier else submission_id


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _hush() -> None:
    """Keep what Ray tells of uploads and connections out of the user's terminal."""
    for name in ("ray.dashboard", "ray._private.runtime_env", "ray._private.authentication"):
        for known in [name, *logging.root.manager.loggerDict]:
            if known.startswith(name):
                logging.getLogger(known).setLevel(logging.ERROR)
