"""The numbers themselves: exact, independent of batches, padding and order, bounded in memory, refused when wrong."""

import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from reference_nll import float64_nll
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from lora_dist.errors import DataError, ModelError
from lora_dist.evaluation.heads import CHUNK_BYTES, SplitHead, open_head
from lora_dist.evaluation.live_model import evaluating
from lora_dist.evaluation.perplexity import RowScores, bits_per_byte, explain_worse_than_uniform, score_rows

VOCAB = 61


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Over tiny tensors threads only wait for each other, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_llama(vocab=VOCAB, hidden=32, **settings):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,  # far from uniform
        **settings,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def token_rows(count=9, seed=0, share=0.6):
    random = np.random.default_rng(seed)
    rows = []
    for length in random.integers(2, 50, size=count):
        ids = random.integers(0, VOCAB, size=length)
        labels = np.where(random.random(length) < share, ids, -100)
        labels[-1] = ids[-1]
        rows.append((ids.tolist(), labels.tolist()))
    return rows


def test_perplexity_equals_float64_at_every_batch_size(model):
    rows = token_rows()
    expected_R = [float64_nll(model, row) for row in rows]
    tokens = sum(label != -100 for _, labels in rows for label in labels[1:])
    for batch_size in (1, 3, 8, 100):
        scores = score_rows(model, rows, batch_size=batch_size)
        np.testing.assert_allclose(scores.nll_R, expected_R, rtol=1e-6)  # float32 body and log-softmax
        assert scores.nll_R.dtype == np.float64
        assert scores.tokens_R.dtype == np.int64
        assert scores.scored_tokens == tokens
        assert scores.perplexity == pytest.approx(math.exp(math.fsum(expected_R) / tokens), rel=1e-6)


def test_rows_of_one_length_need_no_padding_and_score_the_same(model):
    rows = [(ids[:10], labels[:10]) for ids, labels in token_rows(20, share=1.0) if len(ids) >= 10]
    together = score_rows(model, rows, batch_size=8)
    padded = score_rows(model, [*rows, *token_rows(3, seed=1)], batch_size=100)
    np.testing.assert_allclose(together.nll_R, padded.nll_R[: len(rows)], rtol=1e-6)


def test_the_first_label_never_counts_and_what_follows_the_last_score_does_not_matter(model):
    ids = [5, 6, 7, 8, 9, 10]
    plain = score_rows(model, [(ids, [-100, -100, 7, 8, -100, -100])], batch_size=1)
    first = score_rows(model, [(ids, [5, -100, 7, 8, -100, -100])], batch_size=1)
    after = score_rows(model, [([5, 6, 7, 8, 1], [-100, -100, 7, 8, -100])], batch_size=1)
    assert first.tokens_R.tolist() == plain.tokens_R.tolist() == [2]
    assert first.nll_sum == pytest.approx(plain.nll_sum, rel=1e-6)
    assert after.nll_sum == pytest.approx(plain.nll_sum, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 9), batch_size=st.integers(1, 10), data=st.data())
def test_order_batches_and_repetition_of_rows_change_nothing(model, seed, count, batch_size, data):
    rows = token_rows(count, seed)
    one_by_one = score_rows(model, rows, batch_size=1)
    order = data.draw(st.permutations(range(count)))
    permuted = score_rows(model, [rows[r] for r in order], batch_size=batch_size)
    np.testing.assert_allclose(permuted.nll_R, one_by_one.nll_R[order], rtol=2e-6)
    assert np.array_equal(permuted.tokens_R, one_by_one.tokens_R[order])
    cut = data.draw(st.integers(1, count))
    parts = [score_rows(model, part, batch_size=batch_size) for part in (rows[:cut], rows[cut:]) if part]
    assert math.fsum(part.nll_sum for part in parts) == pytest.approx(one_by_one.nll_sum, rel=1e-6)
    twice = score_rows(model, rows * 2, batch_size=batch_size)
    assert twice.perplexity == pytest.approx(one_by_one.perplexity, rel=1e-6)


def test_numpy_and_tuple_rows_are_rows(model):
    rows = token_rows(4)
    as_arrays = [(np.array(ids, np.int32), tuple(labels)) for ids, labels in rows]
    assert np.array_equal(score_rows(model, as_arrays, batch_size=2).nll_R, score_rows(model, rows, batch_size=2).nll_R)


def test_progress_counts_rows_up_to_all_of_them(model):
    heard = []
    score_rows(model, token_rows(7), batch_size=3, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(3, 7), (6, 7), (7, 7)]


def test_half_precision_logits_are_scored_in_float32():
    rows = token_rows(share=1.0)
    for dtype in (torch.bfloat16, torch.float16):
        model = tiny_llama().to(dtype)
        expected = math.fsum(float64_nll(model, row) for row in rows)
        scores = score_rows(model, rows, batch_size=1)
        # The logits are the same bits; log-softmax in half precision would be off by about 1e-3.
        assert scores.nll_sum == pytest.approx(expected, rel=2e-6)
        # Other batch shapes round the body differently: 8 bits of mantissa, averaged over 200 tokens.
        assert score_rows(model, rows, batch_size=8).nll_sum == pytest.approx(expected, rel=5e-3)


