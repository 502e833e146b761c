"""The arithmetic of batches and steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_dist.config.sections import TrainSection
from lora_dist.errors import ConfigError
from lora_dist.planning.batches import plan_batches, plan_steps
from lora_dist.world import World, current_world, meeting_place, refuse_ranks, without_launcher


@given(st.integers(1, 4096), st.integers(1, 64))
def test_micro_batch_times_accumulation_times_ranks_is_the_global_batch(total, ranks):
    train = TrainSection(global_batch_size=total)
    if total % ranks:
        with pytest.raises(ConfigError, match="multiple"):
            plan_batches(train, ranks)
        return
    plan = plan_batches(train, ranks)
    assert plan.micro_batch_size * plan.accumulation * plan.world_size == total
    assert plan.micro_batch_size <= 8
    assert not any(total // ranks % size == 0 for size in range(plan.micro_batch_size + 1, 9))


def test_a_micro_batch_that_does_not_divide_names_those_that_do():
    with pytest.raises(ConfigError, match="1, 2, 5, 10"):
        plan_batches(TrainSection(global_batch_size=10, micro_batch_size=4), 1)


def test_the_plan_is_printed_as_arithmetic():
    plan = plan_batches(TrainSection(global_batch_size=64, micro_batch_size=2), 4)
    assert str(plan) == "micro-batch 2 x accumulation 8 x 4 ranks = 64 sequences per step"


def test_steps_round_up_and_max_steps_wins():
    assert plan_steps(TrainSection(global_batch_size=8, epochs=2), 17).steps == 6
    assert plan_steps(TrainSection(global_batch_size=8, epochs=0.5), 16).steps == 1
    assert plan_steps(TrainSection(global_batch_size=8, epochs=2, max_steps=3), 17).steps == 3


def test_the_world_is_what_the_launcher_announced(tmp_path):
    assert current_world({}) == World(0, 1, 0, "plain")
    ranks = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    assert current_world(ranks) == World(1, 2, 1, "ddp")
    assert current_world(ranks | {"ACCELERATE_USE_FSDP": "true"}).strategy == "fsdp"
    file = tmp_path / "zero.json"
    file.write_text('{"zero_optimization": {"stage": 3}}')
    zero = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    assert current_world(ranks | zero).strategy == "zero3"
    with pytest.raises(ConfigError, match="is no DeepSpeed config"):
        current_world(ranks | zero | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "nowhere.json"})
    with pytest.raises(ConfigError, match="starts its own"):
        refuse_ranks(ranks)


def test_a_child_on_its_own_knows_nothing_of_the_launcher():
    launched = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1", "ACCELERATE_USE_DEEPSPEED": "true", "PATH": "/bin"}
    assert without_launcher(launched) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("nodes", "first"), [("node1", "node1"), ("gpu[03-05,9]", "gpu03"), ("a1,b[2-3]", "a1"), ("c-7-[1,4]", "c-7-1")]
)
def test_the_tasks_of_an_srun_are_ranks_that_meet_at_the_first_node(nodes, first):
    task = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "812",
            "SLURM_STEP_ID": "2", "SLURM_STEP_NODELIST": nodes}  # fmt: skip
    assert current_world(task) == World(3, 4, 1, "ddp")
    found = meeting_place(task)
    assert found["MASTER_ADDR"] == first
    assert 20_000 <= int(found["MASTER_PORT"]) < 30_000
    assert meeting_place(task | {"SLURM_STEP_ID": "3"})["MASTER_PORT"] != found["MASTER_PORT"]


def test_a_launcher_within_a_job_step_and_a_batch_script_are_taken_for_what_they_are():
    inner = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    address = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    assert current_world(inner | address).rank == 5
    assert current_world({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_JOB_ID": "1"}) == World()
