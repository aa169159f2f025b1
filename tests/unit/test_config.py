"""The spec: what loads, what is refused and in which words, and how variants unfold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from raythief import config
from raythief.config import LANGUAGES, Spec, Variant, expand, load, merge, nest, validate
from raythief.errors import UserError


def loaded(folder: Path, text: str, *overrides: str) -> Spec:
    file = folder / "spec.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, overrides)


def refused(folder: Path, text: str, *overrides: str) -> str:
    """The one sentence that a spec is refused with, without the file's name."""
    with pytest.raises(UserError) as caught:
        loaded(folder, text, *overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence.removeprefix(f"{folder / 'spec.yaml'}: ")


def variants(spec: Spec) -> dict[str, Spec]:
    return {variant.name: variant.spec for variant in expand(spec)}


# --- misspelt keys ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("querys: {}", "querys is no field; did you mean `queries`?"),
        ("queries: {cuont: 3}", "queries.cuont is no field; did you mean `count`?"),
        ("extractor: {modl: a}", "extractor.modl is no field; did you mean `model`?"),
        (
            "victim: {training: {epoch: 3}}",
            "victim.training.epoch is no field; did you mean `epochs`?",
        ),
        (
            "resources: {inference: {worker: 3}}",
            "resources.inference.worker is no field; did you mean `workers`?",
        ),
        (
            "corpus: {source: miniature, sentence: 3}",
            "corpus.sentence is no field; did you mean `sentences`?",
        ),
        (
            "real: {train: {source: files, path: a, label: null}}",
            "real.train.label is no field; did you mean `labels`?",
        ),
        (
            "evaluation: {sets: {mine: {source: hub, splitt: test}}}",
            "evaluation.sets.mine.splitt is no field; did you mean `split`?",
        ),
        (
            "sweep: {parameters: {queries.count: {gird: [1]}}}",
            "sweep.parameters.queries.count.gird is no field; did you mean `grid`?",
        ),
        (
            "variants: {a: {real.fractoin: 0}}",
            "variants.a: real.fractoin is no field; did you mean `fraction`?",
        ),
    ],
)
def test_a_misspelt_key_is_told_with_its_path_and_the_nearest_field(
    tmp_path: Path, text: str, sentence: str
):
    assert refused(tmp_path, f"name: x\n{text}") == sentence


def test_a_key_like_no_other_is_told_with_all_that_could_stand_there(tmp_path: Path):
    assert refused(tmp_path, "name: x\nqueries: {zzz: 1}") == (
        "queries.zzz is no field; choose from count, replaced_words, positions, seed"
    )


def test_a_field_of_another_source_is_not_offered(tmp_path: Path):
    sentence = refused(tmp_path, "name: x\ncorpus: {source: files, path: a, split: train}")
    assert sentence == "corpus.split is no field; choose from source, path, column, cleaning"


def test_a_set_that_is_called_like_a_source_keeps_its_place_in_the_path(tmp_path: Path):
    text = "name: x\nevaluation: {sets: {miniature: {source: miniature, cuont: 3}}}"
    assert refused(tmp_path, text) == (
        "evaluation.sets.miniature.cuont is no field; did you mean `count`?"
    )


def test_every_fault_gets_a_line_of_its_own(tmp_path: Path):
    file = tmp_path / "spec.yaml"
    file.write_text("name: x\nqueries: {count: 0}\nvictm: {}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(file)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{file}: ") for line in lines)


