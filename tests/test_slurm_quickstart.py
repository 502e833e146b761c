"""The quickstart of the README on a real cluster of two nodes: the table that one machine makes of it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from conftest import run_cli
from slurm_cases import all_ended, start

PRUNE = "{kind: sparsegpt, sparsity: 0.5, calibration: {samples: 16, length: 128}}"
PRUNED = f"arms.pruned={{method: {{kind: base}}, prune: {PRUNE}}}"
ON_TWO_NODES = "launch.slurm={time: 30, array_cap: 2, jobs: {full: {nodes: 2, config: cpu_zero2}, prune: {nodes: 2}}}"


def table(folder: Path) -> dict[str, float]:
    """Test perplexity by label."""
    with (folder / "runs" / "quickstart" / "report" / "results.csv").open() as file:
        return {row["label"]: float(row["test_perplexity"]) for row in csv.DictReader(file)}


@pytest.mark.slow  # seven runs of the recipe twice: minutes, as the README says
def test_the_quickstart_is_the_same_table_on_a_cluster(cluster, tmp_path):
    there, here = tmp_path / "slurm", tmp_path / "inline"
    there.mkdir(), here.mkdir()
    words = ("quickstart", PRUNED, ON_TWO_NODES)
    done = start(cluster, there, *words, "--launcher", "slurm")
    assert done.code == 0, done.err
    all_ended(cluster, timeout=900)
    assert run_cli("compare", *words, cwd=here, timeout=900).code == 0
    ours, theirs = table(there), table(here)
    assert len(ours) == 7
    full = "full seed 0"  # two ranks add up in another order
    assert ours == {**theirs, full: pytest.approx(theirs[full], rel=1e-4)}
    status = start(cluster, there, "runs/quickstart", verb="status")
    assert status.code == 0, status.out
