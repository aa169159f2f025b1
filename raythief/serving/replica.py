"""A replica: the API and the model in one actor of Ray Serve.

Pairs of all requests that wait at a replica go through the model together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI
from ray import serve

from raythief import config, models
from raythief.config import LABELS, Inference, Label
from raythief.serving.web import Answer, Pair, application
from raythief.victims import Classifier


@serve.ingress()
class Victim:
    """The API and the model."""

    def __init__(
        self,
        source: models.Source,
        labels: tuple[Label, ...] | None,
        inference: Inference,
        options: config.Serve,
        title: str,
        key_digest: bytes | None,
    ) -> None:
        self.victim = Classifier(source, inference, options.cpus, labels)
        self.options = options
        self.title = title
        self.key_digest = key_digest
        # One thread of its own: the loop goes on collecting the next batch meanwhile, and torch
        # keeps one pool of threads rather than one for each thread that it was called from.
        self.thread = ThreadPoolExecutor(max_workers=1)
        self._answer.set_max_batch_size(options.max_pairs_per_batch)
        self._answer.set_batch_wait_timeout_s(options.batch_wait_s)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve asks for the API once the model is loaded."""
        return application(self.title, self.options, self.key_digest, self._ask)

    async def _ask(self, pairs: Sequence[Pair]) -> list[Answer]:
        # Each pair waits by itself, so that batches are full whatever the requests' sizes.
        return list(await asyncio.gather(*map(self._answer, pairs)))

    @serve.batch
    async def _answer(self, pairs: list[Pair]) -> list[Answer]:
        loop = asyncio.get_running_loop()
        judged = loop.run_in_executor(self.thread, judge, self.victim, pairs, self.options.scores)
        return await judged


def judge(victim: Classifier, pairs: Sequence[Pair], scores: bool) -> list[Answer]:
    """Answer pairs, with the probability of each label if ``scores``."""
    premises, hypotheses = [pair.premise for pair in pairs], [pair.hypothesis for pair in pairs]
    labels, found, _ = victim.answer(premises, hypotheses)
    if not scores:
        return [Answer(label=label) for label in labels]
    return [
        Answer(label=label, scores=dict(zip(LABELS, row, strict=True)))
        for label, row in zip(labels, found.tolist(), strict=True)
    ]
