"""What a call of an engine promises: streams, threads, devices, memory, faults."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from torch import nn

import torch2edge
from torch2edge import ExecutionError, Input, InputError

pytestmark = [pytest.mark.gpu, needs_gpu]
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


class Net(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """PyTorch's own convolutions without TF32."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval().cuda()


def x_of(n: int = 2, size: int = 16, device: Any = "cuda") -> torch.Tensor:
    return torch.randn(n, 3, size, size, device=device)


@pytest.fixture(scope="module")
def engine(net: Net) -> torch2edge.EdgeModule:
    return torch2edge.convert(net, [x_of()], **FAST)


def close(given: torch.Tensor, expected: torch.Tensor) -> None:
    assert (given.shape, given.dtype, given.device) == (expected.shape, expected.dtype, expected.device)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_outputs_are_fresh_until_they_are_reused(net: Net, engine: torch2edge.EdgeModule) -> None:
    module = copy.deepcopy(engine)
    xs = [x_of() for _ in range(5)]
    for given, x in zip([module(x) for x in xs], xs):
        close(given, net(x))
    module.outputs = "reuse"
    assert len({module(x).data_ptr() for x in xs}) == 1
    close(module(xs[2]), net(xs[2]))
    assert copy.deepcopy(module).outputs == "reuse"


@torch.no_grad()
@pytest.mark.parametrize("graphed", [False, True])
def test_ways_to_the_outputs_do_not_mix(net: Net, engine: torch2edge.EdgeModule, graphed: bool) -> None:
    """out=, then reuse, then streams, then reuse: nothing of the user's is written that was not given."""
    module = copy.deepcopy(engine).enable_cuda_graph() if graphed else copy.deepcopy(engine)
    x, out = x_of(), torch.empty(2, 4, 14, 14, device="cuda")
    module(x, out=out)
    module.outputs = "reuse"
    other = x_of()
    close(module(other), net(other))
    close(out, net(x))
    xs = [x_of() for _ in range(8)]
    results = module.streams(4)(xs)
    close(module(other), net(other))
    for given, one in zip(results, xs):
        close(given, net(one))
    assert module(other, out=None).data_ptr() == module(other).data_ptr()


@torch.no_grad()
def test_reused_outputs_are_those_of_a_stream(net: Net, engine: torch2edge.EdgeModule) -> None:
    module = copy.deepcopy(engine)
    module.outputs = "reuse"
    streams, kept = [torch.cuda.Stream() for _ in range(6)], []
    for stream in streams:
        with torch.cuda.stream(stream):
            x = x_of()
            kept.append((module(x), net(x)))
    torch.cuda.synchronize()
    for given, expected in kept:
        close(given, expected)


@torch.no_grad()
def test_an_engine_that_was_changed_is_forgotten(engine: torch2edge.EdgeModule) -> None:
    """A call that was under way meanwhile brings nothing of the old one back."""
    module, x = copy.deepcopy(engine), x_of()
    module(x)
    old = module._runner(0)
    module.enable_cuda_graph().disable_cuda_graph()
    module._remember(old, [x], None)
    assert module._quick is None
    module(x)
    assert module._quick is not None
    assert module._quick.runner is module._runner(0) is not old


@torch.no_grad()
def test_out(net: Net, engine: torch2edge.EdgeModule) -> None:
    x, out = x_of(), torch.empty(2, 4, 14, 14, device="cuda")
    assert engine(x, out=out) is out
    close(out, net(x))
    whole = torch.empty(2 * 4 * 14 * 14 + 1, device="cuda")
    for wrong, told in [
        (torch.empty(2, 4, 14, 13, device="cuda"), r"out\[0\] is torch.float32 \(2, 4, 14, 13\)"),
        (torch.empty(2, 4, 14, 14, device="cuda").half(), "torch.float16"),
        (torch.empty(2, 4, 14, 14), "on cpu"),
        (torch.empty(2, 14, 14, 4, device="cuda").permute(0, 3, 1, 2), "not contiguous"),
        (whole[1:].view(2, 4, 14, 14), "256 bytes"),
        ([out], r"out= is \[tensor\], but the module gives tensor"),
    ]:
        with pytest.raises(InputError, match=told):
            engine(x, out=wrong)
    shared = torch.randn(2 * 3 * 16 * 16 + 2 * 4 * 14 * 14, device="cuda")
    with pytest.raises(InputError, match="share their memory"):
        engine(shared[: 2 * 3 * 16 * 16].view(2, 3, 16, 16), out=shared[2 * 3 * 16 * 16 :].view(2, 4, 14, 14))
    close(engine(x), net(x))


