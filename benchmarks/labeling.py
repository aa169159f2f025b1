"""Labelling gibberish with a model: rows a second, beside the plain ways of doing it.

    python benchmarks/labeling.py [--text FILE.parquet] [--size base|large] [--rows ROWS] [--paper]
                                  [--record]

One model of random weights (speed does not depend on them), one set of queries, one number format,
the same threads for

  bare      the model on batches that are packed, encoded and in memory before the clock starts:
            the limit,
  ours      `raythief run` as far as labels: Ray, an actor, files. The clock runs from the moment
            when a shard may begin to the moment when its file is there; the start of Ray and of
            the actor, and the end of the run after its last file, are told apart,
  pipeline  the text-classification pipeline of transformers, at several batch sizes.

They take turns, a shard each, so that a machine whose speed changes over the minutes, and Ray's
own daemons, disturb all of them alike. Their labels are compared. Pairs are cut nowhere below the
512 tokens that the model can hold.

Words and sentence lengths are those of the column `text` of a parquet file of WikiText; without
one they are made up, as benchmarks/generation.py tells. The tokenizer is a byte-level BPE trained
on those words, small enough that a word takes about as many tokens (2.9) as with RoBERTa's.

`--paper` goes on with the paper's 392,702 queries: the benchmark of a GPU, with `--size large`.
The last line is one JSON object: `ratio_to_limit`, `ratio_to_pipeline_best` and
`ratio_to_pipeline_32`, and with `--paper` rows and tokens a second and `share_of_peak`, of the rate
that a large product of matrices reaches on the same device. `--record` keeps it, and lets plans
reckon with it (record.py).
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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import record
import torch
from generation import FILE, PAPER, measured, synthetic
from transformers import (
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaTokenizer,
    pipeline,
)

from raythief import (
    accelerators,
    asking,
    clusters,
    config,
    encoding,
    labeling,
    metering,
    models,
    planning,
    queries,
    sharding,
    speed,
)
from raythief.answers import Answers
from raythief.artifacts import WORK, Artifact, Storage
from raythief.config import LABELS, Costs, Inference, Resources, Workers
from raythief.progress import silent
from raythief.victims import TOKENS_PER_BATCH
from raythief.vocabulary import Distribution

SHAPES = {"base": "FacebookAI/roberta-base", "large": "FacebookAI/roberta-large"}
TOKENS = 50_265
"""Rows of RoBERTa's embedding."""
MERGED = 2_400
"""Tokens that the BPE really has: few enough to cut a word of WikiText into 2.9 of them."""
BATCH_SIZES = (1, 8, 16, 32, 64)
SEED = 0


def save_model(
    folder: Path, words: Distribution, layers: int, hidden: int, tokens: int = TOKENS
) -> None:
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
            vocab_size=tokens,
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
    batches = [(places, encoded.batch(places, accelerators.device())) for places in packed]
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


class Gated(labeling.Labeling):
    """Asks for leave before each shard."""

    def work(self, shard: sharding.Shard) -> tuple[pa.Table, Mapping[str, Any]]:
        """Label the shard once the benchmark lets it."""
        self.target.write(f"{WORK}/waiting/{shard.start}", b"")
        gate = Path(self.target.absolute) / WORK / "open" / str(shard.start)
        while not gate.exists():
            time.sleep(0.005)
        return super().work(shard)


@contextlib.contextmanager
def first_query(target: Artifact) -> Iterator[Callable[[], float]]:
    """Tell when the first query was taken from the budget, by the clock of ``perf_counter``."""
    seen: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        while not seen and not stop.wait(0.01):
            if metering.has_ledger(target) and metering.spent(target.storage, target.path):
                seen.append(time.perf_counter())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield lambda: seen[0]
    stop.set()
    thread.join()


def asked_for(count: int, kind: str = "model") -> Answers:
    """What is asked of the victim."""
    return Answers({kind: "benchmark"}, {}, {"rows": count}, count, "labels")


