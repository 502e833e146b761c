"""A job that is submitted again is kept off the nodes that failed under its runs, as far as there are others."""

from __future__ import annotations

import pytest
from comparison_cases import METHODS, write
from slurm_cases import all_ended, events, launch, start, trained_steps
from slurm_logs import RECORDED
from status_cases import Case, accounted

from lora_dist.config.expansion import expand
from lora_dist.config.loading import load_experiment
from lora_dist.dispatch.bad_nodes import bad_nodes, placed
from lora_dist.dispatch.cluster import Cluster, Machines, Partition
from lora_dist.dispatch.job_graph import plan_jobs
from lora_dist.store.folders import ExperimentFolder

CLUSTER = Cluster({"main": Partition("main", True, True, 60, [Machines(4, 8, 4000, 0, frozenset())])}, 1000)
# As Slurm 22.05 writes them; node4 is down and does not answer.
SINFO = """\
node1|main*|idle|8|4000|(null)
node2|main*|mix-|8|4000|(null)
node3|main*|alloc|2|4000|(null)
node4|main*|down*|8|4000|(null)
"""


@pytest.fixture
def case(tmp_path, slurm):
    """A run whose job 7 has ended as sacct says, with this log."""

    def made(accounts: str = "", log: str = "", nodes: str = SINFO) -> Case:
        slurm.says(sacct=accounts)
        slurm.put("sinfo", nodes)
        found = Case(tmp_path).submitted()
        found.folder.jobs.mkdir()
        (found.folder.jobs / "7_0_log.out").write_text(log)
        return found

    return made


@pytest.mark.parametrize(
    ("accounts", "log", "bad"),
    [
        (accounted("NODE_FAIL", nodes="node2"), "", {"node2"}),
        (accounted("BOOT_FAIL", nodes="node1"), "", {"node1"}),
        (accounted("NODE_FAIL", nodes="node[1-2]"), "", set()),  # one of them, and nobody says which
        (accounted("NODE_FAIL", nodes="node[1-2]"), RECORDED["power cut"], {"node2"}),
        (accounted("FAILED", nodes="node2"), RECORDED["exit"], set()),
        (accounted("FAILED", nodes="node2"), RECORDED["kill"], set()),
        ("", RECORDED["power cut"], {"node2"}),  # no accounts
    ],
)
def test_a_node_is_bad_where_the_cluster_says_that_it_failed(case, accounts, log, bad):
    made = case(accounts, log)
    assert bad_nodes(made.folder, [made.run.id]).get(made.run.id) == bad


def jobs_of(made: Case, *words: str):
    experiment = load_experiment(made.folder.experiment, list(words))
    return plan_jobs(expand(experiment), experiment.launch, made.folder, CLUSTER)


@pytest.mark.parametrize(
    ("words", "exclude", "note"),
    [
        ([], "node2", "kept off node2"),
        (["launch.slurm.exclude=node9"], "node9,node2", "kept off node2"),
        (['launch.slurm.exclude="node[1-2]"'], "node[1-2]", ""),  # it is already
        (["launch.slurm.nodes=2"], "node2", "kept off node2"),
        (["launch.slurm.nodes=3"], None, "needs 3 nodes, and without them 2 could take it"),
        (["launch.slurm={nodes: 2, cpus_per_rank: 4}"], None, "without them 1 could take it"),  # node3 has 2 cores
        (["launch.slurm.exclude=node1,node3"], "node1,node3", "without them 0 could take it"),
    ],
)
def test_it_is_excluded_with_those_of_the_settings_unless_too_few_are_left(case, words, exclude, note):
    made = case(accounted("NODE_FAIL", nodes="node2"))
    run, report = placed(jobs_of(made, *words), made.folder, CLUSTER)
    assert run.plan.ask.exclude == exclude
    assert note in run.note
    assert bool(note) == bool(run.note)
    assert report.note == ""


def test_a_node_that_the_cluster_no_longer_has_is_not_named_to_sbatch(case):
    made = case(accounted("NODE_FAIL", nodes="node7"))
    run, _ = placed(jobs_of(made), made.folder, CLUSTER)
    assert (run.plan.ask.exclude, run.note) == (None, "")


def test_a_run_that_never_failed_asks_the_cluster_nothing(tmp_path, slurm):
    made = Case(tmp_path)
    empty = ExperimentFolder(tmp_path / "elsewhere")
    assert [item.note for item in placed(jobs_of(made), empty, CLUSTER)] == ["", ""]
    assert slurm.calls() == []


@pytest.mark.slow
def test_a_retry_goes_to_the_other_node(cluster, tmp_path, tiny_model, problem_files):
    write(tmp_path, tiny_model, problem_files, arms={"lora": METHODS["lora"]}, launch=launch(),
          train={"max_steps": 4000, "learning_rate": 0.002, "checkpoint_steps": 1000})  # fmt: skip
    assert start(cluster, tmp_path, "small.yaml").code == 0
    job = events(tmp_path, "submitted")[0]["job"]
    cluster.wait_for(lambda: trained_steps(tmp_path, "lora") > 5, "some steps", 240)
    bad = events(tmp_path, "started")[0]["nodes"]
    cluster.node_off(int(bad[-1]))
    try:
        cluster.wait_for(lambda: cluster.states(job) == ["PENDING"], "the cluster to miss its node", 90)
        assert start(cluster, tmp_path, "runs/small", verb="cancel").code == 0
        all_ended(cluster)
    finally:
        cluster.node_on(int(bad[-1]))
    previewed = start(cluster, tmp_path, "small.yaml", "--dry-run")
    assert f"#SBATCH --exclude={bad}" in previewed.out, previewed.out + previewed.err
    done = start(cluster, tmp_path, "runs/small", verb="retry")
    assert done.code == 0, done.err
    assert f"run lora: kept off {bad}, which failed under it" in done.out
    assert "not on" in done.out
    cluster.wait_for(lambda: len(events(tmp_path, "started")) > 1, "the second start", 120)
    cluster.cancel_all()
    assert events(tmp_path, "started")[-1]["nodes"] != bad
    told = [event["resources"] for event in events(tmp_path, "submitting") if event["stage"] == "run"]
    assert [item.get("exclude") for item in told] == [None, bad]
