"""EdgeModule.refit(): from a new model to an engine with its weights. Part of api.py, knows the stages too.

The new model is traced and lowered as the old one was, in seconds or less; nothing is built. Where the network that comes out
is the old one but for its weights, these are the new ones: with batch norms folded into them, in the dtypes that they have in
the engine, with INT8 scales and all else that was computed of parameters, for it was made in the same way.
"""

from __future__ import annotations

import copy
import functools
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ._trt import capabilities, why_not_executable
from .account import precision as precision_of
from .build.session import beyond_half
from .errors import ConfigError, ExecutionError, InputError, VerificationError
from .fingerprint import Fingerprint, digest, fingerprint, first_difference
from .fitting import listed
from .graph import Graph
from .inputs import device_of, positional
from .lower import Registry, registry
from .lower.quantize import every_float
from .prepare import Call, in_ranges
from .recipe import Recipe, from_text, to_text
from .report import Report
from .roads import Kept, Road, configure, graph_of, network, opened
from .run import EdgeModule
from .run.refit import plan_of, refit_engine, refittable_weights
from .shapes import Dynamic
from .skeleton import Skeleton
from .sparsity import sparse_modules
from .structure import flatten_call, same, text, unflatten
from .verification import by_reference, verify_module

__all__ = ["make_refittable", "reopened"]

REFITTED = "note: refitted"


def make_refittable(
    module: EdgeModule, report: Report, call: Call, road: Road, converting: Registry,
    names: Mapping[str, Sequence[str] | None], declared: Dynamic,
) -> None:  # fmt: skip
    """Give a freshly built module what its ``refit`` needs; its metadata say whether the engine itself can be refitted.

    The module keeps copies of the example's tensors, the model without its weights, and a digest of each weight.

    Args:
        report: of the build, before the check; it gets a note where the engine cannot be refitted.
    """
    example, structure = flatten_call(call.args, call.kwargs)
    configure(road, precision_of(road.network_graph, road.session.options))  # of an engine out of a cache it was not
    graph, options, found = road.graph, road.session.options, fingerprint(road.session.network)
    data = call.calibration
    held = replace(
        call, model=nn.Module(), args=(), kwargs={}, ranges=dict(call.ranges), wide=road.wide, line=None, notes=[],
        may_fold=frozenset(road.lowered.folded),
        calibration=None if data is None else replace(data, data=(), cache=None), _largest=None,
    )  # fmt: skip
    here = not why_not_executable()
    told = _fixed(module, road, found) if here else [_builds_anew()]
    # of an engine out of a cache the report holds what its check said, too
    notes = list(dict.fromkeys([*module.metadata.setdefault("notes", list(report.notes)), *told]))
    report.notes += [note for note in told if note not in report.notes]
    recipe = Recipe(
        options, converting, names, declared, [t.detach().clone() for t in example], structure, held, list(graph.input_names),
        graph.output_structure, [str(c) for c in graph.constraints], _floats(graph, call), list(road.lowered.folded),
        Fingerprint(found.layers, {}, found.empty), found.digests(),
        [path for path, sparse in sparse_modules(call.model).items() if sparse] if options.sparse else [],
        _fits_half(road), Skeleton(call.model), _dtypes(call.model), notes,
    )  # fmt: skip
    module.metadata["refittable"] = here
    if here and converting is registry():  # functions of the user's are in no file
        module.metadata["recipe"] = to_text(recipe)
    module._refit = functools.partial(_refitted, recipe)


def reopened(module: EdgeModule) -> Any:
    """What refits a module that was loaded, out of its metadata; None where there is nothing in them.

    Raises:
        ConfigError: see ``from_text``.
    """
    kept = module.metadata.get("recipe")
    return None if kept is None else functools.partial(_refitted, from_text(kept, registry()))


EdgeModule._reopen = staticmethod(reopened)


def _builds_anew() -> str:
    return (
        f"note: the engine itself cannot be refitted: {capabilities().title} builds such engines only where it can execute "
        "them, and here a refit of this module builds anew"
    )


def _fixed(module: EdgeModule, road: Road, found: Fingerprint) -> list[str]:
    """A note on the weights for which TensorRT takes no new ones; numbers that are in no state dict are no matter."""
    can = refittable_weights(module._runner(None).engine)
    held = {layer for layers in road.lowered.network.weights_by_name.values() for layer in layers}
    names = [
        f"{layer} ({role})" for (layer, role), tensor in found.weights.items()
        if (layer, role) not in can and tensor.is_floating_point() and (tensor.numel() > 1 or layer in held)
    ]  # fmt: skip
    return [f"note: a refit that would change these is refused: {listed(names)}"] if names else []