# --- wrong values -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("queries: {count: many}", "queries.count"),
        ("queries: {count: -1}", "queries.count"),
        ("queries: {count: 0}", "queries.count"),
        ("queries: {count: 2.5}", "queries.count"),
        ("queries: {count: }", "queries.count"),
        ("queries: 5", "queries"),
        ("queries: {replaced_words: -3}", "queries.replaced_words"),
        ("queries: {positions: twice}", "queries.positions"),
        ("seed: -1", "seed"),
        ("seeds: [0, -1]", "seeds.1"),
        ("seeds: [3, 3]", "seeds"),
        ("seeds: []", "seeds"),
        ("title: 5", "title"),
        ("paper: table3", "paper"),
        ("real: {fraction: 1.5}", "real.fraction"),
        ("extractor: {training: {epochs: .inf}}", "extractor.training.epochs"),
        ("extractor: {training: {learning_rate: .nan}}", "extractor.training.learning_rate"),
        ("extractor: {training: {warmup: 1.0}}", "extractor.training.warmup"),
        ("extractor: {training: {betas: [0.9, 1.0]}}", "extractor.training.betas.1"),
        ("extractor: {training: {betas: [-0.1, 0.9]}}", "extractor.training.betas.0"),
        ("resources: {training: {workers: -1}}", "resources.training.workers"),
        ("resources: {training: {workers: 2, gpus: 0.5}}", "resources.training"),
        ("resources: {inference: {gpus: 1.5}}", "resources.inference"),
        ("resources: {inference: {gpus: 2}}", "resources.inference"),
        ("resources: {training: {gpus: 2}}", "resources.training"),
        ("serve: {gpus: 2}", "serve"),
        ("inference: {attention: flash_attention_2, precision: float32}", "inference"),
        ("resources: {inference: {gpus: 0, accelerator: T4}}", "resources.inference"),
        ("resources: {inference: {workers: 0, gpu_memory: 16}}", "resources.inference"),
        ("resources: {training: {accelerator: T4, gpu_memory: 16}}", "resources.training"),
        ("costs: {utilisation: 1.1}", "costs.utilisation"),
        ("corpus: {source: fles}", "corpus"),
        ("corpus: {column: text}", "corpus.source"),
        ("victim: {labels: [entailment, neutral]}", "victim.labels.2"),
        ("victim: {labels: [entailment, entailment, neutral]}", "victim.labels"),
        ("victim: {labels: [entailment, neutral, LABEL_2]}", "victim.labels.2"),
        ("miniature: {languages: [en, xx]}", "miniature.languages.1"),
        ("evaluation: {sets: {}}", "evaluation.sets"),
        ("evaluation: {sets: {a/b: {source: miniature}}}", "evaluation.sets"),
        ("evaluation: {sets: {..: {source: miniature}}}", "evaluation.sets"),
        ("miniature: {languages: []}", "miniature.languages"),
        ("miniature: {languages: [en, en]}", "miniature.languages"),
        ("sweep: {parameters: {seed: {uniform: [1]}}}", "sweep.parameters.seed.uniform.1"),
    ],
)
def test_a_wrong_value_is_told_with_the_path_of_its_field(tmp_path: Path, text: str, field: str):
    sentence = refused(tmp_path, f"name: x\n{text}")
    assert sentence.startswith((f"{field}: ", f"{field} is missing"))


def test_a_wrong_value_is_repeated(tmp_path: Path):
    assert refused(tmp_path, "name: x\nqueries: {count: -7}").endswith("not -7")
    assert refused(tmp_path, "name: x\nqueries: {count: many}").endswith("not 'many'")


def test_an_unknown_language_is_told_with_the_known_ones(tmp_path: Path):
    sentence = refused(
        tmp_path, "name: x\nevaluation: {sets: {a: {source: miniature, languages: [en, tlh]}}}"
    )
    assert sentence.startswith("evaluation.sets.a.languages.1: ")
    assert all(f"'{language}'" in sentence for language in LANGUAGES)
    assert sentence.endswith("not 'tlh'")


@pytest.mark.parametrize("name", ["", "a b", "../up", "-x", "x/y", "a" * 65])
def test_a_name_that_can_not_be_a_folder_is_refused(tmp_path: Path, name: str):
    assert refused(tmp_path, f"name: {name!r}").startswith("name: ")


def test_a_spec_without_a_name_is_refused(tmp_path: Path):
    assert refused(tmp_path, "seed: 1") == "name: field required"


@pytest.mark.parametrize("text", ["queries: {count: yes}", "extractor: {training: {epochs: true}}"])
def test_yes_and_true_are_no_numbers(tmp_path: Path, text: str):
    assert "not true" in refused(tmp_path, f"name: x\n{text}")


def test_a_source_that_is_not_named_is_asked_for(tmp_path: Path):
    assert refused(tmp_path, "name: x\ncorpus: {column: text}") == (
        "corpus.source is missing; choose from hub, files, miniature"
    )


