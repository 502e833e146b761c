"""The same bytes from any number of ranks, whatever each of them has to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from family_cases import LLAMA, build
from pruning_cases import shards_of
from pruning_ranks_script import CASES

from lora_dist.pruning.share import Matrix, owners_of

HERE = Path(__file__).parent
SLOW, MORE = pytest.mark.slow, [(2, 1), (3, 1), (1, 3)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Two blocks whose widest linears have several tiles and chunks of rows: ranks share them."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    build(hf.LlamaConfig(**LLAMA)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, saved):
    """Each case on so many ranks of so many threads, made when first asked for."""
    folders: dict[tuple[int, int], Path] = {}

    def on(ranks: int, threads: int = 1) -> Path:
        if (ranks, threads) not in folders:
            folder = folders[ranks, threads] = tmp_path_factory.mktemp(f"ranks{ranks}-threads{threads}")
            launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--standalone"]
            command = [*(launcher if ranks > 1 else [sys.executable]), str(HERE / "pruning_ranks_script.py")]
            done = subprocess.run(
                [*command, str(saved), str(folder), str(threads)],
                env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"},
                capture_output=True, text=True, timeout=240,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-4000:]
            assert json.loads((folder / "ranks.json").read_text()) == ranks * [threads]
        return folders[ranks, threads]

    return on


@pytest.mark.parametrize(("ranks", "threads"), [(2, 2), *(pytest.param(*sizes, marks=SLOW) for sizes in MORE)])
@pytest.mark.parametrize("case", CASES)
def test_every_shard_and_mask_has_the_bytes_that_one_thread_writes(pruned, ranks, threads, case):
    alone, together = shards_of(pruned(1) / case), shards_of(pruned(ranks, threads) / case)
    assert len(alone) == 2 + 1 + 2  # two blocks, the rest, two masks
    assert alone == together


def test_what_would_keep_one_thread_busy_is_shared_and_the_rest_is_dealt():
    def group(columns, *rows):
        return [Matrix(f"{number}", 0.5, torch.empty(count, columns)) for number, count in enumerate(rows)]

    narrow, small, wide = group(64, 64, 64), group(64, 64), group(256, 64)
    assert owners_of([narrow, small, wide], "sparsegpt", 1, 1) == [0, 0, 0]
    assert owners_of([narrow, small, wide], "sparsegpt", 2, 1) == [0, 1, None]
    assert owners_of([narrow, small, wide], "sparsegpt", 1, 2) == [0, 0, None]
    assert owners_of([narrow, small, wide], "sparsegpt", 4, 8) == [None, None, None]
    assert owners_of([narrow, small, wide], "wanda", 2, 1) == [1, 1, 0]  # nothing in it takes long
