import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_tokenizers import CHATML, CHATML_WITH_BOS, bpe, metaspace, section

from lora_dist.data.conversations import DEFAULT_CHAT_TEMPLATE, ChatRenderer
from lora_dist.data.formats import Example
from lora_dist.data.masks import Encoder, blocks, common_prefix
from lora_dist.data.tokenise import tokenise
from lora_dist.data.tokens import NOT_SCORED
from lora_dist.errors import ConfigError, DataError, ModelError

PLAIN, ADDS_BOS, CHAT, CHAT_BOS = (
    bpe(),
    bpe(adds_bos=True),
    bpe(chat_template=CHATML),
    bpe(chat_template=CHATML_WITH_BOS, adds_bos=True),
)
NO_SPECIAL = bpe(bos=None, eos=None)
# Text without the control and surrogate characters that no tokenizer promises to keep.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)


def text_row(tokenizer, prompt, completion):
    example = Example(prompt + completion, ((len(prompt), len(prompt + completion)),), finished=False)
    return Encoder(tokenizer).rows([example])[0]


def chat_row(tokenizer, messages):
    return Encoder(tokenizer).rows([Example(*ChatRenderer(tokenizer).render(messages, "row 1"), finished=True)])[0]


def turns(*contents):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


@given(prompt=TEXT, completion=TEXT.filter(str.strip))
@settings(max_examples=150, deadline=None)
def test_the_scored_ids_hold_the_whole_completion_and_nothing_scored_lies_before_the_prompts_last_token(
    prompt, completion
):
    for tokenizer in (PLAIN, ADDS_BOS, NO_SPECIAL):
        row = text_row(tokenizer, "Q: " + prompt, completion)
        scored = tokenizer.decode(row.scored_ids, skip_special_tokens=True)
        assert completion in scored
        assert tokenizer.decode(row.ids, skip_special_tokens=True) == "Q: " + prompt + completion
        assert row.labels[0] == NOT_SCORED
        unscored = tokenizer.decode(row.ids[: row.first_scored], skip_special_tokens=True)
        assert ("Q: " + prompt).startswith(unscored.rstrip("\ufffd"))
        if tokenizer.eos_token_id is not None:
            assert row.labels[-1] == tokenizer.eos_token_id


def test_a_border_between_tokens_is_kept_exactly():
    row = text_row(PLAIN, "Question: what?\nAnswer:", " nine")
    assert PLAIN.decode(row.scored_ids) == " nine</s>"
    assert PLAIN.decode(row.ids) == "<s>Question: what?\nAnswer: nine</s>"


def test_a_token_merged_over_the_border_is_scored():
    ids = Encoder(PLAIN).ids(["Answer: Ann", "Answer: "])
    assert common_prefix(ids[0], ids[1]) < len(ids[1]), "the space is merged with what follows"
    row = text_row(PLAIN, "Answer: ", "Ann")
    assert PLAIN.decode(row.scored_ids) == " Ann</s>"


@pytest.mark.parametrize("tokenizer", [PLAIN, ADDS_BOS], ids=["plain", "post-processor adds BOS and EOS"])
@pytest.mark.parametrize("text", ["Ann has apples", "<s>Ann has apples", "<s>Ann has apples</s>", "Ann has apples</s>"])
def test_bos_and_eos_are_never_doubled(tokenizer, text):
    row = text_row(tokenizer, text[:8], text[8:])
    assert tokenizer.decode(row.ids) == "<s>Ann has apples</s>"
    assert row.labels[-1] == tokenizer.eos_token_id
    document = Encoder(tokenizer).documents([Example(text, ((0, len(text)),), finished=False)])[0]
    assert tokenizer.decode(document.ids) == "<s>Ann has apples</s>"


def test_a_chat_template_with_bos_gives_one_and_without_it_gives_none():
    assert list(chat_row(CHAT_BOS, turns("hi", "hello")).ids).count(CHAT_BOS.bos_token_id) == 1
    assert CHAT.bos_token_id not in chat_row(CHAT, turns("hi", "hello")).ids


