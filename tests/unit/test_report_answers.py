"""What an owner of an API reads first, what it cost, and the picture of how it was done."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from test_report import (
    HOSTILE,
    Storage,
    drawn,  # noqa: F401
    flat,
    miniature,
    sheet,
    small,
    text_of,
    undrawn,  # noqa: F401
)

from raythief.config import LABELS, LANGUAGES
from raythief.report import diagram, figures, headline
from raythief.report.diagram import Box, bend
from raythief.report.languages import FAMILIES, OWN_NAMES, SCRIPTS
from raythief.report.records import collect


def summary(storage: Storage) -> str:
    """The page's first section, up to the facts."""
    text = text_of(storage.report())
    return text[text.index("How much of the model") : text.index("Experimentmade-up")]


def priced(root: Path, **levels: tuple[float, float]) -> Storage:
    storage = small(root, **levels)
    storage.spec["costs"] = {"query_usd": 0.002, "gpu_hour_usd": 3.0}
    for row in storage.rows:
        storage.change(row, "labels", spent=20010, rejected=10)
    return storage


# --- the three questions ------------------------------------------------------------------------


def test_the_page_begins_with_what_can_be_carried_off_for_how_much_and_what_stops_it(
    tmp_path: Path,
) -> None:
    said = summary(priced(tmp_path, gibberish=(0.84, 0.67), foreign=(0.33, 0.33)))
    how_much, rest = said.split("For how much?")
    price, obstacles = rest.split("What stops it?")
    # (84.0 - 33.3) / (97.0 - 33.3), and half its interval by hand: 2.9 and 1.4 points of the two.
    half = 100 * math.hypot(0.02935, 0.796 * 0.01389) / 0.63667
    kept = f"80 ± {half:.0f} %"
    beyond = "34.0 ± 5.3 points"
    short = f"{kept} of its lead over chance in English, {beyond} beyond it in 2 other languages"
    assert how_much.split("?")[1].strip().startswith(f"In miniature: {short}")
    assert (
        f"A model extracted with gibberish alone (“gibberish”) keeps {kept} of the "
        f"victim's lead over chance in English and stands {beyond} above the victim on average in "
        "2 other languages (95 % intervals, 1 seed). The extractor is right on 84.0 ± 2.9 % of "
    ) in how_much
    assert "The victim is right on 97.0" in how_much
    assert "a guess would be right on 33.3 %" in how_much
    assert "give the same answer on 80.0 % of the items in English" in how_much
    assert "these numbers say nothing of real ones" in how_much
    assert (
        "$40.02 One extraction took 20,010 answers of the victim ($40.02 at $0.002 each)" in price
    )
    assert "40 s of CPU workers (no GPU) to fine-tune the copy" in price
    assert "Only words of another domain" in obstacles
    assert "“foreign words”) the copy is right on 33.0 ± 3.8 %, no more than a guess" in obstacles
    assert "It worked without probabilities" in obstacles
    assert "No defence was tried in this run" in obstacles


@pytest.mark.parametrize(
    ("levels", "short", "said"),
    [
        (
            {"gibberish": (0.8, 0.6), "foreign": (0.6, 0.5)},
            "Nothing that was tried",
            "Words of another domain than the victim's do not",
        ),
        ({"gibberish": (0.33, 0.33)}, "It did not succeed", "no better than chance"),
        ({"gibberish": (0.40, 0.35)}, "It hardly succeeded", "the copy has but 10 ± 6 % of the"),
        ({"gibberish": (0.8, 0.6), "victim": (0.33, 0.33)}, "Not known", "nothing was to be stopp"),
        (
            {"gibberish": (0.8, 0.6), "after": (0.9, 0.7)},
            "Not tested",
            "real data as well gets further: 90.0 ± 2.4 % in English (“1 % after”)",
        ),
        (
            {"gibberish": (0.8, 0.6), "after": (0.81, 0.7)},
            "Not tested",
            "real data as well gets hardly further: 81.0",
        ),
    ],
)
def test_what_stops_it_is_only_what_was_seen_to(
    tmp_path: Path, levels: dict[str, tuple[float, float]], short: str, said: str
) -> None:
    obstacles = summary(priced(tmp_path, **levels)).split("What stops it?")[1]
    assert obstacles.strip().startswith(short)
    assert said in obstacles
    works = short in ("Nothing that was tried", "Not tested")
    assert ("It worked without probabilities" in obstacles) == works


