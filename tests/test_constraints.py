"""The torch versions of make test-matrix: one file each, over one list of all else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "constraints").glob("torch-*.txt"))


def pinned(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==([\d.]+)", file.read_text(), re.MULTILINE))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_version_pins_torch_only(file: Path) -> None:
    assert "-c common.txt" in file.read_text().splitlines()
    pins, named = pinned(file), file.stem.removeprefix("torch-")
    pins.pop("torchaudio", None)  # each torch has its own
    assert set(pins) == (set() if named == "newest" else {"torch", "torchvision"})
    assert named == "newest" or pins["torch"].startswith(f"{named}.")


def test_the_oldest_is_the_oldest_that_is_supported() -> None:
    oldest = min([int(n) for n in pinned(f)["torch"].split(".")[:2]] for f in FILES if pinned(f))
    required = re.search(r'dependencies = \["torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert required is not None
    assert oldest == [int(n) for n in required[1].split(".")]


def test_the_makefile_names_one_of_them() -> None:
    named = re.search(r"^CONSTRAINTS := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named is not None
    assert ROOT / named[1] in FILES
    assert not set(pinned(ROOT / "constraints" / "common.txt")) & {"torch", "torchvision", "torchaudio"}
