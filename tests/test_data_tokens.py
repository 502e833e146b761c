import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_data_tokenizers import CHATML, SHARED, SMALL_LLAMA, bpe, section

from lora_dist.data.identity import tokenizer_hash
from lora_dist.data.tokenise import source_key, tokenise
from lora_dist.data.tokens import NOT_SCORED, SCHEMA, find_token_set, hash_of_tokens, open_token_set
from lora_dist.errors import StorageError
from lora_dist.store.manifest import flaw_of

PLAIN = bpe()
PARTS = ("train", "validation", "test")
ROWS = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(30)]


@pytest.fixture
def data_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def data(data_file):
    return tokenise(section(data_file), PLAIN, 128)


def same(left, right):
    return all(left.rows(part).table.to_pylist() == right.rows(part).table.to_pylist() for part in PARTS)


def test_a_saved_set_is_found_by_what_it_was_made_of_and_holds_the_same_tokens(data, data_file, tmp_path):
    saved = data.save(tmp_path / "tokens")
    assert saved.folder == tmp_path / "tokens" / data.facts.token_hash
    assert sorted(path.name for path in saved.folder.iterdir()) == [
        "manifest.json",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]
    found = find_token_set(tmp_path / "tokens", source_key(section(data_file), PLAIN, 128))
    assert found == saved
    assert found.facts == data.facts == open_token_set(saved.folder).facts
    assert same(found, data)
    assert hash_of_tokens({part: found.rows(part).table for part in PARTS}) == data.facts.token_hash
    assert find_token_set(tmp_path / "tokens", "another") is None
    assert find_token_set(tmp_path / "nowhere", "another") is None


def test_the_counts_are_those_of_the_rows(data):
    for part, facts in data.facts.splits.items():
        rows = list(data.rows(part))
        assert facts.rows == len(rows) == len(data.rows(part).lengths)
        assert facts.tokens == sum(len(ids) for ids, _ in rows) == data.rows(part).lengths.sum()
        assert facts.longest == max(len(ids) for ids, _ in rows)
        scored = [labels[labels != NOT_SCORED] for _, labels in rows]
        assert facts.scored_tokens == sum(map(len, scored))
        texts = [PLAIN.decode(ids, skip_special_tokens=True) for ids in scored]
        assert facts.scored_bytes == sum(len(text.encode()) for text in texts)
        for ids, labels in rows:
            assert ids.dtype == labels.dtype == np.int32
            assert len(ids) == len(labels)
            assert labels[0] == NOT_SCORED
            assert np.all((labels == ids) | (labels == NOT_SCORED))


def test_rows_are_taken_by_index_and_as_a_table(data):
    rows = data.rows("train")
    assert rows.table.schema == SCHEMA
    assert np.array_equal(rows[-1][0], rows[len(rows) - 1][0])
    with pytest.raises(IndexError):
        rows[len(rows)]
    assert rows.table.to_pylist()[0]["input_ids"] == rows[0][0].tolist()


def test_saving_again_keeps_what_is_there(data, tmp_path):
    saved = data.save(tmp_path / "tokens")
    before = {path: path.stat().st_mtime_ns for path in saved.folder.iterdir()}
    assert data.save(tmp_path / "tokens") == saved
    assert {path: path.stat().st_mtime_ns for path in saved.folder.iterdir()} == before


def test_other_settings_with_the_same_tokens_share_one_folder(data, data_file, tmp_path):
    longer = section(data_file, max_length=100)
    other = tokenise(longer, PLAIN, 128)
    assert other.facts.token_hash == data.facts.token_hash
    assert other.facts.source_key != data.facts.source_key
    folders = {data.save(tmp_path / "tokens").folder, other.save(tmp_path / "tokens").folder}
    assert len(folders) == 1
    assert flaw_of(folders.pop()) is None
    for settings in (section(data_file), longer):
        key = source_key(settings, PLAIN, 128)
        assert find_token_set(tmp_path / "tokens", key).facts.source_key == key


def truncate(folder):
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def change(folder):
    path = folder / "test.parquet"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)


def remove(folder):
    (folder / "validation.parquet").unlink()


def forget(folder):
    (folder / "manifest.json").write_text("{")


def empty(folder):
    document = json.loads((folder / "manifest.json").read_text())
    del document["facts"]["splits"]
    (folder / "manifest.json").write_text(json.dumps(document))


@pytest.mark.parametrize("damage", [truncate, change, remove, forget, empty])
def test_a_broken_set_is_not_found_and_the_next_save_rebuilds_it(data, tmp_path, damage):
    saved = data.save(tmp_path / "tokens")
    damage(saved.folder)
    assert find_token_set(tmp_path / "tokens", data.facts.source_key) is None
    with pytest.raises(StorageError) as refused:
        open_token_set(saved.folder)
    assert refused.value.problems[0].key == str(saved.folder)
    rebuilt = data.save(tmp_path / "tokens")
    assert flaw_of(rebuilt.folder) is None
    assert same(find_token_set(tmp_path / "tokens", data.facts.source_key), data)


