"""What is found below a folder, and what is said of it, from headers and JSON files alone."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from conftest import run_cli
from rich.console import Console
from test_reporting_synthetic import Synthetic

from lora_dist.errors import StorageError
from lora_dist.models.adapter_files import CONFIG, PEFT_TYPE, WEIGHTS
from lora_dist.models.provenance import FILE
from lora_dist.reporting.adapters import adapters_below
from lora_dist.reporting.adapters_table import adapters_table, next_command
from lora_dist.verbs.adapter_list import adapter_list


def stored(shapes: dict[str, list[int]]) -> bytes:
    """A safetensors file of float32 zeros, written by hand."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    told = json.dumps(header).encode()
    return len(told).to_bytes(8, "little") + told + bytes(end)


def plain(folder, *, rank=4, base="meta-llama/Llama-3.2-1B", **config):
    """What peft saves, as far as a listing reads it."""
    folder.mkdir(parents=True)
    document = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 8, "base_model_name_or_path": base,
        "target_modules": ["v_proj", "q_proj"], "use_dora": False, "use_rslora": False, "rank_pattern": {},
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps({**document, **config}))
    names = [f"base_model.model.model.layers.{n}.self_attn.q_proj" for n in range(2)]
    shapes = {f"{name}.lora_A.weight": [rank, 8] for name in names} | {
        f"{name}.lora_B.weight": [8, rank] for name in names
    }
    (folder / WEIGHTS).write_bytes(stored(shapes))
    return folder


def ours(folder, *, base="meta-llama/Llama-3.2-1B", source=None, run_id="lora-0a1b2c3d", seed=0, **method):
    """One that a run of ours has trained."""
    plain(folder, peft_type=PEFT_TYPE if method.get("preserve_sparsity") else "LORA")
    told = {
        "base": {"path": base, "fingerprint": "0" * 64, "source": source},
        "method": {"kind": "lora", "rank": 4, "targets": "all-linear", **method},
        "task": "instruction", "data": {"train": "/data/gsm8k.jsonl", "test": "/data/t.jsonl"}, "run_id": run_id,
        "arm": "lora", "label": f"lora seed {seed}", "seed": seed,
    }  # fmt: skip
    (folder / FILE).write_text(json.dumps(told))
    return folder


@pytest.fixture
def runs(tmp_path):
    """An experiment with two finished runs and one that is not, and an adapter of somebody else's."""
    made = Synthetic(tmp_path / "all" / "exp", {"lora": {}}, seeds=[0, 1, 2])
    for run, nll in zip(made.runs, (2.5, 2.0, None), strict=True):
        folder = made.finish(run, nll) if nll else made.begin(run)
        ours(folder.model, run_id=run.id, seed=run.seed)
    plain(tmp_path / "all" / "other", use_rslora=True, rank=16)
    return tmp_path / "all"


def shown(rows, width):
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - closed with the process
    console.print(adapters_table(rows, width))
    return console.export_text()


def test_rows_are_by_task_and_perplexity_with_what_the_record_says(runs):
    best, second, unfinished, other = adapters_below(runs)
    assert [row.seed for row in (best, second, unfinished)] == [1, 0, 2]
    assert best.perplexity < second.perplexity
    low, high = best.scores["test"]["perplexity"]["ci95"]
    assert low < best.perplexity < high
    assert (best.state, unfinished.state, other.state) == ("finished", "unfinished", "no run")
    assert (best.path, best.to_type) == (f"exp/{best.run_id}/model", f"exp/{best.run_id}")
    assert (best.base_name, best.task, best.data, best.targets) == (
        "Llama-3.2-1B",
        "instruction",
        "gsm8k.jsonl",
        "all-linear",
    )
    assert (other.path, other.rslora, other.rank, other.targets) == ("other", True, 16, ["q_proj", "v_proj"])
    assert (other.task, other.seed, other.scores, other.problem) == (None, None, {}, "")
    assert all(row.bytes == sum(f.stat().st_size for f in (runs / row.path).rglob("*")) for row in (best, other))


def test_pruned_bases_and_kept_zeros_are_said(tmp_path):
    ours(tmp_path / "run" / "model", base="../pruned", source="org/Big", preserve_sparsity=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "pruning.json").write_text("{}")
    plain(tmp_path / "somebody", base=str(tmp_path / "cut"), peft_type=PEFT_TYPE)
    first, second = adapters_below(tmp_path)
    assert (first.base, first.base_name, first.keeps_zeros) == (str(tmp_path / "run" / "pruned"), "pruned Big", True)
    assert (second.base_name, second.keeps_zeros, second.kind) == ("pruned cut", True, "lora")