@torch.no_grad()
def test_cast_inputs(net: Net, engine: torch2edge.EdgeModule) -> None:
    module = copy.deepcopy(engine)
    x = x_of().double()
    with pytest.raises(InputError, match="cast_inputs = True"):
        module(x)
    module.cast_inputs = True
    close(module(x), net(x.float()))


@torch.no_grad()
def test_inputs_of_another_stream_that_are_dropped_at_once(net: Net, engine: torch2edge.EdgeModule) -> None:
    """Their memory must not be given to others before the engine has read it."""
    maker, user, results = torch.cuda.Stream(), torch.cuda.Stream(), []
    for _ in range(30):
        with torch.cuda.stream(maker):
            x = x_of()
            expected = net(x)
        user.wait_stream(maker)
        with torch.cuda.stream(user):
            torch.cuda._sleep(1_000_000)
            given = engine(x)
        del x
        with torch.cuda.stream(maker):
            torch.full((2, 3, 16, 16), 1e9, device="cuda")  # would take the memory of x
        results.append((given, expected))
    torch.cuda.synchronize()
    for given, expected in results:
        close(given, expected)


@torch.no_grad()
def test_more_streams_than_contexts(net: Net, engine: torch2edge.EdgeModule) -> None:
    streams = [torch.cuda.Stream() for _ in range(9)]
    results = []
    for i in range(90):
        with torch.cuda.stream(streams[i % 9]):
            x = x_of()
            results.append((engine(x), net(x)))
    torch.cuda.synchronize()
    for given, expected in results:
        close(given, expected)


@torch.no_grad()
def test_a_stream_that_is_not_pytorchs(net: Net, engine: torch2edge.EdgeModule) -> None:
    import ctypes

    cuda = ctypes.CDLL("libcuda.so.1")
    graphed, shared = copy.deepcopy(engine).enable_cuda_graph(), copy.deepcopy(engine)
    shared.share_memory_with(copy.deepcopy(engine))
    for module in (engine, graphed, shared) * 2:
        handle = ctypes.c_void_p()
        assert cuda.cuStreamCreate(ctypes.byref(handle), 1) == 0
        with torch.cuda.stream(torch.cuda.ExternalStream(handle.value)):
            x = x_of()
            given, expected = module(x), net(x)
            torch.cuda.current_stream().synchronize()
        close(given, expected)
        del x, given, expected  # PyTorch's allocator asks the stream when they go
        assert cuda.cuStreamDestroy_v2(handle) == 0
    x = x_of()
    close(engine(x), net(x))


