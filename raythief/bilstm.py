"""The BiLSTM of Conneau et al. 2018 (XNLI's baseline) as a model of ``transformers``.

One encoder reads each sentence by itself: word vectors, a bidirectional LSTM, the maximum over
time. A small head compares the two sentences' vectors. A pair comes as one sequence, like those of
other encoders, and ``token_type_ids`` tell premise (0) from hypothesis (1), so that encoding,
training, evaluation and serving need to know nothing of it.

Importing this module makes the model known to ``AutoConfig`` and
``AutoModelForSequenceClassification``; ``raythief.models`` does so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram, WordLevel
from tokenizers.processors import TemplateProcessing
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import SequenceClassifierOutput

PAD, UNKNOWN, END = range(3)
SPECIAL_TOKENS = ("<pad>", "<unk>", "</s>")
"""Their ids are 0, 1, 2. A sentence ends with the last, so that none is without a token."""
UNSPACED = ("th", "zh")
"""Languages that put no spaces between words."""
LONGEST = 512
"""Tokens of a pair; an LSTM itself has no limit."""


class BiLstmConfig(PreTrainedConfig):
    """Sizes of the model."""

    model_type = "raythief-bilstm"

    def __init__(
        self,
        vocab_size: int = len(SPECIAL_TOKENS),
        embedding_size: int = 300,
        hidden_size: int = 512,
        head_size: int = 128,
        dropout: float = 0.1,
        pad_token_id: int = PAD,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        """Units in each direction."""
        self.head_size = head_size
        self.dropout = dropout
        super().__init__(pad_token_id=pad_token_id, **others)


class SentenceEncoder(nn.Module):
    """Sentences -> vectors: words, a bidirectional LSTM, the maximum over time."""

    def __init__(self, config: BiLstmConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.embeddings.requires_grad_(False)
        self.lstm = nn.LSTM(
            config.embedding_size, config.hidden_size, batch_first=True, bidirectional=True
        )

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Encode sentences.

        Args:
            ids: Token ids, int64, shape [sentences, longest]; what lies behind a sentence's end
                is ignored.
            lengths: Tokens of each sentence, int64, shape [sentences]; one of none becomes zeros.

        Returns:
            Vectors, shape [sentences, 2 * hidden_size].
        """
        packed = pack_padded_sequence(
            self.embeddings(ids), lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=ids.shape[1]
        )
        behind = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
        highest = states.masked_fill(behind[:, :, None], -math.inf).amax(1)
        return highest.masked_fill((lengths == 0)[:, None], 0.0)


class BiLstmForNli(PreTrainedModel):
    """A classifier of pairs of sentences, each encoded by itself."""

    config_class = BiLstmConfig
    base_model_prefix = "encoder"
    # It attends to nothing, so each implementation of attention is as good as another.
    _supports_sdpa = _supports_flash_attn = True

    def __init__(self, config: BiLstmConfig) -> None:
        super().__init__(config)
        self.encoder = SentenceEncoder(config)
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(8 * config.hidden_size, config.head_size),
            nn.Tanh(),
            nn.Dropout(config.dropout),
            nn.Linear(config.head_size, config.num_labels),
        )
        self.post_init()

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """Load a folder; the word vectors stay as they are, which loading would undo."""
        options["attn_implementation"] = None  # others may need a package
        found = super().from_pretrained(*arguments, **options)
        model = found[0] if isinstance(found, tuple) else found
        model.encoder.embeddings.requires_grad_(False)
        return found

    def _init_weights(self, module: nn.Module) -> None:
        """Draw what no file holds as torch does by itself; the global generator decides."""
        if isinstance(module, (nn.LSTM, nn.Linear)):
            module.reset_parameters()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Classify pairs; all arguments but ``labels`` are int64, shape [pairs, longest].

        Returns:
            ``logits``, shape [pairs, labels], and the mean ``loss`` if ``labels`` are given
            (int64, shape [pairs]).
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        premise, hypothesis = self.encoder(*apart(input_ids, mask, types)).chunk(2)
        logits = self.head(compared(premise, hypothesis))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def apart(
    ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut pairs, each one row padded on the right, into their sentences.

    Returns:
        Ids of all premises and then of all hypotheses, shape [2 * pairs, longest sentence], and
        their lengths, shape [2 * pairs].
    """
    second = (mask * types).sum(1)
    first = mask.sum(1) - second
    lengths, starts = torch.cat([first, second]), torch.cat([torch.zeros_like(first), first])
    columns = torch.arange(max(1, int(lengths.max())), device=ids.device)
    places = (starts[:, None] + columns).clamp(max=ids.shape[1] - 1)
    return torch.cat([ids, ids]).gather(1, places), lengths


def compared(premise: torch.Tensor, hypothesis: torch.Tensor) -> torch.Tensor:
    """What the head sees of two vectors u, v: [u, v, |u - v|, u * v], shape [pairs, 4 * size]."""
    both = premise, hypothesis, (premise - hypothesis).abs(), premise * hypothesis
    return torch.cat(both, dim=-1)


def build_tokenizer(words: Sequence[str], language: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, in lower case and apart from punctuation; others are <unk>.

    Languages that put no spaces between words are cut where the likeliest words come out, a
    word's probability being taken as inversely proportional to its rank.

    Args:
        words: Words in lower case, each once, the most frequent first; ids are their places after
            the special tokens.
        language: Code of their language.
    """
    ids = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *words))}
    if language in UNSPACED:
        scores = [0.0] * len(SPECIAL_TOKENS) + [-math.log(i + 2) for i in range(len(words))]
        model: Any = Unigram(list(zip(ids, scores, strict=True)), unk_id=UNKNOWN)
    else:
        model = WordLevel(ids, unk_token=SPECIAL_TOKENS[UNKNOWN])
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    mark = Regex(r"(?!_)[\p{P}\p{S}]")  # an underscore joins what the miniature calls one word
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(mark, "isolated")]
    )
    tokenizer.post_processor = TemplateProcessing(
        single="$A:0 </s>:0",
        pair="$A:0 </s>:0 $B:1 </s>:1",
        special_tokens=[(SPECIAL_TOKENS[END], END)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL_TOKENS[PAD],
        unk_token=SPECIAL_TOKENS[UNKNOWN],
        eos_token=SPECIAL_TOKENS[END],
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=LONGEST,
    )


def write(
    folder: Path, words: Sequence[str], vectors: NDArray[np.float32], language: str, **sizes: Any
) -> None:
    """Write a model folder with word vectors and nothing else trained.

    The weights of LSTM and head are not in it: whoever loads it draws them, so that the seed of
    the training decides them, as it does for the head of any encoder.

    Args:
        folder: Existing folder.
        words: As ``build_tokenizer`` wants them, special tokens left out.
        vectors: Their vectors, shape [words, size]. Special tokens get zeros.
        language: Code of the language.
        sizes: ``hidden_size``, ``head_size`` and ``dropout`` of the configuration.
    """
    special = np.zeros((len(SPECIAL_TOKENS), vectors.shape[1]), np.float32)
    table = torch.from_numpy(np.concatenate([special, vectors], dtype=np.float32))
    config = BiLstmConfig(vocab_size=len(table), embedding_size=table.shape[1], **sizes)
    config.architectures = [BiLstmForNli.__name__]
    config.save_pretrained(folder)
    weights = {"encoder.embeddings.weight": table}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    build_tokenizer(words, language).save_pretrained(folder)


AutoConfig.register(BiLstmConfig.model_type, BiLstmConfig, exist_ok=True)
AutoModelForSequenceClassification.register(BiLstmConfig, BiLstmForNli, exist_ok=True)
