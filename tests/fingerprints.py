"""Fingerprints of all stages of all specs in ``jobs/``, by spec, role and rows.

    python tests/fingerprints.py > tests/resources/fingerprints.json

They are what bought labels and trained models are found by. A change of them makes everybody buy
and train again, so it takes a line in CHANGELOG.md that says why.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

JOBS = Path(__file__).parent.parent / "jobs"
ALIKE = {"a file": "0" * 64}
"""What stands for the content of files of the user's, which are not here."""


def of_spec(file: Path, changes: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Fingerprint by role and row; rows with the same one share an entry."""
    from raythief import config, runs

    with (
        mock.patch("raythief.pipeline._Chain._hashed", lambda *_: ALIKE),
        mock.patch("raythief.pipeline._Chain._missing", lambda *_: {"files": ALIKE}),
        mock.patch("raythief.pipeline.nli.rows", lambda *_: 1),
    ):
        rows = runs.rows(config.load(file, changes))
    every = {f"{row.variant.name}, seed {row.variant.spec.seed}" for row in rows}
    users: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        for role, stage in row.stages.items():
            one = users.setdefault(role, {}).setdefault(stage.fingerprint, set())
            one.add(f"{row.variant.name}, seed {row.variant.spec.seed}")
    return {
        role: {
            "all rows" if names == every else "; ".join(sorted(names)): key
            for key, names in sorted(found.items(), key=lambda one: sorted(one[1]))
        }
        for role, found in users.items()
    }


def of_all() -> dict[str, dict[str, dict[str, str]]]:
    """Those of each spec, by its path below ``jobs/``."""
    files = sorted(file for file in JOBS.rglob("*.yaml") if file.name != "world.yaml")
    return {file.relative_to(JOBS).as_posix(): of_spec(file) for file in files}


if __name__ == "__main__":
    json.dump(of_all(), sys.stdout, indent=1, ensure_ascii=False)
    print()
