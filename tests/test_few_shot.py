"""Solved examples before a prompt: where BOS and EOS go, the same for all prompts, and room that they take."""

from __future__ import annotations

import pytest
from test_data_tokenizers import bpe

from lora_dist.evaluation.few_shot import BETWEEN, with_shots
from lora_dist.evaluation.generate import Prompt

TOKENIZER = bpe()
BOS, EOS = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id


def ids(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def row(text, *, bos=True, eos=True):
    found = [*([BOS] if bos else []), *ids(text), *([EOS] if eos else [])]
    return found, found


def test_without_shots_prompts_are_as_they_were():
    prompts = [Prompt(0, [BOS, *ids("ask")], ids("say"))]
    assert with_shots(prompts, [], TOKENIZER) == prompts


def test_examples_stand_between_bos_and_the_prompt_with_an_empty_line_in_the_place_of_eos():
    prompts = [Prompt(n, [BOS, *ids(text)], ids("x")) for n, text in enumerate(["one?", "two?"])]
    found = with_shots(prompts, [row("a: b"), row("c: d")], TOKENIZER)
    for prompt, before in zip(found, prompts, strict=True):
        assert prompt.given_ids == [
            BOS,
            *ids("a: b"),
            *ids(BETWEEN),
            *ids("c: d"),
            *ids(BETWEEN),
            *before.input_ids[1:],
        ]
        assert prompt.reference_ids == before.reference_ids
        assert TOKENIZER.decode(prompt.input_ids) == TOKENIZER.decode(before.input_ids[1:]), "what is shown of it"
    assert found[0].given_ids.count(BOS) == 1


@pytest.mark.parametrize("bos", [True, False])
def test_turns_that_end_with_tokens_of_their_own_keep_them(bos):
    (prompt,) = with_shots([Prompt(0, [*([BOS] if bos else []), *ids("ask")], [5])], [row("a", eos=False)], TOKENIZER)
    assert prompt.given_ids == [*([BOS] if bos else []), *ids("a"), *ids("ask")]