# --- impossible combinations ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field", "word"),
    [
        ("real: {placement: only}", "real", "fraction"),
        ("real: {train: {source: miniature, languages: [de]}}", "real", "`en`"),
        ("real: {train: {source: files, path: a, languages: [en, de]}}", "real.train", "`{lang"),
        ("victim: {model: 'miniature:english'}", "victim", "training"),
        ("miniature: {languages: [de]}", "miniature", "`en`"),
        ("sweep: {parameters: {seed: {grid: [1], choice: [2]}}}", "sweep.parameters.seed", "one"),
        ("sweep: {parameters: {seed: {}}}", "sweep.parameters.seed", "exactly one"),
        ("sweep: {parameters: {seed: {grid: []}}}", "sweep.parameters.seed", "empty"),
        ("sweep: {parameters: {seed: {uniform: [2, 1]}}}", "sweep.parameters.seed", "lower bound"),
        ("sweep: {parameters: {seed: {loguniform: [0, 1]}}}", "sweep.parameters.seed", "above 0"),
        ("sweep: {parameters: {seed: {randint: [3, 3]}}}", "sweep.parameters.seed", "lower bound"),
        (
            "sweep: {parameters: {seed: {grid: [1], when: {seeds: [1]}}, seeds: {grid: [1]}}}",
            "sweep",
            "parameters.seed.when names `seeds`, which is no parameter before it",
        ),
        ("sweep: {cost: true}", "sweep", "set searcher to optuna"),
        ("sweep: {cost: true, searcher: optuna, asha: {}}", "sweep", "leave out one of them"),
        ("sweep: {repeats: 2, asha: {}}", "sweep", "leave out one of them"),
    ],
)
def test_an_impossible_combination_is_told(tmp_path: Path, text: str, field: str, word: str):
    sentence = refused(tmp_path, f"name: x\n{text}")
    assert sentence.startswith(f"{field}: ")
    assert word in sentence


def test_a_sweep_can_not_select_on_a_test_split(tmp_path: Path):
    text = "name: x\nsweep: {parameters: {queries.count: {grid: [1]}}, objective: %s}"
    assert "`xnli`, a test split" in refused(tmp_path, text % "xnli")
    assert "did you mean `mnli`?" in refused(tmp_path, text % "mnlii")
    assert loaded(tmp_path, text % "mnli").sweep.objective == "mnli"
    assert loaded(tmp_path, text % "mnli/en").sweep.objective == "mnli/en"
    assert "evaluation.sets.mnli has no `de`" in refused(tmp_path, text % "mnli/de")


def test_the_figure_is_of_pairs_that_are_there(tmp_path: Path):
    text = "name: x\nqueries: {count: 500}\nfigure2: {count: %s, real: %s}"
    assert loaded(tmp_path, text % (500, "xnli")).figure2.real == "xnli"
    assert "did you mean `mnli`?" in refused(tmp_path, text % (500, "mnlii"))
    assert "asks for 501 queries, and there are 500" in refused(tmp_path, text % (501, "mnli"))
    german = "evaluation: {sets: {mnli: {source: miniature, languages: [de]}}}"
    assert "which has no English" in refused(tmp_path, f"{german}\n{text % (500, 'mnli')}")


def test_no_variant_can_turn_a_sweep_onto_a_test_split(tmp_path: Path):
    sentence = refused(
        tmp_path,
        "name: x\n"
        "evaluation: {sets: {dev: {source: miniature, split: validation}}}\n"
        "sweep: {objective: dev, parameters: {queries.count: {grid: [1]}}}\n"
        "variants: {a: {evaluation.sets.dev.split: test}}\n",
    )
    assert sentence.startswith("variants.a: ")
    assert "test split" in sentence


def test_a_spec_can_not_be_changed_once_it_is_loaded(tmp_path: Path):
    spec = loaded(tmp_path, "name: x")
    with pytest.raises(ValueError, match="frozen"):
        spec.queries.count = 5  # type: ignore[misc]


# --- YAML -------------------------------------------------------------------------------------


def test_numbers_may_be_written_as_physicists_do(tmp_path: Path):
    parameters = "{costs.gpu_flops: {grid: [1e-5, -3E+14, 2e3]}}"
    text = f"name: x\nsweep: {{objective: mnli, parameters: {parameters}}}"
    choice = loaded(tmp_path, text).sweep.parameters["costs.gpu_flops"]
    assert choice.grid == (1e-5, -3e14, 2000.0)
    spec = loaded(tmp_path, "name: x", "extractor.training.learning_rate=1e-5")
    assert spec.extractor.training.learning_rate == 1e-5


def test_a_word_that_only_begins_like_a_number_stays_a_word(tmp_path: Path):
    assert loaded(tmp_path, "name: 2e-model").name == "2e-model"


