"""Times of an engine's layers, by TensorRT's IProfiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .._trt import carried, last_errors, trt
from ..errors import ExecutionError
from .contexts import output_shape
from .module import EdgeModule
from .runner import Runner

__all__ = ["layer_times"]

WARM_UP = 5  # calls


def layer_times(module: EdgeModule, tensors: Sequence[torch.Tensor], calls: int) -> dict[str, list[float]]:
    """Milliseconds of each layer in each of ``calls`` calls, in the engine's order.

    It runs in an execution context of its own, with a copy of the engine: what the module does elsewhere is not slowed down.

    Args:
        tensors: CUDA tensors of the shapes and dtypes that the engine takes, in the order of ``metadata["inputs"]``.

    Raises:
        InputError: no optimization profile takes these shapes.
        ExecutionError: nothing here can execute the engine, TensorRT failed, or its profiler reported nothing.
    """
    torch.cuda.synchronize()  # the tensors may still be written
    runner = _runner(module)
    profile = module._sizes.profile(tensors) if module._sizes else None
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        context = runner.context(profile)
        kept = _bind(context, module, tensors, dynamic=profile is not None)
        recorder = _recorder()
        context.profiler = recorder
        times: dict[str, list[float]] = {}
        for call in range(WARM_UP + calls):
            recorder.times = {}
            if not context.execute_async_v3(stream.cuda_stream):
                raise ExecutionError("TensorRT could not run the engine:\n" + "\n".join(f"  {line}" for line in last_errors()))
            stream.synchronize()
            if call >= WARM_UP:
                for name, milliseconds in recorder.times.items():
                    times.setdefault(name, []).append(milliseconds)
    del context, runner, kept  # before the recorder, to which TensorRT holds no reference
    if not times:
        raise ExecutionError("TensorRT's profiler reported no layer: was the engine built with profiling verbosity NONE?")
    return times


def _runner(module: EdgeModule) -> Runner:
    """Of this engine, without what the module itself may have switched on, as CUDA graphs."""
    inputs = [(row["binding"], getattr(torch, row["dtype"])) for row in module.metadata["inputs"]]
    core, allowed = module.metadata["dla_core"], module.engine_host_code_allowed
    return Runner(module._plan, inputs, _outputs(module), core, host_code=allowed)


def _outputs(module: EdgeModule) -> list[tuple[str, torch.dtype, tuple[Any, ...]]]:
    return [(row["binding"], getattr(torch, row["dtype"]), tuple(row["shape"])) for row in module.metadata["outputs"]]


def _recorder() -> Any:
    class Recorder(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # pybind11 trampolines crash when the base is not initialised by name
            self.times: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times[layer_name] = self.times.get(layer_name, 0.0) + float(ms)  # the body of a loop comes again and again

    return Recorder()


def _bind(context: Any, module: EdgeModule, tensors: Sequence[torch.Tensor], dynamic: bool) -> list[torch.Tensor]:
    """Tell the context where its inputs and outputs are; they must outlive its calls."""
    kept = []
    for row, tensor in zip(module.metadata["inputs"], tensors):
        name = row["binding"]
        if name:
            kept.append(tensor.to(carried(getattr(torch, row["dtype"])), copy=True).contiguous())
            if dynamic and not context.set_input_shape(name, tuple(tensor.shape)):
                raise ExecutionError(
                    f"TensorRT refused the shape {tuple(tensor.shape)} of {name}: {'; '.join(last_errors(2))}"
                )
            context.set_tensor_address(name, kept[-1].data_ptr())
    shapes = tuple(tuple(t.shape) for t in tensors)
    for name, dtype, shape in _outputs(module):
        sizes = output_shape(context, name, shapes) if dynamic else shape
        kept.append(torch.empty(sizes, dtype=carried(dtype), device="cuda"))
        kept[-1] = kept[-1] if kept[-1].numel() else torch.empty(1, device="cuda")  # no null addresses
        context.set_tensor_address(name, kept[-1].data_ptr())
    return kept