def test_every_assistant_turn_is_scored_and_nothing_else():
    messages = [
        {"role": "system", "content": "be kind"},
        *turns("hi", "hello there", "and?", "nothing", "bye", "so long"),
    ]
    row = chat_row(CHAT, messages)
    assert CHAT.decode(row.ids) == "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    assert CHAT.decode(row.scored_ids) == "hello there<|im_end|>\nnothing<|im_end|>\nso long<|im_end|>\n"


def test_what_follows_the_last_assistant_turn_is_not_scored():
    row = chat_row(CHAT, turns("hi", "hello", "bye"))
    assert CHAT.decode(row.scored_ids) == "hello<|im_end|>\n"


@given(st.lists(TEXT.filter(str.strip), min_size=2, max_size=7))
@settings(max_examples=80, deadline=None)
def test_scored_turns_hold_what_the_assistant_says_whatever_the_template(contents):
    messages = turns(*contents)
    for tokenizer in (CHAT, CHAT_BOS, PLAIN):  # PLAIN has no template: the default one ends turns with </s>
        scored = tokenizer.decode(chat_row(tokenizer, messages).scored_ids)
        end = "<|im_end|>" if tokenizer.chat_template else "</s>"
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        assert scored.count(end) == len(said)
        for content, piece in zip(said, scored.split(end), strict=False):
            assert content in piece


def test_a_template_whose_turns_merge_with_what_follows_still_scores_the_whole_turn():
    glued = bpe(chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    row = chat_row(glued, turns("Does", " Ann ha", "ve", " nine"))
    assert glued.decode(row.ids) == "Does Ann have nine"
    assert " Ann ha" in glued.decode(row.scored_ids)


def test_the_default_template_reads_as_documented():
    text, spans = ChatRenderer(PLAIN).render(turns("hi", "hello", "bye", "so long"), "row 1")
    assert text == "<s>User: hi\nAssistant: hello</s>\nUser: bye\nAssistant: so long</s>"
    assert [text[start:end] for start, end in spans] == ["hello</s>", "so long</s>"]
    assert ChatRenderer(NO_SPECIAL).render(turns("hi", "hello"), "row 1")[0] == "User: hi\nAssistant: hello"
    assert "assistant" in DEFAULT_CHAT_TEMPLATE


def test_a_template_that_writes_the_date_gives_the_same_tokens_every_day():
    llama = (
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}"
        "{%- endif %}{%- endif %}{{ 'Today Date: ' + date_string + '\n' }}"
    )
    text, _ = ChatRenderer(bpe(chat_template=llama + CHATML)).render(turns("hi", "hello"), "row 1")
    assert text.startswith("Today Date: 26 Jul 2024\n<|im_start|>user")
    iso = bpe(chat_template="{{ strftime_now('%Y-%m-%d') }}" + CHATML)
    assert ChatRenderer(iso).render(turns("hi", "hello"), "row 1")[0].startswith("2024-07-26<|im_start|>")


def test_a_template_that_rewrites_history_is_refused():
    last_only = "{% for m in messages %}{{ m['role'] }}: {{ 'hm, ' if loop.last }}{{ m['content'] }}\n{% endfor %}"
    with pytest.raises(ModelError, match="writes a turn differently") as refused:
        chat_row(bpe(chat_template=last_only), turns("hi", "hello", "bye", "so long"))
    assert refused.value.problems[0].key == "model.path"
    assert "data.template" in refused.value.problems[0].fix


def test_a_conversation_that_the_template_refuses_is_named_with_its_row(tmp_path):
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    path = tmp_path / "train.jsonl"
    rows = [turns(str(i), "yes") for i in range(10)]
    rows[6] = [{"role": "system", "content": "x"}, *rows[6]]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"row 7 of split 'train'.*no system role"):
        tokenise(section(path), bpe(chat_template=strict), None)