@pytest.mark.parametrize(
    "text",
    ["name: x\nseed: 1\nseed: 2", "name: x\nqueries: {count: 1, count: 2}", "name: x\n'name': y"],
)
def test_a_repeated_key_is_refused_with_its_line(tmp_path: Path, text: str):
    line = text.count("\n") + 1
    sentence = refused(tmp_path, text)
    assert sentence.startswith(f"line {line} repeats the key `")


@pytest.mark.parametrize(
    "text",
    [
        "variants: {5: {}}",
        "variants: {a: {queries: {5: 1}}}",
        "variants: {no: {}}",
        "? [a, b]\n: 1",
        "? {a: b}\n: 1",
    ],
)
def test_a_key_that_is_no_text_is_refused_with_its_line(tmp_path: Path, text: str):
    sentence = refused(tmp_path, f"name: x\n{text}")
    assert sentence.startswith("line 2 has the key `")
    assert "quotes" in sentence


def test_anchors_and_merge_keys_work_and_may_be_overridden(tmp_path: Path):
    spec = loaded(
        tmp_path,
        "name: x\n"
        "victim: {training: &t {steps: 7, batch_size: 3}}\n"
        "extractor: {training: {<<: *t, batch_size: 4}}\n",
    )
    assert spec.victim.training is not None
    assert (spec.victim.training.steps, spec.victim.training.batch_size) == (7, 3)
    assert (spec.extractor.training.steps, spec.extractor.training.batch_size) == (7, 4)


def test_tags_that_would_run_code_are_refused(tmp_path: Path):
    canary = tmp_path / "canary"
    sentence = refused(tmp_path, f"name: !!python/object/apply:os.mkdir ['{canary}']")
    assert sentence.startswith("not YAML in line 1")
    assert not canary.exists()


@pytest.mark.parametrize("text", ["name: [", "name: x\n---\nname: y", "a: b: c", "name: \x01"])
def test_what_is_no_yaml_is_told(tmp_path: Path, text: str):
    assert refused(tmp_path, text).startswith("not YAML")


@pytest.mark.parametrize("text", ["", "- a", "5", "text"])
def test_what_is_no_mapping_is_told(tmp_path: Path, text: str):
    assert refused(tmp_path, text) == "a spec is a mapping of fields to values"


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(UserError, match="cannot be read") as caught:
            load(path)
        assert str(path) in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path):
    file = tmp_path / "spec.yaml"
    file.write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match=r"spec\.yaml: is not UTF-8 text"):
        load(file)


# --- overrides --------------------------------------------------------------------------------


def test_an_override_reaches_any_depth_and_leaves_its_neighbours(tmp_path: Path):
    spec = loaded(
        tmp_path,
        "name: x\nextractor: {training: {steps: 5}}",
        "extractor.training.learning_rate=1e-5",
        "queries.count=12",
    )
    assert spec.extractor.training.learning_rate == 1e-5
    assert spec.extractor.training.steps == 5
    assert spec.queries.count == 12


def test_the_value_of_an_override_is_yaml(tmp_path: Path):
    spec = loaded(
        tmp_path,
        "name: x\ntitle: old\nvictim: {training: {steps: 5}}",
        "title=null",
        "seeds=[1, 2]",
        "extractor={model: miniature:english}",
        "extractor.training.freeze_embeddings=true",
        "victim.training=null",
        "storage=s3://bucket/a=b",
    )
    assert spec.title is None
    assert spec.seeds == (1, 2)
    assert spec.extractor.model == "miniature:english"
    assert spec.extractor.training.freeze_embeddings is True
    assert spec.victim.training is None
    assert spec.storage == "s3://bucket/a=b"


def test_the_last_override_of_a_field_counts(tmp_path: Path):
    assert loaded(tmp_path, "name: x\nseed: 1", "seed=2", "seed=3").seed == 3


@pytest.mark.parametrize("override", ["seed", "=3", ""])
def test_an_override_without_field_or_value_is_refused(tmp_path: Path, override: str):
    assert refused(tmp_path, "name: x", override) == (
        f"--set {override}: write it as field.path=value"
    )


def test_a_fault_in_an_override_is_told_like_one_in_the_file(tmp_path: Path):
    assert refused(tmp_path, "name: x", "queries.cuont=5") == (
        "queries.cuont is no field; did you mean `count`?"
    )
    assert refused(tmp_path, "name: x", "queries.count=[").startswith("--set queries.count=[: not")


