"""The reference executor: a finished network, computed layer by layer on the CPU.

Slow and exact. Every rule comes from NVIDIA's documentation, which the functions of this package cite: NvInfer.h is the
header of TensorRT 11.1 in NVIDIA/TensorRT (include/), the Python docstrings say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from torch2edge.check.reference import (  # noqa: F401  (each module registers its layers)
    convolution,
    indexing,
    pointwise,
    quantization,
    reduction,
    resize,
    shape,
)
from torch2edge.check.reference.control import run_condition, run_loop
from torch2edge.check.reference.layer import DTYPES, HANDLERS, Layer, Tensor
from torch2edge.check.reference.plan import LOOP, Loop, Planner, Step
from torch2edge.errors import ReferenceExecutionError, Torch2EdgeError

OnLayer = Callable[[str, Sequence[torch.Tensor]], None]

#: LayerType name -> TensorRT's class. Looked up in the module at hand: older ones lack the newer classes.
CLASSES = {
    "ACTIVATION": "IActivationLayer",
    "ASSERTION": "IAssertionLayer",
    "ATTENTION_INPUT": "IAttentionInputLayer",
    "ATTENTION_OUTPUT": "IAttentionOutputLayer",
    "CAST": "ICastLayer",
    "CONCATENATION": "IConcatenationLayer",
    "CONDITION": "IConditionLayer",
    "CONDITIONAL_INPUT": "IIfConditionalInputLayer",
    "CONDITIONAL_OUTPUT": "IIfConditionalOutputLayer",
    "CONSTANT": "IConstantLayer",
    "CONVOLUTION": "IConvolutionLayer",
    "CUMULATIVE": "ICumulativeLayer",
    "DECONVOLUTION": "IDeconvolutionLayer",
    "DEQUANTIZE": "IDequantizeLayer",
    "EINSUM": "IEinsumLayer",
    "ELEMENTWISE": "IElementWiseLayer",
    "FILL": "IFillLayer",
    "GATHER": "IGatherLayer",
    "GRID_SAMPLE": "IGridSampleLayer",
    "ITERATOR": "IIteratorLayer",
    "LOOP_OUTPUT": "ILoopOutputLayer",
    "LRN": "ILRNLayer",
    "MATRIX_MULTIPLY": "IMatrixMultiplyLayer",
    "NMS": "INMSLayer",
    "NORMALIZATION": "INormalizationLayer",
    "ONE_HOT": "IOneHotLayer",
    "PADDING": "IPaddingLayer",
    "POOLING": "IPoolingLayer",
    "QUANTIZE": "IQuantizeLayer",
    "RECURRENCE": "IRecurrenceLayer",
    "REDUCE": "IReduceLayer",
    "RESIZE": "IResizeLayer",
    "REVERSE_SEQUENCE": "IReverseSequenceLayer",
    "ROTARY_EMBEDDING": "IRotaryEmbeddingLayer",
    "SCALE": "IScaleLayer",
    "SCATTER": "IScatterLayer",
    "SHUFFLE": "IShuffleLayer",
    "SLICE": "ISliceLayer",
    "SOFTMAX": "ISoftMaxLayer",
    "TOPK": "ITopKLayer",
    "TRIP_LIMIT": "ITripLimitLayer",
    "UNARY": "IUnaryLayer",
}


class ReferenceExecutor:
    """Computes a network with PyTorch on the CPU, following TensorRT's documented semantics.

    Floating point layers are computed in float32, whatever their types, and rounded once, to the type of their output;
    integers are exact. The shape of every output is held against the one that TensorRT inferred.
    """

    def __init__(self, network: Any, trt: Any) -> None:
        """Read the layers of `network`, which belongs to the TensorRT module `trt` and must not change any more."""
        if getattr(network, "has_implicit_batch_dimension", False):
            raise ReferenceExecutionError("the network has an implicit batch dimension; build it with an explicit one")
        self._network = network  # owns the memory of the weights
        self._trt = trt
        self._scopes: dict[int, Any] = {}  # loops and conditionals, kept alive so that their id stays theirs
        self._layers = [self._read(index) for index in range(network.num_layers)]
        self._inputs = [_tensor(network.get_input(index)) for index in range(network.num_inputs)]
        self._outputs = [network.get_output(index).name for index in range(network.num_outputs)]
        self._plans: dict[frozenset[str], list[Step]] = {}
        self._check_names()

    @property
    def layers(self) -> list[Layer]:
        """The network's layers in order, as read."""
        return self._layers

    def feed(self, names: Sequence[str], tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Inputs for ``run``: on the CPU, in the dtypes that the network has for them.

        Args:
            names: the network's input for each tensor, "" for none.
            tensors: of the same kinds, in perhaps wider or narrower dtypes.
        """
        dtypes = {tensor.name: tensor.dtype for tensor in self._inputs}
        return {name: t.detach().cpu().to(dtypes[name]) for name, t in zip(names, tensors) if name}

    def run(
        self,
        inputs: Mapping[str, torch.Tensor],
        *,
        on_layer: OnLayer | None = None,
        keep: Collection[str] = (),
    ) -> dict[str, torch.Tensor]:
        """Compute the network's outputs, by tensor name, and the tensors named in `keep`.

        Args:
            inputs: A tensor for each network input, of its dtype and shape (any size where the network has -1).
            on_layer: Called after each layer with its name and its outputs; in a loop once an iteration.
            keep: More tensors to return. Inside a loop it is the last iteration's value; a tensor of a branch that was
                not taken, or of a loop without iterations, has no value and is left out.
        """
        self._check_inputs(inputs)
        plan = self._plan(frozenset(keep))
        run = _Run({name: tensor.detach().cpu() for name, tensor in inputs.items()}, on_layer)
        with torch.no_grad():
            run.steps(plan)
        wanted = [*self._outputs, *(name for name in keep if name not in self._outputs)]
        return {name: run.values[name] for name in wanted if name in run.values}

    def _read(self, index: int) -> Layer:
        api = self._network.get_layer(index)
        # Through ILayer: activation and pooling layers have a `type` of their own.
        kind = str(self._trt.ILayer.type.__get__(api).name)
        api_class = getattr(self._trt, CLASSES.get(kind, ""), None)
        if api_class is not None:
            api.__class__ = api_class
        sources = [api.get_input(place) for place in range(api.num_inputs)]
        results = [api.get_output(place) for place in range(api.num_outputs)]
        inputs = tuple(None if tensor is None else _tensor(tensor) for tensor in sources)
        return Layer(index, str(api.name), kind, api, inputs, tuple(map(_tensor, results)), self._scope(kind, api))

    def _scope(self, kind: str, api: Any) -> int | None:
        attribute = "loop" if kind in LOOP else "conditional" if kind.startswith("CONDITION") else None
        if attribute is None:
            return None
        owner = getattr(api, attribute)
        self._scopes[id(owner)] = owner
        return id(owner)

    def _check_names(self) -> None:
        made: dict[str, str] = {tensor.name: "the network's inputs" for tensor in self._inputs}
        for layer in self._layers:
            for tensor in layer.outputs:
                if tensor.name in made:
                    raise layer.wrong(f"its output is named '{tensor.name}', as one of {made[tensor.name]}")
                made[tensor.name] = layer.title
        self._names = set(made)
        for layer in self._layers:
            for source in layer.inputs:
                if source is not None and source.name not in made:
                    raise layer.wrong(f"its input '{source.name}' is made by no layer")

    def _check_inputs(self, inputs: Mapping[str, torch.Tensor]) -> None:
        expected = {tensor.name: tensor for tensor in self._inputs}
        if set(inputs) != set(expected):
            raise ReferenceExecutionError(f"the network's inputs are {sorted(expected)}, given are {sorted(inputs)}")
        for name, tensor in inputs.items():
            spec = expected[name]
            if tensor.dtype != spec.dtype:
                raise ReferenceExecutionError(f"input '{name}' has to be {spec.dtype}, given is {tensor.dtype}")
            if spec.shape is not None and not _fits(tensor.shape, spec.shape):
                given = list(tensor.shape)
                raise ReferenceExecutionError(f"input '{name}' has the shape {list(spec.shape)}, given is {given}")

    def _plan(self, keep: frozenset[str]) -> list[Step]:
        if keep not in self._plans:
            unknown = keep - self._names
            if unknown:
                raise ReferenceExecutionError(f"the network has no tensors {sorted(unknown)}")
            planner = Planner(self._layers, {*self._outputs, *keep})
            for layer in planner.layers:
                if layer.kind not in HANDLERS and layer.kind not in (*LOOP, "CONDITION", "CONDITIONAL_OUTPUT"):
                    raise layer.unsupported()
                for tensor in layer.outputs:
                    if tensor.kind not in DTYPES:
                        raise layer.unsupported(f"the type {tensor.kind}")
            self._plans[keep] = planner.plan()
        return self._plans[keep]


class _Run:
    """The state of one execution: the values of tensors and of conditions."""

    def __init__(self, values: dict[str, torch.Tensor], on_layer: OnLayer | None) -> None:
        self.values = values
        self.conditions: dict[int, bool] = {}
        self.on_layer = on_layer

    def steps(self, steps: Sequence[Step]) -> None:
        """Compute a plan, leaving out the branches that are not taken."""
        for step in steps:
            if all(self.conditions.get(scope, branch) == branch for scope, branch in step.guards):
                self.step(step.work)
            for name in step.release:
                self.values.pop(name, None)

    def step(self, work: Layer | Loop) -> None:
        """Compute one layer or loop; whatever goes wrong names the layer (of a loop, its first)."""
        try:
            if isinstance(work, Loop):
                run_loop(self, work)
            elif work.kind in ("CONDITION", "CONDITIONAL_OUTPUT"):
                self.store(work, run_condition(self, work))
            else:
                inputs = [self.values[tensor.name] if tensor else None for tensor in work.inputs]
                self.store(work, HANDLERS[work.kind](work, inputs))
        except Torch2EdgeError:
            raise
        except Exception as error:
            title = work.first.title if isinstance(work, Loop) else work.title
            raise ReferenceExecutionError(f"{title}: {error}") from error

    def store(self, layer: Layer, results: Any) -> None:
        """Round results to the types of the layer's outputs, check their shapes, report them."""
        results = results if isinstance(results, tuple) else () if results is None else (results,)
        kept: list[torch.Tensor] = []
        for spec, result in zip(layer.outputs, results, strict=True):
            if spec.shape is not None and not _fits(result.shape, spec.shape):
                raise layer.wrong(f"computed the shape {list(result.shape)}, TensorRT inferred {list(spec.shape)}")
            value = result if result.dtype == spec.dtype else result.to(spec.dtype)
            self.values[spec.name] = value
            kept.append(value)
        if self.on_layer is not None:
            self.on_layer(layer.name, kept)


def _tensor(tensor: Any) -> Tensor:
    """Read an ITensor. A shape that TensorRT could not infer (its rank is unknown) is None."""
    try:
        shape = tuple(int(size) for size in tensor.shape)
    except (RuntimeError, ValueError, TypeError):
        return Tensor(str(tensor.name), str(tensor.dtype.name), None)
    return Tensor(str(tensor.name), str(tensor.dtype.name), shape)


def _fits(given: Sequence[int], spec: Sequence[int]) -> bool:
    return len(given) == len(spec) and all(b in (-1, a) for a, b in zip(given, spec, strict=True))
