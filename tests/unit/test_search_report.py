"""The report of a sweep: configurations by their means, pairs and rules by hand, no trial lost.

``Sweep`` makes up a record with trials of the test's choosing, on the storage of ``test_report``.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import (
    HOSTILE,
    Page,
    Storage,
    check_hostile,
    check_tables,
    constant,
    flat,
    miniature,
    sheet,
    text_of,
)

from raythief.report import figures, headline, sweepfigures
from raythief.report.measures import student, wilson
from raythief.results import pack_bits

RATE, FRACTION, PLACEMENT = (
    "extractor.training.learning_rate",
    "real.fraction",
    "real.placement",
)
PLACED = {
    FRACTION: {"grid": [0.0, 0.01, 0.1]},
    PLACEMENT: {"grid": ["during", "after"], "when": {FRACTION: [0.01, 0.1]}},
}


class Sweep(Storage):
    """A storage folder that holds one made-up sweep."""

    def __init__(self, root: Path, parameters: dict[str, Any], **sweep: Any) -> None:
        super().__init__(root, miniature({}))
        self.sweep = {
            "objective": "xnli",
            "agreement": ["held_out"],
            "parameters": parameters,
            "searcher": "random",
            "scheduler": "asha",
            "repeats": 1,
            "unit": "GPU",
            **sweep,
        }

    def trial(
        self,
        parameters: dict[str, Any],
        objective: float | None = 0.5,
        status: str = "done",
        right: Sequence[int] | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """Add a trial, with the artifacts of an evaluation if it is done."""
        number = len(self.rows)
        variant = f"trial {number}"
        if status == "done" and objective is not None:
            scores = flat(objective, objective)
            row = self.done(variant, 0, scores, flat(0.9, 0.33), count=len(right or [0] * 600))
            if right is not None:
                self._items(row["stages"]["evaluation"]["path"], right)
        else:
            row = self.row(variant, status=status)
        row |= {
            "trial": f"t{number:03d}",
            "parameters": parameters,
            "repeat": 0,
            "status": status,
            "objective": objective,
            "looks": [],
            "steps": 1000,
            "ended": 10.0 * (number + 1),
            "hours": 0.5,
            "scores": {"xnli": objective} if status == "done" else {},
            "collapse": [],
            **changes,
        }
        return row

    def _items(self, path: str, right: Sequence[int]) -> None:
        file = self.root / path / "manifest.json"
        content = json.loads(file.read_text())
        for score in content["results"]["sets"]["xnli"].values():
            score |= {
                "right": pack_bits(np.array(right, bool)),
                "accuracy": sum(right) / len(right),
            }
        file.write_text(json.dumps(content))

    def record(self, **changes: Any) -> Path:
        return super().record(**{"sweep": self.sweep, **changes})

    def made(self, row: dict[str, Any], stage: str, when: str) -> None:
        """Say when an artifact was made."""
        file = self.root / row["stages"][stage]["path"] / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "created": when}))

    def said(self) -> str:
        """The headline alone."""
        self.record()
        return headline(*self.place)


def grid(root: Path, trials: int = 40) -> Sweep:
    """A search as it might be: three fields, two repeats, trials that were stopped and failed."""
    sweep = Sweep(root, {RATE: {"loguniform": [1e-6, 1e-4]}, **PLACED}, repeats=2)
    chance = random.Random(4)
    for number in range(trials // 2):
        parameters: dict[str, Any] = {RATE: 10 ** chance.uniform(-6, -4)}
        parameters[FRACTION] = chance.choice([0.0, 0.01, 0.1])
        if parameters[FRACTION]:
            parameters[PLACEMENT] = chance.choice(["during", "after"])
        for repeat in range(2):
            top = 0.75 - 0.1 * abs(math.log10(parameters[RATE]) + 4.7) + chance.gauss(0, 0.01)
            top += 0.4 * parameters[FRACTION]
            stopped = number % 3 == 2
            steps = [200, 400] if stopped else [200, 400, 600, 800, 1000]
            looks = [{"step": s, "score": top - 0.3 * math.exp(-s / 300)} for s in steps]
            status = "stopped" if stopped else "failed" if number == 7 else "done"
            objective = {"stopped": looks[-1]["score"], "failed": None}.get(status, top)
            scores = {"xnli": top, "xnli/en": min(1, top + 0.1), "xnli/de": top - 0.05,
                      "held_out": top + chance.gauss(0, 0.03)}  # fmt: skip
            sweep.trial(
                parameters, objective, status, repeat=repeat, seed=repeat, looks=looks,
                steps=steps[-1], scores=scores if status == "done" else {},
                collapse=["constant prediction"] if number == 9 else [],
                error="CUDA out of memory" if status == "failed" else None,
                hours=0.05 * len(steps),
            )  # fmt: skip
    return sweep


@pytest.fixture
def drawn() -> None:
    """For tests that look at the drawings of a sweep."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing, which takes nearly all of the time, where the test is of the rest."""
    for name in ("accuracy_bars", "accuracy_dots", "label_bars", "loss_curves", "stage_bars"):
        monkeypatch.setattr(figures, name, lambda *_: "<svg></svg>")
    if "drawn" not in request.fixturenames:
        for name in ("budget", "courses", "placements", "slices"):
            monkeypatch.setattr(sweepfigures, name, lambda *_: "<svg></svg>")


