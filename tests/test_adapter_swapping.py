"""Several adapters on one loaded base are, row by row, what each is alone."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from adapter_cases import ALL, opened, pruned_llama, save_adapter
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lora_dist.errors import DataError, ModelError
from lora_dist.evaluation.swapping import Row, Swapping
from lora_dist.models.adapter_folder import find_adapter
from lora_dist.models.adapters import put_adapter
from lora_dist.models.shared_base import sharing_problems

VOCABULARY, EOS = 64, 2
TOKENIZER = SimpleNamespace(eos_token_id=EOS)  # all that generation asks of one
EIGHT = {
    "plain": {"r": 4, "lora_alpha": 8},
    "attention": {"r": 2, "lora_alpha": 8, "targets": ["q_proj", "v_proj"]},
    "mlp": {"r": 16, "lora_alpha": 16, "targets": ["gate_proj", "down_proj"]},
    "one block": {"r": 3, "lora_alpha": 12, "targets": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    "rslora": {"r": 8, "lora_alpha": 8, "use_rslora": True},
    "ranks": {"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 7}, "alpha_pattern": {"o_proj": 3}},
    "keeps": {"r": 4, "lora_alpha": 8, "keeps": True},
    "keeps some": {"r": 6, "lora_alpha": 12, "keeps": True, "targets": ["k_proj", "up_proj"]},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pruned_llama(tmp_path_factory.mktemp("swap") / "base", VOCABULARY)


@pytest.fixture(scope="module")
def eight(base):
    """Folders of adapters that differ in rank, scaling, targets, layers and in whether they keep the base's zeros."""
    return [
        save_adapter(base.parent / name, base, seed=number, **{"targets": ALL, **config})
        for number, (name, config) in enumerate(EIGHT.items())
    ]


def alone(base, folder):
    """The reference: a base of its own, by plain peft where that opens it."""
    if folder is None:
        return opened(base)
    if json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA":
        return PeftModel.from_pretrained(opened(base), folder).eval()
    return put_adapter(opened(base), folder).eval()


def continued(model, ids, new):
    """Greedy continuation, each token from the whole sequence: no cache, no padding, no `generate`."""
    found = []
    for _ in range(new):
        found.append(int(model(torch.tensor([[*ids, *found]])).logits[0, -1].argmax()))
        if found[-1] == EOS:
            break
    return found


def swapping(base, folders):
    return Swapping(opened(base), [find_adapter(str(folder)) for folder in folders])


def some_prompts(*lengths):
    random = torch.Generator().manual_seed(7)
    return [torch.randint(3, VOCABULARY, (length,), generator=random).tolist() for length in lengths]


