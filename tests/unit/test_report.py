"""The report: it says what the manifests say, survives what is missing, and lets nothing in.

``Storage`` makes up a run: a record and manifests with accuracies of the test's choosing.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raythief import artifacts
from raythief.config import LABELS, LANGUAGES, expand, load, validate
from raythief.errors import UserError
from raythief.report import Place, deviations, diagram, figures, find, headline, write
from raythief.report.measures import wilson
from raythief.results import pack_bits

Accuracy = Callable[[str, int, str], float]
HOSTILE = "<script>alert('x')</script> | `a` [b](c) $\\frac$ \x07 \ud800 &amp; <!-- \n\n# h"

PRINT = "0123456789abcdef"
"""Fingerprint of the made-up run."""

COMMON = ("television", "family", "government", "military", "system", "season", "station", "river")
FOREIGN = ("influenza", "infection", "respiratory", "patients", "viral", "system", "cell", "river")


READS = {
    "vocabulary": ("corpus",),
    "queries": ("vocabulary",),
    "labels": ("queries", "vocabulary", "victim"),
    "extractor": ("queries", "labels"),
    "finetuned": ("extractor",),
    "victim_evaluation": ("victim",),
    "evaluation": ("extractor", "finetuned", "victim_evaluation"),
}
"""What stages read of others, by their roles in a row."""


class Storage:
    """A storage folder that holds one made-up run."""

    def __init__(self, root: Path, spec: dict[str, Any]) -> None:
        self.root, self.spec = root, {"name": "made-up", **spec}
        self.rows: list[dict[str, Any]] = []

    def manifest(
        self,
        path: str,
        results: dict[str, Any],
        seconds: float = 10.0,
        inputs: Mapping[str, str] | None = None,
    ) -> Path:
        """Write an artifact's manifest, made from others by their paths, and return its file."""
        file = self.root / path / "manifest.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "stage": path.partition("/")[0],
            "fingerprint": path.partition("/")[2],
            "config": {},
            "inputs": {
                role: dict(zip(("stage", "fingerprint"), given.split("/"), strict=True))
                for role, given in (inputs or {}).items()
            },
            "created": "2026-11-23T14:00:00+00:00",
            "seconds": seconds,
            "versions": {"raythief": "0.1.0", "python": "3.11.7", "ray": "2.60.0"},
            "results": results,
            "files": [],
        }
        file.write_text(json.dumps(content))
        return file

    def row(self, variant: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
        """Add a row to the record."""
        row = {
            "variant": variant,
            "seed": seed,
            "status": "done",
            "error": None,
            "seconds": 100.0,
            "stages": {},
            **changes,
        }
        self.rows.append(row)
        return row

    def done(
        self,
        variant: str,
        seed: int,
        scores: Mapping[str, Mapping[str, float]],
        victim: Mapping[str, Mapping[str, float]],
        queries: bool = True,
        after: bool = False,
        count: int = 600,
    ) -> dict[str, Any]:
        """Add a finished row with all its artifacts."""
        row = self.row(variant, seed)
        foreign = "foreign" in variant
        tag = f"{'foreign' if foreign else 'home'}-{seed}"
        own = f"{len(self.rows):03d}-{seed}"
        made: dict[str, tuple[str, dict[str, Any], float]] = {
            "victim": (f"victim/v{seed}", training(1.1, 0.05, seed), 18.5),
            "victim_evaluation": (f"evaluation/v{seed}", evaluation(victim, count), 2.5),
            "extractor": (f"extractor/{own}", training(1.1, 0.3, seed), 40.25),
            "evaluation": (f"evaluation/{own}", evaluation(scores, count, 0.8), 6.75),
        }
        if queries:
            head = FOREIGN if foreign else COMMON
            size = {"words": 2500 + seed, "tokens": 61000, "mean_sentence_words": 9.4}
            said = {"entailment": 1400 + seed, "neutral": 4000, "contradiction": 14600 - seed}
            made |= {
                "corpus": (f"corpus/{tag}", {"sentences": 6000, "words": 61000}, 2.0),
                "vocabulary": (f"vocabulary/{tag}", {**size, "most_common": head}, 0.5),
                "queries": (f"queries/{tag}", {"queries": 20000}, 1.0),
                "labels": (
                    f"labels/{tag}",
                    {"queries": 20000, "label_counts": said, "tokens": 412345,
                     "padding_share": 0.031, "device": "cpu"},
                    5.0,
                ),
            }  # fmt: skip
        if after:
            made["finetuned"] = (f"finetuned/{own}", training(0.6, 0.1, seed), 9.0)
        for stage, (path, results, seconds) in made.items():
            reused = (self.root / path / "manifest.json").exists()
            inputs = {role: made[role][0] for role in READS.get(stage, ()) if role in made}
            self.manifest(path, results, seconds, inputs)
            row["stages"][stage] = {"path": path, "reused": reused}
        return row

    def change(self, row: Mapping[str, Any], stage: str, **results: Any) -> None:
        """Change results in the manifest of a row's stage."""
        file = self.root / row["stages"][stage]["path"] / "manifest.json"
        content = json.loads(file.read_text())
        content["results"] |= results
        file.write_text(json.dumps(content))

    def report(self, **record: Any) -> Path:
        """Write the record, then the report; return the report's folder."""
        self.record(**record)
        return Path(write(*self.place)).parent

    @property
    def place(self) -> tuple[artifacts.Storage, Place]:
        """The storage, and where the run lies on it."""
        storage = artifacts.Storage.at(str(self.root))
        return storage, find(storage, self.spec["name"])

    def record(self, **changes: Any) -> Path:
        """Write the run record alone."""
        home = self.root / "runs" / self.spec["name"]
        file = home / PRINT / "run.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        (home / "newest.json").write_text(json.dumps({"fingerprint": PRINT}))
        content = {
            "name": self.spec["name"],
            "title": "A made-up run",
            "command": "raythief demo",
            "started": "2026-11-23T14:00:00+00:00",
            "seconds": 201.3,
            "spec": self.spec,
            "rows": self.rows,
            **changes,
        }
        file.write_text(json.dumps(content))
        return file


def written(root: Path, which: str) -> Path:
    """Write the report of a run; return the report's folder."""
    storage = artifacts.Storage.at(str(root))
    return Path(write(storage, find(storage, which))).parent


def training(first: float, last: float, seed: int) -> dict[str, Any]:
    history = [
        {"step": step, "loss": last + (first - last) * math.exp(-step / (150 + 40 * seed)),
         "learning_rate": 1e-3}
        for step in range(0, 1000, 25)
    ]  # fmt: skip
    return {"examples": 20000, "steps": 1000, "final_loss": history[-1]["loss"],
            "history": history, "device": "cpu", "collapse": []}  # fmt: skip


def score(accuracy: float, count: int, agreement: float | None) -> dict[str, Any]:
    """A score whose confusion matrix has the accuracy asked for, as near as items allow."""
    each = count // 3
    right = round(accuracy * each)
    wrong = each - right
    confusion = [[right if i == j else 0 for j in range(3)] for i in range(3)]
    for i in range(3):
        confusion[i][(i + 1) % 3] += wrong // 3
        confusion[i][(i + 2) % 3] += wrong - wrong // 3
    low, high = wilson(right / each, count)
    recall = dict.fromkeys(LABELS, right / each)
    return {"count": count, "accuracy": right / each, "low": low, "high": high,
            "majority_rate": 0.4, "recall": recall, "agreement": agreement,
            "confusion": confusion}  # fmt: skip


def evaluation(
    sets: Mapping[str, Mapping[str, float]], count: int, agreement: float | None = None
) -> dict[str, Any]:
    return {
        "sets": {
            name: {code: score(value, count, agreement) for code, value in languages.items()}
            for name, languages in sets.items()
        },
        "device": "cpu",
    }


def flat(english: float, others: float, languages: Sequence[str] = ("en", "de", "zh")) -> dict:
    return {"xnli": {code: english if code == "en" else others for code in languages}}


def miniature(variants: Mapping[str, Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "corpus": {"source": "miniature"},
        "victim": {"model": "miniature:english", "training": {}},
        "extractor": {"model": "miniature:multilingual"},
        "real": {"train": {"source": "miniature"}},
        "evaluation": {"sets": {"xnli": {"source": "miniature", "split": "test",
                                         "languages": list(LANGUAGES)}}},
        "variants": variants,
        **changes,
    }  # fmt: skip


VARIANTS: dict[str, dict[str, Any]] = {
    "gibberish": {},
    "foreign words": {"corpus.domain": "foreign"},
    "1 % during": {"real.fraction": 0.01, "real.placement": "during"},
    "1 % after": {"real.fraction": 0.01, "real.placement": "after"},
    "10 % during": {"real.fraction": 0.1, "real.placement": "during"},
    "10 % after": {"real.fraction": 0.1, "real.placement": "after"},
    "real only": {"real.fraction": 1.0, "real.placement": "only"},
    "small vocabulary": {"vocabulary.top_k": 500},
}
LEVELS = {
    "gibberish": (0.84, 0.67),
    "foreign words": (0.33, 0.33),
    "1 % during": (0.86, 0.70),
    "1 % after": (0.88, 0.76),
    "10 % during": (0.90, 0.74),
    "10 % after": (0.94, 0.81),
    "real only": (0.97, 0.83),
    "small vocabulary": (0.71, 0.55),
}


def full(root: Path, seeds: Sequence[int] = (0, 1, 2)) -> Storage:
    """15 languages, 8 variants, several seeds: everything shows."""
    storage = Storage(root, miniature(VARIANTS, seeds=list(seeds)))
    storage.spec["name"] = "full"
    for variant, (english, others) in LEVELS.items():
        for seed in seeds:
            wave = {code: 0.04 * math.sin(2.3 * i + seed) for i, code in enumerate(LANGUAGES)}
            drift = 0 if "foreign" in variant else 0.015 * (seed - 1)
            if "foreign" in variant:
                wave = dict.fromkeys(LANGUAGES, 0.0)
            scores = {
                code: min(0.99, (english if code == "en" else others + wave[code]) + drift)
                for code in LANGUAGES
            }
            victim = {code: 0.97 - 0.01 * seed if code == "en" else 0.33 for code in LANGUAGES}
            storage.done(
                variant,
                seed,
                {"xnli": scores, "mnli": {"en": english}},
                {"xnli": victim, "mnli": {"en": 0.97}},
                queries=variant != "real only",
                after="after" in variant,
            )
    return storage


@pytest.fixture
def drawn() -> None:
    """For tests that look at drawings of their own."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing, which takes nearly all of the time, where no test looks at it."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(diagram, "draw", lambda *_: "<svg></svg>")
        drawings = ("accuracy_bars", "accuracy_dots", "histograms", "label_bars", "loss_curves")
        for name in (*drawings, "stage_bars"):
            monkeypatch.setattr(figures, name, lambda *_: "<svg></svg>")


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full(tmp_path_factory.mktemp("complete")).report()


class Page(HTMLParser):
    """What a browser would see in a page: its tags, its links and its text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += " " if tag in ("td", "th", "tr", "p", "li", "small") else ""
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has a handler {name}"
            if name in ("src", "href", "xlink:href", "data", "action", "poster"):
                self.links.append((name, value or ""))
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def text_of(folder: Path) -> str:
    """The page's words, with plain spaces."""
    return " ".join(Page(folder / "index.html").text.split())


def sheet(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / name).read_text(encoding="utf-8"))))


