"""Every shipped launch config, through the parsers of accelerate, transformers and DeepSpeed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY

from lora_dist.assets import launch_config_names, launch_config_path, shipped_folder
from lora_dist.dispatch.launch_config import read_launch_config, write_located
from lora_dist.errors import ConfigError

LAUNCH = sorted((REPOSITORY / "launch").rglob("*"))
ZERO = sorted((REPOSITORY / "ds_configs").rglob("*"))
NAMES = [
    "cpu_ddp",
    "cpu_zero2",
    "cpu_zero3",
    "single_gpu",
    "ddp",
    "zero1",
    "zero2",
    "zero2_offload",
    "zero3",
    "zero3_offload",
    "multinode_zero2",
    "multinode_zero3",
    "fsdp2_qlora",
]


NO_FILE = "distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: no.json}"


def named(path):
    return path.name


def test_all_of_them_are_shipped():
    assert launch_config_names() == sorted(NAMES)
    assert sorted(path.stem for path in LAUNCH) == sorted(NAMES)
    assert {path.stem for path in ZERO} == {"zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"}
    assert shipped_folder("launch") == REPOSITORY / "launch"


@pytest.mark.parametrize("path", LAUNCH, ids=named)
def test_accelerate_reads_it(path, monkeypatch):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    monkeypatch.chdir(REPOSITORY)
    config = load_config_from_file(str(path))
    document = yaml.safe_load(path.read_text())
    assert config.num_processes == document["num_processes"]
    arguments = ["--config_file", str(path), "--main_process_ip", "localhost", "script.py"]
    validated, *_ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    assert validated.use_deepspeed == (document["distributed_type"] == "DEEPSPEED")
    assert validated.use_fsdp == (document["distributed_type"] == "FSDP")
    if "deepspeed_config" in document:
        assert (REPOSITORY / validated.deepspeed_config_file).is_file()
        assert validated.zero3_init_flag in (None, False, "false") or "zero3" in path.name
    if document["num_machines"] > 1:
        assert validated.deepspeed_multinode_launcher == "standard", "the others are reached by pdsh"


@pytest.mark.parametrize("path", LAUNCH, ids=named)
def test_it_says_what_it_is_for_and_repeats_no_setting(path):
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert "Costs" in head
    assert "annot" in head  # cannot, Cannot
    assert f"accelerate launch --config_file launch/{path.name}" in head
    document = yaml.safe_load(path.read_text())
    assert not {"mixed_precision", "gradient_accumulation_steps", "gradient_clipping"} & document.keys()
    own = {"deepspeed_config_file", "zero3_init_flag", "deepspeed_multinode_launcher"}
    assert document.get("deepspeed_config", {}).keys() <= own


@pytest.mark.parametrize("path", ZERO, ids=named)
def test_deepspeed_reads_it_once_transformers_has_filled_it(path, tmp_path):
    """In a process of its own: DeepSpeed chooses its accelerator when it is imported."""
    code = f"""
import json, sys
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig
arguments = TrainingArguments({str(tmp_path)!r}, use_cpu=True, bf16=True, report_to="none")
config = HfTrainerDeepSpeedConfig({str(path)!r})
config.trainer_config_process(arguments)
model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=64, intermediate_size=8, num_hidden_layers=1,
                                     num_attention_heads=2))
config.trainer_config_finalize(arguments, model, 10)
from deepspeed.runtime.config import DeepSpeedConfig
read = DeepSpeedConfig(config.config)
print(json.dumps([config.config, read.zero_optimization_stage, read.bfloat16_config.enabled]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    filled, stage, bf16 = json.loads(done.stdout.splitlines()[-1])
    assert '"auto"' not in json.dumps(filled)
    assert stage == int(path.stem[4])
    assert bf16 is True
    if stage < 3:
        assert filled["zero_optimization"]["overlap_comm"] is False, "it has given NaN gradients under ZeRO-2"
    else:
        assert filled["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True


def test_a_copy_works_from_any_folder(tmp_path):
    for name in NAMES:
        config = read_launch_config(launch_config_path(name))
        located = write_located(config, tmp_path, processes=2)
        again = read_launch_config(located)
        assert again.zero_stage == config.zero_stage
        assert again.processes == 2
        if config.deepspeed_file:
            named = yaml.safe_load(located.read_text())["deepspeed_config"]["deepspeed_config_file"]
            assert named == str(config.deepspeed_file)
            assert config.strategy(2) == f"zero{config.zero_stage}"


def test_what_is_no_launch_config_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"launch\.config: 'zero9' is neither .* cpu_ddp"):
        launch_config_path("zero9")
    cases = {"a: [": "cannot be used", "- 1": "names no distributed_type",
             NO_FILE: "is not there"}  # fmt: skip
    for text, why in cases.items():
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ConfigError, match=why):
            read_launch_config(tmp_path / "x.yaml")
