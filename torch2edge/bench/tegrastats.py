"""Readings of a Jetson from the lines of its tool tegrastats.

The lines differ between versions of JetPack; a field is found by its own form, wherever it stands, and what is not known is
left out: ``RAM 2257/30536MB``, ``GR3D_FREQ 99%@1300`` (also ``99%``, ``99%@[1300,1300]``, ``@[1574,1574,1574]``),
``EMC_FREQ 3%@2133``, ``tj@52.4C`` (from JetPack 7 on ``tj@52.4C/53.1C``, now and most), ``VDD_IN 5336mW/4970mW`` (now and
mean; from JetPack 7 on a third, the most; before JetPack 5 without the unit). tests/bench/test_tegrastats.py has lines of
each, with their sources.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError
from .samples import Sample

__all__ = ["Tegrastats", "parse", "throttle_alerts"]

_MEMORY = re.compile(r"(?<!\w)RAM (\d+)/(\d+)MB")
_ENGINE = re.compile(r"(?<!\w)(GR3D|EMC)_FREQ (?:(\d+)%)?(?:@(\d+|\[[\d, ]*\]))?")
_TEMPERATURE = re.compile(r"(?<!\S)(\w+)@(-?\d+(?:\.\d+)?)C(?:/-?\d+(?:\.\d+)?C)?(?!\S)")
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?:/(\d+)(?:mW)?)?(?!\S)")
_NAMES = {"GR3D": "gpu", "EMC": "memory"}
BOARD = ("VDD_IN", "VIN", "POM_5V_IN")  # rails that all power goes through; an AGX Orin has none
OFF = -40  # °C: what a sensor tells that is switched off is lower (-256)


def parse(line: str) -> dict[str, float]:
    """The readings of a line by the names of ``Sample.readings``; nothing for a line that is none of tegrastats'."""
    memory = _MEMORY.search(line)
    if not memory:
        return {}
    told = {"memory used": float(memory[1])}
    for found in _ENGINE.finditer(line):
        name = _NAMES[found[1]]
        if found[2]:
            told[f"load {name}"] = float(found[2])
        clocks = [float(clock) for clock in re.findall(r"\d+", found[3] or "")]
        if clocks:
            told[f"clock {name}"] = max(clocks)  # one for each part of the GPU (GPC); a part that is off has 0
    for found in _TEMPERATURE.finditer(line):
        if float(found[2]) > OFF:
            told[f"temperature {found[1]}"] = float(found[2])
    for found in _RAIL.finditer(line):
        if found[1] in BOARD:
            told["power"] = float(found[2]) / 1e3
        elif found[1] != "NC":
            told[f"power {found[1]}"] = float(found[2]) / 1e3
    return told


def throttle_alerts(thermal: Path = Path("/sys/class/thermal")) -> tuple[str, ...] | None:
    """The kernel's cooling devices "cpu-throttle-alert", "gpu-throttle-alert" and so on that are active; None without any."""
    states: dict[str, str] = {}
    for device in sorted(thermal.glob("cooling_device*")):
        try:
            kind, state = (device / "type").read_text().strip(), (device / "cur_state").read_text().strip()
        except OSError:
            continue
        if kind.endswith("throttle-alert"):
            states[kind] = state
    return tuple(f"the temperature ({kind})" for kind, state in states.items() if state != "0") if states else None


class Tegrastats:
    """The tool tegrastats of this Jetson.

    Raises:
        ConfigError: there is none, or it does not start.
    """

    title = "tegrastats"

    def __init__(self, thermal: Path = Path("/sys/class/thermal")) -> None:
        path = shutil.which("tegrastats")
        if path is None:
            raise ConfigError("the monitor finds no tegrastats, the tool of a Jetson, on the PATH")
        self._path, self._thermal = path, thermal
        self._process: subprocess.Popen[str] | None = None

    def samples(self, interval: float, stop: threading.Event) -> Iterator[Sample]:
        """A sample for each line that the tool writes."""
        command = [self._path, "--interval", str(max(round(1e3 * interval), 1))]
        start = time.perf_counter()
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        except OSError as error:
            raise ConfigError(f"the monitor cannot start {self._path}: {error.strerror}") from error
        assert self._process.stdout is not None
        try:
            with self._process.stdout as lines:
                for line in lines:
                    if stop.is_set():
                        break
                    if told := parse(line):
                        yield Sample(time.perf_counter() - start, told, throttle_alerts(self._thermal))
        finally:
            self.close()

    def close(self) -> None:
        """End the tool."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
