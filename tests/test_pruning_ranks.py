"""The same bytes from any number of ranks, whatever each of them has to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers as hf
from family_cases import LLAMA, build
from pruning_cases import shards_of
from pruning_ranks_script import CASES, CHUNK_ROWS

from lora_dist.pruning import solver
from lora_dist.pruning.share import Matrix, owners_of
from lora_dist.pruning.solver import chunks_of

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """Two blocks whose MLP has more rows than one chunk: ranks share them."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    build(hf.LlamaConfig(**LLAMA | {"intermediate_size": 2 * CHUNK_ROWS + 8})).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, wide):
    """Each case on so many ranks, made when first asked for."""
    folders: dict[int, Path] = {}

    def on(ranks: int) -> Path:
        if ranks not in folders:
            folders[ranks] = tmp_path_factory.mktemp(f"ranks{ranks}")
            launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--standalone"]
            command = [*(launcher if ranks > 1 else [sys.executable]), str(HERE / "pruning_ranks_script.py")]
            done = subprocess.run(
                [*command, str(wide), str(folders[ranks])],
                env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"},
                capture_output=True, text=True, timeout=240,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-4000:]
            assert len(json.loads((folders[ranks] / "ranks.json").read_text())) == ranks
        return folders[ranks]

    return on


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_every_shard_and_mask_has_the_bytes_that_one_rank_writes(pruned, ranks, case):
    alone, together = shards_of(pruned(1) / case), shards_of(pruned(ranks) / case)
    assert len(alone) == 2 + 1 + 2  # two blocks, the rest, two masks
    assert alone == together


def test_the_rows_of_a_wide_matrix_are_shared_and_the_most_work_is_dealt_first(wide, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.setattr(solver, "CHUNK_ROWS", CHUNK_ROWS)
    weights = load_file(wide / "model.safetensors")
    gate, down, query = (
        Matrix(name, 0.5, weights[f"model.layers.0.{name}.weight"])
        for name in ("mlp.gate_proj", "mlp.down_proj", "self_attn.q_proj")
    )
    assert len(chunks_of(gate.weight_RC)) == 3
    assert gate.is_shared(2)
    assert not gate.is_shared(1)
    assert not down.is_shared(2)
    owners = owners_of([[query], [gate], [down]], 2)
    assert owners[2] != owners[0] == owners[1]  # the widest input alone on one rank
