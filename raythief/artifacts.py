"""Artifacts: what a stage leaves on storage, named by a hash of all that decides it.

    <storage>/<stage>/<fingerprint>/
        ...               the stage's files
        manifest.json     config, inputs, versions, results, seconds, size and SHA-256 of each file
        _SUCCESS          SHA-256 of the manifest; written last, so its presence means finished

A finished artifact is never trusted blindly: before it is used its files are compared with the
manifest.

Storage is any filesystem that pyarrow knows: a local folder, NFS, ``s3://``, ``gs://``. An object
store must show all readers at once what is written, as S3 and its like promise.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from raythief import s3
from raythief.config.keys import holds_keys
from raythief.errors import UserError, first_line

MANIFEST = "manifest.json"
DONE = "_SUCCESS"
LEASE = "_lease-"
"""How files begin that tell who builds the artifact, see ``raythief.leases``; no part of it."""
WORK = "_work"
"""Folder of an artifact for what only its building needs; removed when it is finished."""

_READS = 5
"""How often a file is read that others change meanwhile."""


class DamagedError(UserError):
    """A finished artifact is not as it was written."""

    def __init__(self, message: str, how: str) -> None:
        super().__init__(message)
        self.how = how
        """Which file, and what is wrong with it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return DamagedError, (str(self), self.how)


