"""Where a model comes from, and how it is loaded: safetensors only, never remote code."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import raythief.bilstm  # noqa: F401 (makes its model known to the Auto classes)
from raythief import hub
from raythief.artifacts import Artifact
from raythief.config import LABELS, Model, Precision
from raythief.errors import MissingFileError, UserError, first_line

FLASH = "flash_attention_2"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """A model on the hub, in a folder that every node sees, or in an artifact: exactly one."""

    repo_id: str | None = None
    revision: str | None = None
    path: str | None = None
    artifact: Artifact | None = None
    folder: str = "model"
    """Folder within the artifact; `{language}` stands for a language code where there is one model
    for each language."""

    def of(self, language: str) -> Source:
        """Where the model of a language lies; the same for all where there is but one."""
        return replace(self, folder=self.folder.replace("{language}", language))

    def local(self) -> Path:
        """Folder on this node; downloads what is not here."""
        if self.artifact is not None:
            return self.artifact.local(self.folder)
        if self.path is not None:
            return Path(self.path)
        assert self.repo_id is not None
        assert self.revision is not None
        return hub.model_folder(self.repo_id, self.revision)

    def config(self) -> dict[str, Any]:
        """The model's ``config.json``; of a model on the hub, nothing else is fetched.

        Raises:
            UserError: there is none, or the hub cannot be asked.
        """
        if self.repo_id is not None:
            assert self.revision is not None
            return hub.model_config(self.repo_id, self.revision)
        return config_of(self.local(), "model")


def find(model: Model, root: Path, field: str) -> Source:
    """Where the model lies that a spec names: in a folder, or on the hub.

    Args:
        model: The section of the spec.
        root: Folder from which relative paths start.
        field: What the spec calls the name, for errors.

    Raises:
        MissingFileError: it is neither.
        UserError: the folder holds no safe model, or no commit is known.
    """
    folder = (root / Path(model.model).expanduser()).resolve()
    if folder.is_dir():
        config_of(folder, field)
        return Source(path=str(folder))
    if not _HUB_ID.fullmatch(model.model):
        mistaken = folder.exists() or model.model.startswith("miniature:")
        raise (UserError if mistaken else MissingFileError)(
            f"{field}: `{model.model}` is neither a folder that exists ({folder}), nor a hub id "
            "(owner/name), nor miniature:english or miniature:multilingual; correct it, or "
            "`data_root`, or put the folder there"
        )
    return Source(repo_id=model.model, revision=hub.revision(model.model, model.revision, field))


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's fast tokenizer."""
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return loaded


def classifier(folder: Path, attention: str = "auto") -> PreTrainedModel:
    """A finished three-way classifier with its own head."""
    return _loaded(AutoModelForSequenceClassification, folder, attention)


def encoder(folder: Path, attention: str = "auto") -> PreTrainedModel:
    """An encoder without any head."""
    return _loaded(AutoModel, folder, attention)


def _loaded(kind: Any, folder: Path, attention: str) -> PreTrainedModel:
    try:
        model: PreTrainedModel = kind.from_pretrained(
            folder,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation=None if attention == "auto" else attention,
        )
    except (ImportError, ValueError) as error:
        if attention == "auto" or "ttention" not in str(error):
            raise
        raise UserError(
            f"inference.attention: {attention} cannot be had for {folder} ({first_line(error)}); "
            "set it to auto"
        ) from None
    return model


def check_attention(source: Source | None, attention: str, field: str) -> None:
    """Refuse an implementation of attention that a model has not, or that is not installed.

    Args:
        source: The model, of which one on the hub is asked for its config alone; None is one of
            the miniature's, which have all of them.
        attention: Its name in the spec.
        field: What the spec calls the model.

    Raises:
        UserError: it cannot be had.
    """
    needed = {"sdpa": "_supports_sdpa", FLASH: "_supports_flash_attn"}
    if attention not in needed:
        return
    if attention == FLASH and importlib.util.find_spec("flash_attn") is None:
        raise UserError(
            f"inference.attention: {FLASH} needs the package flash-attn on every node, which is "
            "not installed here; install it, or set it to auto"
        )
    if source is None:
        return
    config = AutoConfig.for_model(**source.config())
    if not getattr(_empty(config), needed[attention]):
        raise UserError(
            f"inference.attention: {attention} is not to be had for {field}, of the kind "
            f"{config.model_type}; set it to auto"
        )


