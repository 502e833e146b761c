"""Faults put into small files, one by one, and what is said of them."""

import json

import pytest
from test_data_tokenizers import CHATML, bpe, section

from lora_dist.data.checking.check import check_section
from lora_dist.data.tokenise import tokenise
from lora_dist.errors import UserError

PLAIN = bpe()
STRICT = "{% if messages[0]['content'] == '' %}{{ raise_exception('an empty turn') }}{% endif %}" + CHATML


def quiet(*_):
    """Progress that nobody looks at."""


def row(number):
    return {"prompt": f"What is {number} and {number}?", "completion": f"{number} and {number} is {2 * number}."}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def splits():
    return {"train": [row(i) for i in range(30)], "validation": [row(i) for i in range(30, 36)],
            "test": [row(i) for i in range(40, 50)]}  # fmt: skip


@pytest.fixture
def check(tmp_path):
    """Check splits that are given as lists of rows."""

    def do(splits, *, tokenizer=PLAIN, context=256, **settings):
        told = section({part: write(tmp_path / f"{part}.jsonl", rows) for part, rows in splits.items()}, **settings)
        found = check_section(told, tokenizer, context, quiet)
        try:
            facts = tokenise(told, tokenizer, context).facts
        except UserError:
            assert found.problems
        else:
            assert not found.problems
            agree(found.splits, facts.splits)
        return found

    return do


def agree(figures, facts):
    """What is told is what training has."""
    assert figures.keys() == facts.keys()
    for part, told in figures.items():
        assert (told.blocks or told.rows) == facts[part].rows
        assert (told.scored_tokens, told.cut) == (facts[part].scored_tokens, facts[part].truncated)
        if told.blocks is None and not told.cut:
            assert told.longest == facts[part].longest


def kinds(found):
    return {finding.kind: finding for finding in found.findings}


def test_clean_data_has_no_findings_and_the_figures_that_training_has(check, splits):
    found = check(splits)
    assert found.findings == ()
    assert found.labels is None
    for part, figures in found.splits.items():
        assert figures.rows == len(splits[part])
        assert (figures.source, figures.held_out, figures.cut, figures.blocks) == (part, False, 0, None)
        assert figures.shortest <= figures.median <= figures.percentile_95 <= figures.longest
    json.dumps(found.document())


def broken(splits, part, number, **values):
    splits[part][number - 1] = {**splits[part][number - 1], **values}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"completion": None}, "row 7 of split 'train' has null in column 'completion' (2 such rows: 7, 21)"),
        ({"completion": " "}, "row 7 of split 'train' has an empty completion in column 'completion', so nothing"),
        ({"prompt": ["x"]}, "row 7 of split 'train' has a list instead of text in column 'prompt' (2 such rows: 7,"),
        ({"prompt": "\ud800"}, "row 7 of split 'train' has half a character (a lone surrogate) in column 'prompt'"),
    ],
)
def test_every_row_that_training_refuses_is_named_in_its_words_and_the_others_are_looked_at(
    check, splits, values, said
):
    broken(splits, "train", 7, **values)
    broken(splits, "train", 21, **values)
    found = check(splits)
    (finding,) = found.findings
    assert said in finding.problem.problem
    assert (finding.kind, finding.stops, finding.count, finding.rows) == ("unusable_row", True, 2, (7, 21))
    assert found.splits["train"].rows == 28


def test_several_faults_are_all_told_together(check, splits):
    broken(splits, "train", 1, prompt=None, completion=None)
    broken(splits, "test", 10, completion="")
    splits["validation"] = []
    splits["test"][3] = splits["train"][9]
    found = check(splits)
    assert sorted((f.kind, f.split) for f in found.problems) == [
        ("unusable", "validation"), ("unusable_row", "test"), ("unusable_row", "train"), ("unusable_row", "train"),
    ]  # fmt: skip
    assert any("'validation' has no rows" in f.problem.problem for f in found.problems)
    (leak,) = found.warnings
    assert (leak.kind, leak.rows, leak.other_rows) == ("leaked_row", (4,), (10,))
    assert set(found.splits) == {"train", "test"}
    assert found.findings[-1] is leak  # what stops training comes first


def test_all_rows_of_a_split_may_be_bad(check, splits):
    splits["test"] = [{**r, "completion": None} for r in splits["test"]]
    found = check(splits)
    (finding,) = found.findings
    assert (finding.count, finding.rows) == (10, (1, 2, 3))
    assert "(10 such rows: 1, 2, 3, ...)" in finding.problem.problem
    assert set(found.splits) == {"train", "validation"}


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_empty_split_and_a_missing_column_are_told_and_the_others_are_looked_at(check, splits, part):
    found = check({**splits, part: []})
    assert [f.kind for f in found.problems] == ["unusable"]
    assert set(found.splits) == set(splits) - {part}
    found = check({**splits, part: [{"prompt": r["prompt"], "answer": r["completion"]} for r in splits[part]]})
    assert [(f.problem.key, f.split) for f in found.problems] == [("data.columns.completion", part)]


