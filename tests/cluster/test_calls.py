"""Single calls on a real Ray whose processes are killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import ray

from raythief import calls, clusters
from raythief.errors import UserError, find_user_error


@pytest.mark.slow
def test_a_call_whose_process_is_killed_is_made_again_and_a_mistake_is_not(tmp_path: Path) -> None:
    def call(name: str, deaths: int) -> str:
        with (tmp_path / name).open("a") as file:
            file.write("x")
        if (tmp_path / name).stat().st_size <= deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "wrong":
            raise UserError("a mistake")
        return name

    with clusters.connect(None):
        arguments = {"a": ("alive", 0), "b": ("killed", 1)}
        found = dict(calls.each(call, arguments, restarts=1, num_cpus=1))
        assert found == {"a": "alive", "b": "killed"}
        with pytest.raises(UserError) as caught:
            list(calls.each(call, {0: ("wrong", 0)}, restarts=1, num_cpus=1))
        assert str(find_user_error(caught.value)) == "a mistake"
        with pytest.raises(ray.exceptions.RayActorError):
            list(calls.each(call, {0: ("hopeless", 9)}, restarts=1, num_cpus=1))
    made = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert made == {"alive": 1, "killed": 2, "wrong": 1, "hopeless": 2}
