"""Labelling gibberish with a model: rows a second, beside the plain ways of doing it.

    python benchmarks/labeling.py [--text FILE.parquet] [--size base|large] [--rows ROWS] [--paper]

One model of random weights (speed does not depend on them), one set of queries, one number format,
the same threads for

  bare      the model on batches that are packed, encoded and in memory before the clock starts:
            the limit,
  ours      `raythief run` as far as labels: Ray, an actor, files. Its clock runs from the first
            query that is taken from the budget to the finished labels; the start of Ray and of the
            actor is told apart,
  pipeline  the text-classification pipeline of transformers, at several batch sizes.

The bare model runs before and after ours, and the mean counts, so that a machine which grows
slower or faster over the minutes disturbs both alike. Labels of all three are compared.

Words and sentence lengths are those of the column `text` of a parquet file of WikiText; without
one they are made up, as benchmarks/generation.py tells. The tokenizer is a byte-level BPE trained
on those words, small enough that a word takes about as many tokens (2.9) as with RoBERTa's.

`--paper` goes on with the paper's 392,702 queries: the benchmark of a GPU, with `--size large`.
The last line is one JSON object: `ratio_to_limit`, `ratio_to_pipeline_best` and
`ratio_to_pipeline_32`,
and with `--paper` rows and tokens a second and `share_of_peak`, of the rate that a large product of
matrices reaches on the same device.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from generation import FILE, PAPER, measured, synthetic
from transformers import (
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaTokenizer,
    pipeline,
)

from raythief import config, encoding, labeling, metering, models, planning, queries, runs, sharding
from raythief.artifacts import Artifact, Storage
from raythief.config import LABELS, Inference, Resources, Workers
from raythief.progress import silent
from raythief.victims import TOKENS_PER_BATCH
from raythief.vocabulary import Distribution

SHAPES = {"base": "FacebookAI/roberta-base", "large": "FacebookAI/roberta-large"}
TOKENS = 50_265
"""Rows of RoBERTa's embedding."""
MERGED = 1_600
"""Tokens that the BPE really has: few enough to cut a word of WikiText into 2.9 of them."""
BATCH_SIZES = (1, 8, 16, 32, 64)
SEED = 0


def save_model(folder: Path, words: Distribution, layers: int, hidden: int) -> None:
    """A classifier of RoBERTa's kind with random weights, and its tokenizer."""
    from tokenizers import ByteLevelBPETokenizer

    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    spaced = (f" {word}" for word in words.words)
    trained.train_from_iterator(
        spaced, vocab_size=MERGED, special_tokens=specials, show_progress=False
    )
    bpe = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in bpe["merges"]]
    tokenizer = RobertaTokenizer(vocab=bpe["vocab"], merges=merges, model_max_length=512)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(SEED)
    RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=TOKENS,
            num_hidden_layers=layers,
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_attention_heads=hidden // 64,
            max_position_embeddings=514,
            type_vocab_size=1,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
            id2label=dict(enumerate(LABELS)),
            label2id={label: i for i, label in enumerate(LABELS)},
        )
    ).save_pretrained(folder)


def bare(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, rows: pa.Table, how: Inference
) -> tuple[float, list[str]]:
    """Seconds of the forward passes alone, and the labels."""
    texts = rows["premise"].to_pylist(), rows["hypothesis"].to_pylist()
    encoded = encoding.encode(tokenizer, *texts, how.max_tokens)
    packed = encoding.pack(encoded.lengths, how.tokens_per_batch)
    batches = [(places, encoded.batch(places, models.device())) for places in packed]
    found = [""] * rows.num_rows
    with torch.inference_mode():
        started = time.perf_counter()
        answers = [(places, model(**batch).logits.argmax(-1)) for places, batch in batches]
        best = [(places, chosen.cpu().tolist()) for places, chosen in answers]
        seconds = time.perf_counter() - started
    for places, chosen in best:
        for place, label in zip(places, chosen, strict=True):
            found[place] = LABELS[label]
    return seconds, found


