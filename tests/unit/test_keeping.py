"""Records and reports: a run's lie apart from others', and none replaces one that knows more."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import exceptions
from rich.console import Console
from test_report import Page, Storage, evaluation, flat, full, small, text_of, written

from conftest import SMALL, folder_of
from raythief import artifacts, capacity, clusters, runs
from raythief.config import Variant, validate
from raythief.errors import UserError
from raythief.report import KnowsLessError, diagram, figures
from raythief.results import Evaluation
from raythief.stages import Stage

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing, which takes nearly all of the time."""
    monkeypatch.setattr(diagram, "draw", lambda *_: "<svg></svg>")
    drawings = ("accuracy_bars", "accuracy_dots", "histograms", "label_bars", "loss_curves")
    for name in (*drawings, "stage_bars"):
        monkeypatch.setattr(figures, name, lambda *_: "<svg></svg>")


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- runs ---------------------------------------------------------------------------------------


class Experiment:
    """A run of two rows whose stages are made up: each is an evaluation and nothing else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said = io.StringIO()
        self.broken: set[str] = set()
        """Rows whose evaluation fails."""
        self.fault: Exception | None = None
        """How it does; None is a mistake of the user's."""

    def rows(self, accuracy: float, names: tuple[str, ...] = ("a", "b")) -> list[runs.Row]:
        """The rows, each as a stage of so much accuracy."""
        spec = validate(SMALL, "spec")

        def stage(name: str) -> Stage:
            def build(*_: Any) -> Evaluation:
                if name in self.broken:
                    raise self.fault or UserError(f"evaluation of {name}: broken")
                return Evaluation(**evaluation(flat(accuracy, accuracy), 600))

            return Stage("evaluation", {"row": name, "accuracy": accuracy}, build)

        return [runs.Row(Variant(name=one, spec=spec), {"evaluation": stage(one)}) for one in names]

    def run(self, monkeypatch: pytest.MonkeyPatch, accuracy: float, **options: Any) -> Path:
        """Run it; returns the report's page."""
        monkeypatch.setattr(runs, "rows", lambda *_: self.rows(accuracy, **options))
        monkeypatch.setattr(clusters, "connect", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(capacity, "check", lambda *_: None)
        monkeypatch.setattr(capacity, "told_of", lambda _: contextlib.nullcontext())
        spec = validate({**SMALL, "storage": str(self.root)}, "spec")
        self.said = io.StringIO()
        record = runs.run(spec, console=Console(file=self.said, width=500))
        return Path(record["report"])

    def lose(self, page: Path, row: int) -> Path:
        """Lose the evaluation of a row."""
        record = json.loads((page.parent / "run.json").read_text())
        folder = self.root / record["rows"][row]["stages"]["evaluation"]["path"]
        for file in folder.iterdir():
            file.unlink()
        return folder


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path / "storage")


