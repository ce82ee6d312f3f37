"""converters/README.md is what the registry says."""

from __future__ import annotations

from pathlib import Path

from torch2edge.cli.ops import markdown, rows

FOLDER = Path(__file__).parent.parent / "converters"


def test_the_table_is_current():
    hint = "run: python -m torch2edge ops --markdown > converters/README.md"
    assert (FOLDER / "README.md").read_text() == markdown() + "\n", hint


def test_every_converter_lives_in_converters():
    assert {row["file"] for row in rows()} <= {path.name for path in FOLDER.glob("*.py")}
