"""Where the files that ship with the package are, and where files made once per user go."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from lora_dist.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent


def recipe_names() -> list[str]:
    """The names of the shipped experiments, sorted."""
    return sorted(path.stem for path in (PACKAGE / "recipes").glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of the shipped experiment `name`.

    Raises:
        ConfigError: no recipe has this name.
    """
    if name not in recipe_names():
        raise ConfigError(
            key="recipe",
            problem=f"no recipe is called '{name}'",
            fix=f"use one of {', '.join(recipe_names())}, or give the path of a YAML file",
        )
    return PACKAGE / "recipes" / f"{name}.yaml"


def shipped_folder(name: str) -> Path:
    """The folder `launch`, `ds_configs` or `slurm`: at the top of a checkout, in the package of an installed wheel."""
    installed = PACKAGE / "_assets" / name
    return installed if installed.is_dir() else PACKAGE.parent / name


def launch_config_names() -> list[str]:
    """The names of the shipped launch configs, sorted."""
    return sorted(path.stem for path in shipped_folder("launch").glob("*.yaml"))


def launch_config_path(name: str) -> Path:
    """The launch config that a user means: the name of a shipped one, or the path of a YAML file.

    Raises:
        ConfigError: there is neither.
    """
    if name in launch_config_names():
        return shipped_folder("launch") / f"{name}.yaml"
    path = user_path(name)
    if path.is_file():
        return path
    raise ConfigError(
        key="launch.config",
        problem=f"'{name}' is neither a shipped launch config nor a file",
        fix=f"use auto, one of {', '.join(launch_config_names())}, or the path of an accelerate YAML",
    )


def user_path(text: str) -> Path:
    """The path that a user wrote, with `~` resolved; `~name` of somebody who is not there stays as it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def user_cache() -> Path:
    """The folder for things made once per user, such as the built-in model (honours XDG_CACHE_HOME)."""
    return platformdirs.user_cache_path("lora_dist", appauthor=False)