def test_what_cannot_be_read_at_all_is_a_finding_too(check, splits, tmp_path):
    found = check(splits, columns={"messages": "m"}, template="{prompt}")
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


def test_rows_with_nothing_left_to_score_are_counted_with_the_length_that_they_take(check, splits):
    for number in (5, 8, 9, 11):
        broken(splits, "train", number, prompt="a very long question, " * number)
    found = check(splits, max_length=48)
    (finding,) = found.problems
    assert (finding.kind, finding.count, finding.rows) == ("nothing_scored", 4, (5, 8, 9))
    needed = int(finding.problem.fix.split("raise data.max_length to ")[1].split(",")[0])
    assert needed == found.splits["train"].longest
    assert check(splits, max_length=needed).problems == []
    assert "the model's context is 48" in check(splits, context=48).problems[0].problem.fix


def test_rows_that_are_cut_are_a_warning_with_what_they_lose(check, splits):
    broken(splits, "train", 4, completion="so it is, " * 20)
    whole = check(splits).splits["train"]
    assert whole.cut == 0
    found = check(splits, max_length=64)
    (finding,) = found.findings
    figures = found.splits["train"]
    assert (finding.kind, finding.stops, finding.rows) == ("cut", False, (4,))
    assert (figures.cut, figures.cut_scored, figures.longest) == (1, 1, whole.longest)
    assert figures.lost_tokens == whole.longest - 64 == whole.scored_tokens - figures.scored_tokens
    assert f"scored tokens lost: {figures.lost_tokens}" in finding.problem.problem
    assert finding.problem.fix == f"raise data.max_length to {whole.longest}"


def test_a_length_that_does_not_go_with_the_model_is_told_with_everything_else(check, splits):
    splits["train"][5] = splits["train"][4]
    found = check(splits, max_length=1000)
    assert {f.kind for f in found.findings} == {"unusable", "repeated_row"}
    assert found.problems[0].problem.key == "data.max_length"
    assert found.lengths.max_length == 256


def test_rows_and_prompts_that_occur_twice_are_named(check, splits):
    splits["train"][11] = {key: value.upper() + " " for key, value in splits["train"][2].items()}
    splits["train"][12] = {**splits["train"][3], "completion": "something else"}
    found = kinds(check(splits))
    assert set(found) == {"repeated_row", "repeated_prompt"}
    assert (found["repeated_row"].rows, found["repeated_row"].other_rows) == ((12,), (3,))
    assert (found["repeated_prompt"].rows, found["repeated_prompt"].other_rows) == ((13,), (4,))
    assert not any(finding.stops for finding in found.values())


def test_test_rows_that_train_has_are_named_by_number(check, splits):
    for number in (2, 5, 6, 9):
        splits["test"][number - 1] = {k: v.replace("and", " AND") for k, v in splits["train"][number + 9].items()}
    splits["test"][9] = {**splits["train"][0], "completion": "nothing of the kind"}
    splits["validation"][0] = splits["test"][0]
    found = kinds(check(splits))
    leak = next(f for f in check(splits).findings if (f.kind, f.other_split) == ("leaked_row", "train"))
    assert (leak.count, leak.rows, leak.other_rows) == (4, (2, 5, 6), (12, 15, 16))
    assert (
        "rows of test that train has too, case and spaces aside: 4 of 10 (row 2 like row 12, row 5 like"
        in leak.problem.problem
    )
    assert (found["leaked_prompt"].rows, found["leaked_prompt"].other_rows) == ((10,), (1,))
    other = next(f for f in check(splits).findings if f.other_split == "validation")
    assert (other.kind, other.split, other.rows, other.other_rows) == ("leaked_row", "test", (1,), (1,))


def test_a_test_row_that_is_nearly_one_of_train_is_named(check, splits):
    words = [f"word{i}" for i in range(80)]
    splits["train"][6] = {"prompt": " ".join(words), "completion": "yes"}
    splits["test"][2] = {"prompt": " ".join([*words[:-1], "other"]) + "?", "completion": "Yes!"}
    (finding,) = check(splits, context=None).findings
    assert (finding.kind, finding.rows, finding.other_rows) == ("near_duplicate", (3,), (7,))
    assert "runs of 5 words at least 0.8): 1 of 10 (row 3 like row 7)" in finding.problem.problem


