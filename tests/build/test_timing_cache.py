"""The timing cache's file: whole, joined, locked; damaged ones set aside.

TensorRT-RTX has the API of timing caches, but measures nothing; what a build puts in is in tests/test_cold_start_gpu.py.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from torch2edge import CacheWarning
from torch2edge._trt import capabilities
from torch2edge.build.session import BuildSession
from torch2edge.build.timing_cache import MAGIC, TimingCache, timing_cache
from torch2edge.files import locked
from torch2edge.options import Options

pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")


@pytest.fixture
def session() -> BuildSession:
    return BuildSession(Options())


@pytest.fixture
def cache(tmp_path: Path) -> TimingCache:
    return TimingCache(tmp_path / "timing-here.cache")


def filled(cache: TimingCache, session: BuildSession) -> bytes:
    """What the file holds after an empty build."""
    held = cache.give(session.config)
    assert held is not None
    cache.take(session.config)
    return cache.path.read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_no_file_is_an_empty_cache(cache: TimingCache) -> None:
    assert cache.read() == b""
    assert names(cache.path.parent) == []


def test_what_is_written_is_read(cache: TimingCache, session: BuildSession) -> None:
    data = filled(cache, session)
    assert data.startswith(MAGIC)
    assert cache.read() == data[len(MAGIC) : -32] == bytes(session.config.get_timing_cache().serialize())
    other = BuildSession(Options())
    assert cache.give(other.config) is not None
    cache.take(other.config)
    assert cache.path.read_bytes() == data
    assert names(cache.path.parent) == [cache.path.name]


@pytest.mark.parametrize(
    "damaged",
    [
        lambda data: b"",
        lambda data: b"a plain file",
        lambda data: data[:-1],
        lambda data: data[:60] + bytes([data[60] ^ 16]) + data[61:],
        lambda data: MAGIC,
    ],
)
def test_a_damaged_file_is_set_aside(cache: TimingCache, session: BuildSession, damaged: Any) -> None:
    whole = filled(cache, session)
    cache.path.write_bytes(damaged(whole))
    with pytest.warns(CacheWarning, match=r"the timing cache .* is set aside as timing-here\.cache\.damaged, and the build"):
        held = cache.give(session.config)
    assert held is not None
    assert names(cache.path.parent) == [f"{cache.path.name}.damaged"]
    cache.take(session.config)
    assert cache.path.read_bytes() == whole


def test_a_file_that_is_damaged_during_the_build(cache: TimingCache, session: BuildSession) -> None:
    whole, held = filled(cache, session), cache.give(session.config)
    cache.path.write_bytes(whole[:-3])
    with pytest.warns(CacheWarning, match="truncated or damaged: its checksum does not match"):
        cache.take(session.config)
    assert cache.path.read_bytes() == whole
    assert held is not None


def test_a_file_that_cannot_be_written(tmp_path: Path, session: BuildSession) -> None:
    (tmp_path / "file").write_text("")
    cache = TimingCache(tmp_path / "file" / "timing.cache")
    with pytest.warns(CacheWarning, match=r"cannot be read \(Not a directory\)"):
        held = cache.give(session.config)
    with pytest.warns(CacheWarning, match=r"cannot be written \(.*\); what this build measured is lost"):
        cache.take(session.config)
    assert held is not None


def test_writers_wait_for_each_other(cache: TimingCache, session: BuildSession) -> None:
    held = cache.give(session.config)
    writing = threading.Thread(target=cache.take, args=(session.config,))
    with locked(cache.path.with_name(f"{cache.path.name}.lock")):
        writing.start()
        writing.join(0.5)
        assert writing.is_alive()
        assert not cache.path.exists()
    writing.join(20)
    assert cache.read()
    assert held is not None


def test_leftovers_of_killed_writers_go(cache: TimingCache, session: BuildSession) -> None:
    (cache.path.parent / f".{cache.path.name}.x1y2").write_bytes(b"half")
    filled(cache, session)
    assert names(cache.path.parent) == [cache.path.name]


def test_where_timings_count(tmp_path: Path) -> None:
    made = timing_cache(tmp_path)
    assert (made is None) == (not capabilities().timing_cache or not torch.cuda.is_available())
    assert list(tmp_path.iterdir()) == []