def test_threads_on_one_stream_and_on_their_own(net: Net, engine: torch2edge.EdgeModule) -> None:
    failures: list[BaseException] = []

    def work(own: bool) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream() if own else None), torch.no_grad():
                for _ in range(40):
                    x = x_of()
                    given, expected = engine(x), net(x)
                    torch.cuda.current_stream().synchronize()
                    close(given, expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


@torch.no_grad()
@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("graphed", [False, True])
def test_streams(net: Net, engine: torch2edge.EdgeModule, threads: bool, graphed: bool) -> None:
    module = copy.deepcopy(engine)
    if graphed:
        module.enable_cuda_graph()
    run = module.streams(3, threads=threads)
    for count in (7, 2, 0):
        batches = [x_of() for _ in range(count)]
        for given, x in zip(run([(x,) for x in batches]), batches, strict=True):
            close(given, net(x))
    with pytest.raises(InputError, match=r"args\[0\] is torch.float32 \(1, 3, 16, 16\)"):
        run([x_of(), x_of(1)])
    x = x_of()
    close(run([x])[0], net(x))


@torch.no_grad()
def test_engines_that_share_their_memory() -> None:
    torch.manual_seed(1)
    nets = [Net(width).eval().cuda() for width in (8, 64)]
    modules = [torch2edge.convert(n, [x_of(2, size)], **FAST) for n, size in zip(nets, (16, 64))]
    modules[0].share_memory_with(modules[1])
    streams, results = [torch.cuda.Stream() for _ in range(3)], []
    for i in range(60):
        with torch.cuda.stream(streams[i % 3]):
            x = x_of(2, (16, 64)[i % 2])
            results.append((modules[i % 2](x), nets[i % 2](x)))
    torch.cuda.synchronize()
    for given, expected in results:
        close(given, expected)
    memory = modules[0]._memory
    assert memory is not None
    assert memory is modules[1]._memory
    with pytest.raises(ExecutionError, match="shares its activation memory"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        modules[0](x_of())
    torch.cuda.synchronize()


@torch.no_grad()
def test_out_of_memory_in_a_call(net: Net) -> None:
    module = torch2edge.convert(net, [Input(min=(1, 3, 8, 8), opt=(2, 3, 16, 16), max=(64, 3, 512, 512))], **FAST)
    x = x_of(64, 512)
    module(x)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**20) / torch.cuda.mem_get_info()[1])
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            module(x)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    close(module(x), net(x))


def forked(module: Any, x: torch.Tensor, told: Any) -> None:
    try:
        module(x)
        told.put("it ran")
    except ExecutionError as error:
        told.put(str(error))
    except BaseException as error:
        told.put(repr(error))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's own, on forks beside threads
def test_after_a_fork(engine: torch2edge.EdgeModule) -> None:
    x = x_of()
    engine(x)
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    child = context.Process(target=forked, args=(engine, x, told))
    child.start()
    assert "was forked after the engine was loaded" in told.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    engine(x)


@torch.no_grad()
def test_the_model_and_the_module_may_be_deleted(net: Net) -> None:
    model = copy.deepcopy(net)
    module = torch2edge.convert(model, [x_of()], **FAST)
    x = x_of()
    expected = model(x)
    del model
    gc.collect()
    close(module(x), expected)
    results = [module(x) for _ in range(20)]
    del module
    gc.collect()
    for given in results:
        close(given, expected)


@torch.no_grad()
def test_many_calls_leave_nothing(engine: torch2edge.EdgeModule) -> None:
    def held() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for module in (copy.deepcopy(engine), copy.deepcopy(engine).enable_cuda_graph()):
        x = x_of()
        for _ in range(2000):
            module(x)
        torch.cuda.synchronize()
        before, on_gpu = held(), torch.cuda.memory_allocated()
        for _ in range(20000):
            module(x)
        torch.cuda.synchronize()
        assert torch.cuda.memory_allocated() == on_gpu
        assert held() - before < 2**20


@torch.no_grad()
def test_in_a_compiled_model(net: Net, engine: torch2edge.EdgeModule) -> None:
    outer = torch.compile(nn.Sequential(copy.deepcopy(engine), nn.ReLU()), backend="eager")
    for _ in range(3):
        x = x_of()
        close(outer(x), net(x).relu())


@needs_two
@torch.no_grad()
def test_another_gpu(net: Net, engine: torch2edge.EdgeModule) -> None:
    module = copy.deepcopy(engine)
    other = copy.deepcopy(net).to("cuda:1")
    for _ in range(3):
        x = x_of(device="cuda:1")
        close(module(x), other(x))
        x = x_of()
        close(module(x), net(x))
    with torch.cuda.device(1):
        x = x_of(device="cuda:0")
        close(module(x), net(x))
        x = x_of(device="cuda:1")
        close(module.enable_cuda_graph()(x), other(x))
        assert torch.cuda.current_device() == 1


@needs_two
@torch.no_grad()
def test_data_parallel(net: Net) -> None:
    module = torch2edge.convert(net, [Input(min=(1, 3, 16, 16), opt=(2, 3, 16, 16), max=(4, 3, 16, 16))], **FAST)
    both = nn.DataParallel(module, device_ids=[0, 1])
    for _ in range(3):
        x = x_of(6)
        close(both(x), net(x))
