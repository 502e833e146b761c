"""Every family's own head, in chunks, has to give what the plain model gives."""

import logging
import math

import numpy as np
import pytest
import torch
import transformers as hf
from family_cases import FAMILIES, VOCAB, build
from reference_nll import float64_nll

from lora_dist.evaluation import heads
from lora_dist.evaluation.heads import FullHead, SplitHead, open_head
from lora_dist.evaluation.live_model import evaluating
from lora_dist.evaluation.perplexity import score_rows


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Over tiny tensors threads only wait for each other, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def token_rows(count=7, seed=0, vocab=VOCAB):
    random = np.random.default_rng(seed)
    rows = []
    for length in random.integers(4, 40, size=count):
        ids = random.integers(3, vocab, size=length)
        labels = np.where(random.random(length) < 0.6, ids, -100)
        labels[-1] = ids[-1]
        rows.append((ids.tolist(), labels.tolist()))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_plain_transformers(family, monkeypatch, caplog):
    monkeypatch.setattr(heads, "CHUNK_BYTES", 5 * 4 * VOCAB)  # 5 positions: many chunks, borders within rows
    model, rows = build(FAMILIES[family]()), token_rows()
    expected_R = [float64_nll(model, row) for row in rows]
    with caplog.at_level(logging.WARNING):
        for batch_size in (1, 3, 8):
            scores = score_rows(model, rows, batch_size=batch_size)
            np.testing.assert_allclose(scores.nll_R, expected_R, rtol=2e-6)  # float32 body, other batch shapes
            assert scores.nll_sum == pytest.approx(math.fsum(expected_R), rel=1e-6)
    assert not [record for record in caplog.records if record.name.startswith("lora_dist")]
    with evaluating(model):
        assert isinstance(open_head(model), SplitHead)


def test_the_head_s_cap_and_scale_are_in_the_scores():
    """Guards the test above: the settings chosen there do change the numbers."""
    rows = token_rows()
    for family, plain in (("gemma2", {"final_logit_softcapping": None}), ("granite", {"logits_scaling": 1.0})):
        config = FAMILIES[family]()
        changed = config.to_dict() | plain
        one = score_rows(build(config), rows, batch_size=4).nll_sum
        other = score_rows(build(type(config).from_dict(changed)), rows, batch_size=4).nll_sum
        assert abs(one - other) > 0.05 * one


class MixingHead(hf.LlamaForCausalLM):
    """A head that looks at all positions: it cannot be run on a few of them."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        answer = super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        answer.logits = answer.logits + answer.logits.cumsum(1) * 0.1
        return answer


class CountingHead(hf.LlamaForCausalLM):
    """A head that wants the tokens it was called with."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        answer = super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        answer.logits = answer.logits + self.model.embed_tokens(input_ids).sum(-1, keepdim=True) * torch.linspace(
            0, 1, answer.logits.shape[-1]
        )
        return answer


class NoDecoder(hf.LlamaForCausalLM):
    """A causal LM that never calls its decoder as a module."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        hidden_BTH = self.model.embed_tokens(input_ids)
        return hf.modeling_outputs.CausalLMOutputWithPast(logits=self.lm_head(hidden_BTH))


@pytest.mark.parametrize("kind", [MixingHead, CountingHead, NoDecoder])
def test_what_cannot_be_split_is_scored_whole_and_says_so(kind, caplog):
    torch.manual_seed(0)
    model, rows = kind(FAMILIES["llama"]()).eval(), token_rows()
    with caplog.at_level(logging.WARNING, logger="lora_dist.evaluation.heads"):
        scores = score_rows(model, rows, batch_size=4)
        score_rows(model, rows, batch_size=4)
    assert scores.nll_sum == pytest.approx(math.fsum(float64_nll(model, row) for row in rows), rel=1e-6)
    assert [kind.__name__ in record.getMessage() for record in caplog.records] == [True]  # once, by name
    with evaluating(model):
        assert isinstance(open_head(model), FullHead)


class MaskBlind(hf.LlamaForCausalLM):
    """A model whose padding is seen: every position gets the mean of all embeddings."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        mean_B1H = self.model.embed_tokens(input_ids).mean(1, keepdim=True)
        inputs_BTH = self.model.embed_tokens(input_ids) + mean_B1H
        hidden_BTH = self.model(inputs_embeds=inputs_BTH, use_cache=False).last_hidden_state
        return hf.modeling_outputs.CausalLMOutputWithPast(logits=self.lm_head(hidden_BTH))


def test_a_model_that_sees_its_padding_is_scored_row_by_row_and_says_so(caplog):
    torch.manual_seed(0)
    model, rows = MaskBlind(FAMILIES["llama"]()).eval(), token_rows()
    with caplog.at_level(logging.WARNING, logger="lora_dist.evaluation.heads"):
        scores = score_rows(model, rows, batch_size=4)
    assert scores.nll_sum == pytest.approx(math.fsum(float64_nll(model, row) for row in rows), rel=1e-6)
    assert "MaskBlind is scored one row at a time" in caplog.text


def test_an_error_in_the_middle_leaves_the_model_as_it_was():
    model, rows = build(FAMILIES["llama"]()), token_rows()
    before = score_rows(model, rows, batch_size=2)
    model.train()
    model.model.layers[0].eval()  # a flag of its own

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_rows(model, rows, batch_size=2, progress=interrupt)
    handle = model.lm_head.register_forward_pre_hook(failing_at_call(7))  # the probe takes the first five
    with pytest.raises(RuntimeError, match="in the head"):
        score_rows(model, rows, batch_size=2)
    handle.remove()
    assert "forward" not in vars(model.model)
    assert model.training
    assert model.model.layers[1].training
    assert not model.model.layers[0].training
    assert np.array_equal(score_rows(model, rows, batch_size=2).nll_R, before.nll_R)


def failing_at_call(number):
    calls = iter(range(1, number + 1))

    def hook(*_):
        if next(calls) == number:
            raise RuntimeError("in the head")

    return hook


def test_a_forward_that_accelerate_put_on_the_instance_survives():
    model, rows = build(FAMILIES["llama"]()), token_rows()
    expected = score_rows(model, rows, batch_size=4).nll_R
    hooked = model.model.forward
    model.model.forward = lambda *args, **kwargs: hooked(*args, **kwargs)
    mine = model.model.forward
    assert np.array_equal(score_rows(model, rows, batch_size=4).nll_R, expected)
    assert vars(model.model)["forward"] is mine
