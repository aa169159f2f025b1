"""Model cards: what a model was made from, and how; one lies beside the weights of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from raythief.artifacts import Artifact
from raythief.config import LABELS
from raythief.results import Alignment, Labels, Training, read

_IMPORT_BILSTM = "    import raythief.bilstm  # makes the model known to transformers\n"


def card(config: Mapping[str, Any], results: Training, labels: Artifact | None) -> str:
    """The card of a trained model, as Markdown with the hub's metadata.

    Args:
        config: Of the training stage: ``model``, ``training``, ``fresh_head``, ``real_fraction``.
        results: Of the training, see ``training.train``.
        labels: The labels that were bought; None of a model that saw gold labels only.
    """
    encoder = config["model"]
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["natural-language-inference", "raythief"],
    }
    if "hub" in encoder:
        metadata |= {"base_model": encoder["hub"], "base_model_relation": "finetune"}
    if labels is None:
        title, made = "A classifier trained on gold labels", ""
    else:
        metadata["tags"].append("model-extraction")
        title, made = "A classifier extracted with gibberish", _bought(labels)
    if config["real_fraction"]:
        made += (
            f"It saw {config['real_fraction']:.4g} of the real training data, with gold labels.\n"
        )
    counts = ", ".join(f"{label} {count:,}" for label, count in results.label_counts.items())
    settings = "\n".join(f"| {name} | {value} |" for name, value in config["training"].items())
    head = "a new head" if config["fresh_head"] else "the head that it had"
    warning = f"\n**It collapsed**: {'; '.join(results.collapse)}.\n" if results.collapse else ""
    warning += "".join(f"\n**Note**: {note}.\n" for note in results.notes)
    selection = results.selection
    kept = (
        f"Its weights are those of step {selection.step:,}, the best of "
        f"{len(selection.looks)} by {selection.metric} ({selection.score:.1%}).\n"
        if selection
        else ""
    )
    return f"""---
{yaml.safe_dump(metadata, sort_keys=False).strip()}
---

# {title}

Natural language inference: premise and hypothesis in, one of {", ".join(LABELS)} out.
{warning}
{made}
It is {_origin(encoder)} under {head}, fine-tuned on {results.examples:,} pairs ({counts}) in
{results.steps:,} steps to a loss of {results.final_loss:.4f}.
{kept}
| setting | |
| --- | --- |
{settings}

## Use

{_IMPORT_BILSTM if "bilstm" in encoder else ""}    from transformers import pipeline

    ask = pipeline("text-classification", model="THIS FOLDER")
    ask({{"text": "A man is asleep.", "text_pair": "Nobody sleeps."}})

For research, and for audits of models that one owns or may test. The licences and terms of what it
was made from go on to hold.
"""


def aligned(language: str, results: Alignment) -> str:
    """The card of a BiLSTM whose encoder was aligned to the English one, as Markdown.

    Args:
        language: Code of the language that it reads.
        results: Of the alignment, see ``alignment.align``.
    """
    metadata = {
        "language": language,
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["natural-language-inference", "raythief"],
    }
    return f"""---
{yaml.safe_dump(metadata, sort_keys=False).strip()}
---

# A BiLSTM classifier of `{language}`, aligned to an English one

Natural language inference: premise and hypothesis in, one of {", ".join(LABELS)} out. It saw no
labels in `{language}`: its encoder was fitted to that of the English model (folder `en` beside this
one) on {results.sentences:,} sentences and their translations, in {results.steps:,} steps.

Of held-out sentences {results.after.found:.1%} were nearest to their own translation
({results.before.found:.1%} before).

## Use

{_IMPORT_BILSTM}    from transformers import pipeline

    ask = pipeline("text-classification", model="THIS FOLDER")
"""


def _bought(labels: Artifact) -> str:
    """Whose labels, and how many."""
    manifest = labels.manifest()
    assert manifest is not None, "a model was trained on labels that are not finished"
    found = read("labels", manifest["results"])
    assert isinstance(found, Labels)
    return (
        f"Its labels come from {_origin(manifest['config']['victim'])}, which was asked "
        f"{found.queries or 0:,} pairs of random words: {found.answered:,} were answered, "
        f"{found.rejected or 0:,} rejected.\n"
    )


def _origin(model: Mapping[str, Any]) -> str:
    """A model as stages identify it, in words."""
    if "hub" in model:
        return f"`{model['hub']}` at {model['revision']}"
    if "api" in model:
        return f"the API at {model['api']}"
    if "bilstm" in model:
        return "a BiLSTM on word vectors that stay as they are,"
    if "miniature" in model:
        return f"the miniature's {model['miniature']} encoder"
    if "trained" in model:
        return f"the model of the stage `{model['trained']}`"
    return "an encoder from a folder, whose hashes the manifest tells"
