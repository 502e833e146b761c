"""A tiny encoder and a tiny task that it can learn in a few steps, made by code."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

TELLING = {"good": "positive", "fine": "positive", "bad": "negative", "poor": "negative", "plain": "neutral"}
OTHERS = ["the", "a", "film", "book", "song", "was", "is", "very", "quite", "so", "we", "saw", "it", "today"]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
LABELS = ["negative", "neutral", "positive"]
SHAPE = {"vocab_size": 32, "max_position_embeddings": 24}

CLASSIFICATION = {"task": "classification", "columns": {}, "max_length": 16}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words between [CLS] and [SEP], as BERT has them."""
    words = {word: index for index, word in enumerate([*SPECIAL, *TELLING, *OTHERS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, words[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )


def save_encoder(folder: Path, kind: str = "bert", **changes: Any) -> Path:
    """A random encoder of two blocks with its tokenizer: a pretrained model without a head.

    Wide weights and no dropout, so that sixty steps are enough to learn by.
    """
    torch.manual_seed(0)
    changes = {"initializer_range": 0.2} | changes
    if kind == "bert":
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
        calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = BertModel(BertConfig(**(SHAPE | shape | calm | changes)))
    elif kind == "roberta":  # counts positions from behind its padding's
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
        model = RobertaModel(RobertaConfig(**(SHAPE | shape | {"pad_token_id": 0} | changes)))
    else:
        shape = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
        model = DistilBertModel(DistilBertConfig(**(SHAPE | shape | changes)))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def sentences(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows {text, label}: one word tells the label, and one row in ten has another one than its word says."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        word = draw.choice(list(TELLING))
        words = [draw.choice(OTHERS) for _ in range(draw.randint(1, 4))]
        words.insert(draw.randint(0, len(words)), word)
        label = TELLING[word] if draw.random() > 0.1 else draw.choice(LABELS)
        rows.append({"text": " ".join(words), "label": label})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sentence_files(folder: Path, train: int = 160, test: int = 60) -> dict[str, Path]:
    """The rows of both splits as files."""
    return {
        split: write_rows(folder / f"{split}.jsonl", sentences(count, seed))
        for seed, (split, count) in enumerate({"train": train, "test": test}.items())
    }
