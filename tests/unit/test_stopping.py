"""Early stopping: what is ranked with what, what a trial tells, and what comes of it."""

from __future__ import annotations

import json
import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raythief import sweep
from raythief.artifacts import Artifact, Storage
from raythief.config import Asha, Spec, validate
from raythief.report import Place
from raythief.sweep import space, stopping, trial
from raythief.sweep.stopping import KIND, PAID, STEP, ByKind, kind

STEPS = "extractor.training.steps"
RATE = "extractor.training.learning_rate"


def swept(**changes: Any) -> Spec:
    """A spec with early stopping."""
    pairs = {"source": "miniature", "languages": ["en"], "split": "validation"}
    tree = {
        "name": "x",
        "corpus": {"source": "miniature"},
        "queries": {"count": 50},
        "victim": {"model": "miniature:english", "training": {}},
        "real": {"train": {"source": "miniature"}, "fraction": 0.1},
        "extractor": {"model": "miniature:multilingual", "training": {"steps": 40}},
        "evaluation": {"sets": {"dev": pairs}},
        "sweep": {
            "objective": "dev",
            "parameters": {RATE: {"loguniform": [1e-5, 1e-3]}},
            "asha": {"every": 10, "grace": 1, "reduction": 2},
            **changes,
        },
    }
    return validate(tree, "spec")


def of(role: str = "extractor", **point: Any) -> str:
    """The kind of a trial's training."""
    fields = {name.replace("__", "."): value for name, value in point.items()}
    return kind(space.trial_spec(swept(), fields), role)


# --- what is ranked with what -------------------------------------------------------------------


def test_the_gibberish_stage_is_like_gibberish_alone_and_unlike_real_data() -> None:
    alone = of(real__fraction=0)
    assert of(real__placement="after") == of(real__placement="after", real__fraction=0.5) == alone
    others = [
        of(real__placement="during"),
        of(real__placement="only"),
        of("finetuned", real__placement="after"),
    ]
    assert len({alone, *others}) == 4
    # Other shares and rates are like, or nothing would be searched.
    assert of(real__placement="during", real__fraction=0.5) == others[0]
    assert of(real__fraction=0, extractor__training__learning_rate=1e-9) == alone


def test_trainings_of_other_lengths_are_alike_at_a_constant_rate_alone() -> None:
    assert of(real__fraction=0, extractor__training__steps=20) != of(real__fraction=0)
    constant = {"schedule": "constant", "warmup_steps": 5}
    short, long = (
        of(real__fraction=0, extractor__training={**constant, "steps": steps}) for steps in (20, 30)
    )
    assert short == long


def test_epochs_are_as_long_as_there_are_rows_and_batches_small() -> None:
    after = {"real__training": {"epochs": 2}, "real__placement": "after"}
    assert of("finetuned", **after) != of("finetuned", **after, real__fraction=0.2)
    gibberish = {"real__fraction": 0, "extractor__training": {"steps": None, "epochs": 2}}
    assert of(**gibberish) != of(**gibberish, extractor__queries=20)
    assert of(**gibberish) != of(**gibberish, extractor__training__batch_size=8)


def told(
    scheduler: ByKind, name: str, score: float, kind: str, step: int, paid: bool = False
) -> str:
    look = {"objective": score, KIND: kind, STEP: step, PAID: paid}
    return scheduler.on_trial_result(None, SimpleNamespace(trial_id=name), look)


def test_a_look_is_ranked_among_its_kind_at_its_step() -> None:
    scheduler = ByKind(Asha(every=10, grace=2, reduction=2))
    assert told(scheduler, "during", 0.9, "during", 20) == "CONTINUE"
    assert told(scheduler, "after", 0.5, "gibberish", 20) == "CONTINUE"  # the first of its kind
    assert told(scheduler, "worse", 0.4, "gibberish", 10) == "CONTINUE"  # grace
    assert told(scheduler, "worse", 0.4, "gibberish", 20) == "STOP"
    # Its next training begins again, and is ranked there by its own steps.
    assert told(scheduler, "after", 0.6, "after", 10) == "CONTINUE"
    assert told(scheduler, "after", 0.6, "after", 20) == "CONTINUE"
    assert told(scheduler, "other", 0.5, "after", 20) == "STOP"
    # What is told again, after a loss, is decided as it was.
    assert told(scheduler, "after", 0.1, "gibberish", 20) == "CONTINUE"


def test_what_is_paid_is_not_stopped() -> None:
    scheduler = ByKind(Asha(every=10, reduction=2))
    told(scheduler, "good", 0.9, "during", 10)
    assert told(scheduler, "poor", 0.1, "during", 10, paid=True) == "CONTINUE"
    assert told(scheduler, "third", 0.2, "during", 10) == "STOP"  # 0.1 counts, too
    end = {"objective": 0.0, "runs": "[]"}
    assert scheduler.on_trial_result(None, SimpleNamespace(trial_id="poor"), end) == "CONTINUE"