@pytest.mark.parametrize("overrides", [("corpus.source=files", "corpus.path=a.txt"),
                                       ("corpus.path=a.txt", "corpus.source=files")])  # fmt: skip
def test_overrides_may_name_a_new_source_in_any_order(tmp_path: Path, overrides: tuple[str, str]):
    spec = loaded(tmp_path, "name: x\ncorpus: {source: miniature, sentences: 5}", *overrides)
    assert spec.corpus.model_dump(exclude_unset=True) == {"source": "files", "path": "a.txt"}


# --- variants ---------------------------------------------------------------------------------

BASE = """
name: x
real: {train: {source: miniature, count: 30}, fraction: 0.5}
corpus: {source: miniature, sentences: 7}
"""


def test_a_spec_without_variants_is_one_row_of_its_own_name(tmp_path: Path):
    (only,) = expand(loaded(tmp_path, BASE))
    assert only.name == "x"
    assert only.spec.real.fraction == 0.5


def test_variants_change_only_the_fields_that_they_name(tmp_path: Path):
    spec = loaded(
        tmp_path,
        BASE + "variants:\n"
        "  plain: {}\n"
        "  dotted: {real.fraction: 0.1, real.placement: during}\n"
        "  nested: {real: {fraction: 0.1, placement: during}}\n"
        "  mixed: {real: {train.count: 9}}\n",
    )
    found = variants(spec)
    assert list(found) == ["plain", "dotted", "nested", "mixed"]
    assert found["plain"].real == spec.real
    assert found["dotted"] == found["nested"]
    assert (found["dotted"].real.fraction, found["dotted"].real.placement) == (0.1, "during")
    assert found["dotted"].real.train == spec.real.train
    assert found["mixed"].real.train.model_dump()["count"] == 9
    assert found["mixed"].real.fraction == 0.5


@pytest.mark.parametrize(
    "changes",
    [
        "{corpus: {source: files, path: a.txt}}",
        "{corpus.source: files, corpus.path: a.txt}",
        "{corpus.path: a.txt, corpus.source: files}",
    ],
)
def test_a_variant_of_another_source_drops_the_fields_of_the_old_one(tmp_path: Path, changes: str):
    found = variants(loaded(tmp_path, BASE + f"variants: {{a: {changes}}}"))
    assert found["a"].corpus.model_dump(exclude_unset=True) == {"source": "files", "path": "a.txt"}


@pytest.mark.parametrize(
    "changes",
    ["{corpus.source: miniature, corpus.domain: foreign}",
     "{corpus.domain: foreign, corpus.source: miniature}"],
)  # fmt: skip
def test_a_variant_of_the_same_source_keeps_the_other_fields(tmp_path: Path, changes: str):
    corpus = variants(loaded(tmp_path, BASE + f"variants: {{a: {changes}}}"))["a"].corpus
    assert corpus.model_dump() == {"source": "miniature", "sentences": 7, "domain": "foreign"}


def test_every_variant_is_repeated_for_every_seed(tmp_path: Path):
    spec = loaded(tmp_path, BASE + "seeds: [4, 2]\nvariants: {a: {}, b: {queries.count: 3}}")
    rows = [(row.name, row.spec.seed, row.spec.queries.count) for row in expand(spec)]
    assert rows == [("a", 4, 392_702), ("a", 2, 392_702), ("b", 4, 3), ("b", 2, 3)]


def test_rows_hold_no_variants_and_no_seeds_of_their_own(tmp_path: Path):
    spec = loaded(tmp_path, BASE + "seeds: [4, 2]\nvariants: {a: {}}")
    for row in expand(spec):
        assert row.spec.variants == {}
        assert row.spec.seeds is None
        assert [again.spec for again in expand(row.spec)] == [row.spec]


@pytest.mark.parametrize("field", ["name: y", "storage: elsewhere", "seeds: [1, 2]", "title: t",
                                   "paper: table1", "costs.query_usd: 1", "sweep.samples: 3",
                                   "variants: {}"])  # fmt: skip
def test_a_variant_can_not_change_what_holds_for_all_rows(tmp_path: Path, field: str):
    sentence = refused(tmp_path, BASE + f"variants: {{a: {{{field}}}}}")
    assert sentence.startswith(f"variants.a: {field.partition(':')[0].partition('.')[0]} holds")


