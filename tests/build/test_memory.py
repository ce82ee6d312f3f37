"""What an engine and its build take: report.memory, too little memory on the GPU, offload, peaks, leaks."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_rounds import rounds
from support.gpu import FAST, alone, needs_gpu
from torch import nn

import torch2edge
from torch2edge import host_memory
from torch2edge._trt import capabilities, logger, recorded, trt
from torch2edge.build import BuildSession
from torch2edge.build.memory import SHORT, BuildMemoryWarning, Need, Room, skipped_note
from torch2edge.build.offload import SetAside, offloaded
from torch2edge.errors import BuildError, Torch2EdgeError
from torch2edge.host_memory import HostPeak
from torch2edge.options import Options
from torch2edge.report import Memory, Report, bytes_text
from torch2edge.run.engine_file import FORMAT, read, write

ROOT = Path(__file__).parent.parent.parent
MIB = 2**20
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")


class Wide(nn.Module):
    """Known sizes: 96 x 640 weights, 640 biases, inputs of 4 x 96, outputs of 4 x 640."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(96, 640)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc(x))


WIDE_BYTES = (96 * 640 + 640) * 4


# ---- the report -----------------------------------------------------------------------------------------------------


def test_report_memory() -> None:
    module = torch2edge.convert(Wide().eval(), [torch.randn(4, 96)], workspace="128M")
    memory = module.report.memory
    assert memory.engine == module.report.engine_bytes == len(module._plan)
    assert memory.weights == WIDE_BYTES
    assert memory.workspace == 128 * MIB
    assert memory.host is not None
    assert str(memory) in str(module.report)
    assert "weights 0.2 MiB, " in str(memory)
    assert "workspace at most 128.0 MiB" in str(memory)


def test_report_memory_is_kept_in_files(tmp_path: Path) -> None:
    module = torch2edge.convert(Wide().eval(), [torch.randn(4, 96)])
    module.save(tmp_path / "net.engine")
    kept = torch2edge.load(tmp_path / "net.engine").report.memory
    assert kept == module.report.memory
    assert json.loads(json.dumps(module.report.to_dict()))["memory"]["weights"] == WIDE_BYTES


def test_reports_of_older_files_have_the_engine_alone() -> None:
    data = torch2edge.convert(Wide().eval(), [torch.randn(4, 96)]).report.to_dict()
    del data["memory"]
    report = Report.from_dict(data)
    assert report.memory == Memory(engine=data["engine_bytes"])
    assert f"memory: engine {bytes_text(data['engine_bytes'])}\n" in str(report)


def test_weights_of_a_parsed_network() -> None:
    pytest.importorskip("onnx")
    refuses = {torch.ops.aten.relu.default: _refuses}
    module = torch2edge.convert(Wide().eval(), [torch.randn(4, 96)], converters=refuses, fallback="onnx")
    assert WIDE_BYTES <= module.report.memory.weights < 1.1 * WIDE_BYTES  # and perhaps a constant of the exporter's


def _refuses(net: Any, self: Any) -> Any:
    raise NotImplementedError("not here")


@pytest.mark.skipif(not capabilities().strongly_typed, reason="weights are stored in half where the network says so")
def test_weights_in_half() -> None:
    memory = torch2edge.convert(Wide().eval(), [torch.randn(4, 96)], fp16=True).report.memory
    assert memory.weights == WIDE_BYTES // 2


@pytest.mark.parametrize(("size", "text"), [(0, "0.0 MiB"), (46976204, "44.8 MiB"), (150754820096, "140.4 GiB")])
def test_bytes_text(size: int, text: str) -> None:
    assert bytes_text(size) == text


# ---- what a build needs, and too little of it ------------------------------------------------------------------------


def network_of(model: nn.Module, x: torch.Tensor) -> Any:
    return torch2edge.convert(model, [x], keep_network=True, verify=False).network


def test_what_a_build_needs() -> None:
    need = Need.of(network_of(Wide().eval(), torch.randn(4, 96)), WIDE_BYTES, 64 * MIB)
    assert need.tensors == 4 * 640 * 4 * 2  # the addition of the bias, or relu: in and out; the weights are no tensors
    assert need.least == WIDE_BYTES + need.tensors