def _floats(graph: Graph, call: Call) -> dict[str, int]:
    return {name: value.index for name, value in every_float(graph).items()} if call.ranges else {}


def _fits_half(road: Road) -> bool:
    return not any(beyond_half(c) for c in road.lowered.network.constants(torch.float32))


# ---- a refit ------------------------------------------------------------------------------------------------------------


def _refitted(recipe: Recipe, module: EdgeModule, weights: Any, example: tuple[Any, Any], verify: bool) -> EdgeModule:
    """A module like ``module`` with other weights; ``EdgeModule.refit`` documents the rest.

    Args:
        example: inputs and keyword inputs, or None and None for those of the conversion.
    """
    if not isinstance(verify, bool):
        raise ConfigError(f"refit: verify is {verify!r}; it must be True or False")
    start = time.perf_counter()
    model = _model_of(recipe, weights)
    call = _call_of(recipe, module, model, *example)
    road = _road(recipe, call)
    found = fingerprint(road.session.network)
    _check_weights(recipe, model, road)
    _check_same(recipe, road, found)
    new = copy.deepcopy(module)
    if why_not_executable():
        if recipe.skeleton is None:
            raise ExecutionError(f"refit: a loaded engine is refitted where it can run, but {why_not_executable()}")
        _build(new, road)
        told = "built anew"
    else:
        device = next((t.device for t in call.tensors if t.is_cuda), None)
        with nullcontext() if device is None else torch.cuda.device(device):
            _refit(new, recipe, found)
        told = f"{len(found.weights)} weights"
    report = new.report
    assert report is not None
    report.notes = [*recipe.notes, f"{REFITTED}: {told}{'; the INT8 ranges of activations stay' if recipe.floats else ''}"]
    report.check, report.checked_by, report.engine_bytes = [], "", len(new._plan)
    report.cache = ""  # it was of the old engine
    report.timings["refit"] = round(time.perf_counter() - start, 3)
    if module.network is not None:
        new.network, new._kept = road.session.network, Kept(call, road, recipe.options, recipe.converting, recipe.names)
    if verify:
        _verify(new, call, road, report)
    new.metadata["report"] = report.to_dict()
    return new


def _model_of(recipe: Recipe, weights: Any) -> nn.Module:
    if not isinstance(weights, (nn.Module, torch.export.ExportedProgram, Mapping)):
        raise InputError(f"refit takes a model or a state dict, but was given {_kind(weights)}")
    if isinstance(weights, Mapping):
        if recipe.skeleton is None:
            raise ConfigError(
                "refit: an engine that was loaded has no model to load a state dict into: load it into a model, and give that"
            )
        return recipe.skeleton.filled(weights)
    model, _ = opened(weights)
    given = _dtypes(model)
    if other := [name for name, dtype in recipe.dtypes.items() if given.get(name, dtype) != dtype]:
        raise ConfigError(
            f"refit: the weights are of other dtypes than those of the model that was converted: {other[0]} is "
            f"{given[other[0]]} and was {recipe.dtypes[other[0]]}. Give the model in the dtypes that it had, or its state "
            "dict, which is cast; or convert this model"
        )
    assert isinstance(model, nn.Module)
    return model


def _kind(given: Any) -> str:
    if isinstance(given, (str, os.PathLike)):
        return f"a path ({os.fspath(given)!r}): load it first, torch.load(path, weights_only=True)"
    return f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"


def _dtypes(model: nn.Module) -> dict[str, str]:
    return {name: str(t.dtype) for name, t in model.state_dict().items() if isinstance(t, torch.Tensor)}


def _call_of(recipe: Recipe, module: EdgeModule, model: nn.Module, inputs: Any, kwargs: Any) -> Call:
    """The example on the device of the model.

    Raises:
        InputError: it is missing, or another than that of the conversion but for its values.
    """
    tensors, structure, device = recipe.example, recipe.structure, device_of(model)
    if inputs is not None or kwargs is not None:
        tensors, given = flatten_call(positional([] if inputs is None else inputs), kwargs or {})
        if not same(given, structure):
            raise InputError(f"refit: the inputs are {text(given)}, but the module was converted for {text(structure)}")
        _check_shapes(recipe, module, tensors)
    elif not tensors:
        raise InputError("refit: an engine that was loaded has no example any more: give inputs=[x], as to convert()")
    made = unflatten(structure, [t.to(device) for t in tensors])
    held = recipe.call
    return replace(held, model=model, args=made["args"], kwargs=made["kwargs"], ranges=dict(held.ranges), notes=[])


