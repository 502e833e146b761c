"""prefetch: from a hub of our own into the cache, and from there to a record when the hub is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import run_cli
from fake_hub import FakeHub, serving
from test_interrupt import start

from lora_dist.config.slurm import SlurmSection

TOKEN = "hf_thisIsNoToken"
DECOYS = {
    "pytorch_model.bin": b"a pickle", "consolidated.safetensors": b"the weights again", "original/params.json": b"{}",
    "onnx/model.onnx": b"another", "README.md": b"# Tiny", "modeling_tiny.py": b"raise SystemExit",
}  # fmt: skip
CARD = b"""---
configs:
- config_name: main
  data_files: [{split: train, path: main/train.jsonl}, {split: test, path: main/test.jsonl}]
- config_name: other
  data_files: other.jsonl
---
"""
LORA = {"method": {"kind": "lora", "rank": 4}}
BASE = {"method": {"kind": "base"}}


@pytest.fixture(scope="session")
def shards(tmp_path_factory, tiny_model) -> Path:
    """The tiny model's folder with its weights in several files."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("shards")
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(folder, max_shard_size="200KB")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(first: int, count: int) -> bytes:
    return b"".join(b'{"q": "%d + 1 = ", "a": "%d"}\n' % (n, n + 1) for n in range(first, first + count))


def sums(first: int) -> dict[str, bytes]:
    """A dataset of two subsets."""
    files = {"main/train.jsonl": rows(first, 40), "main/test.jsonl": rows(first + 40, 24)}
    return {"README.md": CARD, "other.jsonl": rows(0, 3), **files}


def fill(hub: FakeHub, shards: Path, tiny_model: Path) -> None:
    """A model in shards on main and in one file at v1; a dataset that was another at v1."""
    hub.add("model", "acme/tiny", files_of(tiny_model), revision="v1")
    hub.add("model", "acme/tiny", files_of(shards) | DECOYS)
    hub.add("dataset", "acme/sums", sums(500), revision="v1")
    hub.add("dataset", "acme/sums", sums(0))


@pytest.fixture
def hub(shards, tiny_model):
    with serving() as running:
        fill(running, shards, tiny_model)
        yield running


def write(folder: Path, *, model="acme/tiny", data="acme/sums", **sections) -> None:
    document = {
        "name": "small",
        "model": {"path": model},
        "data": {"task": "instruction", "path": data, "subset": "main", "columns": {"prompt": "q", "completion": "a"},
                 "max_length": 64},
        "train": {"max_steps": 2, "global_batch_size": 8},
        "evaluate": {"samples": 0, "splits": ["test"], "bootstrap_samples": 100},
        "arms": {"base": BASE},
    }  # fmt: skip
    for name, settings in sections.items():
        document[name] = document.get(name, {}) | settings if name in ("model", "data") else settings
    (folder / "small.yaml").write_text(yaml.safe_dump(document))


def prefetch(folder: Path, env: dict[str, str], *words: str):
    return run_cli("prefetch", "small.yaml", *words, cwd=folder, env=env)


def records(folder: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in folder.glob("runs/small/*/record.json")]
    return {record["arm"]: record for record in found}


