"""Prefix tuning: the prefix stands where real tokens would, in the loss, in generation and in the context."""

from __future__ import annotations

import pytest
import torch
from conftest import experiment_document
from peft import PeftModel, get_peft_model
from ranks_cases import lasting
from safetensors.torch import load_file
from test_evaluation_generate import EOS, VOCAB, build, some_prompts
from test_evaluation_generate import tokenizer as tokenizer
from test_training_resume import TRAIN
from torch.nn.functional import cross_entropy
from training_cases import Stopped, prepare, stop_at
from training_cases import one_thread as one_thread
from transformers import AutoModelForCausalLM, DynamicCache, MambaConfig, MambaForCausalLM

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment
from lora_dist.config.sections import MethodSection
from lora_dist.errors import DataError, ModelError, Refused
from lora_dist.evaluation.generate import Prompt, generate_samples
from lora_dist.evaluation.perplexity import score_rows
from lora_dist.models.prefix import prefix_config, prefix_problems, room_behind_prefix, start_prefix, virtual_tokens
from lora_dist.planning.choice import LADDER, Hardware, choose_launch_config
from lora_dist.planning.memory import Setting
from lora_dist.planning.strategies import strategy_problems
from lora_dist.reporting.names import short_names
from lora_dist.verbs.adapter_generate import adapter_generate
from lora_dist.verbs.merge import MergeRequest, merge_adapters

V = 5
WORDS = [[7, 21, 9], [30, 11, 50]]
"""The rows whose first V tokens a prefix begins as."""


def with_prefix(family="llama"):
    """A model and, apart from it, the same one with a prefix of random keys and values of the size that it makes."""
    model = get_peft_model(build(family), prefix_config(MethodSection(kind="prefix", virtual_tokens=V))).eval()
    start_prefix(model, WORDS)
    weight = model.prompt_encoder["default"].embedding.weight
    torch.manual_seed(2)
    with torch.no_grad():
        weight += 0.3 * torch.randn_like(weight)
    return build(family), model


