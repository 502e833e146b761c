"""The table of what adapters are worth before and after merging: in the terminal, the page, the Markdown and a CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from test_reporting_files import Page, report_of
from test_reporting_synthetic import Synthetic
from test_reporting_terminal import shown

from lora_dist.reporting.collect import collect
from lora_dist.reporting.merging import FORM_COLUMNS, forms
from lora_dist.reporting.table import comparison_view
from lora_dist.store.record import MergedForm

ARMS = {
    "base": {"method": {"kind": "base"}},
    "qlora": {"method": {"kind": "qlora"}},
    "filling": {
        "method": {"kind": "lora", "preserve_sparsity": False},
        "prune": {"kind": "magnitude", "sparsity": 0.5},
    },
}


def form(name: str, perplexity: float, versus: list[float] | None, **rest: Any) -> MergedForm:
    return MergedForm(
        form=name, dtype="float32", perplexity=perplexity, nll_sum=100.0, scored_tokens=50,
        ci95={"perplexity": [perplexity - 0.5, perplexity + 0.5]}, versus_trained=versus, **rest,
    )  # fmt: skip


@pytest.fixture
def made(tmp_path):
    """QLoRA whose merge is worth less, and a plain LoRA on a pruned base that fills its zeros."""
    made = Synthetic(tmp_path / "e", ARMS)
    told = {
        "base": [],
        "qlora": [
            form("base_4bit", 11.0, [1.0, 0.8, 1.2]),
            form("adapter_4bit", 10.0, None),
            form("adapter", 9.5, [-0.5, -0.6, -0.4]),
            form("merged", 10.2, [0.2, 0.1, 0.3], zeros=0.0),
        ],
        "filling": [
            form("adapter", 10.0, None, zeros=0.5),
            form("merged", 10.0, [1e-7, 5e-8, 2e-7], zeros=0.0, filled=1.0),
            form("merged_rounded", 10.0003, [0.0003, -0.001, 0.001], zeros=0.0, filled=1.0),
            form("merged_masked", 10.3, [0.3, 0.2, 0.4], zeros=0.5, filled=0.0),
        ],
    }
    for run in made.runs:
        folder = made.finish(run, 2.3)
        problem = "model.path: 'x' is stored quantised" if run.arm == "qlora" else None
        update = {"merging": told[run.arm], "merging_problem": problem}
        folder.read_record().model_copy(update=update).write(folder.record)
    return made


def test_rounding_is_the_same_and_intervals_decide_the_rest(made):
    found = {(row.row.run.arm, row.form.form): row for row in forms(collect([made.folder]))}
    verdicts = {name: row.verdict for name, row in found.items()}
    assert verdicts["qlora", "base_4bit"] == verdicts["qlora", "merged"] == "worse"
    assert verdicts["qlora", "adapter"] == "better"
    assert verdicts["filling", "merged"] == verdicts["filling", "adapter"] == ""  # 1e-8 of it is rounding
    assert found["filling", "merged"].is_same
    assert verdicts["filling", "merged_rounded"] == "no difference shown"
    assert verdicts["filling", "merged_masked"] == "worse"


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_each_form_under_its_run(made, width):
    text = shown(comparison_view(collect([made.folder]), width), width)
    assert max(map(len, text.splitlines())) <= width
    told = " ".join(text.split())
    for words in ("Before and after merging", "4-bit base", "merged with a mask", "+0.20 worse", "the same", "trained"):
        assert words in told
    assert "Merging filling fills the zeros of the pruned base again" in told
    assert "Merging filling with a mask that it was not trained with costs 0.300 perplexity" in told
    assert "What merging qlora gives was not measured: model.path: 'x' is stored quantised." in told
    assert "qlora was trained on a 4-bit base; merged into unquantised weights: +0.20 [0.10, 0.30] perplexity" in told


def test_page_markdown_and_csv_have_the_same_forms(made):
    texts = report_of(made)
    assert "4-bit base + adapter" in "".join(Page(texts["report.html"]).words)
    assert "| qlora | 4-bit base<br>float32 |" in texts["report.md"]
    rows = list(csv.DictReader(io.StringIO((made.folder.report / "merging.csv").read_text())))
    assert tuple(rows[0]) == FORM_COLUMNS
    assert [row["form"] for row in rows if row["name"] == "filling"] == [
        "adapter", "merged", "merged_rounded", "merged_masked"
    ]  # fmt: skip
    (masked,) = (row for row in rows if row["form"] == "merged_masked")
    assert (float(masked["perplexity"]), float(masked["versus_trained"]), float(masked["filled"])) == (10.3, 0.3, 0.0)


def test_without_adapters_there_is_no_such_table(tmp_path):
    made = Synthetic(tmp_path / "e", {"base": {"method": {"kind": "base"}}})
    made.finish(made.of("base"), 2.3)
    assert "merging" not in report_of(made)["report.md"]
    assert not (made.folder.report / "merging.csv").exists()
