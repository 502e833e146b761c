"""Replies of a real Slurm 22.05.8 (two nodes, accounting on), and programs that give them instead of squeue and sacct.

The jobs: 1 prunes and fails with code 3; array 2 waits for it for ever; 3 waited for it with --kill-on-invalid-dep;
4 and array 5 completed; 6 met its time limit; 7 was preempted, requeued and completed; array 8 was held and its
element 1 cancelled meanwhile (which leaves no trace at all); 9 completed; 10 was cancelled by root.
"""

from __future__ import annotations

import sys
from pathlib import Path

SQUEUE = """\
7|COMPLETED|node1|5:00|25:00|1795620143|None|exp.run.aaaa0007|(null)
9|COMPLETED|node2|5:00|364-23:55:00|1795620136|None|exp.run.aaaa0009|(null)
2_0|PENDING||0:00|UNLIMITED|N/A|DependencyNeverSatisfied|exp.run.aaaa0002|(null)
2_1|PENDING||0:00|UNLIMITED|N/A|DependencyNeverSatisfied|exp.run.aaaa0002|(null)
2_2|PENDING||0:00|UNLIMITED|N/A|DependencyNeverSatisfied|exp.run.aaaa0002|(null)
8_0|PENDING||0:00|UNLIMITED|N/A|JobHeldUser|exp.run.aaaa0008|(null)
8_2|PENDING||0:00|UNLIMITED|N/A|JobHeldUser|exp.run.aaaa0008|(null)
8_3|PENDING||0:00|UNLIMITED|N/A|JobHeldUser|exp.run.aaaa0008|(null)
"""
SACCT = """\
1|FAILED|3:0|1|billing=1,cpu=1,gres/gpu=1,mem=100M,node=1|1|node1|1795620104|1795620105|exp.prune.aaaa0001
3|CANCELLED|0:0|0||0|None assigned|1795620106|1795620106|exp.run.aaaa0003
4|COMPLETED|0:0|2|billing=1,cpu=1,gres/gpu=1,mem=100M,node=1|1|node1|1795620104|1795620106|exp.run.aaaa0004
6|TIMEOUT|0:0|27|billing=1,cpu=1,gres/gpu=1,mem=100M,node=1|1|node1|1795620106|1795620133|exp.run.aaaa0006
7|PREEMPTED|0:0|25|billing=1,cpu=1,gres/gpu=1,mem=100M,node=1|1|node1|1795620108|1795620133|exp.run.aaaa0007
9|COMPLETED|0:0|300|billing=1,cpu=1,gres/gpu=1,mem=100M,node=1|1|node2|1795620136|1795620436|exp.run.aaaa0009
10|CANCELLED by 0|0:0|20|billing=2,cpu=2,gres/gpu=2,mem=200M,node=2|2|node[1-2]|1795620136|1795620156|exp.run.aaaa0010
2_[0-2%2]|PENDING|0:0|0||0|None assigned|Unknown|Unknown|exp.run.aaaa0002
5_0|COMPLETED|0:0|6|billing=1,cpu=1,gres/gpu=1,mem=100M,node=1|1|node2|1795620104|1795620110|exp.run.aaaa0005
5_1|COMPLETED|0:0|6|billing=1,cpu=1,gres/gpu=1,mem=100M,node=1|1|node2|1795620104|1795620110|exp.run.aaaa0005
8_[0,2-3%2]|PENDING|0:0|0||0|None assigned|Unknown|Unknown|exp.run.aaaa0008
7|COMPLETED|0:0|300|billing=1,cpu=1,gres/gpu=1,mem=100M,node=1|1|node1|1795620143|1795620443|exp.run.aaaa0007
"""
NO_ACCOUNTING = "Slurm accounting storage is disabled\n"
NO_DATABASE = """\
sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to host:127.0.0.1:18401: \
Connection refused
sacct: error: Sending PersistInit msg: Connection refused
sacct: error: Problem talking to the database: Connection refused
"""
NO_CONTROLLER = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"

PROGRAM = """#!{python} -S
import os, sys, time
with open({calls!r}, "a") as file:
    file.write(repr([sys.argv[1:], sorted(name for name in os.environ if "S" in name)]) + "\\n")
time.sleep({hang})
sys.stdout.write(open({reply!r}).read())
sys.stderr.write({error!r})
sys.exit({code})
"""


class FakeSlurm:
    """squeue and sacct as programs in a folder for PATH. They are the one thing that is not real in these tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._calls = folder / "calls.txt"

    def put(self, command: str, reply: str = "", *, error: str = "", code: int = 0, hang: float = 0) -> None:
        replied = self.folder / f"{command}.reply"
        replied.write_text(reply)
        program = self.folder / command
        program.write_text(
            PROGRAM.format(
                python=sys.executable, calls=str(self._calls), hang=hang, reply=str(replied), error=error, code=code
            )
        )
        program.chmod(0o755)

    def says(self, squeue: str = "", sacct: str | None = "") -> None:
        """Both commands answer; None is a cluster without accounts."""
        self.put("squeue", squeue)
        if sacct is None:
            self.put("sacct", error=NO_ACCOUNTING, code=1)
        else:
            self.put("sacct", sacct)

    def calls(self) -> list[list]:
        """[arguments, environment variables with an S] of every call so far."""
        return [eval(line) for line in self._calls.read_text().splitlines()] if self._calls.exists() else []

    @property
    def env(self) -> dict[str, str]:
        """A PATH that has nothing else."""
        return {"PATH": str(self.folder)}


def squeue_line(job: str, state: str, name: str, reason: str = "None", **said) -> str:
    """A line as squeue writes it."""
    told = {"nodes": "", "elapsed": "0:00", "left": "UNLIMITED", "start": "N/A"} | said
    fields = [job, state, told["nodes"], told["elapsed"], told["left"], told["start"], reason, name, "(null)"]
    return "|".join(map(str, fields)) + "\n"


def sacct_line(job: str, state: str, name: str, elapsed: int = 0, gpus: int | None = 0, **said) -> str:
    """A line as sacct writes it."""
    told = {"code": "0:0", "nodes": "node1", "start": "Unknown", "end": "Unknown"} | said
    tres = f"billing=1,cpu=1,{f'gres/gpu={gpus},' if gpus is not None else ''}mem=100M,node=1" if elapsed else ""
    fields = [job, state, told["code"], elapsed, tres, 1, told["nodes"], told["start"], told["end"], name]
    return "|".join(map(str, fields)) + "\n"
