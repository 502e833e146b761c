"""Small real tokenizers for the tests of `lora_dist.data`, and what is known of a tokenizer itself."""

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lora_dist.config.sections import DataSection
from lora_dist.data.identity import tokenizer_hash
from lora_dist.data.text_bytes import TextBytes

SHARED = Path(__file__).resolve().parents[2] / "shared"
SMALL_LLAMA = SHARED / "models" / "small-llama"

CORPUS = [
    "Question: How many apples does Ann have?\nAnswer: Ann has 4 + 5 = 9 apples.",
    "The quick brown fox jumps over the lazy dog. 0123456789",
    "User: hello there\nAssistant: hello to you, too\n\nWhat is it?\n",
    "naïve café über façade, a résumé of the soirée",
] * 3

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_WITH_BOS = "{{ bos_token }}" + CHATML


@cache
def _trained() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend.to_str()


def bpe(*, chat_template=None, adds_bos=False, bos="<s>", eos="</s>") -> PreTrainedTokenizerFast:
    """A byte-level BPE of 420 tokens; `adds_bos` makes its post-processor put BOS and EOS around every text."""
    backend = Tokenizer.from_str(_trained())
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", backend.token_to_id("<s>")), ("</s>", 2)]
        )
    special = {"bos_token": bos, "eos_token": eos, "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{name: token for name, token in special.items() if token}
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def metaspace() -> PreTrainedTokenizerFast:
    """A BPE in the manner of Llama 2: spaces as U+2581, unknown characters as bytes."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator([text.replace(" ", "▁") for text in CORPUS], trainer)
    document = json.loads(backend.to_str())  # the bytes belong to the vocabulary, but are no special tokens
    document["added_tokens"] = document["added_tokens"][:3]
    backend = Tokenizer.from_str(json.dumps(document))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def section(path, **settings) -> DataSection:
    """A data section, instruction unless said otherwise."""
    return DataSection(**{"task": "instruction", "path": path if isinstance(path, dict) else str(path)} | settings)


def test_the_hash_of_a_tokenizer_sees_its_template_and_special_tokens_but_not_its_last_call():
    plain = bpe()
    others = [bpe(chat_template=CHATML), bpe(eos="<|im_end|>"), bpe(adds_bos=True), metaspace()]
    hashes = {tokenizer_hash(tokenizer) for tokenizer in (plain, *others)}
    assert len(hashes) == 5
    before = tokenizer_hash(plain)
    plain(["one two three"], truncation=True, max_length=2, padding="max_length")
    assert tokenizer_hash(plain) == before
    assert tokenizer_hash(copy.deepcopy(plain)) == before


@given(st.text(max_size=60).filter(lambda text: text.isprintable()))
@settings(max_examples=60, deadline=None)
def test_the_bytes_of_a_texts_tokens_are_the_bytes_of_the_text(text):
    for tokenizer in (_BPE, _METASPACE):
        ids = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
        if "▁" not in text:
            assert TextBytes(tokenizer).count([ids]) == len(text.encode())


def test_half_a_character_counts_as_its_own_bytes_and_special_tokens_as_none():
    ids = np.asarray(_BPE("€", add_special_tokens=False)["input_ids"], dtype=np.int32)
    assert len(ids) == 3
    count = TextBytes(_BPE).count
    assert count([ids[:1]]) == 1
    assert count([ids[:2], ids[2:]]) == 3
    assert count([np.asarray([_BPE.bos_token_id, *ids, _BPE.eos_token_id])]) == 3


def test_tokens_that_are_not_pieces_of_the_text_are_decoded():
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "hello": 1, "you": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert TextBytes(words).count([np.asarray([1, 2])]) == len("hello you")


@pytest.mark.skipif(not SMALL_LLAMA.is_dir(), reason="no shared model here")
def test_a_real_tokenizers_bytes_add_up():
    tokenizer = AutoTokenizer.from_pretrained(SMALL_LLAMA)
    text = "Ann pays $3.50 for 7 naïve crêpes — “très bien”, she says.\n#### 42"
    ids = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert TextBytes(tokenizer).count([ids]) == len(text.encode())


_BPE, _METASPACE = bpe(), metaspace()
