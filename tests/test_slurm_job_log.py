"""What SLURM's own words in a job's log tell: who went first, where, and whether memory or a node was to blame."""

from __future__ import annotations

import json

import pytest
from slurm_logs import RECORDED, REPORTED

from lora_dist.dispatch.job_log import START, TaskEnd, lost_nodes, plain_lines, read_job_log
from lora_dist.dispatch.scheduler_words import nodes_in

TEXTS = {**RECORDED, **REPORTED}
FIRST = {
    "exit": TaskEnd(1, "node2", "Exited with exit code 1"),
    "kill": TaskEnd(1, "node2", "Killed"),
    "both": TaskEnd(0, "node1", "Exited with exit code 3"),
    "out of memory": TaskEnd(1, "nid001277", "Out Of Memory"),
    "out of memory, before 21.08": TaskEnd(4, "Orion-01-01", "Out Of Memory"),
    "bus error": TaskEnd(289, "Orion-18-69", "Bus error"),
}
LOST = {"power cut": ("node2",), "node that launches nothing": ("ip-172-31-81-213",)}


@pytest.mark.parametrize("name", TEXTS)
def test_the_first_rank_to_fail_is_the_first_that_srun_did_not_end_itself(name):
    said = read_job_log(TEXTS[name])
    assert (said.ends[0] if said.ends else None) == FIRST.get(name)
    assert said.is_out_of_memory == name.startswith("out of memory")
    assert said.lost_nodes == LOST.get(name, ())
    assert said.cancelled == {"power cut": "NODE FAILURE", "time limit": "TIME LIMIT"}.get(name, "")


def test_a_job_that_was_started_again_is_told_of_by_its_newest_start():
    text = f"{START}0 on node[1-2]\n{RECORDED['power cut']}{START}1 on node[1-2]\n{RECORDED['kill']}"
    said = read_job_log(text)
    assert (said.ends[0].how, said.lost_nodes, said.cancelled) == ("Killed", (), "")
    assert lost_nodes(text) == ("node2",), "over all starts"


@pytest.mark.parametrize(
    "line",
    [
        "slurmstepd: error: Detected 0 oom_kill events in StepId=1.0.",
        "a user prints: Detected 1 oom_kill event",
        "torch.OutOfMemoryError: CUDA out of memory.",
    ],
)
def test_only_slurm_s_own_words_of_a_kill_count(line):
    assert not read_job_log(line).is_out_of_memory


def test_nothing_and_noise_tell_nothing():
    for text in ("", "\n", "srun: error: \n", "\x00\xff" * 100, "srun: error: ,: task 9: odd\n", f"{START}"):
        said = read_job_log(text)
        assert (said.lost_nodes, said.is_out_of_memory, said.cancelled) == ((), False, "")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node1", ["node1"]),
        ("node[01-03,7],gpu5", ["node01", "node02", "node03", "node7", "gpu5"]),
        ("n[9-11]-ib", ["n9-ib", "n10-ib", "n11-ib"]),
        ("rack[1-2]n[3-4]", ["rack1n3", "rack1n4", "rack2n3", "rack2n4"]),
        ("", []),
        ("odd[", ["odd["]),
    ],
)
def test_a_list_of_nodes_is_its_nodes(text, names):
    assert nodes_in(text) == names


def test_last_lines_are_plain_whatever_a_log_holds():
    text = "old\n\x1b[31mred\x1b[0m \x1b]0;title\x07end\n 10%|#  |\r 90%|## |\r100%|###|\n\n\ttab\x07\x00\n\x1b[2J"
    lines = plain_lines(text, 3)
    assert lines == ("red end", "100%|###|", "    tab\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}")
    assert json.loads(json.dumps(lines)) == list(lines)
    (cut,) = plain_lines("x" * 10_000, 3)
    assert len(cut) == 300
    assert cut.endswith("...")
