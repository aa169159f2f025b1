"""What stages find is typed once, for who writes it and who reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from conftest import SMALL
from raythief import pipeline
from raythief.config import merge, validate
from raythief.results import RESULTS, Evaluation, Labels, Score, Training, Vocabulary, read, usage

NAMES = Path(__file__).parent.parent / "resources" / "results.json"


def test_names_on_storage_stay_what_they_are() -> None:
    """Manifests that lie on users' storage hold them; a new one is added, none is renamed."""
    known = json.loads(NAMES.read_text(encoding="utf-8"))
    assert {stage: sorted(kind.model_fields) for stage, kind in RESULTS.items()} == known


def test_every_stage_has_its_type() -> None:
    every = {"real.fraction": 0.1, "figure2": {"model": "miniature:english", "count": 10}}
    every |= {"evaluation.sets.mine": {"source": "queries", "count": 10}, "figure2.real": "xnli"}
    from raythief.config import nest

    stages = pipeline.stages(validate(merge(SMALL, nest(every)), "spec"))
    assert {stage.name for stage in stages.values()} <= set(RESULTS)


def test_a_name_that_is_none_is_a_mistake_of_who_writes_it() -> None:
    with pytest.raises(ValidationError, match="final_lost"):
        Training(final_lost=0.5)  # type: ignore[call-arg]


def test_what_other_versions_wrote_is_read_as_far_as_it_is_known() -> None:
    found = read("vocabulary", {"words": 3, "of_tomorrow": 1})
    assert found == Vocabulary(words=3)
    assert read("of_tomorrow", {}) is None
    old = {"label_counts": {"neutral": 2}, "spent": 2, "workers": 1}
    labels = read("labels", old)
    assert isinstance(labels, Labels)
    assert (labels.answers, labels.spent, labels.answered) == (None, 2, 2)
    assert usage({**old, "of_tomorrow": 1}).workers == 1


def test_results_come_back_from_a_manifest_as_they_were() -> None:
    right = np.array([1, 0, 1], np.int8)
    score = Score(count=3, accuracy=2 / 3, right=right, recall={"neutral": None})
    written = Evaluation(sets={"xnli": {"en": score}}, device="CPU")
    found = read("evaluation", json.loads(json.dumps(written.plain())))
    assert isinstance(found, Evaluation)
    assert found.sets["xnli"]["en"].right.tolist() == right.tolist()
    assert found.plain() == written.plain()
