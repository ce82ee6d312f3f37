"""Faults around cache_dir=: killed and interrupted builds, full and read-only disks, damaged files, two at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from test_cold_start import Net, child, command, convert, engines, env, inputs, said, same

from torch2edge import CacheWarning, files
from torch2edge.build.session import BuildSession
from torch2edge.run.engine_file import read

# A build that takes its time and says so; what it builds is real.
SLOW = """
import sys, time
from torch2edge.build.session import BuildSession
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and what they start, ignore it
real = BuildSession.build
def build(self, timing=None):
    print("building", flush=True)
    time.sleep({seconds})
    return real(self, timing)
BuildSession.build = build
"""


def start(folder: Path, seconds: float, before: str = "") -> subprocess.Popen[str]:
    code = f"{SLOW.format(seconds=seconds)}{before}\nprint(said(convert(Path({str(folder)!r}))), flush=True)"
    return subprocess.Popen(command(code), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env())


def until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    told = process.stdout.readline()
    assert told == f"{line}\n", f"{told}{process.stderr.read() if process.stderr and not told else ''}"


def left(folder: Path) -> list[str]:
    """Names of what is in the folder but locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def only_an_engine(folder: Path) -> None:
    assert left(folder) == [path.name for path in engines(folder)]
    assert len(engines(folder)) == 1
    read(engines(folder)[0])


# ---- killed, interrupted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_killed_leaves_nothing_and_holds_no_lock(tmp_path: Path, how: signal.Signals) -> None:
    process = start(tmp_path, 600)
    until(process, "building")
    process.send_signal(how)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode != 0
    assert how != signal.SIGINT or "KeyboardInterrupt" in complaint
    assert left(tmp_path) == []
    begin = time.perf_counter()
    assert said(convert(tmp_path)).startswith("miss")
    assert time.perf_counter() - begin < 30
    only_an_engine(tmp_path)


def test_a_process_that_is_killed_while_it_writes(tmp_path: Path) -> None:
    hang = "\nimport os\ndef hang(*names):\n    print('writing', flush=True)\n    time.sleep(600)\nos.replace = hang"
    process = start(tmp_path, 0, hang)
    until(process, "building")
    until(process, "writing")
    process.kill()
    process.communicate(timeout=60)
    (leftover,) = left(tmp_path)
    assert leftover.startswith(".Net-")
    assert said(convert(tmp_path)).startswith("miss")
    only_an_engine(tmp_path)


def test_an_interrupt_in_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: BuildSession, timing: object = None) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BuildSession, "build", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(tmp_path)
    assert left(tmp_path) == []
    assert said(convert(tmp_path)).startswith("miss")


def test_an_interrupt_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*names: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(tmp_path)
    assert left(tmp_path) == []
    assert said(convert(tmp_path)).startswith("miss")


# ---- no room, no permission -----------------------------------------------------------------------------------------


def mounted(folder: Path, options: str) -> bool:
    """Whether a tmpfs could be mounted there."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        return False
    folder.mkdir(exist_ok=True)
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    if not mounted(folder, "size=600k"):
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_does_not_lose_the_engine(small_disk: Path) -> None:
    model, x = torch.nn.Sequential(torch.nn.Linear(512, 512)).eval(), torch.randn(2, 512)  # 1 MiB
    for _ in range(2):
        with pytest.warns(CacheWarning, match=r"keeps nothing: Sequential-.*cannot be written \(No space left on device\)"):
            module = convert(small_disk, model, [x])
        assert said(module).endswith("it could not be kept")
        same(module, model, x)
        assert left(small_disk) == []


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """The same without a mount: a write fails half way."""
    done = child(f"""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        model, x = torch.nn.Sequential(torch.nn.Linear(256, 256)).eval(), torch.randn(2, 256)
        with pytest.warns(CacheWarning, match="cannot be written .File too large"):
            module = convert(Path({str(tmp_path)!r}), model, [x])
        same(module, model, x)
        print(said(module))
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("it could not be kept\n")
    assert left(tmp_path) == []