def test_probabilities_that_were_given_are_not_said_to_be_withheld(tmp_path: Path) -> None:
    storage = priced(tmp_path, gibberish=(0.8, 0.6))
    storage.spec["victim"]["scores"] = True
    assert "It worked without probabilities" not in summary(storage)


def test_gpu_hours_of_the_copy_are_in_its_price(tmp_path: Path) -> None:
    storage = priced(tmp_path, gibberish=(0.8, 0.6))
    storage.change(storage.rows[0], "extractor", device="NVIDIA H100", speed={"workers": 360})
    price = summary(storage).split("For how much?")[1]
    assert price.strip().startswith("$52.09")  # 40.25 s on 360 GPUs at $3 an hour
    assert "4.0 GPU hours ($12.07) to fine-tune the copy" in price


def test_the_copy_s_price_holds_the_shorter_training_that_it_went_on_from(tmp_path: Path) -> None:
    storage = priced(tmp_path, gibberish=(0.8, 0.6))
    before = {"path": "extractor/short", "steps": 300, "seconds": 80.5}
    storage.change(storage.rows[0], "extractor", continues=before)
    folder = storage.report()
    assert "2 min 1 s of CPU workers (no GPU) to fine-tune the copy" in text_of(folder)
    hours = {line["artifact"]: line for line in sheet(folder, "hours.csv")}
    assert float(hours["extractor/short"]["seconds"]) == 80.5
    assert hours["extractor/short"]["built_now"] == "false"
    assert float(hours["extractor/short"]["cpu_hours"]) == pytest.approx(80.5 / 3600)
    storage.manifest("extractor/short", {"steps": 300, "device": "cpu"}, 80.5)
    storage.row("short", stages={"extractor": {"path": "extractor/short"}})
    counted = [line["artifact"] for line in sheet(storage.report(), "hours.csv")]
    assert counted.count("extractor/short") == 1


def test_without_a_price_the_number_of_answers_is_the_price(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.6))
    storage.change(storage.rows[0], "labels", spent=20000)
    price = summary(storage).split("For how much?")[1]
    assert price.strip().startswith("20,000 answers One extraction took 20,000 answers")
    assert "$" not in price.split("What stops it?")[0]


def test_the_fewest_queries_that_were_tried_are_told_with_their_price(tmp_path: Path) -> None:
    variants: dict[str, dict[str, Any]] = {"all": {}, "few": {"extractor.queries": 1000}}
    storage = Storage(
        tmp_path, miniature(variants, costs={"query_usd": 0.002}, queries={"count": 20000})
    )
    storage.done("all", 0, flat(0.8, 0.7), flat(0.9, 0.33))
    storage.done("few", 0, flat(0.6, 0.5), flat(0.9, 0.33))
    said = summary(storage)
    worth = "47 ± 7 % of the victim's lead over chance"
    assert f"The fewest tried, 1,000 ($2.00), bring {worth} in English." in said
    assert "What stops it? Nothing that was tried" in said
    assert f"With 1,000 queries instead of 20,000 the copy has {worth}." in said
    assert "No other defence was tried" in said


def test_a_limit_on_queries_stops_it_where_so_few_leave_no_more_than_chance(tmp_path: Path) -> None:
    variants: dict[str, dict[str, Any]] = {"all": {}, "few": {"extractor.queries": 100}}
    storage = Storage(tmp_path, miniature(variants, queries={"count": 20000}))
    storage.done("all", 0, flat(0.8, 0.7), flat(0.9, 0.33))
    storage.done("few", 0, flat(0.34, 0.33), flat(0.9, 0.33))
    said = summary(storage)
    assert "What stops it? Only a limit of 100 queries" in said
    assert "the copy has 34.0 ± 3.8 % of the items right, which is not above chance." in said


