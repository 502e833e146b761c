"""The commands over trained adapters: `lora-dist adapter list|generate|merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lora_dist.cli.adapter_merge import merge
from lora_dist.cli.several_words import SeveralWords
from lora_dist.verbs.adapter_generate import BATCH_SIZE, MAX_NEW_TOKENS

adapter_app = typer.Typer(help="Trained adapters: see what is there, merge, compare.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@adapter_app.command("list")
def adapter_list(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder with adapters somewhere below it.")],
    as_json: AsJson = False,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Those of checkpoints, too.")] = False,
) -> None:
    """Show the adapters below a folder: base, method, data and scores. Loads no weights."""
    from lora_dist.cli.adapter_output import print_adapters
    from lora_dist.verbs.adapter_list import adapter_list as do_list

    print_adapters(do_list(folder, checkpoints=checkpoints), folder, as_json=as_json)


@adapter_app.command("generate", cls=SeveralWords)
def adapter_generate(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE", help="The model under the adapters: a folder, a hub id or builtin:tiny-llama. Goes first."
        ),
    ],
    adapters: Annotated[
        list[str],
        typer.Option(
            metavar="ADAPTER ...",
            help="One or several: an adapter's folder, the folder of the run that trained it, a hub id.",
        ),
    ],
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT ...", help="One or several, given to the model as they are.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Prompts: a .txt, one on each line, or a column `prompt` or `messages`.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest continuation.")] = MAX_NEW_TOKENS,
    batch_size: Annotated[int, typer.Option(help="Prompts x adapters in one batch.")] = BATCH_SIZE,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the base; auto is bfloat16 where the device computes in it, else float32."),
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Take adapters of other weights, if the shapes fit.")] = False,
    no_base: Annotated[bool, typer.Option("--no-base", help="Leave the bare base out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Continue prompts by several adapters, side by side, swapping them on one loaded base."""
    from lora_dist.cli.adapter_output import print_generations
    from lora_dist.cli.progress import StageView
    from lora_dist.verbs.adapter_generate import adapter_generate as do_generate

    with StageView() as view:
        found = do_generate(
            base,
            adapters,
            prompts=prompt or (),
            file=file,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            dtype=dtype,
            force=force,
            with_base=not no_base,
            progress=view,
        )
    print_generations(found, as_json=as_json)


adapter_app.command()(merge)