MATCHED = (3479, 3123, 3213)
"""Gold labels of MNLI's matched validation set."""


def constant(gold: Sequence[int] = MATCHED) -> dict[str, Any]:
    """The score of a model that always gives the first label."""
    count = sum(gold)
    low, high = wilson(gold[0] / count, count)
    return {"count": count, "accuracy": gold[0] / count, "low": low, "high": high,
            "majority_rate": 1.0, "confusion": [[n, 0, 0] for n in gold]}  # fmt: skip


def small(root: Path, **levels: tuple[float, float]) -> Storage:
    """One seed, three languages, and only the rows asked for, of (English, others)."""
    names = {"gibberish": "gibberish", "foreign": "foreign words", "during": "1 % during",
             "after": "1 % after"}  # fmt: skip
    victim = levels.pop("victim", (0.97, 0.33))
    storage = Storage(root, miniature({names[key]: VARIANTS[names[key]] for key in levels}))
    for key, level in levels.items():
        storage.done(names[key], 0, flat(*level), flat(*victim), after=key == "after")
    return storage


# --- a complete run -----------------------------------------------------------------------------


def test_it_writes_a_page_a_twin_figures_and_sheets(complete: Path) -> None:
    names = {file.name for file in complete.iterdir()}
    figures = {"accuracy-xnli", "accuracy-xnli-all", "labels", "training", "seconds"}
    assert {"index.html", "report.md"} | {f"{name}.svg" for name in figures} <= names
    sheets = {"scores", "confusions", "accuracy-xnli", "labels", "training", "seconds"}
    assert {f"{name}.csv" for name in sheets} <= names


def test_it_returns_the_path_of_the_page(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.7))
    assert storage.report() == tmp_path / "runs" / "made-up" / PRINT
    assert (tmp_path / "runs" / "made-up" / PRINT / "index.html").is_file()