@pytest.mark.parametrize(
    ("levels", "short", "said"),
    [
        (  # what was told as "41.0 % in English, 33.5 % in 2 other languages"
            {"gibberish": (0.41, 0.335)},
            "12 ± 6 % of its lead over chance in English, no more than chance in 2 other",
            "keeps 12 ± 6 % of the victim's lead over chance in English and is not above chance",
        ),
        (
            {"gibberish": (0.34, 0.335)},
            "no more than chance in English and in 2 other languages",
            "is not above chance in English and in 2 other languages",
        ),
        (
            {"gibberish": (0.8, 0.7), "victim": (0.33, 0.33)},
            "nothing can be said",
            "The victim is not above chance in English, so it has no lead",
        ),
        (
            {"gibberish": (0.8, 0.5), "victim": (0.9, 0.6)},
            "82 ± 7 % of its lead over chance in English, 10.0 ± 5.6 points short of it in 2 other",
            "and stands 10.0 ± 5.6 points below the victim",
        ),
        (
            {"gibberish": (0.8, 0.6), "victim": (0.9, 0.58)},
            "no further than it in 2 other languages",
            "is no further than the victim (2.0 ± 5.5 points apart) on average in 2",
        ),
    ],
)
def test_accuracy_is_not_told_as_what_was_carried_off(
    tmp_path: Path, levels: dict[str, tuple[float, float]], short: str, said: str
) -> None:
    first = summary(small(tmp_path, **levels)).split("For how much?")[0].split("What stops it?")[0]
    answer = first.split("?", 1)[1]
    assert short in answer.partition("odel extracted")[0]
    assert said in answer
    english = 100 * levels["gibberish"][0]
    assert f"The extractor is right on {english:.1f} ±" in answer


def test_a_victim_that_was_not_evaluated_gives_no_share(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.6))
    del storage.rows[0]["stages"]["victim_evaluation"]
    said = summary(storage)
    assert said.split("?")[1].strip().startswith("In miniature: not known")
    assert "how much of it was carried off is not known. The extractor is right on 80.0" in said
    assert "The victim was not evaluated." in said


def test_the_share_of_the_lead_is_as_sure_as_seeds_and_items_let_it_be(tmp_path: Path) -> None:
    storage = Storage(tmp_path, miniature({"gibberish": {}}))
    for seed, level in enumerate((0.5, 0.7, 0.9)):
        storage.done("gibberish", seed, flat(level, 0.33), flat(0.9, 0.33), count=30000)
    shares = [(level - 1 / 3) / (0.9 - 1 / 3) for level in (0.5, 0.7, 0.9)]
    half = 100 * 4.3027 * (shares[2] - shares[1]) / math.sqrt(3)
    said = f"keeps 65 ± {half:.0f} % of the victim's lead over chance in English"
    assert said in summary(storage)


def test_a_run_at_full_size_is_not_called_a_miniature(tmp_path: Path) -> None:
    storage = Storage(tmp_path, {"variants": {"gibberish": {}}})
    storage.done("gibberish", 0, flat(0.8, 0.7), flat(0.9, 0.33))
    said = summary(storage)
    assert "miniature" not in said and "made up" not in said
    assert said.split("?")[1].strip().startswith("82 ± 7 % of its lead over chance in English")


def test_collapsed_trainings_are_counted_at_the_top(tmp_path: Path) -> None:
    storage = priced(tmp_path, gibberish=(0.8, 0.6))
    assert "collapsed" not in summary(storage)
    storage.change(storage.rows[0], "extractor", collapse=["one label is given to all"])
    assert "1 training collapsed" in summary(storage)


def test_the_terminal_is_told_the_first_answer(tmp_path: Path) -> None:
    storage = priced(tmp_path, gibberish=(0.84, 0.67))
    storage.record()
    said = headline(*storage.place)
    start = "In miniature: a model extracted with gibberish alone (“gibberish”) keeps 80"
    assert said.startswith(start)


# --- costs --------------------------------------------------------------------------------------