# --- what a trial tells -------------------------------------------------------------------------


class Training:
    """A training that is looked at every 10 steps of 20, or was finished by others."""

    def __init__(self, score: float, there: bool) -> None:
        self.score, self.there = score, there

    def looks(self) -> list[dict[str, float]]:
        return [{"step": step, "score": self.score} for step in (10, 20)]

    def ensure(self, storage: Storage, tell: Any) -> tuple[Any, bool]:
        if not self.there:
            assert all(tell.look({**look, "steps": 20}) for look in self.looks())
        return self, not self.there

    path, name, fingerprint, stage = "somewhere", "extractor", "4567", "extractor"

    def verify(self) -> dict[str, Any]:
        selection = {"looks": self.looks(), "metric": "m", "step": 20, "score": 0.5}
        results = {"collapse": [], "continues": None, "steps": 20, "selection": selection}
        return {"seconds": 1.0, "results": results}


class Evaluation(Training):
    name, fingerprint = "evaluation", "0123"

    def ensure(self, storage: Storage, tell: Any) -> tuple[Any, bool]:
        return self, True

    def verify(self) -> dict[str, Any]:
        return {"results": {"sets": {"dev": {"en": {"count": 9, "accuracy": self.score}}}}}


@pytest.mark.parametrize("there", [False, True])
def test_a_trial_tells_of_each_look_what_it_is_a_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """The same of a training that it did and of one that was finished before."""
    stages = {
        "extractor": Training(0.5, there),
        "finetuned": Training(0.6, there),
        "evaluation": Evaluation(0.7, False),
    }
    monkeypatch.setattr(trial.pipeline, "stages", lambda spec: stages)
    states = {one.fingerprint: ("missing", "") for one in stages.values()}
    monkeypatch.setattr(trial.building, "look", lambda *_: states)
    made: Any = SimpleNamespace(
        spec=swept(), point={"real.placement": "after"}, told=queue.SimpleQueue(),
        verdicts=SimpleNamespace(get=lambda: True), _tell=lambda role: trial.silent,
    )  # fmt: skip
    run = trial.Trial._run(made, Storage.at(str(tmp_path)), 0)
    assert run["objective"] == 0.7
    found = [made.told.get_nowait() for _ in range(4)]
    assert [(one["stage"], one["step"], one[STEP], one[PAID]) for one in found] == [
        ("extractor", 10, 10, False),
        ("extractor", 20, 20, False),  # its real data are to come
        ("finetuned", 30, 10, False),
        ("finetuned", 40, 20, True),
    ]
    gibberish, finetuned = of(real__placement="after"), of("finetuned", real__placement="after")
    # What an earlier sweep brought to its end is told to the others, and is not stopped.
    monkeypatch.setattr(Artifact, "manifest", lambda artifact: {})
    trial.Trial._run(made, Storage.at(str(tmp_path)), 0)
    assert all(made.told.get_nowait()[PAID] for _ in range(4))
    assert [one[KIND] for one in found] == [gibberish] * 2 + [finetuned] * 2


# --- what comes of it ---------------------------------------------------------------------------


def test_the_papers_best_placement_wins_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """With curves that end at its Table 2; ranked all together, none of 18 would see real data."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import asha

    found = asha.reckoned(50)
    together, apart = found["one for all looks"], found["one for each kind of training"]
    assert together["after"] == 18
    assert together["reached_real_data"] == {"least": 0, "mean": 0.0}
    assert not any("after" in place for place in together["winners"])
    assert apart["reached_real_data"]["least"] >= 1
    after = sum(n for place, n in apart["winners"].items() if "after" in place)
    assert after >= 45
    assert apart["winners"]["10 % after"] >= 40
    assert apart["share_of_steps"] < 0.9  # and it is stopping still


def test_optuna_takes_no_last_look_for_a_score(tmp_path: Path) -> None:
    """Those of a trial that was stopped before its real data would speak against such data."""
    spec = swept(searcher="optuna", samples=3)
    goals = {"metric": "objective", "mode": "max"}
    searcher = sweep._optuna(spec, Storage.at(str(tmp_path)), Place("x"), goals, None)  # type: ignore[arg-type]
    for name in "abc":
        searcher.suggest(name)
    look = {"objective": 0.9, "training_iteration": 1, KIND: "gibberish"}
    searcher.on_trial_complete("a", look)
    searcher.on_trial_complete("b", {"objective": 0.8, "runs": json.dumps([{}])})
    searcher.on_trial_complete("c", look, error=True)
    states = [one.state.name for one in searcher._ot_study.trials]
    assert states == ["PRUNED", "COMPLETE", "FAIL"]
    assert searcher._ot_study.best_value == 0.8


def test_gibberish_is_told_apart_by_what_is_learnt_not_by_what_is_named() -> None:
    """`after` without real data is gibberish alone, and `during` without any, too."""
    assert of(real__fraction=0, real__placement="during") == of(real__fraction=0)
    assert stopping.GIBBERISH in of(real__fraction=0)
