"""What SLURM prints into the logs of jobs that do not end well.

`RECORDED` is from tests/cluster.sh (Slurm 22.05.8, two nodes). `REPORTED` is out of other people's logs, which name the
version where one is given here: this cluster has no cgroups, so nothing on it is killed for want of memory.
"""

from __future__ import annotations

RECORDED = {
    "exit": """\
hello from 0
hello from 1
boom
srun: error: node2: task 1: Exited with exit code 1
srun: launch/slurm: _step_signal: Terminating StepId=1.0
slurmstepd-node1: error: *** STEP 1.0 ON node1 CANCELLED AT 2026-11-25T17:39:56 ***
srun: error: node1: task 0: Terminated
srun: Force Terminated StepId=1.0
""",
    "kill": """\
srun: error: node2: task 1: Killed
srun: launch/slurm: _step_signal: Terminating StepId=2.0
slurmstepd-node1: error: *** STEP 2.0 ON node1 CANCELLED AT 2026-11-25T17:39:58 ***
srun: error: node1: task 0: Terminated
srun: Force Terminated StepId=2.0
""",
    "both": """\
srun: error: node1: task 0: Exited with exit code 3
srun: launch/slurm: _step_signal: Terminating StepId=4.0
srun: error: node2: task 1: Terminated
srun: Force Terminated StepId=4.0
""",
    "power cut": """\
srun: error: Node failure on node2
srun: Job step aborted: Waiting up to 5 seconds for job step to finish.
slurmstepd-node1: error: *** JOB 6 ON node1 CANCELLED AT 2026-11-25T17:40:19 DUE TO NODE FAILURE, SEE SLURMCTLD LOG \
FOR DETAILS ***
slurmstepd-node1: error: *** STEP 6.0 ON node1 CANCELLED AT 2026-11-25T17:40:19 DUE TO NODE FAILURE, SEE SLURMCTLD LOG \
FOR DETAILS ***
srun: got SIGCONT
srun: forcing job termination
srun: error: node1: task 0: Terminated
srun: launch/slurm: _step_signal: Terminating StepId=6.0
""",
    "time limit": """\
slurmstepd-node1: error: *** JOB 9 ON node1 CANCELLED AT 2026-11-25T17:43:16 DUE TO TIME LIMIT ***
slurmstepd-node1: error: *** STEP 9.0 ON node1 CANCELLED AT 2026-11-25T17:43:16 DUE TO TIME LIMIT ***
srun: Job step aborted: Waiting up to 5 seconds for job step to finish.
srun: error: node2: task 1: Terminated
srun: got SIGCONT
srun: forcing job termination
srun: error: node1: task 0: Terminated
""",
}

REPORTED = {
    # github.com/chrisknewman/tusas/issues/149, 2023
    "out of memory": """\
slurmstepd: error: Detected 1 oom_kill event in StepId=440575.0. Some of the step tasks have been OOM Killed.
srun: error: nid001277: tasks 1-3: Out Of Memory
srun: Terminating StepId=440575.0
slurmstepd: error: *** STEP 440575.0 ON nid001277 CANCELLED AT 2023-12-05T07:16:01 ***
""",
    # github.com/hafs-community/HAFS/issues/101, 2021
    "out of memory, before 21.08": """\
slurmstepd: error: Detected 1 oom-kill event(s) in step 3495064.0 cgroup. Some of your processes may have been killed \
by the cgroup out-of-memory handler.
srun: error: Orion-01-01: task 4: Out Of Memory
srun: Terminating job step 3495064.0
slurmstepd: error: *** STEP 3495064.0 ON orion-01-01 CANCELLED AT 2021-10-27T19:35:36 ***
""",
    # github.com/hafs-community/HAFS/issues/101, 2021
    "bus error": """\
srun: error: Orion-18-69: task 289: Bus error
srun: Terminating job step 3495450.0
slurmstepd: error: *** STEP 3495450.0 ON orion-01-04 CANCELLED AT 2021-10-27T20:22:22 ***
""",
    # github.com/aws/aws-parallelcluster/issues/1122, 2019
    "node that launches nothing": """\
srun: error: Task launch for 5.0 failed on node ip-172-31-81-213: Communication connection failure
srun: error: Application launch failed: Communication connection failure
srun: Job step aborted: Waiting up to 32 seconds for job step to finish.
srun: error: Timed out waiting for job step to complete
""",
    # github.com/NVIDIA/deepops/issues/1179, 2022
    "credential": """\
srun: error: Task launch for StepId=13.0 failed on node adas-ml: Invalid job credential
srun: error: Task launch for StepId=13.0 failed on node adas-ml-2: Invalid job credential
srun: error: Application launch failed: Invalid job credential
srun: Job step aborted: Waiting up to 32 seconds for job step to finish.
srun: error: Timed out waiting for job step to complete
""",
}
