"""Merged models and the hub: adapters that come from it, folders that go to it."""

from __future__ import annotations

import json

import pytest
import yaml
from conftest import run_cli
from fake_hub import FakeHub, serving
from merging_cases import adapter_on, by_peft, largest_gap, weights_in


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving(FakeHub(tokens={"hf_writer": "write", "hf_reader": "read"})) as running:
        yield running


def pushed(hub, tmp_path, model, token, *, repository="me/merged", **env):
    adapter = adapter_on(model, tmp_path / "adapter")
    words = ("adapter", "merge", adapter, "--into", "m", "--no-evaluate", "--push", repository)
    login = {"HF_TOKEN": token} if token else {}
    return run_cli(*words, cwd=tmp_path, env={**hub.environment(tmp_path / "home"), **login, **env})


def test_push_uploads_the_folder_and_a_new_repository_is_private(tmp_path, tiny_model, hub):
    done = pushed(hub, tmp_path, tiny_model, "hf_writer")
    assert done.code == 0, done.err
    assert f"hub:       {hub.url}/me/merged" in done.out
    repository = hub.repositories["model", "me/merged"]
    assert repository.private
    files = repository.commits[repository.refs["main"]]
    here = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    assert files.keys() - {".gitattributes"} == here.keys()
    assert all(files[name] == content for name, content in here.items() if name != "merge.json")
    assert str(tiny_model) not in files["merge.json"].decode()
    assert "hf_writer" not in "".join(content.decode(errors="ignore") for content in files.values())


REFUSED = {
    "offline": ("hf_writer", {"HF_HUB_OFFLINE": "1"}, "the hub is not asked"),
    "nobody": (None, {}, "nobody is logged in"),
    "stranger": ("hf_stranger", {}, "hf auth login"),
    "reader": ("hf_reader", {}, "may only read"),
    "no network": ("hf_writer", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
}


@pytest.mark.parametrize(("token", "env", "told"), REFUSED.values(), ids=REFUSED)
def test_a_push_that_cannot_be_is_refused_before_any_work(tmp_path, tiny_model, hub, token, env, told):
    done = pushed(hub, tmp_path, tiny_model, token, **env)
    assert done.code == 2, done.err
    (line,) = done.error_lines
    assert line.startswith("lora-dist: --push: ")
    assert told in line
    assert "Traceback" not in done.err
    assert not (tmp_path / "m").exists()
    assert not hub.repositories


@pytest.mark.slow
def test_a_hub_that_refuses_the_upload_leaves_the_folder_and_says_so(tmp_path, tiny_model, hub):
    done = pushed(hub, tmp_path, tiny_model, "hf_writer", repository="others/merged")
    assert done.code == 2, done.err
    (line,) = done.error_lines
    assert "the folder m is complete" in line
    assert (tmp_path / "m" / "merge.json").is_file()


@pytest.mark.slow
def test_an_adapter_of_the_hub_is_merged_under_its_name(tmp_path, tiny_model, hub):
    adapter = adapter_on(tiny_model, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/base"}))
    hub.add("model", "me/adapter", adapter)
    hub.add("model", "org/base", tiny_model)
    done = run_cli(
        "adapter", "merge", "me/adapter", "--into", "m", cwd=tmp_path, env=hub.environment(tmp_path / "home")
    )
    assert done.code == 0, done.err
    front = yaml.safe_load((tmp_path / "m" / "README.md").read_text().split("---\n")[1])
    assert front["base_model"] == "org/base"
    assert front["base_model_relation"] == "finetune"
    weights, _ = weights_in(tmp_path / "m", None)
    assert largest_gap(weights, by_peft(tiny_model, [adapter])) < 1e-6
