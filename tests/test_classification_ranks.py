"""A classifier on two ranks: the steps of one, under DDP; ZeRO is refused before anything starts."""

from __future__ import annotations

import pytest
from classification_cases import CLASSIFICATION, save_encoder, sentence_files
from ranks_cases import Ranks, record

from lora_dist.config.loading import load_experiment
from lora_dist.errors import UserError
from lora_dist.pipeline.preflight import Preflight
from lora_dist.verbs.train import only_run
from lora_dist.world import World

ARMS = {"lora": {"method": {"kind": "lora", "rank": 4}}, "full": {"method": {"kind": "full"}}}
# 43 rows, as in ranks_cases: the ranks get unequal shares, and fillers that have no label.
TRAIN = {"max_steps": 8, "global_batch_size": 8, "micro_batch_size": 2, "learning_rate": 0.005}


@pytest.mark.parametrize("arm", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_two_ranks_train_and_score_what_one_does(tmp_path, arm):
    encoder = save_encoder(tmp_path / "encoder")
    files = sentence_files(tmp_path)
    sections = {"data": CLASSIFICATION, "train": TRAIN}
    found = {}
    for strategy in ("plain", "ddp"):
        ranks = Ranks.make(tmp_path / strategy, encoder, files, **sections, arms=ARMS)
        found[strategy] = record(ranks.train(strategy, arm)), ranks.lines(arm)
    (one, ours), (two, theirs) = found["plain"], found["ddp"]
    assert (one["train"]["world_size"], two["train"]["world_size"]) == (1, 2)
    for key in ("tokens", "scored_tokens"):
        assert [line[key] for line in ours] == [line[key] for line in theirs]
    assert [line["loss"] for line in theirs] == pytest.approx([line["loss"] for line in ours], rel=1e-5)
    assert two["evaluate"]["test"]["nll_sum"] == pytest.approx(one["evaluate"]["test"]["nll_sum"], rel=1e-4)
    assert two["evaluate"]["test"]["examples"] == one["evaluate"]["test"]["examples"] == 60


def test_zero_is_refused_in_one_line(tmp_path):
    encoder = save_encoder(tmp_path / "encoder")
    ranks = Ranks.make(tmp_path / "here", encoder, sentence_files(tmp_path), data=CLASSIFICATION, arms=ARMS)
    run = only_run(load_experiment(ranks.experiment), "lora")
    for strategy in ("zero1", "zero2", "zero3"):
        world = World(size=2, strategy=strategy)
        with pytest.raises(UserError, match="ZeRO is not there for classification; use ddp"):
            Preflight(tmp_path / "tokens", lambda *_: None).check([run], [world])
    with pytest.raises(UserError, match="FSDP is not supported"):
        Preflight(tmp_path / "tokens", lambda *_: None).check([run], [World(size=2, strategy="fsdp")])
