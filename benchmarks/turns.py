"""Two programs that take turns at one machine, and what each did in its own time.

What is timed stays as it is: a hook of PyTorch notes the steps, and signals stop and continue the
processes. See training.py.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labeling import until
from numpy.typing import NDArray
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from raythief import models

POLL_S = 0.02
"""Seconds between two looks at the notes: two workers leave no core for more of them."""

Counts = list[tuple[int, int]]
"""Tokens of each step, without padding and with it."""


@functools.cache
def watch(notes: str) -> None:
    """Note from now on, in this process, when the first step begins and when each step ends.

    The file is there with the first step, so that processes which only encode leave none.
    """
    file = Path(notes) / str(os.getpid())

    def note(*_: Any) -> None:
        memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        with file.open("a") as lines:
            lines.write(json.dumps([time.monotonic(), memory]) + "\n")

    def begin(*_: Any) -> None:
        note()
        first.remove()

    first = register_module_forward_pre_hook(begin)
    register_optimizer_step_post_hook(note)


@dataclass(frozen=True)
class Watched(models.Source):
    """A model that, where it is loaded, has the process watched: what is timed stays as it is."""

    notes: str = ""

    def local(self) -> Path:
        """Folder of the model."""
        watch(self.notes)
        return super().local()


@dataclass
class Contender:
    """A program under way in processes of its own, which go and stop together."""

    notes: Path
    """Where its processes note their steps, each in a file that is named after its id."""
    processes: int
    called: float
    """When it was started."""
    work: Future[Counts]
    turns: list[tuple[float, float]] = field(default_factory=list)

    def noted(self) -> list[list[tuple[float, float]]]:
        """What each process has noted: moments, and bytes held on the GPU."""
        files = sorted(self.notes.iterdir())
        return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]

    def begun(self) -> bool:
        """Whether all its processes are in their first step."""
        noted = self.noted()
        return len(noted) == self.processes and all(noted)

    def ended(self) -> int:
        """Steps that all its processes have done."""
        return min(len(lines) for lines in self.noted()) - 1

    def send(self, what: signal.Signals) -> None:
        """Stop its processes, let them go on, or end them."""
        for file in self.notes.iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.name), what)

    def go(self, enough: Callable[[], bool]) -> None:
        """A turn."""
        began = time.monotonic()
        self.send(signal.SIGCONT)
        until(enough, self.work, POLL_S)
        self.send(signal.SIGSTOP)
        self.turns.append((began, time.monotonic()))

    def finish(self) -> None:
        """What comes after the last step."""
        self.go(self.work.done)
        self.send(signal.SIGCONT)
        steps = len(self.work.result())
        assert all(len(lines) == 1 + steps for lines in self.noted()), "not each step was noted"

    def between(self, begin: float, end: float) -> float:
        """Seconds of its own turns between two moments."""
        return sum(max(0.0, min(end, stop) - max(begin, go)) for go, stop in self.turns)

    def start(self) -> float:
        """Seconds until its first step began."""
        return max(lines[0][0] for lines in self.noted()) - self.called

    def end(self) -> float:
        """Seconds after its last step."""
        return self.between(self.noted()[0][-1][0], math.inf)

    def memory(self) -> float:
        """The most bytes that one of its processes held on the GPU."""
        return max(held for lines in self.noted() for _, held in lines)

    def rates(self, first: int, steps: int) -> Rates:
        """What it did in some of its steps, once it has finished."""
        ends = [moment for moment, _ in self.noted()[0]][first : first + steps + 1]
        counts = self.work.result()[first : first + steps]
        return Rates(
            np.array([tokens for tokens, _ in counts]),
            np.array([padded for _, padded in counts]),
            np.array([self.between(*both) for both in itertools.pairwise(ends)]),
        )


def meet(ours: Contender, other: Contender, first: int, steps: int, turn_s: float) -> None:
    """Let the other warm up and then both do some steps in turns; ours' begin at ``first``."""
    other.go(lambda: other.ended() >= 1)
    goals = [(ours, first + steps), (other, 1 + steps)]
    while waiting := [(one, goal) for one, goal in goals if one.ended() < goal]:
        for one, goal in waiting:
            stop = time.monotonic() + turn_s
            one.go(lambda c=one, g=goal, s=stop: time.monotonic() > s or c.ended() >= g)
            assert one.ended() >= goal or not one.work.done(), "it ended before its steps"
    other.finish()
    print(f"{other.notes.name}: met ours for {steps} steps", flush=True)


@dataclass(frozen=True)
class Rates:
    """Tokens, tokens with padding, and seconds of some steps."""

    tokens: NDArray[np.int64]
    padded: NDArray[np.int64]
    seconds: NDArray[np.float64]

    def overall(self) -> float:
        """Tokens a second."""
        return float(self.tokens.sum() / self.seconds.sum())

    def padding_share(self) -> float:
        """Share of padding among all tokens."""
        return round(float(1 - self.tokens.sum() / self.padded.sum()), 4)
