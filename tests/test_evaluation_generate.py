import logging
import time
import warnings

import numpy as np
import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from lora_dist.errors import DataError
from lora_dist.evaluation.generate import Prompt, generate_samples, prompts_of
from lora_dist.evaluation.live_model import evaluating

VOCAB, CONTEXT, EOS = 61, 48, 2


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Over tiny tensors threads only wait for each other, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    words = {f"w{number}": number for number in range(VOCAB)} | {"<pad>": 0, "<s>": 1, "</s>": EOS}
    for number in (0, 1, EOS):
        del words[f"w{number}"]
    backend = Tokenizer(WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def words(ids):
    return " ".join(f"w{number}" for number in ids if number > EOS)


SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": EOS,
}
FAMILIES = {
    "llama": lambda: hf.LlamaConfig(**SIZES, initializer_range=0.3),
    "mistral": lambda: hf.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=6, initializer_range=0.3),
    "gemma2": lambda: hf.Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, sliding_window=6),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=VOCAB, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4, eos_token_id=EOS, initializer_range=0.3
    ),
    "opt": lambda: hf.OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**SIZES, initializer_range=0.3),
}


def build(family="llama"):
    torch.manual_seed(1)
    return hf.AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()


def some_prompts(count=7, seed=0, longest=20):
    random = np.random.default_rng(seed)
    return [
        Prompt(10 + n, random.integers(3, VOCAB, size=length).tolist(), random.integers(3, VOCAB, size=4).tolist())
        for n, length in enumerate(random.integers(1, longest, size=count))
    ]


def greedy(model, ids, new, eos=(EOS,)):
    """The plainest decoder: no cache, no batch, no generate."""
    ids, start = list(ids), len(ids)
    while len(ids) < min(start + new, CONTEXT) and not (len(ids) > start and ids[-1] in eos):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_give_what_one_by_one_greedy_decoding_gives(family, tokenizer):
    model, prompts = build(family), some_prompts()
    expected = [greedy(model, prompt.input_ids, 12) for prompt in prompts]
    for batch_size in (1, 3, 8):
        samples, speed = generate_samples(model, tokenizer, prompts, max_new_tokens=12, batch_size=batch_size)
        assert [sample.row for sample in samples] == [prompt.row for prompt in prompts]
        assert [sample.prediction for sample in samples] == [words(ids) for ids in expected]
        assert [sample.new_tokens for sample in samples] == [len(ids) for ids in expected]
        assert [sample.prompt for sample in samples] == [words(prompt.input_ids) for prompt in prompts]
        assert [sample.reference for sample in samples] == [words(prompt.reference_ids) for prompt in prompts]
        assert (speed.prompts, speed.new_tokens) == (len(prompts), sum(map(len, expected)))


def test_rows_stop_at_eos_of_the_model_or_of_the_tokenizer_and_padding_is_not_counted(tokenizer):
    model, prompts = build(), some_prompts()
    free = [greedy(model, prompt.input_ids, 12, eos=()) for prompt in prompts]
    stops = (free[0][3], free[1][5])
    model.generation_config.eos_token_id = list(stops)
    samples, speed = generate_samples(model, tokenizer, prompts, max_new_tokens=12, batch_size=4)
    expected = [greedy(model, prompt.input_ids, 12, eos=(*stops, EOS)) for prompt in prompts]
    assert [sample.new_tokens for sample in samples] == [len(ids) for ids in expected]
    assert min(map(len, expected)) < 12
    assert speed.new_tokens == sum(map(len, expected)) < 12 * len(prompts)
    assert model.generation_config.eos_token_id == list(stops)


def test_no_row_goes_beyond_the_context_and_long_prompts_do_not_cut_short_ones(tokenizer):
    model = build("gpt2")  # learned positions: one too many is an index error
    prompts = [*some_prompts(3), *(Prompt(90 + n, list(range(3, 3 + n)), [3]) for n in (CONTEXT - 1, CONTEXT - 4))]
    samples, _ = generate_samples(model, tokenizer, prompts, max_new_tokens=15, batch_size=5)
    expected = [greedy(model, prompt.input_ids, 15) for prompt in prompts]
    assert [sample.prediction for sample in samples] == [words(ids) for ids in expected]
    assert [len(ids) for ids in expected[-2:]] == [1, 4]
    with pytest.raises(DataError, match="row 7: its prompt has 48 tokens and the model's context is 48"):
        generate_samples(model, tokenizer, [Prompt(7, [3] * CONTEXT, [3])], max_new_tokens=1, batch_size=1)


