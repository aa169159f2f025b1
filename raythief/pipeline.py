"""From a spec to its stages, which ``building`` turns into artifacts.

    corpus -> vocabulary -> queries -> labels -> extractor -> evaluation
                                         ^           ^            ^
                                       victim    real data    labelled sets

Every variant of a spec is such a chain. Stages with equal fingerprints are one stage, so the
variants of a table share all that they can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from raythief import (
    alignment,
    analysis,
    answers,
    asking,
    cards,
    corpora,
    evaluation,
    holdout,
    hub,
    labeling,
    models,
    nli,
    preparation,
    results,
    sanity,
    training,
    translations,
    wordvectors,
)
from raythief.answers import Answers
from raythief.api import Remote
from raythief.artifacts import Artifact, hash_files
from raythief.config import (
    BILSTM,
    HELD_OUT,
    LANGUAGES,
    BiLstm,
    Corpus,
    Figure2,
    Language,
    Model,
    Pairs,
    Spec,
    Training,
    Victim,
    identity,
)
from raythief.errors import MissingFileError, UserError
from raythief.progress import Tell
from raythief.results import Results
from raythief.stages import Missing, Stage

_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")

_DEFAULT_INFERENCE = {
    "rows_per_shard": 2048, "max_tokens": 256, "precision": "auto", "attention": "auto",
    "compile": False,
}  # fmt: skip
"""What stands in the fingerprints of stages that ask an API, since these were fixed."""

SourceOf = Callable[[Mapping[str, Artifact]], models.Source | Remote]
T = TypeVar("T")


def stages(spec: Spec, *, missing_ok: bool = False) -> dict[str, Stage]:
    """The stages of one variant by role, each after those that it reads. Touches no network.

    Args:
        spec: The variant's.
        missing_ok: Whether files may be missing. Stages that read them can then be planned and
            not built; they say what they lack.

    Raises:
        MissingFileError: a local file that the spec names is not there.
        UserError: one is of no use.
    """
    return dict(_Chain(spec, missing_ok).roles())


@dataclass(frozen=True)
class _Encoder:
    """A model as stages see it: what identifies it, what it is made from, where it lies."""

    config: Mapping[str, Any]
    inputs: Mapping[str, Stage]
    source: SourceOf
    labels: tuple[Any, ...] | None = None
    classifies: bool = False
    """Whether it is a classifier already, whose head is then another than a new one."""


class _Chain:
    """Builds the stages of one spec."""

    def __init__(self, spec: Spec, missing_ok: bool = False) -> None:
        self.spec = spec
        self.missing_ok = missing_ok
        self.encoders = Stage(
            "encoders",
            {"miniature": identity(spec.miniature), "seed": spec.seed},
            lambda target, _, tell: preparation.pretrain(target, spec, tell),
        )
        self.sets: dict[str, tuple[Stage, tuple[Language, ...]]] = {
            name: (self._examples(pairs, f"evaluation.sets.{name}"), pairs.languages)
            for name, pairs in spec.evaluation.sets.items()
            if pairs.source != "queries"
        }
        """Labelled sets: those of real data at first, and of queries once their labels are laid
        out, after all that must not rest on these."""

    @cached_property
    def real(self) -> Stage:
        """The real data; its files need not be there where nothing is trained on it."""
        return self._examples(self.spec.real.train, "real.train")

    def roles(self) -> Iterator[tuple[str, Stage]]:
        """Yield the stages by role."""
        spec = self.spec
        figure2 = spec.figure2 if spec.real.placement != "only" else None
        used = [spec.victim, spec.extractor, *([figure2] if figure2 else [])]
        if any(model.model.startswith("miniature:") for model in used):
            yield "encoders", self.encoders
        for name, (examples, _) in self.sets.items():
            yield f"examples:{name}", examples
        if spec.victim.training or spec.real.fraction or figure2:
            yield "real", self.real

        victim = self._victim(spec.victim)
        if "model" in victim.inputs:
            yield "victim", victim.inputs["model"]
        judge = None
        measured = spec.victim.api.evaluate if spec.victim.api else "everything"
        if measured != "nothing" and self.sets:
            judge = self._evaluation("victim_evaluation", victim, measured == "english")
            yield "victim_evaluation", judge

        described = spec.extractor.bilstm if spec.extractor.model == BILSTM else None
        if described is None:
            encoder = self._encoder(spec.extractor, "extractor.model")
        else:
            words = self._words(described)
            yield "bilstm", words
            sentences = self._parallel(described)
            yield "parallel", sentences
            encoder = _Encoder(
                {"bilstm": "en"},
                {"words": words},
                lambda given: models.Source(artifact=given["words"], folder="en"),
            )
        real, labels = spec.real, None
        if real.placement != "only":
            corpus = self._corpus(spec.corpus)
            yield "corpus", corpus
            vocabulary = self._vocabulary(corpus)
            yield "vocabulary", vocabulary
            gibberish = self._queries(vocabulary)
            yield "queries", gibberish
            if figure2 is not None:
                yield from self._figure2(figure2, gibberish)
            gate = self._sanity(victim)
            if gate is not None:
                yield "sanity", gate
            labels = self._labels(gibberish, victim, gate)
            yield "labels", labels
            for name in spec.queries_sets:
                examples = self._held_back(name, labels)
                self.sets[name] = examples, ("en",)
                yield f"examples:{name}", examples
        gold = 0.0 if real.placement == "after" else real.fraction
        extractor = self._training("extractor", encoder, spec.extractor.training, gold, labels)
        yield "extractor", extractor
        if real.placement == "after" and real.fraction:
            extractor = self._training(
                "finetuned",
                _trained(extractor),
                real.training or spec.extractor.training,
                real.fraction,
                fresh_head=False,
            )
            yield "finetuned", extractor
        final = _trained(extractor)
        if described is not None:
            aligned = self._aligned(described, extractor, words, sentences)
            yield "aligned", aligned
            final = _trained(aligned, "model/{language}")
        yield "evaluation", self._evaluation("evaluation", final, judge=judge)

    def _corpus(self, corpus: Corpus) -> Stage:
        spec = self.spec
        config: dict[str, Any] = identity(corpus)
        if corpus.source == "hub":
            config["revision"] = hub.revision(corpus.dataset, corpus.revision, "corpus.dataset")
        elif corpus.source == "files":

            def found(_: str) -> dict[str, Path]:
                every = corpora.files(corpus, spec.root)
                return {f"{i:05d}": file for i, file in enumerate(every)}

            config["path"] = self._hashed(found, [corpus.path])
        else:
            config["seed"] = spec.seed
        return Stage(
            "corpus", config, lambda target, _, tell: preparation.corpus(target, spec, tell)
        )

    def _vocabulary(self, corpus: Stage) -> Stage:
        return Stage(
            "vocabulary",
            identity(self.spec.vocabulary),
            lambda target, given, tell: preparation.distribution(
                target, given["corpus"], self.spec, tell
            ),
            {"corpus": corpus},
        )

    def _queries(self, words: Stage) -> Stage:
        spec = self.spec
        seed = spec.seed if spec.queries.seed is None else spec.queries.seed
        sampling = spec.vocabulary.sampling
        config = {**identity(spec.queries), "sampling": sampling, "seed": seed}

        def build(target: Artifact, given: Mapping[str, Artifact], tell: Tell) -> Results:
            return preparation.gibberish(target, given["vocabulary"], spec, seed, tell)

        return Stage("queries", config, build, {"vocabulary": words}, version=2)

    def _victim(self, victim: Victim) -> _Encoder:
        """The black box: an API, a model as it is, or an encoder trained for the purpose."""
        api = victim.api
        if api is not None:
            config = {"api": api.identity or api.url, **api.protocol(), "labels": api.labels}
            return _Encoder(config, {}, lambda _: Remote.of(api, victim.scores))
        encoder = self._encoder(victim, "victim.model")
        if victim.training:
            return _trained(self._training("victim", encoder, victim.training, gold=1.0))
        return _Encoder(encoder.config, encoder.inputs, encoder.source, victim.labels)

    def _sanity(self, victim: _Encoder) -> Stage | None:
        """The gate before the purchase; a victim that was trained here names its own labels."""
        spec, count = self.spec, self.spec.victim.sanity.count
        english = [name for name, (_, languages) in self.sets.items() if "en" in languages]
        english.sort(key=lambda name: spec.evaluation.sets[name].split == "test")
        if not count or "model" in victim.inputs or not english:
            return None

        def build(target: Artifact, given: Mapping[str, Artifact], tell: Tell) -> Results:
            return sanity.build(
                target,
                given["examples"],
                one,
                victim.source(given),
                spec.victim,
                spec.inference,
                spec.resources,
                tell,
            )

        examples = self.sets[english[0]][0]
        asks = {"victim": victim.config, "labels": victim.labels}
        inputs = {"examples": examples, **victim.inputs}

        def stage(inference: Mapping[str, Any], *buys: Answers) -> Stage:
            config = {**asks, "inference": inference, "count": count}
            return Stage("sanity", config, build, inputs, buys=buys)

        one = self._asked(
            victim, answers.sample(examples.fingerprint, count), count, "sanity",
            former=self._former(stage, victim),
        )  # fmt: skip
        return stage(self._inference(victim), one)

    def _labels(self, gibberish: Stage, victim: _Encoder, gate: Stage | None) -> Stage:
        spec = self.spec

        def build(target: Artifact, given: Mapping[str, Artifact], tell: Tell) -> Results:
            return labeling.build(
                target,
                one,
                asking.Texts(given["queries"], "", gibberish=True),
                victim.source(given),
                victim.labels,
                spec.inference,
                spec.resources,
                tell,
                words=given["vocabulary"],
            )

        asks: dict[str, Any] = {"victim": victim.config, "labels": victim.labels}
        if self.scores:
            asks["scores"] = self.scores
        words = gibberish.inputs["vocabulary"]
        inputs = {"queries": gibberish, "vocabulary": words, **victim.inputs}
        waits_for = (gate,) if gate is not None else ()

        def stage(inference: Mapping[str, Any], *buys: Answers) -> Stage:
            config = {**asks, "inference": inference}
            return Stage("labels", config, build, inputs, version=2, buys=buys, waits_for=waits_for)

        texts = answers.gibberish(words.fingerprint, gibberish.config, gibberish.version)
        one = self._asked(
            victim, texts, spec.queries.count, "labels", self.scores,
            former=self._former(stage, victim),
        )  # fmt: skip
        return stage(self._inference(victim), one)

    @property
    def scores(self) -> Any:
        """What is wanted besides labels: nothing, or scores, of an API the path to them."""
        victim = self.spec.victim
        if not victim.scores:
            return None
        return victim.api.score_path() if victim.api else True

    @property
    def inference(self) -> dict[str, Any]:
        """How a model is run, as far as that may change its answers."""
        return identity(self.spec.inference, "tokens_per_batch")

    def _inference(self, model: _Encoder) -> dict[str, Any]:
        """The same, as it stands in the fingerprint of a stage that asks a model.

        An API never reads it. What stood there at its defaults when fingerprints were fixed stays,
        so that all that was made from such labels is found.
        """
        return dict(_DEFAULT_INFERENCE) if "api" in model.config else self.inference

    def _asked(
        self,
        model: _Encoder,
        texts: Mapping[str, Any],
        count: int,
        stage: str,
        scores: Any = None,
        former: Sequence[tuple[str, str]] = (),
    ) -> Answers:
        """What a stage asks of a model.

        Args:
            model: Who is asked.
            texts: What is answered.
            count: How many texts; 0 if that is not known.
            stage: Who asks.
            scores: Whether they are wanted.
            former: Fingerprints and folders of where an earlier version kept the answers.
        """
        inputs = {role: given.fingerprint for role, given in model.inputs.items()}
        who, shape = answers.asked(model.config, inputs, model.labels, self.inference, scores)
        places = tuple((stage, *place) for place in former)
        return Answers(who, shape, texts, count, stage, places)

    def _former(
        self, stage: Callable[[Mapping[str, Any]], Stage], model: _Encoder, folder: str = ""
    ) -> list[tuple[str, str]]:
        """Where an earlier version kept a stage's answers: there, how a model is run entered the
        fingerprint whoever answered.
        """
        every = [stage(how).fingerprint for how in (self.inference, self._inference(model))]
        return [(key, folder) for key in dict.fromkeys(every)]

    def _training(
        self,
        name: str,
        encoder: _Encoder,
        how: Training,
        gold: float,
        labels: Stage | None = None,
        fresh_head: bool = True,
    ) -> Stage:
        """Fine-tuning on bought labels, on a share ``gold`` of the real data, or on both."""
        spec = self.spec
        seed = spec.seed if how.seed is None else how.seed
        inputs = dict(encoder.inputs)
        if labels is not None:
            inputs |= {"queries": labels.inputs["queries"], "labels": labels}
        if gold:
            inputs["real"] = self.real
        languages: tuple[Language, ...] = ()
        if how.selection is not None and how.selection.on != HELD_OUT:
            name_of_set, _, only = how.selection.on.partition("/")
            inputs["judge"], languages = self.sets[name_of_set]
            languages = tuple(one for one in languages if only in ("", one))

        def build(target: Artifact, given: Mapping[str, Artifact], tell: Tell) -> Results:
            examples = []
            if labels is not None:
                first = spec.extractor.queries
                if spec.held_back:  # `first` counts rows with a label: rejected ones shift none in
                    most = holdout.answered(given["labels"], spec.queries.count - spec.held_back)
                    first = most if first is None else min(first, most)
                bought = training.Examples(given["queries"], labels=given["labels"], first=first)
                examples.append(bought)
            if gold:
                count = given["real"].read_table("en.parquet", ["id"]).num_rows
                ids = nli.nested_subset(count, gold, spec.seed)
                examples.append(training.Examples(given["real"], "en.parquet", ids=ids))
            source = encoder.source(given)
            assert isinstance(source, models.Source), "an API cannot be trained"
            judges = [
                training.Examples(given["judge"], f"{language}.parquet") for language in languages
            ]
            job = training.Job(
                target,
                source,
                fresh_head,
                tuple(examples),
                how,
                seed,
                spec.resources,
                tuple(judges),
                training.earlier(stage, target.storage, how),
                spec.name,
                spec.tracking,
            )
            found = training.train(job, tell)
            card = cards.card(config, found, given.get("labels"))
            target.write("model/README.md", card.encode())
            return found

        config = {
            "model": encoder.config,
            "training": {**identity(how, "tokens_per_micro_batch"), "seed": seed},
            "fresh_head": fresh_head,
            "real_fraction": gold,
            "real_seed": spec.seed if 0 < gold < 1 else None,
        }
        if fresh_head and encoder.classifies:
            config["head"] = "new"  # earlier versions kept the head that was there
        if labels is not None and spec.extractor.queries is not None:
            config["queries"] = spec.extractor.queries
        if labels is not None and spec.held_back:
            config["held_back"] = spec.held_back
        stage = Stage(name, config, build, inputs)
        return stage

    @cached_property
    def others(self) -> tuple[Language, ...]:
        """The languages of all evaluation sets, but English."""
        used = {one for _, languages in self.sets.values() for one in languages}
        return tuple(one for one in LANGUAGES if one in used and one != "en")

    def _words(self, how: BiLstm) -> Stage:
        """Word vectors and tokenizer of a BiLSTM in each language."""
        spec, languages = self.spec, ("en", *self.others)
        config = {**identity(how, "parallel", "alignment"), "languages": languages}
        if how.embeddings.source == "files":
            vectors = how.embeddings
            config["embeddings"]["path"] = self._hashed(
                lambda one: {one: wordvectors.file(vectors, one, spec.root)}, languages
            )
        else:
            config["seed"] = spec.seed
        return Stage(
            "bilstm",
            config,
            lambda target, _, tell: wordvectors.build(target, how, languages, spec, tell),
        )

    def _parallel(self, how: BiLstm) -> Stage:
        """Sentences and their translations."""
        spec, parallel, languages = self.spec, how.parallel, self.others
        config = {**identity(parallel), "languages": languages}
        if parallel.source == "files":

            def found(side: tuple[str, str]) -> dict[str, Path]:
                return {".".join(side): translations.file(parallel, side[1], side[0], spec.root)}

            sides = [(one, field) for one in languages for field in translations.named(parallel)]
            hashed = self._hashed(found, sides)
            config |= {"path": hashed, "english": parallel.english is not None}
        else:
            config["seed"] = spec.seed
        return Stage(
            "parallel",
            config,
            lambda target, _, tell: translations.build(
                target, parallel, languages, spec.root, spec.seed, tell
            ),
        )

    def _aligned(self, how: BiLstm, english: Stage, words: Stage, sentences: Stage) -> Stage:
        """The English BiLSTM, and one aligned to it for each other language."""
        spec, languages = self.spec, self.others
        seed = spec.extractor.training.seed
        seed = spec.seed if seed is None else seed

        def build(target: Artifact, given: Mapping[str, Artifact], tell: Tell) -> Results:
            return alignment.build(
                target,
                given["model"],
                given["words"],
                given["parallel"],
                languages,
                how.alignment,
                seed,
                spec.resources,
                tell,
            )

        config = {"alignment": identity(how.alignment), "languages": languages, "seed": seed}
        inputs = {"model": english, "words": words, "parallel": sentences}
        return Stage("aligned", config, build, inputs)

    def _evaluation(
        self, name: str, model: _Encoder, english_only: bool = False, judge: Stage | None = None
    ) -> Stage:
        spec = self.spec
        sets = {
            name: (examples, ("en",) if english_only else languages)
            for name, (examples, languages) in self.sets.items()
            if not english_only or "en" in languages
        }
        remote = "api" in model.config
        inputs = dict(model.inputs)
        inputs |= {f"examples:{name}": examples for name, (examples, _) in sets.items()}
        if judge is not None:
            inputs["judge"] = judge

        def build(target: Artifact, given: Mapping[str, Artifact], tell: Tell) -> Results:
            return evaluation.build(
                target,
                {
                    name: (given[f"examples:{name}"], languages)
                    for name, (_, languages) in sets.items()
                },
                wanted,
                model.source(given),
                model.labels,
                given.get("judge"),
                spec.inference,
                spec.resources,
                tell,
            )

        asks: dict[str, Any] = {"model": model.config, "labels": model.labels}
        if english_only:
            asks["languages"] = ["en"]

        def stage(inference: Mapping[str, Any], *buys: Answers) -> Stage:
            return Stage(name, {**asks, "inference": inference}, build, inputs, buys=buys)

        former = self._former(stage, model)
        wanted = {
            f"{title}/{language}": self._asked(
                model,
                answers.labelled(examples.fingerprint, language),
                nli.rows(spec.evaluation.sets[title], spec.root, f"evaluation.sets.{title}")
                if remote
                else 0,
                name,
                former=[(key, f"{title}/{language}") for key, _ in former] if remote else (),
            )
            for title, (examples, languages) in sets.items()
            for language in languages
        }
        return stage(self._inference(model), *(wanted.values() if remote else ()))

    def _figure2(self, how: Figure2, gibberish: Stage) -> Iterator[tuple[str, Stage]]:
        """Vectors of all real training pairs, of some other real ones and of some queries, and
        how far the latter two are from the first."""
        spec = self.spec
        encoder = self._encoder(how, "figure2.model")

        def vectors(
            pairs: Stage, chosen: Mapping[str, int], read: Callable[[Artifact], pa.Table]
        ) -> Stage:
            def build(target: Artifact, given: Mapping[str, Artifact], tell: Tell) -> Results:
                source = encoder.source(given)
                assert isinstance(source, models.Source), "an API gives no vectors"
                return analysis.embed(
                    target, read(given["pairs"]), source, spec.inference, spec.resources, tell
                )

            config = {
                "model": encoder.config,
                "pooling": "max",
                "inference": self.inference,
                **chosen,
            }
            return Stage("vectors", config, build, {**encoder.inputs, "pairs": pairs})

        count, seed = how.count, spec.seed
        inputs = {
            "train": vectors(self.real, {}, analysis.examples),
            "real": vectors(
                self.sets[how.real][0],
                {"count": count, "seed": seed},
                lambda pairs: analysis.sample(pairs, count, seed, how.real),
            ),
            "gibberish": vectors(
                gibberish, {"count": count}, lambda pairs: analysis.queries(pairs, count)
            ),
        }
        for name, stage in inputs.items():
            yield f"vectors:{name}", stage

        def build(target: Artifact, given: Mapping[str, Artifact], tell: Tell) -> Results:
            return analysis.compare(
                target,
                given["train"],
                given["real"],
                given["gibberish"],
                how.distance,
                spec.resources,
                tell,
            )

        yield "figure2", Stage("figure2", {"distance": how.distance}, build, inputs)

    def _examples(self, pairs: Pairs, where: str) -> Stage:
        spec = self.spec
        config: dict[str, Any] = identity(pairs)
        if pairs.source == "hub":
            config["revision"] = hub.revision(pairs.dataset, pairs.revision, f"{where}.dataset")
        elif pairs.source == "files":
            config["path"] = self._hashed(
                lambda one: {one: nli.file(pairs, one, spec.root, where)}, pairs.languages
            )
        else:
            config["seed"] = spec.seed

        def build(target: Artifact, _: Mapping[str, Artifact], tell: Tell) -> Results:
            rows, labels = 0, None
            for i, language in enumerate(pairs.languages):
                table = nli.read(pairs, language, spec.root, spec.seed, where)
                labels = table["label"] if labels is None else labels
                if not table["label"].equals(labels):
                    raise UserError(
                        f"{where}: the labels of `{language}` are not those of "
                        f"`{pairs.languages[0]}`; give the same items in each language, in order"
                    )
                target.write_table(f"{language}.parquet", table)
                rows += table.num_rows
                tell(i + 1, len(pairs.languages), language)
            return results.Examples(pairs=rows, languages=len(pairs.languages))

        return Stage("examples", config, build)

    def _held_back(self, name: str, labels: Stage) -> Stage:
        """The last bought queries, with the victim's answers."""
        pairs = self.spec.evaluation.sets[name]
        start = self.spec.queries.count - self.spec.queries_sets[name]

        def build(target: Artifact, given: Mapping[str, Artifact], tell: Tell) -> Results:
            where = f"evaluation.sets.{name}"
            return holdout.build(target, given["queries"], given["labels"], start, where)

        inputs = {"queries": labels.inputs["queries"], "labels": labels}
        return Stage("examples", identity(pairs), build, inputs)

    def _encoder(self, model: Model, where: str) -> _Encoder:
        name = model.model
        if name in ("miniature:english", "miniature:multilingual"):
            kind = name.partition(":")[2]
            return _Encoder(
                {"miniature": kind},
                {"encoders": self.encoders},
                lambda given: models.Source(artifact=given["encoders"], folder=kind),
            )
        try:
            source = models.find(model, self.spec.root, where)
        except MissingFileError as error:
            return _Encoder(self._missing(error), {}, lambda _: models.Source())
        if source.path is not None:
            folder = Path(source.path)
            found = sorted(file for kind in _MODEL_FILES for file in folder.glob(kind))
            kinds = models.config_of(folder, where).get("architectures") or []
            return _Encoder(
                {"files": hash_files({file.name: file for file in found})},
                {},
                lambda _: source,
                classifies=any("ForSequenceClassification" in str(kind) for kind in kinds),
            )
        return _Encoder({"hub": name, "revision": source.revision}, {}, lambda _: source)

    def _hashed(
        self, find: Callable[[T], Mapping[str, Path]], each: Iterable[T]
    ) -> Mapping[str, Any]:
        """Hashes of the files that are found; where some are not there, what to tell of each."""
        found: dict[str, Path] = {}
        lacks: list[str] = []
        for one in each:
            try:
                found |= find(one)
            except MissingFileError as error:
                lacks += self._missing(error)["missing"]
        return Missing(*lacks) if lacks else hash_files(found)

    def _missing(self, error: MissingFileError) -> Missing:
        """What stands for a file that is not there, unless it must be."""
        if not self.missing_ok:
            raise error
        return Missing(str(error))


def _trained(stage: Stage, folder: str = "model") -> _Encoder:
    """The model that a training stage leaves behind; it names its own labels."""
    return _Encoder(
        {"trained": stage.name},
        {"model": stage},
        lambda given: models.Source(artifact=given["model"], folder=folder),
    )
