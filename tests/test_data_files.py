"""The folders that ship with attnpatch are found in a checkout and in an installed wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attnpatch import data_files

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("folder", data_files.FOLDERS)
def test_checkout(folder: str) -> None:
    assert data_files.data_path(folder) == CHECKOUT / folder


def found_by_copy(site: Path, folder: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the module that lies at `site/attnpatch`, as an installed package would."""
    (site / "attnpatch").mkdir(parents=True, exist_ok=True)
    copy = shutil.copy(data_files.__file__, site / "attnpatch" / "data_files.py")
    code = f"import runpy; print(runpy.run_path({str(copy)!r})['data_path']({folder!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_installed_wheel(tmp_path: Path) -> None:
    packaged = tmp_path / "attnpatch" / "_data" / "evals"
    packaged.mkdir(parents=True)
    (tmp_path / "evals").mkdir()  # a neighbour in site-packages that is not ours
    assert Path(found_by_copy(tmp_path, "evals").stdout.strip()) == packaged


def test_missing_folder_says_how_to_fix_it(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    run = found_by_copy(tmp_path, "recipes")
    assert run.returncode != 0
    assert "FileNotFoundError" in run.stderr
    assert "Reinstall attnpatch" in run.stderr


def test_unknown_folder_names_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="'recipes', 'evals', got 'recipe'"):
        data_files.data_path("recipe")