@dataclass(frozen=True)
class Storage:
    """Root folder of all artifacts; cheap to send to workers, which open it themselves."""

    uri: str
    """Absolute path of a local folder, or an address such as ``s3://bucket/prefix``."""

    @classmethod
    def at(cls, location: str) -> Storage:
        """Storage at a folder (relative ones are made absolute) or an address with a scheme.

        Raises:
            UserError: the address holds a key.
        """
        if "://" in location and holds_keys(location):
            scheme, _, rest = location.partition("://")
            shown = f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
            raise UserError(
                f"storage: {shown}: keys do not belong in the address, which is shown and kept; "
                "give them in the environment (of S3: AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY) or by the role of every node"
            )
        return cls(location if "://" in location else str(Path(location).expanduser().resolve()))

    @property
    def fs(self) -> pa.fs.FileSystem:
        """The filesystem that holds it."""
        return _open(self.uri)[0]

    @property
    def root(self) -> str:
        """Path of the root within the filesystem."""
        return _open(self.uri)[1]

    @property
    def is_local(self) -> bool:
        """Whether plain file operations reach it."""
        return isinstance(self.fs, pa.fs.LocalFileSystem)

    def address(self, path: str) -> str:
        """How a person, or another process, opens a path of the filesystem below the root."""
        if self.is_local:
            return path
        place, mark, query = self.uri.partition("?")
        return place.rstrip("/") + path.removeprefix(self.root) + mark + query

    def artifact(self, stage: str, fingerprint: str) -> Artifact:
        """The artifact of that stage and fingerprint, finished or not."""
        return Artifact(self, stage, fingerprint)

    def check_writable(self) -> None:
        """Raise ``UserError`` unless files can be written here; leaves no trace of the check."""
        parent = Path(self.root)
        if self.is_local:
            try:
                while not parent.exists():
                    parent = parent.parent
                if not parent.is_dir():
                    raise UserError(f"storage: {self.uri} cannot be a folder: {parent} is a file")
                with tempfile.TemporaryFile(dir=parent):
                    return
            except OSError as error:
                raise UserError(
                    f"storage: {self.uri} cannot be written: {error.strerror}"
                ) from None
        probe = f"{self.root}/.raythief-{uuid.uuid4().hex}"
        try:
            with self.fs.open_output_stream(probe) as stream:
                stream.write(b"")
            self.fs.delete_file(probe)
        except OSError as error:
            reason = s3.explain(error) if self.uri.startswith("s3://") else first_line(error)
            raise UserError(f"storage: {self.uri} cannot be written: {reason}") from None

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a whole file below the root, or nothing of it."""
        target = f"{self.root}/{path}"
        if not self.is_local:  # object stores show only whole objects, and have no folders
            with self.fs.open_output_stream(target) as stream:
                stream.write(data)
            return
        self.fs.create_dir(target.rpartition("/")[0], recursive=True)
        draft = f"{target}.{uuid.uuid4().hex}.tmp"
        try:
            with self.fs.open_output_stream(draft) as stream:
                stream.write(data)
            self.fs.move(draft, target)
        except OSError as error:
            with contextlib.suppress(OSError):  # what fills a disk is not to stay there
                self.fs.delete_file(draft)
            if error.errno is None:
                raise
            raise OSError(error.errno, os.strerror(error.errno), target) from error

    def read_bytes(self, path: str) -> bytes | None:
        """Content of a file below the root, None where there is none."""
        target = f"{self.root}/{path}"
        for _ in range(_READS):
            content = b""
            fault: OSError | None = None
            try:
                with self.fs.open_input_stream(target) as stream:
                    content = stream.read()
            except FileNotFoundError:
                return None
            except OSError as error:
                fault = error
            # Of a store's file the length is asked for first. One that is deleted then fails in its
            # own way, and one that is overwritten comes cut off at the old length.
            info = self.fs.get_file_info(target)
            if info.type != pa.fs.FileType.File:
                return None
            if fault is None and info.size == len(content):
                return content
        raise fault or OSError(f"{target} was overwritten during each of {_READS} reads")


@dataclass(frozen=True)
class Artifact:
    """One folder of files, finished or being built."""

    storage: Storage
    stage: str
    fingerprint: str

    @property
    def path(self) -> str:
        """Path below the storage's root."""
        return f"{self.stage}/{self.fingerprint}"

    @property
    def absolute(self) -> str:
        """Path within the filesystem."""
        return f"{self.storage.root}/{self.path}"

    def write(self, name: str, data: bytes) -> None:
        """Write one file, whole or not at all."""
        self.storage.write_bytes(f"{self.path}/{name}", data)

    def once(self, name: str, data: bytes) -> bytes:
        """Write a file unless it is there; returns what is in it. For who builds the artifact."""
        there = self.storage.read_bytes(f"{self.path}/{name}")
        if there is None:
            self.write(name, data)
        return data if there is None else there

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table as parquet, whole or not at all; equal tables give equal bytes."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        self.write(name, sink.getvalue().to_pybytes())

    def read_table(self, name: str = "", columns: list[str] | None = None) -> pa.Table:
        """Read a parquet file, or all ``*.parquet`` files of a folder in the order of names."""
        path = f"{self.absolute}/{name}".rstrip("/")
        if name.endswith(".parquet"):
            return pq.read_table(
                path, filesystem=self.storage.fs, columns=columns, page_checksum_verification=True
            )
        parts = [self.read_table(part, columns) for part in self.tables(name)]
        if not parts:
            raise UserError(f"{self.absolute}: holds no tables; delete the folder, then run again")
        return pa.concat_tables(parts)

    def tables(self, folder: str = "") -> list[str]:
        """Names, relative to the artifact, of the parquet files in a folder of it, sorted."""
        base = f"{self.absolute}/{folder}".rstrip("/")
        selector = pa.fs.FileSelector(base, allow_not_found=True)
        names = [info.base_name for info in self.storage.fs.get_file_info(selector)]
        prefix = f"{folder}/" if folder else ""
        return sorted(f"{prefix}{name}" for name in names if name.endswith(".parquet"))

    def times(self) -> dict[str, float]:
        """When each parquet file of it, in whatever folder, was written, in seconds since 1970."""
        selector = pa.fs.FileSelector(self.absolute, recursive=True, allow_not_found=True)
        return {
            info.path.removeprefix(self.absolute).lstrip("/"): info.mtime_ns / 1e9
            for info in self.storage.fs.get_file_info(selector)
            if info.path.endswith(".parquet")
        }

    def local(self, folder: str = "") -> Path:
        """A copy of a finished artifact's folder in this machine's cache; the folder itself on
        local storage.
        """
        path = f"{self.absolute}/{folder}".rstrip("/")
        if self.storage.is_local:
            return Path(path)
        done = self.storage.read_bytes(f"{self.path}/{DONE}")
        assert done is not None, f"{self.path} may still change"
        return _download(self.storage.uri, path, done.decode())

    def upload(self, source: Path, folder: str) -> None:
        """Copy a local folder into a folder of the artifact, file by file."""
        for file in sorted(source.rglob("*")):
            if file.is_file():
                name = f"{folder}/{file.relative_to(source).as_posix()}"
                target = f"{self.absolute}/{name}"
                if self.storage.is_local:
                    self.storage.fs.create_dir(target.rpartition("/")[0], recursive=True)
                pa.fs.copy_files(
                    str(file), target, pa.fs.LocalFileSystem(), self.storage.fs, use_threads=False
                )

    def manifest(self) -> dict[str, Any] | None:
        """The manifest of a finished artifact, None of an unfinished one.

        Raises:
            UserError: the manifest is not the one that the done marker vouches for.
        """
        done = self.storage.read_bytes(f"{self.path}/{DONE}")
        if done is None:
            return None
        text = self.storage.read_bytes(f"{self.path}/{MANIFEST}")
        if text is None or hashlib.sha256(text).hexdigest().encode() != done.strip():
            raise self._damaged(MANIFEST, "is not the one that was written")
        manifest: dict[str, Any] = json.loads(text)
        return manifest

    def verify(self) -> dict[str, Any]:
        """Compare every file with the manifest and return the manifest.

        Raises:
            UserError: the artifact is unfinished, or a file is missing, cut short or altered.
        """
        manifest = self.manifest()
        if manifest is None:
            raise UserError(f"{self.absolute}: is not finished; run the spec that makes it")
        for entry in manifest["files"]:
            fault = self.fault_of(entry)
            if fault is not None:
                raise self._damaged(entry["path"], fault)
        return manifest

    def damage(self) -> dict[str, str]:
        """Files of a finished artifact that are not as they were written, and what is wrong."""
        manifest = self.manifest_as_it_is()
        if manifest is None:
            return {}
        faults = {entry["path"]: self.fault_of(entry) for entry in manifest["files"]}
        return {name: fault for name, fault in faults.items() if fault is not None}

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.storage.fs.delete_file(f"{self.absolute}/{name}")

    def fault_of(self, entry: Mapping[str, Any]) -> str | None:
        """What is wrong with a file that the manifest lists; None if it is as it was written."""
        path = f"{self.absolute}/{entry['path']}"
        info = self.storage.fs.get_file_info(path)
        if info.type != pa.fs.FileType.File:
            return "is missing"
        if info.size != entry["bytes"]:
            return f"has {info.size} bytes instead of {entry['bytes']}"
        if _sha256(self.storage.uri, path, info.mtime_ns) != entry["sha256"]:
            return "was altered"
        return None

    def fault(self) -> str | None:
        """What is wrong with a finished artifact at a glance, which looks at no file's content;
        None if nothing is, or if it is unfinished.
        """
        try:
            manifest = self.manifest()
        except DamagedError as error:
            return error.how
        if manifest is None:
            return None
        selector = pa.fs.FileSelector(self.absolute, recursive=True)
        sizes = {
            info.path.removeprefix(self.absolute).lstrip("/"): info.size
            for info in self.storage.fs.get_file_info(selector)
            if info.type == pa.fs.FileType.File
        }
        for entry in manifest["files"]:
            size = sizes.get(entry["path"])
            if size is None:
                return f"{entry['path']} is missing"
            if size != entry["bytes"]:
                return f"{entry['path']} has {size} bytes instead of {entry['bytes']}"
        return None

    def manifest_as_it_is(self) -> dict[str, Any] | None:
        """The manifest, whether or not the done marker vouches for it; None where there is none."""
        text = self.storage.read_bytes(f"{self.path}/{MANIFEST}")
        try:
            found = json.loads(text) if text is not None else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Clear away the work folder, then write the manifest and, last, the done marker."""
        fs = self.storage.fs
        if fs.get_file_info(f"{self.absolute}/{WORK}").type == pa.fs.FileType.Directory:
            fs.delete_dir(f"{self.absolute}/{WORK}")
        files = []
        for info in fs.get_file_info(pa.fs.FileSelector(self.absolute, recursive=True)):
            name = info.path.removeprefix(self.absolute).lstrip("/")
            if info.type != pa.fs.FileType.File or name in (MANIFEST, DONE):
                continue
            if name.startswith(LEASE):  # and its drafts, which the owner writes even now
                continue
            if name.endswith(".tmp"):  # a write that was cut off
                fs.delete_file(info.path)
                continue
            digest = _sha256(self.storage.uri, info.path, info.mtime_ns)
            files.append({"path": name, "bytes": info.size, "sha256": digest})
        text = json.dumps(
            {**manifest, "files": sorted(files, key=lambda entry: entry["path"])},
            indent=1,
            ensure_ascii=False,
        ).encode()
        self.write(MANIFEST, text)
        self.write(DONE, hashlib.sha256(text).hexdigest().encode())

    def _damaged(self, name: str, how: str) -> DamagedError:
        return DamagedError(
            f"{self.absolute}: damaged: {name} {how}; run the spec that makes it to mend it",
            f"{name} {how}",
        )


def hash_files(paths: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of local files by name: what stands in a fingerprint for a file of the user's."""
    return {
        name: _sha256("/", str(path), path.stat().st_mtime_ns)
        for name, path in sorted(paths.items())
    }


