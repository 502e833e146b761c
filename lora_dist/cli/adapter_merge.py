"""`lora-dist adapter merge`: options in, the table of scores and the files out."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_dist.cli.output import finish, print_lines, stdout
from lora_dist.config.combination import METHODS, Combination
from lora_dist.errors import ConfigError

if TYPE_CHECKING:
    from lora_dist.verbs.merge import MergeResult

_USUAL = Combination()


def merge(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER... [KEY=VALUE...]",
            help="Folders of adapters or of the runs that trained them, or hub ids; then overrides for the evaluation, "
            "such as data.max_eval_examples=100.",
        ),
    ],
    into: Annotated[Path, typer.Option(help="The folder of the merged model; a new one.")],
    base: Annotated[str | None, typer.Option(help="The base, if not the one that the (first) adapter names.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of --base.")] = None,
    method: Annotated[
        str | None, typer.Option(help=f"How several become one: {', '.join(METHODS)} (default: {_USUAL.method}).")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Of each adapter, such as 0.7,0.3 (default: 1 for each).")] = None,
    density: Annotated[
        float | None, typer.Option(help=f"ties, dare: the share of each update that is kept ({_USUAL.density:g}).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help=f"dare: of the random part ({_USUAL.seed}).")] = None,
    keep_zeros: Annotated[
        bool, typer.Option("--keep-zeros", help="Keep the zeros of a pruned base. Adapters trained so always do.")
    ] = False,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; the base's own by default.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Merge into other weights than the adapter was trained on.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Evaluate on this file, folder, hub id or builtin:NAME, not on the data of the run."),
    ] = None,
    no_evaluate: Annotated[bool, typer.Option("--no-evaluate", help="Do not measure before and after.")] = False,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload the folder to the hub; a new repository is private."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print merge.json (and where it is).")] = False,
) -> None:
    """Merge adapters into the 16-bit weights of their base, and measure what became of them."""
    from lora_dist.cli.progress import StageView
    from lora_dist.verbs.merge import MergeRequest, merge_adapters

    adapters = [word for word in words if "=" not in word or Path(word).exists()]
    given = {"method": method, "weights": _numbers(weights), "density": density, "seed": seed}
    is_default = all(value is None for value in given.values())
    request = MergeRequest(
        adapters=tuple(adapters),
        into=into,
        base=base,
        revision=revision,
        combination=None if is_default else Combination.of(len(adapters), **given),
        keep_zeros=keep_zeros,
        dtype=dtype,
        force=force,
        evaluate=not no_evaluate,
        data=data,
        words=tuple(word for word in words if word not in adapters),
        push=push,
    )
    with StageView() as view:
        result = merge_adapters(request, progress=view)
    if as_json:
        document = {"folder": str(result.folder), "pushed": result.pushed, **result.document}
        stdout.file.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    else:
        print_merged(result, data)


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise ConfigError(
            key="--weights", problem=f"'{text}' is no list of numbers", fix="write them as 0.7,0.3"
        ) from None


def print_merged(result: MergeResult, data: str | None) -> None:
    """What to know, the scores, the files and the next command."""
    document = result.document
    print_lines(*document["notes"])
    if result.evaluation is None:
        print_lines(f"not evaluated: {document['not_evaluated']}")
    else:
        stdout.print(_table(result.evaluation))
    stdout.print(_summary(document), highlight=False, markup=False, soft_wrap=True)
    files = {"model": result.folder, "card": result.folder / "README.md", "facts": result.folder / "merge.json"}
    finish(files, _next_command(result, data))
    if result.pushed:
        stdout.print(f"{'hub:':10} {result.pushed}", markup=False, highlight=False, soft_wrap=True)


def _table(evaluation: dict[str, Any]) -> Any:
    from rich.table import Table

    from lora_dist.reporting.model_card import difference_in_words, in_words

    title = f"perplexity on {evaluation['rows']:,} rows, {evaluation['scored_tokens']:,} tokens, with 95% intervals"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("model", overflow="fold")
    table.add_column("perplexity")
    table.add_column("merged minus it (paired)")
    for model in evaluation["models"]:
        table.add_row(model["name"], in_words(model), difference_in_words(model))
    return table


def _summary(document: dict[str, Any]) -> str:
    merged, zeros = document["merged"], ""
    if merged["zeros_before"] or merged["zeros_after"]:
        zeros = (
            f"; zeros: {merged['zeros_before']:,} before, {merged['zeros_after']:,} after, {merged['filled']:,} filled"
        )
    return f"\nmerged: {merged['linears']} linears, {merged['weights']:,} weights, {merged['dtype']}{zeros}"


def _next_command(result: MergeResult, data: str | None) -> str:
    told = result.document["adapters"][0]["provenance"] or {}
    known = data or told.get("data")
    data = shlex.quote(known) if isinstance(known, str) else "DATA"
    task = told.get("task", "TASK")
    return f"lora-dist evaluate --model {shlex.quote(str(result.folder))} --data {data} data.task={task}"
