"""A model's folder pushed to the hub: whether one may, before any work; then the upload."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from lora_dist.errors import ConfigError, ToolError
from lora_dist.hub import chain_of, is_offline, why_unreachable

KEY = "--push"
_LATER = "leave --push out, and upload the folder later: hf upload REPO DIR"


def check_push(repository: str) -> None:
    """Make sure that the hub is there and knows who is asking.

    Raises:
        ConfigError: `repository` is no name of one.
        ToolError: there is no network or no login, or the login may only read.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(key=KEY, problem=f"'{repository}' is no hub id", fix="use OWNER/NAME") from error
    if is_offline():
        raise ToolError(key=KEY, problem=why_unreachable(), fix=_LATER)
    if get_token() is None:
        raise ToolError(key=KEY, problem="nobody is logged in to the hub", fix="hf auth login, or leave --push out")
    with _hub_errors(f"cannot be asked whether you may write '{repository}'"):
        who = HfApi().whoami()
    if ((who.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise ToolError(key=KEY, problem="this login may only read", fix="hf auth login with a token that may write")


def push(folder: Path, repository: str, message: str, instead: dict[str, bytes]) -> str:
    """Upload a folder; a new repository is private. Returns its address.

    Args:
        instead: files by name that are uploaded in place of those in the folder.
    Raises:
        ToolError: the hub refuses, or does not answer any more.
    """
    with _hub_errors(f"could not take '{repository}'; the folder {folder} is complete"):
        api = HfApi()
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id, folder_path=folder, commit_message=message, ignore_patterns=list(instead)
        )
        for name, content in instead.items():
            api.upload_file(
                path_or_fileobj=content, path_in_repo=name, repo_id=address.repo_id, commit_message=f"{message}: {name}"
            )
    return str(address)


@contextlib.contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """What the hub and the network say, as one line."""
    try:
        yield
    except (OSError, HTTPError, RuntimeError, ValueError) as error:  # huggingface_hub (2.4) wraps what an upload raises
        refused = next((link for link in chain_of(error) if isinstance(link, HfHubHTTPError)), None)
        if refused is None and any(isinstance(link, HTTPError | ConnectionError) for link in chain_of(error)):
            raise ToolError(key=KEY, problem=f"{why_unreachable()} ({_one_line(error)})", fix=_LATER) from error
        status = refused.response.status_code if refused is not None and refused.response is not None else None
        fix = "hf auth login again, with a token that may write there" if status in (401, 403) else _LATER
        raise ToolError(key=KEY, problem=f"the hub {what} ({_one_line(error)})", fix=fix) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