def piped(ask: Any, rows: pa.Table, batch_size: int, how: Inference) -> tuple[float, list[str]]:
    """Seconds that the pipeline takes from texts to labels, and the labels."""
    pairs = [{"text": row["premise"], "text_pair": row["hypothesis"]} for row in rows.to_pylist()]
    started = time.perf_counter()
    answers = ask(pairs, batch_size=batch_size, truncation=True, max_length=how.max_tokens)
    seconds = time.perf_counter() - started
    return seconds, [answer["label"] for answer in answers]


@contextlib.contextmanager
def first_query(target: Artifact) -> Iterator[Callable[[], float]]:
    """Tell when the first query was taken from the budget, by the clock of ``perf_counter``."""
    ledger = Path(target.absolute) / metering.LEDGER
    seen: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        while not seen and not stop.wait(0.01):
            with contextlib.suppress(FileNotFoundError, ValueError):
                if json.loads(ledger.read_bytes())["taken"]:
                    seen.append(time.perf_counter())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield lambda: seen[0]
    stop.set()
    thread.join()


def ours(
    storage: Storage, rows: pa.Table, words: Artifact, folder: Path, how: Inference, cpus: int
) -> tuple[float, float, list[str], dict[str, Any]]:
    """Seconds of labelling, seconds until it began, the labels, and what the manifest would say."""
    made, target = (
        storage.artifact(name, f"{rows.num_rows:016x}") for name in ("queries", "labels")
    )
    for shard in sharding.cut(rows.num_rows, FILE):
        made.write_table(shard.name, rows.slice(shard.start, shard.stop - shard.start))
    started = time.perf_counter()
    with runs.cluster(None):
        meter = metering.start(storage, None)
        with first_query(target) as began:
            results = labeling.build(
                target, made, rows.num_rows, models.Source(path=str(folder)), None, how,
                Resources(inference=Workers(workers=1, cpus=cpus)), silent, words=words,
            )  # fmt: skip
            ended = time.perf_counter()
        del meter
    labels = target.read_table(columns=["label"])["label"].to_pylist()
    return ended - began(), began() - started, labels, results


