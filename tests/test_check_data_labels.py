"""check-data of a classification: its labels, what of them stops training, and texts that no label is cut from."""

from __future__ import annotations

import json
import re

import pytest
from conftest import run_cli

SENTENCES = ["fine and bright", "dull and grey", "so so, all in all", "bright enough", "grey again", "as usual"]


def write(folder, train, test, **data):
    for name, labels in (("train", train), ("test", test)):
        rows = [{"text": f"{SENTENCES[i % 6]} {name} {i}", "label": label} for i, label in enumerate(labels)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}
    return [f"data={json.dumps({'task': 'classification', 'path': paths, **data})}"]


@pytest.mark.parametrize(
    ("train", "test", "code", "said"),
    [
        (["good"] * 20 + ["bad"] * 10, ["good"] * 4 + ["odd"], 2, "labels in column 'label' that train lacks: 'odd'"),
        (["good"] * 30, ["good"] * 4, 2, "all rows of train have the same label"),
        (["good"] * 20 + ["bad"] * 10, ["good"] * 3 + ["bad"], 0, "always saying 'good' would be right on 75"),
    ],
)
def test_labels_are_counted_and_those_that_stop_training_named(tmp_path, tiny_model, train, test, code, said):
    done = run_cli("check-data", f"model.path={tiny_model}", *write(tmp_path, train, test), cwd=tmp_path)
    text = " ".join((done.out + done.err).split())
    assert done.code == code, text
    assert said in text
    if code == 0:
        assert "the loss is on its label" in text
        train_and_validation = re.search(
            r"good (\d+) \([\d.]+%\) (\d+) \([\d.]+%\) 3 \(75%\)", text.replace(".0%", "%")
        )
        assert train_and_validation, text
        assert sum(map(int, train_and_validation.groups())) == 20, "validation is held out of train"
