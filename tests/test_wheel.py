"""A wheel, built and installed outside the checkout, brings everything that it needs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY


@pytest.mark.slow  # builds in an isolated environment, which pip has to fill first
def test_an_installed_wheel_lists_recipes_and_previews_one(tmp_path):
    def run(*words, **options):
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path / "wheels"), str(REPOSITORY))
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    outside = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(tmp_path / "site")}}
    where = run(sys.executable, "-c", "import lora_dist; print(lora_dist.__file__)", **outside)
    assert where.startswith(str(tmp_path / "site"))
    assert "quickstart" in run(sys.executable, "-m", "lora_dist", "recipes", "list", **outside)
    assert "6 to do" in run(sys.executable, "-m", "lora_dist", "compare", "quickstart", "--dry-run", **outside)
    find = "from lora_dist.assets import launch_config_path as p; print(p('zero2').read_text(), p('zero2'))"
    assert str(tmp_path / "site" / "lora_dist" / "_assets") in run(sys.executable, "-c", find, **outside)
    assert (tmp_path / "site" / "lora_dist" / "_assets" / "ds_configs" / "zero3.json").is_file()
    shipped = (tmp_path / "site" / "lora_dist" / "_assets" / "slurm").iterdir()
    assert {path.name for path in shipped} == {path.name for path in (REPOSITORY / "slurm").iterdir()}
    assert (tmp_path / "site" / "lora_dist" / "reporting" / "templates" / "page.html.j2").is_file()
