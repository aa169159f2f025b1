"""What is shown of a sweep's trials while they run: on a terminal, and where there is none."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from raythief.sweep import board
from raythief.sweep.board import Board, Entry

POINT = {"extractor.training.learning_rate": 1e-3}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that a test sets."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(board.time, "time", lambda: now.seconds)
    return now


def shown(console: Console, made: Board) -> str:
    """What is on the terminal."""
    with console.capture() as capture:
        console.print(made._shown())
    return capture.get()


def trial(**config: Any) -> Any:
    return SimpleNamespace(trial_id="a", config={"parameters": POINT}, status="RUNNING", **config)


def test_a_trial_is_shown_with_its_stage_its_scores_and_the_time_left(
    clock: SimpleNamespace,
) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=140, height=30)
    made = Board([POINT], 12, "xnli", console)
    made.on_trial_start(0, [], trial())
    assert "t000" in shown(console, made)
    entry = made.entries["a"]
    clock.seconds += 100
    entry.heard("extractor", 1000, 9000)  # as after a crash: what was done before took no time
    assert "0:01:40" in shown(console, made)
    clock.seconds += 60
    entry.heard("extractor", 3000, 9000)
    look = {"objective": 0.612, "english": 0.701, "elsewhere": 0.6057, "step": 3000, "steps": 9000}
    look["stage"] = "extractor"
    made.on_trial_result(1, [], trial(), look)
    text = shown(console, made)
    row = next(line for line in text.splitlines() if "t000" in line)
    for told in ("learning_rate 0.001", "extractor", "3,000/9,000", "61.2", "70.1", "60.6"):
        assert told in row
    assert "0:02:40" in row  # so far
    assert "0:03:00" in row  # 6,000 steps at 2,000 a minute
    entry.heard("evaluation", 0, 5000)
    assert "0:03:00" not in shown(console, made)
    assert "0/12" in text


def test_the_end_of_a_trial_is_a_line_with_its_scores(clock: SimpleNamespace) -> None:
    file = io.StringIO()
    made = Board([POINT], 1, "xnli", Console(file=file, width=60))
    made.on_trial_start(0, [], trial())
    runs = [
        {"scores": {"xnli": 0.5, "xnli/en": 0.9 + shift, "xnli/de": 0.4, "xnli/ru": 0.2}}
        for shift in (-0.1, 0.1)
    ]
    clock.seconds += 7
    made.on_trial_result(1, [], trial(), {"objective": 0.5, "runs": json.dumps(runs)})
    made.on_trial_complete(1, [], trial())
    assert file.getvalue() == (
        "✓     7.0 s  t000    50.0 (en 90.0, others 30.0)  learning_rate 0.001\n"
    )


def test_one_language_alone_is_no_group() -> None:
    entry = Entry("t000", POINT, 0.0)
    entry.latest = {"objective": 0.5, "runs": json.dumps([{"scores": {"bought": 0.5}}])}
    assert all(share != share for share in entry.groups("bought"))


def test_where_there_is_no_terminal_a_line_tells_now_and_then_how_far_each_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Once:
        """Is set after it has been waited for once."""

        def __init__(self) -> None:
            self.answers = [False, True]

        def wait(self, seconds: float) -> bool:
            return self.answers.pop(0)

    notices = SimpleNamespace(all=SimpleNamespace(remote=lambda: {"a": ("extractor", 30, 9000)}))
    monkeypatch.setattr(board.ray, "get", lambda found, timeout: found)
    monkeypatch.setattr(board, "LINE_EVERY_S", -1.0)
    file = io.StringIO()
    made = Board([POINT], 1, "xnli", Console(file=file, width=60))
    made.on_trial_start(0, [], trial())
    made.notices, made.stop, made.said = notices, Once(), 0.0  # type: ignore[assignment]
    made._listen()
    assert "t000" in file.getvalue()
    assert "extractor 30 of 9,000  learning_rate 0.001" in file.getvalue()
