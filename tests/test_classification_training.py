"""Training a classifier: its head survives, and neither stops nor micro-batches change what comes out."""

from __future__ import annotations

import json

import pytest
import torch
from classification_cases import CLASSIFICATION, LABELS, save_encoder, sentence_files
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from training_cases import Stopped, prepare, stop_at
from training_cases import one_thread as one_thread

from lora_dist.config.sections import ModelSection
from lora_dist.errors import UserError
from lora_dist.evaluation.class_scores import read_class_scores
from lora_dist.models.classifiers import Classes, classifier_context, empty_classifier, load_classifier

CPU = torch.device("cpu")
TRAIN = {"max_steps": 7, "global_batch_size": 16, "micro_batch_size": 8, "learning_rate": 0.01, "checkpoint_steps": 2}
METHODS = {
    "lora": {"kind": "lora", "rank": 4, "dropout": 0.1, "targets": ["query", "value"]},
    "partial": {"kind": "partial", "top_blocks": 1},
    "full": {"kind": "full"},
}
EVALUATE = {"samples": 2, "bootstrap_samples": 100}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return sentence_files(tmp_path_factory.mktemp("sentences"), train=50, test=20)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("bert"), hidden_dropout_prob=0.1)


def make(folder, model, files, kind="lora", **sections):
    given = {"data": CLASSIFICATION, "method": METHODS[kind], "train": TRAIN, "evaluate": EVALUATE}
    return prepare(folder, model, files, **(given | sections))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, encoder, files, kind):
    calm, stopped = (make(tmp_path / name, encoder, files, kind) for name in ("calm", "stopped"))
    record = calm.work()
    with pytest.raises(Stopped):
        stopped.train(stop_at(5))
    resumed = stopped.work()
    assert resumed.train.resumed_from_steps == [4]  # in the midst of an epoch of 3 steps, 45 rows
    assert stopped.bytes == calm.bytes
    assert stopped.losses == calm.losses
    assert resumed.evaluate["test"]["confusion"] == record.evaluate["test"]["confusion"]
    assert resumed.train.tokens == record.train.tokens
    assert resumed.train.scored_tokens == record.train.scored_tokens == 2 * 45 + 16


@pytest.mark.parametrize("model", ["bert", "distilbert", "roberta", "llama"])
def test_the_head_that_was_trained_is_the_one_that_is_measured(tmp_path, tiny_model, files, model):
    source = tiny_model if model == "llama" else save_encoder(tmp_path / "source", model)
    targets = {"bert": ["query", "value"], "distilbert": ["q_lin", "v_lin"]}.get(model, "all-linear")
    heads = {
        "bert": ["classifier"], "distilbert": ["classifier", "pre_classifier"],
        "roberta": ["classifier.dense", "classifier.out_proj"], "llama": ["score"],
    }[model]  # fmt: skip
    case = make(tmp_path, source, files, data=CLASSIFICATION | {"max_length": 20}, method={"targets": targets})
    record = case.work()
    assert record.model.drawn_modules == heads
    saved = load_file(case.folder.model / "adapter_model.safetensors")
    drawn = load_classifier(
        case.run.model, Classes(tuple(LABELS), case.tokenizer.pad_token_id, case.run.seed), device=CPU,
        dtype=torch.float32,
    ).model  # fmt: skip
    for head in heads:
        weight = saved[f"base_model.model.{head}.weight"]
        assert not torch.equal(weight, drawn.get_submodule(head).weight)
    assert not any(name.endswith("embeddings.weight") for name in saved)

    # The same by hand: adapters and heads put on by peft, one row at a time, without padding.
    from peft import PeftModel

    hand = PeftModel.from_pretrained(drawn, case.folder.model).eval()
    scores = read_class_scores(case.folder.scores / "test.parquet")
    for index, (ids, labels) in enumerate(case.tokens.rows("test")):
        with torch.no_grad():
            logits = hand(input_ids=torch.tensor(ids[None]).long()).logits[0]
        assert scores.label_R[index] == labels[0]
        assert scores.predicted_R[index] == logits.argmax()
        nll = cross_entropy(logits.double(), torch.tensor(int(labels[0]))).item()
        assert scores.nll_R[index] == pytest.approx(nll, abs=1e-5)


