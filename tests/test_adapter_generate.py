"""adapter generate: the command line that takes several words, prompts from files, and texts as each adapter alone."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from adapter_cases import opened, save_adapter, tell_origin
from conftest import run_cli
from transformers import AutoTokenizer

from lora_dist import adapter_generate
from lora_dist.cli.adapter_output import print_generations
from lora_dist.cli.output import stdout
from lora_dist.cli.several_words import spread
from lora_dist.data.prompts import encode_prompts, read_prompts
from lora_dist.errors import ConfigError, DataError, ModelError, UserError
from lora_dist.evaluation.generate import Prompt, generate_samples
from lora_dist.models.adapters import put_adapter
from lora_dist.verbs.adapter_generate import names_of

SEVERAL = {"--adapters", "--prompt"}
PROMPTS = ["Question: Tom has 3 apples and buys 4. How many?\nAnswer:", "Ann"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("BASE --adapters a b --prompt x", "BASE --adapters a --adapters b --prompt x"),
        ("--adapters a b -- BASE", "--adapters a --adapters b -- BASE"),
        ("BASE --json --adapters a b c", "BASE --json --adapters a --adapters b --adapters c"),
        ("BASE --adapters a --adapters b c --json", "BASE --adapters a --adapters b --adapters c --json"),
        ("BASE --prompt x y --adapters a", "BASE --prompt x --prompt y --adapters a"),
        ("BASE --adapters=a --prompt=-5 --adapters b", "BASE --adapters=a --prompt=-5 --adapters b"),
        ("BASE --adapters a -h", "BASE --adapters a -h"),
        ("BASE --adapters a - b", "BASE --adapters a --adapters - --adapters b"),
        ("-- --adapters a b", "-- --adapters a b"),
        ("", ""),
    ],
)
def test_a_list_option_takes_every_word_up_to_the_next_option(typed, meant):
    assert list(spread(typed.split(), SEVERAL)) == meant.split()


def test_a_text_that_begins_with_a_dash_is_a_text():
    assert list(spread(["--prompt", "- item one", "b"], SEVERAL)) == ["--prompt", "- item one", "--prompt", "b"]


@pytest.mark.parametrize("typed", ["--adapters", "--adapters --prompt x", "--adapters -- a", "BASE --prompt -5"])
def test_a_list_option_without_a_word_is_an_error(typed):
    with pytest.raises(LookupError, match="--"):
        list(spread(typed.split(), SEVERAL))


def test_prompts_are_the_lines_of_a_text_file_or_a_column(tmp_path):
    files = {
        "a.txt": "one\r\n\n  two \u2028 still two\n",
        "a.jsonl": '{"prompt": "one\\nline", "answer": 4}\n{"prompt": "two"}\n',
        "a.json": '[{"messages": [{"role": "user", "content": "Hi"}]}]',
        "a.csv": "id,prompt\n1,one\n2,two\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, newline="")
    read = {name: read_prompts(tmp_path / name) for name in files}
    assert read["a.txt"] == ["one", "  two \u2028 still two"]
    assert read["a.jsonl"] == ["one\nline", "two"]
    assert read["a.json"] == [[{"role": "user", "content": "Hi"}]]
    assert read["a.csv"] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", '{"prompt": "x", "messages": []}\n', "both"),
        ("a.jsonl", '{"prompt": ["x"]}\n', "row 1"),
        ("a.jsonl", '{"messages": [{"role": "assistant", "content": "x"}]}\n', "no turn of a user"),
        ("a.jsonl", '{"messages": []}\n', "no turn of a user"),
        ("a.jsonl", "", "no prompt in it"),
        ("a.jsonl", "{", "not JSON"),
        ("a.json", "{}", "not an array"),
    ],
)
def test_what_is_no_prompt_is_told_by_file_and_row(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"--file: .*{told}"):
        read_prompts(tmp_path / name)


def test_texts_begin_with_bos_and_conversations_end_where_the_assistant_speaks(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None  # ours: "User: ...\nAssistant: "
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    text, asked, answered = encode_prompts(["Hi", turns[:1], turns], tokenizer)
    assert text.input_ids == [tokenizer.bos_token_id, *tokenizer("Hi", add_special_tokens=False)["input_ids"]]
    assert asked.text.endswith("User: Hi\nAssistant: ")
    assert asked == answered  # the answer in the data is what is asked for
    assert asked.input_ids.count(tokenizer.bos_token_id) == 1


def test_names_are_labels_or_folders_and_no_two_alike(tmp_path):
    def adapter(path, label=None):
        told = None if label is None else SimpleNamespace(label=label)
        return SimpleNamespace(path=tmp_path / path, name=path, provenance=told, is_local=True)

    given = [
        adapter("one/model", "lora"),
        adapter("two", "lora"),
        adapter("three/model"),
        adapter("base"),
        adapter("b"),
    ]
    assert names_of(given) == ["lora (one/model)", "lora (two)", "three", "base (base)", "b"]


@pytest.fixture(scope="module")
def adapters(tiny_model, tmp_path_factory):
    """Of the tiny model: one of ours, one of somebody else's whose name is odd, and a DoRA."""
    folder = tmp_path_factory.mktemp("adapters")
    first = tell_origin(save_adapter(folder / "run" / "model", tiny_model, r=4, seed=1), tiny_model, "lora r4")
    odd = save_adapter(folder / "a.b [red]__base__", tiny_model, r=2, seed=2, targets=["q_proj"])
    return [first, odd, save_adapter(folder / "dora", tiny_model, r=2, seed=3, use_dora=True)]


