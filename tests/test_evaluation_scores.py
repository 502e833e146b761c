import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_dist.errors import StorageError
from lora_dist.evaluation.scores import read_scores, write_scores


@settings(deadline=None, max_examples=30)
@given(pairs=st.lists(st.tuples(st.floats(allow_nan=False), st.integers(1, 2**62))))
def test_scores_come_back_bit_for_bit(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("scores") / "new" / "test.parquet"
    nll_R, tokens_R = np.array([nll for nll, _ in pairs]), np.array([tokens for _, tokens in pairs], np.int64)
    write_scores(path, nll_R, tokens_R)
    nll_back_R, tokens_back_R = read_scores(path)
    assert nll_back_R.tobytes() == nll_R.astype(np.float64).tobytes()
    assert tokens_back_R.tobytes() == tokens_R.tobytes()
    assert [file.name for file in path.parent.iterdir()] == ["test.parquet"]


def test_arrays_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(ValueError, match="token counts"):
        write_scores(tmp_path / "test.parquet", np.ones(2), np.ones(3, np.int64))
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_of_scores_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"missing\.parquet"):
        read_scores(tmp_path / "missing.parquet")
    (tmp_path / "half.parquet").write_bytes(b"PAR1half")
    with pytest.raises(StorageError, match=r"half\.parquet: cannot be read"):
        read_scores(tmp_path / "half.parquet")
    pq.write_table(pa.table({"nll": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(StorageError, match=r"has columns \['nll'\]"):
        read_scores(tmp_path / "other.parquet")


def test_a_login_node_reads_scores_without_torch():
    code = (
        "import sys, lora_dist.evaluation.scores, lora_dist.evaluation.statistics; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