@torch.no_grad()
def test_eight_adapters_and_the_base_in_one_batch_are_what_each_is_alone(base, eight):
    prompts = some_prompts(11, 1, 6)
    rows = [Row(ids, adapter) for ids in prompts for adapter in (*range(8), None)]
    swapped = swapping(base, eight)
    assert swapped.apart == []
    logits = swapped.logits(rows)
    tokens, facts = swapped.continue_rows(rows, TOKENIZER, max_new_tokens=12, batch_size=len(rows))
    reference = {number: alone(base, folder) for number, folder in [*enumerate(eight), (None, None)]}
    for row, found, new in zip(rows, logits, tokens, strict=True):
        expected = reference[row.adapter](torch.tensor([row.input_ids])).logits[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # float32; logits of some units
        assert new == continued(reference[row.adapter], row.input_ids, 12)
    assert (facts.prompts, facts.new_tokens) == (27, sum(map(len, tokens)))
    one_prompt = logits[:9]
    for n, one in enumerate(one_prompt):  # no two of them are the same function
        assert all((one - other).abs().max() > 1e-2 for other in one_prompt[n + 1 :])


def test_the_order_and_the_size_of_batches_change_no_token(base, eight):
    rows = [Row(ids, adapter) for ids in some_prompts(9, 3, 1) for adapter in (*range(8), None)]
    swapped = swapping(base, eight)
    whole, _ = swapped.continue_rows(rows, TOKENIZER, max_new_tokens=8, batch_size=64)
    for size in (1, 4):
        assert swapped.continue_rows(rows, TOKENIZER, max_new_tokens=8, batch_size=size)[0] == whole
    turned, _ = swapped.continue_rows(rows[::-1], TOKENIZER, max_new_tokens=8, batch_size=5)
    assert turned[::-1] == whole


@torch.no_grad()
def test_dora_runs_in_batches_of_its_own_beside_the_others(base, eight, tmp_path):
    folders = [
        save_adapter(tmp_path / "dora", base, r=4, lora_alpha=8, use_dora=True, seed=20),
        eight[0],
        save_adapter(tmp_path / "other", base, r=2, lora_alpha=8, use_dora=True, targets=["q_proj"], seed=21),
        eight[6],
    ]
    swapped = swapping(base, folders)
    assert swapped.apart == [0, 2]
    rows = [Row(ids, adapter) for ids in some_prompts(7, 2) for adapter in (0, None, 1, 2, 3)]
    tokens, _ = swapped.continue_rows(rows, TOKENIZER, max_new_tokens=8, batch_size=16)
    for row, found, new in zip(rows, swapped.logits(rows), tokens, strict=True):
        model = alone(base, None if row.adapter is None else folders[row.adapter])
        expected = model(torch.tensor([row.input_ids])).logits[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert new == continued(model, row.input_ids, 8)


def test_a_prompt_near_the_end_of_the_context_cuts_no_other_short(base, eight):
    rows = [Row(ids, adapter) for ids in some_prompts(62, 4) for adapter in (0, 6)]
    tokens, _ = swapping(base, eight).continue_rows(rows, TOKENIZER, max_new_tokens=10, batch_size=4)
    for row, new in zip(rows, tokens, strict=True):
        assert new == continued(alone(base, eight[row.adapter]), row.input_ids, min(10, 64 - len(row.input_ids)))


@pytest.mark.parametrize(("length", "told"), [(0, "no tokens"), (64, "64 tokens and the model's context is 64")])
def test_a_prompt_that_leaves_nothing_to_continue_is_refused(base, eight, length, told):
    with pytest.raises(DataError, match=told):
        swapping(base, eight[:1]).continue_rows(
            [Row(list(range(length)), 0)], TOKENIZER, max_new_tokens=4, batch_size=1
        )


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"bias": "lora_only"}, "bias: lora_only"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa"),
    ],
)
def test_what_would_change_the_base_under_the_others_is_refused_by_name(base, tmp_path, config, told):
    folder = save_adapter(tmp_path / "more", base, r=2, **config)
    (problem,) = sharing_problems([find_adapter(str(folder))])
    assert told in problem.problem


def test_an_adapter_that_is_given_twice_is_told_however_it_is_spelt(base, eight, tmp_path):
    (tmp_path / "link").symlink_to(eight[0])
    adapters = [find_adapter(str(folder)) for folder in (eight[0], eight[1], tmp_path / "link")]
    (problem,) = sharing_problems(adapters)
    assert (problem.key, "given twice" in problem.problem) == (str(tmp_path / "link"), True)


def test_a_file_that_lacks_or_has_more_than_its_config_says_is_refused(base, eight, tmp_path):
    def changed(name, change):
        folder = save_adapter(tmp_path / name, base, r=4)
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    lacking = changed("lacking", lambda tensors: tensors.pop(next(iter(tensors))))
    more = changed("more", lambda tensors: tensors.update({"base_model.model.nowhere.lora_A.weight": torch.ones(4, 2)}))
    thick = changed("thick", lambda tensors: tensors.update({k: torch.ones(9, 9) for k in list(tensors)[:1]}))
    for folder, told in ((lacking, "lacks"), (more, "no place here"), (thick, "size mismatch")):
        with pytest.raises(ModelError, match=told):
            swapping(base, [eight[0], folder])
