"""What check-data tells of labels, empty values, held-out splits, documents, examples and conversations."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from check_data_cases import PLAIN, broken, check, clean, kinds, quiet, row
from test_data_tokenizers import CHATML, bpe, section

from lora_dist.data.checking.check import check_section

STRICT = "{% if messages[0]['content'] == '' %}{{ raise_exception('an empty turn') }}{% endif %}" + CHATML


def test_completions_that_are_few_different_words_are_shown_as_labels(tmp_path):
    labels = {"train": ["good", "bad", "good"] * 10 + ["Good"], "validation": ["bad"], "test": ["good", "fair", "fair"]}
    found = check(tmp_path, 
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


def test_prompts_that_say_nothing_are_a_warning_and_fields_that_are_often_empty_are_not(tmp_path):
    splits = clean()
    broken(splits, "train", 4, prompt="  ")
    (finding,) = check(tmp_path, splits).findings
    assert (finding.kind, finding.rows, finding.stops) == ("empty_value", (4,), False)
    for part in splits.values():
        for number, told in enumerate(part):
            told |= {"prompt": f"Say {told['prompt']}", "input": "" if number % 3 else "x"}
    template = "{prompt} {input} "
    assert check(tmp_path, splits, template=template).findings == ()
    splits["train"] = [{**told, "input": "x"} for told in splits["train"]]
    splits["train"][8]["input"] = ""
    (finding,) = check(tmp_path, splits, template=template).findings
    assert (finding.kind, finding.split, finding.rows) == ("empty_value", "train", (9,))


def test_one_prompt_for_all_rows_asks_nothing_and_is_no_leak(tmp_path):
    splits = clean()
    splits = {part: [{**told, "prompt": "Tell me a number."} for told in rows] for part, rows in splits.items()}
    assert check(tmp_path, splits).findings == ()


def test_splits_that_are_held_out_say_so_and_too_few_rows_are_told(tmp_path):
    splits = clean()
    found = check(tmp_path, {"train": splits["train"]})
    assert found.findings == ()
    assert {part: figures.held_out for part, figures in found.splits.items()} == {
        "train": False, "validation": True, "test": True,
    }  # fmt: skip
    assert found.splits["test"].source == "train"
    few = check(tmp_path, {"train": splits["train"][:2]})
    assert "too few to hold out" in few.problems[0].problem.problem
    assert few.splits["train"].rows == 2


def test_documents_without_text_are_left_out_and_blocks_are_counted(tmp_path):
    texts = {part: [{"text": f"{part} {i}: {i * 7} apples and {i * 3} pears"} for i in range(12)]
             for part in ("train", "validation", "test")}  # fmt: skip
    texts["train"][4] = texts["train"][9] = {"text": "\n"}
    found = check(tmp_path, texts, task="causal_lm", block_size=32)
    (finding,) = found.findings
    assert (finding.kind, finding.stops, finding.count, finding.rows) == ("left_out", False, 2, (5, 10))
    assert found.splits["train"].rows == 10
    assert found.examples[0].row == "block 1 of the running text"


def test_examples_show_every_token_and_mark_what_is_scored(tmp_path):
    splits = clean()
    broken(splits, "train", 5, completion="9 and 9 is much, " * 4)
    found = check(tmp_path, splits, max_length=64)
    assert [(e.split, e.row) for e in found.examples] == [
        ("train", "row 1 of split 'train'"), ("train", "row 5 of split 'train'"), ("test", "row 1 of split 'test'"),
    ]  # fmt: skip
    first, longest, _ = found.examples
    asked, said = row(0).values()
    assert "".join(s.text for s in first.segments) == f"<s>Question: {asked}\nAnswer: {said}</s>"
    assert "".join(s.text for s in first.segments if s.scored) == f"{said}</s>"
    assert [s.text for s in first.segments if s.special] == ["<s>", "</s>"]
    assert (longest.tokens, longest.cut) == (64, found.splits["train"].longest - 64)


def test_a_conversation_is_checked_by_what_is_said(tmp_path):
    def talk(number, answer="yes"):
        said = ["hello", "hi", f"is it {number}?", answer]
        roles = ["user", "assistant"] * 2
        return {"messages": [{"role": r, "content": text} for r, text in zip(roles, said, strict=True)]}

    splits = {"train": [talk(i) for i in range(20)], "validation": [talk(30)], "test": [talk(40), talk(3, "no")]}
    chat = bpe(chat_template=CHATML)
    found = check(tmp_path, splits, tokenizer=chat)
    (finding,) = found.findings
    assert (finding.kind, finding.rows, finding.other_rows) == ("leaked_prompt", (2,), (4,))
    scored = "".join(s.text for s in found.examples[0].segments if s.scored)
    assert scored == "hi<|im_end|>\nyes<|im_end|>\n"
    splits["train"][7]["messages"][0]["content"] = ""
    splits["train"][9]["messages"] = splits["train"][9]["messages"][:1]
    told = check(tmp_path, splits, tokenizer=bpe(chat_template=STRICT))
    assert [(f.kind, f.rows) for f in told.problems] == [("unusable_row", (10,)), ("unusable_row", (8,))]
    assert "refuses the conversation (an empty turn)" in told.problems[1].problem.problem
    assert kinds(told)["empty_value"].rows == (8,)


def test_a_columnar_file_with_null_and_numbers_is_read_as_it_is(tmp_path):
    columns = {
        "prompt": [f"What is {i}?" for i in range(20)],
        "completion": [None if i in (3, 11) else i for i in range(20)],
    }
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    found = check_section(section(tmp_path / "train.parquet"), PLAIN, 256, quiet)
    (finding,) = found.findings
    assert (finding.kind, finding.rows, finding.count) == ("unusable_row", (4, 12), 2)
    assert sum(figures.rows for figures in found.splits.values()) == 18