def test_hours_count_each_artifact_once_times_its_workers_and_gpus(tmp_path: Path) -> None:
    storage = priced(tmp_path, gibberish=(0.8, 0.6), after=(0.9, 0.7))
    for row in storage.rows:
        storage.change(row, "extractor", device="NVIDIA H100", gpus=0.25, speed={"workers": 8})
        storage.change(row, "labels", device="NVIDIA H100", gpus=0.5, workers=4)
    folder = storage.report()
    hours = {line["artifact"]: line for line in sheet(folder, "hours.csv")}
    own, shared = (storage.rows[0]["stages"][name]["path"] for name in ("extractor", "labels"))
    assert float(hours[own]["gpu_hours"]) == pytest.approx(40.25 * 8 * 0.25 / 3600)
    assert float(hours[shared]["gpu_hours"]) == pytest.approx(5.0 * 4 * 0.5 / 3600)
    assert float(hours[shared]["cpu_hours"]) == 0
    gpu = sum(float(line["gpu_hours"]) for line in hours.values())
    assert gpu == pytest.approx((2 * 40.25 * 2 + 5.0 * 2) / 3600)
    text = text_of(folder)
    assert f"20,010 queries ($40.02) and {gpu:.3f} GPU hours, ${3 * gpu:.2f} at $3.00" in text


def test_what_lay_on_storage_already_is_said_to_have_cost_nothing(tmp_path: Path) -> None:
    storage = priced(tmp_path, gibberish=(0.8, 0.6))
    for stage in storage.rows[0]["stages"].values():
        stage["reused"] = True
    text = text_of(storage.report())
    assert "Of 8 artifacts, 8 lay on storage already and cost this run nothing" in text


def test_seconds_that_were_built_are_those_of_stages_without_a_column_too(tmp_path: Path) -> None:
    storage = priced(tmp_path, gibberish=(0.8, 0.6))
    for stage in storage.rows[0]["stages"].values():
        stage["reused"] = True
    storage.manifest("sanity/a", {}, 3210.0)
    storage.rows[0]["stages"]["sanity"] = {"path": "sanity/a"}
    page = text_of(storage.report())
    [row] = re.findall(r"gibberish 0 [\d ↺.,]*↺ (3,210)\b", page)
    assert row


def test_a_purchase_that_rows_share_is_paid_once(tmp_path: Path) -> None:
    storage = priced(tmp_path, gibberish=(0.8, 0.6), during=(0.9, 0.7), foreign=(0.33, 0.33))
    bought = sheet(storage.report(), "queries.csv")
    assert [(line["stage"], line["spent"], line["usd"]) for line in bought] == [
        ("labels", "20010", "40.02")
    ] * 2


# --- what the victim said, and the words --------------------------------------------------------


def test_labels_of_both_vocabularies_stand_side_by_side_with_what_they_tell(
    tmp_path: Path,
) -> None:
    storage = priced(tmp_path, gibberish=(0.8, 0.6), foreign=(0.33, 0.33))
    counts = dict(zip(LABELS, (5000, 10000, 5000), strict=True))
    storage.change(storage.rows[0], "labels", label_counts=counts)
    storage.change(
        storage.rows[1], "labels", label_counts=dict(zip(LABELS, (0, 9, 0), strict=True))
    )
    folder = storage.report()
    text = text_of(folder)
    assert "Of the queries of “gibberish” 50.0 % get one and the same answer" in text
    assert "a label tells 1.50 bits at most; of “foreign words” 100.0 %" in text
    assert "0.00 bits" in text
    bits = {line["queries_of"]: float(line["bits"]) for line in sheet(folder, "labels.csv")}
    assert bits == {"gibberish": pytest.approx(1.5), "foreign words": 0.0}


def test_one_vocabulary_alone_explains_no_drop(tmp_path: Path) -> None:
    assert "Of the queries of" not in text_of(small(tmp_path, gibberish=(0.8, 0.6)).report())


