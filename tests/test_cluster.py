"""The cluster of the tests itself: what its faults look like to SLURM, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster, free_subnet, missing, running_cluster


def processes_naming(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text in path.read_text(errors="replace"):
                found.append((path.parent / "comm").read_text().strip())
        except OSError:
            continue
    return found


def traces_of(cluster: Cluster) -> list[str]:
    """Everything by which a cluster can be known: folder, processes, network, names, mounts."""
    text = str(cluster.state)
    bridge = f"lds{cluster.settings['PORT']}"
    found = [text for _ in [0] if cluster.state.exists()] + processes_naming(text)
    found += [name for name in os.listdir("/sys/class/net") if name.startswith(bridge)]
    return found + [path for path in ("/etc/hosts", "/proc/mounts") if text in Path(path).read_text()]


def test_jobs_run_on_nodes_of_their_own_and_accounting_knows_them(cluster):
    done = cluster.run("srun", "--nodes=2", "bash", "-c", "echo $SLURMD_NODENAME")
    assert sorted(done.out.split()) == ["node1", "node2"], done.err
    job = cluster.submit("--wrap", "exit 3", "--output=/dev/null")
    assert cluster.wait_for_state(job) == "FAILED"
    told = lambda: cluster.run("sacct", "-nXP", f"-j{job}", "-oState,ExitCode").out.strip()  # noqa: E731
    assert cluster.wait_for(lambda: "FAILED" in told() and told(), "sacct") == "FAILED|3:0"


@pytest.mark.slow
def test_a_node_and_the_controller_go_and_come_back(cluster):
    job = cluster.submit("--nodelist=node2", "--no-requeue", "--output=/dev/null", "--wrap", "sleep 600")
    cluster.wait_for_state(job, "RUNNING")
    cluster.node_off(2)
    assert cluster.wait_for_state(job) == "NODE_FAIL"
    cluster.node_on(2)
    job = cluster.submit("--nodelist=node2", "--output=/dev/null", "--wrap", "sleep 600")
    cluster.wait_for_state(job, "RUNNING")
    cluster.controller_off()
    assert cluster.run("scontrol", "ping").code != 0
    cluster.controller_on()
    assert cluster.states(job) == ["RUNNING"]
    cluster.cancel_all()


@pytest.mark.parametrize(
    ("taken", "subnet"),
    [
        (["127.0.0.1/8", "192.0.2.2/24"], "10.93.3"),
        (["10.93.3.7/24"], "10.231.3"),
        (["10.93.4.7/24"], "10.93.3"),
        (["10.0.0.0/8", "172.16.0.0/12"], "192.168.3"),
    ],
)
def test_the_nodes_have_a_network_that_the_machine_is_not_in(taken, subnet):
    assert free_subnet(3, taken) == subnet


def test_a_session_that_is_killed_leaves_no_cluster_behind():
    if why := missing():
        pytest.skip(why)
    code = """
import sys
from slurm_cluster import running_cluster
with running_cluster(accounting=False, gpus=2, extra=["MaxArraySize=10"]) as cluster:
    job = cluster.submit("--wrap", "sleep 600", "--gpus-per-node=1", "--output=/dev/null")
    cluster.wait_for_state(job, "RUNNING")
    assert "MaxArraySize            = 10" in cluster.run("scontrol", "show", "config").out
    print(cluster.state, cluster.settings["PORT"], flush=True)
    sys.stdin.read()
"""
    session = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    state, port = session.stdout.readline().split()
    killed = Cluster(Path(state), {"PORT": port})
    assert {"slurmctld", "slurmd", "munged", "slurmstepd"} <= set(processes_naming(state))
    session.send_signal(signal.SIGKILL)
    session.communicate()
    killed.wait_for(lambda: not traces_of(killed), "its end", timeout=30)


@pytest.mark.parametrize("mode", ["auto", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("ns", "plain"))])
def test_an_error_in_the_block_stops_the_cluster_and_its_jobs_too(mode):
    with pytest.raises(ZeroDivisionError), running_cluster(accounting=False, mode=mode) as running:  # noqa: PT012
        job = running.submit("--nodes=2", "--output=/dev/null", "--wrap", "srun sleep 600")
        running.wait_for_state(job, "RUNNING")
        1 / 0  # noqa: B018
    assert traces_of(running) == []