def test_a_variant_may_set_the_seed_unless_the_spec_repeats_itself(tmp_path: Path):
    text = BASE + "variants: {a: {seed: 5}}"
    assert variants(loaded(tmp_path, text))["a"].seed == 5
    assert "seed holds for all rows" in refused(tmp_path, text + "\nseeds: [1, 2]")


def test_a_variant_may_be_optional_and_its_spec_is_as_it_was(tmp_path: Path):
    plain, optional = (
        list(expand(loaded(tmp_path, BASE + f"variants: {{a: {{seed: 5{more}}}}}")))
        for more in ("", ", optional: true")
    )
    assert [row.optional for row in (*plain, *optional)] == [False, True]
    assert plain[0].spec == optional[0].spec
    wrong = BASE + "variants: {a: {optional: maybe}}"
    assert refused(tmp_path, wrong) == "variants.a: optional: write true or false"


def test_a_fault_in_a_variant_is_told_when_the_spec_is_loaded(tmp_path: Path):
    assert refused(tmp_path, BASE + "variants: {ok: {}, bad: {real: {fraction: 2}}}").startswith(
        "variants.bad: real.fraction: "
    )


def test_loading_unfolding_and_loading_again_is_the_same(tmp_path: Path):
    (row,) = expand(loaded(tmp_path, BASE))
    again = validate(row.spec.model_dump(mode="json", exclude_unset=True), "again")
    assert again == row.spec
    assert isinstance(row, Variant)


def test_merging_leaves_both_sides_alone():
    base: Mapping[str, Any] = {"a": {"b": 1, "c": [1]}, "d": 2}
    change: Mapping[str, Any] = {"a": {"b": 5}, "e": {"f": 1}}
    assert merge(base, change) == {"a": {"b": 5, "c": [1]}, "d": 2, "e": {"f": 1}}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}
    assert change == {"a": {"b": 5}, "e": {"f": 1}}


def test_lists_are_replaced_not_lengthened():
    assert merge({"a": [1, 2]}, {"a": [3]}) == {"a": [3]}


def test_dotted_keys_become_a_tree_at_any_depth():
    assert nest({"a.b.c": 1, "a.d": {"e.f": 2}, "a.b.g": 3}) == {
        "a": {"b": {"c": 1, "g": 3}, "d": {"e": {"f": 2}}}
    }


# --- places -----------------------------------------------------------------------------------


def test_data_lie_where_the_spec_says_else_the_environment_else_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(config.DATA_ROOT_VARIABLE, raising=False)
    assert loaded(tmp_path, "name: x").root == Path()
    monkeypatch.setenv(config.DATA_ROOT_VARIABLE, "/env")
    assert loaded(tmp_path, "name: x").root == Path("/env")
    assert loaded(tmp_path, "name: x\ndata_root: /spec").root == Path("/spec")


# --- the reference ----------------------------------------------------------------------------


