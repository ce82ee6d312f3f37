"""An ONNX file as a module that PyTorch can call: what an engine made of the file is compared with."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import InputError

__all__ = ["OnnxModel"]


class OnnxModel(nn.Module):
    """Computes an ONNX file on the CPU: with ONNX Runtime where it is installed, else with onnx's reference evaluator.

    Args:
        path: the file.
        input_names: of its inputs, in order.
    """

    def __init__(self, path: Path, input_names: Sequence[str]) -> None:
        super().__init__()
        self.eval()
        self.path, self.input_names = path, list(input_names)
        self._session = functools.cache(functools.partial(_open, str(path)))  # opened once, on first use

    @staticmethod
    def evaluator() -> str:
        """Who computes, for people."""
        if importlib.util.find_spec("onnxruntime"):
            return f"ONNX Runtime {importlib.metadata.version('onnxruntime')}"
        return f"the reference evaluator of onnx {importlib.metadata.version('onnx')}"

    def forward(self, *tensors: torch.Tensor, **named: torch.Tensor) -> Any:
        """The outputs in the file's order: a tensor if it is one, else a tuple.

        Raises:
            InputError: the evaluator fails on these inputs, or lacks an operator.
        """
        given = {**dict(zip(self.input_names, tensors)), **named}
        device = next(iter(given.values())).device
        try:
            with np.errstate(all="ignore"):
                results = self._session()({name: _array(t) for name, t in given.items()})
        except Exception as error:
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            raise InputError(
                f"{self.evaluator()} cannot compute {self.path} for a comparison: {type(error).__name__}: {reason}. "
                "pip install onnxruntime gives a better one; verify=False takes the engine unchecked."
            ) from error
        outputs = tuple(_tensor(result).to(device) for result in results)
        return outputs[0] if len(outputs) == 1 else outputs


def _open(path: str) -> Any:
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return functools.partial(session.run, None)
    from onnx.reference import ReferenceEvaluator

    return functools.partial(ReferenceEvaluator(path).run, None)


def _array(tensor: torch.Tensor) -> Any:
    """NumPy has no bfloat16 of its own; onnx uses that of ml_dtypes."""
    host = tensor.detach().cpu().contiguous()
    if host.dtype != torch.bfloat16:
        return host.numpy()
    import ml_dtypes

    return host.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _tensor(array: Any) -> torch.Tensor:
    array = np.ascontiguousarray(array).reshape(np.shape(array))
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.copy())
