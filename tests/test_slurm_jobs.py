"""From runs to jobs: what a cluster is asked for, what it cannot give, and which job waits for which."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml
from conftest import experiment_document

from lora_dist.config.expansion import expand
from lora_dist.config.loading import load_experiment
from lora_dist.config.profile import with_profile
from lora_dist.config.slurm import mebibytes_of, minutes_of
from lora_dist.dispatch.cluster import Cluster, Machines, Partition
from lora_dist.dispatch.cluster_checks import notes_on, problems_with
from lora_dist.dispatch.job_graph import JobPlan, Ranks, plan_jobs
from lora_dist.errors import ConfigError, Problem, Refused
from lora_dist.store.folders import ExperimentFolder

A100 = frozenset({"a100"})
BIG = Machines(1, 64, 500_000, 8, A100)
CLUSTER = Cluster(
    {
        "cpu": Partition("cpu", True, True, 60, [Machines(4, 8, 4000, 0, frozenset())]),
        "gpu": Partition("gpu", False, True, 1440, [Machines(2, 64, 500_000, 4, A100), BIG]),
        "dead": Partition("dead", False, False, 60, [Machines(1, 8, 4000, 0, frozenset())]),
    },
    largest_array=3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("1:30", 2), ("04:00:00", 240), ("00:00:30", 1), ("1-0", 1440), ("2-12:30", 3630), ("1-0:0:01", 1441)],
)  # fmt: skip
def test_times_are_those_of_slurm(text, minutes):
    assert minutes_of(text) == minutes


@pytest.mark.parametrize(
    ("text", "size"), [("512M", 512), ("64G", 65536), ("1.5TiB", 1572864), ("1GB", 1024), ("1K", 1)]
)
def test_sizes_are_powers_of_1024(text, size):
    assert mebibytes_of(text) == size


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("launch.slurm.time=soon", "launch.slurm.time"),
        ("launch.slurm.memory=much", "launch.slurm.memory"),
        ("launch.slurm.partition=a b", "launch.slurm.partition"),
        ('launch.slurm.setup=["one\\ntwo"]', "launch.slurm.setup"),
        ("launch.slurm.extra={nodes: 2}", "launch.slurm.extra"),
        ("launch.slurm.jobs={lore: {}}", "launch.slurm.jobs.lore"),
        ("launch.slurm.jobs={lora: {setup: [ls]}}", "launch.slurm.jobs.lora.setup"),
    ],
)
def test_what_no_cluster_understands_is_refused_by_its_key(override, key):
    with pytest.raises(Refused) as caught:
        load_experiment("quickstart", [override])
    assert [problem.key.split("[")[0] for problem in caught.value.problems] == [key] or key in str(caught.value)


def test_a_profile_says_what_the_experiment_leaves_open(tmp_path):
    profile = tmp_path / "cluster.yaml"
    profile.write_text(yaml.safe_dump({
        "partition": "gpu", "time": "04:00:00", "setup": ["module load cuda"],
        "jobs": {"full": {"nodes": 2, "time": "1-0"}, "prune": {"nodes": 4}},
    }))  # fmt: skip
    words = [f"launch.slurm.profile={profile}", "launch.slurm.time=60", "launch.slurm.jobs={full: {nodes: 3}}"]
    slurm = with_profile(load_experiment("quickstart", words).launch.slurm)
    full, lora = slurm.job("full"), slurm.job("lora")
    assert (full.partition, full.nodes, full.time) == ("gpu", 3, "1-0")
    assert (lora.partition, lora.nodes, lora.time) == ("gpu", None, "60")
    assert slurm.job("prune").nodes == 4
    assert slurm.setup == ["module load cuda"]
    profile.write_text("partitions: gpu\n")
    with pytest.raises(Refused, match="partitions"):
        with_profile(load_experiment("quickstart", words).launch.slurm)


def plans_of(tmp_path, arms, *words):
    document = experiment_document(tmp_path / "model", {"train": "t.jsonl"}, arms=arms)
    source = tmp_path / "small.yaml"
    source.write_text(yaml.safe_dump(document, sort_keys=False))
    experiment = load_experiment(source, ["launch.launcher=slurm", *words])
    folder = ExperimentFolder(tmp_path / "runs" / "small")
    return plan_jobs(expand(experiment), experiment.launch, folder, CLUSTER)


def test_a_pruning_comes_before_the_runs_that_share_it_and_the_report_last(tmp_path):
    half = {"kind": "sparsegpt", "sparsity": 0.5}
    arms = {
        "base": {"method": {"kind": "base"}},
        "pruned": {"method": {"kind": "base"}, "prune": half},
        "pruned-lora": {"method": {"kind": "lora"}, "prune": half},
        "sweep": {"grid": {"train.learning_rate": [1e-4, 2e-4, 3e-4, 4e-4]}},
    }
    plans = plans_of(tmp_path, arms, "launch.slurm.jobs={prune: {nodes: 2}}")
    assert [(plan.stage, plan.kind, len(plan.runs), plan.after) for plan in plans] == [
        ("prune", "prune", 1, ()),
        ("run", "base", 1, ()),
        ("run", "base", 1, (0,)),
        ("run", "lora", 1, (0,)),
        ("run", "lora", 3, ()),  # no array of this cluster is longer
        ("run", "lora", 1, ()),
        ("report", "report", 0, (0, 1, 2, 3, 4, 5)),
    ]
    assert plans[0].ranks.count == 2
    assert plans[1].ranks.count == 1


def test_what_several_ranks_train_can_be_measured_apart_each_after_its_own_training(tmp_path):
    arms = {"full": {"method": {"kind": "full"}, "grid": {"train.learning_rate": [1e-4, 2e-4]}}, "lora": {}}
    words = ["launch.slurm.jobs={full: {nodes: 2, config: cpu_zero2}, evaluate: {time: 30}}"]
    plans = plans_of(tmp_path, arms, *words)
    assert [(plan.stage, plan.kind, len(plan.runs), plan.after) for plan in plans] == [
        ("train", "full", 2, ()),
        ("evaluate", "evaluate", 2, (0,)),
        ("run", "lora", 1, ()),  # one rank trains and measures
        ("report", "report", 0, (0, 1, 2)),
    ]
    assert plans[0].runs == plans[1].runs, "element by element"
    assert (plans[1].ranks.count, plans[1].ask.time) == (1, "30")
    folder = ExperimentFolder(tmp_path / "runs" / "small").run(plans[0].runs[0].id)
    folder.create({})
    folder.training.write_text("{}")
    again = plans_of(tmp_path, arms, *words)
    assert [(plan.stage, len(plan.runs), plan.after) for plan in again] == [
        ("evaluate", 1, ()),  # trained already
        ("train", 1, ()),
        ("evaluate", 1, (1,)),
        ("run", 1, ()),
        ("report", 0, (0, 1, 2, 3)),
    ]


def test_a_preparation_in_a_job_comes_before_all_that_has_nothing_else_to_wait_for(tmp_path):
    half = {"kind": "sparsegpt", "sparsity": 0.5}
    arms = {
        "pruned": {"method": {"kind": "base"}, "prune": half},
        "full": {"method": {"kind": "full"}},
    }
    words = ["launch.slurm.prepare=job", "launch.slurm.jobs={full: {nodes: 2}, prepare: {partition: cpu}}"]
    plans = plans_of(tmp_path, arms, *words)
    assert [(plan.stage, len(plan.runs), plan.after) for plan in plans] == [
        ("prepare", 2, ()),
        ("prune", 1, (0,)),
        ("run", 1, (1,)),
        ("run", 1, (0,)),
        ("report", 0, (0, 1, 2, 3)),
    ]
    assert not plans[0].is_array
    assert [(world.size, world.strategy) for world in plans[0].worlds] == [(1, "plain"), (2, "zero2")]
    assert plans[0].ask.partition == "cpu"


def test_ranks_are_gpus_where_there_are_some_and_share_a_training_as_the_config_says(tmp_path):
    arms = {"lora": {}, "full": {"method": {"kind": "full"}}}
    words = ["launch.slurm.partition=gpu", "launch.slurm.jobs={full: {nodes: 2, gpus_per_node: 4, config: zero3}}"]
    lora, full, measure, _ = plans_of(tmp_path, arms, *words)
    assert (lora.ranks.count, lora.ranks.gpus_per_node, lora.ranks.config) == (1, 1, None)
    assert (full.ranks.count, full.ranks.gpus_per_node, full.ranks.world.strategy) == (8, 4, "zero3")
    assert (measure.ranks.count, measure.ranks.gpus_per_node) == (1, 1), "after ZeRO-3 one rank measures"
    on_cpus = plans_of(tmp_path, arms, "launch.slurm.jobs={full: {nodes: 2, config: cpu_zero2}}")
    assert [plan.ranks.count for plan in on_cpus] == [1, 2, 1]
    assert on_cpus[1].ranks.world.strategy == "zero2"


@pytest.mark.parametrize(
    ("ask", "nodes", "gpus", "cpus", "key"),
    [
        ({"partition": "gpus"}, 1, 0, 1, "partition"),
        ({"partition": "dead"}, 1, 0, 1, "partition"),
        ({"time": "2-0"}, 1, 0, 1, "time"),
        ({}, 5, 0, 1, "nodes"),
        ({}, 1, 1, 1, "gpus_per_node"),
        ({"partition": "gpu"}, 1, 9, 1, "gpus_per_node"),
        ({"partition": "gpu", "gpu_type": "h100"}, 1, 1, 1, "gpu_type"),
        ({}, 1, 0, 9, "cpus_per_rank"),
        ({"memory": "8G"}, 1, 0, 1, "memory"),
        ({"time": 2}, 1, 0, 1, "signal_seconds"),  # told to save as it begins
    ],
)
def test_what_the_cluster_does_not_have_is_named_with_what_it_has(ask, nodes, gpus, cpus, key):
    problems = problems_of(ask, nodes, gpus, cpus)
    assert [problem.key for problem in problems] == [f"launch.slurm.{key}"]
    assert problems[0].fix


def problems_of(ask: dict, nodes: int, gpus: int, cpus: int) -> list[Problem]:
    slurm = load_experiment("quickstart", ["launch.slurm=" + json.dumps(ask)]).launch.slurm
    plan = JobPlan("run", "lora", (), slurm.job("lora"), Ranks(nodes, gpus or cpus, gpus))
    return list(problems_with(plan, slurm, CLUSTER))


def test_clusters_that_keep_no_accounts_or_preempt_say_so():
    assert list(notes_on(CLUSTER)) == []
    (accounts,) = notes_on(replace(CLUSTER, has_accounting=False))
    assert "no accounts" in accounts
    (warned,) = notes_on(replace(CLUSTER, preempts=True, kill_wait_s=45))
    assert "45 s" in warned
    assert "SIGTERM" not in warned
    (unwarned,) = notes_on(replace(CLUSTER, preempts=True, warns=False))
    assert "SIGTERM" in unwarned


def test_what_it_has_is_no_problem():
    assert not problems_of({"partition": "gpu", "time": "1-0", "gpu_type": "a100", "memory": "400G"}, 3, 8, 64)


def test_a_launch_config_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="zero9"):
        plans_of(tmp_path, {"full": {"method": {"kind": "full"}}}, "launch.slurm={ranks_per_node: 2, config: zero9}")
