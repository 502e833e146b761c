"""The arithmetic of batches and steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_dist.config.sections import TrainSection
from lora_dist.errors import ConfigError
from lora_dist.planning.batches import plan_batches, plan_steps
from lora_dist.world import World, current_world


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


def test_several_ranks_are_refused_and_not_trained_wrongly():
    assert current_world({}) == World(0, 1, 0)
    with pytest.raises(ConfigError, match="2 ranks"):
        current_world({"WORLD_SIZE": "2", "RANK": "1"})