def by(folder: Path, name: str, column: str) -> dict[str, dict[str, str]]:
    """The lines of a sheet by one of its columns."""
    return {line[column]: line for line in sheet(folder, name)}


def numbers(folder: Path, caption: str) -> list[list[str]]:
    """The cells of the twin's table under a caption that starts so, line by line."""
    lines = (folder / "report.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"**{caption}")) + 4
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("| ").split(" | ")])
    return rows


# --- configurations -----------------------------------------------------------------------------


def test_a_configuration_is_judged_by_the_mean_of_its_repeats(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": [1e-5, 2e-5]}}, repeats=3)
    lucky, steady = [0.9, 0.5, 0.6], [0.7, 0.72, 0.74]
    for repeat in range(3):
        sweep.trial({RATE: 1e-5}, lucky[repeat], repeat=repeat)
        sweep.trial({RATE: 2e-5}, steady[repeat], repeat=repeat)
    folder = sweep.report()
    first, second = numbers(folder, "Configurations, best first")
    # t(97.5 %, 2) = 4.303; the standard deviations are 0.02 and 0.2082.
    half = 100 * 4.3027 * 0.02 / math.sqrt(3)
    assert first[:5] == ["t001 and t003 and t005", "2e-05", "72.0",
                         f"{72 - half:.1f} to {72 + half:.1f}", "3 of 3"]  # fmt: skip
    assert second[2] == "66.7"
    text = text_of(folder)
    assert (
        "In miniature: the best of 2 evaluated configurations by mean accuracy over the languages "
        f"of xnli is “t001: learning_rate 2e-05”: 72.0 % ({72 - half:.1f} to {72 + half:.1f} by "
        "the 95 % interval over 3 repeats)."
    ) in text
    assert "6 trials: 6 done. The searcher was random, the scheduler asha." in text
    assert "They cost 3 GPU hours." in text
    assert "The score is the highest of 2 on the data that it was chosen on" in text


def test_repeats_that_agree_are_no_surer_than_their_items(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": [1e-5]}}, repeats=2)
    for repeat in range(2):
        sweep.trial({RATE: 1e-5}, 0.7, repeat=repeat)
    low, high = wilson(0.7, 600)
    half = 100 * (high - low) / 2
    assert f"70.0 % ({70 - half:.1f} to {70 + half:.1f} by the 95 % interval over 2" in " ".join(
        sweep.said().split()
    )


def test_one_repeat_has_the_interval_of_its_items(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": [1e-5]}})
    sweep.trial({RATE: 1e-5}, 0.7)
    low, high = wilson(0.7, 600)
    between = f"{100 * low:.1f} to {100 * high:.1f}"
    assert f"70.0 % ({between} by the 95 % interval of the test items; one repeat)" in " ".join(
        sweep.said().split()
    )


def test_a_best_trial_that_is_no_better_than_a_guess_is_said_to_be_none(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": [1e-5]}})
    row = sweep.trial({RATE: 1e-5}, 0.7)
    assert "one repeat). A guess would come to 33.3 %." in " ".join(sweep.said().split())
    sweep.change(row, "evaluation", sets={"xnli": {"en": constant()}})
    row["objective"] = 0.354
    said = " ".join(sweep.said().split())
    assert "one repeat). That is not above chance: a guess would come to 35.4 %." in said


def test_the_headline_is_what_the_report_begins_with(tmp_path: Path) -> None:
    sweep = grid(tmp_path)
    said = " ".join(sweep.said().split())
    assert said.startswith("In miniature: the best of 13 evaluated configurations")
    assert said in text_of(sweep.report())


def test_stopped_failed_running_and_collapsed_trials_are_told_and_none_is_lost(
    tmp_path: Path,
) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": [1, 2, 3, 4, 5]}})
    sweep.trial({RATE: 1}, 0.6, collapse=["constant prediction"])
    sweep.trial({RATE: 2}, 0.95, "stopped", looks=[{"step": 200, "score": 0.95}], steps=200)
    sweep.trial({RATE: 3}, None, "failed", error="CUDA out of memory")
    sweep.trial({RATE: 4}, None, "running", ended=None, hours=None)
    sweep.trial({RATE: 5}, 0.7)
    folder = sweep.report()
    text = text_of(folder)
    assert "5 trials: 2 done, 1 stopped by the scheduler, 1 failed and 1 still running." in text
    assert "1 showed signs of a collapse; none is left out for it." in text
    rows = numbers(folder, "Configurations, best first")
    assert [row[0] for row in rows] == ["t004", "t000", "t001", "t002", "t003"]
    assert [row[4] for row in rows] == ["done", "done, collapsed", "stopped", "failed", "running"]
    # What was stopped is not evaluated, and cannot be best however well it looked.
    assert rows[2][2] == "95.0‡" and "‡ the last look of a trial that was stopped" in text
    assert "CUDA out of memory" in text
    assert "names no evaluation" not in text
    assert "2 done, 1 stopped, 1 failed, 1 running" in text
    faults = numbers(folder, "Rows that failed")
    assert [row[2] for row in faults] == ["failed", "running"]
    assert len(sheet(folder, "trials.csv")) == 5


def test_a_trial_recorded_as_done_without_an_evaluation_is_a_problem(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": [1]}})
    sweep.trial({RATE: 1}, 0.6)
    sweep.trial({RATE: 2}, None)
    assert "trial 1, seed 0: it is recorded as done but names no evaluation." in text_of(
        sweep.report()
    )


def test_repeats_that_the_scheduler_let_live_are_no_mean_of_all(tmp_path: Path) -> None:
    """A mean over those of a configuration's repeats that did well would be best of k."""
    sweep = Sweep(tmp_path, {RATE: {"grid": [1, 2]}}, repeats=2)
    sweep.trial({RATE: 1}, 0.9)
    sweep.trial({RATE: 1}, 0.4, "stopped", repeat=1)
    sweep.trial({RATE: 2}, 0.7)
    sweep.trial({RATE: 2}, 0.7, repeat=1)
    folder = sweep.report()
    rows = numbers(folder, "Configurations, best first")
    assert [(row[0], row[2]) for row in rows] == [("t002 and t003", "70.0"),
                                                  ("t000 and t001", "90.0§")]  # fmt: skip
    assert "§ the scheduler stopped some of the repeats" in text_of(folder)


def test_sheets_hold_the_trials_in_full_precision(tmp_path: Path) -> None:
    sweep = grid(tmp_path)
    folder = sweep.report()
    lines = by(folder, "trials.csv", "trial")
    assert len(lines) == 40
    for row in sweep.rows:
        line = lines[row["trial"]]
        assert float(line[RATE]) == row["parameters"][RATE]
        assert line[PLACEMENT] == row["parameters"].get(PLACEMENT, "")
        assert line["objective"] == ("" if row["objective"] is None else str(row["objective"]))
        assert line["collapse"] == "; ".join(row["collapse"])
        assert line["score:xnli/de"] == str(row["scores"].get("xnli/de", ""))
    looks = sheet(folder, "looks.csv")
    assert len(looks) == sum(len(row["looks"]) for row in sweep.rows)


def test_a_long_table_is_folded(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": list(range(25))}})
    for rate in range(25):
        sweep.trial({RATE: rate}, 0.6 + 0.01 * rate)
    folder = sweep.report()
    assert len(numbers(folder, "Configurations, best first")) == 20
    assert "5 more configurations, from rank 21 on" in text_of(folder)
    assert [line["rank"] for line in sheet(folder, "trials.csv")] == [str(i) for i in range(1, 26)]


def test_the_budget_counts_a_configuration_once_all_its_repeats_ended(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": [1, 2]}}, repeats=2)
    sweep.trial({RATE: 1}, 0.9, ended=10.0, hours=1.0)
    sweep.trial({RATE: 2}, 0.6, ended=30.0, hours=0.25, repeat=1)
    sweep.trial({RATE: 2}, 0.6, ended=20.0, hours=2.0)
    sweep.trial({RATE: 1}, 0.5, ended=40.0, hours=1.0, repeat=1)
    sweep.trial({RATE: 3}, None, "failed", ended=15.0, hours=0.5)
    course = [(one["trial"], float(one["hours_so_far"]), one["best_so_far"])
              for one in sheet(sweep.report(), "budget.csv")]  # fmt: skip
    assert course == [("t000", 1.0, ""), ("t004", 1.5, ""), ("t002", 3.5, ""),
                      ("t001", 3.75, "0.6"), ("t003", 4.75, "0.7")]  # fmt: skip


def test_a_sweep_that_found_everything_has_no_hours_to_draw(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": [1]}})
    sweep.trial({RATE: 1}, 0.6, hours=0.0)
    folder = sweep.report()
    assert "All of it was found on storage" in text_of(folder)
    assert not (folder / "budget.svg").exists()


# --- selection rules ----------------------------------------------------------------------------


def chosen(root: Path) -> Sweep:
    sweep = Sweep(root, {RATE: {"grid": [1, 2, 3]}}, objective="xnli")
    table = [  # objective, English, German, held out
        (0.60, 0.90, 0.50, 0.70),
        (0.65, 0.80, 0.64, 0.60),
        (0.55, 0.70, 0.66, 0.70),
    ]
    for i, (objective, english, german, held_out) in enumerate(table, 1):
        scores = {"xnli": objective, "xnli/en": english, "xnli/de": german, "held_out": held_out}
        sweep.trial({RATE: i}, objective, scores=scores)
    return sweep


def test_what_each_rule_would_have_chosen_is_reckoned(tmp_path: Path) -> None:
    folder = chosen(tmp_path).report()
    lines = by(folder, "rules.csv", "rule")
    assert {rule: line["trial"] for rule, line in lines.items()} == {
        "xnli": "t001",
        "xnli/en": "t000",
        "xnli/de": "t002",
        "held_out": "t000",
    }
    losses = {rule: float(line["loss"]) for rule, line in lines.items()}
    assert losses == pytest.approx({"xnli": 0, "xnli/en": 0.05, "xnli/de": 0.1, "held_out": 0.05})
    # Two score the same by held-out queries; the first is taken, and that is said.
    assert lines["held_out"]["equals"] == "1"
    text = text_of(folder)
    assert "= the rule has others that score the same" in text
    assert "the price of having no real data to select on" in text
    assert "on queries held back, would have cost 5.0 points." in text
    main = numbers(folder, "What each selection rule would have chosen")
    assert [row[0].split()[0] for row in main] == ["xnli", "xnli/en", "held\\_out"]
    assert main[2][2:] == ["70.0=", "60.0", "5.0", "–"]
    assert "1 rule of one language other than English" in text
    [other] = numbers(folder, "The same for rules of one language")
    assert other[0] == "xnli/de German" and other[4] == "10.0"


def test_the_loss_has_an_interval_by_items_where_manifests_tell_them(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": [1, 2]}})
    for i, (right, held_out) in enumerate([([1] * 70 + [0] * 30, 0.5), ([1] * 60 + [0] * 40, 0.6)]):
        share = sum(right) / 100
        sweep.trial({RATE: i}, share, right=right, scores={"xnli": share, "held_out": held_out})
    line = by(sweep.report(), "rules.csv", "rule")["held_out"]
    half = 1.959964 * math.sqrt(0.1 * 0.9 / 99)
    assert float(line["loss"]) == pytest.approx(0.1)
    assert float(line["half_interval_items"]) == pytest.approx(half)
    assert line["half_interval_repeats"] == ""


def test_rules_go_by_means_over_repeats_and_by_whole_configurations(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": [1, 2, 3]}}, repeats=2)
    for i, (objectives, held) in enumerate([((0.6, 0.6), (0.9, 0.1)), ((0.7, 0.5), (0.6, 0.6))]):
        for repeat in range(2):
            scores = {"xnli": objectives[repeat], "held_out": held[repeat]}
            sweep.trial({RATE: i}, objectives[repeat], repeat=repeat, scores=scores)
    for repeat in range(2):  # by held-out queries it was judged once only
        scores = {"xnli": 0.1} | ({"held_out": 1.0} if repeat else {})
        sweep.trial({RATE: 3}, 0.1, repeat=repeat, scores=scores)
    line = by(sweep.report(), "rules.csv", "rule")["held_out"]
    assert line["trial"] == "t002" and float(line["score"]) == pytest.approx(0.6)


def test_with_the_objective_alone_no_rules_are_compared(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": [1]}})
    sweep.trial({RATE: 1}, 0.6)
    assert "selection rule" not in text_of(sweep.report())


# --- where the real data stand ------------------------------------------------------------------


def pairs(root: Path, after: Sequence[float], during: Sequence[float], **sweep: Any) -> Sweep:
    """Pairs at 1 % of real data, one a learning rate, without items."""
    made = Sweep(root, {RATE: {"grid": list(range(len(after)))}, **PLACED}, **sweep)
    for rate, both in enumerate(zip(after, during, strict=True)):
        for place, value in zip(("after", "during"), both, strict=True):
            made.trial({RATE: rate, FRACTION: 0.01, PLACEMENT: place}, value)
    return made


def test_pairs_are_equal_in_all_else_and_their_interval_is_students(tmp_path: Path) -> None:
    sweep = pairs(tmp_path, [0.70, 0.64, 0.62], [0.66, 0.62, 0.56])
    sweep.trial({RATE: 7, FRACTION: 0.01, PLACEMENT: "after"}, 0.99)  # no partner
    sweep.trial({RATE: 7, FRACTION: 0.1, PLACEMENT: "during"}, 0.10)
    sweep.trial({RATE: 1, FRACTION: 0.01, PLACEMENT: "during"}, 0.5, repeat=1)
    sweep.trial({RATE: 1, FRACTION: 0.01, PLACEMENT: "after"}, 0.5, "stopped", repeat=1)
    folder = sweep.report()
    [row] = numbers(folder, "The objective (mean accuracy over the languages of xnli) with real")
    # Differences of 4, 2 and 6 points: mean 4, standard deviation 2, t(97.5 %, 2) = 4.303.
    half = 4.3027 * 2 / math.sqrt(3)
    interval = f"−{half - 4:.1f} to +{half + 4:.1f}"
    assert row == ["1 %", "3", "65.3", "61.3", "+4.0", interval, "–"]
    text = text_of(folder)
    assert "3 trials have no partner" in text
    assert f"+4.0 ± {half:.1f} points with 1 % of it (3 pairs)" in text
    assert "cannot be told apart from noise" in text
    assert len(sheet(folder, "pairs.csv")) == 3


def test_pairs_are_compared_item_by_item_where_manifests_tell_the_items(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, PLACED)
    for place, right in (("after", [1] * 88 + [0] * 12), ("during", [1] * 80 + [0] * 20)):
        sweep.trial({FRACTION: 0.01, PLACEMENT: place}, sum(right) / 100, right=right)
    text = text_of(sweep.report())
    half = 195.9964 * math.sqrt(0.08 * 0.92 / 99)
    assert (
        "Real data after extraction beats mixing it in by mean accuracy over the languages of "
        f"xnli: +8.0 ± {half:.1f} points with 1 % of it (1 pair)."
    ) in text
    assert f"+{8 - half:.1f} to +{8 + half:.1f}" in text


@pytest.mark.parametrize(
    ("after", "during", "said"),
    [
        ([0.70, 0.71, 0.72], [0.60, 0.61, 0.62], "shows Real data after extraction beats mixing"),
        ([0.60, 0.61, 0.62], [0.70, 0.72, 0.72], "does not show Real data after extraction does"),
        ([0.7, 0.6], [0.6, 0.7], "too small to tell Real data after extraction and real data mixe"),
        ([0.7], [0.6], "too small to tell Real data after extraction and real data mixed in can"),
    ],
)
def test_what_pairs_show_is_said_as_it_is(
    tmp_path: Path, after: list[float], during: list[float], said: str
) -> None:
    assert said in text_of(pairs(tmp_path, after, during).report())


def stopped(sweep: Sweep, rate: int, place: str, stage: str) -> None:
    """Add a trial with 1 % of real data that was stopped in a stage."""
    looks = [{"stage": "extractor", "step": 200, "score": 0.5},
             {"stage": stage, "step": 400, "score": 0.5}]  # fmt: skip
    parameters = {RATE: rate, FRACTION: 0.01, PLACEMENT: place}
    sweep.trial(parameters, 0.5, "stopped", looks=looks, steps=400)


def test_trials_that_were_stopped_are_compared_with_none_and_it_is_said_where(
    tmp_path: Path,
) -> None:
    sweep = pairs(tmp_path, [0.70, 0.71], [0.60, 0.61])
    stopped(sweep, 2, "after", "extractor")
    stopped(sweep, 3, "after", "finetuned")
    stopped(sweep, 2, "during", "extractor")
    folder = sweep.report()
    text = text_of(folder)
    said = (
        "The scheduler stopped 2 of 4 trials that put real data after, 1 of them before they had "
        "seen any, and 1 of 3 that mix it in; only those that came to their end are compared."
    )
    assert text.count(said) == 2  # beside the verdict, and in the section
    assert "Real data after extraction beats mixing it in" in text
    assert "compare the pairs" in text
    assert {line["stage"] for line in sheet(folder, "looks.csv")} == {"extractor", "finetuned"}
    assert text.count("stopped before its real data") == 1


def test_a_pair_that_the_scheduler_alone_left_shows_nothing(tmp_path: Path) -> None:
    """Items tell no luck of training; where all came to their end, one pair is all there is."""
    sweep = Sweep(tmp_path, {RATE: {"grid": [0, 1]}, **PLACED})
    for place, right in (("after", [1] * 88 + [0] * 12), ("during", [1] * 60 + [0] * 40)):
        point = {RATE: 0, FRACTION: 0.01, PLACEMENT: place}
        sweep.trial(point, sum(right) / 100, right=right)
    assert "Real data after extraction beats mixing it in" in text_of(sweep.report())
    stopped(sweep, 1, "after", "extractor")
    text = text_of(sweep.report())
    assert "beats mixing it in" not in text
    assert "cannot be told apart from noise" in text
    assert "(1 pair, all that is left)" in text


def test_no_placement_is_judged_that_was_stopped_before_its_real_data(tmp_path: Path) -> None:
    sweep = pairs(tmp_path, [], [])
    for rate in range(2):
        stopped(sweep, rate, "after", "extractor")
        sweep.trial({RATE: rate, FRACTION: 0.01, PLACEMENT: "during"}, 0.6)
    text = text_of(sweep.report())
    assert (
        "Real data after extraction and real data mixed in are not compared, since of no pair of "
        "trials both came to their end. The scheduler stopped 2 of 2 trials that put real data "
        "after, 2 of them before they had seen any, and 0 of 2 that mix it in"
    ) in text


def test_shares_that_disagree_are_told_apart(tmp_path: Path) -> None:
    sweep = pairs(tmp_path, [0.70, 0.71], [0.60, 0.611])
    for rate in range(2):
        for place, value in (("after", 0.6), ("during", 0.65 + 0.002 * rate)):
            sweep.trial({RATE: rate, FRACTION: 0.1, PLACEMENT: place}, value)
    text = text_of(sweep.report())
    assert "does not beat mixing it in by mean accuracy over the languages of xnli: −5.1 ±" in text
    assert "with 10 % of it (2 pairs); elsewhere: +9.9 ±" in text


def test_the_picture_of_placements_has_means_over_trials(tmp_path: Path) -> None:
    sweep = pairs(tmp_path, [0.70, 0.64], [0.66, 0.62])
    sweep.trial({RATE: 1, FRACTION: 0.0}, 0.5)
    found = {(line["placement"], line["share"]): line
             for line in sheet(sweep.report(), "placement.csv")}  # fmt: skip
    after = found["after", "0.01"]
    half = 12.7062 * statistics.stdev([0.70, 0.64]) / math.sqrt(2)
    assert float(after["mean"]) == pytest.approx(0.67)
    assert float(after["high"]) == pytest.approx(0.67 + half)
    low, high = wilson(0.5, 600)
    alone = found["", "0.0"]
    assert (float(alone["low"]), float(alone["high"])) == pytest.approx((low, high))


def test_no_placement_was_searched_and_none_is_shown(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {RATE: {"grid": [1]}})
    sweep.trial({RATE: 1}, 0.6)
    assert "Real data: how much, and where" not in text_of(sweep.report())


# --- the other sections -------------------------------------------------------------------------


def test_ordinary_sections_show_the_five_best_configurations(tmp_path: Path) -> None:
    sweep = grid(tmp_path)
    folder = sweep.report()
    text = text_of(folder)
    assert "Of the 20 configurations of the sweep, the best 5 are shown." in text
    shown = {line["row"] for line in sheet(folder, "scores.csv")}
    assert len(shown) == 6 and "victim (monolingual)" in shown
    best = [line for line in sheet(folder, "trials.csv") if int(line["rank"]) <= 5]
    assert {name.partition(":")[0] for name in shown} == {
        "victim (monolingual)", *(line["trial"] for line in best if line["repeat"] == "0")
    }  # fmt: skip
    # The claims of the paper are not judged by trials, which were chosen by their scores.
    for absent in ("Not run", "claims", "central question", "Some real English data"):
        assert absent not in text


def test_an_older_sweep_is_reported_row_by_row(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {})
    row = sweep.done("learning_rate 1e-05", 0, flat(0.8, 0.7), flat(0.9, 0.33))
    row |= {"parameters": {RATE: 1e-5}, "objective": math.nan}
    text = text_of(sweep.report(sweep=None))
    assert "The search" not in text and "80.0" in text


# --- what is missing or damaged -----------------------------------------------------------------


def test_a_record_with_nothing_optional_still_renders(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {})
    sweep.row("a", status="failed")
    sweep.row("b", status="stopped")
    sweep.done("c", 0, flat(0.8, 0.7), flat(0.9, 0.33))
    text = text_of(sweep.report(sweep={}))
    assert "In miniature: no trial of this sweep has been evaluated." in text
    assert "3 trials: 1 done, 1 stopped by the scheduler and 1 failed." in text


def test_a_sweep_without_trials_still_renders(tmp_path: Path) -> None:
    assert "There is no trial yet." in text_of(Sweep(tmp_path, {}).report())


def test_manifests_that_are_gone_cost_intervals_only(tmp_path: Path) -> None:
    sweep = chosen(tmp_path)
    for row in sweep.rows:
        (tmp_path / row["stages"]["evaluation"]["path"] / "manifest.json").unlink()
    text = text_of(sweep.report())
    assert "“t001: learning_rate 2”: 65.0 % (one repeat)." in text
    assert "it is missing" in text


def test_parameters_of_another_version_are_no_obstacle(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {})
    sweep.trial({"from_the_future": 1}, 0.6)
    sweep.trial({"from_the_future": 2}, 0.7)
    text = text_of(sweep.report())
    assert "from_the_future is no field" in text and "(and 1 more)" in text
    assert "“t001: from_the_future 2”: 70.0 %" in text


STRANGE = [HOSTILE, 10**400, math.inf, math.nan, None, True, [1, {"a": "<b>"}], {"$x$": 1}, ""]


@pytest.mark.parametrize("values", [STRANGE, [-1e-320], [10**400], [math.nan]])
def test_any_value_of_a_parameter_can_be_drawn(
    tmp_path: Path, values: list[Any], drawn: None
) -> None:
    sweep = Sweep(tmp_path, {RATE: {"loguniform": "?"}, FRACTION: {"grid": 3}, PLACEMENT: {}})
    for value in values:
        sweep.trial({RATE: value, FRACTION: value, PLACEMENT: value}, 0.6)
    last = sweep.trial({RATE: 1e-5, FRACTION: 0.01, PLACEMENT: "after"}, 0.7)["trial"]
    folder = sweep.report()
    said = f"“{last}: learning_rate 1e-05, fraction 0.01, placement after”: 70.0"
    assert said in text_of(folder)
    check_tables((folder / "report.md").read_text(encoding="utf-8"))


def test_hostile_text_stays_text(tmp_path: Path, drawn: None) -> None:
    sweep = Sweep(
        tmp_path,
        {HOSTILE: {"grid": [HOSTILE, "_x"]}, f"a.{HOSTILE}": {"choice": ["b"]}, **PLACED},
        objective=HOSTILE, searcher=HOSTILE, scheduler=HOSTILE, unit=HOSTILE,
    )  # fmt: skip
    for i, value in enumerate((HOSTILE, "_x", "</style><script>")):
        sweep.trial(
            {HOSTILE: value, f"a.{HOSTILE}": value, FRACTION: 0.01, PLACEMENT: HOSTILE}, 0.5,
            trial=HOSTILE, looks=[{"step": 1, "score": 0.5}], collapse=[HOSTILE] if i else [],
            scores={HOSTILE: 0.5, f"{HOSTILE}/{HOSTILE}": 0.5, "held_out": 0.1 * i},
        )  # fmt: skip
    sweep.trial({HOSTILE: HOSTILE}, None, "failed", error=HOSTILE)
    folder = sweep.report()
    check_hostile(folder)


def test_the_same_sweep_gives_the_same_bytes(tmp_path: Path, drawn: None) -> None:
    sweep = grid(tmp_path)
    first = {file.name: file.read_bytes() for file in sweep.report().iterdir()}
    assert {"slices.svg", "looks.svg", "budget.svg", "placement.svg"} <= first.keys()
    assert {file.name: file.read_bytes() for file in sweep.report().iterdir()} == first
    check_tables(first["report.md"].decode())
    page = Page(sweep.report() / "index.html")
    assert len(page.ids) == len(set(page.ids))


# --- numbers and axes ---------------------------------------------------------------------------


def test_students_interval_is_that_of_the_tables() -> None:
    assert student([0.5]) is None
    assert student([1.0, 3.0]) == pytest.approx(12.7062, abs=1e-3)
    many = [float(i % 2) for i in range(61)]  # t(97.5 %, 60) = 2.0003
    assert student(many) == pytest.approx(2.0003 * statistics.stdev(many) / math.sqrt(61), rel=1e-4)


@pytest.mark.parametrize(
    ("values", "domain", "logarithmic", "drawn_as"),
    [
        ([1e-6, 3e-5, 8e-5, 2e-6, 5e-6, 7e-6, 9e-6, 1e-5, 2e-5], {"loguniform": []}, True, "axis"),
        ([0.001, 0.01, 0.1], {"grid": []}, True, "axis"),
        ([0.0, 0.001, 0.1], {"grid": []}, True, "columns"),  # zero has no place on such an axis
        ([1, 2, 3, 4], {"grid": []}, False, "axis"),
        ([3], {"grid": []}, False, "columns"),
        (["during", "after"], {"grid": ["during", "after"]}, False, "columns"),
        ([True, False], {"choice": []}, False, "columns"),
    ],
)
def test_each_kind_of_values_has_its_axis(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: list[Any],
    domain: dict[str, Any],
    logarithmic: bool,
    drawn_as: str,
) -> None:
    panels: list[sweepfigures.Slice] = []
    monkeypatch.setattr(sweepfigures, "slices", lambda given: panels.extend(given) or "<svg></svg>")
    sweep = Sweep(tmp_path, {"seed": domain})
    for value in values:
        sweep.trial({"seed": value}, 0.5)
    sweep.report()
    [panel] = panels
    assert panel.logarithmic == logarithmic
    columns = panel.numbers is None or sweepfigures._crowded(panel.numbers, panel.logarithmic)
    assert columns == (drawn_as == "columns")
    assert len(panel.labels) == len(values) and len(panel.points) == len(values)


@pytest.mark.parametrize(
    ("low", "high", "logarithmic"),
    [(1e-6, 1e-4, True), (1.3e-5, 1.9e-5, True), (1e-9, 1e3, True), (2e-6, 3e-5, True),
     (0.0, 1.0, False), (0.013, 0.29, False), (-5.0, 900.0, False)],
)  # fmt: skip
def test_ticks_are_few_within_bounds_and_apart(low: float, high: float, logarithmic: bool) -> None:
    ticks = sweepfigures._ticks(low, high, logarithmic)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high * 1.001 for tick in ticks)
    places = [math.log(tick) if logarithmic else tick for tick in ticks]
    whole = math.log(high / low) if logarithmic else high - low
    assert min(b - a for a, b in pairwise(places)) >= 0.15 * whole


# --- what it cost -------------------------------------------------------------------------------


def test_what_a_sweep_built_before_its_trials_is_not_said_to_have_cost_nothing(
    tmp_path: Path,
) -> None:
    """All trials find it there, but it was this sweep that paid for it."""
    sweep = Sweep(tmp_path, {RATE: {"grid": [1e-5, 3e-5]}})
    rows = [sweep.trial({RATE: rate}, score) for rate, score in ((1e-5, 0.6), (3e-5, 0.7))]
    for row in rows:
        for stage in ("corpus", "vocabulary", "queries", "labels", "victim", "victim_evaluation"):
            row["stages"][stage]["reused"] = True
    text = text_of(sweep.report())
    assert "All that the configurations shown rest on took" in text
    assert "lay on storage already" not in text
    sweep.made(rows[0], "corpus", "2026-11-22T09:00:00+00:00")  # the day before
    assert "Of 10 artifacts, 1 lay on storage already" in text_of(sweep.report())
