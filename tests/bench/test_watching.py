"""The monitor: its account, what it finds of throttling, and what it says where nothing can be read."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from support.gpu import needs_gpu

import torch2edge
from torch2edge.bench import Monitor, MonitorReport
from torch2edge.bench.samples import UNITS, Sample
from torch2edge.bench.throttling import can_tell, throttling
from torch2edge.errors import ConfigError


def samples(clocks: list[float], load: float | None = 99.0, heat: float | None = 60.0, sensor: str = "tj") -> list[Sample]:
    others = {} if load is None else {"load gpu": load}
    others |= {} if heat is None else {f"temperature {sensor}": heat}
    return [Sample(0.1 * i, {"clock gpu": clock, **others}) for i, clock in enumerate(clocks)]


def test_the_hardwares_own_reasons_are_counted():
    seen = [Sample(0.0, {}, ("the power limit",)), Sample(0.1, {}), Sample(0.2, {}, ("the power limit", "the power brake"))]
    assert throttling(seen) == [
        "The clocks were held down by the power limit in 2 of 3 samples.",
        "The clocks were held down by the power brake in 1 of 3 samples.",
    ]


@pytest.mark.parametrize(("heat", "sensor", "word"), [
    (97.0, "tj", "at 97 °C: thermal throttling"), (88.0, "GPU", "thermal throttling"), (61.0, "tj", "61 °C, which is not hot"),
    (None, "tj", "no temperature is known"), (100.0, "PMIC", "no temperature is known"),
])  # fmt: skip
def test_a_clock_that_falls_under_load(heat, sensor, word):
    told = throttling(samples([1300] * 10 + [900] * 10, heat=heat, sensor=sensor))
    assert len(told) == 1
    assert "from 1300 to 900 MHz under load" in told[0]
    assert word in told[0]


def test_a_dip_in_the_middle_is_seen():
    assert throttling(samples([1300] * 5 + [900] * 5 + [1300] * 10))


@pytest.mark.parametrize("seen", [
    samples([1300, 1290, 1310, 1300] * 5),
    samples([900] * 10 + [1300] * 10),  # it rose: the warm-up of the clocks
    samples([1300] * 10 + [900] * 10, load=10.0),  # nothing to do
    samples([1300] * 3 + [900] * 3),  # too few to tell
    samples([0] * 20),  # off, or not told
    [Sample(0.0, {"power": 3.0})] * 20,
    [],
], ids=["steady", "rising", "idle", "few", "off", "no clock", "nothing"])  # fmt: skip
def test_what_is_no_throttling(seen):
    assert throttling(seen) == []


def test_nothing_seen_is_not_nothing_there():
    assert not can_tell([Sample(0.0, {"power": 1.0})] * 100)
    assert not can_tell(samples([1300] * 7))
    assert not can_tell(samples([1300] * 100, load=10.0))
    assert can_tell(samples([1300] * 8))
    assert can_tell([Sample(0.0, {}, ())])
    assert "No throttling was seen." in str(MonitorReport.of("it", 1.0, samples([1300] * 8)))


class Recorded:
    """A source of given samples."""

    title = "a recording"

    def __init__(self, seen: list[Sample], error: Exception | None = None) -> None:
        self._seen, self._error = seen, error

    def samples(self, interval: float, stop: threading.Event) -> Iterator[Sample]:
        yield from self._seen
        if self._error:
            raise self._error
        stop.wait()

    def close(self) -> None:
        pass


def test_the_account_of_a_run():
    seen = [Sample(0.1 * i, {"power": 10.0 + i, "memory used": 100.0}) for i in range(5)]
    with Monitor(Recorded(seen), 0.1) as watched:
        while len(watched.samples) < 5:
            time.sleep(0.001)
        assert watched.report is None, "the run is not over"
    report = watched.report
    assert report is not None
    assert (report.source, report.samples) == ("a recording", 5)
    assert [(r.name, r.unit, r.min, r.mean, r.max) for r in report.rows] == [
        ("memory used", "MiB", 100.0, 100.0, 100.0), ("power", "W", 10.0, 12.0, 14.0),
    ]  # fmt: skip
    text = str(report)
    for part in ("a recording, 5 samples", "power", "W", "12.0", "Whether the clocks were held down is not known"):
        assert part in text
    assert MonitorReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_an_early_end_is_noted_and_no_beginning_is_an_error():
    with Monitor(Recorded([Sample(0.0, {"power": 1.0})], OSError("gone")), 0.1) as watched:
        time.sleep(0.05)
    assert watched.report is not None
    assert watched.report.notes == ["The monitor ended early: OSError: gone"]
    with pytest.raises(ConfigError, match=r"got nothing from a recording: gone"), Monitor(Recorded([], OSError("gone")), 0.1):
        pass


def test_the_threads_end_also_when_the_body_fails():
    before = threading.active_count()
    with pytest.raises(KeyError), Monitor(Recorded([Sample(0.0, {"power": 1.0})]), 0.1):
        raise KeyError
    assert threading.active_count() == before


@pytest.mark.parametrize("interval", [0, -1, float("nan"), float("inf"), "fast", True, None])
def test_an_interval_that_is_none(interval):
    with pytest.raises(ConfigError, match="interval is"):
        torch2edge.monitor(interval)


@pytest.mark.parametrize("device", [-1, 1.5, "cuda", True])
def test_a_device_that_is_none(device):
    with pytest.raises(ConfigError, match="device is"):
        torch2edge.monitor(device=device)


def test_without_nvidia_ml_py_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ConfigError, match="pip install nvidia-ml-py"):
        torch2edge.monitor()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here")
def test_without_a_driver_it_says_so():
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed (extra monitor)")
    with pytest.raises(ConfigError, match=r"no NVIDIA driver here .* and no tegrastats"):
        torch2edge.monitor()


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_at_work_is_read():
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed (extra monitor)")
    x = torch.randn(4096, 4096, device="cuda")
    with torch2edge.monitor(0.05) as watched:
        end = time.perf_counter() + 1.0
        while time.perf_counter() < end:
            for _ in range(20):
                x = (x @ x).clamp(-1, 1)
            torch.cuda.synchronize()
    report = watched.report
    assert report is not None
    assert report.samples >= 5
    assert torch.cuda.get_device_name() in report.source
    rows = {row.name: row for row in report.rows}
    assert {row.unit for row in report.rows} <= set(UNITS.values())
    assert rows["memory used"].max > 64, "the matrices alone are 64 MiB each"
    assert 0 < rows["clock gpu"].max < 10000
    assert 0 < rows["temperature gpu"].mean < 120