def test_it_writes_through_any_filesystem(tmp_path: Path) -> None:
    """One that is not local, to which files are moved from here."""
    record = small(tmp_path, gibberish=(0.8, 0.7)).record()
    store = artifacts.Storage.at("mock:///made")
    for file in [file for file in tmp_path.rglob("*") if file.is_file()]:
        path = f"{store.root}/{file.relative_to(tmp_path)}"
        store.fs.create_dir(path.rpartition("/")[0])
        with store.fs.open_output_stream(path) as stream:
            stream.write(file.read_bytes())
    assert record.is_file()
    page = write(store, find(store, "made-up"))
    assert page == f"{store.root}/runs/made-up/{PRINT}/index.html"
    assert b"80.0" in (store.read_bytes(f"runs/made-up/{PRINT}/index.html") or b"")


def test_the_page_needs_no_network_and_runs_nothing(complete: Path) -> None:
    page = Page(complete / "index.html")
    assert not {"script", "link", "iframe", "object", "embed", "img"} & set(page.tags)
    assert page.tags.count("svg") == 6
    for _, target in page.links:
        assert not re.match(r"[a-z+]*:|//", target), target
    for target in [target for name, target in page.links if name == "href"]:
        assert target.startswith("#") or (complete / target).exists()
    style = re.findall(r"url\(([^)]*)\)|@import", (complete / "index.html").read_text())
    assert all(target.startswith("#") for target in style)


def test_ids_of_figures_do_not_clash(complete: Path) -> None:
    page = Page(complete / "index.html")
    assert len(page.ids) == len(set(page.ids))
    local = [target[1:] for _, target in page.links if target.startswith("#")]
    assert set(local) <= set(page.ids)


def test_links_of_the_twin_exist(complete: Path) -> None:
    targets = re.findall(r"\]\(([^)]*)\)", (complete / "report.md").read_text())
    assert len(targets) > 5
    assert all((complete / target).exists() for target in targets)


def test_tables_of_the_twin_are_tables(complete: Path) -> None:
    check_tables((complete / "report.md").read_text())


def check_tables(markdown: str) -> None:
    """Every table has a rule, and as many cells in each line as in its head."""
    lines = markdown.splitlines()
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"\|( :?--:? \|)+", line)]
    assert rules
    for rule in rules:
        width = lines[rule].count("|") - 1
        assert lines[rule - 2] == ""
        for line in [lines[rule - 1], *lines[rule + 1 :]]:
            if not line:
                break
            assert line.startswith("| ") and line.endswith("|")
            assert len(re.findall(r"(?<!\\)\|", line)) - 1 == width, line


def check_hostile(folder: Path) -> None:
    """A report that holds ``HOSTILE`` shows it, and neither runs it nor takes it for markup."""
    page = Page(folder / "index.html")
    assert "script" not in page.tags
    assert "<script>alert('x')</script>" in page.text
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    outside = re.sub(r"(?ms)^(`{3,})$.*?^\1$", "", markdown)
    assert "<script" not in outside and not re.search(r"^# h", outside, re.MULTILINE)
    check_tables(outside)
    for figure in folder.glob("*.svg"):
        assert "<script" not in figure.read_text()


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, drawn: None) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.7))
    first = {file.name: file.read_bytes() for file in storage.report().iterdir()}
    assert {file.name: file.read_bytes() for file in storage.report().iterdir()} == first


def test_sheets_hold_the_numbers_of_the_manifests(complete: Path) -> None:
    root = complete.parents[2]
    record = json.loads((complete / "run.json").read_text())
    scores = {
        (line["row"], line["seed"], line["set"], line["language"]): line
        for line in sheet(complete, "scores.csv")
    }
    assert len(scores) == (24 + 3) * 16
    times = {
        (line["row"], line["seed"], line["stage"]): line for line in sheet(complete, "seconds.csv")
    }
    for row in record["rows"]:
        for stage, entry in row["stages"].items():
            manifest = json.loads((root / entry["path"] / "manifest.json").read_text())
            line = times[row["variant"], str(row["seed"]), stage]
            assert float(line["seconds"]) == manifest["seconds"]
            assert line["reused"] == str(entry["reused"]).lower()
        path = row["stages"]["evaluation"]["path"]
        manifest = json.loads((root / path / "manifest.json").read_text())
        for name, languages in manifest["results"]["sets"].items():
            for code, score_ in languages.items():
                line = scores[row["variant"], str(row["seed"]), name, code]
                for key in ("count", "accuracy", "low", "high", "majority_rate", "agreement"):
                    assert float(line[key]) == score_[key]


def test_sheets_of_labels_and_training_hold_the_manifests_numbers(complete: Path) -> None:
    first = sheet(complete, "labels.csv")[0]
    assert [int(first[label]) for label in LABELS] == [1400, 4000, 14600]
    curve = [line for line in sheet(complete, "training.csv") if line["stage"] == "victim"]
    expected = training(1.1, 0.05, 0)["history"]
    assert [float(line["loss"]) for line in curve[: len(expected)]] == [p["loss"] for p in expected]


def test_several_seeds_give_mean_and_spread(complete: Path) -> None:
    values = [
        float(line["accuracy"])
        for line in sheet(complete, "scores.csv")
        if (line["row"], line["set"], line["language"]) == ("10 % after", "xnli", "de")
    ]
    assert len(values) == 3
    mean, sd = 100 * statistics.fmean(values), 100 * statistics.stdev(values)
    table = (complete / "report.md").read_text()
    line = next(line for line in table.splitlines() if line.startswith("| 10 % after |"))
    assert line.split(" | ")[4] == f"{mean:.1f} ± {sd:.1f}"
    drawn = {
        (line["row"], line["language"]): line for line in sheet(complete, "accuracy-xnli.csv")
    }["10 % after", "de"]
    assert float(drawn["mean"]) == pytest.approx(mean / 100)
    assert float(drawn["low"]) == min(values) and float(drawn["high"]) == max(values)
    assert "standard deviation over 3 seeds" in text_of(complete)


def test_a_victim_that_rows_share_counts_once_a_seed(complete: Path) -> None:
    lines = [line for line in sheet(complete, "scores.csv") if line["row"].startswith("victim")]
    assert len(lines) == 3 * 16


def test_what_shows_is_said_to_show(complete: Path) -> None:
    text = text_of(complete)
    assert "does not show" not in text
    assert "The victim is at chance in the other languages: 33.0 ± 0.0 %" in text
    assert "Words of a foreign domain (“foreign words”) leave no more than chance" in text
    assert "Real data after extraction beats mixing it in" in text
    # Three points between runs of 600 items are within the noise, and said to be.
    assert "1 is too small to tell from noise" in text


def test_words_that_tell_vocabularies_apart_are_listed(complete: Path) -> None:
    text = text_of(complete)
    assert "television, family, government, military, season, station" in text
    assert "influenza, infection, respiratory, patients, viral, cell" in text


def test_it_tells_how_to_run_it_again(complete: Path) -> None:
    text = text_of(complete)
    assert "raythief demo" in text and "3.11.7" in text and "home-0" in text


