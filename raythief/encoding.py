"""Pairs of sentences -> padded batches: one place for labelling, training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """Encoded pairs, flat: row i is ``ids[offsets[i]:offsets[i + 1]]``."""

    ids: NDArray[np.int32]
    """Token ids of all rows, shape [tokens]."""
    types: NDArray[np.int8] | None
    """Segment of each token, shape [tokens]; None for encoders with a single segment."""
    offsets: NDArray[np.int64]
    """Where rows begin, shape [rows + 1]."""
    pad: int
    """Id of the padding token."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, shape [rows]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def batch(self, rows: NDArray[np.int64], device: torch.device) -> dict[str, torch.Tensor]:
        """The named rows as a model's keyword arguments, padded on the right to the longest.

        Returns:
            ``input_ids`` and ``attention_mask``, and ``token_type_ids`` where the encoder knows
            segments; int64, shape [rows, longest].
        """
        lengths = self.lengths[rows]
        columns = np.arange(lengths.max())
        mask = columns < lengths[:, None]
        places = np.where(mask, self.offsets[rows][:, None] + columns, 0)
        ids = np.where(mask, self.ids[places], self.pad).astype(np.int64)
        found = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        if self.types is not None:
            found["token_type_ids"] = np.where(mask, self.types[places], 0).astype(np.int64)
        return {
            name: torch.from_numpy(value).to(device, non_blocking=True)
            for name, value in found.items()
        }


def encode(
    tokenizer: PreTrainedTokenizerBase,
    premises: Sequence[str],
    hypotheses: Sequence[str],
    max_tokens: int,
) -> Encoded:
    """Tokenise pairs, each as a pair (never as one joined string), without padding.

    Pairs longer than ``max_tokens`` lose tokens at the end of their longer sentence.
    """
    # The first row only fills a gap: tokenizers refuse an empty list.
    output = tokenizer(
        list(premises) or [""],
        list(hypotheses) or [""],
        truncation="longest_first",
        max_length=max_tokens,
        padding=False,
        return_attention_mask=False,
    )
    rows = output["input_ids"][: len(premises)]
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    def flat(name: str, kind: type) -> NDArray:
        values = (value for row in output[name][: len(premises)] for value in row)
        return np.fromiter(values, kind, int(offsets[-1]))

    segments = "token_type_ids" in tokenizer.model_input_names
    return Encoded(
        ids=flat("input_ids", np.int32),
        types=flat("token_type_ids", np.int8) if segments else None,
        offsets=offsets,
        pad=pad(tokenizer),
    )


def pad(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token that fills rows up; 0 where the tokenizer knows none."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Encoded pairs of one tokenizer, one after the other."""
    first = parts[0]
    lengths = np.concatenate([part.lengths for part in parts])
    return Encoded(
        ids=np.concatenate([part.ids for part in parts]),
        types=None if first.types is None else np.concatenate([part.types for part in parts]),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        pad=first.pad,
    )


def pack(lengths: NDArray[np.int64], tokens: int) -> list[NDArray[np.int64]]:
    """Group rows of like length into batches of at most ``tokens`` padded tokens.

    Rows are sorted by length, longest first, ties by position, so that the result depends on the
    lengths alone. A row longer than the budget makes a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        rows = max(1, tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def padding_share(lengths: NDArray[np.int64], batches: Sequence[NDArray[np.int64]]) -> float:
    """Share of padding among all tokens of the batches, 0 to 1."""
    padded = sum(len(rows) * int(lengths[rows].max()) for rows in batches)
    return 1 - float(lengths.sum()) / padded if padded else 0.0