@pytest.mark.parametrize("template", ["{% for m in %}", {"tool_use": CHATML}], ids=["syntax", "no default"])
def test_a_chat_template_that_cannot_be_used_is_the_models_fault(template):
    with pytest.raises(ModelError, match=r"model\.path"):
        chat_row(bpe(chat_template=template), turns("hi", "hello"))


@given(st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=6), st.integers(2, 40))
@settings(max_examples=80, deadline=None)
def test_blocks_join_to_the_documents_and_score_all_but_their_first_tokens(texts, size):
    encoder = Encoder(PLAIN)
    documents = encoder.documents([Example(text, ((0, len(text)),), finished=False) for text in texts])
    stream = np.concatenate([document.ids for document in documents])
    rows = blocks(documents, size)
    joined = np.concatenate([row.ids for row in rows])
    lost = len(stream) - len(joined)
    assert lost == (len(stream) % size == 1), "only a last block of one token, which scores nothing, is left out"
    assert np.array_equal(joined, stream[: len(joined)])
    assert all(len(row.ids) == size for row in rows[:-1])
    for row in rows:
        assert row.labels[0] == NOT_SCORED
        assert np.array_equal(row.labels[1:], row.ids[1:])


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(count, answer="nine"):
    return [{"prompt": f"What is {i}?", "completion": f"{answer} {i}"} for i in range(count)]


def test_rows_are_cut_at_max_length_and_counted(tmp_path):
    rows = rows_of(30)
    rows[4]["completion"] = rows[11]["completion"] = "a very long answer, " * 20
    data = tokenise(section(write_rows(tmp_path / "a.jsonl", rows), max_length=64), PLAIN, 128)
    facts = data.facts.splits.values()
    assert sum(split.truncated for split in facts) == 2
    assert max(split.longest for split in facts) == 64
    whole = tokenise(section(tmp_path / "a.jsonl"), PLAIN, None)
    assert sum(split.truncated for split in whole.facts.splits.values()) == 0
    assert whole.facts.max_length == 1024


def test_a_row_with_nothing_left_to_score_is_refused_with_the_length_that_it_takes(tmp_path):
    rows = rows_of(30)
    rows[4]["prompt"] = rows[11]["prompt"] = "a very long question, " * 20
    path = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError) as refused:
        tokenise(section(path, max_length=64), PLAIN, 1024)
    problem = refused.value.problems[0]
    assert problem.key == "data.max_length"
    assert "of split 'train'" in problem.problem
    assert "cut at 64" in problem.problem
    needed = int(problem.fix.split("raise data.max_length to ")[1].split(",")[0])
    assert tokenise(section(path, max_length=needed), PLAIN, 1024).facts.max_length == needed
    with pytest.raises(DataError, match="remove or shorten the row") as refused:
        tokenise(section(path), PLAIN, 64)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"max_length": 513}, "data.max_length"),
        ({"max_length": 1}, "data.max_length"),
        ({"task": "causal_lm", "block_size": 300, "max_length": 256}, "data.block_size"),
        ({"task": "causal_lm", "block_size": 513}, "data.block_size"),
    ],
)
def test_lengths_that_do_not_go_together_are_refused(settings, key):
    with pytest.raises(ConfigError) as refused:
        tokenise(section("builtin:general-text", **settings), PLAIN, 512)
    assert refused.value.problems[0].key == key
    assert "at" in refused.value.problems[0].fix


def test_null_lengths_are_1024_or_the_context(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", rows_of(10))
    assert tokenise(section(path), PLAIN, None).facts.max_length == 1024
    assert tokenise(section(path), PLAIN, 4096).facts.max_length == 1024
    assert tokenise(section(path), PLAIN, 300).facts.max_length == 300


def test_bos_says_whether_rows_begin_with_it(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", rows_of(10))
    assert tokenise(section(path), PLAIN, None).facts.bos
    assert tokenise(section(path), CHAT_BOS, None).facts.bos
    assert not tokenise(section(path), CHAT, None).facts.bos
    assert not tokenise(section(path), NO_SPECIAL, None).facts.bos
    assert tokenise(section(path), metaspace(), None).facts.bos
