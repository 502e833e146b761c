"""The built-in model: made once, whole or not at all, and opened like any other model."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_dist.errors import ModelError, StorageError
from lora_dist.models.builtin import BUILTIN_MODELS, builtin_model_folder
from lora_dist.models.pretraining import Recipe

REDUCED = Recipe(documents=60, vocabulary=300, hidden=32, layers=1, heads=2, kv_heads=1, intermediate=64)
LONG = Recipe(documents=6000, vocabulary=300, hidden=32, layers=1, heads=2, kv_heads=1, intermediate=64)

ASK = """
import sys
from lora_dist.models.builtin import builtin_model_folder
from lora_dist.models.pretraining import Recipe
def report(done, total, text):
    print("step" if total else "wait", flush=True)
recipe = Recipe(documents=int(sys.argv[1]), vocabulary=300, hidden=32, layers=1, heads=2, kv_heads=1, intermediate=64)
print(builtin_model_folder("tiny-llama", report, recipe))
"""


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lora_dist" / "models"


def ask(documents):
    """A process that asks for the reduced model and prints a word for each report and the folder at the end."""
    return subprocess.Popen([sys.executable, "-c", ASK, str(documents)], stdout=subprocess.PIPE, text=True)


def test_the_folder_opens_with_the_auto_classes(own_cache):
    folder = builtin_model_folder("tiny-llama", recipe=REDUCED)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert ids == tuple(tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<pad>"]))
    for config in (model.config, model.generation_config):
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == ids
    assert model.config.vocab_size == len(tokenizer) == REDUCED.vocabulary
    assert model.dtype == torch.float32
    generated = model.generate(**tokenizer("The garden", return_tensors="pt"), max_new_tokens=4, do_sample=False)
    assert generated.shape[1] <= 4 + len(tokenizer("The garden")["input_ids"])


def test_the_weights_on_disk_are_all_of_the_model(own_cache):
    folder = builtin_model_folder("tiny-llama", recipe=REDUCED)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert set(weights.keys()) == set(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert torch.equal(weights.get_tensor(name), tensor), name


def test_the_tokenizer_gives_every_text_back_and_puts_bos_first(own_cache):
    tokenizer = AutoTokenizer.from_pretrained(builtin_model_folder("tiny-llama", recipe=REDUCED))
    for text in ("Mia has 3 * 4 = 12 apples.\n#### 12", "  two  spaces", "naïve 日本 🙂", "\n\n"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids[1:]) == text
    assert len(tokenizer("1234", add_special_tokens=False)["input_ids"]) == 4


def test_the_same_recipe_gives_the_same_bytes(monkeypatch, tmp_path):
    contents = []
    for cache in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
        folder = builtin_model_folder("tiny-llama", recipe=REDUCED)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]


def test_another_recipe_is_another_folder(own_cache):
    other = Recipe(**{**vars(REDUCED), "seed": 1})
    assert builtin_model_folder("tiny-llama", recipe=REDUCED) != builtin_model_folder("tiny-llama", recipe=other)


def test_progress_is_reported_once_and_nothing_is_trained_again(own_cache):
    heard = []
    for _ in range(2):
        builtin_model_folder("tiny-llama", lambda *what: heard.append(what), REDUCED)
    assert [done for done, _, _ in heard] == list(range(1, heard[0][1] + 1))


def test_the_random_state_and_threads_of_the_caller_are_left_alone(own_cache):
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with torch.no_grad():
        builtin_model_folder("tiny-llama", recipe=REDUCED)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_two_processes_that_ask_at_once_train_once(own_cache):
    askers = [ask(2000), ask(2000)]
    said = [asker.communicate(timeout=300)[0].split("\n") for asker in askers]
    assert [asker.returncode for asker in askers] == [0, 0]
    assert said[0][-2] == said[1][-2]
    trained = [lines for lines in said if "step" in lines]
    assert len(trained) == 1
    assert "wait" not in trained[0]
    assert set(next(lines for lines in said if lines is not trained[0])[:-2]) <= {"wait"}


def test_what_a_killed_builder_left_does_not_trouble_the_next(own_cache):
    asker = ask(LONG.documents)
    assert asker.stdout.readline() == "step\n"
    asker.send_signal(signal.SIGKILL)
    asker.wait()
    left = [path for path in own_cache.iterdir() if path.is_dir()]
    assert [".partial." in path.name for path in left] == [True]
    second = ask(LONG.documents)  # it neither waits nor leaves the rests of the first to be removed by hand
    assert second.stdout.readline() == "step\n"
    assert not left[0].exists()
    second.terminate()
    second.wait()


def test_an_unknown_model_is_answered_with_the_known_ones():
    with pytest.raises(ModelError, match=r"model\.path: no built-in model is called 'gpt'; use builtin:tiny-llama"):
        builtin_model_folder("gpt")


def test_a_cache_that_cannot_be_written_is_named_with_its_fix(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="set XDG_CACHE_HOME"):
        builtin_model_folder("tiny-llama", recipe=REDUCED)


def test_the_names_are_known_without_loading_torch():
    probe = "import sys, lora_dist.models.builtin as b; assert b.BUILTIN_MODELS; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers"} & set(names)
    assert BUILTIN_MODELS == ("tiny-llama",)
