"""The project files agree with each other and with the code, and the wheel carries what it needs."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
SHIPPED = ("attnpatch", "recipes", "evals")
PYTHONS = ("3.10", "3.11", "3.12")


def requirements(*, extras: bool = True) -> list[Requirement]:
    """The direct dependencies, of the core or with all extras, without references to attnpatch itself."""
    lines = PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra if extras]
    return [req for line in lines if (req := Requirement(line)).name != PROJECT["name"]]


def pins(python: str) -> dict[str, str]:
    """Package name -> version that constraints.txt gives to this Python."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    mine = [req for req in found if not req.marker or req.marker.evaluate({"python_version": python})]
    names = [canonicalize_name(req.name) for req in mine]
    assert len(names) == len(set(names)), f"pinned twice for Python {python}"
    return {name: str(req.specifier).removeprefix("==") for name, req in zip(names, mine, strict=True)}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_direct_dependency_is_pinned_within_its_range(python: str) -> None:
    pinned = pins(python)
    for req in requirements():
        name = canonicalize_name(req.name)
        assert name in pinned, f"constraints.txt does not pin {req.name}"
        assert req.specifier.contains(pinned[name]), f"{req} does not allow the tested {pinned[name]}"


def test_supported_pythons_are_those_that_the_classifiers_name() -> None:
    prefix = "Programming Language :: Python :: 3."
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.startswith(prefix)]
    assert tuple(named) == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", workflow)[1]) == list(PYTHONS)


def test_torchvision_is_not_a_dependency() -> None:
    assert "torchvision" not in {req.name for req in requirements()}
    assert "torchvision" not in pins("3.11")


def test_all_is_the_sum_of_the_other_extras() -> None:
    # amber is of no use without a large download of its own
    assert Requirement(EXTRAS["all"][0]).extras == set(EXTRAS) - {"all", "amber"}


def test_version_is_the_same_everywhere() -> None:
    source = (ROOT / "attnpatch/__init__.py").read_text()
    written = re.search(r'^__version__ = "([^"]+)"', source, re.MULTILINE)
    version = written[1] if written else metadata.version("attnpatch")
    assert version == PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert version in (ROOT / "CHANGELOG.md").read_text()


def test_hooks_lint_with_the_tested_ruff() -> None:
    assert f"rev: v{pins('3.11')['ruff']} " in (ROOT / ".pre-commit-config.yaml").read_text()


def imported_packages(nodes: Iterable[ast.AST]) -> set[str]:
    """Top-level names of the third-party packages that these import statements name."""
    modules = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module or "")
    return {module.partition(".")[0] for module in modules} - {"attnpatch"} - sys.stdlib_module_names


@pytest.mark.parametrize("extras", [False, True], ids=["at import: core only", "anywhere: core or extras"])
def test_everything_imported_is_declared(extras: bool) -> None:
    declared = {canonicalize_name(req.name) for req in requirements(extras=extras)}
    distributions = metadata.packages_distributions()
    missing = {}
    for file in (ROOT / "attnpatch").rglob("*.py"):
        tree = ast.parse(file.read_text())
        for package in imported_packages(ast.walk(tree) if extras else tree.body):
            if not {canonicalize_name(name) for name in distributions.get(package, [package])} & declared:
                missing[package] = str(file.relative_to(ROOT))
    assert not missing, f"imported but not in pyproject.toml: {missing}"


@pytest.mark.parametrize("name", PROJECT["scripts"])
def test_commands_lead_somewhere(name: str) -> None:
    module, _, attribute = PROJECT["scripts"][name].partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_ci_runs_make_test_and_fails_when_it_fails(tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "make $*"\nexit 3\n')
    make.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = subprocess.run([ROOT / ".ci/run"], env=env, capture_output=True, text=True, check=False)
    assert (run.stdout, run.returncode) == ("make test\n", 3)


def test_make_refuses_an_old_python_with_a_sentence(tmp_path: Path) -> None:
    command = ["make", "-C", str(ROOT), "setup", "PYTHON=false", f"VENV={tmp_path / 'venv'}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "attnpatch needs Python >= 3.10, and 'false' is not one" in run.stderr
    assert not (tmp_path / "venv").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """The wheel's path, and what it must contain: the shipped files as they were before the build."""
    expected = {
        f"{'' if folder == 'attnpatch' else 'attnpatch/_data/'}{file.relative_to(ROOT).as_posix()}"
        for folder in SHIPPED
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix not in {".pyc", ".tmp"}
    }
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (built,) = out.glob("*.whl")
    return built, expected


def test_wheel_carries_the_package_and_its_data(wheel: tuple[Path, set[str]]) -> None:
    built, expected = wheel
    names = set(zipfile.ZipFile(built).namelist())
    assert expected <= names, f"missing from the wheel: {sorted(expected - names)}"
    for folder in ("recipes", "evals"):
        assert any(name.startswith(f"attnpatch/_data/{folder}/") for name in names)
    weights = [name for name in names if name.startswith("attnpatch/sandbox/") and name.endswith(".safetensors")]
    assert weights, "the sandbox weights are not in the wheel"
    foreign = {name.partition("/")[0] for name in names} - {"attnpatch", f"attnpatch-{PROJECT['version']}.dist-info"}
    assert not foreign, f"the wheel would also install {foreign}"


def test_wheel_finds_its_data(wheel: tuple[Path, set[str]], tmp_path: Path) -> None:
    zipfile.ZipFile(wheel[0]).extractall(tmp_path)
    code = "from attnpatch.data_files import data_path; print(data_path('evals'))"
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert run.stdout.strip() == str(tmp_path / "attnpatch/_data/evals"), run.stderr
