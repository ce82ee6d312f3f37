"""CUDA graphs by NVIDIA's driver: captured around calls that are not PyTorch's, with copies whose addresses can be changed.

libcuda.so.1 is wherever a GPU is, and its functions and structures never change (CUDA Driver API: Graph Management, Stream
Management). PyTorch's own capture collects garbage and synchronizes first, and cannot change a copy in an instantiated graph.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, ClassVar

__all__ = ["CudaError", "Graph", "capture_id", "captured", "copy", "current_context", "private_stream", "set_context"]

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile is theirs
_MEMCPY = 1  # CU_GRAPH_NODE_TYPE_MEMCPY
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_ACTIVE = 1  # CU_STREAM_CAPTURE_STATUS_ACTIVE


class CudaError(RuntimeError):
    """A function of the driver failed; the message is its name and the driver's reason."""


class _Copy(ctypes.Structure):
    """CUDA_MEMCPY3D_v2; a plain copy has WidthInBytes alone."""

    _fields_: ClassVar[Any] = (
        [(f"src{name}", c_size_t) for name in ("XInBytes", "Y", "Z", "LOD")]
        + [("srcMemoryType", c_uint), ("srcHost", c_void_p), ("srcDevice", c_uint64), ("srcArray", c_void_p)]
        + [("reserved0", c_void_p), ("srcPitch", c_size_t), ("srcHeight", c_size_t)]
        + [(f"dst{name}", c_size_t) for name in ("XInBytes", "Y", "Z", "LOD")]
        + [("dstMemoryType", c_uint), ("dstHost", c_void_p), ("dstDevice", c_uint64), ("dstArray", c_void_p)]
        + [("reserved1", c_void_p), ("dstPitch", c_size_t), ("dstHeight", c_size_t)]
        + [(name, c_size_t) for name in ("WidthInBytes", "Height", "Depth")]
    )


_ARGUMENTS: dict[str, list[Any]] = {
    "cuStreamBeginCapture_v2": [c_void_p, c_int],
    "cuStreamEndCapture": [c_void_p, c_void_p],
    "cuGraphGetNodes": [c_void_p, c_void_p, c_void_p],
    "cuGraphNodeGetType": [c_void_p, c_void_p],
    "cuGraphMemcpyNodeGetParams": [c_void_p, c_void_p],
    "cuGraphExecMemcpyNodeSetParams": [c_void_p, c_void_p, c_void_p, c_void_p],
    "cuGraphInstantiateWithFlags": [c_void_p, c_void_p, c_uint64],
    "cuGraphLaunch": [c_void_p, c_void_p],
    "cuGraphExecDestroy": [c_void_p],
    "cuGraphDestroy": [c_void_p],
    "cuMemcpyDtoDAsync_v2": [c_uint64, c_uint64, c_size_t, c_void_p],
    "cuCtxGetCurrent": [c_void_p],
    "cuCtxSetCurrent": [c_void_p],
    "cuStreamCreate": [c_void_p, c_uint],
    "cuStreamGetCaptureInfo": [c_void_p, c_void_p, c_void_p],
    "cuGetErrorString": [c_int, c_void_p],
}


@functools.cache
def _driver() -> Any:
    """libcuda, with the arguments of what is called here.

    Raises:
        CudaError: there is none, or an older one than CUDA 11.4's.
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, c_int
    except (OSError, AttributeError) as error:
        raise CudaError(f"NVIDIA's driver cannot be called: {error}") from error
    return library


def _do(name: str, *arguments: Any) -> None:
    code = getattr(_driver(), name)(*arguments)
    if code:
        raise CudaError(f"{name}: {_reason(code)}")


def _reason(code: int) -> str:
    text = ctypes.c_char_p()
    _driver().cuGetErrorString(code, byref(text))
    return text.value.decode() if text.value else f"error {code}"


def current_context() -> int:
    """The handle of this thread's CUDA context, or 0."""
    context = c_void_p()
    _do("cuCtxGetCurrent", byref(context))
    return int(context.value or 0)


def set_context(context: int) -> None:
    """Give this thread a CUDA context, which the runtime does at a thread's first work, and the driver does not."""
    _do("cuCtxSetCurrent", context)


def private_stream() -> int:
    """The handle of a new stream of the current GPU that nobody else has: those of torch.cuda.Stream() are 32, in turn."""
    stream = c_void_p()
    _do("cuStreamCreate", byref(stream), _NON_BLOCKING)
    return int(stream.value or 0)