def test_completions_that_are_few_different_words_are_shown_as_labels(check):
    labels = {"train": ["good", "bad", "good"] * 10 + ["Good"], "validation": ["bad"], "test": ["good", "fair", "fair"]}
    found = check(
        {part: [{"prompt": f"{part} {i}", "completion": label} for i, label in enumerate(given)]
         for part, given in labels.items()}
    )  # fmt: skip
    column, balance = found.labels
    assert column == "completion"
    assert balance.counts["train"] == {"good": 20, "bad": 10, "Good": 1, "fair": 0}
    assert balance.majority("test") == ("fair", pytest.approx(2 / 3))
    said = [f.problem.problem for f in found.findings]
    assert [f.kind for f in found.findings] == ["labels", "labels"]
    assert "test has labels in column 'completion' that train lacks: 'fair' (2 rows)" in said
    assert "column 'completion' has one label in several spellings: 'good', 'Good'" in said


def test_prompts_that_say_nothing_are_a_warning_and_fields_that_are_often_empty_are_not(check, splits):
    broken(splits, "train", 4, prompt="  ")
    (finding,) = check(splits).findings
    assert (finding.kind, finding.rows, finding.stops) == ("empty_value", (4,), False)
    for part in splits.values():
        for number, told in enumerate(part):
            told |= {"prompt": f"Say {told['prompt']}", "input": "" if number % 3 else "x"}
    template = "{prompt} {input} "
    assert check(splits, template=template).findings == ()
    splits["train"] = [{**told, "input": "x"} for told in splits["train"]]
    splits["train"][8]["input"] = ""
    (finding,) = check(splits, template=template).findings
    assert (finding.kind, finding.split, finding.rows) == ("empty_value", "train", (9,))


def test_one_prompt_for_all_rows_asks_nothing_and_is_no_leak(check, splits):
    splits = {part: [{**told, "prompt": "Tell me a number."} for told in rows] for part, rows in splits.items()}
    assert check(splits).findings == ()


def test_splits_that_are_held_out_say_so_and_too_few_rows_are_told(check, splits):
    found = check({"train": splits["train"]})
    assert found.findings == ()
    assert {part: figures.held_out for part, figures in found.splits.items()} == {
        "train": False, "validation": True, "test": True,
    }  # fmt: skip
    assert found.splits["test"].source == "train"
    few = check({"train": splits["train"][:2]})
    assert "too few to hold out" in few.problems[0].problem.problem
    assert few.splits["train"].rows == 2


def test_documents_without_text_are_left_out_and_blocks_are_counted(check):
    texts = {part: [{"text": f"{part} {i}: {i * 7} apples and {i * 3} pears"} for i in range(12)]
             for part in ("train", "validation", "test")}  # fmt: skip
    texts["train"][4] = texts["train"][9] = {"text": "\n"}
    found = check(texts, task="causal_lm", block_size=32)
    (finding,) = found.findings
    assert (finding.kind, finding.stops, finding.count, finding.rows) == ("left_out", False, 2, (5, 10))
    assert found.splits["train"].rows == 10
    assert found.examples[0].row == "block 1 of the running text"


def test_examples_show_every_token_and_mark_what_is_scored(check, splits):
    broken(splits, "train", 5, completion="9 and 9 is much, " * 4)
    found = check(splits, max_length=64)
    assert [(e.split, e.row) for e in found.examples] == [
        ("train", "row 1 of split 'train'"), ("train", "row 5 of split 'train'"), ("test", "row 1 of split 'test'"),
    ]  # fmt: skip
    first, longest, _ = found.examples
    asked, said = row(0).values()
    assert "".join(s.text for s in first.segments) == f"<s>Question: {asked}\nAnswer: {said}</s>"
    assert "".join(s.text for s in first.segments if s.scored) == f"{said}</s>"
    assert [s.text for s in first.segments if s.special] == ["<s>", "</s>"]
    assert (longest.tokens, longest.cut) == (64, found.splits["train"].longest - 64)


def test_a_conversation_is_checked_by_what_is_said(check):
    def talk(number, answer="yes"):
        said = ["hello", "hi", f"is it {number}?", answer]
        roles = ["user", "assistant"] * 2
        return {"messages": [{"role": r, "content": text} for r, text in zip(roles, said, strict=True)]}

    splits = {"train": [talk(i) for i in range(20)], "validation": [talk(30)], "test": [talk(40), talk(3, "no")]}
    chat = bpe(chat_template=CHATML)
    found = check(splits, tokenizer=chat)
    (finding,) = found.findings
    assert (finding.kind, finding.rows, finding.other_rows) == ("leaked_prompt", (2,), (4,))
    scored = "".join(s.text for s in found.examples[0].segments if s.scored)
    assert scored == "hi<|im_end|>\nyes<|im_end|>\n"
    splits["train"][7]["messages"][0]["content"] = ""
    splits["train"][9]["messages"] = splits["train"][9]["messages"][:1]
    told = check(splits, tokenizer=bpe(chat_template=STRICT))
    assert [(f.kind, f.rows) for f in told.problems] == [("unusable_row", (10,)), ("unusable_row", (8,))]
    assert "refuses the conversation (an empty turn)" in told.problems[1].problem.problem
    assert kinds(told)["empty_value"].rows == (8,)