def test_a_constant_is_no_tensor_of_a_layer() -> None:
    """A product with a large matrix: its 16 MiB are weights, not the input of a layer."""
    model = nn.Linear(2048, 2048, bias=False).eval()
    need = Need.of(network_of(model, torch.randn(1, 2048)), 16 * MIB, MIB)
    assert need.tensors == 2 * 2048 * 4


GPU = 24 * 2**30


def test_too_little_memory_is_told_before_the_build() -> None:
    need = Need(900 * MIB, 100 * MIB, GPU)
    with pytest.warns(BuildMemoryWarning, match="takes about 1000.0 MiB on the GPU") as caught:
        Room(300 * MIB, GPU).warn(need, offload=False)
    told = str(caught[0].message)
    for word in ("300.0 MiB of 24.0 GiB were free", "offload=True", 'workspace="75M"', "optimization_level", "nvidia-smi"):
        assert word in told
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Room(1001 * MIB, GPU).warn(need, offload=False)
        Room(300 * MIB, GPU, shared=True).warn(need, offload=False)  # a Jetson's caches are no lack
    assert "offload" not in Room(300 * MIB, GPU).told(need, offload=True)


# What TensorRT said on GitHub: yolov5 #12248, TensorRT #2643, TensorRT-LLM #493 and #436.
SAID = [
    "Tactic Device request: 448MB Available: 425MB. Device memory is insufficient to use tactic.",
    "Skipping tactic 3 due to insuficient memory on requested size of 448 detected for tactic 4.",
    "UNSUPPORTED_STATESkipping tactic 4 due to insufficient memory on requested size of 66048 detected for tactic 0x1f.",
    "2: [virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)",
    "Requested amount of GPU memory (68719476736 bytes) could not be allocated. There may not be enough free memory for "
    "allocation to succeed.",
    "1: [defaultAllocator.cpp::allocate::19] Error Code 1: Cuda Runtime (out of memory)",
    "Some tactics do not have sufficient workspace memory to run. Increasing workspace size will enable more tactics.",
]


@pytest.mark.parametrize("line", SAID)
def test_tensorrts_words_for_too_little_memory(line: str) -> None:
    assert SHORT.search(line)
    assert Room(20 * 2**30, GPU).explains(Need(1, 1, 1), [line])


@pytest.mark.parametrize(
    "line", ["Total Host Persistent Memory: 4096", "[MemUsageChange] Init: CPU +14, GPU +0", "no memory pool"]
)
def test_other_words(line: str) -> None:
    assert not SHORT.search(line)
    assert not Room(20 * 2**30, GPU).explains(Need(1, 1, 1), [line])


def test_tactics_that_were_left_out_are_a_note() -> None:
    assert skipped_note([]) == skipped_note([SAID[3]]) == ""
    note = skipped_note([SAID[0], SAID[1], SAID[3]])
    assert note.startswith("note: TensorRT says that it left out tactics for lack of memory (2 times; ")
    assert SAID[0] in note


def test_lines_are_recorded_by_their_words() -> None:
    with recorded(SHORT) as short, recorded() as everything:
        logger().log(trt.ILogger.Severity.WARNING, SAID[0])
        logger().log(trt.ILogger.Severity.VERBOSE, "something else")
    logger().log(trt.ILogger.Severity.WARNING, SAID[1])
    assert short == [SAID[0]]
    assert everything == [SAID[0], "something else"]


@pytest.mark.skipif(capabilities().name != "tensorrt_rtx", reason="how TensorRT-RTX fails under a tiny workspace")
def test_a_workspace_that_is_too_small_is_tensorrts_to_refuse() -> None:
    with pytest.raises(BuildError, match="workspace"):
        torch2edge.convert(nn.Linear(64, 64).eval(), [torch.randn(2, 64)], workspace=1)


# ---- the host --------------------------------------------------------------------------------------------------------


