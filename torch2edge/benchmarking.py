"""benchmark() and profile(): how fast a module is. Part of api.py, knows the stages too."""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import nn

from ._trt import why_not_executable
from .bench import Benchmark, LayerProfile, Rival, Settings, WarmUp, contender_of, figures_of
from .bench import monitor as watching
from .bench.advice import warnings_of
from .bench.contender import Contender, Run, heap_left_alone
from .bench.rounds import ROUNDS, in_rounds, joined, ratios
from .errors import ConfigError, ExecutionError, InputError, Torch2EdgeError, TrainingModeError
from .inputs import device_of, positional
from .run import EdgeModule
from .run.layer_times import layer_times
from .structure import flatten_call, unflatten

__all__ = ["benchmark", "profile"]

PROFILED = 50  # calls
Call = tuple[list[Any], dict[str, Any]]


def benchmark(
    module: nn.Module, inputs: Sequence[Any] | torch.Tensor, kwargs: Mapping[str, Any] | None = None, *,
    iterations: int = 10, duration: float = 3.0, warmup: float | None = None, streams: int = 1, threads: bool = False,
    spin_wait: bool = False, data_transfers: bool = True, cuda_graph: bool = False, layers: bool = False,
    compare: nn.Module | None = None, monitor: bool = False,
) -> Benchmark:  # fmt: skip
    """Measure a module: an ``EdgeModule``, or any other on a GPU or the CPU.

    The figures mean what trtexec's of the same names mean (``Benchmark``). Two calls are in flight on each stream: while one
    computes, the inputs of the next are copied in, and the outputs of the last are copied out. A module on the CPU is timed by
    the host's clock alone, and the result says so.

    Args:
        module: in eval mode. An ``EdgeModule`` runs on the current GPU, another module where its parameters are.
        inputs: the positional inputs, as for ``convert``; they are copied to where they are needed.
        kwargs: the keyword inputs.
        iterations: at least so many calls on each stream.
        duration: at least so many seconds.
        warmup: milliseconds of calls that are not counted; None: until the median latencies of three windows of 50 ms in a row
            are within 2 % of each other, for 10 s at most.
        streams: batches in flight, each on a CUDA stream of its own.
        threads: a thread of the host for each stream.
        spin_wait: the host spins while it waits for the GPU, which takes a CPU core and reacts sooner.
        data_transfers: copy the inputs from pinned host memory before each call, and the outputs to it after.
        cuda_graph: capture a call as a CUDA graph and replay it: ``EdgeModule.enable_cuda_graph``, or torch's CUDAGraph.
        layers: the times of the engine's layers too, by module (``profile``).
        compare: the PyTorch model, or the same module: measured eager, compiled (``torch.compile``) and as a CUDA graph, in
            ten rounds with this module, so that each round has its own ratios. A form that fails is in the result with the
            reason.
        monitor: power, clocks, temperatures, memory and load during the measuring (``torch2edge.monitor``).

    Raises:
        ConfigError: a wrong option, or one that this module or machine cannot honour.
        InputError: the module does not take these inputs.
        TrainingModeError: the module, or ``compare``, is in training mode.
        ExecutionError: an engine on a machine that cannot execute it: the reference executor's times would mean nothing.
    """
    settings = Settings(iterations, duration, warmup, streams, threads, spin_wait, data_transfers, cuda_graph)
    _check_module(module, "module")
    if compare is not None:
        _check_module(compare, "compare")
    args, keywords = positional(inputs), dict(kwargs or {})
    device = _device(module, args, keywords)
    _check_place(module, device, settings, layers)
    call = _tried(module, *_placed(args, keywords, device))
    watched = watching(device=device.index) if monitor else None
    name = _form(module, settings)
    with ExitStack() as stack:
        stack.enter_context(_graphed(module, settings, call))
        first = contender_of(name, module, *call, device, settings, cuda_graph and not isinstance(module, EdgeModule))
        stack.callback(first.close)
        rivals = [] if compare is None else _begun(_rivals(module, compare, device, settings), call, device, settings, stack)
        stack.enter_context(heap_left_alone())
        warm = first.warm_up(warmup)
        with watched or nullcontext():
            base = _in_rounds(first, rivals, settings)
    result = _result(name, module, device, call, settings, warm, joined(base))
    result.rivals, result.rounds = [_row(rival, base) for rival in rivals], len(base)
    result.layers = profile(module, *call) if isinstance(module, EdgeModule) and layers else None
    result.monitor = watched.report if watched else None
    return result


