"""Writing files."""

from __future__ import annotations

from pathlib import Path

import pytest

from torch2edge import files
from torch2edge.errors import ConfigError
from torch2edge.files import check_target, write_whole


def test_a_file_is_written_with_the_rights_of_any_other(tmp_path: Path) -> None:
    write_whole(tmp_path / "f", b"\x00\x01")
    assert (tmp_path / "f").read_bytes() == b"\x00\x01"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"old")

    def interrupted(source: str, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "f", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "no" / "f", b"")


def test_what_is_read_is_not_written_over(tmp_path):
    read, other = tmp_path / "read.engine", tmp_path / "link.engine"
    read.write_bytes(b"engine")
    other.hardlink_to(read)
    check_target(tmp_path / "new.plan", read, None, tmp_path / "missing")
    for target in (read, other):
        with pytest.raises(ConfigError, match="it is read here, and would be gone"):
            check_target(target, None, read)
    with pytest.raises(ConfigError, match="there is no folder"):
        check_target(tmp_path / "missing" / "x", read)
    with pytest.raises(ConfigError, match="it is a folder"):
        check_target(tmp_path, read)