def by_hand(base, model):
    """The prefix as a cache of one row, put together from the trained weight alone."""
    weight, config = model.prompt_encoder["default"].embedding.weight.detach(), base.config
    blocks = weight.view(V, config.num_hidden_layers, 2, -1, weight.shape[1] // config.num_hidden_layers // 2)
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    blocks = blocks.reshape(V, config.num_hidden_layers, 2, heads, -1).permute(1, 2, 3, 0, 4)
    return DynamicCache([(keys[None], values[None]) for keys, values in blocks])


def nll(logits, ids):
    return float(cross_entropy(logits[:-1].double(), torch.tensor(ids[1:]), reduction="sum"))


def rows_of(lengths=(12, 3, 20, 7)):
    torch.manual_seed(3)
    rows = [torch.randint(3, VOCAB, (length,)).tolist() for length in lengths]
    return [(ids, ids) for ids in rows]


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2", "opt"])
def test_a_row_is_scored_as_the_base_scores_it_behind_those_keys_and_values(family):
    base, model = with_prefix(family)
    scores = score_rows(model, rows_of(), batch_size=3)
    for (ids, _), found in zip(rows_of(), scores.nll_R, strict=True):
        with torch.no_grad():
            whole = base(
                input_ids=torch.tensor([ids]), past_key_values=by_hand(base, model),
                attention_mask=torch.ones(1, V + len(ids), dtype=torch.long),
            ).logits[0]  # fmt: skip
        assert found == pytest.approx(nll(whole, ids), rel=2e-6)
    assert scores.tokens_R.tolist() == [len(ids) - 1 for ids, _ in rows_of()]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_prefix_begins_as_real_tokens_before_the_row(family):
    """Without any cache: the tokens themselves, which the row's positions come after."""
    base, model = build(family), build(family)
    model = get_peft_model(model, prefix_config(MethodSection(kind="prefix", virtual_tokens=V))).eval()
    start_prefix(model, WORDS)
    before = [7, 21, 9, 30, 11]
    scores = score_rows(model, rows_of(), batch_size=2)
    for (ids, _), found in zip(rows_of(), scores.nll_R, strict=True):
        with torch.no_grad():
            assert found == pytest.approx(nll(base(torch.tensor([before + ids])).logits[0, V:], ids), rel=2e-6)


def test_few_tokens_are_taken_again_and_again():
    model = get_peft_model(build(), prefix_config(MethodSection(kind="prefix", virtual_tokens=V))).eval()
    start_prefix(model, [[7, 21]])
    first = score_rows(model, rows_of(), batch_size=2).nll_R
    start_prefix(model, [[7, 21, 7, 21, 7]])
    assert score_rows(model, rows_of(), batch_size=2).nll_R.tolist() == first.tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_prompts_padded_on_the_left_are_continued_as_each_is_by_hand(family, tokenizer):
    base, model = with_prefix(family)
    prompts = some_prompts(count=5, longest=12)
    samples, _ = generate_samples(model, tokenizer, prompts, max_new_tokens=6, batch_size=3)
    for prompt, sample in zip(prompts, samples, strict=True):
        ids = list(prompt.input_ids)
        for _ in range(6):
            mask = torch.ones(1, V + len(ids), dtype=torch.long)
            with torch.no_grad():
                cache = by_hand(base, model)
                logits = base(input_ids=torch.tensor([ids]), past_key_values=cache, attention_mask=mask).logits
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == EOS:
                break
        new = ids[len(prompt.input_ids) :]
        assert (sample.new_tokens, sample.prediction) == (len(new), tokenizer.decode(new, skip_special_tokens=True))


def test_the_prefix_takes_its_part_of_the_context(tokenizer):
    _, model = with_prefix()  # 48 positions
    assert virtual_tokens(model) == V
    assert virtual_tokens(build()) == 0
    prompt = Prompt(0, [5] * (48 - V - 2), [5])
    (sample,), _ = generate_samples(model, tokenizer, [prompt], max_new_tokens=9, batch_size=1)
    assert sample.new_tokens <= 2
    with pytest.raises(DataError, match="its prompt has 43 tokens and the model's context is 43"):
        generate_samples(model, tokenizer, [Prompt(0, [5] * 43, [5])], max_new_tokens=9, batch_size=1)
    score_rows(model, rows_of((9, 43)), batch_size=2)
    with pytest.raises(DataError, match=r"44 tokens behind a prefix of 5 .* context of 48; use data.max_length=43"):
        score_rows(model, rows_of((9, 44)), batch_size=2)


METHOD = {"kind": "prefix", "virtual_tokens": 6}


def test_training_moves_the_prefix_alone_and_what_is_saved_opens_with_peft(tmp_path, tiny_model, problem_files):
    case = prepare(tmp_path, tiny_model, problem_files, method=METHOD, train={"learning_rate": 0.1})
    record = case.work()
    (tensor,) = case.weights.values()
    assert tensor.shape == (6, 2 * 2 * 32)  # two blocks, keys and values, two heads of 16
    assert tensor.dtype == torch.float32
    assert record.model.parameters_trainable == tensor.numel()
    assert record.model.trainable_dtype == "float32"
    assert record.method == {"kind": "prefix", "virtual_tokens": 6, "prefix_projection": False}
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    start = get_peft_model(base, prefix_config(case.run.method))
    start_prefix(start, [ids for ids, _ in case.tokens.rows("train")])
    begun = score_rows(start, list(case.tokens.rows("train")), batch_size=8)
    assert case.losses[-1] < case.losses[0]
    assert record.evaluate["train"]["nll_sum"] < begun.nll_sum
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    opened = PeftModel.from_pretrained(base, case.folder.model)
    found = score_rows(opened, list(case.tokens.rows("test")), batch_size=8)
    assert found.nll_sum == pytest.approx(record.evaluate["test"]["nll_sum"], rel=1e-6)
    pretrained = load_file(tiny_model / "model.safetensors")
    assert all(torch.equal(weight, pretrained[name]) for name, weight in base.state_dict().items())


@pytest.mark.parametrize("projected", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, tiny_model, problem_files, projected):
    """With a projection too, of which peft saves only what it makes."""
    sections = {"method": METHOD | {"prefix_projection": projected}, "train": TRAIN, "evaluate": {"samples": 0}}
    calm, stopped = (prepare(tmp_path / name, tiny_model, problem_files, **sections) for name in ("calm", "stopped"))
    calm.train()
    with pytest.raises(Stopped):
        stopped.train(stop_at(5))
    stopped.train()
    assert stopped.bytes == calm.bytes
    assert lasting(stopped.lines) == lasting(calm.lines)
    if projected:
        width, keys = 2 * 2 * 32, 32
        assert calm.summary["model"]["parameters_trainable"] == 6 * keys + keys * keys + keys + keys * width + width
        assert next(iter(calm.weights.values())).shape == (6, width)


def test_several_lengths_are_one_sweep_and_a_row_that_no_longer_fits_is_refused(tmp_path, tiny_model, problem_files):
    arms = {"prefix": {"method": {"kind": "prefix"}, "grid": {"method.virtual_tokens": [10, 20]}}}
    document = experiment_document(tiny_model, problem_files, arms=arms)
    runs = expand(Experiment.model_validate(document))
    assert [run.method.virtual_tokens for run in runs] == [10, 20]
    assert len({run.id for run in runs}) == 2
    assert short_names([("e", run) for run in runs]) == ["prefix 10", "prefix 20"]
    told = r"method.virtual_tokens: 1000 before the longest row \(\d+ tokens\) are more than the model's context of"
    with pytest.raises(Refused, match=told):
        prepare(tmp_path, tiny_model, problem_files, method={"kind": "prefix", "virtual_tokens": 1000})
    for longest, fix in ((500, "use at most 12 or data.max_length=492"), (512, "use data.max_length=492")):
        (problem,) = room_behind_prefix(MethodSection(kind="prefix"), longest, 512)
        assert problem.fix == fix
    assert not list(room_behind_prefix(MethodSection(kind="prefix"), 492, 512))
    assert not list(room_behind_prefix(MethodSection(kind="prefix"), 9999, None))


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"data": {"packing": True}}, "arms.prefix.data.packing: prefix cannot be trained on packed sequences"),
        ({"train": {"gradient_checkpointing": True}}, "arms.prefix.train.gradient_checkpointing: prefix cannot"),
        ({"evaluate": {"merged": "always"}}, "arms.prefix.evaluate.merged: prefix cannot be merged"),
        ({"method": {"rank": 4}}, "arms.prefix.method.rank: method.rank means nothing for prefix"),
        ({"method": {"targets": ["q_proj"]}}, "method.targets means nothing for prefix; remove it; prefix has"),
    ],
)
def test_what_does_not_go_with_a_prefix_is_refused_once(tiny_model, problem_files, sections, told):
    arm = {**sections, "method": {"kind": "prefix", **sections.get("method", {})}}
    document = experiment_document(tiny_model, problem_files, arms={"prefix": arm}) | {"seeds": [0, 1]}
    with pytest.raises(Refused) as refused:
        expand(Experiment.model_validate(document))
    (problem,) = refused.value.problems
    assert told in str(problem)