def capture_id(stream: int) -> int:
    """The number of the capture that a stream is in, or 0. Of the default stream, which cannot be in one, it is not asked."""
    status, number = c_int(), c_uint64()
    if not stream or _driver().cuStreamGetCaptureInfo(stream, byref(status), byref(number)):
        return 0
    return int(number.value) if status.value == _ACTIVE else 0


def copy(to: int, source: int, size: int, stream: int) -> None:
    """Enqueue a copy within the GPU's memory: ``size`` bytes from one address to another."""
    _do("cuMemcpyDtoDAsync_v2", to, source, size, stream)


class Graph:
    """An instantiated graph.

    Args:
        graph: a CUgraph, which this object destroys in the end.
    """

    def __init__(self, graph: c_void_p) -> None:
        self._graph, self._executable = graph, c_void_p()
        self._end = _driver().cuGraphExecDestroy, _driver().cuGraphDestroy
        _do("cuGraphInstantiateWithFlags", byref(self._executable), graph, 0)
        self._context = c_void_p()
        _do("cuCtxGetCurrent", byref(self._context))
        self._launch, self._change = _driver().cuGraphLaunch, _driver().cuGraphExecMemcpyNodeSetParams

    def __del__(self) -> None:
        end_executable, end_graph = self._end  # at the interpreter's end, the module's names are gone
        if self._executable:
            end_executable(self._executable)
        end_graph(self._graph)

    def launch(self, stream: int) -> None:
        """Enqueue it. Where it is running already, on whatever stream, CUDA runs it after that."""
        code = self._launch(self._executable, stream)
        if code:
            raise CudaError(f"cuGraphLaunch: {_reason(code)}")

    def source(self, to: int) -> Callable[[int], None]:
        """How to change from where the one copy to the address ``to`` reads, from the next launch on.

        Raises:
            CudaError: there is not exactly one.
        """
        node, copying = self._only(lambda c: c.dstDevice == to, f"to {to:#x}")
        return self._changer(node, copying, "srcDevice")

    def target(self, source: int, to: int) -> Callable[[int], None]:
        """How to change to where the one copy from ``source`` to the address ``to`` writes, from the next launch on.

        Raises:
            CudaError: there is not exactly one.
        """
        node, copying = self._only(lambda c: (c.srcDevice, c.dstDevice) == (source, to), f"from {source:#x} to {to:#x}")
        return self._changer(node, copying, "dstDevice")

    def _only(self, fits: Callable[[_Copy], bool], what: str) -> tuple[c_void_p, _Copy]:
        found = [(node, copying) for node, copying in self._copies() if fits(copying)]
        if len(found) != 1:
            raise CudaError(f"the captured graph holds {len(found)} copies {what}")
        return found[0]

    def _copies(self) -> Iterator[tuple[c_void_p, _Copy]]:
        count = c_size_t()
        _do("cuGraphGetNodes", self._graph, None, byref(count))
        nodes = (c_void_p * count.value)()
        _do("cuGraphGetNodes", self._graph, nodes, byref(count))
        for handle in nodes:
            node, kind = c_void_p(handle), c_int()
            _do("cuGraphNodeGetType", node, byref(kind))
            if kind.value == _MEMCPY:
                copying = _Copy()
                _do("cuGraphMemcpyNodeGetParams", node, byref(copying))
                yield node, copying

    def _changer(self, node: c_void_p, copying: _Copy, which: str) -> Callable[[int], None]:
        change, executable, context, told = self._change, self._executable, self._context, byref(copying)

        def changed(address: int) -> None:
            if getattr(copying, which) != address:
                setattr(copying, which, address)
                code = change(executable, node, told, context)
                if code:
                    raise CudaError(f"cuGraphExecMemcpyNodeSetParams: {_reason(code)}")

        return changed


@contextmanager
def captured(stream: int) -> Iterator[list[Graph]]:
    """What is enqueued on ``stream`` meanwhile does not run, but is in the one graph of the list afterwards.

    Args:
        stream: the handle of a stream that is not the default one.

    Raises:
        CudaError: the driver refuses to capture, or something was enqueued that cannot be in a graph.
    """
    made: list[Graph] = []
    _do("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
    graph = c_void_p()
    try:
        yield made
    except BaseException:
        _driver().cuStreamEndCapture(stream, byref(graph))
        if graph:
            _driver().cuGraphDestroy(graph)
        raise
    _do("cuStreamEndCapture", stream, byref(graph))
    made.append(Graph(graph))
