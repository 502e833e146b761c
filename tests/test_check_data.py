"""Faults put into small files, one by one, and what is said of them."""

import json

import pytest
from check_data_cases import PLAIN, broken, check, clean, kinds, quiet, write
from test_data_tokenizers import section

from lora_dist.data.checking.check import check_section


def test_clean_data_has_no_findings_and_the_figures_that_training_has(tmp_path):
    splits = clean()
    found = check(tmp_path, splits)
    assert found.findings == ()
    assert found.labels is None
    for part, figures in found.splits.items():
        assert figures.rows == len(splits[part])
        assert (figures.source, figures.held_out, figures.cut, figures.blocks) == (part, False, 0, None)
        assert figures.shortest <= figures.median <= figures.percentile_95 <= figures.longest
    json.dumps(found.document())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"completion": None}, "row 7 of split 'train' has null in column 'completion' (2 such rows: 7, 21)"),
        ({"completion": " "}, "row 7 of split 'train' has an empty completion in column 'completion', so nothing"),
        ({"prompt": ["x"]}, "row 7 of split 'train' has a list instead of text in column 'prompt' (2 such rows: 7,"),
        ({"prompt": "\ud800"}, "row 7 of split 'train' has half a character (a lone surrogate) in column 'prompt'"),
    ],
)
def test_every_row_that_training_refuses_is_named_in_its_words_and_the_others_are_looked_at(tmp_path, values, said):
    splits = clean()
    broken(splits, "train", 7, **values)
    broken(splits, "train", 21, **values)
    found = check(tmp_path, splits)
    (finding,) = found.findings
    assert said in finding.problem.problem
    assert (finding.kind, finding.stops, finding.count, finding.rows) == ("unusable_row", True, 2, (7, 21))
    assert found.splits["train"].rows == 28


def test_several_faults_are_all_told_together(tmp_path):
    splits = clean()
    broken(splits, "train", 1, prompt=None, completion=None)
    broken(splits, "test", 10, completion="")
    splits["validation"] = []
    splits["test"][3] = splits["train"][9]
    found = check(tmp_path, splits)
    assert sorted((f.kind, f.split) for f in found.problems) == [
        ("unusable", "validation"), ("unusable_row", "test"), ("unusable_row", "train"), ("unusable_row", "train"),
    ]  # fmt: skip
    assert any("'validation' has no rows" in f.problem.problem for f in found.problems)
    (leak,) = found.warnings
    assert (leak.kind, leak.rows, leak.other_rows) == ("leaked_row", (4,), (10,))
    assert set(found.splits) == {"train", "test"}
    assert found.findings[-1] is leak  # what stops training comes first


def test_all_rows_of_a_split_may_be_bad(tmp_path):
    splits = clean()
    splits["test"] = [{**r, "completion": None} for r in splits["test"]]
    found = check(tmp_path, splits)
    (finding,) = found.findings
    assert (finding.count, finding.rows) == (10, (1, 2, 3))
    assert "(10 such rows: 1, 2, 3, ...)" in finding.problem.problem
    assert set(found.splits) == {"train", "validation"}


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_empty_split_and_a_missing_column_are_told_and_the_others_are_looked_at(tmp_path, part):
    splits = clean()
    found = check(tmp_path, {**splits, part: []})
    assert [f.kind for f in found.problems] == ["unusable"]
    assert set(found.splits) == set(splits) - {part}
    found = check(tmp_path, {**splits, part: [{"prompt": r["prompt"], "said": r["completion"]} for r in splits[part]]})
    assert [(f.problem.key, f.split) for f in found.problems] == [("data.columns.completion", part)]


def test_what_cannot_be_read_at_all_is_a_finding_too(tmp_path):
    splits = clean()
    found = check(tmp_path, splits, columns={"messages": "m"}, template="{prompt}")
    assert {f.problem.key for f in found.problems} == {"data.template"}
    assert (found.splits, found.examples) == ({}, ())
    gone = check_section(section(tmp_path / "gone.jsonl"), PLAIN, 256, quiet)
    assert "gone.jsonl" in gone.problems[0].problem.problem
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"prompt": "a", "completion"')
    told = section({"train": write(tmp_path / "a.jsonl", splits["train"]), "test": str(torn)})
    found = check_section(told, PLAIN, 256, quiet)
    assert [(f.kind, f.split) for f in found.problems] == [("unusable", "test")]
    assert "line 1 is not JSON" in found.problems[0].problem.problem
    assert found.splits["train"].rows == 30


