"""What a training tells while it runs: a bar, a line for every step, TensorBoard, metrics.

Losses stay on the device until they are settled, so that no step waits for the one before.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs
import torch
from tensorboardX import SummaryWriter

from raythief import metrics
from raythief.artifacts import WORK, Artifact
from raythief.progress import Tell
from raythief.training.collapse import Step

STEPS = "steps.jsonl"
"""One JSON object a step: all fields of ``Record``."""
TENSORBOARD = "tensorboard"
"""Folder of an artifact that ``tensorboard --logdir`` reads."""
PARTS = f"{WORK}/steps"
"""Folder of its parts, each named by its first step, while a training goes on."""
BAR_EVERY_S = 1.0
MEASURED = 6
"""Figures that a worker measures of each step: loss, gradient norm, the three labels' predictions,
padded tokens."""


@dataclass(frozen=True)
class Record(Step):
    """One step: what it learned and how fast."""

    learning_rate: float
    tokens: int
    """Of all workers, padding not counted."""
    padded_tokens: int
    """Of all workers, padding counted."""
    seconds: float
    """Wall time. On a GPU the steps between two settlements share theirs unevenly."""
    workers: int
    """That shared the step: an elastic training may lose some and get others."""


class Recorder:
    """Keeps the steps of one worker, and writes those of all if it is the first."""

    def __init__(
        self,
        target: Artifact,
        tell: Tell,
        rank: int,
        world: int,
        done: int,
        steps: int,
        earlier: int = 0,
    ) -> None:
        """Begin after ``done`` steps, of which a shorter training brought the ``earlier`` ones."""
        self.target, self.tell, self.rank, self.world = target, tell, rank, world
        self.steps = steps
        self.share_of_peak = 0.0
        """Model FLOPs utilisation that a token a second is; 0 if it is not known."""
        self._open: list[tuple[torch.Tensor, dict[str, Any]]] = []
        self._unsaved: list[Record] = []
        self._said, self._note, self._speed = 0.0, "", 0.0
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._writer: SummaryWriter | None = None
        if rank == 0:
            drop_after(target, done)
            metrics.TRAINING_RESUMPTIONS.add(int(done > earlier), stage=target.stage)
            self._writer = SummaryWriter(self._folder(), purge_step=done + 1)

    def add(self, measured: torch.Tensor, **known: Any) -> None:
        """Take note of a step: ``measured`` by this worker, float64 ``[MEASURED]``; and known."""
        self._open.append((measured, known))
        now = time.monotonic()
        if self.rank == 0 and now - self._said > BAR_EVERY_S:
            self._said = now
            recent = [one for _, one in self._open[-20:]]
            self._speed = sum(r["tokens"] for r in recent) / sum(r["seconds"] for r in recent)
            self.tell(known["step"], self.steps, self._told(known["learning_rate"]))

    def settle(self) -> list[Record]:
        """The steps since the last time, over all workers, who must all call this."""
        if not self._open:
            return []
        figures = torch.stack([measured for measured, _ in self._open])
        if self.world > 1:
            torch.distributed.all_reduce(figures)
        records = [
            Record(
                loss=loss / self.world,
                gradient_norm=norm / self.world,
                predicted=(int(first), int(second), int(third)),
                padded_tokens=int(padded),
                **known,
            )
            for (loss, norm, first, second, third, padded), (_, known) in zip(
                figures.tolist(), self._open, strict=True
            )
        ]
        self._open = []
        self._unsaved += records
        self._note = f"loss {statistics.fmean(one.loss for one in records):.3f}"
        if self._writer is not None:
            self._write(self._writer, records)
        return records

    def look(self, look: Mapping[str, float]) -> None:
        """Take note of a ``step`` and its scores, by which weights are selected."""
        if self._writer is not None:
            for name in look.keys() - {"step"}:
                self._writer.add_scalar(f"selection/{name}", look[name], int(look["step"]))

    def save(self) -> None:
        """Write what is settled; the first worker calls this before each checkpoint."""
        if self._writer is None or not self._unsaved:
            return
        lines = [json.dumps(dataclasses.asdict(record)) for record in self._unsaved]
        name = f"{PARTS}/{self._unsaved[0].step:09d}.jsonl"
        self.target.write(name, "".join(f"{line}\n" for line in lines).encode())
        self._unsaved = []
        self._writer.flush()
        self._upload()

    def close(self) -> list[dict[str, Any]]:
        """Write ``steps.jsonl``; the first worker calls this at the end.

        Returns:
            Its lines.
        """
        assert self._writer is not None
        self.save()
        self._writer.close()
        self._upload()
        whole = b"".join(
            self.target.storage.read_bytes(f"{self.target.path}/{PARTS}/{name}") or b""
            for name in sorted(_parts(self.target))
        )
        self.target.write(STEPS, whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _told(self, rate: float) -> str:
        note = f"{self._note}  lr {rate:.1e}  {self._speed:,.0f} tokens/s".lstrip()
        share = self.share_of_peak * self._speed
        return f"{note}  MFU {share:.0%}" if share else note

    def _write(self, writer: SummaryWriter, records: list[Record]) -> None:
        for one in records:
            writer.add_scalar("train/loss", one.loss, one.step)
            writer.add_scalar("train/learning_rate", one.learning_rate, one.step)
            writer.add_scalar("train/gradient_norm", one.gradient_norm, one.step)
        seconds, tokens = sum(r.seconds for r in records), sum(r.tokens for r in records)
        writer.add_scalar("speed/tokens_per_second", tokens / seconds, records[-1].step)
        self._export(records)

    def _export(self, records: list[Record]) -> None:
        stage, latest = self.target.stage, records[-1]
        metrics.TRAINING_STEPS.add(len(records), stage=stage)
        metrics.TRAINING_TOKENS.add(sum(r.tokens for r in records), stage=stage)
        metrics.TRAINING_PADDED_TOKENS.add(sum(r.padded_tokens for r in records), stage=stage)
        metrics.TRAINING_LOSS.set(latest.loss, stage=stage)
        metrics.TRAINING_LEARNING_RATE.set(latest.learning_rate, stage=stage)
        metrics.TRAINING_PROGRESS.set(latest.step / self.steps, stage=stage)

    def _folder(self) -> str:
        if self.target.storage.is_local:
            return f"{self.target.absolute}/{TENSORBOARD}"
        self._scratch = tempfile.TemporaryDirectory()
        return self._scratch.name

    def _upload(self) -> None:
        """Bring TensorBoard's files to where no plain file can be written."""
        if self._scratch is not None:
            self.target.upload(Path(self._scratch.name), TENSORBOARD)


def drop_after(target: Artifact, done: int) -> None:
    """Drop steps that a run which was killed wrote, and which are now gone through again."""
    for name in _parts(target):
        if int(name.partition(".")[0]) > done:
            target.storage.fs.delete_file(f"{target.absolute}/{PARTS}/{name}")


def _parts(target: Artifact) -> list[str]:
    selector = pyarrow.fs.FileSelector(f"{target.absolute}/{PARTS}", allow_not_found=True)
    return [info.base_name for info in target.storage.fs.get_file_info(selector)]
