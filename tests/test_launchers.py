"""Where runs go: several at a time, on devices of their own, on ranks; and what is left to clean."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from comparison_cases import METHODS, record, run_folder, weights, write
from conftest import run_cli
from ranks_cases import COMPILING_S
from test_disturbances import lines_of, processes_in, wait_for

from lora_dist.config.launch import LaunchSection
from lora_dist.dispatch.devices import Gpu, gpus_here, parse_bytes
from lora_dist.dispatch.slots import in_process, local_slots
from lora_dist.errors import ConfigError
from lora_dist.pipeline.estimates import setting_of, shape_of_run
from lora_dist.pipeline.fallback import decide_method
from lora_dist.planning.memory import estimate
from lora_dist.store.lines import read_lines

ARMS = {"base": METHODS["base"], "full": METHODS["full"]}
TRAIN = {"max_steps": 10, "learning_rate": 0.002, "micro_batch_size": 2}


def test_two_slots_and_two_ranks_give_the_table_of_one_process(tmp_path, tiny_model, problem_files):
    ways = {
        "inline": (), "local": ("--launcher", "local", "launch.slots=2"),
        "accelerate": ("--launcher", "accelerate", "launch.config=cpu_zero2"),
    }  # fmt: skip
    folders, said = {}, {}
    for way, words in ways.items():
        folders[way] = tmp_path / way
        folders[way].mkdir()
        write(folders[way], tiny_model, problem_files, arms=ARMS, train=TRAIN)
        done = run_cli("compare", "small.yaml", *words, cwd=folders[way], timeout=COMPILING_S)
        assert done.code == 0, done.err
        said[way] = done.err
    for arm in ARMS:
        ours, theirs = record(folders["local"], arm), record(folders["inline"], arm)
        assert ours["evaluate"]["test"]["nll_sum"] == theirs["evaluate"]["test"]["nll_sum"]
        ranked = record(folders["accelerate"], arm)["evaluate"]["test"]
        assert ranked["perplexity"] == pytest.approx(theirs["evaluate"]["test"]["perplexity"], rel=1e-4)
        samples = [(run_folder(folders[way], arm) / "predictions.jsonl").read_text() for way in ways]
        assert samples[0] == samples[1] == samples[2]
    assert weights(folders["local"], "full") == weights(folders["inline"], "full")
    assert record(folders["accelerate"], "full")["train"]["zero_stage"] == 2
    events = list(read_lines(folders["local"] / "runs" / "small" / "ledger.jsonl"))
    assert [event["event"] for event in events[:2]] == ["started", "started"], "two went at once"
    assert "accelerate.commands.launch --config_file" in said["accelerate"]
    assert "  | " in said["accelerate"], "its log is passed on"


def test_sigterm_to_a_comparison_on_ranks_saves_and_the_same_command_finishes(tmp_path, tiny_model, problem_files):
    words = ["--launcher", "accelerate", "launch.config=cpu_ddp"]
    train = {**TRAIN, "max_steps": 60, "checkpoint_steps": 50}
    write(tmp_path, tiny_model, problem_files, arms={"lora": METHODS["lora"]}, train=train)
    command = [sys.executable, "-m", "lora_dist", "compare", "small.yaml", *words]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: lines_of(tmp_path, "lora") >= 5, "the 5th step")
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 4
    assert err.splitlines()[-1] == "interrupted: what is finished is kept; the same command resumes"
    wait_for(lambda: not processes_in(tmp_path), "the ranks' end", seconds=5)
    steps = lines_of(tmp_path, "lora")
    assert json.loads((run_folder(tmp_path, "lora") / "outcome.json").read_text())["outcome"] == "interrupted"
    assert run_cli("compare", "small.yaml", *words, cwd=tmp_path).code == 0
    assert record(tmp_path, "lora")["train"]["resumed_from_steps"] == [steps]


def test_a_rank_that_is_lost_fails_its_run_and_no_other(tmp_path, tiny_model, problem_files):
    arms = {"lora": METHODS["lora"], "base": METHODS["base"]}
    write(tmp_path, tiny_model, problem_files, arms=arms, train={"max_steps": 400})
    local = subprocess.Popen(
        [sys.executable, "-m", "lora_dist", "compare", "small.yaml", "--launcher", "local", "launch.slots=2"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: lines_of(tmp_path, "lora") >= 3, "the 3rd step")
    os.kill(json.loads((run_folder(tmp_path, "lora") / "heartbeat.json").read_text())["pid"], 9)
    _, err = local.communicate(timeout=120)
    assert local.returncode == 3
    assert "SIGKILL" in err
    assert record(tmp_path, "base")["status"] == "completed"


def test_gpus_are_dealt_to_slots(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\nfor i in 0 1 2 3; do echo "$i, GPU-$i, 81559"; done\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu.name for gpu in gpus_here()] == ["0", "1", "2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-3")
    assert gpus_here() == [Gpu("2", 81559 * 2**20), Gpu("GPU-3", 81559 * 2**20)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_here() == []
    slots = local_slots(LaunchSection(gpus_per_run=2), list("0123"), lambda count: in_process(count))
    assert [slot.environment for slot in slots] == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    with pytest.raises(ConfigError, match="this machine shows 4"):
        local_slots(LaunchSection(gpus_per_run=8), list("0123"), lambda count: in_process(count))
    with pytest.raises(ConfigError, match=r"launch\.slots"):
        local_slots(LaunchSection(slots=9), list("0123"), lambda count: in_process(count))


def test_qlora_that_takes_over_is_trained_announced_and_recorded(tmp_path, tiny_model, problem_files):
    from training_cases import prepare

    case = prepare(tmp_path, tiny_model, problem_files, method={"kind": "lora", "rank": 4}, train={"max_steps": 2})
    decide_method(case.run, case.folder, gpu_bytes=10**12)
    assert not case.folder.method.exists()
    setting = setting_of(case.run, shape_of_run(case.run))
    quantised = replace(setting, method=case.run.method.model_copy(update={"kind": "qlora"}))
    most, least = (estimate(shape_of_run(case.run), one).total for one in (setting, quantised))
    decide_method(case.run, case.folder, gpu_bytes=(most + least) // 2)
    assert case.folder.method.exists()
    found = case.work()
    assert found.run_id.startswith("run-")
    assert found.model.quantization.kind == "nf4"
    assert (found.method["kind"], found.method["fallback_from"]) == ("qlora", "lora")


def test_clean_removes_the_checkpoints_of_finished_runs_only(tmp_path, tiny_model, problem_files):
    write(tmp_path, tiny_model, problem_files, arms={"lora": METHODS["lora"], "full": METHODS["full"]}, train=TRAIN)
    assert run_cli("compare", "small.yaml", cwd=tmp_path).code == 0
    (run_folder(tmp_path, "full") / "record.json").unlink()
    for words, lora_is_there in ((["--dry-run"], True), ([], False)):
        done = run_cli("clean", "runs/small", *words, cwd=tmp_path)
        assert done.code == 0
        assert "not finished" in done.out
        assert (run_folder(tmp_path, "lora") / "checkpoints").exists() == lora_is_there
        assert (run_folder(tmp_path, "full") / "checkpoints").exists()


def test_plan_answers_without_weights(tmp_path, write_experiment):
    done = run_cli("plan", write_experiment(), "--gpus", "2", "--gpu-memory", "24GiB", "--json", cwd=tmp_path)
    (run,) = json.loads(done.out)["runs"]
    terms = ("weights", "adapters", "gradients", "optimizer", "activations", "logits", "buffers", "overhead")
    assert run["bytes"]["total"] == sum(run["bytes"][term] for term in terms)
    assert run["fits"] is True
    assert run["chosen"]["launch_config"] == "ddp"
    assert run["command"].startswith(
        "accelerate launch --config_file launch/ddp.yaml --num_processes 2 -m lora_dist train"
    )
    assert parse_bytes("1.5 GiB", "x") == 3 * 2**29
    with pytest.raises(ConfigError, match="is no size"):
        parse_bytes("much", "--gpu-memory")


def test_ranks_are_refused_what_they_cannot_do(tmp_path, tiny_model, problem_files):
    write(tmp_path, tiny_model, problem_files, arms={"qlora": METHODS["qlora"]}, train=TRAIN)
    done = run_cli("compare", "small.yaml", "--launcher", "accelerate", "launch.config=cpu_zero3", cwd=tmp_path)
    assert done.code == 2
    assert "does not share 4-bit weights out" in done.error_lines[0]
    assert "ddp or zero2" in done.error_lines[0]
    done = run_cli("compare", "small.yaml", "--launcher", "accelerate", "launch.config=fsdp2_qlora", cwd=tmp_path)
    assert done.code == 2
    assert "FSDP is not supported" in done.error_lines[0]
    assert not (tmp_path / "runs" / "small").exists()


def test_a_run_that_is_stopped_by_itself_is_interrupted_and_the_others_go_on(tmp_path, tiny_model, problem_files):
    arms = {"lora": METHODS["lora"], "base": METHODS["base"]}
    write(tmp_path, tiny_model, problem_files, arms=arms, train={**TRAIN, "max_steps": 400})
    process = subprocess.Popen(
        [sys.executable, "-m", "lora_dist", "compare", "small.yaml"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: lines_of(tmp_path, "lora") >= 3, "the 3rd step")
    os.kill(json.loads((run_folder(tmp_path, "lora") / "heartbeat.json").read_text())["pid"], signal.SIGUSR1)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 4
    assert "interrupted" in err
    assert record(tmp_path, "base")["status"] == "completed"
