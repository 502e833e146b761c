"""A job that is stopped ends soon, leaves no process, and goes on to the very same model."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import run_cli
from ranks_cases import Ranks, descendants, end_of, lasting, outcome, ranks_of, record, send, weights

from lora_dist.training.checkpoints import Makers, find_resume, sealed

SLOW = pytest.mark.slow
STOP_AT = 15
WITHIN_S = 30.0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model, problem_files):
    """The run that nobody stopped, trained when it is first asked for."""
    made = {}

    def train(strategy, arm):
        if (strategy, arm) not in made:
            ranks = Ranks.make(tmp_path_factory.mktemp("calm"), tiny_model, problem_files)
            made[strategy, arm] = ranks.lines, ranks.train(strategy, arm)
        return made[strategy, arm]

    return train


def assert_same(ranks, arm, undisturbed):
    lines, calm = undisturbed
    folder = ranks.run_folder(arm)
    assert weights(folder) == weights(calm)
    assert lasting(ranks.lines(arm)) == lasting(lines(arm))
    ours, theirs = record(folder)["evaluate"], record(calm)["evaluate"]
    assert all(ours[split]["nll_sum"] == theirs[split]["nll_sum"] for split in theirs)
    assert record(folder)["attempts"] == 2


def stopped(ranks, strategy, arm, how):
    """Start, disturb after step `STOP_AT`, wait for the end; returns the outcome."""
    process = ranks.start(strategy, arm)
    ranks.wait_for_step(arm, STOP_AT, process)
    family = [process.pid, *descendants(process.pid)]
    if how == "SIGTERM to the launcher":
        send(process.pid, signal.SIGTERM)
    elif how == "SIGUSR1 to the last rank":
        send(ranks_of(process)[-1], signal.SIGUSR1)
    elif how == "SIGKILL of the last rank":
        send(ranks_of(process)[-1], signal.SIGKILL)
    else:
        send(process.pid, signal.SIGKILL)
    seconds = end_of(process, family)
    assert process.returncode != 0
    assert seconds < WITHIN_S
    return process


SAVING = ["SIGTERM to the launcher", "SIGUSR1 to the last rank"]
KILLING = ["SIGKILL of the last rank", "SIGKILL of the launcher"]


@pytest.mark.parametrize(
    ("strategy", "arm", "how"),
    [
        ("zero2", "lora", SAVING[0]),
        ("zero3", "full", KILLING[0]),
        *(
            pytest.param(strategy, arm, how, marks=SLOW)
            for strategy in ("plain", "ddp", "zero2", "zero3")
            for arm in ("lora", "full")
            for how in (*SAVING, *KILLING)
            if (strategy, arm, how) not in (("zero2", "lora", SAVING[0]), ("zero3", "full", KILLING[0]))
            and not (strategy == "plain" and how in (SAVING[1], KILLING[1]))  # it is its own launcher and last rank
        ),
    ],
)
def test_a_stopped_job_goes_on_bit_for_bit(tmp_path, tiny_model, problem_files, undisturbed, strategy, arm, how):
    ranks = Ranks.make(tmp_path, tiny_model, problem_files)
    process = stopped(ranks, strategy, arm, how)
    folder = ranks.run_folder(arm)
    steps = [int(path.name.removeprefix("step-")) for path in sealed(folder / "checkpoints")]
    if how in SAVING:
        assert outcome(folder)["outcome"] == "interrupted"
        assert process.returncode == (4 if strategy == "plain" else 1)
        assert steps[0] >= STOP_AT, "it was saved where it stopped"
    else:
        assert steps[0] in (12, 18), (
            "a periodic one; on a busy machine a rank is a few steps on before the signal meets it"
        )
        if how == KILLING[0] and strategy != "plain":
            assert outcome(folder)["outcome"] == "failed"
            assert "another rank was lost" in outcome(folder)["message"]
    ranks.train(strategy, arm)
    assert record(folder)["train"]["resumed_from_steps"] == [steps[0]]
    assert_same(ranks, arm, undisturbed(strategy, arm))


ASKED = """
import time
from lora_dist.training.stop import StopFlag
flag = StopFlag()
with flag.listening():
    print("listening", flush=True)
    while not flag.is_set:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)  # saving