def test_only_the_first_words_that_another_vocabulary_lacks_are_shown(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.6), foreign=(0.33, 0.33))
    own = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(200)]
    storage.change(storage.rows[0], "vocabulary", most_common=["the", "2013", *own])
    storage.change(storage.rows[1], "vocabulary", most_common=["the", own[0], "virus", "वायरस"])
    folder = storage.report()
    text = text_of(folder)
    assert f" gibberish foreign words {', '.join(own[1:31])} foreign words gibberish" in text
    assert "foreign words gibberish virus, वायरस" in text
    assert "among its 202 commonest" in text
    assert len(sheet(folder, "words.csv")) == 202 + 4


# --- languages ----------------------------------------------------------------------------------


def test_each_language_is_of_one_script_and_one_family() -> None:
    for groups in (SCRIPTS, FAMILIES):
        members = [code for group in groups.values() for code in group]
        assert sorted(members) == sorted(LANGUAGES)
    assert set(OWN_NAMES) == set(LANGUAGES)


def test_means_by_script_and_family_are_those_of_their_languages(tmp_path: Path) -> None:
    scores = {code: 0.5 + 0.02 * i for i, code in enumerate(LANGUAGES)}
    storage = Storage(tmp_path, miniature({"gibberish": {}}))
    storage.done("gibberish", 0, {"xnli": scores}, flat(0.9, 0.33, LANGUAGES), count=300)
    folder = storage.report()
    means = {
        (line["by"], line["group"]): float(line["mean"])
        for line in sheet(folder, "groups-xnli.csv")
        if line["row"] == "gibberish"
    }
    assert means["script", "Cyrillic"] == pytest.approx((scores["bg"] + scores["ru"]) / 2)
    assert means["family", "Indo-Aryan"] == pytest.approx((scores["hi"] + scores["ur"]) / 2)
    text = text_of(folder)
    for own in OWN_NAMES.values():
        assert own in text


def test_differences_to_the_paper_are_kept_with_their_intervals(tmp_path: Path) -> None:
    storage = Storage(tmp_path, {"paper": "table2", "variants": {"XLMR-Large, 0 %": {}}})
    scores = dict.fromkeys(LANGUAGES, 0.75)
    storage.done("XLMR-Large, 0 %", 0, {"xnli": scores}, {"xnli": scores}, count=5010)
    lines = {line["language"]: line for line in sheet(storage.report(), "paper.csv")}
    assert set(lines) == {*LANGUAGES, "others"}
    english = {name: float(lines["en"][name]) for name in ("ours", "paper", "difference", "low")}
    assert english["paper"] == pytest.approx(0.77)
    assert english["difference"] == pytest.approx(english["ours"] - 0.77)
    alone = 1.96 * math.sqrt(0.75 * 0.25 / 5010)
    assert english["low"] < english["difference"] - alone


# --- the picture --------------------------------------------------------------------------------


def test_arrows_are_the_inputs_that_manifests_name(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.6), after=(0.9, 0.7))
    storage.record()
    boxes, edges = diagram.graph(collect(*storage.place))
    assert set(edges) == {
        ("corpus", "vocabulary"),
        ("vocabulary", "queries"),
        ("queries", "labels"),  # and not the vocabulary, which is all that queries are made of
        ("victim", "labels"),
        ("victim", "victim_evaluation"),
        ("queries", "extractor"),
        ("labels", "extractor"),
        ("encoders", "extractor"),  # given: no manifest of it
        ("extractor", "finetuned"),
        ("extractor", "evaluation"),
        ("finetuned", "evaluation"),
        ("victim_evaluation", "evaluation"),
    }
    amounts = {kind: box.artifacts for kind, box in boxes.items()}
    assert amounts["labels"] == 1 and amounts["extractor"] == 2 and amounts["encoders"] == 0


def test_the_pipeline_is_drawn_with_what_is_in_it(tmp_path: Path, drawn: None) -> None:  # noqa: F811
    storage = small(tmp_path, gibberish=(0.8, 0.6))
    file = tmp_path / storage.rows[0]["stages"]["labels"]["path"] / "manifest.json"
    content = json.loads(file.read_text())
    content["inputs"]["scales"] = {"stage": "scales", "fingerprint": "s"}
    file.write_text(json.dumps(content))
    storage.manifest("scales/s", {})
    storage.rows[0]["stages"][f"scales {HOSTILE}"] = {"path": "scales/s", "reused": False}
    folder = storage.report()
    drawing = (folder / "pipeline.svg").read_text()
    for word in ("extraction phase", "inference phase", "6,000 sentences", "20,000 bought"):
        assert word in drawing
    assert "scales &lt;script" in drawing and "<script" not in drawing  # nothing is left out
    reads = {line["stage"]: line["reads"].split(" ") for line in sheet(folder, "pipeline.csv")}
    assert {"queries", "victim"} < {*reads["labels"]}