def test_a_lora_adapter_is_scored_as_it_answers():
    base, rows = tiny_llama(), token_rows()
    before = score_rows(base, rows, batch_size=4)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert score_rows(model, rows, batch_size=4).nll_sum == pytest.approx(before.nll_sum, rel=1e-6)  # B is zero
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted = score_rows(model, rows, batch_size=4)
    expected = math.fsum(float64_nll(model, row) for row in rows)
    assert adapted.nll_sum == pytest.approx(expected, rel=1e-6)
    assert abs(adapted.nll_sum - before.nll_sum) > 0.01 * before.nll_sum
    with evaluating(model):
        assert isinstance(open_head(model), SplitHead)
    with model.disable_adapter():
        assert score_rows(model, rows, batch_size=4).nll_sum == pytest.approx(before.nll_sum, rel=1e-6)


def four_bit_llama(folder, double):
    tiny_llama(hidden=64).save_pretrained(folder)
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization, dtype=torch.float32)


@pytest.mark.parametrize("double", [True, False])
def test_a_4bit_model_is_scored_as_it_answers_in_training_and_left_as_it_was(tmp_path, double):
    model, rows = four_bit_llama(tmp_path / "tiny", double), token_rows()
    assert any(type(module).__name__ == "Linear4bit" for module in model.modules())
    model.train()
    expected = math.fsum(float64_nll(model, row) for row in rows)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for batch_size in (1, 4):
        assert score_rows(model, rows, batch_size=batch_size).nll_sum == pytest.approx(expected, rel=2e-6)
    with evaluating(model):
        assert isinstance(open_head(model), SplitHead)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    state = model.model.layers[0].self_attn.q_proj.weight.quant_state
    assert state.nested == double
    assert all(module.training for module in model.modules())


def test_a_4bit_model_still_learns_after_it_was_scored(tmp_path):
    """bitsandbytes 0.50.2 in plain evaluation mode, on some CPUs, gives zero gradients ever after."""
    adapted = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    gradients = []
    for score_first in (False, True):
        torch.manual_seed(0)
        model = get_peft_model(four_bit_llama(tmp_path / "tiny", double=True), adapted).train()
        if score_first:
            score_rows(model, token_rows(), batch_size=4)
        ids = torch.arange(30)[None]
        model(ids, labels=ids).loss.backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if "lora_B" in name})
    assert all(gradient.norm() > 0 for gradient in gradients[0].values())
    assert all(torch.equal(gradients[1][name], gradient) for name, gradient in gradients[0].items())


class Allocations(TorchDispatchMode):
    """The largest tensor that was made, and the most bytes of new storages alive at once."""

    def __init__(self):
        super().__init__()
        self.largest = self.live = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor.untyped_storage())
        return result

    def note(self, storage):
        if storage not in self.known:
            self.known.add(storage)
            self.live += storage.nbytes()
            self.largest, self.peak = max(self.largest, storage.nbytes()), max(self.peak, self.live)
            weakref.finalize(storage, self.forget, storage.nbytes())

    def forget(self, size):
        self.live -= size


def test_memory_stays_far_below_the_logits_of_a_row():
    vocab, length = 50_000, 2_000
    model = tiny_llama(vocab=vocab, hidden=16)
    ids = np.random.default_rng(0).integers(0, vocab, size=length).tolist()
    with Allocations() as allocations:
        score_rows(model, [(ids, ids)], batch_size=1)
    full = 4 * vocab * length
    assert allocations.largest <= CHUNK_BYTES < full / 5
    assert CHUNK_BYTES < allocations.peak < full / 2  # a chunk of logits and its log-softmax
    with Allocations() as plain, torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    assert plain.largest == full  # the instrument sees what it is there to see


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (([1, 2, 3], [-100, -100, -100]), "row 1: nothing in it is scored"),
        (([1, 2, 3], [1, -100, -100]), "row 1: nothing in it is scored"),
        (([], []), "row 1: nothing in it is scored"),
        (([1, 2, 3], [1, 2]), "row 1: 3 token ids and 2 labels"),
        (([1, 2, VOCAB], [1, 2, 2]), "row 1: token ids outside 0..60"),
        (([1, 2, 3], [1, 2, VOCAB]), "row 1: token ids outside 0..60"),
        (([1, 2, 3], [1, 2, -1]), "row 1: token ids outside 0..60"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(model, row, problem):
    with pytest.raises(DataError, match=problem):
        score_rows(model, [([1, 2], [1, 2]), row], batch_size=2)


def test_no_rows_are_refused(model):
    with pytest.raises(DataError, match="no row to score"):
        score_rows(model, [], batch_size=2)


def test_a_model_that_answers_nan_is_refused_with_the_row():
    model = tiny_llama()
    torch.nn.init.constant_(model.model.embed_tokens.weight[60:], float("nan"))
    rows = [([1, 2, 3], [1, 2, 3]), ([1, 60, 3], [1, 60, 3])]
    with pytest.raises(ModelError, match="row 1 is nan"):
        score_rows(model, rows, batch_size=2)


def test_worse_than_uniform_is_explained_and_better_is_not():
    assert explain_worse_than_uniform(math.log(50_000), 50_000) is None
    line = explain_worse_than_uniform(13.7, 50_257)  # the perplexity of 878,532 of a published table
    assert "\n" not in line
    assert all(word in line for word in ("13.70", "10.82", "template", "padding", "shifted", "tokenizer"))


def test_bits_per_byte_of_a_fair_coin_per_byte_is_one():
    assert bits_per_byte(1000 * math.log(2), 1000) == pytest.approx(1.0, rel=1e-15)
    with pytest.raises(ValueError, match="scored_bytes"):
        bits_per_byte(1.0, 0)


def test_a_perplexity_too_large_for_a_float_is_infinite():
    assert RowScores(np.array([1e4]), np.array([1])).perplexity == math.inf