def test_the_rank_is_that_of_the_weights(tmp_path):
    plain(tmp_path / "a", rank=6, r=4)
    assert adapters_below(tmp_path)[0].rank == 6


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / CONFIG).write_text("{"), CONFIG),
        (lambda folder: (folder / CONFIG).write_text("[1]"), CONFIG),
        (lambda folder: (folder / CONFIG).write_text('{"peft_type": "LORA", "r": [], "target_modules": 3}'), CONFIG),
        (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe"), CONFIG),
        (lambda folder: (folder / WEIGHTS).unlink(), "is not there"),
        (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7]), "should have"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 64), "header alone"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), "damaged"),
        (lambda folder: (folder / FILE).write_text('{"version": 1}'), FILE),
        (lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"), "pickle"),
        (lambda folder: (folder.parent / "record.json").write_text("{}"), "record.json"),
    ],
)
def test_a_damaged_adapter_is_a_row_that_says_so_beside_the_others(tmp_path, damage, told):
    folder = ours(tmp_path / "run" / "model")
    plain(tmp_path / "whole")
    damage(folder)
    rows = {row.path: row for row in adapters_below(tmp_path)}
    assert told in rows["run/model"].problem
    assert rows["whole"].problem == ""
    assert "damaged" in shown(list(rows.values()), 80)


def test_links_are_followed_once_and_rings_end(tmp_path):
    plain(tmp_path / "top" / "deep" / "a")
    plain(tmp_path / "elsewhere" / "b")
    (tmp_path / "top" / "again").symlink_to(tmp_path / "top" / "deep")
    (tmp_path / "top" / "deep" / "ring").symlink_to(tmp_path / "top")
    (tmp_path / "top" / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (tmp_path / "top" / "broken").symlink_to(tmp_path / "nowhere")
    assert [row.path for row in adapters_below(tmp_path / "top")] == ["b", "deep/a"]


def test_checkpoints_are_left_out_unless_asked_for_and_hidden_folders_always(tmp_path):
    plain(tmp_path / "run" / "checkpoints" / "step-2")
    plain(tmp_path / "run" / ".model.being-written")
    plain(tmp_path / "run" / "model")
    assert [row.path for row in adapter_list(tmp_path)] == ["run/model"]
    assert [row.path for row in adapter_list(tmp_path, checkpoints=True)] == ["run/checkpoints/step-2", "run/model"]


def test_the_folder_may_be_the_adapter_itself(tmp_path):
    assert [row.path for row in adapter_list(plain(tmp_path / "a"))] == ["."]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_fits_and_says_what_matters(runs, width):
    text = shown(adapters_below(runs), width)
    assert max(map(len, text.splitlines())) <= width
    for told in ("Llama-3.2-1B", "r16", "rslora", "finished", "instruction", "seed 1", "q,v"):
        assert told in text


def test_brackets_and_control_characters_of_others_are_shown_as_they_are_or_not_at_all(tmp_path):
    plain(tmp_path / "[red]a[/red]\x1b[31m", base="[bold]x\x1b[0m")
    text = shown(adapters_below(tmp_path), 120)
    assert "[red]a[/red]" in text
    assert "\x1b" not in text


def test_the_next_command_compares_the_best_of_one_base(runs):
    plain(runs / "far", base="another/base")
    rows = adapters_below(runs)
    command = next_command(rows, "all runs")
    assert command.startswith("lora-dist adapter generate meta-llama/Llama-3.2-1B --adapters 'all runs/exp/")
    assert "far" not in command


@pytest.mark.slow
def test_500_adapters_cost_ten_times_as_much_as_50(tmp_path):
    made = Synthetic(tmp_path / "e", {"lora": {}}, seeds=list(range(500)))
    first = made.finish(made.runs[0], 2.5)
    ours(first.model, run_id=made.runs[0].id)

    def seconds(runs: int) -> float:
        for run in made.runs[1:runs]:
            shutil.copytree(first.path, made.folder.run(run.id).path, dirs_exist_ok=True)
        started = time.process_time()
        rows = adapter_list(tmp_path)
        took = time.process_time() - started
        assert len(rows) == runs
        assert all(row.state == "finished" and not row.problem for row in rows)
        return took

    seconds(10)  # imports
    few, many = seconds(50), seconds(500)
    assert many < 30 * few  # were it quadratic: 100


def test_the_command_prints_a_table_or_json_and_says_when_there_is_none(runs, tmp_path):
    done = run_cli("adapter", "list", runs.name, cwd=tmp_path, env={"COLUMNS": "80"})
    assert (done.code, done.err) == (0, "")
    assert max(len(line) for line in done.out.splitlines() if not line.startswith("next:")) <= 80
    assert "4 adapters below" in done.out
    assert "next:      lora-dist adapter generate" in done.out
    rows = json.loads(run_cli("adapter", "list", runs, "--json", cwd=tmp_path).out)
    assert [row["seed"] for row in rows] == [1, 0, 2, None]
    (tmp_path / "empty").mkdir()
    done = run_cli("adapter", "list", "empty", cwd=tmp_path)
    assert (done.code, done.out, done.err) == (0, "No adapter below empty.\n", "")
    assert json.loads(run_cli("adapter", "list", "empty", "--json", cwd=tmp_path).out) == []


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    for name in (tmp_path / "nowhere", "with\0nul"):
        with pytest.raises(StorageError, match="is no folder here"):
            adapter_list(name)
