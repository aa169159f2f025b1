"""The spec: one YAML file is one experiment.

A spec loads into frozen, validated objects, one section per stage. Everything in it decides the
result and enters the fingerprints of the artifacts, except ``name``, ``storage``, ``data_root``,
``resources``, ``tracking``, ``serve``, ``costs``, ``sweep``, ``variants`` and ``until``, which say
where, how fast, how often and how far.

    spec = load("jobs/table2.yaml", overrides=["extractor.training.learning_rate=1e-5"])
    for variant in expand(spec): ...

``raythief reference`` prints every field with its default and its meaning, from these files.
"""

from raythief.config.api import Api
from raythief.config.base import LABELS, LANGUAGES, Label, Language, Precision, Section
from raythief.config.bilstm import (
    BILSTM,
    Alignment,
    BiLstm,
    FilesParallel,
    FilesVectors,
    MiniatureParallel,
    MiniatureVectors,
    Parallel,
    Vectors,
)
from raythief.config.identity import identity
from raythief.config.loading import Variant, expand, load, merge, nest, read, validate
from raythief.config.operation import (
    Costs,
    Resources,
    Serve,
    Tracking,
    TrainingWorkers,
    Workers,
)
from raythief.config.reference import fields
from raythief.config.search import Asha, Choice, Sweep
from raythief.config.sources import (
    Corpus,
    EvaluationPairs,
    FilesCorpus,
    FilesPairs,
    HubCorpus,
    HubPairs,
    MiniatureCorpus,
    MiniaturePairs,
    Pairs,
    QueriesPairs,
    TextCleaning,
)
from raythief.config.spec import DATA_ROOT_VARIABLE, Spec
from raythief.config.stages import (
    HELD_OUT,
    Evaluation,
    Extractor,
    Figure2,
    Inference,
    Miniature,
    Model,
    Queries,
    Real,
    Sanity,
    Selection,
    SoftLabels,
    Training,
    Victim,
    Vocabulary,
)

__all__ = [
    "BILSTM",
    "DATA_ROOT_VARIABLE",
    "HELD_OUT",
    "LABELS",
    "LANGUAGES",
    "Alignment",
    "Api",
    "Asha",
    "BiLstm",
    "Choice",
    "Corpus",
    "Costs",
    "Evaluation",
    "EvaluationPairs",
    "Extractor",
    "Figure2",
    "FilesCorpus",
    "FilesPairs",
    "FilesParallel",
    "FilesVectors",
    "HubCorpus",
    "HubPairs",
    "Inference",
    "Label",
    "Language",
    "Miniature",
    "MiniatureCorpus",
    "MiniaturePairs",
    "MiniatureParallel",
    "MiniatureVectors",
    "Model",
    "Pairs",
    "Parallel",
    "Precision",
    "Queries",
    "QueriesPairs",
    "Real",
    "Resources",
    "Sanity",
    "Section",
    "Selection",
    "Serve",
    "SoftLabels",
    "Spec",
    "Sweep",
    "TextCleaning",
    "Tracking",
    "Training",
    "TrainingWorkers",
    "Variant",
    "Vectors",
    "Victim",
    "Vocabulary",
    "Workers",
    "expand",
    "fields",
    "identity",
    "load",
    "merge",
    "nest",
    "read",
    "validate",
]
