"""How a command line ends: its exit code, and what is said on the way out."""

from __future__ import annotations

import sys
import time
from typing import Any

import typer
import typer.core

from lora_dist.cli.output import print_lines, print_refusal, print_usage_error
from lora_dist.errors import Interrupted, LoraDistError, UserError

FIRST_SPEAKS_S = 1.0
"""A rank that repeats what rank 0 raised is silent, and waits: a launcher ends all ranks as soon as one has ended."""


class Commands(typer.core.TyperGroup):
    """The verbs, with Ctrl-C as an error of our own: typer (0.29) would make it exit code 130."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Do the verb.

        Raises:
            Interrupted: by Ctrl-C.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None


def run_to_exit(app: typer.Typer) -> None:
    """Run the command line and end the process with its exit code."""
    try:
        code = app(standalone_mode=False)
    except LoraDistError as error:
        if error.is_told_by_first:
            time.sleep(FIRST_SPEAKS_S)
        else:
            _print_error(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print_lines(str(Interrupted()))
        sys.exit(Interrupted.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has gone: nobody is left to be told
        sys.exit(0)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # a usage error of click
            print_usage_error(error.format_message())
            sys.exit(UserError.exit_code)
        raise
    sys.exit(code or 0)


def _print_error(error: LoraDistError) -> None:
    if isinstance(error, UserError):
        print_refusal(error)
    else:
        print_lines(str(error))
