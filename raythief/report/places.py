"""Where the records and reports of runs lie.

    <storage>/runs/<name>/
        newest.json         fingerprint of the newest run of that name
        index.html          the report of that run, whole, for who knows the name alone
        <fingerprint>/
            run.json        the record
            index.html ...  the report, with its figures and sheets
            report.json     what the report knows, and what it lacks

A run is what its spec comes to, so that two of one name that differ do not overwrite each other.
Before there were fingerprints, the record was ``runs/<name>/run.json`` and the report lay in
``reports/<name>``; such runs are still read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs

from raythief.artifacts import Storage
from raythief.config.base import NAME_PATTERN
from raythief.errors import UserError

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Place:
    """Where one run's record and report lie; paths are below the storage's root."""

    name: str
    fingerprint: str = ""
    """16 hexadecimal digits; empty of a run from before they were."""

    @property
    def home(self) -> str:
        """Folder of all runs of the name."""
        return f"runs/{self.name}"

    @property
    def record(self) -> str:
        """The record."""
        return f"{self.home}/{self.fingerprint}/run.json".replace("//", "/")

    @property
    def folder(self) -> str:
        """Folder of the report."""
        return f"{self.home}/{self.fingerprint}" if self.fingerprint else f"reports/{self.name}"

    @property
    def page(self) -> str:
        """The report's page."""
        return f"{self.folder}/index.html"


def find(storage: Storage, which: str) -> Place:
    """The run that ``NAME`` (the newest of it) or ``NAME/FINGERPRINT`` means.

    Raises:
        UserError: there is none; tells the fingerprints that are there.
    """
    name, _, fingerprint = which.partition("/")
    if not re.fullmatch(NAME_PATTERN, name):
        raise UserError(f"{name!r} is no run's name: letters, digits, `.`, `_` and `-` only")
    if not fingerprint:
        return Place(name, newest(storage, name) or "")
    known = fingerprints(storage, name)
    if fingerprint not in known:
        there = f"there are: {', '.join(known)}" if known else "there is none of that name"
        raise UserError(f"{which}: there is no such run on {storage.uri}; {there}")
    return Place(name, fingerprint)


def newest(storage: Storage, name: str) -> str | None:
    """Fingerprint of the newest run of a name; None where there is none with one."""
    content = storage.read_bytes(f"runs/{name}/newest.json")
    return str(json.loads(content)["fingerprint"]) if content is not None else None


def fingerprints(storage: Storage, name: str) -> list[str]:
    """Those of all runs of a name, sorted."""
    selector = pa.fs.FileSelector(f"{storage.root}/runs/{name}", allow_not_found=True)
    names = [info.base_name for info in storage.fs.get_file_info(selector)]
    return sorted(filter(_FINGERPRINT.fullmatch, names))
