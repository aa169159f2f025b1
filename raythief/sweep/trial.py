"""A trial: the stages of one configuration, in a process that Ray Tune can ask and stop.

Tune's scheduler is asked at each look at a training, which waits for the answer. A trial that is
to stop ends its training by itself, at a checkpoint, and gives its workers back: nothing is killed.
Looks of a training that was finished or begun by others are told again, so that the scheduler
decides as it did then.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

from ray import tune

from raythief import building, clusters, pipeline, results, worktime
from raythief.artifacts import Artifact, Storage
from raythief.config import Spec
from raythief.errors import explain
from raythief.progress import Tell, Watch, silent
from raythief.sweep import space, stopping
from raythief.training import StoppedError

log = logging.getLogger(__name__)

WATCHED = ("extractor", "finetuned")
"""Roles of the trainings that are a trial's own."""
TRAININGS = (*WATCHED, "aligned")
"""Roles of what a trial trains, which it is priced by."""
SAY_EVERY_S = 1.0
"""How often a trial leaves word of how far it is."""


class Trial(tune.Trainable):
    """One configuration, in all its repetitions."""

    def setup(self, config: dict[str, Any], spec: Spec | None = None, notices: Any = None) -> None:
        """Begin, in a thread: the actor's own answers Tune."""
        assert spec is not None
        clusters.quiet("ray.data", "ray.train", "transformers")
        self.spec, self.point, self.notices = spec, config["parameters"], notices
        self.told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.verdicts: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.waiting = False
        self.thread = threading.Thread(target=self._work, name="trial", daemon=True)
        self.thread.start()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process, which has imported all that it takes."""
        self.cleanup()
        self.setup(new_config)  # Ray Tune adds the rest
        return True

    def __repr__(self) -> str:
        """What Ray's dashboard calls the actor."""
        return f"trial: {space.title(self.point)}"

    def step(self) -> dict[str, Any]:
        """Let the training go on, and wait for its next look or for the end."""
        if self.waiting:
            self.verdicts.put(True)
        result = self.told.get()
        self.waiting = not result["done"]
        return result

    def cleanup(self) -> None:
        """End the training at its look, and wait until its workers are gone."""
        if self.waiting:
            self.verdicts.put(False)
        self.thread.join()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: artifacts hold all that a trial needs to go on."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: artifacts hold all that a trial needs to go on."""

    def _work(self) -> None:
        made: list[dict[str, Any]] = []
        try:
            storage = Storage.at(self.spec.storage)
            for repeat in range(self.spec.sweep.repeats):
                made.append(self._run(storage, repeat))
        except StoppedError:
            return
        except Exception as error:  # one trial's fault must not end the sweep; the record tells it
            log.exception("%s failed", space.title(self.point))
            told = explain(error) or error
            lines = str(told).strip().splitlines() or [type(error).__name__]
            self.told.put(
                {"objective": math.nan, "error": lines[-1], "runs": json.dumps(made), "done": True}
            )
            return
        scores = [run["objective"] for run in made]
        self.told.put(
            {
                "objective": sum(scores) / len(scores),
                "usd": sum(run["usd"] for run in made) / len(made),
                "runs": json.dumps(made),
                "done": True,
            }
        )

    def _run(self, storage: Storage, repeat: int) -> dict[str, Any]:
        """Build one repetition."""
        spec = space.trial_spec(self.spec, self.point, repeat)
        watch = _Judge(self) if self.spec.sweep.asha else None
        built: dict[str, Any] = {}
        collapse: list[str] = []
        gpu_hours = 0.0
        stages = pipeline.stages(spec)
        states = building.look(stages.values(), storage)
        final = [role for role in stages if role in WATCHED][-1]
        end = stages["evaluation"]
        paid = storage.artifact(end.name, end.fingerprint).manifest() is not None
        for role, stage in stages.items():
            if states[stage.fingerprint][0] == "not needed":
                continue
            tell = self._tell(role)
            if watch is not None and role in WATCHED:
                watch.begin(role, stopping.kind(spec, role), tell, final=role == final, paid=paid)
                tell = watch
            artifact, new = stage.ensure(storage, tell)
            built[role] = {"path": artifact.path, "reused": not new}
            manifest = artifact.verify()
            if role in TRAININGS:
                gpu_hours += _gpu_hours(stage.name, manifest)
            if role in WATCHED:
                trained = _training(stage.name, manifest)
                collapse += trained.collapse
                if watch is not None:
                    if not new:
                        watch.replay(artifact)
                    watch.before += trained.steps or 0
        found = results.read("evaluation", manifest["results"])
        assert isinstance(found, results.Evaluation)
        scores = rules(found)
        return {
            "repeat": repeat,
            "seed": spec.extractor.training.seed if self.spec.sweep.repeats > 1 else spec.seed,
            "objective": _judged(scores, self.spec.sweep.objective),
            "scores": scores,
            "collapse": collapse,
            "usd": _price(spec, gpu_hours),
            "stages": built,
        }

    def _tell(self, role: str) -> Tell:
        """How a stage leaves word of how far it is."""
        said = 0.0

        def tell(done: int, total: int, note: str = "") -> None:
            nonlocal said
            if time.monotonic() - said > SAY_EVERY_S or done == total:
                said = time.monotonic()
                self.notices.put.remote(self.trial_id, role, done, total)

        return tell


