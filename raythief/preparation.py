"""Text before the purchase: corpus, vocabulary, queries, and the small world's encoders.

The stages around the pure functions of ``corpora``, ``vocabulary`` and ``queries``: they read and
write artifacts, and cut what is large into shards for a pool of actors.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from raythief import accelerators, calls, corpora, queries, results, sharding, vocabulary
from raythief.artifacts import WORK, Artifact
from raythief.config import Spec, TextCleaning
from raythief.errors import UserError
from raythief.miniature import encoders
from raythief.progress import Tell

QUERIES_PER_FILE = 16_384
PARAGRAPHS_PER_SHARD = 20_000
MOST_COMMON = 1000


class Cleaning(sharding.ShardWorker):
    """An actor that cuts raw paragraphs into sentences."""

    def __init__(self, target: Artifact, raw: Artifact, cleaning: TextCleaning) -> None:
        super().__init__(target)
        self.raw, self.cleaning = raw, cleaning

    def work(self, shard: sharding.Shard) -> tuple[pa.Table, Mapping[str, Any]]:
        """One row a paragraph: ``sentences``, a list of its cleaned sentences."""
        paragraphs = sharding.read(self.raw, sharding.Shard(f"{WORK}/raw", shard.start, shard.stop))
        rows = [
            list(corpora.sentences([text], self.cleaning))
            for text in paragraphs["text"].to_pylist()
        ]
        table = pa.table({"sentences": pa.array(rows, pa.list_(pa.string()))})
        count = sum(len(row) for row in rows)
        return table, {
            "sentences": count,
            "words": sum(len(sentence.split()) for row in rows for sentence in row),
        }


class Gibberish(sharding.ShardWorker):
    """An actor that makes queries."""

    def __init__(self, target: Artifact, words: Artifact, spec: Spec, seed: int) -> None:
        super().__init__(target)
        self.spec, self.seed = spec, seed
        self.distribution = vocabulary.Distribution.from_tables(
            words.read_table("words.parquet"), words.read_table("lengths.parquet")
        )

    def work(self, shard: sharding.Shard) -> tuple[pa.Table, Mapping[str, Any]]:
        """The queries with these ids: ``id``, ``premise``, ``hypothesis``."""
        table = queries.generate(
            self.distribution,
            self.spec.vocabulary,
            self.spec.queries,
            self.seed,
            shard.start,
            shard.stop,
        )
        return table, {}


def corpus(target: Artifact, spec: Spec, tell: Tell) -> results.Corpus:
    """Write raw paragraphs to the work folder, then clean them shard by shard."""
    cleaning: TextCleaning = "plain" if spec.corpus.source == "miniature" else spec.corpus.cleaning
    count, chunk = 0, []
    for text in corpora.paragraphs(spec.corpus, spec.root, spec.seed):
        chunk.append(text)
        if len(chunk) == PARAGRAPHS_PER_SHARD:
            count = _raw(target, chunk, count)
            chunk = []
    count = _raw(target, chunk, count) if chunk else count
    if not count:
        raise UserError("corpus: the source holds no text")
    parts = sharding.run(
        Cleaning,
        {"raw": target, "cleaning": cleaning},
        target,
        sharding.cut(count, PARAGRAPHS_PER_SHARD),
        accelerators.without(spec.resources.inference),
        spec.resources.restarts,
        tell,
    )
    return results.Corpus(
        sentences=sum(part["sentences"] for part in parts),
        words=sum(part["words"] for part in parts),
    )


def _raw(target: Artifact, chunk: list[str], start: int) -> int:
    shard = sharding.Shard(f"{WORK}/raw", start, start + len(chunk))
    target.write_table(shard.name, pa.table({"text": chunk}))
    return shard.stop


def distribution(target: Artifact, corpus: Artifact, spec: Spec, tell: Tell) -> results.Vocabulary:
    """Count the corpus's words and sentence lengths, and keep what queries may have."""
    counts = vocabulary.Counts.of(())
    files = corpus.tables()
    for i, name in enumerate(files):
        rows = corpus.read_table(name)["sentences"]
        sentences = (sentence for row in rows.to_pylist() for sentence in row)
        counts = counts + vocabulary.Counts.of(sentences)
        tell(i + 1, len(files))
    found = vocabulary.restrict(counts, spec.vocabulary)
    words, lengths = found.to_tables()
    target.write_table("words.parquet", words)
    target.write_table("lengths.parquet", lengths)
    shares = found.length_counts / found.length_counts.sum()
    return results.Vocabulary(
        words=len(found.words),
        tokens=int(found.word_counts.sum()),
        mean_sentence_words=float((found.lengths * shares).sum()),
        most_common=tuple(str(word) for word in found.words[:MOST_COMMON]),
    )


def gibberish(
    target: Artifact, words: Artifact, spec: Spec, seed: int, tell: Tell
) -> results.Queries:
    """Make all queries, shard by shard."""
    sharding.run(
        Gibberish,
        {"words": words, "spec": spec, "seed": seed},
        target,
        sharding.cut(spec.queries.count, QUERIES_PER_FILE),
        accelerators.without(spec.resources.inference),
        spec.resources.restarts,
        tell,
    )
    return results.Queries(queries=spec.queries.count)


def _pretrain_one(
    target: Artifact, kind: str, languages: tuple[str, ...], seed: int, steps: int | None
) -> dict[str, float]:
    recipe = encoders.Recipe()
    if steps is not None:
        recipe = dataclasses.replace(recipe, **{f"{kind}_steps": steps})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = encoders.pretrain(folder, kind, languages, seed, recipe)  # type: ignore[arg-type]
        target.upload(folder, kind)
    return found


def pretrain(target: Artifact, spec: Spec, tell: Tell) -> results.Encoders:
    """Pre-train both encoders of the small world side by side."""
    steps = {
        "english": spec.miniature.english_steps,
        "multilingual": spec.miniature.multilingual_steps,
    }
    languages = {"english": ("en",), "multilingual": spec.miniature.languages}
    arguments = {
        kind: (target, kind, languages[kind], spec.seed, count) for kind, count in steps.items()
    }
    made: dict[str, results.Pretrained] = {}
    tell(0, len(steps))
    restarts = spec.resources.restarts
    for kind, found in calls.each(_pretrain_one, arguments, restarts=restarts, num_cpus=1):
        made[kind] = results.Pretrained(**found)
        tell(len(made), len(steps))
    return results.Encoders(**made)