# --- effects that do not show -------------------------------------------------------------------


def test_everything_holds_is_said_and_one_seed_is_no_trend(tmp_path: Path) -> None:
    text = text_of(
        small(
            tmp_path, gibberish=(0.84, 0.67), foreign=(0.33, 0.32), during=(0.9, 0.76),
            after=(0.95, 0.86),
        ).report()
    )  # fmt: skip
    assert "Every effect that this run can speak to shows." in text
    assert "one seed is no evidence of a trend" in text
    assert "84.0 ± 2.9 % of the items in English" in text
    assert "67.0 ± 3.8 % on average in 2 other languages" in text


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ({"gibberish": (0.8, 0.35)}, "The extractor is not above chance in the other languages"),
        ({"gibberish": (0.34, 0.6)}, "The extractor is not above chance in English"),
        (
            {"gibberish": (0.8, 0.6), "victim": (0.9, 0.6)},
            "The victim is not at chance in the other languages",
        ),
        (
            {"gibberish": (0.8, 0.5), "victim": (0.9, 0.6)},
            "The extractor is no better than its victim in the other languages: −10.0 ±",
        ),
        ({"gibberish": (0.8, 0.6), "victim": (0.33, 0.33)}, "There is nothing to extract."),
        (
            {"gibberish": (0.8, 0.6), "foreign": (0.6, 0.5)},
            "do not bring extraction down to chance",
        ),
        (
            {"gibberish": (0.8, 0.5), "during": (0.9, 0.8), "after": (0.9, 0.7)},
            "Real data after extraction does not beat mixing it in",
        ),
        ({"gibberish": (0.8, 0.7), "after": (0.8, 0.6)}, "does not help everywhere it was tried"),
    ],
)
def test_an_effect_that_does_not_show_is_said(tmp_path: Path, levels: dict, said: str) -> None:
    text = text_of(small(tmp_path, **levels).report())
    assert said in text
    assert "does not show" in text and "Every effect" not in text


def test_a_seed_that_fails_the_claim_is_counted(tmp_path: Path) -> None:
    storage = Storage(tmp_path, miniature({"gibberish": {}}, seeds=[0, 1]))
    storage.done("gibberish", 0, flat(0.8, 0.7), flat(0.9, 0.33))
    storage.done("gibberish", 1, flat(0.8, 0.33), flat(0.9, 0.33))
    text = text_of(storage.report())
    assert "The extractor is not above chance in the other languages" in text
    assert "in 1 of 2 seeds" in text


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ((0.649, 0.649, 0.561), "too small to tell"),
        ((0.649, 0.649, 0.641), "shows"),
    ],
)
def test_a_difference_is_judged_by_its_spread_over_seeds_too(
    tmp_path: Path, after: tuple[float, ...], words: str
) -> None:
    """30,000 items tell half a point; seeds that differ by 9 points tell nothing."""
    names = ("gibberish", "1 % after")
    storage = Storage(tmp_path, miniature({name: VARIANTS[name] for name in names}))
    for seed, level in enumerate(after):
        for name, others in zip(names, (0.6, level), strict=True):
            storage.done(name, seed, flat(0.9, others), flat(0.97, 0.33), count=30000)
    text = text_of(storage.report())
    differences = [level - 0.6 for level in after]
    half = max(0.78, 100 * 4.3027 * statistics.stdev(differences) / math.sqrt(3))
    mean = 100 * statistics.fmean(differences)
    claim = "Some real English data helps (mean of the other languages)"
    doubt = ", but by no more than the noise" if words != "shows" else ""
    said = f"{claim}{doubt}: “1 % after” +{mean:.1f} ± {half:.1f} points over 3 seeds (6"
    assert f"{words} {said}" in text
    assert "the wider of that over seeds (Student's t) and that over test items" in text


def test_a_difference_of_one_seed_is_said_to_be_of_one(tmp_path: Path) -> None:
    text = text_of(small(tmp_path, gibberish=(0.8, 0.6), after=(0.9, 0.8)).report())
    assert "“1 % after” +20.0 ± 5.0 points in one seed (80.0 against 60.0 %)" in text


def test_a_victim_that_seeds_share_is_compared_with_each_of_them(tmp_path: Path) -> None:
    """It stands once in the tables, but is no reason to pass over all seeds but one."""
    storage = Storage(tmp_path, miniature({"gibberish": {}}))
    rows = [
        storage.done("gibberish", seed, flat(0.9, others), flat(0.97, 0.33), count=30000)
        for seed, others in enumerate((0.40, 0.60, 0.38))
    ]
    for row in rows[1:]:
        row["stages"]["victim_evaluation"] = rows[0]["stages"]["victim_evaluation"]
    folder = storage.report()
    half = 100 * 4.3027 * statistics.stdev([0.40, 0.60, 0.38]) / math.sqrt(3)
    text = text_of(folder)
    assert f"but by no more than the noise: +13.0 ± {half:.1f} points over 3 seeds" in text
    victims = [line for line in sheet(folder, "scores.csv") if line["row"].startswith("victim")]
    assert len(victims) == 3  # languages


def test_what_holds_in_some_seeds_alone_is_neither_shown_nor_refuted(tmp_path: Path) -> None:
    names = ("gibberish", "foreign words")
    storage = Storage(tmp_path, miniature({name: VARIANTS[name] for name in names}))
    for seed, (abroad, foreign) in enumerate([(0.33, 0.45), (0.45, 0.33), (0.33, 0.33)]):
        for name, level in zip(names, (flat(0.8, 0.7), flat(foreign, 0.33)), strict=True):
            storage.done(name, seed, level, flat(0.9, abroad))
    text = text_of(storage.report())
    assert "too small to tell The victim is not at chance in the other languages" in text
    assert "above chance in 1 of 3 seeds" in text
    assert "Words of a foreign domain (“foreign words”) leave more than chance in 1 of 3" in text


def test_where_nothing_was_extracted_foreign_words_took_nothing_away(tmp_path: Path) -> None:
    text = text_of(small(tmp_path, gibberish=(0.34, 0.33), foreign=(0.33, 0.33)).report())
    assert "Words of a foreign domain" not in text


def test_one_finished_seed_of_several_is_one_seed(tmp_path: Path) -> None:
    storage = Storage(tmp_path, miniature({"gibberish": {}}, seeds=[0, 1]))
    storage.done("gibberish", 0, flat(0.8, 0.7), flat(0.9, 0.33))
    storage.row("gibberish", 1, status="failed", error="It broke.")
    text = text_of(storage.report())
    assert "one seed is no evidence of a trend" in text
    assert "1 of 2 rows did not finish" in text


