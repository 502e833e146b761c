"""What tests share: a small trained model, small data, the command line in a process of its own, and no skips in CI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
ABSENT = "is absent here"

hypothesis.settings.register_profile("unhurried", deadline=None)  # a busy machine is not a finding
hypothesis.settings.load_profile("unhurried")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of workers side by side spin against each other, tenfold slower


def pytest_addoption(parser):
    parser.addoption("--forbid-skips", action="store_true", help="fail when a test is skipped that could have run")


def pytest_sessionfinish(session):
    """In CI a skip is a failure, unless what the test needs cannot be had there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not session.config.getoption("--forbid-skips") or reporter is None:
        return
    reasons = [str(report.longrepr) for report in reporter.stats.get("skipped", [])]
    skipped = [reason for reason in reasons if ABSENT not in reason]
    if skipped:
        reporter.write_line(f"{len(skipped)} tests were skipped that could have run: {skipped}", red=True)
        session.exitstatus = 1


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout, which users do not have."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"../shared {ABSENT}")
    return SHARED / "data"


@pytest.fixture(scope="session")
def small_llama() -> Path:
    """A real, if small, Llama beside the checkout, which users do not have."""
    folder = SHARED / "models" / "small-llama"
    if not folder.is_dir():
        pytest.skip(f"../shared {ABSENT}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """The user's cache folder, one for all workers of this test session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "cache"
    os.environ["XDG_CACHE_HOME"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(cache) -> Path:
    """A Llama of two blocks trained for a few seconds: it knows the letters and digits, and little else."""
    from lora_dist.models.builtin import builtin_model_folder
    from lora_dist.models.pretraining import Recipe

    recipe = Recipe(documents=400, hidden=64, layers=2, heads=4, kv_heads=2, intermediate=128)
    return builtin_model_folder("tiny-llama", recipe=recipe)


@pytest.fixture(scope="session")
def problem_files(tmp_path_factory) -> dict[str, Path]:
    """48 word problems to train on and 24 to test on."""
    from lora_dist.corpora.registry import load

    folder = tmp_path_factory.mktemp("problems")
    rows = load("word-problems")
    files = {}
    for split, count in (("train", 48), ("test", 24)):
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(row) + "\n" for row in rows[split][:count]))
    return files


@pytest.fixture(scope="session")
def cluster():
    """A real SLURM cluster of two nodes, with accounting; each worker of a session that needs one has its own.

    A test leaves it without jobs (`cluster.cancel_all`) and with both nodes on. Other clusters: `running_cluster(...)`.
    """
    from slurm_cluster import running_cluster

    with running_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def calm(tmp_path_factory, tiny_model, problem_files, cluster) -> Path:
    """A full fine-tuning on the two nodes of the cluster that nothing happens to."""
    from slurm_cases import all_ended, start, write_long

    folder = tmp_path_factory.mktemp("calm")
    write_long(folder, tiny_model, problem_files)
    assert start(cluster, folder, "small.yaml").code == 0
    all_ended(cluster)
    return folder


@pytest.fixture
def mount(request):
    """Mount a tmpfs for the length of a test."""

    def do(folder: Path, options: str) -> None:
        if os.geteuid() != 0:
            pytest.skip(f"root, which may mount a small disk, {'is absent here'}")
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        request.addfinalizer(lambda: subprocess.run(["umount", str(folder)], check=True))

    return do


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """squeue and sacct of a cluster that knows no job yet: all that is on this test's PATH."""
    from slurm_replies import FakeSlurm

    fake = FakeSlurm(tmp_path / "bin")
    fake.says()
    monkeypatch.setenv("PATH", fake.env["PATH"])
    return fake


@dataclass(frozen=True)
class Done:
    """A command line that has ended."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        """The lines by which the user is told what to mend."""
        return [line for line in self.err.splitlines() if line.startswith("lora-dist: ")]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file's bytes and every folder, by path. An output_dir with nothing in it is as good as none."""
    found = {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
    if not any(name.startswith("runs/") for name in found):
        found.pop("runs", None)
    return found


def run_cli(*words: str, cwd: Path, timeout: float = 240, env: dict[str, str] | None = None) -> Done:
    """`lora-dist WORDS` in a process of its own, from `cwd`."""
    done = subprocess.run(
        [sys.executable, "-m", "lora_dist", *map(str, words)],
        cwd=cwd, env={**os.environ, "COLUMNS": "160", **(env or {})}, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def experiment_document(model: Path, files: dict[str, Path], **sections) -> dict:
    """A small instruction experiment over `files`, with sections merged into it."""
    document = {
        "name": "small",
        "model": {"path": str(model)},
        "data": {
            "task": "instruction",
            "path": {split: str(path) for split, path in files.items()},
            "columns": {"prompt": "question", "completion": "answer"},
            "max_length": 256,
        },
        "train": {"max_steps": 6, "global_batch_size": 8, "learning_rate": 0.005, "checkpoint_steps": 2},
        "evaluate": {"samples": 2, "max_new_tokens": 8, "bootstrap_samples": 200},
    }
    for name, settings in sections.items():
        merge = isinstance(settings, dict) and name in document
        document[name] = {**document[name], **settings} if merge else settings
    return document


@pytest.fixture
def write_experiment(tmp_path, tiny_model, problem_files):
    """Write a small experiment to `tmp_path/small.yaml` and return the path."""
    import yaml

    def write(**sections) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(experiment_document(tiny_model, problem_files, **sections), sort_keys=False))
        return path

    return write
