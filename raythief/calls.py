"""Single calls of functions on the cluster, made again where the node that works on one is lost.

    for language, result in calls.each(align, {"de": (target, "de")}, restarts=3, num_cpus=1): ...

Each call has an actor of its own and is no task of Ray's, for the sake of nodes that are gone
without a word, as after a loss of power. Calls to the actors of such a node end as soon as Ray
takes it for dead, after about a minute by default. Its tasks are waited for until gRPC finds the
connection dead, which took six minutes when it was tried (gRPC asks after five whether the other
side is there, and Ray's servers take it amiss if they are asked more often).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ray

Key = TypeVar("Key")


class _Caller:
    """An actor that makes one call."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


class Call:
    """A call that has begun, somewhere on the cluster."""

    def __init__(
        self, function: Callable[..., Any], *arguments: Any, restarts: int, **needs: Any
    ) -> None:
        """Begin it.

        Args:
            function: Of a module.
            arguments: Passed to it.
            restarts: How often it begins again if its process dies, before it fails.
            needs: What it takes of a node: ``num_cpus`` and other options of Ray's actors.
        """
        actor = ray.remote(_Caller).options(max_restarts=restarts, max_task_retries=-1, **needs)
        self._actor = actor.remote()
        self.result = self._actor.call.options(name=function.__name__).remote(function, *arguments)
        """A reference to what it returns."""

    def close(self) -> None:
        """Give back what it took, once the result is fetched or no longer wanted."""
        ray.kill(self._actor)


def each(
    function: Callable[..., Any],
    arguments: Mapping[Key, Sequence[Any]],
    *,
    restarts: int,
    **needs: Any,
) -> Iterator[tuple[Key, Any]]:
    """Call a function with several arguments, side by side where there is room.

    Args:
        function: Of a module.
        arguments: Of each call, by any key.
        restarts: How often a call begins again if its process dies, before it fails.
        needs: What each takes of a node, as ``Call`` does.

    Yields:
        Key and result of each call, as they end.
    """
    running = {}
    try:
        for key, given in arguments.items():
            call = Call(function, *given, restarts=restarts, **needs)
            running[call.result] = key, call
        while running:
            [ready], _ = ray.wait(list(running))
            key, call = running[ready]
            result = ray.get(ready)
            running.pop(ready)
            call.close()
            yield key, result
    finally:  # after a failure nobody waits for the others
        for _, call in running.values():
            call.close()
