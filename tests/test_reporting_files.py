"""The report's files: complete, escaped whatever the texts hold, self-contained, and exact."""

from __future__ import annotations

import base64
import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib import image
from test_reporting_synthetic import RESAMPLES, SAMPLES, Synthetic, whole

from lora_dist.errors import StorageError
from lora_dist.reporting.csv_file import COLUMNS
from lora_dist.reporting.line_plots import RANK
from lora_dist.reporting.markdown import escape
from lora_dist.reporting.plots import FILE_NAMES as PLOTS
from lora_dist.reporting.write import write_report
from lora_dist.store.folders import ExperimentFolder

HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></style></textarea><img src=x onerror=alert(2)>",
    "a | b | c\nd | e\r\n| --- |",
    "```\n# not a heading\n````\n~~~",
    '" onmouseover="alert(3)" \' {{ 7 * 7 }} {% raw %} &amp; &lt;',
    "\U0001f600 \u202eright to left\u202c \x1b[31mred\x1b[0m \x00 \u2028 end",
    "[link](javascript:alert(4)) ![img](http://example.com/x.png) <http://example.com>",
    "x" * 20_000,
)


class Page(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data):
        self.words.append(data)


def hostile(path: Path) -> Synthetic:
    """Every run finished or failed with hostile texts wherever a text of others can stand."""
    samples = [
        {"row": index, "prompt": text, "reference": text[::-1], "prediction": f"{text}\ud800", "new_tokens": 3}
        for index, text in enumerate(HOSTILE)
    ]
    arms = {
        "base": {"method": {"kind": "base"}},
        "lora": {"points": [{"data.template": HOSTILE[0]}, {"data.template": "$\\frac{$ | `x`"}]},
        "full": {"method": {"kind": "full"}},
        "broken": {"points": [{"train.max_steps": number + 1} for number in range(len(HOSTILE))]},
    }
    evaluate = {"bootstrap_samples": RESAMPLES, "samples": len(HOSTILE)}
    made = Synthetic(path, arms, evaluate=evaluate)
    failing = iter(HOSTILE)
    for run in made.runs:
        if run.arm == "broken":
            made.end(run, "failed", next(failing))
        else:
            made.finish(run, 2.5, samples=samples)
    return made


FILE_NAMES = (*PLOTS, RANK)
"""The plots of an experiment that sweeps a rank."""


def report_of(made: Synthetic) -> dict[str, str]:
    report = write_report([made.folder], made.folder.report)
    return {path.name: path.read_text() for path in report.files if path.suffix != ".png"}


def test_a_whole_experiment_gives_every_file(tmp_path):
    made = whole(tmp_path / "e")
    report = write_report([made.folder], made.folder.report)
    names = {"report.html", "report.md", "results.csv", *FILE_NAMES}
    assert {path.name for path in report.files} == names == {path.name for path in made.folder.report.iterdir()}
    assert len(report.rows) == len(made.runs)


def test_hostile_texts_stay_texts_in_the_page(tmp_path):
    page = Page(report_of(hostile(tmp_path / "e"))["report.html"])
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    text = "".join(page.words)
    for given in (HOSTILE[0], HOSTILE[1], HOSTILE[4], HOSTILE[6], HOSTILE[7]):
        assert given in text
    assert "{{ 7 * 7 }}" in text  # not evaluated by the template engine
    assert not set(text) & {"\x00", "\x1b", "\ud800"}


def test_the_page_loads_nothing_from_anywhere(tmp_path):
    page = Page(report_of(hostile(tmp_path / "e"))["report.html"])
    for _, attributes in page.tags:
        for name in ("src", "srcset", "href", "action", "data", "poster"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,")
    policies = [attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_hostile_texts_cannot_break_the_markdown(tmp_path):
    made = hostile(tmp_path / "e")
    text = report_of(made)["report.md"]
    fence, tables = "", []
    for line in text.split("\n"):
        if fence:
            fence = "" if line.strip() == fence else fence
        elif match := re.match(r"(`{3,})text$", line):
            fence = match[1]
        else:
            assert "<script" not in line
            assert "<img" not in line
            assert not line.startswith("# not")
            tables += [line] if line.startswith("|") else []
    assert fence == ""
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in tables if "logs" in line}
    assert cells == {5}  # run, state, why, log: no text opened another column
    assert len([line for line in tables if "failed" in line]) == len(HOSTILE)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("- a", r"\- a"), ("# a", r"\# a"), ("---", r"\---"), ("1. a", r"1\. a"), ("-0.38", "-0.38"), ("0.5", "0.5"),
        ("[a](b)", r"\[a\](b)"), ("<b>&", "&lt;b&gt;&amp;"), ("a|b`c", r"a\|b\`c"), ("a\n# b", "a # b"),
    ],
)  # fmt: skip
def test_markdown_is_escaped_where_it_would_be_markup_and_readable_elsewhere(given, told):
    assert escape(given) == told


