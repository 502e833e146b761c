"""What users type wrong about adapters, for test_bad_input.py."""

from __future__ import annotations

from adapter_cases import save_adapter, tell_origin
from bad_input_cases import Case, Place, heavy, light

GENERATE = "adapter generate model --adapters"
NAMED = " --prompt hello"


def odd_adapters(place: Place) -> None:
    """One that is sound, and copies of it with something wrong."""
    model = place.copy_model("model")
    for name in ("sound", "cut", "torn", "lost", "deep/er"):
        save_adapter(place.path / name, model, r=2)
    file = place.path / "cut" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    place.write("torn/adapter_config.json", '{"peft_type": "LO')
    (place.path / "lost" / "adapter_model.safetensors").unlink()
    place.write("foreign/adapter_config.json", '{"peft_type": "IA3"}')
    place.write("foreign/adapter_model.safetensors", "")


def adapter_of_another(place: Place) -> None:
    other = place.copy_model("model")
    adapter = tell_origin(save_adapter(place.path / "sound", other, r=2), other)
    text = (adapter / "provenance.json").read_text()
    fingerprint = text.split('"fingerprint": "')[1][:64]
    (adapter / "provenance.json").write_text(text.replace(fingerprint, "0" * 64))


def files_of_prompts(place: Place) -> None:
    place.write("empty.txt", "\n  \n")
    place.write("answers.jsonl", '{"answer": "4"}\n')
    place.write("null.jsonl", '{"prompt": "a"}\n{"prompt": null}\n')


def several(name: str, command: str, *told: tuple[str, str], before) -> Case:
    return Case(name, command, told, before, stack=True)


ADAPTERS = [
    light("adapter list: no folder", "adapter list nowhere", "nowhere: is no folder", "holds runs"),
    light("adapter list: a file", "adapter list small.yaml", "small.yaml: is a file", "holds runs"),
    light("adapter: nothing after --adapters", f"{GENERATE} --prompt x", "Option '--adapters'", "requires an argument"),
    light("adapter: --adapters at the end", GENERATE, "Option '--adapters'", "requires an argument"),
    light("adapter: no --adapters", "adapter generate model --prompt x", "Missing option '--adapters'", "--help"),
    light("adapter: no base", "adapter generate --adapters a b --prompt x", "Missing argument 'BASE'", "--help"),
    light("adapter: no prompt", f"{GENERATE} a", "--prompt: is missing", "--file PROMPTS"),
    light("adapter: empty prompt", f"{GENERATE} a --prompt ' '", "--prompt: is empty", "write"),
    light("adapter: prompt and file", f"{GENERATE} a --file p.txt{NAMED}", "--prompt", "leave one of them out"),
    light("adapter: no file", f"{GENERATE} a --file nowhere.txt", "--file: there is no file", "correct the path"),
    light("adapter: unknown file", f"{GENERATE} a --file small.yaml", "--file", "ends in .jsonl"),
    light("adapter: empty file", f"{GENERATE} a --file empty.txt", "--file", "on each line", files_of_prompts),
    light("adapter: no column", f"{GENERATE} a --file answers.jsonl", "--file", "one of the two", files_of_prompts),
    light("adapter: null prompt", f"{GENERATE} a --file null.jsonl", "--file: row 2", "fill it in", files_of_prompts),
    light("adapter: line break in a name", f"{GENERATE} 'a\nb'{NAMED}", "--adapters", "another name"),
    light("adapter: no tokens", f"{GENERATE} a{NAMED} --max-new-tokens 0", "--max-new-tokens", "at least 1"),
    light("adapter: no batch", f"{GENERATE} a{NAMED} --batch-size -1", "--batch-size", "at least 1"),
    several(
        "adapter: all that is wrong with several",
        f"{GENERATE} sound ./nowhere cut torn lost foreign small.yaml deep/../sound a/../../../../x 'a\\b/..'{NAMED}",
        ("./nowhere: is neither a folder nor a hub id", "give an adapter's folder"),
        ("torn", "copy the adapter's folder again"),
        ("lost", "copy the adapter's folder again"),
        ("small.yaml: is a file", "give an adapter's folder"),
        ("a/../../../../x: is no folder", "give an adapter's folder"),
        ("a\\b/..", "give an adapter's folder"),
        ("cut", "copy the adapter's folder again"),
        ("foreign", "give a LoRA adapter"),
        ("deep/../sound: is given twice", "name each adapter once"),
        before=odd_adapters,
    ),
    heavy("adapter: another base", f"{GENERATE} sound{NAMED}", "sound: was trained on other", "--force",
          adapter_of_another),
    heavy("adapter: of another shape", f"adapter generate builtin:tiny-llama --adapters sound{NAMED} --force",
          "sound: is no adapter that fits", "trained on this model", odd_adapters, slow=True),
]  # fmt: skip
