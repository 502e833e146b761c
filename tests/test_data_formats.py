import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_tokenizers import CHATML, bpe, section

from lora_dist.data.formats import format_of
from lora_dist.data.rows import Rows, rows_of_objects
from lora_dist.data.templates import parse_template
from lora_dist.data.tokenise import tokenise
from lora_dist.errors import DataError, Refused

PLAIN, CHAT = bpe(), bpe(chat_template=CHATML)
ROWS = [{"question": f"What is {i}?", "answer": f"It is {i}.", "level": i, "note": "x"} for i in range(12)]
QA = {"prompt": "question", "completion": "answer"}


def first_example(objects, tokenizer=PLAIN, **settings):
    """The first row's text, and the part of it that the loss is on."""
    rows = rows_of_objects("train", objects)
    form = format_of(section("x.jsonl", **settings), tokenizer, rows)
    example = form.example(form.select(rows), 0)
    return example.text, [example.text[start:end] for start, end in example.spans]


def problems_of(objects, tokenizer=PLAIN, **settings):
    with pytest.raises((DataError, Refused)) as refused:
        first_example(objects, tokenizer, **settings)
    return refused.value.problems


def test_prompts_and_completions_without_a_template_read_as_question_and_answer():
    assert first_example(ROWS, columns=QA) == ("Question: What is 0?\nAnswer: It is 0.", ["It is 0."])


def test_a_chat_template_takes_the_place_of_the_default_one():
    text, scored = first_example(ROWS, CHAT, columns=QA)
    assert text == "<|im_start|>user\nWhat is 0?<|im_end|>\n<|im_start|>assistant\nIt is 0.<|im_end|>\n"
    assert scored == ["It is 0.<|im_end|>\n"]


@pytest.mark.parametrize(
    ("template", "text", "scored"),
    [
        ("Q {question} A {answer}", "Q What is 0? A It is 0.", "It is 0."),
        ("Q {prompt} A {completion}", "Q What is 0? A It is 0.", "It is 0."),
        ("{level}: {question}\n", "0: What is 0?\nIt is 0.", "It is 0."),
        ("{question} {answer} (end)", "What is 0? It is 0. (end)", "It is 0. (end)"),
        ("{question} {answer} {answer}", "What is 0? It is 0. It is 0.", "It is 0. It is 0."),
        ("{{{question}}} {answer}", "{What is 0?} It is 0.", "It is 0."),
        ("{question}{{}}{answer}", "What is 0?{}It is 0.", "It is 0."),
    ],
)
def test_a_template_is_scored_from_the_completions_placeholder_on(template, text, scored):
    assert first_example(ROWS, CHAT, columns=QA, template=template) == (text, [scored])


def test_a_templates_values_are_never_read_as_templates():
    rows = [{"prompt": "{completion} {0.__class__}", "completion": "{prompt}"}]
    assert first_example(rows)[0] == "Question: {completion} {0.__class__}\nAnswer: {prompt}"


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_template_agrees_with_pythons_own_formatting(before, between):
    source = (
        before.replace("{", "{{").replace("}", "}}") + "{a}" + between.replace("{", "{{").replace("}", "}}") + "{b}"
    )
    filled = parse_template(source, {}, ["a", "b"]).fill({"a": "1", "b": "2"})
    assert filled == source.format(a="1", b="2")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{question.__class__} {answer}", "more than a plain name"),
        ("{question[0]} {answer}", "more than a plain name"),
        ("{question!r} {answer}", "more than a plain name"),
        ("{question:>10} {answer}", "more than a plain name"),
        ("{queston} {answer}", "no column 'queston'"),
        ("{} {answer}", "no column ''"),
        ("{0} {answer}", "no column '0'"),
        ("{question", "braces do not match"),
        ("question}", "braces do not match"),
        ("nothing", "names no column"),
    ],
)
def test_templates_with_anything_but_columns_are_refused(template, said):
    (problem,) = problems_of(ROWS, columns=QA, template=template)
    assert problem.key == "data.template"
    assert said in problem.problem
    assert problem.fix


def test_a_misspelt_column_of_a_template_is_answered_with_the_nearest_one():
    (problem,) = problems_of(ROWS, columns=QA, template="{queston} {answer}")
    assert "did you mean 'question'?" in problem.fix
    assert "level" in problem.fix


def test_both_missing_columns_are_named_at_once():
    problems = problems_of([{"ask": row["question"], "reply": row["answer"]} for row in ROWS])
    assert [problem.key for problem in problems] == ["data.columns.prompt", "data.columns.completion"]
    assert all("valid here: ask, reply" in problem.fix for problem in problems)