def test_what_a_killed_process_left_is_no_set(data, tmp_path):
    partial = tmp_path / "tokens" / f".{data.facts.token_hash}.partial"
    partial.mkdir(parents=True)
    (partial / "train.parquet").write_bytes(b"half")
    assert find_token_set(tmp_path / "tokens", data.facts.source_key) is None
    assert flaw_of(data.save(tmp_path / "tokens").folder) is None


def table_of(*rows):
    return pa.table({"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]}, schema=SCHEMA)


def test_the_hash_sees_every_id_label_border_and_split_but_not_the_chunks():
    one, two = ([1, 2, 3], [-100, 2, 3]), ([4, 5], [-100, 5])
    base = {"train": table_of(one, two), "validation": table_of(two), "test": table_of(two)}
    others = [
        {"train": table_of(two, one)},
        {"train": table_of(([1, 2, 3, 4, 5], [-100, 2, 3, -100, 5]))},
        {"train": table_of(([1, 2, 3], [-100, -100, 3]), two)},
        {"train": table_of(([1, 2, 9], [-100, 2, 9]), two)},
        {"validation": table_of(two, two), "test": table_of()},
        {"validation": table_of(), "test": table_of(two, two)},
        {"train": table_of(one), "validation": table_of(two, two)},
    ]
    hashes = {hash_of_tokens(base | other) for other in [{}, *others]}
    assert len(hashes) == len(others) + 1
    chunked = pa.concat_tables([table_of(one), table_of(two)])
    assert hash_of_tokens(base | {"train": chunked}) == hash_of_tokens(base)
    sliced = table_of(two, one, two).slice(1)
    assert hash_of_tokens(base | {"train": sliced}) == hash_of_tokens(base)


def test_anything_that_changes_tokens_changes_the_key_and_nothing_else_does(data_file, tmp_path):
    def key(tokenizer=PLAIN, context=128, path=data_file, **settings):
        return source_key(section(path, **settings), tokenizer, context)

    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(data_file.read_bytes())
    same_tokens = [key(), key(path=moved), key(packing=True), key(block_size=64), key(max_length=128)]
    assert len(set(same_tokens)) == 1
    changed = tmp_path / "changed.jsonl"
    changed.write_text(data_file.read_text().replace("What is 7?", "What is 8?"))
    different = [
        key(),
        key(path=changed),
        key(context=64),
        key(max_length=100),
        key(max_train_examples=5),
        key(max_eval_examples=1),
        key(held_out_fraction=0.2),
        key(template="{prompt} {completion}"),
        key(tokenizer=bpe(chat_template=CHATML)),
        key(tokenizer=bpe(bos=None)),
        key(columns={"prompt": "completion", "completion": "prompt"}),
        key(task="causal_lm"),
        key(task="causal_lm", block_size=64),
        key(path={"train": str(data_file), "test": str(data_file)}),
    ]
    assert len(set(different)) == len(different)


PROGRAM = """
import json, sys
from transformers import PreTrainedTokenizerFast
from lora_dist.config.sections import DataSection
from lora_dist.data.tokenise import tokenise
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
facts = tokenise(DataSection(task="instruction", path=sys.argv[2]), tokenizer, 128).facts
print(json.dumps([facts.tokenizer_hash, facts.source_key, facts.token_hash]))
"""


def test_all_hashes_are_the_same_in_another_process(data_file, tmp_path):
    tokenizer = bpe(chat_template=CHATML)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    facts = tokenise(section(data_file), tokenizer, 128).facts
    assert facts.tokenizer_hash == tokenizer_hash(tokenizer)
    assert facts.source_key == source_key(section(data_file), tokenizer, 128)
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "tokenizer"), str(data_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout) == [facts.tokenizer_hash, facts.source_key, facts.token_hash]


def test_two_processes_that_save_the_same_set_do_not_disturb_each_other(data, tmp_path):
    from multiprocessing import get_context

    with get_context("fork").Pool(4) as pool:
        folders = pool.map(data.save, [tmp_path / "tokens"] * 8)
    assert len({saved.folder for saved in folders}) == 1
    assert flaw_of(folders[0].folder) is None


def test_progress_counts_the_rows_of_each_split(data_file):
    heard = []
    tokenise(section(data_file), PLAIN, 128, lambda *what: heard.append(what))
    assert heard == [("tokenise", 24, 24, "train"), ("tokenise", 3, 3, "validation"), ("tokenise", 3, 3, "test")]


@pytest.mark.skipif(not SMALL_LLAMA.is_dir(), reason="no shared model here")
def test_small_llama_reads_gsm8k_as_it_was_trained_to():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SMALL_LLAMA)
    columns = {"prompt": "question", "completion": "answer"}
    path = SHARED / "data" / "gsm8k_unseen.jsonl"
    data = tokenise(section(path, columns=columns, max_train_examples=40), tokenizer, 512)
    row = json.loads(path.read_text().split("\n")[0])
    ids, labels = data.rows("train")[0]
    assert tokenizer.decode(ids) == f"<s>Question: {row['question']}\nAnswer: {row['answer']}</s>"
    assert tokenizer.decode(labels[labels != NOT_SCORED]) == f" {row['answer']}</s>"
    assert data.facts.bos