def peak(dtype: torch.dtype) -> float:
    """Operations a second that a large product of matrices reaches here, the best of some."""
    side = 8192 if torch.cuda.is_available() else 2048
    a, b = (torch.randn(side, side, device=models.device(), dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(12):
        started = time.perf_counter()
        for _ in range(5):
            a @ b
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = max(best, 5 * 2 * side**3 / (time.perf_counter() - started))
    return best


def operations(size: str, tokens: int) -> float:
    """Operations of a forward pass over so many tokens; attention's own are left out."""
    layers, hidden = planning.SHAPES[SHAPES[size]]
    return 2.0 * 12 * layers * hidden**2 * tokens


def compare(
    storage: Storage,
    source: Distribution,
    words: Artifact,
    folder: Path,
    asked: Any,
) -> dict[str, Any]:
    """The three ways, one after another."""
    how = inference(asked)
    rows = generated(source, asked.rows)
    tokenizer = models.tokenizer(folder)
    dtype = models.dtype(how.precision, models.device())
    model = models.classifier(folder, how.attention).to(models.device(), dtype).eval()
    if how.compile:
        model = torch.compile(model, dynamic=True)
    bare(model, tokenizer, rows.slice(0, 16), how)  # warm
    seconds, expected = bare(model, tokenizer, rows, how)
    mine, start, labels, results = ours(storage, rows, words, folder, how, asked.threads)
    again, _ = bare(model, tokenizer, rows, how)
    limit = (seconds + again) / 2
    report("bare model, packed batches in memory", rows.num_rows, limit)
    report(f"ours, after {start:.1f} s of start", rows.num_rows, mine)
    same = sum(a == b for a, b in zip(expected, labels, strict=True))
    ask = pipeline("text-classification", model=model, tokenizer=tokenizer)
    plain = {}
    for batch_size in asked.batch_sizes:
        plain[batch_size], theirs = piped(ask, rows, batch_size, how)
        same = min(same, sum(a == b for a, b in zip(expected, theirs, strict=True)))
        report(f"pipeline, batches of {batch_size}", rows.num_rows, plain[batch_size])
    found = {
        "rows": rows.num_rows,
        "tokens": results["tokens"],
        "padding_share": round(results["padding_share"], 4),
        "same_labels": same / rows.num_rows,
        "seconds_start": round(start, 1),
        "rows_per_second": round(rows.num_rows / mine, 2),
        "rows_per_second_limit": round(rows.num_rows / limit, 2),
        "rows_per_second_pipeline": {
            str(size): round(rows.num_rows / taken, 2) for size, taken in plain.items()
        },
        "ratio_to_limit": round(limit / mine, 3),
    }
    if plain:
        found["ratio_to_pipeline_best"] = round(min(plain.values()) / mine, 2)
    if 32 in plain:
        found["ratio_to_pipeline_32"] = round(plain[32] / mine, 2)
    return found


def paper(
    storage: Storage, source: Distribution, words: Artifact, folder: Path, asked: Any
) -> dict[str, Any]:
    """The paper's whole set through ours, and what of the device it uses."""
    how = inference(asked)
    top = peak(models.dtype(how.precision, models.device()))
    rows = generated(source, PAPER)
    seconds, start, _, results = ours(storage, rows, words, folder, how, asked.threads)
    report(f"ours, the paper's set, after {start:.1f} s of start", PAPER, seconds)
    return {
        "seconds_392702": round(seconds, 1),
        "seconds_start": round(start, 1),
        "rows_per_second": round(PAPER / seconds, 1),
        "tokens_per_second": round(results["tokens"] / seconds),
        "padding_share": round(results["padding_share"], 4),
        "encoding": results["encoding"],
        "peak_tflops": round(top / 1e12, 2),
        "share_of_peak": round(operations(asked.size, results["tokens"]) / seconds / top, 3),
    }


def inference(asked: Any) -> Inference:
    """How both we and the bare model batch."""
    return Inference(
        rows_per_shard=asked.rows_per_shard,
        tokens_per_batch=asked.tokens_per_batch,
        precision=asked.precision,
        attention=asked.attention,
        compile=asked.compile,
    )


def generated(source: Distribution, count: int) -> pa.Table:
    """Queries 0 to count-1."""
    return queries.generate(source, config.Vocabulary(), config.Queries(), SEED, 0, count)


def report(what: str, rows: int, seconds: float) -> None:
    """A line for the reader."""
    print(f"{what}: {rows / seconds:,.2f} rows/s ({seconds:,.1f} s)", flush=True)


def main() -> None:
    """Compare, and with ``--paper`` label the paper's set."""
    standard = Inference()
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=Path, help="parquet file of WikiText, column text")
    parser.add_argument("--size", choices=SHAPES, default="base")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=BATCH_SIZES)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rows-per-shard", type=int, default=standard.rows_per_shard)
    parser.add_argument(
        "--tokens-per-batch", type=int, default=TOKENS_PER_BATCH[models.device().type]
    )
    parser.add_argument("--precision", default=standard.precision)
    parser.add_argument("--attention", default=standard.attention)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--paper", action="store_true", help="label 392,702 queries too")
    asked = parser.parse_args()
    os.environ.update(RAY_worker_niceness="0")  # ours is no nicer than the others
    torch.set_num_threads(asked.threads)
    source = measured(asked.text) if asked.text else synthetic()
    with tempfile.TemporaryDirectory() as place:
        storage = Storage.at(place)
        words = storage.artifact("vocabulary", "0" * 16)
        words.write_table("words.parquet", pa.table({"word": list(source.words)}))
        words.finish({"results": {"words": len(source.words)}})
        folder = Path(place) / "model"
        save_model(folder, source, *planning.SHAPES[SHAPES[asked.size]])
        found = {
            "device": models.name_of(models.device()),
            "threads": asked.threads,
            "model": f"RoBERTa-{asked.size.title()}, random weights",
            "dtype": str(models.dtype(asked.precision, models.device())).removeprefix("torch."),
            **compare(storage, source, words, folder, asked),
        }
        gc.collect()
        if asked.paper:
            found["paper"] = paper(storage, source, words, folder, asked)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
