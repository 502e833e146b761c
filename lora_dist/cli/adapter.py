"""The commands over trained adapters: `lora-dist adapter merge`."""

from __future__ import annotations

import typer

from lora_dist.cli.adapter_merge import merge

adapter_app = typer.Typer(help="Trained adapters: see what is there, merge, compare.", no_args_is_help=True)
adapter_app.command()(merge)
