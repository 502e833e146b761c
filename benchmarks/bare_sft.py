"""A LoRA fine-tuning script as a user of transformers, peft and trl writes it: what `train_overhead.py` compares with.

Nothing of lora_dist is in it. Besides training it notes when each step ended, and the peak of its resident memory.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class StepEnds(TrainerCallback):
    """Readings of the clock and of this process's CPU time, in seconds, at the end of each optimizer step."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_step_end(self, *_, **__):
        self.ends.append((time.perf_counter(), time.process_time()))


def reset_peak() -> None:
    """Start VmHWM anew (proc(5)), so that imports and loading do not count."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


def config_of(job: dict[str, Any], output: Path) -> SFTConfig:
    return SFTConfig(
        output_dir=str(output),
        max_steps=job["steps"],
        per_device_train_batch_size=job["micro_batch_size"],
        gradient_accumulation_steps=job["accumulation"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=job["warmup_steps"],
        max_length=job["max_length"],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        seed=job["seed"],
        data_seed=job["seed"],
        logging_steps=10,
        save_strategy="no",
        report_to="none",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=json.loads, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    job = arguments.job

    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    rows = Dataset.from_parquet(job["tokens"], cache_dir=str(arguments.out.parent / "cache"))
    trainer = SFTTrainer(
        model=model,
        args=config_of(job, arguments.out.parent / "output"),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=job["rank"], lora_alpha=2 * job["rank"], target_modules="all-linear"
        ),
    )
    steps = StepEnds()
    trainer.add_callback(steps)
    reset_peak()
    trainer.train()
    peak = peak_bytes()

    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    result = {
        "ends": steps.ends,
        "peak_bytes": peak,
        "losses": {str(entry["step"]): entry["loss"] for entry in logged},
        "tokens": {str(entry["step"]): int(entry["num_tokens"]) for entry in logged},
    }
    arguments.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