def alone(tiny_model, folder, new):
    """The texts of the bare base, or of one adapter on a base of its own, by what makes the report's samples."""
    model = opened(tiny_model) if folder is None else put_adapter(opened(tiny_model), folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompts = [Prompt(n, prompt.input_ids, [0]) for n, prompt in enumerate(encode_prompts(PROMPTS, tokenizer))]
    samples, _ = generate_samples(model, tokenizer, prompts, max_new_tokens=new, batch_size=1)
    return [sample.prediction for sample in samples]


def test_every_text_is_that_of_the_adapter_alone(tiny_model, adapters):
    beats = []
    found = adapter_generate(
        str(tiny_model),
        [str(adapters[0].parent), str(adapters[1]), str(adapters[2])],  # the first by the folder of its run
        prompts=PROMPTS,
        max_new_tokens=10,
        batch_size=3,
        progress=lambda *beat: beats.append(beat),
    )
    names = ["lora r4", "a.b [red]__base__", "dora", "base"]
    for number, (name, folder) in enumerate(zip(names, [*adapters, None], strict=True)):
        wrote = [prompt.continuations[number] for prompt in found.prompts]
        assert [one.adapter for one in wrote] == [name] * 2
        assert [one.text for one in wrote] == alone(tiny_model, folder, 10)
    assert [prompt.prompt for prompt in found.prompts] == PROMPTS
    assert [(used.shares_batches, used.base_checked) for used in found.adapters] == [
        (True, True), (True, False), (False, False)
    ]  # fmt: skip
    assert len(found.notes) == 2
    assert found.generation.tokens_per_second > 0
    assert beats[-1][:3] == ("generating", 8, 8)


def test_the_command_line_prints_one_json_document_or_texts_side_by_side(
    tiny_model, adapters, tmp_path, monkeypatch, capsys
):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    words = ["adapter", "generate", tiny_model, "--adapters", *adapters[:2], "--max-new-tokens", "6"]
    done = run_cli(*words, "--file", "p.jsonl", "--json", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    document = json.loads(done.out)
    assert [len(prompt["continuations"]) for prompt in document["prompts"]] == [3, 3]
    assert document["generation"]["rows"] == 6

    found = adapter_generate(str(tiny_model), [*map(str, adapters[:2])], prompts=PROMPTS, max_new_tokens=6)
    assert json.loads(json.dumps(found.document()))["prompts"] == document["prompts"]
    for width, columns in ((60, 1), (80, 2), (120, 3)):
        monkeypatch.setattr(stdout, "width", width)
        print_generations(found, as_json=False)
        lines = capsys.readouterr().out.splitlines()
        assert max(len(line) for line in lines[:-2]) <= width  # the last ones are not wrapped
        titles = [line for line in lines if "lora r4" in line and "not checked" not in line]
        assert len(titles) == 2
        assert all(("a.b [red]__base__" in line) == (columns > 1) for line in titles)
        assert all(("base" in line.split()) == (columns > 2) for line in titles)


def test_a_base_of_other_weights_is_refused_and_taken_by_force(tiny_model, adapters, tmp_path):
    other = tmp_path / "other"
    model = opened(tiny_model)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1.5)
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(other)
    given = [str(adapters[0])]
    with pytest.raises(UserError, match="trained on other weights"):
        adapter_generate(str(other), given, prompts=["x"], max_new_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft's, that the base was renamed: its weights are what counts
        found = adapter_generate(str(other), given, prompts=["x"], max_new_tokens=1, force=True)
    assert "not checked" in found.notes[0]


@pytest.mark.parametrize("name", ["with\0nul", "with\nbreak", " "])
def test_names_that_are_no_names_are_refused(name):
    with pytest.raises(ModelError, match="--adapters"):
        adapter_generate("x", [name], prompts=["x"])


def test_no_adapter_and_no_prompt_are_refused():
    with pytest.raises(ConfigError, match="--adapters: is missing"):
        adapter_generate("x", [], prompts=["x"])
    with pytest.raises(ConfigError, match="--prompt: is missing"):
        adapter_generate("x", ["a"])