def _check_shapes(recipe: Recipe, module: EdgeModule, tensors: Sequence[torch.Tensor]) -> None:
    """Sizes that vary are free within their ranges, which the trace sees to."""
    for i, (row, tensor) in enumerate(zip(module.metadata["inputs"], tensors)):
        axes = recipe.declared.axes.get(i, {})
        wanted = ["?" if axis in axes else size for axis, size in enumerate(row["shape"])]
        given = ["?" if axis in axes else size for axis, size in enumerate(tensor.shape)]
        if wanted != given:
            raise InputError(f"refit: {row['name']} has the shape {list(tensor.shape)}, but the engine takes {wanted}")


def _road(recipe: Recipe, call: Call) -> Road:
    """Trace and lower, and say the precisions of layers where they are said.

    Raises:
        ConfigError: the model gives another structure, or computes other values.
    """
    graph = graph_of(call.model, call.args, call.kwargs, recipe.converting, recipe.declared)
    graph.input_names = recipe.input_names
    if not same(graph.output_structure, recipe.output_structure):
        raise _another(f"it returns {text(graph.output_structure)}, and the engine {text(recipe.output_structure)}")
    if [str(c) for c in graph.constraints] != recipe.constraints:
        raise _another("it demands other things of the sizes that vary")
    if recipe.floats != _floats(graph, call):
        raise _another("its forward has other steps, so the INT8 ranges of the engine cannot be told to them")
    if recipe.floats and not call.seen:
        call.seen, call.seen_are = in_ranges(graph, call), "random batch in the ranges"
    road = network(call, None, graph, recipe.options, recipe.converting, recipe.names)
    configure(road, precision_of(road.network_graph, recipe.options))
    return road


def _another(why: str) -> ConfigError:
    return ConfigError(
        f"refit: this is not the model that the engine was built from, with other weights: {why}. Weights can change in a "
        "refit and nothing else; convert this model"
    )


def _check_same(recipe: Recipe, road: Road, found: Fingerprint) -> None:
    if gone := [path for path in recipe.folded if path not in road.lowered.folded]:
        raise ConfigError(
            f"refit: the batch norm of {listed(gone)} was part of the convolution before it, and with the new weights cannot "
            "be: they are not finite, or half has no digits for them. Convert the model anew"
        )
    if why := first_difference(recipe.network.layers, found.layers):
        raise _another(f"{why} (layers have the names of the modules that they come from)")


def _check_weights(recipe: Recipe, model: nn.Module, road: Road) -> None:
    """Refuse weights that the kernels of the engine were not chosen for."""
    if recipe.sparse:
        lost = [path for path, sparse in sparse_modules(model).items() if not sparse and path in recipe.sparse]
        if lost:
            raise ConfigError(
                f"refit: the weights of {listed(lost)} had the 2:4 pattern when the engine was built with sparse=True, and "
                "have it no more: torch2edge.sparsify_2to4(model) makes it"
            )
    options, precision = recipe.options, precision_of(road.network_graph, recipe.options)
    by_dtypes = "fp16" in precision and not options.strong and not options.uses("fp16")  # session.follow_dtypes
    if by_dtypes and recipe.fits_half and not _fits_half(road):
        raise ConfigError(
            "refit: a float32 constant of the model does not fit half any more, and this engine may round it. Convert the "
            "model anew"
        )


def _refit(new: EdgeModule, recipe: Recipe, found: Fingerprint) -> None:
    """An engine of its own, deserialized from the plan, is given the weights; the plan is that engine's then.

    Raises:
        ConfigError: a weight has changed that the engine cannot be given; nothing is done then.
    """
    graphs = new._graphs
    runner = new.disable_cuda_graph()._runner(None)  # nothing has run yet, and holds a context
    can = refittable_weights(runner.engine)
    fixed = [key for key, held in recipe.digests.items() if key not in can and digest(found.weights[key]) != held]
    if fixed:
        names = [f"{layer} ({role})" for layer, role in fixed]
        raise ConfigError(
            f"refit: TensorRT made something of these weights when it built the engine, and takes no new ones for them: "
            f"{listed(names)}. All else stays as it was, too. Leave them as they are, or convert the model anew"
        )
    refit_engine(runner.engine, found.weights, found.empty)
    new._plan = plan_of(runner.engine)
    if graphs:
        new.enable_cuda_graph(graphs)


def _build(new: EdgeModule, road: Road) -> None:
    """Where nothing executes: the reference executor computes the new network, and the plan is built from it."""
    new._plan = road.session.build()
    new._fallback = by_reference(road.session, road.lowered)


def _verify(new: EdgeModule, call: Call, road: Road, report: Report) -> None:
    try:
        verify_module(
            call.model, list(call.args), dict(call.kwargs), new, road.graph, road.lowered, road.session, report, call.seen,
            call.seen_are,
        )  # fmt: skip
    except VerificationError as error:
        raise VerificationError(f"refit: the module keeps its old weights, for with the new ones {error}", report) from error