@linux
def test_the_peak_of_the_host() -> None:
    """A block that lives for 50 ms inside; the process's highest value before is above it or not."""
    peak = HostPeak()
    with peak.watching():
        block = torch.ones(48 * MIB // 4)
        time.sleep(0.05)
        del block
    assert peak.added is not None
    assert 40 * MIB < peak.added < 96 * MIB
    before = peak.added
    block = torch.ones(128 * MIB // 4)  # outside
    del block
    assert peak.added == before


@linux
def test_a_peak_below_the_highest_of_the_process() -> None:
    """VmHWM does not move here: the thread that looks must see it."""
    old = torch.ones(256 * MIB // 4)
    del old
    peak = HostPeak()
    with peak.watching():
        block = torch.ones(64 * MIB // 4)
        time.sleep(0.1)
        del block
    assert peak.added is not None
    assert peak.added > 40 * MIB


@linux
def test_saving_copies_no_engine(tmp_path: Path) -> None:
    plan = torch.randint(0, 256, (96 * MIB,), dtype=torch.uint8).numpy().tobytes()
    peak = HostPeak()
    with peak.watching():
        write(tmp_path / "large.engine", {"format": FORMAT}, plan)
    assert peak.added is not None
    assert peak.added < 16 * MIB
    metadata, read_back = read(tmp_path / "large.engine")
    assert metadata == {"format": FORMAT}
    assert read_back == plan


@linux
def test_the_watching_thread_ends() -> None:
    def watchers() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "torch2edge: memory"]

    def fails() -> None:
        assert len(watchers()) == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), HostPeak().watching():
        fails()
    assert watchers() == []


def test_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host_memory, "_STATUS", tmp_path / "none")
    module = torch2edge.convert(Wide().eval(), [torch.randn(4, 96)])
    assert module.report.memory.host is None
    assert "host" not in str(module.report.memory)


PEAK = """
import sys, warnings
sys.path.insert(0, "benchmarks")
from memory_peak import measured
print(measured("mlp-64", "fp32")["beyond"])
"""


@linux
@pytest.mark.skipif(capabilities().name != "tensorrt_rtx", reason="builds without a GPU")
def test_the_hosts_peak_is_at_most_twice_the_weights_beyond_tensorrts_own() -> None:
    result = subprocess.run([sys.executable, "-c", PEAK], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 2.0, result.stdout


@linux
def test_converting_and_deleting_leaves_no_memory_behind() -> None:
    """45 rounds of a small model in a process of its own: flat after 15. benchmarks/memory_rounds.py does 1,000."""
    code = "import sys; sys.path.insert(0, 'benchmarks'); from memory_rounds import rounds; print(rounds(45)['kib'])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    resident = json.loads(result.stdout)
    assert len(resident) == 45
    assert max(resident[30:]) - max(resident[15:30]) < 2048, resident  # KiB; an engine of this model has 50


def test_a_deleted_module_is_gone() -> None:
    import weakref

    module = torch2edge.convert(Wide().eval(), [torch.randn(4, 96)])
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None


# ---- offload ---------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Ties and views of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight  # one parameter, two names
        self.rnn = nn.LSTM(8, 8, batch_first=True)  # on a GPU its weights are views of one memory
        flat = torch.randn(32)
        self.register_buffer("low", flat[:16])
        self.register_buffer("high", flat[16:].view(4, 4).t())  # not contiguous, with an offset
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("empty", torch.empty(0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(ids))[0]) + self.low.sum() + self.high[0, 1] + self.count


def tensors_of(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def test_memory_set_aside_and_put_back() -> None:
    """On the CPU; only the device is another on a GPU."""
    model = Tied().eval()
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    objects = [id(t) for t in tensors_of(model)]
    alias = model.head.weight.data[2:4]
    moved = SetAside(tensors_of(model), "cpu")
    moved.out()
    assert all(t.untyped_storage().nbytes() == 0 for t in tensors_of(model))
    moved.back()
    assert [id(t) for t in tensors_of(model)] == objects
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert model.head.weight is model.embed.weight
    assert torch.equal(alias, before["head.weight"][2:4])
    with torch.no_grad():
        model.embed.weight.fill_(7)  # every view sees it
        model.low.fill_(5)
    assert alias.eq(7).all()
    assert model.high.untyped_storage().data_ptr() == model.low.untyped_storage().data_ptr()


def test_a_model_with_no_room_to_go_back_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Tied().eval()
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    moved = SetAside(tensors_of(model), "cpu")
    moved.out()
    last = list(moved._storages)[-1]

    class Full:
        def resize_(self, size: int) -> None:
            if size:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    moved._storages[last] = Full()
    with pytest.raises(BuildError, match=r"no room on the GPU to put the model back .*CUDA out of memory"):
        moved.back()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert model.head.weight is model.embed.weight
    with torch.no_grad():
        model.low.fill_(5)
    assert model.high.untyped_storage().data_ptr() == model.low.untyped_storage().data_ptr()  # tied as they were
    model(torch.tensor([[1, 2]]))


def test_what_is_on_the_cpu_stays() -> None:
    model = Tied().eval()
    with offloaded(model, True):
        model(torch.tensor([[1, 2]]))
    module = torch2edge.convert(Wide().eval(), [torch.randn(4, 96)], offload=True)
    assert module.report.check[0].passed


# ---- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@needs_gpu
def test_activations_are_known_where_the_engine_ran() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)).eval().cuda()
    module = torch2edge.convert(model, [torch.randn(2, 3, 64, 64, device="cuda")], **FAST)
    memory = module.report.memory
    assert memory.activations is not None
    assert memory.activations >= 0
    assert "activations" in str(memory)
    assert memory.workspace is not None
    assert 0 < memory.workspace <= torch.cuda.get_device_properties(0).total_memory


@contextmanager
def filled(left: int) -> Iterator[None]:
    """The GPU's memory but ``left`` bytes is taken."""
    torch.cuda.empty_cache()
    held = torch.empty(torch.cuda.mem_get_info()[0] - left, dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del held
        torch.cuda.empty_cache()


@pytest.mark.gpu
@needs_gpu
@alone
def test_out_of_memory_in_the_build_is_told_and_a_later_build_works() -> None:
    model = nn.Linear(16384, 16384, bias=False).eval()  # 1 GiB, on the CPU
    x = torch.randn(1, 16384)
    small, y = nn.Sequential(nn.Linear(16, 16), nn.ReLU()).eval().cuda(), torch.randn(2, 16, device="cuda")
    torch2edge.convert(small, [y], **FAST)  # libraries, context
    options = {**FAST, "optimization_level": 3}  # every tactic is timed, and that needs the weights
    with (
        filled(400 * MIB),
        pytest.warns(BuildMemoryWarning, match="1024.0 MiB of weights"),
        pytest.raises(BuildError) as caught,
    ):
        torch2edge.convert(model, [x], verify=False, **options)
    told = str(caught.value)
    assert "The GPU had too little memory" in told
    assert "were free" in told
    assert "workspace=" in told
    module = torch2edge.convert(small, [y], **FAST)
    with torch.no_grad():
        torch.testing.assert_close(module(y), small(y), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@needs_gpu
def test_offload_frees_the_gpu_during_the_build_and_puts_all_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Tied().eval().cuda()
    model.register_buffer("ballast", torch.randn(64 * MIB // 4, device="cuda"))
    ids = torch.randint(0, 10, (2, 5), device="cuda")
    with torch.no_grad():
        expected = model(ids)
    objects = [id(t) for t in tensors_of(model)]
    before = {name: tensor.detach().clone().cpu() for name, tensor in model.state_dict().items()}
    allocated, seen, build = torch.cuda.memory_allocated(), [], BuildSession.build

    def watched(self: BuildSession, *args: Any) -> bytes:
        seen.append(torch.cuda.memory_allocated())
        return build(self, *args)

    monkeypatch.setattr(BuildSession, "build", watched)
    module = torch2edge.convert(model, [ids], offload=True, **FAST)
    assert allocated - seen[0] > 63 * MIB
    assert [id(t) for t in tensors_of(model)] == objects
    assert all(t.is_cuda for t in tensors_of(model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.cpu(), before[name]), name
    assert model.head.weight is model.embed.weight
    with torch.no_grad():
        torch.testing.assert_close(model(ids), expected)
        torch.testing.assert_close(module(ids), expected, rtol=1e-3, atol=1e-4)

    def fails(self: BuildSession, *args: Any) -> bytes:
        assert model.embed.weight.untyped_storage().nbytes() == 0
        raise BuildError("no engine")

    monkeypatch.setattr(BuildSession, "build", fails)
    with pytest.raises(Torch2EdgeError, match="no engine"):
        torch2edge.convert(model, [ids], offload=True, **FAST)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), expected)


@pytest.mark.gpu
@needs_gpu
@alone
def test_converting_and_deleting_leaves_no_memory_of_the_gpu_behind() -> None:
    used = rounds(30)["gpu_kib"]
    assert max(used[20:]) - max(used[10:20]) <= 16 * 1024, used


@pytest.mark.gpu
@needs_gpu
def test_a_builder_says_its_limit() -> None:
    assert BuildSession(Options(workspace="256M")).workspace() == 256 * MIB
