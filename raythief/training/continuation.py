"""A training that goes on from a shorter one, instead of going through its steps again.

Where no step depends on how many follow it (``Training.open_ended``), a training of 3,000 steps is
the beginning of one of 9,000 that is equal in all else, bit for bit on a CPU and with as many
workers. Such a training leaves its last state behind in its artifact, from which a longer one goes
on. Under the paper's linear decay the rate of every step depends on the number of steps, and
nothing can be reused.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

import pyarrow.fs
import torch

from raythief import models, results
from raythief.artifacts import Artifact, Storage
from raythief.config import Training
from raythief.stages import Stage
from raythief.training.collapse import Step
from raythief.training.record import PARTS, STEPS, TENSORBOARD, drop_after
from raythief.training.schedule import Schedule
from raythief.training.selection import Best
from raythief.training.state import STATE, State

MODEL = "model"


def find(stage: Stage, storage: Storage, training: Training) -> Artifact | None:
    """The longest finished training from which another can go on; None if there is none.

    Args:
        stage: What is to be trained.
        storage: Where artifacts lie.
        training: How it is trained.
    """
    if not training.open_ended:
        return None
    assert training.steps is not None
    wanted, found = endless(stage.identity), []
    place = pyarrow.fs.FileSelector(f"{storage.root}/{stage.name}", allow_not_found=True)
    for info in storage.fs.get_file_info(place):
        other = storage.artifact(stage.name, info.base_name)
        manifest = other.manifest()
        if manifest is None:
            continue
        steps = manifest["config"]["training"].get("steps")
        if not steps or steps >= training.steps:
            continue
        if training.selection is not None and steps % training.selection.every:
            continue  # it looked at its last step, which this one will not
        if endless(manifest) == wanted:
            found.append((steps, other))
    if not found:
        return None
    _, longest = max(found, key=lambda one: one[0])
    longest.verify()
    return longest


def leave(target: Artifact, entries: Mapping[str, Any]) -> None:
    """Leave the last state of a training, as ``State.entries`` gave it, to longer ones."""
    buffer = io.BytesIO()
    torch.save(dict(entries), buffer)
    target.write(STATE, buffer.getvalue())


def take(earlier: Artifact, target: Artifact, schedule: Schedule, *, first: bool) -> dict[str, Any]:
    """What a checkpoint of a training at the end of a shorter one would hold.

    Args:
        earlier: The shorter one.
        target: The training that goes on; receives, from its ``first`` worker, what the other has
            told of its steps, and its best weights.
        schedule: Of the training that goes on.
        first: Whether this worker is the first.
    """
    content = earlier.storage.read_bytes(f"{earlier.path}/{STATE}")
    lines = earlier.storage.read_bytes(f"{earlier.path}/{STEPS}")
    assert content is not None
    assert lines is not None
    kept: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    again = State()
    for line in map(json.loads, lines.splitlines()):
        again.step = line["step"]
        told = (line["step"], line["loss"], line["gradient_norm"], tuple(line["predicted"]))
        again.take([Step(*told)], schedule)
    manifest = earlier.verify()
    found = results.read(earlier.stage, manifest["results"])
    assert isinstance(found, results.Training)
    before = found.continues
    kept |= {
        # The longer a training, the farther apart are the points of its curve.
        "history": again.history,
        "latest": [dataclasses.asdict(one) for one in again.latest],
        "told": 0,  # trackers take it for a run of its own
        "continues": {
            "path": earlier.path,
            "steps": kept["step"],
            "seconds": manifest["seconds"] + (before.seconds if before else 0.0),
        },
    }
    if first:
        drop_after(target, 0)  # of a run that was killed before its first checkpoint
        target.write(f"{PARTS}/{1:09d}.jsonl", lines)
        target.upload(earlier.local(TENSORBOARD), TENSORBOARD)
        if kept["looks"]:
            best = State(looks=kept["looks"]).best
            assert best is not None
            weights = models.classifier(earlier.local(MODEL)).state_dict()
            Best(target).write(int(best["step"]), weights)
    return kept


def endless(identity: Mapping[str, Any]) -> str:
    """All that decides a training's result but its length, of a stage or of its manifest.

    Of two that are equal in it and ``Training.open_ended``, the longer can go on from the shorter.
    """
    config = identity["config"]
    config = {**config, "training": {**config["training"], "steps": None, "epochs": None}}
    return json.dumps([identity["version"], config, identity["inputs"]], sort_keys=True)