def artifacts(storage: Storage, rows: pa.Table) -> tuple[Artifact, Artifact]:
    """Where labels will be, and the queries, in files as the pipeline has them."""
    target, made = (
        storage.artifact(name, f"{rows.num_rows:016x}") for name in ("labels", "queries")
    )
    for shard in sharding.cut(rows.num_rows, FILE):
        made.write_table(shard.name, rows.slice(shard.start, shard.stop - shard.start))
    return target, made


def label(
    storage: Storage,
    target: Artifact,
    made: Artifact,
    count: int,
    words: Artifact,
    folder: Path,
    how: Inference,
    cpus: int,
    worker: type[labeling.Labeling],
) -> dict[str, Any]:
    """Our labelling; returns what the manifest would say."""
    meter = metering.start(storage, Costs())
    workers = Resources(inference=Workers(workers=1, cpus=cpus))
    found = labeling.build(
        target, asked_for(count), asking.Texts(made, "", gibberish=True),
        models.Source(path=str(folder)), None, how, workers, silent, words=words, worker=worker,
    )  # fmt: skip
    del meter
    return found


def operations(layers: int, hidden: int, tokens: float) -> float:
    """Operations of a forward pass over so many tokens; attention's own are left out."""
    return planning.FORWARD * planning.weights(layers, hidden) * tokens