def profile(
    module: EdgeModule, inputs: Sequence[Any] | torch.Tensor, kwargs: Mapping[str, Any] | None = None, *,
    calls: int = PROFILED,
) -> LayerProfile:  # fmt: skip
    """The times of an engine's layers, by TensorRT's profiler: a row per layer, and sums by module of the model.

    Args:
        inputs: the positional inputs, as for ``convert``.
        kwargs: the keyword inputs.
        calls: how many are measured, after five that are not.

    Raises:
        ConfigError: ``module`` is no EdgeModule, or ``calls`` no whole number from 1 on.
        InputError: the engine does not take these inputs.
        ExecutionError: nothing here can execute it.
    """
    if not isinstance(module, EdgeModule):
        raise ConfigError(
            f"profile: the module is a {type(module).__name__}; only an engine has layers for TensorRT's profiler"
        )
    if isinstance(calls, bool) or not isinstance(calls, int) or calls < 1:
        raise ConfigError(f"profile: calls is {calls!r}; it must be a whole number from 1 on")
    _check_module(module, "module")
    args, keywords = _tried(module, *_placed(positional(inputs), dict(kwargs or {}), torch.device("cuda")))
    report = module.report
    known = [row.path for row in report.modules] if report else []
    return LayerProfile.of(layer_times(module, module._flatten(tuple(args), keywords), calls), known)


# ---- checks -------------------------------------------------------------------------------------------------------------


def _check_module(module: Any, what: str) -> None:
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"benchmark: {what} is a {type(module).__name__}; it must be an nn.Module (torch2edge.load reads a file)"
        )
    engines = [m for m in module.modules() if isinstance(m, EdgeModule)]
    if any(not engine.metadata for engine in engines):
        raise ExecutionError("benchmark: the EdgeModule is empty: load a state dict first, or use torch2edge.load(file)")
    training = [
        path or "the module itself" for path, m in module.named_modules() if m.training and not isinstance(m, EdgeModule)
    ]
    if training:
        raise TrainingModeError(
            f"benchmark: {len(training)} modules of {what} ({', '.join(training[:3])}{', ...' if training[3:] else ''}) are "
            "in training mode, where dropout and batch norms compute something else. Call model.eval() first."
        )
    reason = why_not_executable() if engines else ""
    if reason:
        raise ExecutionError(
            f"benchmark: the engine cannot run here: {reason}. The reference executor would compute it, slowly and on the "
            "CPU, and its times would say nothing about the engine. Measure on the machine with the GPU."
        )


def _device(module: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> torch.device:
    """Where the module runs: its parameters', else its inputs'; an engine's is the current GPU."""
    state = [*module.parameters(), *module.buffers()]
    if any(isinstance(m, EdgeModule) for m in module.modules()):
        if any(not t.is_cuda for t in state):
            raise ConfigError(
                "benchmark: the module has engines inside, but parts of it are on the CPU: call module.cuda() first"
            )
        return state[0].device if state else torch.device("cuda", torch.cuda.current_device())
    tensors = flatten_call(args, kwargs)[0]
    device = device_of(module) if state or not tensors else tensors[0].device
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"benchmark: the module is on {device}; a CUDA GPU or the CPU can be measured")
    return device


def _check_place(module: nn.Module, device: torch.device, settings: Settings, layers: bool) -> None:
    if device.type == "cpu":
        settings.check_for_host()
    if layers and not isinstance(module, EdgeModule):
        raise ConfigError("benchmark: layers=True: only an EdgeModule has layers for TensorRT's profiler")
    if not settings.cuda_graph:
        return
    if isinstance(module, EdgeModule):
        if not hasattr(module, "enable_cuda_graph"):
            raise ConfigError("benchmark: cuda_graph=True: this EdgeModule has no enable_cuda_graph()")
    elif any(isinstance(m, EdgeModule) for m in module.modules()):
        raise ConfigError("benchmark: cuda_graph=True: a module with engines inside cannot be captured as one graph")


def _placed(args: list[Any], kwargs: dict[str, Any], device: torch.device) -> Call:
    tensors, structure = flatten_call(args, kwargs)
    call = unflatten(structure, [tensor.to(device) for tensor in tensors])
    return call["args"], call["kwargs"]


