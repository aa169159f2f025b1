"""Checkpoints of a training without a worker group, of which Ray Train keeps none."""

from __future__ import annotations

from pathlib import Path

import ray.train
from pyarrow import fs as filesystems

from raythief.artifacts import WORK, Artifact

_FOLDER = f"{WORK}/local"
_KEPT = 2
"""The last, and the one before in case it is damaged."""


def keep(target: Artifact, step: int, folder: Path) -> None:
    """Keep a folder as the checkpoint of a step, and drop what is older than the one before."""
    target.upload(folder, f"{_FOLDER}/checkpoint_{step:09d}")
    for name in _names(target)[:-_KEPT]:
        target.storage.fs.delete_dir(f"{target.absolute}/{_FOLDER}/{name}")


def latest(target: Artifact) -> ray.train.Checkpoint | None:
    """The newest checkpoint, whole or not; None if there is none."""
    names = _names(target)
    if not names:
        return None
    return ray.train.Checkpoint(f"{target.absolute}/{_FOLDER}/{names[-1]}", target.storage.fs)


def _names(target: Artifact) -> list[str]:
    selector = filesystems.FileSelector(f"{target.absolute}/{_FOLDER}", allow_not_found=True)
    return sorted(info.base_name for info in target.storage.fs.get_file_info(selector))