def test_the_csv_gives_back_every_number_exactly(tmp_path):
    made = whole(tmp_path / "e")
    table = list(csv.DictReader(io.StringIO(report_of(made)["results.csv"])))
    assert [row["run"] for row in table] == [run.id for run in made.runs]
    for line, run in zip(table, made.runs, strict=True):
        record = made.folder.run(run.id).read_record()
        assert float(line["test_perplexity"]) == record.evaluate["test"]["perplexity"]
        assert float(line["test_nll_sum"]) == record.evaluate["test"]["nll_sum"]
        assert [float(line["test_perplexity_low"]), float(line["test_perplexity_high"])] == (
            record.evaluate["test"]["ci95"]["perplexity"]
        )
        assert int(line["parameters_trainable"]) == record.model.parameters_trainable
        if record.train:
            assert float(line["training_tokens_per_second"]) == record.train.tokens_per_second
            assert int(line["training_scored_tokens"]) == record.train.scored_tokens
            assert int(line["train_scored_tokens"]) == record.evaluate["train"]["scored_tokens"]
        else:
            assert line["seed"] == line["learning_rate"] == line["training_seconds"] == ""


def test_the_csv_has_unfinished_runs_and_no_formulas(tmp_path):
    made = Synthetic(tmp_path / "e")
    made.end(made.of("base"), "failed", '=HYPERLINK(1)\n, "and" more')
    table = list(csv.DictReader(io.StringIO(report_of(made)["results.csv"])))
    assert len(table) == len(made.runs)
    assert table[0]["state"] == "failed"
    assert table[0]["reason"] == '\'=HYPERLINK(1) , "and" more'
    assert table[0]["test_perplexity"] == ""


def test_the_columns_of_the_csv_are_what_scripts_rely_on():
    assert list(COLUMNS)[:11] == [
        "experiment", "run", "arm", "name", "label", "state", "method", "rank", "alpha", "learning_rate", "seed",
    ]  # fmt: skip
    wanted = {
        "parameters_trainable", "training_seconds_per_epoch", "training_tokens_per_second",
        "training_peak_memory_bytes", "generated_tokens_per_second", "train_perplexity",
        "test_perplexity", "test_perplexity_low",
        "test_perplexity_high", "test_bits_per_byte", "versus_base", "versus_full", "versus_full_low",
        "versus_full_high", "versus_full_verdict", "token_hash", "reason", "log",
    }  # fmt: skip
    assert wanted <= set(COLUMNS)


def test_plots_are_pictures_with_something_on_them(tmp_path):
    made = hostile(tmp_path / "e")
    write_report([made.folder], made.folder.report)
    for name in PLOTS:
        pixels = image.imread(made.folder.report / name)[..., :3]
        assert min(pixels.shape[:2]) > 500
        assert len({tuple(color) for color in pixels.reshape(-1, 3)[::7].tolist()}) > 20


def test_the_page_holds_the_plots_that_lie_beside_it(tmp_path):
    made = whole(tmp_path / "e")
    page = Page(report_of(made)["report.html"])
    shown = [attributes["src"].split(",")[1] for tag, attributes in page.tags if tag == "img"]
    assert [base64.b64decode(data) for data in shown] == [
        (made.folder.report / name).read_bytes() for name in FILE_NAMES
    ]


def test_generations_stand_side_by_side_under_their_prompt(tmp_path):
    text = "".join(Page(report_of(whole(tmp_path / "e"))["report.html"]).words)
    for sample in SAMPLES:
        assert text.count(sample["prompt"]) == 1
    assert text.index("Prompt 1") < text.index("Reference") < text.index("Prompt 2")


@pytest.mark.parametrize("outcome", ["", "failed"])
def test_an_experiment_without_finished_runs_is_reported(tmp_path, outcome):
    made = Synthetic(tmp_path / "e")
    if outcome:
        for run in made.runs:
            made.end(run, outcome, "out of memory")
    report = write_report([made.folder], tmp_path / "out")
    assert {path.name for path in report.files} == {"report.html", "report.md", "results.csv"}
    assert report.headlines[0].title == "No run has finished yet"
    assert len(report.comparison.unfinished) == len(made.runs)
    assert Page((tmp_path / "out" / "report.html").read_text()).open == []


def test_plots_of_an_earlier_report_do_not_stay_behind(tmp_path):
    made = whole(tmp_path / "e")
    write_report([made.folder], made.folder.report)
    for run in made.runs:
        made.folder.run(run.id).record.unlink()
    write_report([made.folder], made.folder.report)
    assert not list(made.folder.report.glob("*.png"))


def test_the_same_folder_gives_the_same_report(tmp_path):
    made = whole(tmp_path / "e")
    first = write_report([made.folder], tmp_path / "one")
    second = write_report([made.folder], tmp_path / "two")
    for one, two in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_a_report_that_cannot_be_written_says_so(tmp_path):
    made = whole(tmp_path / "e")
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(StorageError):
        write_report([made.folder], blocked / "report")


def test_several_experiments_make_one_report(tmp_path):
    folders: list[ExperimentFolder] = [whole(tmp_path / name).folder for name in ("one", "two")]
    report = write_report(folders, tmp_path / "both")
    assert {row.experiment for row in report.rows} == {"one", "two"}
    assert "lora-dist report" in (tmp_path / "both" / "report.md").read_text()