"""


def test_signals_at_once_are_one_and_a_later_one_ends_it():
    """A terminal and a launcher pass the same Ctrl-C on; a person who presses it again means it."""
    with subprocess.Popen([sys.executable, "-c", ASKED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "listening\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(signal.SIGUSR2)
        assert process.wait(timeout=5) == -signal.SIGUSR2


@SLOW  # each file costs a start of two ranks; that any damage is noticed is shown without ranks in test_training_resume
def test_every_file_of_a_zero_checkpoint_counts(tmp_path, tiny_model, problem_files, undisturbed):
    ranks = Ranks.make(tmp_path, tiny_model, problem_files)
    stopped(ranks, "zero2", "lora", KILLING[0])
    checkpoints = ranks.run_folder("lora") / "checkpoints"
    newest, before = sealed(checkpoints)[:2]
    names = sorted(path.relative_to(newest).as_posix() for path in newest.rglob("*") if path.is_file())
    assert {"rng_state_0.pth", "rng_state_1.pth", "manifest.json", "latest", "scheduler.pt"} <= set(names) | {
        "scheduler.pt"  # DeepSpeed keeps it among its own
    }
    assert sum("optim_states" in name for name in names) == 2
    makers = Makers(checkpoints.parent.name, 2, "zero2")
    for name in names:
        for damage in ("truncated", "emptied", "deleted"):
            whole = newest.with_name("whole")
            shutil.copytree(newest, whole)
            content = (newest / name).read_bytes()
            if damage == "deleted":
                (newest / name).unlink()
            else:
                (newest / name).write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
            resume = find_resume(checkpoints, makers=makers)
            assert resume.folder == before, (name, damage)
            assert len(resume.skipped) == 1
            shutil.rmtree(newest)
            whole.rename(newest)
    (optimizer,) = [name for name in names if "optim_states" in name and "rank_1" in name]
    (newest / optimizer).write_bytes(b"")
    folder = ranks.train("zero2", "lora")
    assert f"passing over checkpoint {newest.name}: {optimizer} has 0 bytes" in ranks.said
    assert record(folder)["train"]["resumed_from_steps"] == [int(before.name.removeprefix("step-"))]
    assert_same(ranks, "lora", undisturbed("zero2", "lora"))


def test_another_number_of_ranks_is_refused_with_code_2(tmp_path, tiny_model, problem_files):
    ranks = Ranks.make(tmp_path, tiny_model, problem_files)
    stopped(ranks, "ddp", "lora", SAVING[0])
    done = run_cli("train", ranks.experiment, "--arm", "lora", cwd=tmp_path)
    assert done.code == 2
    (line,) = done.error_lines
    assert "was saved by 2 ranks (ddp), and this is a run of 1 rank; start it with 2 ranks (ddp)" in line
    assert outcome(ranks.run_folder("lora"))["outcome"] == "refused"
    assert sealed(ranks.run_folder("lora") / "checkpoints"), "nothing is lost"
    only = "arms={lora: {method: {kind: lora, rank: 4}}}"
    done = run_cli("compare", ranks.experiment, only, cwd=tmp_path)
    assert done.code == 2
    assert "refused" in done.err


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a right to mount is absent here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize(
    ("strategy", "after", "left", "says"),
    [
        ("zero2", 8, 1.0, "a checkpoint takes"),  # found before anything is written
        pytest.param("zero2", 2, 2.4, "checkpoint-6", marks=SLOW),  # more than the least that a first one takes
        pytest.param("zero3", 2, 2.4, "checkpoint-6", marks=SLOW),
    ],
)
def test_a_disk_that_fills_during_a_save(
    tmp_path, tiny_model, problem_files, small_disk, undisturbed, strategy, after, left, says
):
    ranks = Ranks.make(small_disk, tiny_model, problem_files)
    process = ranks.start(strategy, "full")
    ranks.wait_for_step("full", after, process)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        file.write(b"x" * (shutil.disk_usage(small_disk).free - int(left * 2**20)))
    started = time.monotonic()
    assert process.wait(timeout=60) != 0
    assert time.monotonic() - started < WITHIN_S
    folder = ranks.run_folder("full")
    assert outcome(folder)["outcome"] == "refused"
    assert says in outcome(folder)["message"]
    assert "free some space" in outcome(folder)["message"]
    kept = [path.name for path in sealed(folder / "checkpoints")]
    assert kept == (["step-6"] if after > 6 else [])
    assert not list((folder / "checkpoints").glob("checkpoint-*")) or after < 6
    filler.unlink()
    ranks.train(strategy, "full")
    assert_same(ranks, "full", undisturbed(strategy, "full"))