def test_a_missing_text_column_names_the_nearest_one():
    (problem,) = problems_of([{"texts": "a"}], task="causal_lm")
    assert problem.key == "data.columns.text"
    assert "did you mean 'texts'?" in problem.fix


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "has null"),
        (float("nan"), "has null"),
        (["a"], "has a list"),
        ({"a": 1}, "has a dict"),
        ("\ud800", "has half a character"),
    ],
)
def test_a_value_that_is_no_text_is_named_with_its_row(value, said):
    rows = [dict(row) for row in ROWS]
    rows[4]["answer"] = rows[7]["answer"] = value
    (problem,) = problems_of(rows, columns=QA)
    assert problem.key == "data.columns.completion"
    assert problem.problem.startswith(f"row 5 of split 'train' {said}")
    assert "(and 1 more row)" in problem.problem


def test_numbers_are_text():
    assert first_example([{"prompt": 3, "completion": 0.5}])[0] == "Question: 3\nAnswer: 0.5"


@pytest.mark.parametrize("tokenizer", [PLAIN, CHAT], ids=["template", "chat"])
def test_an_empty_completion_has_nothing_to_score(tokenizer):
    rows = [dict(row) for row in ROWS]
    rows[2]["answer"] = " \n"
    (problem,) = problems_of(rows, tokenizer, columns=QA)
    assert problem.key == "data.columns.completion"
    assert "row 3 of split 'train' has an empty completion" in problem.problem


def test_documents_take_their_column_or_a_template_and_blank_ones_are_left_out():
    objects = [{"text": "", "n": 1}, {"text": "one\n", "n": 2}, {"text": " \n", "n": 3}, {"text": "two", "n": 4}]
    rows = rows_of_objects("train", objects)
    form = format_of(section("x", task="causal_lm"), PLAIN, rows)
    selection = form.select(rows)
    assert [values[0] for values in selection.values] == ["one\n", "two"]
    assert list(selection.numbers) == [2, 4]
    assert first_example(objects[1:], task="causal_lm", template="{n}. {text}!") == ("2. one\n!", ["2. one\n!"])
    with pytest.raises(DataError, match="no text in it"):
        form.select(rows_of_objects("train", [{"text": " "}]))


def chat(*roles):
    return {"messages": [{"role": role, "content": f"{role} says"} for role in roles]}


def test_a_column_of_messages_is_found_by_its_name_or_its_mapping():
    row = chat("user", "assistant")
    expected = ("<s>User: user says\nAssistant: assistant says</s>", ["assistant says</s>"])
    assert first_example([row]) == expected
    assert first_example([{"talk": row["messages"]}], columns={"messages": "talk"}) == expected
    assert first_example([row | {"prompt": "a", "completion": "b"}])[0] == "Question: a\nAnswer: b"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"messages": "hi"}, "has a str instead of a list"),
        ({"messages": None}, "has null"),
        ({"messages": [{"from": "human", "value": "hi"}]}, "no role and content in message 1"),
        ({"messages": [{"role": "user", "content": None}]}, "content that is no text in message 1"),
        (chat("user", "bot"), "the role 'bot' in message 2"),
        (chat("user"), "has no assistant turn"),
        (chat("assistant"), "begins with an assistant turn"),
        ({"messages": []}, "has no assistant turn"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}, "nothing to score"),
    ],
)
def test_what_is_no_conversation_is_named_with_its_row(value, said):
    (problem,) = problems_of([chat("user", "assistant"), value])
    assert problem.key == "data.columns.messages"
    assert problem.problem.startswith("row 2 of split 'train'")
    assert said in problem.problem


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"columns": {"messages": "messages"}, "template": "{messages}"}, "data.template"),
        ({"columns": {"messages": "messages", "prompt": "a"}}, "data.columns"),
        ({"columns": {"messages": "messages"}, "task": "causal_lm"}, "data.columns.messages"),
        ({"columns": {"prompt": "a", "completion": "a"}}, "data.columns"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, key):
    (problem,) = problems_of([chat("user", "assistant") | {"a": "b"}], **settings)
    assert problem.key == key


def test_a_split_without_rows_or_with_other_columns_is_refused(tmp_path):
    form = format_of(section("x", columns=QA), PLAIN, Rows("train", {}, 0))
    with pytest.raises(DataError, match="split 'train' has no rows"):
        form.select(Rows("train", {}, 0))
    for name, objects in (("train", ROWS), ("test", [{"question": "a", "label": "b"}])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in objects))
    with pytest.raises(DataError, match="split 'test' has no column 'answer'"):
        tokenise(section(tmp_path, columns=QA), PLAIN, None)
