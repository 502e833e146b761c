"""The documentation holds what it says: links lead somewhere, commands and experiments work, and sums are plan's."""

from __future__ import annotations

import json
import re

import pytest
import typer
from conftest import REPOSITORY

from lora_dist import load_experiment, plan
from lora_dist.assets import recipe_names
from lora_dist.cli.app import app
from lora_dist.config.expansion import expand

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
_FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"cat > (\S+) <<'END'\n(.*?)^END$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:lora-dist|-m lora_dist) +([a-z][^`|]*)")
GIB = 2**30

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_of(text):
    """Each line of code: of fenced blocks, with continued lines joined, and between single backticks."""
    for _, block in _FENCED.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", _FENCED.sub("", text))


def anchors_of(text):
    """The names by which GitHub links to a page's headings."""
    headings = re.findall(r"^#+ +(.+)$", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    prose = re.sub(r"`[^`\n]*`", "", _FENCED.sub("", page.read_text()))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors_of(target.read_text()), f"{link}: no such heading"


@each_page
def test_every_command_exists_with_the_options_that_are_named(page):
    root = typer.main.get_command(app)
    for line in code_of(page.read_text()):
        for told in _COMMAND.findall(line.partition(" #")[0]):
            command, words = root, told.split()
            while words and hasattr(command, "commands"):
                assert words[0] in command.commands, f"{line}: there is no {words[0]}"
                command = command.commands[words.pop(0)]
            options = {option for parameter in command.params for option in parameter.opts}
            named = {re.sub(r"[=\].].*", "", word.lstrip("[")) for word in words if word.lstrip("[").startswith("--")}
            assert named <= options | {"--help"}, f"{line}: there is no {', '.join(named - options)}"
            if command.name == "compare" and re.fullmatch("[a-z-]+", words[0] if words else ""):
                assert words[0] in recipe_names(), f"{line}: there is no recipe {words[0]}"


@each_page
def test_every_whole_experiment_loads(page, tmp_path):
    for language, block in _FENCED.findall(page.read_text()):
        if language == "yaml" and re.search(r"^model:", block, re.MULTILINE) and "data:" in block:
            (tmp_path / "told.yaml").write_text(block)
            assert expand(load_experiment(str(tmp_path / "told.yaml")))


def test_there_is_something_to_check():
    lines = [line for page in PAGES for line in code_of(page.read_text())]
    assert sum(bool(_COMMAND.search(line)) for line in lines) > 40
    assert "merging" in anchors_of((REPOSITORY / "docs" / "adapters.md").read_text())


def seven(folder, monkeypatch):
    """The files of methods.md's example, written where the test then is."""
    for name, content in _HEREDOC.findall((REPOSITORY / "docs" / "methods.md").read_text()):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    monkeypatch.chdir(folder)


def cells_of(text, first):
    """The cells of a table's row, without the first one, which begins with `first`."""
    return [cell.strip() for cell in re.search(rf"^\| {first}[^|]*\|(.*)\|$", text, re.MULTILINE)[1].split("|")]


def plans_of(*overrides, gpus=1):
    found = plan(load_experiment("seven.yaml", list(overrides)), gpus=gpus, gpu_memory="2000GiB")
    return {one.run.arm: one.bytes.document() for one in found}


def test_the_memory_of_7b_is_what_plan_says(tmp_path, monkeypatch):
    """The files and the command of methods.md give its table."""
    seven(tmp_path, monkeypatch)
    text = (REPOSITORY / "docs" / "methods.md").read_text().partition("It prints, in GiB")[2]
    terms = [term.replace("all", "total") for term in cells_of(text, "")]
    for arm, found in plans_of("launch.config=single_gpu").items():
        told = [f"{found[term] / GIB:.2f}" if found[term] else "" for term in terms]
        assert cells_of(text, arm) == told, arm
    changes = re.findall(r"^\| `([^`]+)`[^|]*\| (\w+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(changes) > 3
    for changed, arm, told in changes:
        overrides, _, gpus = changed.partition(" --gpus ")
        found = plans_of("launch.config=single_gpu", *overrides.split(), gpus=int(gpus or 1))
        assert told == f"{found[arm]['total'] / GIB:.2f}", changed


LLAMA_3 = {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}
SHAPES = {
    "Llama-3.2-1B": LLAMA_3
    | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "tie_word_embeddings": True},
    "Llama-2-7B": {},
    "Llama-3.1-8B": LLAMA_3 | {"intermediate_size": 14336},
    "Llama-3.1-70B": LLAMA_3
    | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_memory_by_size_is_what_plan_says(name, tmp_path, monkeypatch):
    """The table of choosing.md, from the same experiment with the config of each model."""
    seven(tmp_path, monkeypatch)
    config = tmp_path / "llama-7b" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | SHAPES[name]))
    one = plans_of("launch.config=single_gpu")
    eight = plans_of("launch.config=zero3", gpus=8)["full"]
    sizes = [one[arm]["total"] for arm in ("qlora", "base", "lora", "partial", "full")] + [eight["total"]]
    text = (REPOSITORY / "docs" / "choosing.md").read_text()
    assert cells_of(text, name)[1:] == [f"{size / GIB:,.2f}" for size in sizes]
