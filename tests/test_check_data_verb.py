"""check-data as people meet it: what is printed, how it ends, and that nothing is left behind."""

import io
import json
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY, experiment_document, run_cli, tree

from lora_dist.cli import check_output, output
from lora_dist.config.loading import load_experiment
from lora_dist.errors import Refused
from lora_dist.verbs.check_data import check_data, refuse_findings


def printed(checked, monkeypatch, *, encoding="utf-8", terminal=False, **options):
    """What a person sees, with the signs that colour it where it is a terminal."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    console = check_output.stdout.__class__(file=file, width=160, force_terminal=terminal)
    for module in (check_output, output):
        monkeypatch.setattr(module, "stdout", console)
    check_output.print_checks(checked, ["small.yaml"], **{"as_json": False, "strict": False} | options)
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory, tiny_model, problem_files):
    """A file of an experiment whose data has a fault that stops training, and two that do not."""
    folder = tmp_path_factory.mktemp("faulty")
    rows = {part: [json.loads(line) for line in file.read_text().splitlines()] for part, file in problem_files.items()}
    rows["train"][4]["answer"] = None
    rows["test"][3] = rows["train"][9]
    rows["train"][20] = rows["train"][19]
    for part, told in rows.items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    document = experiment_document(tiny_model, {part: f"{part}.jsonl" for part in rows})
    (folder / "small.yaml").write_text(json.dumps(document))
    return folder


def test_faults_are_told_with_their_fix_and_end_with_2_and_nothing_is_written(faulty):
    before = tree(faulty)
    done = run_cli("check-data", "small.yaml", cwd=faulty)
    assert done.code == 2
    assert done.error_lines == [
        "lora-dist: data.columns.completion: row 5 of split 'train' has null in column 'answer'; "
        "fill it in or remove the row"
    ]
    warnings = [line for line in done.out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert (
        "rows of test that train has too, case and spaces aside: 1 of 24 (row 4 like row 10); remove them" in done.out
    )
    assert "row 21 like row 20" in done.out
    assert "1 problem would stop training, 2 warnings." in done.out
    assert "Traceback" not in done.err
    assert tree(faulty) == before


@pytest.mark.slow  # a process each; the first test is the one of this mechanism that always runs
def test_warnings_end_with_0_and_with_strict_with_2(faulty):
    (faulty / "mended.jsonl").write_text(
        "".join(line for i, line in enumerate((faulty / "train.jsonl").open()) if i != 4)
    )
    words = ["check-data", "small.yaml", "data.path={train: mended.jsonl, test: test.jsonl}"]
    assert run_cli(*words, cwd=faulty).code == 0
    strict = run_cli(*words, "--strict", cwd=faulty)
    assert strict.code == 2
    assert len(strict.error_lines) == 2
    assert "warning: " not in strict.out
    document = json.loads(run_cli(*words, "--json", cwd=faulty).out)
    assert [finding["level"] for finding in document["checks"][0]["findings"]] == ["warning", "warning"]


@pytest.mark.slow  # makes the whole built-in model
def test_the_example_of_the_documentation_prints_what_stands_there(tmp_path):
    text = (REPOSITORY / "docs" / "data.md").read_text()
    (tmp_path / "units.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    script = re.search(r"<<'END'\n(.*?)^END$", text, re.DOTALL | re.MULTILINE)[1]
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    done = run_cli("check-data", "units.yaml", cwd=tmp_path, timeout=1200)
    printed = [*done.out.splitlines(), *done.error_lines]
    told = re.search(r"It prints.*?```\n(.*?)```", text, re.DOTALL)[1].splitlines()
    assert len(printed) == len(told)
    for line, shown in zip(printed, told, strict=True):
        begin, dots, _ = shown.partition(" ... ")  # the long answer, shortened further there
        assert line.startswith(begin) if dots else line.rstrip() == shown


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = [sys.executable, "-m", "lora_dist", "recipes", "show", "quickstart"]  # as check-data, without its imports
    child = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait(120) == 0


def test_each_data_section_is_checked_once_for_each_tokenizer(write_experiment):
    base, short = {"method": {"kind": "base"}}, {"data": {"max_length": 100}}
    full = {"method": {"kind": "full"}}
    arms = {"base": base, "lora": None, "full": full, "short": short, "brief": {**short, **base}}
    heard = []
    first, second = check_data(
        load_experiment(write_experiment(arms=arms)), progress=lambda *told: heard.append(told[0])
    )
    assert (first.arms, first.data.max_length) == (("base", "lora", "full"), 256)
    assert (second.arms, second.data.max_length) == (("short", "brief"), 100)
    assert {"starting", "read", "render", "tokenise", "compare"} <= set(heard)
    assert {finding.problem.key for finding in second.found.warnings} == {"arms.short.data.max_length"}
    assert first.found.findings == ()
    refuse_findings([first], strict=True)
    refuse_findings([second])
    with pytest.raises(Refused) as refused:
        refuse_findings([first, second], strict=True)
    assert len(refused.value.problems) == len(second.found.warnings)


def test_other_data_to_calibrate_on_is_looked_at_and_all_models_that_cannot_be_opened_are_named(
    tmp_path, write_experiment, problem_files
):
    (tmp_path / "empty.jsonl").write_text("")
    calibration = {
        "task": "instruction",
        "path": {"train": str(tmp_path / "empty.jsonl"), "test": str(problem_files["test"])},
    }
    prune = {"kind": "sparsegpt", "sparsity": 0.5, "calibration": {"data": calibration}}
    first, second = check_data(load_experiment(write_experiment(prune=prune)))
    assert first.found.findings == ()
    assert "prune.calibration.data.path" in {finding.problem.key for finding in second.found.problems}
    arms = {name: {"model": {"path": str(tmp_path / name)}} for name in ("gone", "lost")}
    with pytest.raises(Refused) as refused:
        check_data(load_experiment(write_experiment(arms=arms)))
    assert [problem.key for problem in refused.value.problems] == ["arms.gone.model.path", "arms.lost.model.path"]


def test_what_is_scored_is_between_marks_where_it_cannot_be_coloured(write_experiment, monkeypatch):
    checked = check_data(load_experiment(write_experiment()))
    example = checked[0].found.examples[0]
    scored = "".join(segment.text for segment in example.segments if segment.scored)
    masked = "".join(segment.text for segment in example.segments if not segment.scored)
    plain = printed(checked, monkeypatch)
    assert f"{masked}⟦{scored}⟧" in plain
    assert "What the loss is on is between ⟦ and ⟧." in plain
    assert "Nothing stops training; nothing looks odd." in plain
    assert "lora-dist compare small.yaml" in plain
    assert f"{masked}[[{scored}]]" in printed(checked, monkeypatch, encoding="ascii")
    shown = printed(checked, monkeypatch, terminal=True)
    assert "⟦" not in shown
    assert "\x1b[2mQuestion: " in shown
    assert "\x1b[1;32m" + scored.split("\n")[0].removesuffix("</s>") in shown
    document = json.loads(printed(checked, monkeypatch, as_json=True))
    assert document["checks"][0]["splits"]["train"]["rows"] == 43
    assert document["checks"][0]["examples"][0]["segments"][0] == {"text": "<s>", "scored": False, "special": True}


def test_long_segments_are_shown_without_their_middle_and_signs_that_steer_a_terminal_not_at_all(
    tmp_path, write_experiment, monkeypatch
):
    rows = [{"question": f"say {i}\x1b[31m", "answer": f"{i} " + "very " * 300} for i in range(20)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    experiment = load_experiment(write_experiment(), [f"data.path={tmp_path / 'long.jsonl'}", "data.max_length=null"])
    plain = printed(check_data(experiment), monkeypatch)
    assert " characters ... very" in plain
    assert "\x1b" not in plain


def test_labels_are_a_table(tmp_path, write_experiment, monkeypatch):
    rows = [{"question": f"text {i}", "answer": ("good", "good", "bad")[i % 3]} for i in range(60)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = printed(
        check_data(load_experiment(write_experiment(), [f"data.path={tmp_path / 'labels.jsonl'}"])), monkeypatch
    )
    assert "label (column answer)" in plain
    assert "always saying 'good' would be right on " in plain


def test_leaks_into_real_data_are_found_and_nothing_else(tmp_path, shared_data, small_llama):
    known = (shared_data / "gsm8k_train.jsonl").read_text().splitlines()
    unseen = (shared_data / "gsm8k_unseen.jsonl").read_text().splitlines()
    asked, shouted, reworded = (json.loads(unseen[number]) for number in (10, 20, 30))
    leaks = [
        {**asked, "answer": "something else"},
        {name: text.upper() for name, text in shouted.items()},
        {**reworded, "answer": reworded["answer"].replace("#### ", "The answer is ")},
    ]
    rows = {"train": known[:600] + list(map(json.dumps, leaks)), "validation": known[600:650], "test": unseen[:100]}
    files = {}
    for part, lines in rows.items():
        files[part] = str(tmp_path / f"{part}.jsonl")
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
    data = {"task": "instruction", "path": files, "columns": {"prompt": "question", "completion": "answer"}}
    (checked,) = check_data(load_experiment(None, [f"model.path={small_llama}", f"data={json.dumps(data)}"]))
    assert {part: figures.rows for part, figures in checked.found.splits.items()} == {
        "train": 603, "validation": 50, "test": 100,
    }  # fmt: skip
    found = {finding.kind: finding for finding in checked.found.findings}
    assert set(found) <= {"cut", "leaked_row", "leaked_prompt"}
    assert (found["leaked_row"].rows, found["leaked_row"].other_rows) == ((21,), (602,))
    assert (found["leaked_prompt"].rows, found["leaked_prompt"].other_rows) == ((11, 31), (601, 603))
    assert checked.found.examples[0].segments[2].text.strip() in json.loads(known[0])["answer"]
