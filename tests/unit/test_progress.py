"""What is told of progress where there is no terminal: in a log, a pipe, a job."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from raythief import progress


def test_a_log_says_now_and_then_how_far_a_stage_is_and_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
):
    now = 1000.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    out = io.StringIO()
    with (
        progress.Display(Console(file=out, width=80)) as display,
        display.stage("victim") as tell,
    ):
        for seconds, done, total, note in [
            (10, 150, 300, "encoding"),  # too early to say
            (31, 300, 300, "encoding"),
            (40, 0, 2000, "rate 1e-5"),  # counts again
            (70, 500, 2000, "rate 1e-4"),
            (75, 600, 2000, "rate 1e-4"),
            (101, 1000, 2000, ""),
        ]:
            now = 1000.0 + seconds
            tell(done, total, note)
    assert out.getvalue().splitlines() == [
        "·    31.0 s  victim                       300 of 300  encoding",
        "·    70.0 s  victim                       500 of 2,000  0:01:30 left  rate 1e-4",
        "·   101.0 s  victim                       1,000 of 2,000  0:01:01 left",
    ]


def test_a_log_whose_disk_is_full_ends_no_stage() -> None:
    """As of `raythief run SPEC 2> log`."""

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    display = progress.Display(Console(file=Full()))
    with display.stage("labels"):
        display.line("bought")
