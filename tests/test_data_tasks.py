"""What each task reads: usual columns, its words, contexts that are there or not, and the same for chat templates."""

from __future__ import annotations

import pytest
from test_data_formats import CHAT, first_example, problems_of

from lora_dist.config.sections import EvaluateSection
from lora_dist.data.tasks import TASK_FORMS

ALPACA = {"instruction": "Sort these.", "input": "b, a", "output": "a, b"}
DOLLY = {"instruction": "Sort these.", "context": "b, a", "response": "a, b", "category": "sorting"}
DIALOGUE = {"id": 1, "dialogue": "A: Hi.\nB: Hello.", "summary": "They meet."}
QA = {"context": "Ann lives in Rome.", "question": "Where does Ann live?", "answer": "Rome"}


@pytest.mark.parametrize(
    ("task", "row", "text", "scored"),
    [
        ("instruction", ALPACA, "Question: Sort these.\nb, a\nAnswer: a, b", "a, b"),
        ("instruction", DOLLY, "Question: Sort these.\nb, a\nAnswer: a, b", "a, b"),
        ("instruction", ALPACA | {"input": ""}, "Question: Sort these.\nAnswer: a, b", "a, b"),
        ("instruction", ALPACA | {"input": None}, "Question: Sort these.\nAnswer: a, b", "a, b"),
        ("instruction", {"input": "1 + 1?", "output": "2"}, "Question: 1 + 1?\nAnswer: 2", "2"),
        ("math", {"question": "1 + 1?", "answer": "#### 2"}, "Question: 1 + 1?\nAnswer: #### 2", "#### 2"),
        ("math", {"problem": "1 + 1?", "solution": "#### 2"}, "Question: 1 + 1?\nAnswer: #### 2", "#### 2"),
        ("summarization", DIALOGUE, "A: Hi.\nB: Hello.\nSummary: They meet.", "They meet."),
        ("qa", QA, "Ann lives in Rome.\nQuestion: Where does Ann live?\nAnswer: Rome", "Rome"),
        ("qa", {"question": "Why?", "answer": "So."}, "Question: Why?\nAnswer: So.", "So."),
    ],
)
def test_data_as_it_usually_comes_needs_no_columns(task, row, text, scored):
    assert first_example([row], task=task) == (text, [scored])


@pytest.mark.parametrize(
    ("task", "row", "asked"),
    [
        ("instruction", ALPACA, "Sort these.\n\nb, a"),
        ("instruction", ALPACA | {"input": " "}, "Sort these."),
        ("summarization", DIALOGUE, "Summarize this text.\n\nA: Hi.\nB: Hello."),
        ("qa", QA, "Ann lives in Rome.\n\nWhere does Ann live?"),
    ],
)
def test_a_chat_template_is_given_the_same_in_the_users_turn(task, row, asked):
    text, _ = first_example([row], CHAT, task=task)
    assert text.startswith(f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n")


def test_what_is_said_goes_before_what_is_usual():
    row = ALPACA | {"question": "Really?"}
    text, _ = first_example([row], task="instruction", columns={"prompt": "question"})
    assert text == "Question: Really?\nb, a\nAnswer: a, b"
    text, _ = first_example([ALPACA], task="instruction", columns={"prompt": "input"})
    assert text == "Question: b, a\nAnswer: a, b"


def test_a_template_of_ones_own_has_its_context_whether_or_not_it_is_empty():
    rows = [ALPACA | {"input": ""}]
    text, _ = first_example(rows, task="instruction", template="{instruction} [{input}] {output}")
    assert text == "Sort these. [] a, b"
    (problem,) = problems_of(
        [ALPACA | {"input": None}], task="instruction", template="{instruction} [{input}] {output}"
    )
    assert "has null in column 'input'" in problem.problem


def test_conversations_are_for_the_instruction_task():
    row = {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]}
    (problem,) = problems_of([row], task="math", columns={"messages": "messages"})
    assert (problem.key, problem.fix) == ("data.columns.messages", "set data.task=instruction")


@pytest.mark.parametrize("task", ["math", "summarization", "qa", "instruction"])
def test_a_row_whose_completion_is_empty_is_named(task):
    names = {"math": ("question", "answer"), "summarization": ("dialogue", "summary"), "qa": ("question", "answer"),
             "instruction": ("instruction", "output")}[task]  # fmt: skip
    prompt, completion = names
    rows = [{prompt: f"{i}?", completion: "x"} for i in range(4)]
    rows[2][completion] = "  "
    (problem,) = problems_of(rows, task=task)
    assert problem.key == "data.columns.completion"
    assert "row 3 of split 'train' has an empty completion" in problem.problem


def test_each_task_but_two_is_judged_unless_told_otherwise():
    section = EvaluateSection()
    judged = {task: section.judged_by(task) for task in TASK_FORMS if section.judged_by(task)}
    assert judged == {"math": ("exact_match",), "summarization": ("rouge",), "qa": ("exact_match", "f1")}
    assert EvaluateSection(metrics=["perplexity"]).judged_by("math") == ()
    assert EvaluateSection(metrics=["bleu", "rouge"]).judged_by("instruction") == ("bleu", "rouge")