def test_runs_of_one_name_that_differ_lie_apart_and_the_name_means_the_newest(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = experiment.run(monkeypatch, 0.8)
    before = contents(first.parent)
    second = experiment.run(monkeypatch, 0.6)
    assert first.parents[1] == second.parents[1] == experiment.root / "runs" / "small"
    assert contents(first.parent) == before
    assert folder_of(experiment.root, "small") == second.parent
    home = second.parents[1] / "index.html"
    assert "60.0" in text_of(home.parent) and "80.0" not in text_of(home.parent)
    links = [target for _, target in Page(home).links if not target.startswith("#")]
    assert links and all((home.parent / target).is_file() for target in links)
    experiment.run(monkeypatch, 0.8)  # found again, and the newest by now
    assert folder_of(experiment.root, "small") == first.parent
    assert "80.0" in text_of(home.parent)


def test_a_run_that_fails_leaves_the_good_record_and_report(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = experiment.run(monkeypatch, 0.9)
    before = contents(experiment.root / "runs")
    assert "90.0" in text_of(page.parent)
    experiment.lose(page, 1)
    experiment.broken = {"b"}
    with pytest.raises(UserError, match="evaluation of b: broken"):
        experiment.run(monkeypatch, 0.9)
    now = contents(experiment.root / "runs")
    told = json.loads(now.pop(f"small/{page.parent.name}/run-failed.json"))
    assert now == before
    assert [row["status"] for row in told["rows"]] == ["done", "failed"]
    assert f"{page}: stays as it is, for it has 1 row that failed now" in experiment.said.getvalue()
    experiment.broken = set()
    experiment.run(monkeypatch, 0.9)
    assert not (page.parent / "run-failed.json").exists()


def test_the_name_and_its_page_mean_one_run(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a run found all its rows, but its report knew more than one would now."""
    first = experiment.run(monkeypatch, 0.8)
    second = experiment.run(monkeypatch, 0.6)
    knows = json.loads((first.parent / "report.json").read_text())
    knows["knows"].append("a, seed 0: labels")
    (first.parent / "report.json").write_text(json.dumps(knows))
    experiment.run(monkeypatch, 0.8)
    assert "stays as it is, for one written now would lack a, seed 0: labels" in (
        experiment.said.getvalue()
    )
    assert folder_of(experiment.root, "small") == second.parent
    assert "60.0" in text_of(second.parents[1])


def test_a_run_with_nothing_to_show_does_not_take_the_name(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = experiment.run(monkeypatch, 0.9)
    home = contents(good.parents[1])
    experiment.broken = {"a", "b"}
    with pytest.raises(UserError):
        experiment.run(monkeypatch, 0.7)
    now = contents(good.parents[1])
    assert {name: now[name] for name in home} == home
    [other] = {*now} - {*home} - {name for name in now if not name.endswith("run.json")}
    assert json.loads(now[other])["rows"][0]["error"] == "evaluation of a: broken"
    experiment.broken = {"a"}  # one row is something
    with pytest.raises(UserError):
        experiment.run(monkeypatch, 0.7)
    assert folder_of(experiment.root, "small").name == other.partition("/")[0]


def test_a_part_of_a_run_is_another_run(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--only` shows no other rows, and takes none from the report that has all."""
    whole = experiment.run(monkeypatch, 0.9)
    before = contents(whole.parent)
    assert experiment.run(monkeypatch, 0.9, names=("b",)) != whole
    assert contents(whole.parent) == before


def test_what_ended_a_worker_is_one_sentence_in_the_terminal_and_in_the_record(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment.broken, experiment.fault = {"a"}, exceptions.NodeDiedError("node 3\nis\ngone")
    with pytest.raises(UserError, match="a machine of the cluster was lost"):
        experiment.run(monkeypatch, 0.9)
    record = json.loads((folder_of(experiment.root, "small") / "run.json").read_text())
    assert len(record["rows"][0]["error"].splitlines()) == 1


def test_a_full_disk_takes_no_report_and_says_why_the_rows_failed(
    experiment: Experiment, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment.root = small_disk
    page = experiment.run(monkeypatch, 0.9)
    before = contents(page.parent)
    experiment.lose(page, 0)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(512))
            file.flush()
    with pytest.raises(UserError, match=f"no space is left on the disk of {small_disk}"):
        experiment.run(monkeypatch, 0.9)
    assert {name: contents(page.parent)[name] for name in before} == before
    filler.unlink()
    assert experiment.run(monkeypatch, 0.9) == page


# --- what a run is ------------------------------------------------------------------------------


def rows_of(**changes: Any) -> list[runs.Row]:
    """Rows of a small spec with fields changed."""
    return runs.rows(validate({**SMALL, **changes}, ""))


def test_what_changes_no_result_leaves_it_the_same_run() -> None:
    own = runs.fingerprint(rows_of())
    assert re.fullmatch("[0-9a-f]{16}", own)
    same: list[dict[str, Any]] = [
        {"title": "Another"},
        {"storage": "elsewhere"},
        {"resources": {"training": {"workers": 2}, "concurrent_stages": 4}},
        {"costs": {"query_usd": 1.0, "budget": 5}},
        {"serve": {"port": 9000}},
        {"tracking": {"mlflow": "http://x"}},
        {"inference": {"tokens_per_batch": 512}},
    ]
    assert [change for change in same if runs.fingerprint(rows_of(**change)) != own] == []


def test_what_changes_a_result_makes_it_another_run(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    files = {"corpus": {"source": "files", "path": str(text)}}
    text.write_text("The dog sleeps.\n")
    other: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"seeds": [0, 1]},
        {"queries": {"count": 599}},
        {"queries": {"count": 599}, "until": "labels"},
        {"until": "labels"},
        {"extractor": {**SMALL["extractor"], "training": {"steps": 41}}},
        {"variants": {"a": {}}},
        files,
    ]
    prints = [runs.fingerprint(rows_of(**change)) for change in other]
    text.write_text("The cat sleeps.\n")
    prints.append(runs.fingerprint(rows_of(**files)))
    prints.append(runs.fingerprint(rows_of(), sweep={"reduction": 3}))
    assert len(set(prints)) == len(other) + 2


# --- reports ------------------------------------------------------------------------------------


def test_a_report_is_not_replaced_by_one_that_knows_less(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.917, 0.7), after=(0.9, 0.8))
    folder = storage.report()
    before = contents(folder)
    assert "91.5" in text_of(folder)
    manifest = tmp_path / storage.rows[0]["stages"]["evaluation"]["path"] / "manifest.json"
    kept = manifest.read_text()
    manifest.write_text("{")
    with pytest.raises(KnowsLessError, match=r"would lack gibberish, seed 0: evaluation; .* more"):
        written(tmp_path, "made-up")
    assert contents(folder) == before
    manifest.write_text(kept)
    assert written(tmp_path, "made-up") == folder
    manifest.unlink()
    (folder / "report.json").unlink()  # as the sentence says, for who wants it all the same
    assert "Not known here: evaluation of gibberish, seed 0" in text_of(
        written(tmp_path, "made-up")
    )


def test_a_report_may_learn(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.7))
    storage.row("1 % after", status="running")
    storage.report()
    storage.rows.pop()
    storage.done("1 % after", 0, flat(0.9, 0.8), flat(0.97, 0.33), after=True)
    assert "1 % after" in text_of(storage.report())


@pytest.mark.parametrize("recorded", [True, False])
def test_labels_that_were_archived_are_told_where_they_would_stand(
    tmp_path: Path, recorded: bool
) -> None:
    """Whether the record of a later run still names them, or does not."""
    storage = small(tmp_path, gibberish=(0.8, 0.7))
    entry = storage.rows[0]["stages"]["labels"]
    (tmp_path / entry["path"] / "manifest.json").unlink()
    if not recorded:
        del storage.rows[0]["stages"]["labels"]
    folder = storage.report()
    text = text_of(folder)
    told = "labels of gibberish, seed 0 (see Failures and gaps)"
    assert f"This report lacks what 1 artifact told: {told}." in text
    assert f"What the victim says about gibberish Not known here: {told}." in text
    assert entry["path"] in text[text.index("What could not be read.") :]
    assert "80.0" in text
    assert "Not known here: labels" in (folder / "report.md").read_text()
    assert entry["path"] in json.loads((folder / "report.json").read_text())["lacks"][0]


def test_a_report_that_lacks_nothing_says_nothing_of_it(tmp_path: Path) -> None:
    folder = full(tmp_path, seeds=(0,)).report()
    assert "This report lacks" not in text_of(folder)
    assert "Not known here" not in text_of(folder)
    assert json.loads((folder / "report.json").read_text())["lacks"] == []


# --- which run ----------------------------------------------------------------------------------


def test_the_report_of_the_newest_or_of_another_run_is_written(
    experiment: Experiment,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., tuple[int, str, str]],
) -> None:
    pages = [experiment.run(monkeypatch, accuracy) for accuracy in (0.8, 0.6)]
    root = str(experiment.root)
    names = [f"small/{page.parent.name}" for page in pages]
    for page, name in [(pages[1], "small"), *zip(pages, names, strict=True)]:
        page.unlink()
        assert call("report", root, name) == (0, f"report: {page}\n", "")
        assert page.is_file()
    assert "60.0" in text_of(experiment.root / "runs" / "small")  # still the newest
    known = ", ".join(sorted(page.parent.name for page in pages))
    code, out, err = call("report", root, "small/0000000000000000")
    assert (code, out) == (2, "")
    assert err.startswith("raythief: small/0000000000000000: there is no such run on ")
    assert err.endswith(f"there are: {known}\n")
    assert call("report", root, "other/0000000000000000")[2].endswith("none of that name\n")


