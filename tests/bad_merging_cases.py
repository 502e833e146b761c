"""Options of `adapter merge` that are none, for test_bad_input.py: found before torch is imported."""

from __future__ import annotations

import os

from bad_input_cases import Place, light


def lock(place: Place) -> None:
    place.write("locked/a.txt", "x")
    place.mount(place.path / "read-only", "ro")


def write_only_file(place: Place) -> None:
    place.write("taken/a.txt", "x")
    os.mkdir(place.path / "empty")


MERGE = "adapter merge a b --into merged"
MERGING = [
    light("merge nothing", "adapter merge --into merged", "Missing argument 'ADAPTER", "--help"),
    light("merge nowhere", "adapter merge a", "Missing option '--into'", "--help"),
    light("merge settings alone", "adapter merge data.task=x --into merged", "ADAPTER", "give a folder"),
    light("too few weights", f"{MERGE} --weights 0.7", "--weights: 1 for 2 adapters", "0.7,0.3"),
    light("too many weights", f"{MERGE} --weights 1,1,1", "--weights: 3 for 2 adapters", "0.7,0.3"),
    light("weights of words", f"{MERGE} --weights much,little", "--weights", "write them as 0.7,0.3"),
    light("endless weights", f"{MERGE} --weights inf,1", "--weights", "give numbers"),
    light("density 0", f"{MERGE} --method ties --density 0", "--density", "above 0, to 1"),
    light("density 2", f"{MERGE} --method dare --density 2", "--density", "above 0, to 1"),
    light("density of words", f"{MERGE} --density half", "Invalid value for '--density'", "--help"),
    light("seed below 0", f"{MERGE} --method dare --seed -1", "--seed", "from 0"),
    light("unknown method", f"{MERGE} --method tise", "--method", "did you mean 'ties'"),
    light("unknown dtype", f"{MERGE} --dtype float8", "--dtype", "bfloat16"),
    light("revision of nothing", f"{MERGE} --revision main", "--revision", "--base"),
    light("data not to be used", f"{MERGE} --no-evaluate --data x", "--data", "--no-evaluate out"),
    light("words not to be used", f"{MERGE} --no-evaluate data.task=x", "data.task=x", "--no-evaluate out"),
    light("into a full folder", "adapter merge a --into taken", "--into", "name a new folder", write_only_file),
    light("into a file", "adapter merge a --into small.yaml", "--into", "name a new folder"),
    light("into below a file", "adapter merge a --into small.yaml/m", "--into", "choose another --into"),
    light("into a disk of others", "adapter merge a --into read-only/m", "--into", "you may write to", lock),
    light("push to no repository", f"{MERGE} --push ../x", "--push", "OWNER/NAME"),
    light("push offline", f"{MERGE} --push me/x", "--push", "hf upload"),
]  # fmt: skip
