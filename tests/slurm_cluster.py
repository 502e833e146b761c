"""A real SLURM cluster of two nodes on this machine, for the tests of a session: started, stopped, and disturbed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TypeVar

import pytest
from conftest import REPOSITORY, Done

SCRIPT = REPOSITORY / "tests" / "cluster.sh"
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
T = TypeVar("T")
_FIRST_PORT, _PORTS, _CLUSTERS = 17_000, 20, 100
_PRIVATE = ("10.93", "10.231", "172.29", "192.168")
"""First two octets of the nodes' networks, in order of preference; the third is the cluster's number."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster: its commands, its jobs, and the ways in which it can fail."""

    state: Path
    """Its folder: slurm.conf, logs."""
    settings: dict[str, str]

    @property
    def env(self) -> dict[str, str]:
        """The environment in which sbatch and the like talk to this cluster, and jobs find our Python."""
        foreign = ("SLURM_", "SBATCH_", "SRUN_")  # this test session may be a job itself
        clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/sbin", "/sbin", clean.get("PATH", "")])
        return {**clean, "PATH": path, "SLURM_CONF": str(self.state / "slurm.conf")}

    def run(self, *words: object, cwd: Path = REPOSITORY, env: dict[str, str] | None = None, timeout=120) -> Done:
        """A command of the login node, to its end."""
        done = subprocess.run(
            [*map(str, words)],
            cwd=cwd,
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def submit(self, *words: object, **options) -> int:
        """`sbatch WORDS`; the number of the job."""
        done = self.run("sbatch", "--parsable", *words, **options)
        assert done.code == 0, done.err
        return int(done.out.split(";")[0])

    def states(self, job: object) -> list[str]:
        """The state of a job, or those of an array's elements; nothing while the controller does not answer."""
        done = self.run("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T")
        return done.out.split() if done.code == 0 else []

    def wait_for_state(self, job: object, states: str | set[str] = FINAL, timeout: float = 120) -> str:
        """Wait until a job, or every element of an array, is in one of these states; which ones those are.

        What ends in another way than the one waited for fails at once.
        """
        wanted = {states} if isinstance(states, str) else states

        def found() -> list[str] | None:
            now = self.states(job)
            if now and set(now) <= wanted:
                return now
            assert not now or not set(now) & (FINAL - wanted), f"job {job}: {now}"
            return None

        return " ".join(sorted(set(self.wait_for(found, f"job {job} to be {' or '.join(sorted(wanted))}", timeout))))

    def wait_for(self, condition: Callable[[], T], what: str, timeout: float = 120) -> T:
        """Poll until a condition holds; what it gave."""
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
            time.sleep(0.1)
        return found

    def cancel_all(self) -> None:
        """End every job, and wait until they are gone and the nodes can take others."""
        jobs = self.run("squeue", "--noheader", "--format=%A").out.split()
        if jobs:
            self.run("scancel", *jobs)
        self.wait_for(lambda: not self.run("squeue", "--noheader").out.strip(), "the end of all jobs")

    def node_off(self, number: int) -> None:
        """A node's power cut, with all that runs on it."""
        self._do("node-off", number)

    def node_on(self, number: int) -> None:
        """Power back, until the node takes jobs again."""
        self._do("node-on", number)
        self.wait_for(lambda: self._node_state(number) in ("idle", "mixed", "allocated"), f"node{number}")

    def controller_off(self) -> None:
        """slurmctld ends; running jobs go on."""
        self._do("controller-off")

    def controller_on(self) -> None:
        """It starts again, from the state that it had saved."""
        self._do("controller-on")

    def in_node(self, number: int, *words: object) -> Done:
        """A command on a node, as no job."""
        return self.run("bash", SCRIPT, "in", number, *words, env=self.settings)

    def _node_state(self, number: int) -> str:
        done = self.run("sinfo", "--noheader", "--partition=main", f"--nodes=node{number}", "--format=%T")
        return done.out.strip()

    def _do(self, *words: object) -> None:
        done = self.run("bash", SCRIPT, *words, env=self.settings)
        assert done.code == 0, done.err


def missing() -> str:
    """Why there can be no cluster here, and what to install; nothing if there can."""
    if os.geteuid() != 0:
        return "a SLURM cluster is started by root only"
    if shutil.which("bash") is None:
        return "no bash here"
    return subprocess.run(["bash", str(SCRIPT), "missing"], capture_output=True, text=True).stdout.strip()


@contextmanager
def running_cluster(
    *,
    nodes: int = 2,
    cpus: int = 2,
    gpus: int = 0,
    gpu_type: str = "",
    accounting: bool = True,
    mode: str = "auto",
    extra: Sequence[str] = (),
) -> Iterator[Cluster]:
    """A cluster while the block runs. Several may run side by side, in this session or another.

    Args:
        cpus, gpus: of each node. CPUs may exceed the machine's; GPUs are names without anything behind them.
        accounting: whether sacct answers.
        mode: how apart the nodes are, see cluster.sh; auto is as far as this machine can.
        extra: lines for slurm.conf, such as another partition or a smaller MaxArraySize.
    """
    if why := missing():
        pytest.skip(why)
    number, claim = _claim()
    state = Path(tempfile.mkdtemp(prefix="lora_dist-slurm-"))
    settings = {
        "STATE": str(state),
        "PORT": str(_FIRST_PORT + _PORTS * number),
        "SUBNET": free_subnet(number, _networks_here()),
        "NODES": str(nodes),
        "CPUS": str(cpus),
        "GPUS": str(gpus),
        "GPU_TYPE": gpu_type,
        "ACCOUNTING": str(int(accounting)),
        "EXTRA": "\n".join(extra),
        "MODE": mode,
        "MEMORY": "4000",
        "GRACE": "5",
    }
    # It stops at the end of its stdin, which comes when this process ends, however it does. It holds the claim as well,
    # so that nobody takes the ports before it is gone; and a Ctrl-C of the terminal is not for it.
    keeper = subprocess.Popen(
        ["bash", str(SCRIPT), "hold"], env={**os.environ, **settings}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True, pass_fds=[claim.fileno()],
    )  # fmt: skip
    claim.close()
    try:
        if not keeper.stdout.readline().startswith("SLURM_CONF="):
            raise RuntimeError(f"the cluster did not start: {keeper.communicate(timeout=60)[1]}")
        yield Cluster(state, settings)
    finally:
        said = keeper.communicate(timeout=60)[1] if keeper.poll() is None else ""
    assert keeper.returncode == 0, said


def _claim() -> tuple[int, socket.socket]:
    """The number of a cluster that nobody on this machine has, and the socket that claims it while anybody holds it."""
    for number in range(_CLUSTERS):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0lora_dist-cluster-{number}")  # a name without a file
        except OSError:
            claim.close()
            continue
        first = _FIRST_PORT + _PORTS * number
        has_bridge = Path(f"/sys/class/net/lds{first}").exists()  # of a cluster that was not stopped
        if not has_bridge and all(_is_free(first + offset) for offset in range(_PORTS)):
            return number, claim
        claim.close()
    raise RuntimeError(f"the ports of {_CLUSTERS} clusters are taken")


def free_subnet(number: int, taken: Sequence[str]) -> str:
    """First three octets of a network for cluster `number` that overlaps with none of those taken.

    A machine's own network may well be one of ours: then nodes in it would not be reached, or the machine not.
    """
    networks = [ip_network(name, strict=False) for name in taken]
    for private in _PRIVATE:
        if not any(ip_network(f"{private}.{number}.0/24").overlaps(network) for network in networks):
            return f"{private}.{number}"
    raise RuntimeError(f"none of the networks {', '.join(_PRIVATE)} is free for cluster {number}")


def _networks_here() -> list[str]:
    """Those that this machine is in or has a route to, as ADDRESS/PREFIX."""
    ask = lambda *words: subprocess.run(["ip", "-4", "-o", *words], capture_output=True, text=True, check=True).stdout  # noqa: E731
    routes = [line.split()[0] for line in ask("route", "show").splitlines()]
    addresses = [line.split()[3] for line in ask("address", "show").splitlines()]
    return [name for name in routes + addresses if name[0].isdigit()]  # not "default", nor "unreachable"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