def test_a_single_language_is_no_trouble(tmp_path: Path) -> None:
    storage = Storage(tmp_path, miniature({"gibberish": {}}))
    storage.done("gibberish", 0, {"mnli": {"en": 0.8}}, {"mnli": {"en": 0.9}})
    text = text_of(storage.report())
    assert "80.0 ± 3.2 % of the items in English." in text
    assert "The extractor is above chance in English" in text
    assert "in the other languages" not in text


# --- chance -------------------------------------------------------------------------------------


def test_one_answer_to_everything_is_chance_however_frequent_its_label_is(tmp_path: Path) -> None:
    """35.4 ± 0.9 % is above one in three, but not above what needs no example."""
    storage = small(tmp_path, gibberish=(0.8, 0.7), foreign=(0.33, 0.33))
    storage.change(storage.rows[1], "evaluation", sets={"xnli": {"en": constant()}})
    folder = storage.report()
    text = text_of(folder)
    assert "Words of a foreign domain (“foreign words”) leave no more than chance: 35.4" in text
    assert "do not bring extraction down to chance" not in text
    assert "is right on 35.4 ± 0.9 %, no more than a guess" in text
    assert "Only words of another domain" in text
    table = (folder / "report.md").read_text()
    assert "| foreign words | 35.4† ± 0.9 |" in table
    assert "| chance | 35.4 | 33.3 | 33.3 | 33.3 |" in table


def test_an_extractor_that_knows_one_answer_is_not_above_chance(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.7))
    sets = {"xnli": {"en": constant(), "de": constant((200, 200, 200))}}
    storage.change(storage.rows[0], "evaluation", sets=sets)
    text = text_of(storage.report())
    assert "The extractor is not above chance in English: 35.4 ± 0.9 %" in text
    assert "The extractor is above chance" not in text


def test_chance_is_that_of_each_language_in_table_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Mapping[str, float]] = []
    monkeypatch.setattr(figures, "accuracy_bars", lambda _, levels: drawn.append(levels) or "<svg>")
    storage = small(tmp_path, gibberish=(0.8, 0.7))
    golds = {"en": (500, 250, 250), "de": (450, 300, 250), "zh": (250, 350, 400)}
    sets = {"xnli": {code: constant(gold) for code, gold in golds.items()}}
    for stage in ("evaluation", "victim_evaluation"):
        storage.change(storage.rows[0], stage, sets=sets)
    table = (storage.report() / "report.md").read_text()
    assert "| chance | 50.0 | 45.0 | 40.0 | 42.5 |" in table
    assert "| gibberish | 50.0† ± 3.1 | 45.0† ± 3.1 | 25.0† ± 2.7 |" in table
    assert "a guess would be right on 50.0 % in English and 42.5 % in the others" in table
    assert drawn == [{"en": 0.5, "de": 0.45, "zh": 0.4}]


def test_the_paper_s_random_chance_is_that_of_our_items(tmp_path: Path) -> None:
    variants: dict[str, dict[str, Any]] = {"WikiText-103": {}, "CORD-19": {}}
    storage = Storage(tmp_path, {"paper": "vocabulary", "variants": variants})
    for variant in variants:
        row = storage.done(variant, 0, {"mnli": {"en": 0.8}}, {"mnli": {"en": 0.9}})
        storage.change(row, "evaluation", sets={"mnli": {"en": constant()}})
    text = text_of(storage.report())
    assert "CORD-19 ours 35.4 paper 35.4 difference 0.0 ± 1.3" in text
    assert "For “CORD-19” the paper says “random chance” and no number" in text


# --- the paper beside it ------------------------------------------------------------------------


def paper_run(root: Path, count: int, **changes: Any) -> str:
    variants = {"XLMR-Large, 0 %": {}, "XLMR-Large, 5% after": {"real.fraction": 0.05}}
    storage = Storage(root, {"paper": "table2", "variants": variants, **changes})
    for variant in variants:
        scores = dict.fromkeys(LANGUAGES, 0.75)
        storage.done(variant, 0, {"xnli": scores}, {"xnli": scores}, count=count)
    return text_of(storage.report())


def test_the_papers_numbers_and_the_difference_stand_beside(tmp_path: Path) -> None:
    text = paper_run(tmp_path, 5010)
    assert "Ours beside the paper's Table 2" in text
    assert "XLMR-Large, 0 % ours 75.0 75.0" in text
    assert "paper 77.0 67.5 71.4" in text and "67.6 67.4 difference −2.0 " in text
    ours = round(0.75 * 1670) / 1670
    half = math.hypot(*((high - low) / 2 for low, high in (wilson(ours, 5010), wilson(0.77, 5010))))
    assert f"difference −2.0 ± {100 * half:.1f} +7.5" in text
    assert "paper 86.2 75.2" in text
    assert "not the paper's experiment" not in text


@pytest.mark.parametrize(
    ("count", "changes"),
    [(600, {}), (5010, {"extractor": {"model": "FacebookAI/xlm-roberta-base"}})],
)
def test_no_difference_is_drawn_to_another_task(tmp_path: Path, count: int, changes: dict) -> None:
    text = paper_run(tmp_path, count, **changes)
    assert "not the paper's experiment" in text
    assert "paper 77.0 67.5" in text and "difference −" not in text


def test_table1_sets_the_victim_beside_too(tmp_path: Path) -> None:
    variants = {
        "RoBERTa-Large → XLMR-Large": {},
        "RoBERTa-Large → XLMR-Base": {"extractor.model": "FacebookAI/xlm-roberta-large"},
    }
    storage = Storage(tmp_path, {"paper": "table1", "variants": variants})
    for variant in variants:
        storage.done(variant, 0, {"mnli": {"en": 0.8}}, {"mnli": {"en": 0.9}}, count=9815)
    text = text_of(storage.report())
    assert "victim (monolingual) ours 90.0 paper 90.6 difference −0.6 ± 0.8" in text
    assert "RoBERTa-Large → XLMR-Large ours 80.0 paper 78.6 difference +1.4 ± 1.1" in text
    assert "paper 69.0 difference" not in text and "paper 69.0" in text
    assert "Where no difference is drawn" in text


def test_names_that_match_no_row_are_told_the_rows(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.7))
    storage.spec["paper"] = "table1"
    assert "Its rows are “RoBERTa-Large”, “BERT-Large -> BERT-Large”" in text_of(storage.report())


def test_the_miniature_says_that_it_is_one(complete: Path) -> None:
    assert "its numbers cannot be set against the paper's" in text_of(complete)


# --- what is missing or damaged -----------------------------------------------------------------


def deviations_of(run: Any) -> dict[str, str]:
    """The deviations that a report names, with their rows."""
    section = deviations.deviations(run)
    assert section is not None
    [block] = section.blocks
    return {} if block.kind == "text" else {row[0].text: row[1].text for row in block.rows}


