"""Lines of tegrastats from JetPack 4 to 7, as boards have printed them, and the process that prints them.

Sources (data of a device; found in the public places named):
- NANO_4, XAVIER_4, ORIN_5: the recorded outputs that rbonghi/jetson_stats plays in tests/tegrastats (f41d5ca), with the random
  loads that it fills in replaced by 99
- NANO_6, NANO_6_USER: henrygd/beszel, agent/gpu_test.go (f1e5797), from its issue 286; the second without sudo
- NX_6: rbonghi/jetson_stats, issue 624
- ORIN_7: rbonghi/jetson_stats, pull request 894 and its test (L4T R39.2)
- THOR_7: the sample of a public exporter (tegrastats_exporter.py, 31 July 2026): no GR3D_FREQ and no EMC_FREQ in it
- THOR_7_LOADED: the sample of another (tegrastats_telemetry.py, 8 August 2026, R39), with an unknown token at its end
No line here was recorded by this project.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from torch2edge.bench.tegrastats import Tegrastats, parse, throttle_alerts
from torch2edge.errors import ConfigError

NANO_4 = (
    "RAM 331/3964MB (lfb 758x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [99%@102,99%@102,99%@102,99%@102] "
    "EMC_FREQ 3%@204 GR3D_FREQ 99%@76 APE 25 PLL@20.5C CPU@23.5C PMIC@100C GPU@22.5C AO@27.5C thermal@23C POM_5V_IN 933/933 "
    "POM_5V_GPU 0/0 POM_5V_CPU 84/105"
)
XAVIER_4 = (
    "RAM 408/15823MB (lfb 3702x4MB) SWAP 0/7911MB (cached 0MB) CPU [99%@2265,99%@2265] EMC_FREQ 0%@2133 GR3D_FREQ 99%@1377 "
    "APE 150 MTS fg 0% bg 0% AO@26.5C GPU@28C iwlwifi@30C Tdiode@31.25C PMIC@100C AUX@27C CPU@28C thermal@27.45C Tboard@27C "
    "GPU 1155/1155 CPU 385/385 SOC 2502/2502 CV 0/0 VDDRQ 192/192 SYS5V 2692/2692"
)
ORIN_5 = (
    "01-03-2023 16:07:54 RAM 2257/30536MB (lfb 5392x4MB) SWAP 0/15268MB (cached 0MB) CPU [99%@729,99%@729] EMC_FREQ 0%@204 "
    "GR3D_FREQ 99%@0 GR3D2_FREQ 99%@0 NVJPG1 729 VIC_FREQ 115 APE 233 CV0@-256C CPU@41.437C Tboard@29C SOC2@39.062C "
    "Tdiode@30.75C SOC0@39.031C CV1@-256C GPU@-256C tj@41.656C SOC1@38.937C CV2@-256C VDD_GPU_SOC 2390mW/2390mW VDD_CPU_CV "
    "796mW/796mW VIN_SYS_5V0 3522mW/3522mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
NANO_6 = (
    "11-15-2024 08:38:09 RAM 6185/7620MB (lfb 8x2MB) SWAP 851/3810MB (cached 1MB) CPU [15%@729,11%@729,14%@729,13%@729,"
    "11%@729,8%@729] EMC_FREQ 43%@2133 GR3D_FREQ 63%@[621] NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@53.968C "
    "soc2@52.437C soc0@50.75C gpu@53.343C tj@53.968C soc1@51.656C VDD_IN 12479mW/12479mW VDD_CPU_GPU_CV 4667mW/4667mW VDD_SOC "
    "2817mW/2817mW"
)
NANO_6_USER = (
    "06-18-2025 11:25:24 RAM 3452/7620MB (lfb 25x4MB) SWAP 1518/16384MB (cached 174MB) CPU [1%@1420,2%@1420,0%@1420,2%@1420,"
    "2%@729,1%@729] GR3D_FREQ 0% cpu@50.031C soc2@49.031C soc0@50C gpu@49.031C tj@50.25C soc1@50.25C VDD_IN 4824mW/4824mW "
    "VDD_CPU_GPU_CV 518mW/518mW VDD_SOC 1475mW/1475mW"
)
NX_6 = (
    "05-15-2025 18:30:28 RAM 6982/7620MB (lfb 5x1MB) SWAP 2640/16384MB (cached 202MB) CPU [97%@1984,95%@1984,95%@1984,"
    "91%@1984,88%@1984,93%@247] EMC_FREQ 18%@3199 GR3D_FREQ 84%@[713] NVENC 1%@115 NVDEC 40%@115 NVJPG off NVJPG1 off VIC "
    "31%@115 OFA off NVDLA0 off PVA0_FREQ off APE 174 cv0@63.031C cpu@65.562C soc2@64.156C soc0@63.031C cv1@62.937C "
    "gpu@63.5C tj@65.562C soc1@64.718C cv2@60.875C VDD_IN 17946mW/15710mW VDD_CPU_GPU_CV 8896mW/7585mW VDD_SOC 3923mW/3515mW"
)
ORIN_7 = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201,4%@2201,14%@2201] EMC_FREQ 3%@3199 GR3D_FREQ "
    "12%@[1300,1300] NVENC0 off NVDEC0 off NVJPG0 off NVJPG1 off VIC off OFA off NVDLA0 off NVDLA1 off PVA0_FREQ off APE 174 "
    "cpu@52.968C/52.968C soc2@48.406C/48.406C soc0@49.531C/49.531C gpu@47.625C/47.625C VDD_GPU_SOC 5139mW/5139mW/5139mW "
    "VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW"
)
THOR_7 = (
    "07-31-2026 14:45:55 RAM 86905/125772MB (lfb 368x4MB) CPU [12%@972,10%@972,off,33%@1890] cpu@39.812C tj@39.906C "
    "soc012@38.812C gpu@39.906C soc345@38.625C VDD_GPU 3561mW/3561mW VDD_CPU_SOC_MSS 7910mW/7910mW VIN_SYS_5V0 7620mW/7620mW "
    "VIN 26686mW/26686mW"
)
THOR_7_LOADED = (
    "08-08-2026 21:00:39 RAM 8353/125749MB (lfb 31x4MB) CPU [90%@2601,75%@2601,off,7%@2601] EMC_FREQ 34%@4266 GR3D_FREQ "
    "87%@[1574,1574,1574] NVENC0_FREQ @1691 VIC off cpu@58.25C/61.75C tj@66.625C/66.625C gpu@56.937C/66.625C "
    "soc012@55.375C/58.781C soc345@55.812C/60.031C VDD_GPU 37939mW/8660mW/37939mW VDD_CPU_SOC_MSS 30059mW/12281mW/30059mW "
    "VIN_SYS_5V0 15486mW/7424mW/15486mW VIN 124486mW/36487mW/124486mW FUTURE_TOKEN value"
)


def readings(memory: float, load: float | None, clock: float | None, emc: tuple[float, float] | None, **others: float):
    told = {"memory used": memory, "load gpu": load, "clock gpu": clock}
    told |= {"load memory": emc[0], "clock memory": emc[1]} if emc else {}
    return {name: value for name, value in told.items() if value is not None} | others


def watts(**rails: float) -> dict[str, float]:
    return {f"power {name}": value for name, value in rails.items()}


def degrees(**sensors: float) -> dict[str, float]:
    return {f"temperature {name}": value for name, value in sensors.items()}


EXPECTED = {
    NANO_4: readings(331, 99, 76, (3, 204), power=0.933, **watts(POM_5V_GPU=0, POM_5V_CPU=0.084),
                     **degrees(PLL=20.5, CPU=23.5, PMIC=100, GPU=22.5, AO=27.5, thermal=23)),
    XAVIER_4: readings(408, 99, 1377, (0, 2133),
                       **watts(GPU=1.155, CPU=0.385, SOC=2.502, CV=0, VDDRQ=0.192, SYS5V=2.692),
                       **degrees(AO=26.5, GPU=28, iwlwifi=30, Tdiode=31.25, PMIC=100, AUX=27, CPU=28, thermal=27.45,
                                 Tboard=27)),
    # sensors of parts that are off say -256
    ORIN_5: readings(2257, 99, 0, (0, 204),
                     **watts(VDD_GPU_SOC=2.39, VDD_CPU_CV=0.796, VIN_SYS_5V0=3.522, VDDQ_VDD2_1V8AO=0.301),
                     **degrees(CPU=41.437, Tboard=29, SOC2=39.062, Tdiode=30.75, SOC0=39.031, tj=41.656, SOC1=38.937)),
    NANO_6: readings(6185, 63, 621, (43, 2133), power=12.479, **watts(VDD_CPU_GPU_CV=4.667, VDD_SOC=2.817),
                     **degrees(cpu=53.968, soc2=52.437, soc0=50.75, gpu=53.343, tj=53.968, soc1=51.656)),
    NANO_6_USER: readings(3452, 0, None, None, power=4.824, **watts(VDD_CPU_GPU_CV=0.518, VDD_SOC=1.475),
                          **degrees(cpu=50.031, soc2=49.031, soc0=50, gpu=49.031, tj=50.25, soc1=50.25)),
    NX_6: readings(6982, 84, 713, (18, 3199), power=17.946, **watts(VDD_CPU_GPU_CV=8.896, VDD_SOC=3.923),
                   **degrees(cv0=63.031, cpu=65.562, soc2=64.156, soc0=63.031, cv1=62.937, gpu=63.5, tj=65.562, soc1=64.718,
                             cv2=60.875)),
    ORIN_7: readings(20642, 12, 1300, (3, 3199), **watts(VDD_GPU_SOC=5.139, VDD_CPU_CV=3.268, VIN_SYS_5V0=5.5),
                     **degrees(cpu=52.968, soc2=48.406, soc0=49.531, gpu=47.625)),
    THOR_7: readings(86905, None, None, None, power=26.686, **watts(VDD_GPU=3.561, VDD_CPU_SOC_MSS=7.91, VIN_SYS_5V0=7.62),
                     **degrees(cpu=39.812, tj=39.906, soc012=38.812, gpu=39.906, soc345=38.625)),
    THOR_7_LOADED: readings(8353, 87, 1574, (34, 4266), power=124.486,
                            **watts(VDD_GPU=37.939, VDD_CPU_SOC_MSS=30.059, VIN_SYS_5V0=15.486),
                            **degrees(cpu=58.25, tj=66.625, gpu=56.937, soc012=55.375, soc345=55.812)),
}  # fmt: skip


@pytest.mark.parametrize("line", EXPECTED, ids=lambda line: line[:19])
def test_a_line_is_read_whole(line):
    assert parse(line) == EXPECTED[line]
    assert parse(line + "\n") == EXPECTED[line]


# The clock alone, as a Thor writes it (86bd474 of rbonghi/jetson_stats), and parts of the GPU that are off
@pytest.mark.parametrize(("engine", "load", "clock"), [
    ("GR3D_FREQ @[1000,1000,1000]", None, 1000), ("GR3D_FREQ 40%@[0,1300]", 40, 1300), ("GR3D_FREQ 7%", 7, None),
    ("GR3D_FREQ @998", None, 998), ("GR3D_FREQ off", None, None),
])  # fmt: skip
def test_load_and_clock_of_the_gpu_each_where_it_is_there(engine, load, clock):
    told = parse(f"RAM 4722/7844MB (lfb 1x512kB) EMC_FREQ 2%@1866 {engine} APE 150")
    assert (told.get("load gpu"), told.get("clock gpu")) == (load, clock)


@pytest.mark.parametrize("line", ["", "tegrastats: command not found", "IRAM 0/252kB(lfb 252kB)", "RAM ?/?MB GR3D_FREQ 3%"])
def test_what_is_no_line_of_tegrastats_has_no_readings(line):
    assert parse(line) == {}


def test_throttle_alerts_of_the_kernel(tmp_path):
    for i, (kind, state) in enumerate([("cpu-throttle-alert", "0"), ("gpu-throttle-alert", "1"), ("pwm-fan", "3")]):
        device = tmp_path / f"cooling_device{i}"
        device.mkdir()
        (device / "type").write_text(f"{kind}\n")
        (device / "cur_state").write_text(f"{state}\n")
    (tmp_path / "cooling_device9").mkdir()  # one that cannot be read
    assert throttle_alerts(tmp_path) == ("the temperature (gpu-throttle-alert)",)
    (tmp_path / "cooling_device1" / "cur_state").write_text("0\n")
    assert throttle_alerts(tmp_path) == ()
    assert throttle_alerts(tmp_path / "nowhere") is None, "a kernel without them tells nothing"


def tool(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A tegrastats on the PATH: a shell script that writes recorded lines."""
    file = folder / "tegrastats"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_tools_lines_become_samples_until_it_is_closed(tmp_path, monkeypatch):
    tool(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/given\nwhile true; do echo "{NX_6}"; echo noise; sleep 0.02; done')
    source, stop, seen = Tegrastats(tmp_path), threading.Event(), []
    for sample in source.samples(0.25, stop):
        seen.append(sample)
        if len(seen) == 3:
            stop.set()
    assert [sample.readings for sample in seen] == [EXPECTED[NX_6]] * 3
    assert seen[0].seconds < seen[1].seconds < seen[2].seconds
    assert (tmp_path / "given").read_text() == "--interval 250\n"
    assert source._process is not None
    assert source._process.returncode is not None, "the tool still runs"


def test_closing_interrupts_a_tool_that_is_silent(tmp_path, monkeypatch):
    tool(tmp_path, monkeypatch, f'echo "{NX_6}"; exec sleep 60')
    source, stop, seen = Tegrastats(tmp_path), threading.Event(), []
    thread = threading.Thread(target=lambda: seen.extend(source.samples(0.1, stop)))
    start = time.perf_counter()
    thread.start()
    while source._process is None:
        time.sleep(0.01)
    time.sleep(0.3)
    stop.set()
    source.close()
    thread.join()
    assert time.perf_counter() - start < 10
    assert len(seen) == 1


def test_no_tool_and_one_that_does_not_start_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no tegrastats"):
        Tegrastats()
    (tmp_path / "tegrastats").write_text("#!/no/such/interpreter\n")
    (tmp_path / "tegrastats").chmod(0o755)
    with pytest.raises(ConfigError, match="cannot start"):
        list(Tegrastats().samples(0.1, threading.Event()))
