"""Section on where a run departs from the paper, by the fields of its spec.

What the paper leaves open is no deviation, such as how sentences are cut, what the weights are
selected on, or the optimiser's settings. Where it leaves open what Krishna et al. (2020) tell,
whose approach it follows, that is taken for the paper's: no sentence is longer than 59 words.
"""

from __future__ import annotations

from collections.abc import Iterator

from raythief import paper
from raythief.config import EvaluationPairs, FilesCorpus, HubCorpus, Queries, Spec, Vocabulary
from raythief.report.blocks import Block, Cell, Section, Table, Text, counted
from raythief.report.records import Run

MEASURED = {("nyu-mll/multi_nli", "validation_matched"), ("facebook/xnli", "test")}
"""What the paper measures on."""
SHARES = (0.0, 0.01, 0.05, 0.1, 1.0)
"""Shares of real data that it tries."""
_NAMED = 4
"""Rows that are named one by one."""


def deviations(run: Run) -> Section | None:
    """Each deviation once, with the rows that it holds for; None where no row's spec is known."""
    if not run.variants:
        return None
    found: dict[str, list[str]] = {}
    for name, spec in run.variants.items():
        for sentence in _of(spec, name):
            found.setdefault(sentence, []).append(name)
    title = "Where this run departs from the paper"
    if not found:
        text = "In no field of the spec, as the paper is read here."
        return Section("deviations", title, [Text(text)])
    rows = [[Cell(sentence), Cell(_whose(run, names))] for sentence, names in found.items()]
    caption = "What is not as in the paper, by the spec."
    header = [Cell("deviation"), Cell("rows")]
    block: Block = Table(caption, header, rows, prose=True)
    return Section("deviations", title, [block])


def _whose(run: Run, names: list[str]) -> str:
    if len(names) == len(run.variants):
        return "all"
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {counted(more, 'other')}" if more > 0 else "")


def _of(spec: Spec, name: str) -> Iterator[str]:
    row = paper.find(spec.paper, name) if spec.paper else None
    small = spec.corpus.source == "miniature" or spec.real.train.source == "miniature"
    if small:
        yield "Text, labelled data and models are those of a small world of our own."
    else:
        yield from _data(spec)
        yield from _models(spec, row) if spec.until is None else ()
    if spec.real.placement != "only":
        if not small:
            yield from _corpus(spec, row)
        yield from _queries(spec, small)
    if spec.until is None:
        yield from _trainings(spec)


def _models(spec: Spec, row: paper.Row | None) -> Iterator[str]:
    victim = (row.victim if row else None) or "RoBERTa-Large"
    if spec.real.placement != "only":
        if spec.victim.api is not None:
            yield "The victim is an API, of which no more is known than what it answers."
        elif paper.model_name(spec.victim.model) != victim:
            yield f"The victim is {spec.victim.model}, not {victim}."
    extractor = paper.model_name(spec.extractor.model)
    if extractor is None or (row and row.extractor and extractor != row.extractor):
        wanted = f"not {row.extractor}" if row and row.extractor else "none of the paper's models"
        yield f"The extractor is {spec.extractor.model}, {wanted}."


def _data(spec: Spec) -> Iterator[str]:
    real = spec.real
    if real.fraction or spec.victim.training:
        train = real.train
        if train.source != "hub" or (train.dataset, train.split) != ("nyu-mll/multi_nli", "train"):
            where = train.dataset if train.source == "hub" else "files of the user's"
            yield f"Real data are from {where}, not MNLI's training set from its publisher."
    if real.fraction and real.placement == "only" and real.fraction < 1:
        yield "A control that the paper has not: a share of the real data without gibberish."
    if real.fraction not in SHARES:
        yield f"The share of real data is {100 * real.fraction:.3g} %, which the paper did not try."
    for name, pairs in spec.evaluation.sets.items():
        if not _is_measured(pairs):
            yield f"The set {name} is not what the paper measures on."


def _is_measured(pairs: EvaluationPairs) -> bool:
    if pairs.source == "hub":
        return (pairs.dataset, pairs.split) in MEASURED
    return pairs.source == "queries"  # whose agreement is told as such


def _corpus(spec: Spec, row: paper.Row | None) -> Iterator[str]:
    corpus, words = spec.corpus, spec.vocabulary
    ours = HubCorpus()
    if isinstance(corpus, FilesCorpus):
        if row is None or row.name != "CORD-19":
            yield f"Words are of the files {corpus.path}, not of WikiText-103's training text."
    elif isinstance(corpus, HubCorpus):
        known = corpus.config in (ours.config, "wikitext-103-v1")
        if corpus.dataset != ours.dataset or not known or corpus.split != ours.split:
            yield (
                f"Words are of {corpus.dataset} ({corpus.config}, {corpus.split}), not of "
                "WikiText-103's training text."
            )
        elif corpus.cleaning == "plain":
            yield "Words are split by our own rules (cleaning: plain), not as WikiText does it."
    if corpus.source != "miniature" and corpus.cleaning == "wikitext":
        yield (
            "Words are joined at WikiText's marks (cleaning: wikitext), so that compounds count as "
            "words that its vocabulary has not."
        )
    if words.min_count != Vocabulary().min_count:
        yield (
            f"The vocabulary holds words seen {counted(words.min_count, 'time')} or more; "
            f"WikiText-103's own holds those seen {Vocabulary().min_count} times or more."
        )


def _queries(spec: Spec, small: bool) -> Iterator[str]:
    words, queries, usual = spec.vocabulary, spec.queries, Queries()
    if words.top_k is not None:
        yield f"Only the {words.top_k:,} commonest words are drawn."
    if words.sampling != "uniform":
        yield "Words are drawn by how often they occur, not uniformly."
    if words.max_words != Vocabulary().max_words:
        yield f"Sentences have {words.max_words} words at most, not {Vocabulary().max_words}."
    if queries.count != usual.count and not small:
        yield f"There are {queries.count:,} queries, not {usual.count:,}."
    if spec.learned_queries != queries.count:
        learned = f"{spec.learned_queries:,} of the {queries.count:,}"
        yield f"The extractor learns from {learned} queries."
    if queries.replaced_words != usual.replaced_words:
        swapped = counted(queries.replaced_words, "word")
        yield f"To make the premise, {swapped} of the hypothesis are replaced, not three."
    if queries.positions != usual.positions:
        yield "Positions of replaced words are drawn with replacement: some pairs differ in fewer."


def _trainings(spec: Spec) -> Iterator[str]:
    trainings = {"extractor": spec.extractor.training, "victim": spec.victim.training}
    if spec.real.fraction and spec.real.placement == "after":
        trainings["fine-tuned extractor"] = spec.real.training
    for who, how in trainings.items():
        if how is None:
            continue
        if how.class_weights != "none":
            yield f"Training of the {who} weights classes by 1/sqrt of their share."
        if how.soft_labels is not None:
            yield f"Training of the {who} uses the victim's probabilities, not hard labels alone."
        if how.freeze_embeddings:
            yield f"Training of the {who} leaves its embeddings as they were."