def run_of(spec: Mapping[str, Any]) -> Any:
    whole = validate({"name": "made-up", **spec}, "spec")
    return SimpleNamespace(variants={one.name: one.spec for one in expand(whole)})


@pytest.mark.parametrize("name", ["table1", "table2", "vocabulary", "figure2"])
def test_the_papers_specs_depart_from_it_in_nothing(name: str) -> None:
    spec = load(Path(__file__).parents[2] / "jobs" / f"{name}.yaml")
    assert deviations_of(SimpleNamespace(variants={v.name: v.spec for v in expand(spec)})) == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocabulary.min_count": 1}, "The vocabulary holds words seen 1 time or more; "),
        ({"vocabulary.sampling": "unigram"}, "Words are drawn by how often they occur"),
        ({"vocabulary.top_k": 3000}, "Only the 3,000 commonest words are drawn"),
        ({"vocabulary.max_words": 12}, "Sentences have 12 words at most, not 59"),
        ({"corpus": {"source": "hub", "cleaning": "wikitext"}}, "Words are joined at WikiText's"),
        ({"corpus": {"source": "hub", "cleaning": "plain"}}, "Words are split by our own rules"),
        (
            {"corpus": {"source": "hub", "split": "test"}},
            "Words are of Salesforce/wikitext (wikitext-103-raw-v1, test), not",
        ),
        ({"corpus": {"source": "files", "path": "a.txt"}}, "Words are of the files a.txt, not"),
        ({"queries.count": 1000}, "There are 1,000 queries, not 392,702"),
        ({"queries.replaced_words": 1}, "To make the premise, 1 word of the hypothesis"),
        ({"queries.positions": "with_replacement"}, "Positions of replaced words are drawn"),
        ({"extractor.queries": 500}, "The extractor learns from 500 of the 392,702 queries"),
        ({"extractor.model": "a/b"}, "The extractor is a/b, none of the paper's models"),
        ({"victim.model": "a/b"}, "The victim is a/b, not RoBERTa-Large"),
        ({"victim.api": {"url": "http://127.0.0.1/p"}}, "The victim is an API"),
        ({"real.fraction": 0.2}, "The share of real data is 20 %"),
        ({"real": {"fraction": 0.1, "placement": "only"}}, "A control that the paper has not"),
        (
            {"real": {"fraction": 1, "train": {"source": "files", "path": "a.parquet"}}},
            "Real data are from files of the user's",
        ),
        (
            {
                "evaluation.sets.mnli": {
                    "source": "hub", "dataset": "facebook/xnli", "split": "validation"
                }
            },
            "The set mnli is not what the paper measures on",
        ),
        (
            {"extractor.training.class_weights": "inverse_sqrt"},
            "Training of the extractor weights classes",
        ),
        (
            {"victim.scores": True, "extractor.training.soft_labels": {}},
            "Training of the extractor uses the victim's probabilities",
        ),
    ],
    ids=lambda given: "" if isinstance(given, str) else next(iter(given)),
)  # fmt: skip
def test_each_deviation_from_the_paper_is_named_with_its_rows(changes: dict, said: str) -> None:
    found = deviations_of(run_of({"variants": {"ours": changes, "the paper's": {}}}))
    [(sentence, rows)] = found.items()
    assert sentence.startswith(said)
    assert rows == "ours"


def test_deviations_stand_in_the_report(complete: Path) -> None:
    text = (complete / "report.md").read_text(encoding="utf-8")
    part = text[text.index("## Where this run departs from the paper") :].partition("\n## ")[0]
    assert "| Text, labelled data and models are those of a small world of our own. | all |" in part


def test_failed_running_collapsed_and_absent_rows_are_listed(tmp_path: Path) -> None:
    storage = Storage(tmp_path, miniature(VARIANTS))
    row = storage.done("gibberish", 0, flat(0.8, 0.7), flat(0.9, 0.33))
    path = storage.root / row["stages"]["extractor"]["path"] / "manifest.json"
    content = json.loads(path.read_text())
    content["results"] |= {
        "collapse": ["the gradients are zero"],
        "ended": "collapse",
        "final_loss": None,
        "history": [],
    }
    path.write_text(json.dumps(content))
    storage.row("1 % after", status="failed", error="The cluster went away.")
    storage.row("1 % during", status="running")
    text = text_of(storage.report())
    assert "The cluster went away." in text
    assert "had not finished when this report was written" in text
    assert "the gradients are zero" in text
    assert "stopped: collapsed" in text
    assert "Not run: foreign words, 10 % during" in text


def test_what_a_reader_must_know_of_a_training_is_told(tmp_path: Path) -> None:
    storage = Storage(tmp_path, miniature({"gibberish": {}}))
    row = storage.done("gibberish", 0, flat(0.8, 0.7), flat(0.9, 0.33))
    storage.change(row, "extractor", notes=["its head was replaced"])
    text = text_of(storage.report())
    assert "Note of extractor of gibberish: its head was replaced." in text


def test_the_loss_of_a_guess_is_drawn_where_a_training_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels: dict[str, float | None] = {}
    monkeypatch.setattr(
        figures, "loss_curves", lambda drawn: panels.update({p[0]: p[2] for p in drawn}) or "<svg>"
    )
    storage = Storage(tmp_path, miniature({"gibberish": {}}))
    for seed, guess in enumerate((0.72, 0.74)):
        row = storage.done("gibberish", seed, flat(0.8, 0.7), flat(0.9, 0.33))
        storage.change(row, "extractor", loss_of_a_guess=guess)
    storage.report()
    assert panels == {"victim: gibberish": None, "extractor: gibberish": pytest.approx(0.73)}


def test_what_weights_were_selected_on_and_how_fast_they_came_is_told(tmp_path: Path) -> None:
    storage = Storage(tmp_path, miniature(VARIANTS))
    row = storage.done("gibberish", 0, flat(0.8, 0.7), flat(0.9, 0.33))
    assert "The last weights were kept; nothing was selected." in text_of(storage.report())
    path = storage.root / row["stages"]["extractor"]["path"] / "manifest.json"
    content = json.loads(path.read_text())
    metric = "agreement with the victim on 72 held-out queries"
    content["results"] |= {
        "selection": {"metric": metric, "step": 1500, "score": 0.873, "looks": []},
        "speed": {"tokens_per_second": 12345.6, "utilisation": 0.412},
    }
    path.write_text(json.dumps(content))
    text = text_of(storage.report())
    assert f"Weights were selected on {metric} (extractor)." in text
    assert "1 other training kept the last weights" in text
    assert "step 1,500: 87.3 %" in text
    assert "12,346" in text
    assert "41.2" in text


