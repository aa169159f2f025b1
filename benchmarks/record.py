"""Keeps a benchmark's figures, and makes of all that are kept what `raythief plan` reckons with.

    python benchmarks/labeling.py --record     # and training.py: run, keep, tell the plan
    python benchmarks/record.py                # only write raythief/throughput.json again

Figures are kept in `results/DATE-NAME-DEVICE/NAME.json` beside this file. For each device the
newest ones of labelling and of training are taken.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raythief import planning, throughput

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
MODELS = {
    "base": "FacebookAI/roberta-base",
    "large": "FacebookAI/roberta-large",
    "xlmr-large": "FacebookAI/xlm-roberta-large",
}
"""Whose size a benchmark's model has."""


def keep(name: str, found: Mapping[str, Any]) -> Path:
    """Write the figures of a benchmark that has just run, and tell the plan of them."""
    device = re.sub(r"[^a-z0-9]+", "-", found["device"].lower())
    file = RESULTS / f"{time.strftime('%Y-%m-%d')}-{name}-{device}" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    command = shlex.join(["python", f"benchmarks/{name}.py", *sys.argv[1:]])
    told = {"command": command.replace(" --record", ""), **found}
    file.write_text(json.dumps(told, indent=4) + "\n", encoding="utf-8")
    main()
    return file


def throughputs() -> list[dict[str, Any]]:
    """What the plan is to know, by device and kind of work."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for name, work in (("labeling", "inference"), ("training", "training")):
        for file in sorted(RESULTS.glob(f"*-{name}*/{name}.json")):
            found = json.loads(file.read_text(encoding="utf-8"))
            newest[found["device"], work] = _throughput(found, work, file)
    return [newest[key] for key in sorted(newest)]


def _throughput(found: Mapping[str, Any], work: str, file: Path) -> dict[str, Any]:
    """The figures of one file, operations counted as the plan counts them: attention left out."""
    size = found["model"].partition(",")[0].removeprefix("RoBERTa-").lower()
    layers, hidden = planning.SHAPES[MODELS[size]]
    if work == "training":
        rate, passes = found["tokens_per_second"]["ours"], planning.TRAINING
    elif "paper" in found:
        rate, passes = found["paper"]["tokens_per_second"], planning.FORWARD
    else:
        rows = found["rows_per_second"]["ours"]
        rate, passes = rows * found["tokens"] / found["rows"], planning.FORWARD
    return {
        "device": found["device"],
        "work": work,
        "threads": found["threads"],
        "model": MODELS[size],
        "dtype": found["dtype"],
        "tokens_per_second": round(rate),
        "flops": float(f"{passes * planning.weights(layers, hidden) * rate:.4g}"),
        "date": file.parent.name[:10],
        "command": found["command"],
        "figures": file.relative_to(ROOT).as_posix(),
    }


def main() -> None:
    """Write what the plan reckons with."""
    text = json.dumps(throughputs(), indent=2) + "\n"
    Path(throughput.__file__).with_name(throughput.FILE).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
