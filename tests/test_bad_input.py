"""What a user types wrong: each mistake ends with 2 and a line that names its key and the fix, and leaves no trace."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from bad_adapter_cases import ADAPTERS
from bad_input_cases import CASES, Place
from bad_merging_cases import MERGING
from bad_pruning_cases import PRUNING
from conftest import run_cli, tree


@pytest.fixture(scope="session")
def no_stack(tmp_path_factory) -> Path:
    """A folder for PYTHONPATH with which importing torch or transformers is an error."""
    folder = tmp_path_factory.mktemp("no-stack")
    for name in ("torch", "transformers"):
        (folder / f"{name}.py").write_text(
            f"raise RuntimeError('{name} was imported for a mistake that does not need it')"
        )
    return folder


# Of the cases that import the whole stack (15 s each) one for each place that finds mistakes; the others are slow.
_FAST_WITH_STACK = {"one mistake of all arms", "mistakes of several models", "truncated weights", "full disk",
                    "adapter: another base"}  # fmt: skip


def _is_slow(case):
    return case.slow or (case.stack and case.name not in _FAST_WITH_STACK)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if _is_slow(case) else [])
        for case in [*CASES, *PRUNING, *ADAPTERS, *MERGING]
    ],
)
def test_a_mistake_is_told_with_its_key_and_fix_and_leaves_no_trace(
    case, tmp_path, write_experiment, tiny_model, mount, no_stack
):
    write_experiment(**case.sections)
    case.before(Place(tmp_path, tiny_model, mount))
    before = tree(tmp_path)
    env = {**case.env} if case.stack else {**case.env, "PYTHONPATH": str(no_stack)}

    done = run_cli(*shlex.split(case.command), cwd=tmp_path, env=env)

    assert "Traceback" not in done.out + done.err
    assert done.code == 2, done.err
    lines = done.error_lines
    assert len(lines) == len(case.told), done.err
    for whole, (key, fix) in zip(lines, case.told, strict=True):
        line = whole.replace(f"{tmp_path.resolve()}/", "")  # files of an adapter are named by their whole path
        assert line.startswith(f"lora-dist: {key}"), line
        assert fix in line.removeprefix(f"lora-dist: {key}"), line
    if not (case.stack and case.command.startswith(("train", "evaluate"))):  # the libraries speak in their process
        assert done.err.splitlines() == lines
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_run_is_told_and_the_same_command_resumes(tmp_path, write_experiment, mount):
    disk = tmp_path / "disk"
    mount(disk, "size=1m")  # the tokens go on it, and the first checkpoint does not
    command = ("compare", write_experiment(evaluate={"samples": 0}), "output_dir=disk")
    done = run_cli(*command, cwd=tmp_path)
    assert done.code == 2, done.err
    assert "Traceback" not in done.out + done.err
    (line,) = done.error_lines
    assert "free some space" in line
    assert not list(disk.glob("small/*/record.json"))

    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    again = run_cli(*command, cwd=tmp_path)
    assert again.code == 0, again.err
    assert list(disk.glob("small/*/record.json"))
