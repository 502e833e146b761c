"""The commands over the shipped experiments: `lora-dist recipes list|show|copy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_dist.cli.output import finish, stdout

recipes_app = typer.Typer(help="The shipped experiments.", no_args_is_help=True)


@recipes_app.command("list")
def recipes_list() -> None:
    """Show the names and what each is for."""
    from lora_dist.verbs.recipes import recipes

    for recipe in recipes():
        stdout.print(f"{recipe.name:12} {recipe.summary}", highlight=False, markup=False, soft_wrap=True)


@recipes_app.command("show")
def recipes_show(name: str) -> None:
    """Print a recipe's YAML."""
    from lora_dist.verbs.recipes import show_recipe

    stdout.print(show_recipe(name).text, highlight=False, markup=False, soft_wrap=True, end="")


@recipes_app.command("copy")
def recipes_copy(
    name: str, to: Annotated[Path | None, typer.Argument(help="File or folder; here by default.")] = None
) -> None:
    """Copy a recipe, to be changed."""
    from lora_dist.verbs.recipes import copy_recipe

    path = copy_recipe(name, to)
    finish({"recipe": path}, f"lora-dist compare {path}")
