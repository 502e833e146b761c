"""Experiment files: what is accepted, what it expands to, and how mistakes are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lora_dist.assets import PACKAGE, recipe_names
from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment
from lora_dist.config.loading import load_experiment
from lora_dist.config.schema import experiment_schema
from lora_dist.config.sections import FIELDS_OF_KIND, LEARNING_RATE_OF_KIND, MethodSection
from lora_dist.errors import ConfigError, Refused, UserError

ENOUGH = ("model.path=some/model", "data={path: some/data, task: instruction}")


def problems(*overrides, source=None):
    with pytest.raises(UserError) as caught:
        expand(load_experiment(source, [*ENOUGH, *overrides]))
    return {problem.key: f"{problem.problem}; {problem.fix}" for problem in caught.value.problems}


def test_overrides_alone_make_an_experiment():
    experiment = load_experiment(None, [*ENOUGH, "train.learning_rate=1e-3", "method.targets=[q_proj, v_proj]"])
    run = expand(experiment)[0]
    assert run.train.learning_rate == 1e-3
    assert run.method.targets == ["q_proj", "v_proj"]
    assert run.id.startswith("run-")


def test_all_mistakes_are_told_at_once_with_key_and_fix():
    found = problems(
        "model.pth=x", "train.epochs=many", "data.max_length=-3", "method.kind=lor", "evaluate.samples=true"
    )
    assert set(found) == {"model.pth", "train.epochs", "data.max_length", "method.kind", "evaluate.samples"}
    assert "did you mean 'path'" in found["model.pth"]
    assert "give a number" in found["train.epochs"]
    assert "greater than 0" in found["data.max_length"]
    assert "'lora'" in found["method.kind"]


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("arms.a.method={kind: full, rank: 4}", "arms.a.method.rank", "means nothing for full"),
        ("arms.a.train={learning_rte: 1}", "arms.a.train.learning_rte", "did you mean 'learning_rate'"),
        ("arms.a.points=[{method.rnk: 4}]", "arms.a.points[0].method.rnk", "did you mean 'rank'"),
        ("arms.a.grid={lr: [1]}", "arms.a.grid.lr", "not a setting"),
        ("arms.a.grid={method.rank: [4, 4]}", "arms.a", "the same"),
        ("arms.a.grid={method.rank: 4}", "arms.a.grid.method.rank", "list"),
        ("arms.a.grid={method.rank: []}", "arms.a.grid.method.rank", "at least one"),
        ("arms.a/b={}", "arms.a/b", "letters, digits"),
        ("name=../x", "name", "letters, digits"),
        ("seeds=[]", "seeds", "at least one"),
        ("prune={kind: sparsegpt}", "prune", "neither is given"),
        ("prune={sparsity: 0.5, pattern: 2:4}", "prune", "both are given"),
        ("prune.sparsity=1.0", "prune.sparsity", "less than 1"),
        ("prune.sparsity=-1", "prune.sparsity", "greater than or equal to 0"),
        ("prune.pattern=4:2", "prune.pattern", "N < M"),
        ("prune.pattern=2-4", "prune.pattern", "such as 2:4"),
        ("prune={sparsity: 0.5, calibration: {sample: 3}}", "prune.calibration.sample", "did you mean 'samples'"),
        ("prune={sparsity: 0.5, overrides: {down_proj: 1.5}}", "prune.overrides.down_proj", "less than 1"),
        ("arms.a.prune={kind: magnitude, sparsity: 0.5, damping: 1}", "arms.a.prune.damping", "nothing for magnitude"),
        ("arms.a.grid={prune.calibration.sample: [1]}", "arms.a.grid.prune.calibration.sample", "unknown key"),
        ("evaluate.splits=[train]", "evaluate.splits", "test split"),
        ("nonsense", "nonsense", "key=value"),
        ("model.path.x=1", "model.path.x", "not a mapping"),
        ("train.learning_rate=.inf", "train.learning_rate", "finite"),
    ],
)
def test_a_mistake_names_its_key_and_its_fix(override, key, words):
    found = problems(override)
    assert key in found
    assert words in found[key]


def test_a_missing_model_is_said_with_an_example():
    with pytest.raises(Refused) as caught:
        load_experiment(None, ["train.epochs=1"])
    assert {problem.key for problem in caught.value.problems} == {"model", "data"}


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "line"), ("- 1", "list"), ("", "empty"), ("model: {}\nmodel: {}", "given twice"), ("a: \x00", "line")],
)
def test_a_file_that_is_no_mapping_is_told_with_its_place(tmp_path, text, words):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_arms_points_grid_and_seeds_multiply():
    lora = "arms.lora={points: [{method.rank: 4}, {method.rank: 8}], grid: {train.epochs: [1, 2, 3]}}"
    runs = expand(load_experiment(None, [*ENOUGH, "arms.base.method.kind=base", lora, "seeds=[0, 1]"]))
    assert [run.arm for run in runs] == ["base"] + ["lora"] * 12  # nothing is random in the base: one seed
    assert len({run.id for run in runs}) == 13
    assert {(run.method.rank, run.train.epochs, run.seed) for run in runs[1:]} == {
        (rank, epochs, seed) for rank in (4, 8) for epochs in (1, 2, 3) for seed in (0, 1)
    }


def test_arms_change_parts_of_the_pruning_and_null_leaves_an_arm_dense():
    arms = {
        "dense": "{prune: null}",
        "half": "{}",
        "pattern": "{prune: {pattern: 2:4}}",
        "few": "{prune: {calibration: {samples: 4}}}",
        "swept": "{grid: {prune.sparsity: [0.3, 0.7], prune.calibration.length: [64]}}",
    }
    overrides = ["prune={sparsity: 0.5, calibration: {samples: 8, length: 32}}", "method.kind=base"]
    experiment = load_experiment(None, [*ENOUGH, *overrides, *(f"arms.{name}={arm}" for name, arm in arms.items())])
    again = Experiment.model_validate(
        yaml.safe_load(yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False))
    )
    for read in (experiment, again):  # an experiment file that was written by us says the same
        runs = expand(read)
        assert [(run.arm, run.prune and (run.prune.goal, run.prune.calibration.samples, run.prune.calibration.length))
                for run in runs] == [
            ("dense", None), ("half", (0.5, 8, 32)), ("pattern", ("2:4", 8, 32)), ("few", (0.5, 4, 32)),
            ("swept", (0.3, 8, 64)), ("swept", (0.7, 8, 64)),
        ]  # fmt: skip
        assert len({run.id for run in runs}) == 6


def test_runs_that_prune_alike_share_a_key_whatever_they_train():
    def key(*overrides):
        return expand(load_experiment(None, [*ENOUGH, "prune.sparsity=0.5", *overrides]))[0].pruning_key

    same = key()
    for harmless in ("method.kind=full", "train.epochs=9", "seeds=[3]", "evaluate.samples=1"):
        assert key(harmless) == same
    for other in ("prune.sparsity=0.6", "prune.mode=dense_inputs", "model.path=x", "data.path=x", "prune.damping=1"):
        assert key(other) != same
    magnitude = key("prune.kind=magnitude")
    assert magnitude == key("prune.kind=magnitude", "data.path=x", "prune.damping=1")


def test_a_run_id_depends_on_what_changes_numbers_and_on_nothing_else():
    def run_id(*overrides):
        return expand(load_experiment(None, [*ENOUGH, *overrides]))[0].id

    same = run_id()
    for harmless in ("name=other", "output_dir=x", "train.keep_checkpoints=9", "evaluate.samples=1"):
        assert run_id(harmless) == same
    for harmful in ("seeds=[1]", "method.rank=4", "train.learning_rate=1", "data.max_length=9", "model.revision=x"):
        assert run_id(harmful) != same
    assert run_id("method.kind=full") == run_id("method.kind=full", "method.rank=3")  # rank means nothing to it


def test_learning_rates_default_by_method():
    for kind, rate in LEARNING_RATE_OF_KIND.items():
        assert expand(load_experiment(None, [*ENOUGH, f"method.kind={kind}"]))[0].train.learning_rate == rate


def test_every_setting_of_a_method_belongs_to_some_kind():
    assert set.union(*FIELDS_OF_KIND.values()) == set(MethodSection.model_fields)


@given(st.floats(min_value=1e-9, max_value=1e3), st.integers(1, 10**6), st.text("abcxyz0189-_./", min_size=1))
def test_an_experiment_survives_the_round_trip_through_its_file(rate, rank, path):
    experiment = Experiment.model_validate(
        {"name": "x", "model": {"path": path}, "data": {"task": "causal_lm", "path": path},
         "train": {"learning_rate": rate}, "arms": {"a": {"method": {"rank": rank}}, "b": None}}
    )  # fmt: skip
    again = Experiment.model_validate(
        yaml.safe_load(yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False))
    )
    assert [run.id for run in expand(again)] == [run.id for run in expand(experiment)]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_expands_and_says_what_it_is_for(name):
    assert expand(load_experiment(name))
    text = (PACKAGE / "recipes" / f"{name}.yaml").read_text()
    assert text.startswith("# ")


def test_the_schema_knows_every_key_of_the_recipes():
    schema = experiment_schema()
    json.dumps(schema)
    for name in recipe_names():
        document = yaml.safe_load((PACKAGE / "recipes" / f"{name}.yaml").read_text())
        assert set(document) <= set(schema["properties"])
        for arm in (document.get("arms") or {}).values():
            assert set(arm) <= set(schema["$defs"]["Arm"]["properties"])
            for section in set(arm) & {"method", "train", "data"}:
                part = schema["$defs"][f"{section.capitalize()}SectionPart"]
                assert set(arm[section]) <= set(part["properties"])
                assert "required" not in part


def test_an_experiment_folder_is_as_good_as_its_file(tmp_path):
    experiment = load_experiment(None, ENOUGH)
    folder = tmp_path / "some-name"
    folder.mkdir()
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False))
    assert load_experiment(folder) == experiment


def test_local_paths_are_made_absolute_for_workers_and_hub_ids_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.jsonl").write_text("{}")
    run = expand(load_experiment(None, ["model.path=org/name", "data={task: causal_lm, path: {train: data.jsonl}}"]))[0]
    located = run.located()
    assert located.model.path == "org/name"
    assert located.data.path == {"train": str(tmp_path / "data.jsonl")}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method.kind=lora"], None),
        (["method.kind=lora", "prune={kind: magnitude, sparsity: 0.5}"], True),
        (["method.kind=qlora", "prune={kind: magnitude, sparsity: 0.5}"], True),
        (["method.kind=lora", "prune={kind: magnitude, sparsity: 0.5}", "method.preserve_sparsity=false"], False),
        (["method.kind=full", "prune={kind: magnitude, sparsity: 0.5}"], None),
    ],
)
def test_adapters_keep_the_zeros_of_a_pruned_base_unless_told_otherwise(overrides, expected):
    run = expand(load_experiment(None, [*ENOUGH, *overrides]))[0]
    assert run.method.preserve_sparsity is expected
    assert ("preserve_sparsity" in run.method.relevant()) == (expected is not None)


def test_a_folder_that_was_pruned_is_a_pruned_base(tmp_path):
    (tmp_path / "pruning.json").write_text("{}")
    run = expand(load_experiment(None, [*ENOUGH, f"model.path={tmp_path}"]))[0]
    assert run.method.preserve_sparsity is True
