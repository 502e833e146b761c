"""What is looked at on a job's machines before its ranks begin; on the cluster itself in test_slurm_stages.py."""

from __future__ import annotations

import shutil
import socket
from types import SimpleNamespace

import pytest
import torch
from conftest import experiment_document

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.errors import NodeUnfit, StorageError
from lora_dist.pipeline.node_checks import check_disk, check_node, check_team
from lora_dist.store.folders import ExperimentFolder
from lora_dist.team import Team
from lora_dist.world import SlurmJob, World, meeting_place

JOB = SlurmJob(id="7", restart=0, nodes="node[1-2]", machines=2, gpus_here=0, element=None)


def test_a_port_that_is_taken_where_the_ranks_are_to_meet_is_named_with_its_machine(monkeypatch):
    for name, value in (("PROCID", "0"), ("STEP_NUM_TASKS", "2"), ("JOB_ID", "7"), ("STEP_ID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("RANK", raising=False)
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(NodeUnfit, match=f"{socket.gethostname()}: port {port}"):
            check_node(World(0, 2), JOB)
        check_node(World(1, 2), JOB)  # the others only call there
    check_node(World(0, 2), JOB)


def test_a_job_that_comes_back_meets_elsewhere():
    first, again = (
        meeting_place({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "7", **more})["MASTER_PORT"]
        for more in ({}, {"SLURM_RESTART_COUNT": "1"})
    )
    assert first != again


def test_gpus_that_torch_does_not_see_are_told_with_the_number_that_was_given():
    with pytest.raises(NodeUnfit, match=f"torch sees {torch.cuda.device_count()} of the 99 GPUs"):
        check_node(World(), SlurmJob("7", 0, "node1", machines=1, gpus_here=99, element=None))


def test_a_sum_over_the_ranks_that_is_wrong_names_the_machine_that_has_it():
    deaf = SimpleNamespace(world=World(0, 2), add_up=lambda _: None)
    with pytest.raises(NodeUnfit, match="all-reduce over 2 ranks"):
        check_team(deaf)
    check_team(SimpleNamespace(world=World(0, 2), add_up=lambda tensor: tensor.fill_(3)))


def test_a_disk_without_room_for_the_run_is_refused_with_what_it_lacks(
    tmp_path, tiny_model, problem_files, monkeypatch
):
    document = experiment_document(tiny_model, problem_files, arms={"full": {"method": {"kind": "full"}}})
    run: Run = expand(Experiment.model_validate(document))[0]
    folder = ExperimentFolder(tmp_path).run(run.id)
    folder.create({})
    check_disk(run, folder, Team())
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(StorageError, match=r"its disk has 0\.0 GiB free"):
        check_disk(run, folder, Team())
