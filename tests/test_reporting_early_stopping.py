"""What the report says of models that were chosen by the validation loss."""

from __future__ import annotations

import csv
import io

from test_reporting_synthetic import Synthetic

from lora_dist.reporting.collect import collect
from lora_dist.reporting.csv_file import csv_text
from lora_dist.reporting.plots import CURVES, draw_plots

PART = {"steps_planned": 60, "best_step": 20, "best_loss": 2.4567, "last_loss": 2.6, "keeps_best": True}


def compared(path, **parts):
    made = Synthetic(path, arms={name: {"method": {"kind": name}} for name in ("base", "lora", "full")})
    for run in made.runs:
        made.finish(run, 2.5, early_stopping=parts.get(run.arm))
    return collect([made.folder])


def test_the_step_of_each_model_is_told_and_where_training_ended(tmp_path):
    falling = PART | {"steps_planned": 40, "best_step": 40}
    comparison = compared(tmp_path / "stopped", lora=PART, full=falling)
    notes = [note for note in comparison.notes if "validation loss" in note]
    assert notes == [
        "Early stopping: each model is that of the lowest validation loss. lora: 2.457 at step 20 of 60, ended at 40; "
        "full: 2.457 at step 40 of 40.",
        "The validation loss of full was lowest after the last step: more may lower it further.",
    ]
    rows = {row["arm"]: row for row in csv.DictReader(io.StringIO(csv_text(comparison.finished)))}
    assert rows["lora"]["early_stopping_best_step"] == "20"
    assert rows["lora"]["early_stopping_best_loss"] == "2.4567"
    assert rows["base"]["early_stopping_best_step"] == ""


def test_a_loss_that_was_only_measured_is_drawn_and_nothing_else(tmp_path):
    plain = compared(tmp_path / "plain")
    measured = compared(tmp_path / "measured", lora=PART | {"keeps_best": False})
    assert measured.notes == plain.notes
    before, after = (
        next(plot for plot in draw_plots(found) if plot.file_name == CURVES) for found in (plain, measured)
    )
    assert "Rings" in after.caption
    assert "Rings" not in before.caption
    assert after.png != before.png
