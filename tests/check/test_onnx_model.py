"""An ONNX file computed as a module: dtypes, devices, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.onnx_models import write

from torch2edge.check.onnx_model import OnnxModel
from torch2edge.errors import InputError
from torch2edge.trace import unchanged

pytest.importorskip("onnx")
from onnx import TensorProto, helper


def model(file: Path, op: str = "Add", kind: int = TensorProto.FLOAT, outputs: int = 1) -> OnnxModel:
    nodes = [helper.make_node(op, ["x", "y"], [f"z{i}"]) for i in range(outputs)]
    spec = (kind, [2])
    write(file, nodes, {"x": spec, "y": spec}, {f"z{i}": spec for i in range(outputs)})
    return OnnxModel(file, ["x", "y"])


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT, torch.float32),
        (TensorProto.FLOAT16, torch.float16),
        (TensorProto.BFLOAT16, torch.bfloat16),
        (TensorProto.INT64, torch.int64),
    ],
)
def test_dtypes(kind: int, dtype: torch.dtype, tmp_path: Path) -> None:
    x, y = torch.tensor([1, 2]).to(dtype), torch.tensor([3, 4]).to(dtype)
    result = model(tmp_path / "m.onnx", kind=kind)(x, y)
    assert result.dtype == dtype
    assert torch.equal(result, x + y)


def test_names_positions_and_several_outputs(tmp_path: Path) -> None:
    two = model(tmp_path / "m.onnx", op="Sub", outputs=2)
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    for result in (two(x, y), two(x, y=y), two(y=y, x=x)):
        assert isinstance(result, tuple)
        assert all(torch.equal(r, x - y) for r in result)


def test_it_is_opened_once(tmp_path: Path) -> None:
    one = model(tmp_path / "m.onnx")
    with unchanged(one):
        one(torch.zeros(2), torch.zeros(2))
    (tmp_path / "m.onnx").unlink()
    with unchanged(one):
        one(torch.zeros(2), torch.zeros(2))


def test_what_it_cannot_compute(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{OnnxModel.evaluator()} cannot compute .*m\.onnx.*verify=False"):
        model(tmp_path / "m.onnx", op="Foo")(torch.zeros(2), torch.zeros(2))