class _Judge(Watch):
    """Brings the looks of a trial's trainings to Tune, and its answers back."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.before = 0
        """Steps of the trainings that are through."""
        self.tell: Tell = silent

    def begin(self, role: str, kind: str, tell: Tell, *, final: bool, paid: bool) -> None:
        """Look at a training from now on: maybe the trial's last, or of one that was evaluated."""
        self.role, self.kind, self.tell = role, kind, tell
        self.final, self.paid = final, paid

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Leave word of how far it is."""
        self.tell(done, total, note)

    def look(self, look: Mapping[str, float]) -> bool:
        """Tell Tune, and wait for its answer."""
        step, steps = int(look["step"]), int(look["steps"])
        self.trial.told.put(
            {
                **look,
                "objective": look["score"],
                "stage": self.role,
                "step": self.before + step,
                "steps": self.before + steps,
                stopping.KIND: self.kind,
                stopping.STEP: step,
                stopping.PAID: self.paid or (self.final and step == steps),
                "done": False,
            }
        )
        return self.trial.verdicts.get()

    def replay(self, artifact: Artifact) -> None:
        """Tell the looks of a training that was finished before."""
        trained = _training(artifact.stage, artifact.verify())
        assert trained.selection is not None
        for look in trained.selection.looks:
            told = look.model_dump(exclude_none=True)
            if not self.look({**told, "steps": trained.steps or 0}):
                raise StoppedError


def rules(evaluation: results.Evaluation) -> dict[str, float]:
    """Accuracy by each rule by which trials can be judged.

    Args:
        evaluation: Results of an evaluation stage.

    Returns:
        For each set the mean over its languages; of several languages each as `SET/LANGUAGE` too.
    """
    found = {}
    for name, languages in evaluation.sets.items():
        shares = {language: score.accuracy for language, score in languages.items()}
        found[name] = sum(shares.values()) / len(shares)
        if len(shares) > 1:
            found |= {f"{name}/{language}": share for language, share in shares.items()}
    return found


def _judged(scores: Mapping[str, float], objective: str) -> float:
    """The score by the objective, which may name the one language of a set."""
    return scores.get(objective, scores[objective.partition("/")[0]])


def _training(stage: str, manifest: Mapping[str, Any]) -> results.Training:
    found = results.read(stage, manifest["results"])
    assert isinstance(found, results.Training)
    return found


def _gpu_hours(stage: str, manifest: Mapping[str, Any]) -> float:
    """GPU hours of a training, with those of a shorter one that it would have gone through."""
    found = results.read(stage, manifest["results"])
    before = found.continues if isinstance(found, results.Training) else None
    seconds = manifest["seconds"] + (before.seconds if before else 0.0)
    return worktime.hours(seconds, results.usage(manifest["results"])).gpu


def _price(spec: Spec, gpu_hours: float) -> float:
    """Dollars for the queries that a configuration needs, and for training on them."""
    bought = 0 if spec.real.placement == "only" else spec.learned_queries + spec.held_back
    return bought * spec.costs.query_usd + gpu_hours * spec.costs.gpu_hour_usd