def test_a_report_that_would_know_less_is_one_line(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.7))
    storage.report()
    (tmp_path / storage.rows[0]["stages"]["evaluation"]["path"] / "manifest.json").unlink()
    code, out, err = call("report", str(tmp_path), "made-up")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "stays as it is, for one written now would lack gibberish, seed 0: evaluation" in err


def test_a_report_on_a_disk_that_is_read_only_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., tuple[int, str, str]],
) -> None:
    small(tmp_path, gibberish=(0.8, 0.7)).record()

    def refuse(_: object, path: str, __: bytes) -> None:
        raise OSError(30, "Read-only file system", path)

    monkeypatch.setattr(artifacts.Storage, "write_bytes", refuse)
    code, out, err = call("report", str(tmp_path), "made-up")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the file system is read-only" in err


def test_a_run_from_before_there_were_fingerprints_is_still_read(tmp_path: Path) -> None:
    storage: Storage = small(tmp_path, gibberish=(0.8, 0.7))
    record = storage.record()
    record.rename(tmp_path / "runs" / "made-up" / "run.json")
    (tmp_path / "runs" / "made-up" / "newest.json").unlink()
    record.parent.rmdir()
    assert written(tmp_path, "made-up") == tmp_path / "reports" / "made-up"
    assert "80.0" in text_of(tmp_path / "reports" / "made-up")