def fresh_classifier(folder: Path, seed: int) -> PreTrainedModel:
    """An encoder under a new three-way head, which the seed decides; canonical label names.

    A head that the folder has is left out, see ``has_head``. BERT's pooler is no part of it: it is
    pre-trained with the encoder.
    """
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(
        folder,
        trust_remote_code=False,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        folder,
        config=config,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
    )
    if has_head(folder):
        encoder = model.base_model_prefix + "."
        kept = {name: one for name, one in model.state_dict().items() if name.startswith(encoder)}
        torch.manual_seed(seed)
        model = type(model).from_pretrained(
            None, config=config, state_dict=kept, dtype=torch.float32
        )
    return model


def has_head(folder: Path) -> bool:
    """Whether a model folder holds weights of a classifier's head, of however many labels."""
    model = empty(folder)
    encoder = model.base_model_prefix + "."
    head = {name for name in model.state_dict() if not name.startswith(encoder)}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            if not head.isdisjoint(weights.keys()):
                return True
    return False


def empty(folder: Path) -> PreTrainedModel:
    """A classifier of the folder's kind without weights, which tells its shape."""
    return _empty(AutoConfig.from_pretrained(folder, trust_remote_code=False))


def _empty(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
            config, trust_remote_code=False
        )
    return model


def longest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that a pair may have at most: what the tokenizer says, and what the model holds.

    Encoders of RoBERTa's family number their positions from the padding token's id on, so that
    many fewer than their table's rows are for use.
    """
    most = int(tokenizer.model_max_length)
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, torch.nn.Embedding):
            first = 0 if table.padding_idx is None else table.padding_idx + 1
            most = min(most, table.num_embeddings - first)
    return most


def config_of(folder: Path, field: str) -> dict[str, Any]:
    """The ``config.json`` of a model folder.

    Raises:
        UserError: the folder holds no model that can be loaded safely.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{field}: {folder} holds no model (it has no config.json)")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{field}: {folder} holds no safetensors weights; other formats run code")
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{field}: {file} is not JSON") from None
    return found


def dtype(precision: Precision, where: torch.device, begun: str | None = None) -> torch.dtype:
    """The number format of the arithmetic.

    Args:
        precision: ``auto`` is bfloat16 where a GPU has it, else float32.
        where: The device.
        begun: Name of the format in which the work has begun, perhaps on another device: `auto`
            goes on in it, so that no result is in part of one and in part of the other.

    Raises:
        UserError: it is to be bfloat16, and the GPU has none.
    """
    fast = where.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    wanted = precision if precision != "auto" else begun or ("bfloat16" if fast else "float32")
    if wanted == "float32":
        return torch.float32
    if where.type == "cuda" and not fast:
        mend = "set precision: float32"
        if precision == "auto":
            mend = "go on with one that has it, or delete what is unfinished to begin again"
        had = "is to be" if precision != "auto" else "has begun in"
        raise UserError(
            f"precision: {name_of(where)} has no bfloat16, which the work {had}; {mend}"
        )
    return torch.bfloat16


@contextlib.contextmanager
def compiled(field: str) -> Iterator[None]:
    """Tell in a sentence where a model cannot be compiled, for want of a compiler, say.

    Args:
        field: What the spec calls that it is to be.

    Raises:
        UserError: it cannot.
    """
    try:
        yield
    except RuntimeError as error:
        kinds = {kind.__module__.rpartition(".")[0] for kind in type(error).__mro__}
        if kinds.isdisjoint({"torch._dynamo", "torch._inductor"}):
            raise
        raise UserError(
            f"{field}: torch.compile fails here ({first_line(error)}); set it to false"
        ) from None


def format_name(dtype: torch.dtype) -> str:
    """What a spec and a manifest call a number format."""
    return str(dtype).removeprefix("torch.")


def name_of(where: torch.device) -> str:
    """What a report calls a device."""
    return torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
