"""What is to be trained."""

from __future__ import annotations

from dataclasses import dataclass

from raythief import models
from raythief.artifacts import Artifact
from raythief.config import Resources, Tracking, Training
from raythief.training.data import Examples


@dataclass(frozen=True)
class Job:
    """All that a training worker needs to know; travels to each of them."""

    target: Artifact
    source: models.Source
    fresh_head: bool
    """Put a new classifier head on the encoder, instead of going on with the one that is there."""
    examples: tuple[Examples, ...]
    training: Training
    seed: int
    resources: Resources
    judges: tuple[Examples, ...] = ()
    """Labelled pairs of each language on which weights are selected, if not on held-out ones."""
    earlier: Artifact | None = None
    """A shorter training, equal in all else, to go on from; None begins at the first step."""
    experiment: str = "raythief"
    """What trackers call the whole."""
    tracking: Tracking | None = None
    """Who else is told of it; None tells nobody."""
