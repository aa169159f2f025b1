"""What a training does where a GPU's memory does not hold a micro-batch: it takes smaller ones.

A model that is whole on its only worker goes through the step again at once. A worker of several
cannot, nor one whose model is sharded: the others wait in a collective that it has left. It
leaves a note of what is to be tried next, and the training begins again from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raythief import models
from raythief.artifacts import WORK, Artifact
from raythief.errors import UserError

log = logging.getLogger(__name__)

_NOTE = f"{WORK}/micro-batch.json"


class SmallerError(Exception):
    """A training has to begin again from its last checkpoint, with smaller micro-batches."""


@dataclass
class Room:
    """How much a worker holds at once."""

    target: Artifact
    device: torch.device
    tokens: int
    """Padded tokens of a micro-batch."""
    alone: bool
    """Whether no other worker waits for this one, and its model is whole."""

    def shrink(self, lengths: NDArray[np.int64], times: int = 1) -> None:
        """Take smaller micro-batches, because a batch did not fit.

        Args:
            lengths: Tokens of each of its rows, shape [rows].
            times: How many times a micro-batch's tokens it was to hold.

        Raises:
            SmallerError: the worker is not alone.
            UserError: the batch was a single row.
        """
        if len(lengths) == 1:
            raise UserError(
                f"training.max_tokens: the GPU's memory does not hold a single pair of "
                f"{lengths[0]} tokens; lower it, set resources.training.activation_checkpointing, "
                "or take a larger GPU"
            )
        held = len(lengths) * int(lengths.max())
        self.tokens = max(1, min(times * self.tokens, held) // times // 2)
        note = {"device": models.name_of(self.device), "tokens": self.tokens}
        self.target.write(_NOTE, json.dumps(note).encode())
        said = f"GPU memory is short: {self.tokens:,} tokens a micro-batch now"
        if not self.alone:
            raise SmallerError(said)
        log.warning(said)
        torch.cuda.empty_cache()


def most(target: Artifact, device: torch.device) -> int | None:
    """Padded tokens to which a worker on such a device had to shrink before; None if it had not."""
    content = target.storage.read_bytes(f"{target.path}/{_NOTE}")
    note = {} if content is None else json.loads(content)
    found: int | None = note.get("tokens")
    return found if note.get("device") == models.name_of(device) else None
