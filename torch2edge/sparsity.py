"""2:4 structured sparsity: of each 4 consecutive weights along the input channels at least 2 are zero.

That is what TensorRT's SPARSE_WEIGHTS takes (Developer Guide, "Structured Sparsity"): along C of a convolution's KCRS
weights, at the same place of the kernel, and along K of a constant matrix. Linear's weight (out, in) is a KCRS of one place.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from .errors import ConfigError

__all__ = ["has_2to4", "sparse_modules", "sparsify_2to4", "sparsity_note"]

GROUP, ZEROS = 4, 2
DLA_CHANNELS = 64
SHOWN = 5  # layers that a note names
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def has_2to4(weight: torch.Tensor) -> bool:
    """Whether a weight (out, in, ...) has the pattern: ``in`` divides by 4, and each group of 4 holds 2 zeros or more.

    A weight of groups, (out, in / groups, ...), is looked at in the same way.
    """
    if not _takes(weight):
        return False
    return bool(((_grouped(weight) == 0).sum(2) >= ZEROS).all())


def sparse_modules(model: nn.Module) -> dict[str, bool]:
    """Path of each linear and convolution layer -> whether its weight has the pattern."""
    return {path: has_2to4(module.weight.detach()) for path, module in _layers(model)}


def sparsity_note(model: nn.Module, dla: bool = False) -> str:
    """For the report: which layers have the pattern; and with ``dla`` which of them a DLA can use it for."""
    found = sparse_modules(model)
    have = [path or "the model itself" for path, sparse in found.items() if sparse]
    if not have:
        return "note: sparse=True has no effect: no layer has the 2:4 pattern; torch2edge.sparsify_2to4(model) makes it"
    shown = ", ".join(have[:SHOWN]) + (f" and {len(have) - SHOWN} more" if len(have) > SHOWN else "")
    told = f"note: {len(have)} of {len(found)} layers have weights in the 2:4 pattern: {shown}"
    if not dla:
        return told
    wide = [path for path, module in _layers(model) if found[path] and _on_dla(module)]
    return (
        f"{told}. The DLA of Orin uses it for convolutions of more than {DLA_CHANNELS} input channels: "
        f"{', '.join(wide[:SHOWN]) or 'none of these'}{f' and {len(wide) - SHOWN} more' if len(wide) > SHOWN else ''}"
    )


def _on_dla(module: nn.Module) -> bool:
    """NVIDIA's Deep-Learning-Accelerator-SW, structured sparsity: C > 64 of KCRS."""
    return isinstance(module, nn.Conv2d) and module.weight.shape[1] > DLA_CHANNELS


def sparsify_2to4(model: nn.Module, modules: Iterable[str | nn.Module] | None = None) -> list[str]:
    """Set the 2 smallest of each 4 consecutive weights along the input channels to zero, in place.

    Smallest is by magnitude; of equal ones the later go. The model loses accuracy: fine-tune it afterwards, and call this
    again after each optimizer step, or the zeros fill up. Biases stay. A weight that two layers share changes in both.

    Args:
        model: of any mode and device; float weights.
        modules: submodules or their paths, with all that they hold; by default the whole model.

    Returns:
        Paths of the layers that have the pattern now. A layer whose input channels (in each group) do not divide by 4 is
        left as it is, and so is a weight that is computed (weight_norm and other parametrizations), and what is no layer
        of its own (in_proj_weight of nn.MultiheadAttention). Transposed convolutions have no sparse kernels in TensorRT.

    Raises:
        ConfigError: ``modules`` names something that the model does not hold, or that holds no linear or convolution.

    Example::

        torch2edge.sparsify_2to4(model, ["backbone"])
    """
    chosen = _chosen(model, modules)
    done: list[str] = []
    for path, module in _layers(model):
        if chosen(path) and "weight" in module._parameters and _takes(module.weight):
            with torch.no_grad():
                _prune(module.weight)
            done.append(path)
    return done


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Linear and convolution layers, each once; the type stands for all that have such a weight."""
    for path, module in model.named_modules():
        if isinstance(module, _LAYERS) and isinstance(getattr(module, "weight", None), torch.Tensor):
            yield path, module  # type: ignore[misc]


def _takes(weight: torch.Tensor) -> bool:
    return weight.ndim >= 2 and weight.is_floating_point() and weight.shape[1] > 0 and weight.shape[1] % GROUP == 0


def _grouped(weight: torch.Tensor) -> torch.Tensor:
    """(out, in / 4, 4, ...)"""
    return weight.reshape(weight.shape[0], -1, GROUP, *weight.shape[2:])


def _prune(weight: torch.Tensor) -> None:
    groups = _grouped(weight.detach())
    smallest = groups.abs().sort(dim=2, descending=True, stable=True).indices.narrow(2, GROUP - ZEROS, ZEROS)
    weight.copy_(groups.scatter(2, smallest, 0).reshape(weight.shape))


def _chosen(model: nn.Module, modules: Iterable[str | nn.Module] | None) -> Callable[[str], bool]:
    """Whether a path lies in ``modules``."""
    if modules is None:
        return lambda path: True
    if isinstance(modules, (str, nn.Module)):
        raise ConfigError(f"modules is a single {type(modules).__name__}; give a list of paths or submodules")
    paths = {id(module): path for path, module in model.named_modules()}
    known = dict.fromkeys(paths.values())
    layers = [path for path, _ in _layers(model)]
    roots = []
    for entry in modules:
        path = entry if isinstance(entry, str) else paths.get(id(entry))
        if path is None or path not in known:
            near = difflib.get_close_matches(str(path), known, 3) if path is not None else []
            raise ConfigError(
                f"modules holds {path or type(entry).__qualname__!r}, which is no submodule of this model"
                + (f"; near it is {', '.join(near)}" if near else "")
            )
        if not any(_within(layer, path) for layer in layers):
            raise ConfigError(f"modules holds {path!r}, in which there is no linear or convolution layer")
        roots.append(path)
    return lambda path: any(_within(path, root) for root in roots)


def _within(path: str, root: str) -> bool:
    return not root or path == root or path.startswith(root + ".")