def _tried(module: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> Call:
    """The call, once the module has taken it; what is wrong with it is said before anything is measured."""
    try:
        with torch.no_grad():
            module(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except Torch2EdgeError:
        raise
    except Exception as error:
        raise InputError(
            f"the module fails on these inputs ({', '.join(_texts(args, kwargs)) or 'none'}): {type(error).__name__}: {error}"
        ) from error
    return args, kwargs


# ---- forms of a module --------------------------------------------------------------------------------------------------


@contextmanager
def _graphed(module: nn.Module, settings: Settings, call: Call) -> Iterator[None]:
    """An EdgeModule with its own CUDA graphs switched on, if it can have any."""
    if not settings.cuda_graph or not isinstance(module, EdgeModule) or _has_graphs(module):
        yield
        return
    edge: Any = module
    edge.enable_cuda_graph()
    try:
        _check_graph(edge, call)
        yield
    finally:
        edge.disable_cuda_graph()


def _check_graph(module: EdgeModule, call: Call) -> None:
    """An engine that no graph can hold goes on without, after a warning: its times must not be told as a graph's."""
    with warnings.catch_warnings(record=True) as told, torch.no_grad():
        warnings.simplefilter("always")
        module(*call[0], **call[1])
    for warning in told:
        if warning.category.__name__ == "GraphWarning":
            raise ConfigError(f"benchmark: cuda_graph=True: {warning.message}")
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _has_graphs(module: nn.Module) -> bool:
    """Whether an EdgeModule replays CUDA graphs already."""
    return bool(getattr(module, "_graphs", 0))


def _form(module: nn.Module, settings: Settings) -> str:
    """``ResNet, engine``, ``ResNet, engine, CUDA graph``, ``ResNet, PyTorch eager``"""
    if isinstance(module, EdgeModule):
        graph = ", CUDA graph" if settings.cuda_graph or _has_graphs(module) else ""
        return f"{module.metadata['model']}, engine{graph}"
    return f"{type(module).__name__}, PyTorch {'CUDA graph' if settings.cuda_graph else 'eager'}"


@dataclass
class _Rival:
    """A form to compare with."""

    name: str
    contender: Contender | None = None
    runs: list[Run] = field(default_factory=list)
    why_not: str = ""


def _rivals(
    module: nn.Module, model: nn.Module, device: torch.device, settings: Settings
) -> Iterator[tuple[str, Callable[[], nn.Module], bool]]:
    """Name, what makes the module, and whether to capture it, of the forms to compare with but the one that is measured."""
    here = model
    if _other_device(model, device):
        here = copy.deepcopy(model).to(device)
    dtype = next((p.dtype for p in here.parameters() if p.is_floating_point()), torch.float32)
    kind = f"PyTorch {str(dtype).removeprefix('torch.')}"
    if model is not module or settings.cuda_graph:
        yield f"{kind}, eager", lambda: here, False
    yield f"{kind}, torch.compile", lambda: cast("nn.Module", torch.compile(here)), False
    if device.type == "cuda" and (model is not module or not settings.cuda_graph):
        yield f"{kind}, CUDA graph", lambda: here, True


def _other_device(model: nn.Module, device: torch.device) -> bool:
    return any(t.device != device for t in (*model.parameters(), *model.buffers()))


def _begun(
    forms: Iterable[tuple[str, Callable[[], nn.Module], bool]], call: Call, device: torch.device, settings: Settings,
    stack: ExitStack,
) -> list[_Rival]:  # fmt: skip
    """Each form, warm; or why it does not run."""
    rivals = []
    for name, make, capture in forms:
        rival = _Rival(name)
        rivals.append(rival)
        try:
            model = make()
            contender = contender_of(name, model, *_cast(model, *call), device, settings, capture)
            stack.callback(contender.close)
            contender.warm_up(settings.warmup)
            rival.contender = contender
        except Exception as error:  # a compiler that is not installed, a model that cannot be captured: told in the result
            rival.why_not = _first_line(error)
    return rivals


def _in_rounds(first: Contender, rivals: Sequence[_Rival], settings: Settings) -> list[Run]:
    """The runs of ``first``, one per round; the rivals keep theirs."""
    able = [rival for rival in rivals if rival.contender is not None]
    contenders = [first, *(rival.contender for rival in able if rival.contender is not None)]
    rounds = ROUNDS if able else 1
    runs, failures = in_rounds(contenders, rounds, settings.iterations, settings.duration)
    for rival, mine, failure in zip(able, runs[1:], failures[1:]):
        rival.runs, rival.why_not = mine, failure
    return runs[0]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def _cast(model: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> Call:
    """The call with its float tensors in the dtype of the model's parameters: an engine may take others (``io_dtype``)."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    tensors, structure = flatten_call(args, kwargs)
    cast = [t.to(dtype) if dtype is not None and t.is_floating_point() else t for t in tensors]
    call = unflatten(structure, cast)
    return call["args"], call["kwargs"]


# ---- the result ---------------------------------------------------------------------------------------------------------


def _result(
    name: str, module: nn.Module, device: torch.device, call: Call, settings: Settings, warm: WarmUp, run: Run
) -> Benchmark:  # fmt: skip
    figures = figures_of(run.queries)
    cuda = device.type == "cuda"
    versions = {"torch": str(torch.__version__)}
    if isinstance(module, EdgeModule):
        versions = {"built with": module.metadata["title"], **versions}
    return Benchmark(
        name=name, device=torch.cuda.get_device_name(device) if cuda else "the CPU", versions=versions,
        clock="CUDA events" if cuda else "the host's clock", inputs=_texts(*call), settings=asdict(settings), warmup=warm,
        queries=len(run.queries), walltime=run.seconds, figures=figures,
        warnings=warnings_of(figures, settings, warm, 1e3 * run.seconds / len(run.queries)), times=run.queries,
    )  # fmt: skip


def _row(rival: _Rival, base: Sequence[Run]) -> Rival:
    if rival.why_not:
        return Rival(rival.name, why_not=rival.why_not)
    run, by_round = joined(rival.runs), ratios(rival.runs, base)
    return Rival(
        rival.name, figures_of(run.queries), len(run.queries) / run.seconds, statistics.median(by_round), min(by_round),
        max(by_round),
    )  # fmt: skip


def _texts(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """``1x3x224x224 float32``"""
    tensors = flatten_call(args, kwargs)[0]
    return [f"{'x'.join(map(str, t.shape)) or 'scalar'} {str(t.dtype).removeprefix('torch.')}" for t in tensors]