def test_what_is_prefetched_is_all_that_a_comparison_needs_when_the_hub_is_gone(tmp_path, shards, tiny_model):
    old = {"model": {"revision": "v1"}, "data": {"revision": "v1"}}  # the last to be fetched is not what others get
    write(tmp_path, arms={"base": BASE, "lora": LORA, "old": {**BASE, **old}})
    with serving() as hub:
        fill(hub, shards, tiny_model)
        env = hub.environment(tmp_path / "hf") | {"HF_TOKEN": TOKEN}
        done = prefetch(tmp_path, env)
        assert done.code == 0, done.err
        assert done.out.count(" fetched ") == 4, done.out
        assert "3 runs are ready" in done.out
        assert "next:      lora-dist compare small.yaml" in done.out
        assert not {*DECOYS} - {"README.md"} & {*hub.files_sent()}
        assert "other.jsonl" not in hub.files_sent()
        assert sum(name.endswith(".safetensors") for name in hub.files_sent()) == 1 + len(
            [*shards.glob("*.safetensors")]
        )
        assert any(method == "TOKEN" for method, _ in hub.asked)
        hub.asked.clear()
        again = prefetch(tmp_path, env)
        assert "Everything was there already." in again.out, again.out + again.err
        assert hub.files_sent() == []
    for said in (done, again):
        assert TOKEN not in said.out + said.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    gone = prefetch(tmp_path, env)
    assert "Everything was there already." in gone.out, gone.out + gone.err
    tokens = {path.name for path in tmp_path.glob("runs/small/tokens/*/")}
    done = run_cli("compare", "small.yaml", cwd=tmp_path, env=env | {"HF_HUB_OFFLINE": "1"})
    assert done.code == 0, done.err
    found = records(tmp_path)
    assert set(found) == {"old", "base", "lora"}
    assert {path.name for path in tmp_path.glob("runs/small/tokens/*/")} == tokens, "none were made anew"
    assert {record["data"]["token_hash"] for record in found.values()} == tokens
    assert found["old"]["data"]["token_hash"] != found["base"]["data"]["token_hash"]
    config = yaml.safe_load(next(tmp_path.glob("runs/small/base-*/config.yaml")).read_text())
    assert (config["model"]["path"], config["data"]["path"]) == ("acme/tiny", "acme/sums")


REFUSED = {
    "arms.gated.data.path: ": "is gated",
    "arms.gated.model.path: ": "hf auth login",
    "arms.none.data.path: ": "no dataset of the hub that can be accessed",
    "arms.none.model.path: ": "is not on the hub",
    "arms.old.data.revision: ": "has no revision 'v9'",
    "arms.old.model.revision: ": "has no revision 'v9'",
    "arms.pickles.model.path: ": "has no safetensors weights",
}


def test_all_that_cannot_be_had_is_named_with_its_key_and_fix(hub, tmp_path, tiny_model):
    files = files_of(tiny_model)
    hub.add("model", "acme/gated", files, gated=True)
    hub.add("dataset", "acme/gated", sums(0), gated=True)
    weights = files.pop("model.safetensors")
    hub.add("model", "acme/pickles", files | {"pytorch_model.bin": weights})
    arms = {name: {"model": {"path": f"acme/{name}"}, "data": {"path": f"acme/{name}"}} for name in ("gated", "none")}
    arms |= {"old": {"model": {"revision": "v9"}, "data": {"revision": "v9"}}}
    arms |= {"pickles": {"model": {"path": "acme/pickles"}}}
    write(tmp_path, arms={name: {**BASE, **arm} for name, arm in arms.items()})
    done = prefetch(tmp_path, hub.environment(tmp_path / "hf") | {"HF_TOKEN": TOKEN})
    assert done.code == 2, done.out + done.err
    lines = sorted(line.removeprefix("lora-dist: ") for line in done.error_lines)
    assert len(lines) == len(REFUSED), done.err
    for line, (key, said) in zip(lines, REFUSED.items(), strict=True):
        assert line.startswith(key)
        assert said in line
    assert "Traceback" not in done.err
    assert TOKEN not in done.err
    assert not (tmp_path / "runs" / "small").exists()


@pytest.mark.parametrize("way", ["gone", "offline"])
def test_without_a_hub_what_is_not_in_the_cache_is_refused(tmp_path, way):
    with serving() as hub:
        env = hub.environment(tmp_path / "hf")
    write(tmp_path)
    done = prefetch(tmp_path, env | ({"HF_HUB_OFFLINE": "1"} if way == "offline" else {}))
    assert done.code == 2, done.out + done.err
    assert [line.split()[1] for line in done.error_lines] == ["model.path:", "data.path:"], done.err
    said = "without HF_HUB_OFFLINE" if way == "offline" else f"the hub ({hub.url}) cannot be reached"
    assert all(said in line for line in done.error_lines)