def reachable(tree: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Paths of all fields in the JSON schema of a spec: another way to the same list."""
    schema = Spec.model_json_schema()

    def walk(node: Mapping[str, Any], path: str) -> set[str]:
        if "$ref" in node:
            return walk(schema["$defs"][node["$ref"].rpartition("/")[2]], path)
        found = set()
        for name, inner in node.get("properties", {}).items():
            found |= {f"{path}{name}"} | walk(inner, f"{path}{name}.")
        if isinstance(node.get("additionalProperties"), Mapping):
            found |= walk(node["additionalProperties"], f"{path}NAME.")
        for kind in ("anyOf", "oneOf", "allOf"):
            for inner in node.get(kind, ()):
                found |= walk(inner, path)
        return found

    return walk(schema, prefix)


def test_the_reference_lists_every_field():
    assert {path for path, *_ in config.fields()} == reachable({})


def test_every_field_of_the_reference_has_a_type_a_default_and_a_meaning():
    for path, kind, default, meaning in config.fields():
        assert kind, path
        assert default or path == "variants", path
        assert meaning.strip(), path
        assert len(meaning) > 10, path


def test_the_defaults_of_the_reference_are_the_true_ones():
    shown = {path: default for path, _, default, _ in config.fields()}
    assert shown["queries.count"] == "392702"
    assert shown["extractor.training.learning_rate"] == "1e-05"
    assert shown["extractor.training.freeze_embeddings"] == "false"
    assert shown["vocabulary.top_k"] == "null"
    assert shown["name"] == "required"
    assert shown["extractor.training.betas"] == "[0.9, 0.98]"


# --- specs that extend others -----------------------------------------------------------------


def test_a_spec_is_laid_over_the_one_that_it_extends(tmp_path: Path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "root.yaml").write_text("name: root\nseed: 4\nqueries: {count: 5}")
    (tmp_path / "shared" / "base.yaml").write_text("extends: root.yaml\nqueries: {seed: 6}")
    spec = loaded(tmp_path, "extends: shared/base.yaml\nname: x\nqueries: {count: 7}", "seed=8")
    assert (spec.name, spec.seed) == ("x", 8)
    assert (spec.queries.count, spec.queries.seed) == (7, 6)


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("none.yaml", "cannot be read"),
        ("spec.yaml", "extends this file in turn"),
        ("other.yaml", "extends this file in turn"),
        ("[a.yaml]", "name one spec file"),
    ],
)
def test_a_spec_that_can_not_be_extended_is_told(tmp_path: Path, base: str, sentence: str):
    (tmp_path / "other.yaml").write_text("extends: spec.yaml")
    assert sentence in refused(tmp_path, f"extends: {base}\nname: x")


# --- selection and soft labels ----------------------------------------------------------------


@pytest.mark.parametrize("where", ["victim", "extractor", "real"])
def test_weights_are_never_selected_on_a_test_split(where: str) -> None:
    tree = {"name": "a", where: {"training": {"selection": {"on": "xnli"}}}}
    with pytest.raises(UserError, match=rf"{where}\.training\.selection\.on names `xnli`, a test"):
        config.validate(tree, "spec")
    tree[where]["training"]["selection"]["on"] = "mnli"  # a validation split
    config.validate(tree, "spec")
    tree[where]["training"]["selection"]["on"] = "mmli"
    with pytest.raises(UserError, match="lacks; did you mean `mnli`"):
        config.validate(tree, "spec")


def test_soft_labels_must_be_bought() -> None:
    tree: dict[str, Any] = {"name": "a", "extractor": {"training": {"soft_labels": {}}}}
    with pytest.raises(UserError, match=r"set victim\.scores to true"):
        config.validate(tree, "spec")
    config.validate({**tree, "victim": {"scores": True}}, "spec")


def test_a_custom_api_must_say_where_its_probabilities_are() -> None:
    api = {"url": "https://a.test", "preset": "custom", "request": "{rows}", "row": "{premise}",
           "answers": "@", "label": "@"}  # fmt: skip
    with pytest.raises(UserError, match=r"victim: scores: say in api\.scores"):
        config.validate({"name": "a", "victim": {"api": api, "scores": True}}, "spec")
    api["scores"] = "p"
    config.validate({"name": "a", "victim": {"api": api, "scores": True}}, "spec")


def test_a_batch_in_tokens_holds_two_of_the_longest_pairs() -> None:
    tree = {"name": "a", "extractor": {"training": {"batch_tokens": 511}}}
    with pytest.raises(UserError, match="batch_tokens is below twice max_tokens"):
        config.validate(tree, "spec")


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("victim.api.url=https://me:HIDDEN@x.test", "url holds a user or a key; use key_env"),
        ("victim.api.url=https://x.test/?api_key=HIDDEN", "url holds a user or a key; use key_env"),
        ("victim.api.headers.X-Api-Key=HIDDEN", "headers.X-Api-Key is secret; use key_env"),
        ("tracking.mlflow=https://me:HIDDEN@x.test", "mlflow holds a user or a key, which the run"),
    ],
)
def test_a_key_in_a_spec_is_refused_and_not_repeated(tmp_path: Path, field: str, sentence: str):
    said = refused(tmp_path, "name: x\nvictim: {api: {url: 'https://x.test'}}", field)
    assert sentence in said
    assert "HIDDEN" not in said


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_no_worker_would_tell_is_refused(tmp_path: Path, name: str):
    alone = "resources.training.workers=0"
    told = [f"tracking.{name}=somewhere", f"{alone[:-1]}1"]
    assert loaded(tmp_path, "name: x", alone)
    assert loaded(tmp_path, "name: x", *told)
    said = refused(tmp_path, "name: x", told[0], alone)
    assert f"tracking.{name} is told by workers alone, and resources.training.workers is 0" in said
    row = f"name: x\nvariants: {{a: {{}}, b: {{{alone.replace('=', ': ')}}}}}"
    assert f"variants.b: spec: tracking.{name} is told by" in refused(tmp_path, row, *told)