def test_rows_with_nothing_left_to_score_are_counted_with_the_length_that_they_take(tmp_path):
    splits = clean()
    for number in (5, 8, 9, 11):
        broken(splits, "train", number, prompt="a very long question, " * number)
    found = check(tmp_path, splits, max_length=48)
    (finding,) = found.problems
    assert (finding.kind, finding.count, finding.rows) == ("nothing_scored", 4, (5, 8, 9))
    needed = int(finding.problem.fix.split("raise data.max_length to ")[1].split(",")[0])
    assert needed == found.splits["train"].longest
    assert check(tmp_path, splits, max_length=needed).problems == []
    assert "the model's context is 48" in check(tmp_path, splits, context=48).problems[0].problem.fix


def test_rows_that_are_cut_are_a_warning_with_what_they_lose(tmp_path):
    splits = clean()
    broken(splits, "train", 4, completion="so it is, " * 20)
    whole = check(tmp_path, splits).splits["train"]
    assert whole.cut == 0
    found = check(tmp_path, splits, max_length=64)
    (finding,) = found.findings
    figures = found.splits["train"]
    assert (finding.kind, finding.stops, finding.rows) == ("cut", False, (4,))
    assert (figures.cut, figures.cut_scored, figures.longest) == (1, 1, whole.longest)
    assert figures.lost_tokens == whole.longest - 64 == whole.scored_tokens - figures.scored_tokens
    assert f"scored tokens lost: {figures.lost_tokens}" in finding.problem.problem
    assert finding.problem.fix == f"raise data.max_length to {whole.longest}"


def test_a_length_that_does_not_go_with_the_model_is_told_with_everything_else(tmp_path):
    splits = clean()
    splits["train"][5] = splits["train"][4]
    found = check(tmp_path, splits, max_length=1000)
    assert {f.kind for f in found.findings} == {"unusable", "repeated_row"}
    assert found.problems[0].problem.key == "data.max_length"
    assert found.lengths.max_length == 256


def test_rows_and_prompts_that_occur_twice_are_named(tmp_path):
    splits = clean()
    splits["train"][11] = {key: value.upper() + " " for key, value in splits["train"][2].items()}
    splits["train"][12] = {**splits["train"][3], "completion": "something else"}
    found = kinds(check(tmp_path, splits))
    assert set(found) == {"repeated_row", "repeated_prompt"}
    assert (found["repeated_row"].rows, found["repeated_row"].other_rows) == ((12,), (3,))
    assert (found["repeated_prompt"].rows, found["repeated_prompt"].other_rows) == ((13,), (4,))
    assert not any(finding.stops for finding in found.values())


def test_test_rows_that_train_has_are_named_by_number(tmp_path):
    splits = clean()
    for number in (2, 5, 6, 9):
        splits["test"][number - 1] = {k: v.replace("and", " AND") for k, v in splits["train"][number + 9].items()}
    splits["test"][9] = {**splits["train"][0], "completion": "nothing of the kind"}
    splits["validation"][0] = splits["test"][0]
    found = kinds(check(tmp_path, splits))
    leak = next(f for f in check(tmp_path, splits).findings if (f.kind, f.other_split) == ("leaked_row", "train"))
    assert (leak.count, leak.rows, leak.other_rows) == (4, (2, 5, 6), (12, 15, 16))
    assert (
        "rows of test that train has too, case and spaces aside: 4 of 10 (row 2 like row 12, row 5 like"
        in leak.problem.problem
    )
    assert (found["leaked_prompt"].rows, found["leaked_prompt"].other_rows) == ((10,), (1,))
    other = next(f for f in check(tmp_path, splits).findings if f.other_split == "validation")
    assert (other.kind, other.split, other.rows, other.other_rows) == ("leaked_row", "test", (1,), (1,))


def test_a_test_row_that_is_nearly_one_of_train_is_named(tmp_path):
    splits = clean()
    words = [f"word{i}" for i in range(80)]
    splits["train"][6] = {"prompt": " ".join(words), "completion": "yes"}
    splits["test"][2] = {"prompt": " ".join([*words[:-1], "other"]) + "?", "completion": "Yes!"}
    (finding,) = check(tmp_path, splits, context=None).findings
    assert (finding.kind, finding.rows, finding.other_rows) == ("near_duplicate", (3,), (7,))
    assert "runs of 5 words at least 0.8): 1 of 10 (row 3 like row 7)" in finding.problem.problem
