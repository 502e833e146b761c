import http.server
import json
import threading

import datasets
import pytest
from test_data_sources import QA, TEST, TRAIN, problem_of, write
from test_data_tokenizers import bpe, section

from lora_dist.data.hub import hub_splits
from lora_dist.data.sources import load_splits, source_fingerprint
from lora_dist.data.tokenise import tokenise

PLAIN = bpe()


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache of hub datasets as `datasets` lays it out, with two subsets of one dataset, and no network."""
    for subset, rows in (("main", TRAIN), ("socratic", TEST)):
        write(tmp_path / "rows.parquet", rows)
        files = {"train": str(tmp_path / "rows.parquet")}
        built = datasets.load_dataset("parquet", name=subset, data_files=files, cache_dir=str(tmp_path / "built"))
        home = tmp_path / "cache" / "acme___sums" / subset / "0.0.0" / ("c0ffee" + "0" * 34)
        home.mkdir(parents=True)
        source = next((tmp_path / "built").glob(f"parquet/{subset}*/*/*/dataset_info.json")).parent
        info = json.loads((source / "dataset_info.json").read_text()) | {"dataset_name": "sums", "config_name": subset}
        (home / "dataset_info.json").write_text(json.dumps(info))
        (source / "parquet-train.arrow").rename(home / "sums-train.arrow")
        del built
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def test_a_hub_dataset_comes_from_the_cache_when_offline(hub_cache, tmp_path):
    main = section("acme/sums", subset="main", columns=QA)
    local = section(write(tmp_path / "rows.parquet", TRAIN), columns=QA)
    assert tokenise(main, PLAIN, None).facts.token_hash == tokenise(local, PLAIN, None).facts.token_hash
    assert source_fingerprint(main) == source_fingerprint(main)
    assert source_fingerprint(main) != source_fingerprint(section("acme/sums", subset="socratic"))
    assert problem_of(load_splits, section("acme/sums", subset="main", eval_split="t")).fix == "use one of train"


def test_a_hub_dataset_that_cannot_be_had_offline_is_refused(hub_cache):
    problem = problem_of(load_splits, section("acme/nothing"))
    assert problem.key == "data.path"
    assert "the hub is not asked" in problem.problem
    for subset in (None, "other"):
        problem = problem_of(load_splits, section("acme/sums", subset=subset))
        assert problem.key == "data.subset"
        assert {"main", "socratic"} == set(problem.fix.removeprefix("use one of ").split(", "))


HUB_ANSWERS = {
    "acme/missing": (401, "RepoNotFound"),
    "acme/gated": (403, "GatedRepo"),
    "acme/known": (404, "RevisionNotFound"),
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server that answers as the hub does for datasets that one may not have."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, code = next(answer for name, answer in HUB_ANSWERS.items() if name in self.path)
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "revision", "key", "said"),
    [
        ("acme/missing", None, "data.path", "no dataset of the hub that can be accessed"),
        ("acme/gated", None, "data.path", "is gated"),
        ("acme/known", "v9", "data.revision", "has no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(hub, path, revision, key, said):
    problem = problem_of(load_splits, section(path, revision=revision))
    assert problem.key == key
    assert said in problem.problem


CARD = """---
configs:
- config_name: main
  data_files: main.jsonl
- config_name: socratic
  data_files: socratic.jsonl
---
"""


@pytest.mark.parametrize(("subset", "said"), [(None, "has several subsets"), ("other", "has no subset 'other'")])
def test_a_wrong_subset_is_answered_with_those_that_the_datasets_card_lists(tmp_path, subset, said):
    (tmp_path / "README.md").write_text(CARD)  # a folder with a card goes through the same code as a hub repository
    for name in ("main", "socratic"):
        write(tmp_path / f"{name}.jsonl", TRAIN)
    problem = problem_of(hub_splits, str(tmp_path), subset, None)
    assert problem.key == "data.subset"
    assert said in problem.problem
    assert problem.fix == "use one of main, socratic"


def test_a_dataset_that_needs_a_program_is_refused(tmp_path):
    folder = tmp_path / "sums"
    folder.mkdir()
    (folder / "sums.py").write_text("raise SystemExit('this must not be run')")
    problem = problem_of(hub_splits, str(folder), None, None)
    assert "needs a program of its own" in problem.problem
    assert "refs/convert/parquet" in problem.fix