def test_the_model_s_own_generation_settings_change_nothing_and_warn_of_nothing(tokenizer, caplog):
    model, prompts = build(), some_prompts()
    expected = [words(greedy(model, prompt.input_ids, 8)) for prompt in prompts]
    own = hf.GenerationConfig(
        do_sample=True, temperature=0.3, top_p=0.5, top_k=3, repetition_penalty=5.0, min_new_tokens=8, eos_token_id=EOS
    )
    model.generation_config, model.config.use_cache = own, False
    model.train()
    hf.utils.logging.enable_propagation()
    try:
        with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
            warnings.simplefilter("error")
            samples, _ = generate_samples(model, tokenizer, prompts, max_new_tokens=8, batch_size=3)
    finally:
        hf.utils.logging.disable_propagation()
    assert [sample.prediction for sample in samples] == expected
    assert not caplog.records
    assert model.generation_config is own
    assert model.training


def test_an_adapter_and_4bit_weights_speak_for_themselves(tokenizer, tmp_path):
    build().save_pretrained(tmp_path)
    model = hf.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=hf.BitsAndBytesConfig(load_in_4bit=True), dtype=torch.float32
    )
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    prompts = some_prompts(4)
    before, _ = generate_samples(model, tokenizer, prompts, max_new_tokens=6, batch_size=2)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    after, _ = generate_samples(model, tokenizer, prompts, max_new_tokens=6, batch_size=2)
    with evaluating(model):
        expected = [words(greedy(model, prompt.input_ids, 6)) for prompt in prompts]
    assert [sample.prediction for sample in after] == expected
    assert [sample.prediction for sample in after] != [sample.prediction for sample in before]


def test_the_clock_runs_over_generation_only(tokenizer):
    model, prompts = build(), some_prompts(6)
    heard = []

    def slow(done, total):
        heard.append((done, total))
        time.sleep(0.2)

    start = time.perf_counter()
    _, speed = generate_samples(model, tokenizer, prompts, max_new_tokens=4, batch_size=2, progress=slow)
    assert heard == [(2, 6), (4, 6), (6, 6)]
    assert 0 < speed.seconds < time.perf_counter() - start - 0.6
    assert speed.tokens_per_second == pytest.approx(speed.new_tokens / speed.seconds)


def test_no_prompts_are_no_samples(tokenizer):
    samples, speed = generate_samples(build(), tokenizer, [], max_new_tokens=4, batch_size=2)
    assert samples == []
    assert (speed.prompts, speed.new_tokens, speed.unfinished) == (0, 0, 0)
    assert (speed.seconds, speed.tokens_per_second) == (0.0, 0.0)


def labelled(ids, *runs):
    scored = {position for start, end in runs for position in range(start, end)}
    return ids, [token if position in scored else -100 for position, token in enumerate(ids)]


def test_the_prompt_of_an_instruction_is_all_before_its_last_answer():
    ids = list(range(20, 30))
    rows = [labelled(ids, (6, 10)), labelled(ids, (2, 4), (6, 9)), labelled(ids, (9, 10)), labelled(ids, (2, 4))]
    assert (
        prompts_of(rows, 3)
        == [
            Prompt(0, ids[:6], ids[6:]),
            Prompt(
                1, ids[:6], ids[6:9]
            ),  # the first answer belongs to the conversation; what follows the last does not
            Prompt(2, ids[:9], ids[9:]),
        ]
    )
    assert len(prompts_of(rows, 100)) == 4


def test_the_prompt_of_running_text_is_its_first_half():
    ids = list(range(500))
    rows = [(ids, ids), labelled(ids[:9], (1, 9)), (ids[:2], ids[:2])]
    assert prompts_of(rows, 3) == [
        Prompt(0, ids[:64], ids[64:128]),
        Prompt(1, ids[:4], ids[4:8]),
        Prompt(2, [0], [1]),
    ]


@pytest.mark.parametrize("row", [([5], [5]), ([5, 6], [-100, -100]), ([], [])])
def test_a_row_without_a_prompt_is_named(row):
    with pytest.raises(DataError, match="row 1: it is too short"):
        prompts_of([([5, 6], [5, 6]), row], 2)