@lru_cache
def _open(uri: str) -> tuple[pa.fs.FileSystem, str]:
    if "://" not in uri:
        return pa.fs.LocalFileSystem(), uri
    if uri.startswith("s3://"):
        return s3.connect(uri)
    try:
        fs, path = pa.fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"storage: {uri} cannot be opened: {first_line(error)}") from None
    return fs, path.rstrip("/")


@lru_cache(maxsize=4096)
def _sha256(uri: str, path: str, mtime_ns: int | None) -> str:
    """SHA-256 of a file; a file with another time of modification is read again."""
    digest = hashlib.sha256()
    with _open(uri)[0].open_input_stream(path) as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


@lru_cache
def _download(uri: str, path: str, done: str) -> Path:
    """Copy a remote folder to this machine's cache, once for all its processes.

    Args:
        uri: The storage.
        path: The folder within its filesystem.
        done: Content of the artifact's done marker; another one stands for other files.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raythief"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = cache / hashlib.sha256(json.dumps([uri, path, done]).encode()).hexdigest()[:32]
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=cache) as draft:  # nothing stays of a failed copy
                whole = Path(draft) / "whole"
                whole.mkdir()
                pa.fs.copy_files(path, str(whole), _open(uri)[0], pa.fs.LocalFileSystem())
                whole.rename(target)
    return target
