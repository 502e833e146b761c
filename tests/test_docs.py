"""The documentation holds what it says: links lead somewhere, commands and experiments work, and sums are plan's."""

from __future__ import annotations

import re

import pytest
import typer
from conftest import REPOSITORY

from lora_dist import load_experiment, plan
from lora_dist.assets import recipe_names
from lora_dist.cli.app import app

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
            load_experiment(str(tmp_path / "told.yaml"))


def test_there_is_something_to_check():
    lines = [line for page in PAGES for line in code_of(page.read_text())]
    assert sum(bool(_COMMAND.search(line)) for line in lines) > 40
    assert "merging" in anchors_of((REPOSITORY / "docs" / "adapters.md").read_text())


def test_the_memory_of_7b_is_what_plan_says(tmp_path, monkeypatch):
    """The files and the command of methods.md give its table."""
    text = (REPOSITORY / "docs" / "methods.md").read_text()
    for name, content in _HEREDOC.findall(text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    plans = plan(load_experiment("seven.yaml", ["launch.config=single_gpu"]), gpus=1, gpu_memory="80GiB")
    titles = re.search(r"^\| \| (weights \|.*)\|$", text, re.MULTILINE)[1]
    terms = [title.strip() for title in titles.split("|")]
    for one in plans:
        told = re.search(rf"^\| {one.run.arm}(?:, [^|]*)? \| (.*) \|$", text[text.index(titles) :], re.MULTILINE)[1]
        found = one.bytes.document()
        cells = dict(zip(terms, (cell.strip() for cell in told.split("|")), strict=True))
        for term, cell in cells.items():
            size = found["total" if term == "all" else term] / GIB
            assert cell == (f"{size:.2f}" if size >= 0.005 else ""), f"{one.run.arm}: {term}"