def compare(
    storage: Storage, source: Distribution, words: Artifact, folder: Path, asked: Any
) -> dict[str, Any]:
    """The three ways, shard by shard."""
    how = inference(asked, asked.turn)
    rows = generated(source, asked.rows)
    tokenizer = models.tokenizer(folder)
    dtype = models.dtype(how.precision, accelerators.device())
    model = models.classifier(folder, how.attention).to(accelerators.device(), dtype).eval()
    if how.compile:
        model = torch.compile(model, dynamic=True)
    bare(model, tokenizer, rows.slice(0, 16), how)  # warm
    ask = pipeline("text-classification", model=model, tokenizer=tokenizer)
    target, made = artifacts(storage, rows)
    one = asked_for(rows.num_rows)
    kept, gates = one.at(storage), one.of_model(storage)
    waiting = Path(gates.absolute) / WORK / "waiting"
    seconds: Counter[str] = Counter()
    same = 0

    def turn(shard: sharding.Shard) -> int:
        """Everyone's turn at one shard; returns how many labels are the same everywhere."""
        part = rows.slice(shard.start, shard.stop - shard.start)
        taken, expected = bare(model, tokenizer, part, how)
        seconds["bare"] += taken
        started = time.perf_counter()
        gates.write(f"{WORK}/open/{shard.start}", b"")
        file = Path(kept.absolute) / shard.name
        until(file.exists, labelled)
        seconds["ours"] += time.perf_counter() - started
        found = [expected, kept.read_table(shard.name, ["label"])["label"].to_pylist()]
        for size in asked.batch_sizes:
            taken, theirs = piped(ask, part, size, how)
            seconds[str(size)] += taken
            found.append(theirs)
        return sum(len(set(labels)) == 1 for labels in zip(*found, strict=True))

    started = time.perf_counter()
    with (
        clusters.connect(None),
        ThreadPoolExecutor(1) as thread,
    ):
        labelled = thread.submit(
            label, storage, target, made, rows.num_rows, words, folder, how, asked.threads, Gated
        )
        until(lambda: waiting.exists() and any(waiting.iterdir()), labelled)
        start = time.perf_counter() - started
        done: set[str] = set()
        while len(done) * asked.turn < rows.num_rows:
            until(lambda: {file.name for file in waiting.iterdir()} - done, labelled)
            [name] = {file.name for file in waiting.iterdir()} - done
            same += turn(sharding.cut(rows.num_rows, asked.turn)[int(name) // asked.turn])
            done.add(name)
            print(f"{len(done) * asked.turn} of {rows.num_rows} rows done by all", flush=True)
        started = time.perf_counter()
        results = labelled.result()
        end = time.perf_counter() - started
    for name, taken in seconds.items():
        print(f"{name}: {rows.num_rows / taken:,.2f} rows/s ({taken:,.1f} s)")
    plain = {size: seconds[str(size)] for size in asked.batch_sizes}
    found = {
        "rows": rows.num_rows,
        "tokens": results["tokens"],
        "padding_share": round(results["padding_share"], 4),
        "same_labels": same / rows.num_rows,
        "seconds_start": round(start, 1),
        "seconds_end": round(end, 1),
        "rows_per_second": {
            name: round(rows.num_rows / taken, 2) for name, taken in seconds.items()
        },
        "ratio_to_limit": round(seconds["bare"] / seconds["ours"], 3),
    }
    if plain:
        found["ratio_to_pipeline_best"] = round(min(plain.values()) / seconds["ours"], 2)
    if 32 in plain:
        found["ratio_to_pipeline_32"] = round(plain[32] / seconds["ours"], 2)
    return found


def until(ready: Callable[[], Any], work: Future[Any], every_s: float = 0.005) -> None:
    """Wait for a moment, unless the work fails before it comes."""
    while not ready():
        if work.done():
            work.result()
        time.sleep(every_s)


def paper(
    storage: Storage, source: Distribution, words: Artifact, folder: Path, asked: Any
) -> dict[str, Any]:
    """The paper's whole set through ours, and what of the device it uses."""
    how = inference(asked, asked.rows_per_shard)
    shape = planning.SHAPES[SHAPES[asked.size]]
    device = accelerators.device()
    top = speed.matrix_flops(device, models.dtype(how.precision, device))
    target, made = artifacts(storage, generated(source, PAPER))
    started = time.perf_counter()
    with clusters.connect(None), first_query(asked_for(PAPER).at(storage)) as began:
        results = label(
            storage, target, made, PAPER, words, folder, how, asked.threads, labeling.Labeling
        )
        seconds, start = time.perf_counter() - began(), began() - started
    return {
        "seconds_392702": round(seconds, 1),
        "seconds_start": round(start, 1),
        "rows_per_second": round(PAPER / seconds, 1),
        "tokens_per_second": round(results["tokens"] / seconds),
        "padding_share": round(results["padding_share"], 4),
        "encoding": results["encoding"],
        "peak_tflops": round(top / 1e12, 2),
        "share_of_peak": round(operations(*shape, results["tokens"]) / seconds / top, 3),
    }


def inference(asked: Any, rows_per_shard: int) -> Inference:
    """How both we and the bare model batch."""
    return Inference(
        rows_per_shard=rows_per_shard,
        max_tokens=512,
        tokens_per_batch=asked.tokens_per_batch,
        precision=asked.precision,
        attention=asked.attention,
        compile=asked.compile,
    )


def generated(source: Distribution, count: int) -> pa.Table:
    """Queries 0 to count-1."""
    return queries.generate(source, config.Vocabulary(), config.Queries(), SEED, 0, count)


def main() -> None:
    """Compare, and with ``--paper`` label the paper's set."""
    device, standard = accelerators.device(), Inference()
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=Path, help="parquet file of WikiText, column text")
    parser.add_argument("--size", choices=SHAPES, default="base")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--turn", type=int, default=32, help="rows of a turn")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=BATCH_SIZES)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rows-per-shard", type=int, default=standard.rows_per_shard)
    parser.add_argument("--tokens-per-batch", type=int, default=TOKENS_PER_BATCH[device.type])
    parser.add_argument("--precision", default=standard.precision)
    parser.add_argument("--attention", default=standard.attention)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--paper", action="store_true", help="label 392,702 queries too")
    parser.add_argument("--record", action="store_true", help="keep the figures, for plans too")
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
            "device": models.name_of(device),
            "threads": asked.threads,
            "model": f"RoBERTa-{asked.size.title()}, random weights",
            "dtype": str(models.dtype(asked.precision, device)).removeprefix("torch."),
            **compare(storage, source, words, folder, asked),
        }
        gc.collect()
        if asked.paper:
            found["paper"] = paper(storage, source, words, folder, asked)
    if asked.record:
        print(f"kept: {record.keep('labeling', found)}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