def test_a_full_disk_is_told_before_the_download(hub, tmp_path):
    home = tmp_path / "hf"
    home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", home], capture_output=True).returncode:
        pytest.skip("mounting is absent here")
    try:
        write(tmp_path)
        done = prefetch(tmp_path, hub.environment(home))
    finally:
        subprocess.run(["umount", home], check=True)
    assert done.code == 2, done.out + done.err
    assert "model.path: 'acme/tiny' does not fit the disk" in done.error_lines[0]
    assert not any(name.endswith(".safetensors") for name in hub.files_sent())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_download_goes_on_at_the_file_that_is_not_whole(hub, tmp_path, shards, monkeypatch, how):
    write(tmp_path)
    env = hub.environment(tmp_path / "hf")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    held = "model-00002-of-00004.safetensors"
    assert (shards / held).exists()
    with hub.holding(held):
        process = start("prefetch", "small.yaml", cwd=tmp_path)
        assert hub.held.wait(60)
        others = {path.name for path in shards.glob("*.safetensors")} - {held}
        blobs = tmp_path / "hf" / "hub" / "models--acme--tiny" / "snapshots"
        while not others <= {path.name for path in blobs.rglob("*.safetensors")}:
            assert process.poll() is None
        os.killpg(process.pid, how)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == (4 if how == signal.SIGINT else -how), said
    if how == signal.SIGINT:
        assert said.splitlines() == ["interrupted: what is finished is kept; the same command resumes"]
    assert not (tmp_path / "runs" / "small").exists()
    for left in tmp_path.rglob("*.incomplete"):
        os.utime(left, (0, 0))  # as if it were of yesterday
    hub.asked.clear()
    done = prefetch(tmp_path, env)
    assert done.code == 0, done.err
    assert not list(tmp_path.rglob("*.incomplete"))
    assert [name for name in hub.files_sent() if name.endswith(".safetensors")] == [held]


def test_what_is_here_already_is_said_to_be(tmp_path, tiny_model, problem_files):
    write(tmp_path, model=str(tiny_model), data={split: str(path) for split, path in problem_files.items()})
    document = yaml.safe_load((tmp_path / "small.yaml").read_text())
    document["data"] |= {"subset": None, "columns": {"prompt": "question", "completion": "answer"}, "max_length": 256}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(document))
    done = prefetch(tmp_path, {})
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines() if " local " in line] == ["model", "data"]
    assert "1 of 3 are new on this disk" in done.out, "the tokens"


def test_offline_jobs_ask_no_hub():
    assert SlurmSection().environment == {}
    assert SlurmSection(offline=True).environment == {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@pytest.mark.slow
def test_jobs_on_nodes_without_a_network_run_from_the_cache(cluster, tmp_path, shards, tiny_model):
    launch = {"launcher": "slurm", "slurm": {"time": 10, "offline": True}}
    write(tmp_path, arms={"base": BASE, "lora": LORA}, launch=launch)
    with serving() as hub:
        fill(hub, shards, tiny_model)
        env = {**cluster.env, **hub.environment(tmp_path / "hf")}
        refused = run_cli("compare", "small.yaml", cwd=tmp_path, env=env)
        assert refused.code == 2, refused.out + refused.err
        assert all("lora-dist prefetch EXPERIMENT" in line for line in refused.error_lines), refused.err
        assert not (tmp_path / "runs" / "small").exists()
        assert prefetch(tmp_path, env).code == 0
    shown = run_cli("compare", "small.yaml", "--dry-run", cwd=tmp_path, env=env)
    assert "export HF_HUB_OFFLINE=1" in shown.out, shown.err
    assert "export HF_DATASETS_OFFLINE=1" in shown.out
    done = run_cli("compare", "small.yaml", "--wait", cwd=tmp_path, env=env)
    assert done.code == 0, done.out + done.err
    assert set(records(tmp_path)) == {"base", "lora"}
