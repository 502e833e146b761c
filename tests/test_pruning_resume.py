"""A pruning that is killed goes on from its last whole block, and ends with the same bytes."""

from __future__ import annotations

import os
import signal

import pytest
from family_cases import FAMILIES, VOCAB, build
from pruning_cases import ids_of, prune_to, shards_of, stream_to

from lora_dist.config.pruning import PruneSection
from lora_dist.models.device import one_thread
from lora_dist.pruning import passes

BLOCKS = 4
IDS = ids_of(samples=5, length=16, vocabulary=VOCAB)
SECTIONS = {
    "sparsegpt": PruneSection(sparsity=0.5),
    "dense inputs": PruneSection(pattern="2:4", mode="dense_inputs"),
    "wanda": PruneSection(kind="wanda", sparsity=0.5),
}


@pytest.fixture(autouse=True)
def small_passes(monkeypatch):
    monkeypatch.setattr(passes, "PASS_TOKENS", 2 * 16)
    with one_thread():
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "model"
    config = FAMILIES["gemma3"]()
    config = type(config).from_dict({**config.to_dict(), "num_hidden_layers": BLOCKS, "layer_types": None})
    build(config).save_pretrained(folder)
    return folder


class Beats:
    """Counts what a pruning tells, and dies at one of them."""

    def __init__(self, fatal: int = -1):
        self.fatal, self.heard = fatal, []

    def __call__(self, done, total, text):
        if len(self.heard) == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.heard.append((done, text))


def killed_at(beat, folder, source, section):
    """Prune in a child that kills itself at its `beat`-th word; True unless it had finished by then."""
    pid = os.fork()
    if pid == 0:
        try:
            prune_to(folder, source, section, IDS, progress=Beats(beat))
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    """The files of an undisturbed pruning, and what it told; by section."""
    made = {}

    def of(name):
        if name not in made:
            beats = Beats()
            folder = prune_to(tmp_path_factory.mktemp("undisturbed") / "m", source, SECTIONS[name], IDS, progress=beats)
            made[name] = shards_of(folder), beats.heard
        return made[name]

    return of


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_killed_within_a_block_it_resumes_to_the_same_bytes(name, block, source, undisturbed, tmp_path):
    expected, heard = undisturbed(name)
    within = [number for number, (done, _) in enumerate(heard) if done == block]
    assert killed_at(within[-1], tmp_path / "m", source, SECTIONS[name])
    beats = Beats()
    prune_to(tmp_path / "m", source, SECTIONS[name], IDS, progress=beats)
    assert shards_of(tmp_path / "m") == expected
    solved = {done for done, text in beats.heard if text.startswith("solving")}
    written = block + 1 if "outputs" in heard[within[-1]][1] else block  # its shard is on the disk before its outputs
    assert solved == set(range(written, BLOCKS))


@pytest.mark.slow
@pytest.mark.parametrize("name", SECTIONS)
def test_killed_at_every_word_it_resumes_to_the_same_bytes(name, source, undisturbed, tmp_path):
    expected, heard = undisturbed(name)
    for beat in range(len(heard)):
        folder = tmp_path / str(beat)
        assert killed_at(beat, folder, source, SECTIONS[name])
        prune_to(folder, source, SECTIONS[name], IDS)
        assert shards_of(folder) == expected, heard[beat]


def test_killed_again_and_again_it_still_arrives(source, undisturbed, tmp_path):
    expected, heard = undisturbed("sparsegpt")
    for beat in (3, len(heard) // 3, len(heard) // 2, len(heard) // 2 + 1):
        assert killed_at(beat, tmp_path / "m", source, SECTIONS["sparsegpt"])
    prune_to(tmp_path / "m", source, SECTIONS["sparsegpt"], IDS)
    assert shards_of(tmp_path / "m") == expected


@pytest.mark.parametrize("how", ["truncated", "changed", "removed", "no mask", "entry"])
def test_a_block_that_is_not_as_it_was_written_is_pruned_anew(how, source, undisturbed, tmp_path, caplog):
    expected, _ = undisturbed("sparsegpt")
    stream, output = stream_to(tmp_path / "m", source, SECTIONS["sparsegpt"])
    stream.run(IDS)
    shard = output.partial / output.shard_name(1)
    if how == "truncated":
        shard.write_bytes(shard.read_bytes()[:-7])
    elif how == "changed":
        shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    elif how == "removed":
        shard.unlink()
    elif how == "no mask":
        (output.partial / "masks" / shard.name).unlink()
    else:
        (output.partial / "blocks" / "00001.json").write_text("{")
    beats = Beats()
    prune_to(tmp_path / "m", source, SECTIONS["sparsegpt"], IDS, progress=beats)
    assert shards_of(tmp_path / "m") == expected
    assert {done for done, text in beats.heard if text.startswith("solving")} == {1, 2, 3}
    assert how == "entry" or "block 1 is not as it was written" in caplog.text


def test_blocks_made_of_other_weights_are_not_gone_on_from(source, tmp_path, caplog):
    stream, output = stream_to(tmp_path / "m", source, SECTIONS["sparsegpt"])
    stream.run(IDS)
    output.begin({"source": "another"})
    assert output.done() == {}
    assert "pruned anew" in caplog.text
