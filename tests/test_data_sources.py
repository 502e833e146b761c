import csv
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_tokenizers import SHARED, bpe, section

from lora_dist.data.sources import find_splits, load_splits, source_fingerprint
from lora_dist.data.tokenise import tokenise
from lora_dist.errors import DataError, Refused

PLAIN = bpe()
QA = {"prompt": "question", "completion": "answer"}
TRAIN = [{"question": f'Is "{i}", or é,\nodd?', "answer": f"It is {i}. "} for i in range(20)]
TEST = [{"question": f"Is {i} even?", "answer": f"Yes, {i}."} for i in range(100, 104)]


def write(path, rows):
    """The rows in the format that the file's suffix names."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    return path


def problem_of(call, *arguments):
    with pytest.raises((DataError, Refused)) as refused:
        call(*arguments)
    (problem,) = refused.value.problems
    assert "\n" not in str(problem)
    assert problem.fix
    return problem


def file_of(suffix):
    def make(folder):
        return {
            "train": str(write(folder / f"a{suffix}", TRAIN)),
            "test": [str(write(folder / f"{i}{suffix}", TEST[i : i + 2])) for i in (0, 2)],
        }

    return make


def folder_of_shards(folder):
    for i in range(2):
        write(folder / f"train-0000{i}-of-00002.parquet", TRAIN[10 * i : 10 * i + 10])
    write(folder / "my_test.csv", TEST)
    (folder / "README.md").write_text("# data")
    return folder


def folder_of_folders(folder):
    for split, rows in (("train", TRAIN), ("test", TEST)):
        (folder / "data" / split).mkdir(parents=True)
        write(folder / "data" / split / "rows.json", rows)
    return folder


def saved_dict(folder):
    parts = {"train": datasets.Dataset.from_list(TRAIN), "test": datasets.Dataset.from_list(TEST)}
    datasets.DatasetDict(parts).save_to_disk(folder / "saved", num_shards={"train": 3, "test": 1})
    return folder / "saved"


SOURCES = {
    "jsonl": file_of(".jsonl"),
    "json": file_of(".json"),
    "csv": file_of(".csv"),
    "parquet": file_of(".parquet"),
    "shards": folder_of_shards,
    "folders": folder_of_folders,
    "save_to_disk": saved_dict,
}


@pytest.fixture(scope="module")
def expected_hash(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    return tokenise(section(SOURCES["jsonl"](folder), columns=QA), PLAIN, None).facts.token_hash


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_rows_give_the_same_tokens_from_every_kind_of_source(source, tmp_path, expected_hash):
    path = SOURCES[source](tmp_path)
    assert {part: len(rows) for part, rows in load_splits(section(path)).items()} == {"train": 20, "test": 4}
    before = sorted(tmp_path.rglob("*"))
    assert tokenise(section(path, columns=QA), PLAIN, None).facts.token_hash == expected_hash
    assert sorted(tmp_path.rglob("*")) == before, "no caches are left beside the data"


def test_a_single_file_or_a_saved_dataset_is_train(tmp_path):
    datasets.Dataset.from_list(TRAIN).save_to_disk(tmp_path / "saved")
    one = tokenise(section(write(tmp_path / "all.jsonl", TRAIN), columns=QA), PLAIN, None)
    other = tokenise(section(tmp_path / "saved", columns=QA), PLAIN, None)
    assert one.facts.token_hash == other.facts.token_hash
    assert one.facts.splits["test"].rows == 2


def test_json_lines_under_the_name_of_json_are_read(tmp_path):
    write(tmp_path / "a.jsonl", TRAIN).rename(tmp_path / "a.json")
    assert load_splits(section(tmp_path / "a.json"))["train"].column("answer") == [row["answer"] for row in TRAIN]


def test_a_text_file_is_one_document_and_a_folder_of_them_is_as_many(tmp_path):
    (tmp_path / "one").mkdir()
    for i in range(12):
        (tmp_path / "one" / f"chapter{i}.txt").write_bytes(f"chapter {i}\r\nthe end\n".encode())
    rows = load_splits(section(tmp_path / "one", task="causal_lm"))["train"]
    assert len(rows) == 12
    assert rows.column("text")[0] == "chapter 0\r\nthe end\n"
    (tmp_path / "a.txt").write_text("".join(f"line {i}\n" for i in range(200)))
    facts = tokenise(section(tmp_path / "a.txt", task="causal_lm", max_length=32), PLAIN, None).facts
    assert facts.splits["test"].scored_bytes < 0.15 * facts.splits["train"].scored_bytes


def test_builtin_data_needs_no_files():
    splits = load_splits(section("builtin:word-problems"))
    assert {"question", "answer"} == set(splits["train"].columns)
    assert set(source_fingerprint(section("builtin:word-problems"))) == {"train", "test"}
    assert problem_of(load_splits, section("builtin:nothing")).key == "data.path"


def test_a_subset_is_a_folder_of_the_folder(tmp_path):
    for name in ("main", "socratic"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train.jsonl", TRAIN if name == "main" else TEST)
    assert len(load_splits(section(tmp_path, subset="socratic"))["train"]) == 4
    problem = problem_of(load_splits, section(tmp_path, subset="other"))
    assert (problem.key, problem.fix) == ("data.subset", "use one of main, socratic")
    problem = problem_of(load_splits, section(tmp_path))
    assert (problem.key, problem.fix) == ("data.subset", "name one of them: main, socratic")


@pytest.mark.parametrize(
    ("files", "settings", "found"),
    [
        (["train", "validation", "test"], {}, {"train": "train", "validation": "validation", "test": "test"}),
        (["train", "dev"], {}, {"train": "train", "validation": "dev"}),
        (["train", "valid", "test"], {"eval_split": "valid"}, {"train": "train", "test": "valid"}),
        (["test"], {"train_split": "test"}, {"train": "test"}),
        (["extra", "test"], {"train_split": "extra"}, {"train": "extra", "test": "test"}),
        (["train", "hard"], {"eval_split": "hard"}, {"train": "train", "test": "hard"}),
    ],
)
def test_splits_are_found_by_their_names_and_none_plays_two_parts(tmp_path, files, settings, found):
    for name in files:
        write(tmp_path / f"{name}.jsonl", TRAIN)
    parts = find_splits(section(tmp_path, **settings))
    assert {part: split.name for part, split in parts.items()} == found


def test_a_split_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    write(tmp_path / "train.jsonl", TRAIN)
    write(tmp_path / "dev.jsonl", TRAIN)
    with pytest.raises(Refused) as refused:
        load_splits(section(tmp_path, train_split="training", validation_split="validation", eval_split="eval"))
    keys = [problem.key for problem in refused.value.problems]
    assert keys == ["data.train_split", "data.validation_split", "data.eval_split"]
    assert all(problem.fix == "use one of dev, train" for problem in refused.value.problems)
    assert problem_of(load_splits, section(tmp_path, eval_split="train")).key == "data.eval_split"
    assert problem_of(load_splits, section({"test": "a.jsonl"})).key == "data.train_split"


BROKEN = {
    "a.jsonl": ('{"a": 1}\n\n{"a": }\n', "line 3 is not JSON"),
    "b.jsonl": ('{"a": 1}\n[1]\n', "line 2 holds an array"),
    "c.json": ('{"data": []}', "holds a single object"),
    "d.json": ('[{"a": 1}, 3]', "element 2 is a number"),
    "e.json": ('[{"a": 1},\n {"a": 2]', "line 2 is not JSON"),
    "f.csv": ("a,b\n1,2\n1,2,3\n", "not well-formed CSV"),
    "g.csv": ("a,a\n1,2\n", "two columns named a"),
    "h.parquet": ("PAR1 not really", "not a complete parquet file"),
    "i.xlsx": ("a", "unknown type ('.xlsx')"),
    "j": ("a", "unknown type ('no suffix')"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_malformed_file_is_named_with_its_line(tmp_path, name):
    content, said = BROKEN[name]
    (tmp_path / name).write_text(content)
    problem = problem_of(load_splits, section(tmp_path / name))
    assert problem.key == "data.path"
    assert said in problem.problem
    assert name in problem.problem


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_text_that_is_not_utf8_and_empty_files_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"a": "caf\xe9"}')
    problem = problem_of(load_splits, section(tmp_path / name))
    assert "is not UTF-8 text (byte 11)" in problem.problem
    (tmp_path / name).write_bytes(b"")
    problem = problem_of(tokenise, section(tmp_path / name, task="causal_lm"), PLAIN, None)
    assert problem.key == "data.path"


def test_paths_that_lead_nowhere_are_refused(tmp_path):
    for path in (tmp_path / "no.jsonl", "./nothing", "no.csv", "a/b/c", {"train": str(tmp_path / "no.jsonl")}):
        problem = problem_of(source_fingerprint, section(path))
        assert problem.key == "data.path"
        assert "there is no file" in problem.problem
    assert "no data files" in problem_of(load_splits, section(tmp_path)).problem
    assert "is a folder" in problem_of(load_splits, section({"train": str(tmp_path)})).problem


def test_files_of_a_split_with_different_columns_are_refused(tmp_path):
    files = [str(write(tmp_path / "a.jsonl", TRAIN)), str(write(tmp_path / "b.jsonl", [{"text": "x"}]))]
    problem = problem_of(load_splits, section({"train": files}))
    assert "different columns" in problem.problem
    assert "b.jsonl has text" in problem.problem


def test_settings_for_the_hub_are_refused_elsewhere(tmp_path):
    path = write(tmp_path / "a.jsonl", TRAIN)
    for source in (path, "builtin:general-text", {"train": str(path)}):
        with pytest.raises(Refused) as refused:
            load_splits(section(source, subset="main", revision="main"))
        assert [problem.key for problem in refused.value.problems] == ["data.revision", "data.subset"]


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    first = source_fingerprint(section(write(tmp_path / "a.jsonl", TRAIN)))
    assert source_fingerprint(section(write(tmp_path / "b.jsonl", TRAIN))) == first
    assert source_fingerprint(section(write(tmp_path / "b.jsonl", TRAIN[1:]))) != first
    datasets.Dataset.from_list(TRAIN).save_to_disk(tmp_path / "saved")
    saved = source_fingerprint(section(tmp_path / "saved"))
    datasets.Dataset.from_list(TRAIN[1:]).save_to_disk(tmp_path / "other")
    assert source_fingerprint(section(tmp_path / "other")) != saved == source_fingerprint(section(tmp_path / "saved"))


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no shared data here")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gsm8k_unseen.jsonl", {"columns": QA}),
        ("alpaca_demo.json", {"columns": {"completion": "output"}, "template": "{instruction}\n{input}\n"}),
        ("dialogsum_dev.jsonl", {"columns": {"prompt": "dialogue", "completion": "summary"}, "max_length": 2048}),
        ("sentiment_train.jsonl", {"columns": {"prompt": "text", "completion": "label"}}),
    ],
)
def test_real_files_are_read_as_they_are(name, settings):
    data = tokenise(section(SHARED / "data" / name, max_train_examples=50, **settings), PLAIN, None)
    assert data.facts.splits["train"].rows == 50
    assert data.facts.splits["train"].scored_bytes > 0
