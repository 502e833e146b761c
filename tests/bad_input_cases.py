"""What users type wrong, for test_bad_input.py: the command line, and what they are told."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lora_dist.config.expansion import expand
from lora_dist.config.loading import load_experiment
from lora_dist.verbs.folders import folder_of, make_run_folders


@dataclass(frozen=True)
class Place:
    """The folder that the user is in, and what `before` may do to it."""

    path: Path
    model: Path
    mount: Callable[[Path, str], None]
    """Mounts an empty tmpfs with the given options on a folder."""

    def write(self, name: str, content: str | bytes) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def copy_model(self, name: str, **config) -> Path:
        """A copy of the small model, with changes to its config.json."""
        folder = self.path / name
        shutil.copytree(self.model, folder)
        document = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**document, **config}))
        return folder

    def started(self, *overrides: str) -> Path:
        """The folder of the small experiment as `compare` makes it, with its first run's folder; returns the latter."""
        experiment = load_experiment(self.path / "small.yaml", [f"output_dir={self.path / 'runs'}", *overrides])
        folder, runs = folder_of(experiment), expand(experiment)
        make_run_folders(experiment, runs, folder)
        return folder.run(runs[0].id).path


def nothing(place: Place) -> None:
    """The place is fine as it is."""


@dataclass(frozen=True)
class Case:
    """One command line, and the lines by which it is refused."""

    name: str
    command: str
    told: tuple[tuple[str, str], ...]
    """For each line the key (or file) that it begins with, and a word of its fix."""
    before: Callable[[Place], None] = nothing
    sections: dict = field(default_factory=dict)
    """Merged into small.yaml."""
    env: dict = field(default_factory=dict)
    stack: bool = False
    """Whether it takes the model and the data, and with them torch (10 s), to find the mistake."""
    slow: bool = False


RANKED = "compare small.yaml --launcher accelerate"
RANKS = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def light(name: str, command: str, key: str, fix: str, before=nothing, **more) -> Case:
    return Case(name, command, ((key, fix),), before, **more)


def heavy(name: str, command: str, key: str, fix: str, before=nothing, **more) -> Case:
    return Case(name, command, ((key, fix),), before, stack=True, **more)


def yaml_file(content: str | bytes) -> Callable[[Place], None]:
    return lambda place: place.write("x.yaml", content)


def truncate_weights(place: Place) -> None:
    file = place.copy_model("damaged") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def lose_a_shard(place: Place) -> None:
    folder = place.copy_model("damaged")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def misfit_weights(place: Place) -> None:
    place.copy_model("damaged", intermediate_size=96)


