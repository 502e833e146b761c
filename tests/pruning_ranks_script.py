"""What every rank of tests/test_pruning_ranks.py runs: several prunings of one saved model, one after the other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from pruning_cases import ids_of, prune_to

from lora_dist.config.pruning import PruneSection
from lora_dist.pruning import factor, passes, share, solver
from lora_dist.team import Team
from lora_dist.world import current_world

LENGTH = 16
CHUNK_ROWS, TILE = 24, 16  # of 1,024 and 256 in earnest: a small model has several of each then
CASES = {
    "uneven": ({"sparsity": 0.6}, 7),
    "some are dealt": ({"sparsity": 0.5}, 2),
    "a rank without samples": ({"pattern": "2:4"}, 1),
    "wanda": ({"kind": "wanda", "sparsity": 0.5}, 5),
    "magnitude": ({"kind": "magnitude", "sparsity": 0.5}, 0),
    "dense inputs": ({"sparsity": 0.5, "mode": "dense_inputs"}, 3),
}
"""Settings and forward passes, of two samples each but the last."""


def main(source: str, folder: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    passes.PASS_TOKENS, factor.TILE = 2 * LENGTH, TILE
    solver.CHUNK_ROWS["cpu"] = CHUNK_ROWS
    team = Team.join(current_world())
    for name, (settings, count) in CASES.items():
        share._WORTH_SHARING = 0.6 if name == "some are dealt" else 0.1
        ids_NT = ids_of(2 * count - 1, LENGTH, vocabulary=90) if count else None
        prune_to(Path(folder) / name, Path(source), PruneSection(**settings), ids_NT, team=team)
    everyone = team.gather(torch.get_num_threads())
    if team.world.is_first:
        (Path(folder) / "ranks.json").write_text(json.dumps(everyone))
    team.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