def test_a_victim_behind_an_api_is_in_the_picture_too(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.6))
    for stage in ("victim", "victim_evaluation"):
        del storage.rows[0]["stages"][stage]
    storage.record()
    boxes, edges = diagram.graph(collect(*storage.place))
    assert boxes["victim"].artifacts == 0
    assert ("victim", "labels") in edges


def test_arrows_go_round_boxes() -> None:
    boxes = {name: Box(name, place=(i, 0)) for i, name in enumerate("abc")}
    assert bend("a", "b", boxes) == 0
    assert bend("a", "c", boxes) != 0
    del boxes["b"]
    assert bend("a", "c", boxes) == 0


def test_a_run_that_only_measures_distances_has_no_pipeline_of_extraction(tmp_path: Path) -> None:
    storage = small(tmp_path, gibberish=(0.8, 0.6))
    storage.rows[0]["stages"] = {
        name: entry
        for name, entry in storage.rows[0]["stages"].items()
        if name in ("corpus", "vocabulary", "queries")
    }
    assert "How it was done" not in text_of(storage.report())


def test_as_many_rows_as_a_table_has_are_told_apart() -> None:
    looks = [figures.style(i) for i in range(90)]
    assert len({(colour, hatch) for colour, hatch, _ in looks}) == 90
    assert len({(colour, marker) for colour, _, marker in looks}) == 90


def test_loss_curves_share_an_axis_that_holds_them_all(drawn: None) -> None:  # noqa: F811
    low, high = [(0, 1.0), (10, 0.5)], [(0, 30.0), (10, 20.0)]
    panels = [("low", [("seed 0", low)], 1.1), ("high", [("seed 0", high)], None)]
    assert ">30<" in figures.loss_curves(panels)


def test_chance_is_one_line_or_a_piece_for_each_language() -> None:
    seen: list[Any] = []
    draw = {"through": lambda *a, **_: seen.append(a), "across": lambda *a, **_: seen.append(a)}
    places = {"en": 0.0, "de": 1.0}
    assert figures._chance(**draw, places=places, chances={"en": 0.5, "de": 0.5}) == 50.0
    assert figures._chance(**draw, places=places, chances={"en": 0.5, "de": 0.25}) == 25.0
    assert seen == [(50.0,), ([50.0, 25.0], [-0.5, 0.5], [0.5, 1.5])]


def test_the_picture_in_the_docs_has_the_stages_of_table_2(drawn: None) -> None:  # noqa: F811
    docs = Path(__file__).parents[2] / "docs"
    spec = importlib.util.spec_from_file_location("docs_pipeline", docs / "pipeline.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def titles(svg: str) -> list[str]:
        return sorted(re.findall(r">([^<>]+?)(?: × \d+)?</text>", svg))

    found = titles((docs / "pipeline.svg").read_text(encoding="utf-8"))
    assert found == titles(module.draw())
    assert {"corpus", "labels", "victim", "fine-tuned", "evaluation"} <= set(found)


def test_a_name_stands_once_beside_all_its_lines(tmp_path: Path) -> None:
    folder = small(tmp_path, gibberish=(0.8, 0.6), during=(0.9, 0.7)).report()
    page = (folder / "index.html").read_text(encoding="utf-8")
    confusions = page[page.index("<figcaption>Confusions") :]
    confusions = confusions[: confusions.index("</table>")]
    assert re.findall(r'rowspan="3">([^<]*)<', confusions) == [
        "victim (monolingual)",
        "gibberish",
        "1 % during",
    ]
    lines = confusions.split("<tr")[2:]
    assert [line.count("<th") + line.count("<td") for line in lines] == [8, 7, 7] * 3