@pytest.mark.parametrize(
    ("length", "told"),
    [
        ({"steps": None, "epochs": 2}, "through its queries 2 times, so that few queries are few"),
        ({"steps": 1500}, "Every row takes 1,500 steps"),
    ],
)
def test_what_so_many_queries_carry_off_is_drawn_and_priced(
    length: dict[str, Any], told: str, tmp_path: Path
) -> None:
    variants = {f"{count} queries": {"extractor.queries": count} for count in (1000, 5000)}
    variants["all"] = {}
    priced = {"costs": {"query_usd": 0.001}, "queries": {"count": 20000}}
    extractor = {"model": "miniature:multilingual", "training": length}
    storage = Storage(tmp_path, miniature(variants, **priced, extractor=extractor))
    for i, name in enumerate(variants):
        storage.done(name, 0, flat(0.5 + 0.1 * i, 0.4 + 0.1 * i), flat(0.9, 0.33))
    folder = storage.report()
    text = text_of(folder)
    assert "What so many queries carry off" in text
    assert told in text
    assert "$5.00" in text
    assert (folder / "fidelity.svg").exists()
    rows = [one for one in sheet(folder, "fidelity.csv") if one["measure"] == "English"]
    assert [(int(one["queries"]), float(one["usd"])) for one in rows] == [
        (1000, 1.0),
        (5000, 5.0),
        (20000, 20.0),
    ]
    assert [float(one["mean"]) for one in rows] == pytest.approx([0.5, 0.6, 0.7])
    alike = [one for one in sheet(folder, "fidelity.csv") if one["measure"].startswith("agree")]
    assert {(float(one["low"]), float(one["high"])) for one in alike} == {wilson(0.8, 600)}


def test_rows_of_one_number_of_queries_draw_no_curve(complete: Path) -> None:
    assert "What so many queries carry off" not in text_of(complete)


def test_rows_are_compared_item_by_item_where_manifests_tell_the_items(tmp_path: Path) -> None:
    """A difference that two independent rows would not show, on items that they share."""
    storage = Storage(tmp_path, miniature(VARIANTS))
    bits = {"gibberish": [1] * 80 + [0] * 20, "10 % after": [1] * 88 + [0] * 12}
    for name, right in bits.items():
        share = sum(right) / 100
        row = storage.done(name, 0, flat(share, share), flat(0.9, 0.33), count=100)
        path = storage.root / row["stages"]["evaluation"]["path"] / "manifest.json"
        content = json.loads(path.read_text())
        for score in content["results"]["sets"]["xnli"].values():
            score["right"] = pack_bits(np.array(right, bool))
        path.write_text(json.dumps(content))
    folder = storage.report()
    text = text_of(folder)
    assert "Some real English data helps" in text
    assert "no more than the noise" not in text
    half = 196 * math.sqrt(0.08 * 0.92 / 99)
    [english] = [one for one in sheet(folder, "differences.csv")
                 if one["row"] == "10 % after" and one["languages"] == "English"]  # fmt: skip
    assert float(english["mean"]) == pytest.approx(0.08)
    assert float(english["low"]) == pytest.approx(0.08 - half / 100, abs=1e-4)
    assert f"+{8 - half:.1f} to +{8 + half:.1f}" in text


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "it is missing"),
        ("{", "it is not JSON"),
        ("[]", "it is damaged"),
        ('{"fingerprint": "x", "results": {"sets": {"xnli": {"en": {"count": 5, '
         '"accuracy": 1.5}}}}}', "its results are damaged: sets.xnli.en.accuracy"),
        ('{"fingerprint": "x", "results": {"sets": {"xnli": {"en": {"count": 5, '
         '"accuracy": 0.5, "confusion": [[1, 2], [3]]}}}}}', "is not 3 by 3"),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str | None, fault: str) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.7), after=(0.9, 0.8))
    path = storage.rows[1]["stages"]["evaluation"]["path"]
    file = tmp_path / path / "manifest.json"
    file.write_text(content) if content is not None else file.unlink()
    text = text_of(storage.report())
    assert f"{path}/manifest.json (evaluation of 1 % after, seed 0)" in text and fault in text
    assert "80.0" in text


def test_no_row_at_all_and_no_manifest_at_all_still_render(tmp_path: Path) -> None:
    storage = Storage(tmp_path, miniature({"gibberish": {}}))
    assert "No row of this run has been evaluated yet" in text_of(storage.report())
    storage.row("gibberish", stages={"evaluation": {"path": "evaluation/gone", "reused": False}})
    assert "it is missing" in text_of(storage.report())


def test_only_the_victim_is_there(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.7))
    del storage.rows[0]["stages"]["evaluation"]
    storage.rows[0]["status"] = "failed"
    text = text_of(storage.report())
    assert "The victim is right on 97.0" in text
    assert "the central question has no answer here" in text


def test_a_spec_of_another_version_is_no_obstacle(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.7))
    storage.spec["from_the_future"] = 1
    text = text_of(storage.report())
    assert "from_the_future is no field" in text and "80.0" in text


@pytest.mark.parametrize("content", [None, "{", '{"rows": 3}', '{"name": "made-up", "rows": [1]}'])
def test_a_run_without_a_sound_record_is_refused(tmp_path: Path, content: str | None) -> None:
    file = Storage(tmp_path, {}).record()
    file.write_text(content) if content is not None else file.unlink()
    with pytest.raises(UserError, match=r"run\.json: .*run") as caught:
        written(tmp_path, "made-up")
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run's name"):
        written(tmp_path, "../elsewhere")


# --- the figure ---------------------------------------------------------------------------------


def distances(**changes: Any) -> dict[str, Any]:
    return {
        "train": 12000,
        "distance": "inner_product",
        "edges": [-400.0, -350.5, -300.0],
        "real": {"count": 1000, "mean": -370.123, "sd": 12.5, "counts": [900, 100]},
        "gibberish": {"count": 1000, "mean": -330.0, "sd": 20.25, "counts": [300, 700]},
        "overlap": 0.4,
        "overlap_of_equals": 0.981,
        "ks": 0.6123,
        "p": 1e-30,
        **changes,
    }


def figure_only(root: Path, *results: dict[str, Any]) -> Storage:
    """A run that ends with the figure."""
    variants: dict[str, dict[str, Any]] = {"gibberish": {}, "foreign words": {}}
    storage = Storage(root, miniature(dict(list(variants.items())[: len(results)])))
    storage.spec |= {"until": "figure2", "figure2": {"model": "some/encoder", "real": "xnli"}}
    for name, result in zip(variants, results, strict=False):
        path = f"figure2/{name.partition(' ')[0]}"
        storage.manifest(path, result)
        storage.row(name, stages={"figure2": {"path": path, "reused": False}})
    return storage


