"""How a section stands in a fingerprint.

A field that was there when fingerprints were fixed (November 2026) always enters, with its value. A
field that came later enters only where it differs from its default: what was bought or trained
before it existed is found again. So a later field's default must mean "as before", and must never
change; a test holds both (``tests/unit/test_fingerprints.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from raythief.config.base import Section

ALWAYS: Mapping[str, frozenset[str]] = {
    name: frozenset(fields.split())
    for name, fields in {
        "HubCorpus": "source dataset config split column revision cleaning",
        "FilesCorpus": "source path column cleaning",
        "MiniatureCorpus": "source sentences domain",
        "Vocabulary": "sampling top_k min_count max_words",
        "Queries": "count replaced_words positions seed",
        "HubPairs": "source dataset split revision languages",
        "FilesPairs": "source path labels split languages",
        "MiniaturePairs": "source count split languages",
        "QueriesPairs": "source count",
        "Training": "epochs steps batch_size batch_tokens learning_rate schedule warmup "
        "warmup_steps weight_decay betas max_grad_norm class_weights soft_labels selection "
        "on_collapse freeze_embeddings max_tokens tokens_per_micro_batch precision seed",
        "Selection": "on held_out every patience",
        "SoftLabels": "temperature weight",
        "Inference": "rows_per_shard tokens_per_batch max_tokens precision attention compile",
        "Miniature": "languages english_steps multilingual_steps",
        "BiLstm": "embeddings parallel hidden head dropout alignment",
        "FilesVectors": "source path max_words",
        "MiniatureVectors": "source size documents noise",
        "FilesParallel": "source path english max_sentences",
        "MiniatureParallel": "source count",
        "Alignment": "steps batch_size learning_rate contrast tune_words max_tokens",
    }.items()
}
"""By section, the fields that enter even at their default."""


def identity(section: Section, *speed: str) -> dict[str, Any]:
    """A section as plain values, as it stands in a fingerprint.

    Args:
        section: Of the spec.
        speed: Fields that only decide how fast it goes; they never enter.
    """
    return _enter(section, section.model_dump(mode="json", exclude=set(speed)))


def _enter(section: BaseModel, plain: dict[str, Any]) -> dict[str, Any]:
    always, kept = ALWAYS.get(type(section).__name__, frozenset()), {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        late = name not in always and value == field.get_default(call_default_factory=True)
        if name in plain and not late:
            inner = isinstance(value, BaseModel)
            kept[name] = _enter(value, plain[name]) if inner else plain[name]
    return kept