def odd_models(place: Place) -> None:
    (place.path / "empty").mkdir()
    place.copy_model("foreign", model_type="foo", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"})
    place.write("foreign/c.py", "raise SystemExit('code of the model was run')")
    pickled = place.copy_model("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (place.copy_model("wordless") / "tokenizer.json").unlink()
    place.write("adapter/adapter_config.json", "{}")


ODD_MODELS = {
    "folder": ("./nowhere", "no folder here", "builtin:tiny-llama"),
    "file": ("small.yaml", "is a file", "config.json"),
    "empty": ("empty", "no config.json", "save_pretrained"),
    "builtin": ("builtin:huge", "no built-in model", "builtin:tiny-llama"),
    "foreign": ("foreign", "its own Python code", "model.trust_remote_code=true"),
    "pickled": ("pickled", "no safetensors weights", "save_pretrained"),
    "wordless": ("wordless", "no tokenizer", "tokenizer.json"),
    "adapter": ("adapter", "is an adapter", "whole model"),
}


def odd_data(place: Place) -> None:
    place.write("empty.jsonl", "")
    place.write("broken.jsonl", '{"question": "1+1?", "answer": "2"}\n{"question": "2+2?", "answer"\n')
    place.write("blank.jsonl", '{"question": "1+1?", "answer": " "}\n')
    place.write("table.xlsx", "x")


ODD_DATA = {
    "missing": ({"path": {"train": "nosuch.jsonl"}}, "path", "correct the path"),
    "builtin": ({"path": "builtin:jokes"}, "path", "builtin:word-problems"),
    "empty": ({"path": "empty.jsonl"}, "path", "give a split that has some"),
    "blank": ({"path": "blank.jsonl"}, "columns.completion", "fill it in or remove the row"),
    "xlsx": ({"path": "table.xlsx"}, "path", ".jsonl, .json, .csv"),
    "split": ({"eval_split": "tset"}, "eval_split", "use one of"),
    "template": ({"template": "{question} {anwser}"}, "template", "did you mean 'answer'"),
    "context": ({"max_length": 100_000}, "max_length", "at most 1024"),
    "cut": ({"max_length": 8}, "max_length", "raise data.max_length to"),
    "subset": ({"subset": "main"}, "subset", "set it to null"),
    "text": ({"task": "causal_lm", "columns": {"text": "txt"}}, "columns.text", "question, answer"),
}

ODD_METHODS = {
    "a": ({"method": {"targets": ["query"]}}, "method.targets", "q_proj, k_proj"),
    "b": ({"method": {"targets": ["lm_head"]}}, "method.targets", "output head"),
    "c": ({"method": {"kind": "partial", "top_blocks": 9}}, "method.top_blocks", "at most 2"),
    "d": ({"train": {"micro_batch_size": 3}}, "train.micro_batch_size", "1, 2, 4, 8"),
    "e": ({"train": {"extra": {"adam_bta1": 0.8}}}, "train.extra.adam_bta1", "did you mean 'adam_beta1'"),
    "f": ({"train": {"extra": {"num_train_epochs": 3}}}, "train.extra.num_train_epochs", "use train.epochs"),
    "g": ({"train": {"report_to": ["swanlab"]}}, "train.report_to", "pip install swanlab"),
    "h": ({"model": {"attention": "flash_attention_9"}}, "model.attention", "sdpa or eager"),
}


def fill_disk(place: Place) -> None:
    disk = place.path / "disk"
    place.mount(disk, "size=64k")
    with (disk / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


CONFIG = [
    light("unknown key", "compare small.yaml train.lerning_rate=1", "train.lerning_rate", "mean 'learning_rate'"),
    light("unknown section", "compare small.yaml trian.epochs=1", "trian", "did you mean 'train'"),
    light("wrong type", "compare small.yaml train.epochs=many", "train.epochs", "give a number"),
    light("rank 0", "compare small.yaml method.rank=0", "method.rank", "greater than 0"),
    Case(
        "two mistakes", "compare small.yaml data.max_length=-3 evaluate.sampels=2",
        (("data.max_length", "greater than 0"), ("evaluate.sampels", "did you mean 'samples'")),
    ),
    light("bad override", "compare small.yaml fast", "fast", "write key=value"),
    light("override that is not YAML", "compare small.yaml 'train.extra={a: [}'", "train.extra", "quote it"),
    light("two files", "compare small.yaml other.yaml", "other.yaml", "one experiment file at a time"),
    light("no experiment", "compare", "EXPERIMENT", "quickstart"),
    light("missing file", "compare missing.yaml", "missing.yaml", "give the path of a YAML file"),
    light("unknown recipe", "compare quikstart", "quikstart", "did you mean 'quickstart'"),
    light("unknown recipe to show", "recipes show quikstart", "recipe", "quickstart"),
    light("syntax", "compare x.yaml", "x.yaml, line 3", "correct that line", yaml_file("a: 1\nb: [1\nc: 2\n")),
    light("twin key", "compare x.yaml", "x.yaml, line 3", "correct that line", yaml_file("a: 1\nb: 1\na: 2\n")),
    light("odd key", "compare x.yaml", "x.yaml, line 1", "correct that line", yaml_file("? [a, b]\n: 1\n")),
    light("odd value", "compare x.yaml", "x.yaml", "correct that line", yaml_file("seeds: !!int many\n")),
    light("not text", "compare x.yaml", "x.yaml", "give a text file", yaml_file(b"\xff\xfe\x00")),
    light("no mapping", "compare x.yaml", "x.yaml", "start with model:", yaml_file("- model\n")),
    light("unknown launcher", "compare small.yaml --launcher slrum", "launch.launcher", "'inline'"),
    light("unknown option", "compare small.yaml --fast", "No such option: --fast", "--help"),
    light("unknown verb", "comprae small.yaml", "No such command 'comprae'", "compare"),
    light("unknown arm", "train quickstart --arm laro", "--arm", "lora"),
    light("an arm where there is none", "train small.yaml --arm lora", "--arm", "leave it out"),
    light("several runs", "train quickstart", "arms", "--arm"),
    light("ranks that cannot meet", "train small.yaml", "WORLD_SIZE", "accelerate launch", env={"WORLD_SIZE": "2"}),
    light("several ranks at once", "compare small.yaml", "WORLD_SIZE", "without a launcher", env=RANKS),
    light("no launch config", f"{RANKED} launch.config=zero7", "launch.config", "zero2"),
    light("several machines", f"{RANKED} launch.nodes=2", "launch.nodes", "on each"),
    light("no GPUs", "compare small.yaml --launcher local --gpus-per-run 2", "launch.gpus_per_run", "slots"),
    light("ranks of nonsense", "train small.yaml", "WORLD_SIZE", "unset WORLD_SIZE", env={"WORLD_SIZE": "two"}),
    light("twin points", "compare small.yaml 'arms={a: {grid: {method.rank: [4, 4]}}}'", "arms.a", "remove"),
    light("twin seeds", "compare small.yaml 'seeds=[1, 1]'", "arms.run", "remove"),
    light(
        "setting of another kind", "compare small.yaml 'arms={a: {method: {kind: full, rank: 4}}}'",
        "arms.a.method.rank", "remove it",
    ),
]  # fmt: skip

FOLDERS = [
    light("output_dir is a file", "compare small.yaml output_dir=small.yaml", "output_dir", "choose another"),
    light("output_dir of nobody", "compare small.yaml output_dir=/proc/runs", "/proc/runs", "choose another"),
    light(
        "read-only disk", "compare small.yaml output_dir=disk", "output_dir", "that you may write to",
        lambda place: place.mount(place.path / "disk", "ro"),
    ),
    light(
        "foreign files", "compare small.yaml", "runs/small", "choose another name",
        lambda place: place.write("runs/small/thesis.txt", "do not touch"),
    ),
    light(
        "another config", "compare small.yaml train.epochs=2", "runs/small", "choose another name",
        lambda place: place.started(),
    ),
    light(
        "another config to train", "train small.yaml model.dtype=float32", "runs/small", "choose another name",
        lambda place: place.started(),
    ),
    light(
        "damaged experiment file", "compare small.yaml", "runs/small/experiment.yaml", "choose another name",
        lambda place: (place.started(), place.write("runs/small/experiment.yaml", "{")),
    ),
    light(
        "corrupt record", "compare small.yaml", "runs/small/run-", "delete this file",
        lambda place: (place.started() / "record.json").write_text('{"run_id": "x"'),
    ),
    light("report of another folder", "report .", ".", "that compare printed"),
    light("report of nothing", "report", "Missing argument 'DIR", "--help"),
    light("status of no folder", "status runs/smal", "runs/smal", "that compare printed"),
    light("status of a file", "status small.yaml", "small.yaml", "that compare printed"),
    light("nothing trained", "evaluate small.yaml", "runs/small", "use compare or train first", lambda p: p.started()),
    light("nothing there", "evaluate small.yaml", "runs/small", "use compare or train first"),
    light("adapter of no model", "evaluate --adapter here", "--model", "--adapter"),
    light("kernels of an experiment", "evaluate small.yaml --sparse-kernels", "--sparse-kernels", "evaluate --model"),
    light("no adapter", "evaluate --model m --data x data.task=instruction --adapter .", "--adapter", "peft"),
    light("no data", "evaluate --model m", "data", "add it"),
    light("arms for one model", "evaluate quickstart --model m", "arms", "use compare"),
    heavy("full disk", "compare small.yaml output_dir=disk", "disk/small/tokens", "free some space", fill_disk),
]  # fmt: skip

STACK = [
    heavy("targets", "compare small.yaml 'method.targets=[query]'", "method.targets", "q_proj, k_proj, v_proj"),
    heavy("targets to train", "train small.yaml method.targets=query", "method.targets", "q_proj, k_proj, v_proj"),
    heavy("not on this machine", "compare small.yaml model.path=org/gone", "model.path", "lora-dist prefetch"),
    heavy("truncated weights", "compare small.yaml model.path=damaged", "model.path", "copy it", truncate_weights),
    heavy("lost column", "compare small.yaml data.columns.prompt=questoin", "data.columns.prompt", "mean 'question'"),
    heavy("malformed line", "compare small.yaml data.path=broken.jsonl", "data.path", "remove this line", odd_data),
    Case(
        "mistakes of several methods", "compare small.yaml",
        tuple((f"arms.{arm}.{key}", fix) for arm, (_, key, fix) in ODD_METHODS.items()),
        sections={"arms": {arm: settings for arm, (settings, _, _) in ODD_METHODS.items()}}, stack=True,
    ),
    Case(
        "mistakes of several models", "compare small.yaml",
        tuple((f"arms.{arm}.model.path", fix) for arm, (_, _, fix) in ODD_MODELS.items()), odd_models,
        sections={"arms": {arm: {"model": {"path": path}} for arm, (path, _, _) in ODD_MODELS.items()}}, stack=True,
    ),
    Case(
        "mistakes of several data", "compare small.yaml",
        tuple((f"arms.{arm}.data.{key}", fix) for arm, (_, key, fix) in ODD_DATA.items()), odd_data,
        sections={"arms": {arm: {"data": settings} for arm, (settings, _, _) in ODD_DATA.items()}}, stack=True,
    ),
    Case(
        "one mistake of all arms", "compare small.yaml data.max_length=100000 train.extra.adam_bta1=1",
        (("train.extra.adam_bta1", "adam_beta1"), ("data.max_length", "at most 1024")),
        sections={"arms": {"base": {"method": {"kind": "base"}}, "lora": None, "qlora": {"method": {"kind": "qlora"}}}},
        stack=True,
    ),
    heavy("lost shard", "compare small.yaml model.path=damaged", "model.path", "copy it", lose_a_shard, slow=True),
    heavy("local revision", "compare small.yaml model.revision=v2", "model.revision", "set it to null", slow=True),
    heavy("no such dataset", "compare small.yaml data.path=org/gone", "data.path", "correct the path", slow=True),
    heavy(
        "weights of another shape", "evaluate small.yaml --model damaged", "model.path", "own config.json",
        misfit_weights, slow=True,
    ),
]  # fmt: skip

CASES = [*CONFIG, *FOLDERS, *STACK]
