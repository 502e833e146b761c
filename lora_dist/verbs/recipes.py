"""recipes: the shipped experiments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_dist.assets import recipe_names, recipe_path
from lora_dist.errors import StorageError
from lora_dist.store.atomic import write_text


@dataclass(frozen=True)
class Recipe:
    """A shipped experiment: its name, what it is for, and its YAML."""

    name: str
    summary: str
    text: str


def recipes() -> list[Recipe]:
    """All shipped experiments, by name."""
    return [show_recipe(name) for name in recipe_names()]


def show_recipe(name: str) -> Recipe:
    """One shipped experiment; its summary is the first comment line.

    Raises:
        ConfigError: no recipe has this name.
    """
    text = recipe_path(name).read_text(encoding="utf-8")
    return Recipe(name, text.splitlines()[0].lstrip("# "), text)


def copy_recipe(name: str, to: Path | str | None = None) -> Path:
    """Copy a recipe to a file or folder (the current folder by default), to be changed there.

    Raises:
        ConfigError: no recipe has this name.
        StorageError: the file is there already, or cannot be written.
    """
    target = Path(to) if to is not None else Path()
    if target.is_dir():
        target = target / f"{name}.yaml"
    text = show_recipe(name).text
    if target.exists():
        raise StorageError(key=str(target), problem="is there already", fix="give another file name")
    write_text(target, text)
    return target