def test_without_arms_the_key_is_the_file_s_and_inherited_settings_of_others_are_no_mistake(tiny_model, problem_files):
    document = experiment_document(tiny_model, problem_files, method={"kind": "prefix", "rank": 4})
    (run,) = expand(Experiment.model_validate(document))
    assert run.train.learning_rate == 0.005
    with pytest.raises(Refused, match=r"^data.packing: prefix"):
        expand(Experiment.model_validate({**document, "data": {**document["data"], "packing": True}}))


def test_models_without_keys_and_values_and_zero3_are_refused_in_a_line():
    method = MethodSection(kind="prefix")
    with torch.device("meta"):
        mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1))
        assert not list(prefix_problems(build(), method))
    (problem,) = prefix_problems(mamba, method)
    assert str(problem).startswith("method.kind: MambaForCausalLM keeps a state, not the keys and values")
    (problem,) = strategy_problems("prefix", "zero3")
    assert str(problem).startswith("method.kind: prefix cannot go under ZeRO-3")
    chosen = {
        choose_launch_config(None, Setting(method), Hardware(gpus, None, nodes)).config
        for gpus, nodes in [(1, 1), (2, 1), (8, 2)]
    }
    assert chosen == {"single_gpu", "ddp", "multinode_zero2"}
    assert {name for name in LADDER if "zero3" in name}.isdisjoint(chosen)


def test_a_prefix_is_neither_merged_nor_swapped_and_says_so(tmp_path, tiny_model, problem_files):
    case = prepare(tmp_path, tiny_model, problem_files, method=METHOD, train={"max_steps": 1})
    case.train()
    into = tmp_path / "merged"
    with pytest.raises(ModelError, match="is a prefix, which comes before the tokens and is no change of the weights"):
        merge_adapters(MergeRequest((str(case.folder.path),), into))
    assert not into.exists()
    with pytest.raises(Refused, match="is a prefix, which cannot share a base with others"):
        adapter_generate(str(tiny_model), [str(case.folder.path)], prompts=["x"])


@pytest.mark.parametrize("kind", ["prefix", "ia3"])
def test_in_half_precision_what_is_trained_and_saved_is_float32(tmp_path, tiny_model, problem_files, kind):
    sections = {"method": {"kind": kind}, "model": {"dtype": "bfloat16"}, "train": {"max_steps": 2}}
    case = prepare(tmp_path, tiny_model, problem_files, evaluate={"samples": 1, "max_new_tokens": 4}, **sections)
    record = case.work()
    assert {tensor.dtype for tensor in case.weights.values()} == {torch.float32}
    assert (record.model.dtype, record.model.trainable_dtype) == ("bfloat16", "float32")
    assert record.generation.new_tokens > 0