def test_a_read_only_disk_is_read_and_does_not_lose_the_engine(small_disk: Path) -> None:
    convert(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = left(small_disk)
    assert said(convert(small_disk)).startswith("hit")  # and without a warning
    model, x = Net(seed=1).eval(), inputs()
    with pytest.warns(CacheWarning, match="keeps nothing: .*Read-only file system") as caught:
        module = convert(small_disk, model)
    assert len(caught) == 1
    assert said(module).endswith("it could not be kept")
    same(module, model, x)
    assert left(small_disk) == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model, x = Net().eval(), inputs()
    with pytest.warns(
        CacheWarning, match=r"keeps nothing: the folder cannot be made \(.*\)\. The conversion goes on"
    ) as caught:
        module = convert(tmp_path / "file" / "cache", model)
    assert len(caught) == 1
    assert said(module).endswith("it could not be kept")
    same(module, model, x)


# ---- damaged --------------------------------------------------------------------------------------------------------


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "no engine file": lambda data: b"something else, and long enough",
    "truncated": lambda data: data[: len(data) // 2],
    "a bit in the plan": lambda data: flipped(data, len(data) - 1000),
    "a bit in the header": lambda data: flipped(data, 40),
    "a bit in the checksum": lambda data: flipped(data, len(data) - 1),
    "length of the header": lambda data: data[:8] + b"\xff" * 8 + data[16:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_set_aside_and_built_anew(tmp_path: Path, damage: str) -> None:
    plan = convert(tmp_path)._plan
    (path,) = engines(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    with pytest.warns(CacheWarning, match=rf"the cached engine .* is set aside as {path.name}\.damaged, and another is built"):
        module = convert(tmp_path)
    assert said(module).startswith("miss")
    assert left(tmp_path) == [path.name, f"{path.name}.damaged"]
    same(module, Net().eval(), inputs())
    assert said(convert(tmp_path)).startswith("hit")
    assert plan


def test_a_damaged_neighbour_is_no_hindrance(tmp_path: Path) -> None:
    """Misses read the headers of others to say what is different."""
    (tmp_path / "Net-0.engine").write_bytes(b"T2EDGE\x00\x01" + b"\xff" * 30)
    (tmp_path / "Net-1.engine").write_bytes(b"")
    (tmp_path / "Net-2.engine").mkdir()
    assert said(convert(tmp_path)).startswith("miss: there is no engine of a Net yet")


def test_an_entry_of_another_tensorrt_is_not_run(tmp_path: Path) -> None:
    """Its key is another, so it is never looked up; where somebody gives it the name of ours, its header tells."""
    from torch2edge.run.engine_file import write

    convert(tmp_path)
    (path,) = engines(tmp_path)
    metadata, plan = read(path)
    metadata |= {"version": "1.0.0", "title": "TensorRT 1.0.0"}
    write(path, metadata, plan)
    with pytest.warns(CacheWarning, match=r"was built with TensorRT 1\.0\.0 .* but here is"):
        assert said(convert(tmp_path)).startswith("miss")


# ---- two at a time --------------------------------------------------------------------------------------------------


def test_two_processes_build_one_engine(tmp_path: Path) -> None:
    first = start(tmp_path, 8)
    until(first, "building")
    second = start(tmp_path, 8)
    told = [process.communicate(timeout=120) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], told
    assert told[0][0].startswith("miss")
    assert told[1][0].startswith("hit")  # and it never said that it builds
    assert "another process builds this engine; waiting for it" in told[1][1]
    only_an_engine(tmp_path)


def test_the_second_builds_when_the_first_is_killed(tmp_path: Path) -> None:
    first = start(tmp_path, 600)
    until(first, "building")
    second = start(tmp_path, 0)
    assert second.stderr is not None
    while "waiting for it" not in (line := second.stderr.readline()):
        assert line or second.poll() is None
    first.kill()
    first.communicate()
    until(second, "building")
    out, complaint = second.communicate(timeout=120)
    assert out.startswith("miss"), complaint
    only_an_engine(tmp_path)


def test_different_engines_are_built_at_the_same_time(tmp_path: Path) -> None:
    first = start(tmp_path, 600)
    until(first, "building")
    assert said(convert(tmp_path, Net(seed=1))).startswith("miss")
    first.kill()
    first.communicate()


def test_waiting_is_told_to_progress(tmp_path: Path) -> None:
    first = start(tmp_path, 4)
    until(first, "building")
    stages: list[str] = []
    module = convert(tmp_path, progress=stages.append)
    assert said(module).startswith("hit")
    assert stages[:3] == ["trace", "prepare", "cache"]
    assert stages[3].startswith("another process builds this engine; waiting for it (")
    first.communicate()


def test_threads_build_one_engine(tmp_path: Path) -> None:
    import threading

    told: list[str] = []
    models = [Net() for _ in range(3)]  # made here: the seed is the process's

    def work(model: Net) -> None:
        told.append(said(convert(tmp_path, model, progress=lambda line: None)))

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(text.split(":")[0] for text in told) == ["hit", "hit", "miss"]
    only_an_engine(tmp_path)
