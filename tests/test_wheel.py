"""The wheel holds exactly the package: torch2edge with converters inside, typed, and nothing else."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import torch2edge

ROOT = Path(__file__).parent.parent
INFO = f"torch2edge-{torch2edge.__version__}.dist-info"
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "torch2edge", "converters")


def builds_wheels() -> bool:
    """setuptools does so by itself from 70.1 on; before, it needs the package wheel."""
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(map(int, version.split(".")[:2])) >= (70, 1) or importlib.util.find_spec("wheel") is not None


def expected() -> set[str]:
    files = {f"torch2edge/{p.relative_to(ROOT / 'torch2edge')}" for p in (ROOT / "torch2edge").rglob("*.py")}
    files |= {f"torch2edge/converters/{p.relative_to(ROOT / 'converters')}" for p in (ROOT / "converters").rglob("*.py")}
    return files | {"torch2edge/py.typed"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that building leaves nothing in the repository."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


def run(*arguments: str, cwd: Path) -> None:
    result = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_build_holds_exactly_the_package(sources, tmp_path):
    pytest.importorskip("setuptools", reason="setuptools is not installed (extra dev)")
    lib = tmp_path / "lib"
    run("setup.py", "--quiet", "build", "--build-base", str(tmp_path / "base"), "--build-lib", str(lib), cwd=sources)
    assert {str(p.relative_to(lib)) for p in lib.rglob("*") if p.is_file()} == expected()


@pytest.mark.skipif(not builds_wheels(), reason="needs setuptools >= 70.1 (extra dev) to build a wheel without network")
def test_the_wheel_holds_exactly_the_package(sources, tmp_path):
    run("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), ".", cwd=sources)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"torch2edge-{torch2edge.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        metadata = archive.read(f"{INFO}/METADATA").decode()
        entry_points = archive.read(f"{INFO}/entry_points.txt").decode()
    own = {name for name in names if not name.startswith(INFO)}
    assert own == expected()
    assert any(name.endswith("LICENSE") for name in names - own)
    assert "torch2edge = torch2edge.cli:entry" in entry_points
    needed = [line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert sorted(line for line in needed if "extra" not in line) == ["filelock", "numpy", "torch>=2.4"]
    assert "Requires-Python: >=3.10" in metadata