def test_a_run_of_the_figure_alone_says_how_far_gibberish_is(tmp_path: Path) -> None:
    folder = figure_only(tmp_path, distances()).report()
    text = text_of(folder)
    assert (
        "In miniature: the histograms of the distance of gibberish and of real pairs to the "
        "nearest real training pair overlap by 40.0 %, where equal ones would by 98.1 % "
        "(Kolmogorov-Smirnov 0.612, p < 0.001)."
    ) in text
    assert "1,000 −370.1 12.5 1,000 −330 20.25 12,000 40.0 98.1 0.612 < 0.001" in text
    assert "some/encoder" in text and "miniature:multilingual" not in text.partition("The spec")[0]
    for absent in ("has been evaluated yet", "names no evaluation", "paper's claims"):
        assert absent not in text
    assert sheet(folder, "distances.csv") == [
        {"queries_of": "gibberish", "low": "-400.0", "high": "-350.5", "real": "900",
         "gibberish": "300"},
        {"queries_of": "gibberish", "low": "-350.5", "high": "-300.0", "real": "100",
         "gibberish": "700"},
    ]  # fmt: skip
    check_tables((folder / "report.md").read_text(encoding="utf-8"))


def test_figures_of_several_rows_are_told_apart(tmp_path: Path, drawn: None) -> None:
    both = distances(), distances(overlap=0.1, p=0.0312, distance="cosine")
    folder = figure_only(tmp_path, *both).report()
    text = text_of(folder)
    assert "by 40.0 % for gibberish" in text and "by 10.0 % for foreign words" in text
    assert "p 0.031" in text
    drawing = (folder / "distances.svg").read_text(encoding="utf-8")
    for word in ("gibberish", "foreign words", "real", "share of the pairs"):
        assert word in drawing


def test_the_figure_stands_beside_the_tables(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.7))
    storage.manifest("figure2/f", distances())
    storage.rows[0]["stages"]["figure2"] = {"path": "figure2/f", "reused": False}
    text = text_of(storage.report())
    assert "80.0" in text and "overlap by 40.0 %" in text


def test_a_damaged_figure_is_named(tmp_path: Path) -> None:
    text = text_of(figure_only(tmp_path, distances(edges=[0.0, 1.0])).report())
    assert "figure2/gibberish/manifest.json (figure2 of gibberish, seed 0): its results are" in text
    assert "do not fit the edges" in text


# --- hostile text -------------------------------------------------------------------------------


def test_hostile_text_stays_text(tmp_path: Path, drawn: None) -> None:
    storage = Storage(
        tmp_path,
        miniature({HOSTILE: {}, "_hidden": {"extractor.model": "</style><script>"}}),
    )
    for variant in (HOSTILE, "_hidden"):
        row = storage.done(
            variant, 0, {"xnli": flat(0.8, 0.7)["xnli"], HOSTILE: {"en": 0.5, HOSTILE: 0.4}},
            flat(0.9, 0.33),
        )  # fmt: skip
    manifest = tmp_path / row["stages"]["vocabulary"]["path"] / "manifest.json"
    content = json.loads(manifest.read_text())
    content["results"]["most_common"] = [HOSTILE, "</td><script>"]
    content["versions"] = {HOSTILE: HOSTILE}
    manifest.write_text(json.dumps(content))
    storage.row("failing", status="failed", error=HOSTILE)
    folder = storage.report(title=HOSTILE, command=f"``` {HOSTILE}")
    check_hostile(folder)


# --- queries that were held back ----------------------------------------------------------------

BOUGHT: dict[str, Any] = {"source": "queries", "count": 100}


def held_back(root: Path, *others: str) -> Storage:
    """A thief scored on the queries that it held back, and on the other sets, English alone."""
    sets = {name: {"source": "miniature", "split": "test"} for name in others}
    variants = {name: VARIANTS[name] for name in ("gibberish", *(["real only"] if others else []))}
    spec = miniature(variants, evaluation={"sets": {"bought": BOUGHT, **sets}})
    storage = Storage(root, spec)
    gold = {name: {"en": 0.8} for name in others}
    victim = {name: {"en": 0.97} for name in others}
    storage.done("gibberish", 0, {"bought": {"en": 0.62}, **gold}, victim)
    if others:
        storage.done("real only", 0, gold, victim, queries=False)
    else:
        del storage.rows[0]["stages"]["victim_evaluation"]
    return storage


def test_agreement_on_held_back_queries_is_never_called_accuracy(tmp_path: Path) -> None:
    text = text_of(held_back(tmp_path, "xnli").report())
    assert "Accuracy on xnli" in text
    assert "Accuracy on bought" not in text
    assert "Agreement with the victim on bought, in per cent (600 gibberish queries that" in text
    assert "accuracy on them is agreement with it" in text
    table = text[text.index("Agreement with the victim on bought") :]
    table = table[: table.index("The labels are")]
    assert "62.0" in table
    assert "victim (monolingual)" not in table
    assert "real only" not in table


def test_no_claim_rests_on_held_back_queries(tmp_path: Path) -> None:
    """Though the set comes first in the spec, and has as many languages."""
    text = text_of(held_back(tmp_path, "xnli").report())
    start = text[: text.index("Accuracy on xnli")]
    assert "is right on 80.0" in start
    assert "62.0" not in start


def test_without_real_data_the_headline_is_the_agreement(tmp_path: Path) -> None:
    storage = held_back(tmp_path)
    text = text_of(storage.report())
    sentence = "On held-out gibberish (bought) the victim's answer is given by “gibberish” to 62.0 "
    assert sentence in text
    assert "of the queries, and by a guess to 33.3 %; how well any row does the task" in text
    assert "do not allow any of the paper's claims to be checked" in text
    assert "Recall by class" not in text
    found = headline(*storage.place)
    assert " ".join(found.split()).startswith(f"In miniature: o{sentence[1:].strip()}")


def test_a_sweeps_trials_are_no_variants_but_their_sets_are_known(tmp_path: Path) -> None:
    storage = held_back(tmp_path, "xnli")
    storage.spec["variants"] = {}
    storage.rows[0]["variant"] = "rate 0.1"
    text = text_of(storage.report())
    assert "Agreement with the victim on bought" in text
    assert "Accuracy on bought" not in text


def test_held_back_queries_are_not_set_beside_the_papers_numbers(tmp_path: Path) -> None:
    row = "RoBERTa-Large -> RoBERTa-Base"
    spec = {
        "paper": "table1",
        "victim": {"model": "FacebookAI/roberta-large-mnli"},
        "evaluation": {
            "sets": {
                "mnli": {"source": "queries", "count": 9815},
                "xnli": {"source": "hub", "dataset": "facebook/xnli", "split": "test"},
            }
        },
        "variants": {row: {"extractor.model": "FacebookAI/roberta-base"}},
    }
    storage = Storage(tmp_path, spec)
    scores = {"mnli": {"en": 0.62}, "xnli": {"en": 0.7}}
    storage.done(row, 0, scores, {"xnli": {"en": 0.9}}, count=9815)
    assert "no difference is drawn" in text_of(storage.report())