def test_a_step_does_not_depend_on_how_it_is_cut_into_micro_batches(tmp_path, files):
    calm = save_encoder(tmp_path / "encoder")  # without dropout, which draws by micro-batch
    cases = [
        make(tmp_path / str(size), calm, files, "full", train={**TRAIN, "micro_batch_size": size})
        for size in (1, 4, 16)
    ]
    for case in cases:
        case.train()
    for case in cases[1:]:
        assert case.losses == pytest.approx(cases[0].losses, rel=1e-4)


def test_the_loss_of_a_step_is_the_mean_over_its_rows(tmp_path, files):
    calm = save_encoder(tmp_path / "encoder")
    whole = {"max_steps": 1, "global_batch_size": 45, "micro_batch_size": 15}
    case = make(tmp_path, calm, files, "full", train={**TRAIN, **whole})
    case.train()
    classes = Classes(tuple(LABELS), case.tokenizer.pad_token_id, case.run.seed)
    model = load_classifier(case.run.model, classes, device=CPU, dtype=torch.float32).model.eval()
    losses = []
    for ids, labels in case.tokens.rows("train"):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor(ids[None]).long()).logits
        losses.append(cross_entropy(logits, torch.tensor(labels).long()).item())
    assert case.losses[0] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert case.lines[0]["tokens"] == sum(len(ids) for ids, _ in case.tokens.rows("train"))
    assert case.lines[0]["scored_tokens"] == 45


def test_partial_trains_the_top_blocks_the_pooler_and_the_head(tmp_path, encoder, files):
    case = make(tmp_path, encoder, files, "partial")
    case.train()
    before = load_file(encoder / "model.safetensors")
    changed = {
        name.split(".layer.")[0] if ".layer.0" in name else ".".join(name.split(".")[:4])
        for name, weight in case.weights.items()
        if not torch.equal(weight, before.get(name.removeprefix("bert."), torch.zeros(0)))
    }
    assert changed == {
        "classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias",
        "bert.encoder.layer.1",
    }  # fmt: skip


def test_a_head_is_that_of_its_seed_in_every_method(tmp_path, files):
    calm = save_encoder(tmp_path / "encoder")
    short = {**TRAIN, "max_steps": 1}
    adapter = {**METHODS["lora"], "dropout": 0.0}  # which changes nothing yet in the first step
    cases = [make(tmp_path / kind, calm, files, kind, train=short) for kind in ("partial", "full")]
    cases += [make(tmp_path / f"seed{seed}", calm, files, method=adapter, train=short, seeds=[seed]) for seed in (0, 5)]
    for case in cases:
        case.train()
    partial, full, lora, other = (case.losses[0] for case in cases)
    assert (partial, full) == pytest.approx((lora, lora), rel=1e-6)
    assert other != pytest.approx(lora, rel=1e-3)


def test_gradient_checkpointing_trains_the_same_adapter(tmp_path, files):
    calm = save_encoder(tmp_path / "encoder")
    method = {**METHODS["lora"], "dropout": 0.0}
    plain, checkpointed = (
        make(tmp_path / str(on), calm, files, method=method, train={**TRAIN, "gradient_checkpointing": on})
        for on in (False, True)
    )
    for case in (plain, checkpointed):
        case.train()
    assert checkpointed.losses == pytest.approx(plain.losses, rel=1e-5)


def test_a_source_without_a_pooler_has_one_drawn_and_trained(tmp_path, encoder, files):
    from safetensors.torch import save_file

    bare = tmp_path / "bare"
    save_encoder(bare)
    kept = {name: weight for name, weight in load_file(bare / "model.safetensors").items() if "pooler" not in name}
    save_file(kept, bare / "model.safetensors", metadata={"format": "pt"})
    case = make(tmp_path, bare, files)
    record = case.work()
    assert record.model.drawn_modules == ["bert.pooler.dense", "classifier"]
    saved = load_file(case.folder.model / "adapter_model.safetensors")
    assert any("pooler.dense.weight" in name for name in saved)
    assert json.loads((case.folder.model / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"


def test_roberta_reads_as_many_tokens_as_it_has_positions_behind_the_padding(tmp_path, files):
    roberta = save_encoder(tmp_path / "roberta", "roberta")
    assert classifier_context(empty_classifier(ModelSection(path=str(roberta)))) == 23
    longest = {"max_length": 24}
    with pytest.raises(UserError, match="24 tokens are more than the model's context of 23"):
        make(tmp_path, roberta, files, data=CLASSIFICATION | longest)
