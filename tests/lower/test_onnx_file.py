"""convert() of an .onnx file: what it takes, how it is checked, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.onnx_models import Nested, nested_call, seeded, write
from support.torch_features import DYNAMO
from torch import nn

import torch2edge
from torch2edge import ConfigError, ConversionError, InputError, VerificationError, trt
from torch2edge.check.onnx_model import OnnxModel
from torch2edge.lower import OnnxFile

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxslim")
from onnx import TensorProto, helper  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
FLOAT, INT64, BOOL, HALF, BF16 = (getattr(TensorProto, n) for n in ("FLOAT", "INT64", "BOOL", "FLOAT16", "BFLOAT16"))


def exported(file: Path, dynamo: bool = False, **options: Any) -> Path:
    if dynamo:
        pytest.importorskip("onnxscript")
        options["verbose"] = False
    torch.onnx.export(seeded(Nested), tuple(nested_call()[0]), str(file), dynamo=dynamo, **options)
    return file


def flat_call() -> list[torch.Tensor]:
    batch, mask, index = nested_call()[0]
    return [batch["x"], mask, index]


def add(file: Path, dims: Any = (2, 3), kind: int = FLOAT) -> Path:
    return write(file, [helper.make_node("Add", ["x", "y"], ["z"], name="/head/Add")],
                 {"x": (kind, dims), "y": (kind, dims)}, {"z": (kind, dims)})  # fmt: skip


# ---- what it gives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=DYNAMO)])
def test_a_file_of_torch_onnx_export(dynamo: bool, tmp_path: Path) -> None:
    file, args = exported(tmp_path / "nested.onnx", dynamo), flat_call()
    module = torch2edge.convert(file, args)
    given = module(*args)
    expected = seeded(Nested)(*nested_call_of(args))
    flat = [expected["a"], *expected["b"], expected["c"], *expected["same"]]
    assert len(given) == len(flat)
    for a, b in zip(given, flat):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    report = module.report
    assert {"layer1.0.act", "layer1.1.0.act", "ln", ""} <= {row.path for row in report.modules}
    assert "nested.onnx, parsed by TensorRT's ONNX parser (onnxslim" in report.notes[0]
    assert f"check against {OnnxModel.evaluator()} by" in str(report)
    assert all(row.passed for row in report.check)


def nested_call_of(args: list[torch.Tensor]) -> list[Any]:
    return [{"x": args[0]}, *args[1:]]


@pytest.mark.parametrize("kind", [FLOAT, HALF, BF16, INT64, TensorProto.INT32])
def test_types(kind: int, tmp_path: Path) -> None:
    dtype = {FLOAT: torch.float32, HALF: torch.float16, BF16: torch.bfloat16, INT64: torch.int64, 6: torch.int32}[kind]
    args = [torch.arange(6).reshape(2, 3).to(dtype)] * 2
    module = torch2edge.convert(str(add(tmp_path / "add.onnx", kind=kind)), args)
    torch.testing.assert_close(module(*args), args[0] * 2)
    assert isinstance(module(*args), torch.Tensor)


def test_inputs_by_name_and_an_ignored_one(tmp_path: Path) -> None:
    file = write(tmp_path / "m.onnx", [helper.make_node("Not", ["b"], ["out"])],
                 {"unused": (FLOAT, [3]), "b": (BOOL, [2])}, {"out": (BOOL, [2])})  # fmt: skip
    b = torch.tensor([True, False])
    module = torch2edge.convert(file, [], {"b": b, "unused": torch.zeros(3)}, output_names=["answer"])
    assert torch.equal(module(b=b, unused=torch.ones(3)), ~b)
    assert [i["binding"] for i in module.metadata["inputs"]] == ["input_0", ""]
    assert module.metadata["outputs"][0]["binding"] == "answer"
    assert "no output depends on the input unused" in module.report.notes[1]


def test_an_output_that_is_an_input_a_weight_or_another(tmp_path: Path) -> None:
    spec = (FLOAT, [3])
    file = write(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": spec}, {"y": spec, "x": spec, "w": spec},
                 w=np.ones(3, dtype=np.float32))  # fmt: skip
    model = onnx.load(str(file))
    model.graph.output.append(model.graph.output[0])
    onnx.save(model, str(file))
    x = torch.randn(3)
    for verify in (True, False):
        module = torch2edge.convert(file, [x], verify=verify)
        torch.testing.assert_close(module(x), (x.relu(), x, torch.ones(3), x.relu()))


def test_open_sizes_are_those_of_the_inputs(tmp_path: Path) -> None:
    file = add(tmp_path / "add.onnx", ("batch", 3))
    for batch in (1, 5):
        args = [torch.randn(batch, 3), torch.randn(batch, 3)]
        torch.testing.assert_close(torch2edge.convert(file, args)(*args), args[0] + args[1])


def test_dynamic_axes_of_torch(tmp_path: Path) -> None:
    model, file = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval(), tmp_path / "m.onnx"
    torch.onnx.export(model, (torch.randn(1, 3, 6, 6),), str(file), dynamo=False, input_names=["x"], output_names=["y"],
                      dynamic_axes={"x": {0: "n", 2: "h"}})  # fmt: skip
    x = torch.randn(3, 3, 8, 6)
    torch.testing.assert_close(torch2edge.convert(file, [x])(x), model(x), rtol=1e-4, atol=1e-5)


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    model, x = nn.Linear(64, 64).eval(), torch.randn(2, 64)
    torch.onnx.export(model, (x,), str(tmp_path / "small.onnx"), dynamo=False)
    onnx.save_model(onnx.load(str(tmp_path / "small.onnx")), str(tmp_path / "m.onnx"), save_as_external_data=True,
                    location="m.weights")  # fmt: skip
    assert (tmp_path / "m.weights").stat().st_size >= 2**14
    torch.testing.assert_close(torch2edge.convert(tmp_path / "m.onnx", [x])(x), model(x), rtol=1e-4, atol=1e-5)
    (tmp_path / "m.weights").unlink()
    with pytest.raises(InputError, match=r"m\.onnx: not a whole ONNX model"):
        torch2edge.convert(tmp_path / "m.onnx", [x])


def test_devices_by_the_files_paths(tmp_path: Path) -> None:
    args, gpu = [torch.randn(2, 3)] * 2, trt.DeviceType.GPU
    file = add(tmp_path / "add.onnx")
    assert OnnxFile(file).modules() == {"", "head"}
    report = torch2edge.convert(file, args, device_types={"head": gpu}).report
    assert [(row.path, row.device) for row in report.modules] == [("head", "GPU")]
    with pytest.raises(ConfigError, match="'tail' is no submodule"):
        torch2edge.convert(file, args, device_types={"tail": gpu})


def test_a_saved_engine(tmp_path: Path) -> None:
    args = [torch.randn(2, 3)] * 2
    torch2edge.convert(add(tmp_path / "add.onnx"), args).save(tmp_path / "add.engine")
    assert torch2edge.load(tmp_path / "add.engine").report.original == OnnxModel.evaluator()


# ---- what is refused --------------------------------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx: there is no such file"):
        torch2edge.convert(tmp_path / "none.onnx", [torch.randn(1)])
    with pytest.raises(InputError, match=r"model\.pt: .*must be an \.onnx file"):
        torch2edge.convert("model.pt", [torch.randn(1)])


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "no inputs"])
def test_a_damaged_file(damage: str, tmp_path: Path) -> None:
    file = add(tmp_path / "m.onnx")
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"not a model", "no inputs": whole}[damage])
    if damage == "no inputs":
        write(file, [helper.make_node("Constant", [], ["z"], value_float=1.0)], {}, {"z": (FLOAT, [])})
    with pytest.raises(InputError, match=r"m\.onnx"):
        torch2edge.convert(file, [torch.randn(2, 3)] * 2)


X, Y = torch.randn(2, 3), torch.randn(2, 3)


@pytest.mark.parametrize(
    ("args", "kwargs", "what"),
    [
        ([X], {}, r"takes 2 inputs \(x: float32 2x3, y: float32 2x3\), but is given 1 by position"),
        ([X, Y, X], {}, "is given 3 by position"),
        ([X, Y], {"y": Y}, "is given 2 by position and y by name"),
        ([X], {"z": Y}, "is given 1 by position and z by name"),
        ([X, 3.0], {}, "the input y of .* must be a tensor, but is a float"),
        ([X, [Y]], {}, "the input y of .* must be a tensor, but is a list"),
        ([X, Y.half()], {}, r"the input y is declared as float32 2x3, but given is torch.float16 \(2, 3\)"),
        ([X, Y[0]], {}, r"declared as float32 2x3, but given is torch.float32 \(3,\)"),
        ([X, Y[:1]], {}, r"given is torch.float32 \(1, 3\)"),
    ],
)
def test_inputs_that_do_not_fit(args: list[Any], kwargs: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=what):
        torch2edge.convert(add(tmp_path / "add.onnx"), args, kwargs)


def test_open_sizes_that_do_not_fit_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="head/Add"):
        torch2edge.convert(add(tmp_path / "add.onnx", ("a", "b")), [torch.randn(2, 3), torch.randn(4, 5)])


def test_an_empty_open_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a dimension is 0"):
        torch2edge.convert(add(tmp_path / "add.onnx", ("n", 3)), [torch.randn(0, 3)] * 2)


def test_operators_that_the_parser_does_not_know(tmp_path: Path) -> None:
    file = write(tmp_path / "m.onnx", [
        helper.make_node("Det", ["x"], ["d"], name="/a/Det"), helper.make_node("StringNormalizer", ["d"], ["e"], name="/b/S"),
        helper.make_node("Bernoulli", ["e"], ["y"], name="/c/Bernoulli"),
    ], {"x": (FLOAT, [2, 2])}, {"y": (FLOAT, [])})  # fmt: skip
    with pytest.raises(ConversionError, match=r"operators that it does not know: Bernoulli, Det, StringNormalizer") as caught:
        torch2edge.convert(file, [torch.randn(2, 2)])
    assert "a/Det" in str(caught.value)


def test_an_attribute_that_the_parser_refuses(tmp_path: Path) -> None:
    node = helper.make_node("ScatterElements", ["x", "i", "x"], ["y"], name="/a/Scatter", reduction="max")
    node17 = {"x": (FLOAT, [2, 2]), "i": (INT64, [2, 2])}
    file = write(tmp_path / "m.onnx", [node], node17, {"y": (FLOAT, [2, 2])})
    model = onnx.load(str(file))
    model.opset_import[0].version = 18
    onnx.save(model, str(file))
    index = torch.zeros(2, 2, dtype=torch.int64)
    try:
        torch2edge.convert(file, [torch.randn(2, 2), index])
    except ConversionError as error:
        assert "a/ScatterElements" in str(error)  # noqa: PT017  (a TensorRT with plugins may know it)


def test_types_that_no_engine_takes(tmp_path: Path) -> None:
    file = add(tmp_path / "m.onnx", kind=TensorProto.DOUBLE)
    with pytest.raises(ConversionError, match=r"ONNX parser of|no data type"):
        torch2edge.convert(file, [torch.randn(2, 3).double()] * 2)
    file = add(tmp_path / "s.onnx", kind=TensorProto.STRING)
    with pytest.raises(InputError, match="the input x is no tensor of a type that an engine takes"):
        torch2edge.convert(file, [torch.randn(2, 3)] * 2)


def test_nothing_stays_in_pytorch(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fallback='torch': .*an ONNX file, of which nothing can stay in PyTorch"):
        torch2edge.convert(add(tmp_path / "m.onnx"), [X, Y], fallback="torch")


def test_without_the_packages(tmp_path: Path, monkeypatch: Any) -> None:
    file = add(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxslim", None)
    with pytest.raises(ConfigError, match=r"reading .*m\.onnx needs .*onnxslim[\s\S]*pip install 'torch2edge\[onnx\]'"):
        torch2edge.convert(file, [X, Y])


def test_what_the_evaluator_lacks_can_go_unchecked(tmp_path: Path, monkeypatch: Any) -> None:
    def lacking(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise InputError("cannot compute")

    monkeypatch.setattr(OnnxModel, "forward", lacking)
    file = add(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="cannot compute"):
        torch2edge.convert(file, [X, Y])
    torch.testing.assert_close(torch2edge.convert(file, [X, Y], verify=False)(X, Y), X + Y)


def test_a_wrong_engine_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(OnnxModel, "forward", lambda self, x, y: x - y)
    with pytest.raises(VerificationError, match="the meaning was lost on the way through ONNX"):
        torch2edge.convert(add(tmp_path / "m.onnx"), [X, Y])


def test_old_files_list_weights_as_inputs(tmp_path: Path) -> None:
    file = write(tmp_path / "m.onnx", [helper.make_node("Add", ["x", "w"], ["z"])],
                 {"x": (FLOAT, [2, 3]), "w": (FLOAT, [2, 3])}, {"z": (FLOAT, [2, 3])},
                 w=np.ones((2, 3), dtype=np.float32))  # fmt: skip
    assert [i.name for i in OnnxFile(file).inputs] == ["x"]
    torch.testing.assert_close(torch2edge.convert(file, [X])(X), X + 1)
