"""Files that others wrote: each is told for what it is, none runs code, and what TensorRT tells becomes a header."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.plans import SHAPES, Images, images, totals, ultralytics_file
from support.torch_features import LOADS_BYTEARRAYS
from torch import nn

import torch2edge
from torch2edge import EdgeModule, EngineFileError, ExecutionError, InputError
from torch2edge._trt import why_not_executable
from torch2edge.integrations.torch2trt import torch2trt
from torch2edge.integrations.torch2trt.plans import nested
from torch2edge.run.engine_file import pack
from torch2edge.run.foreign import recognised
from torch2edge.run.plain import Facts, Nested, Tensor, metadata_of, with_output_shapes

pytestmark = pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
builds_only = pytest.mark.skipif(not why_not_executable(), reason="an engine can be deserialised here: test_foreign_gpu.py")
takes_bytearrays = pytest.mark.skipif(not LOADS_BYTEARRAYS, reason="torch.load(weights_only=True) takes no bytearray here")
NAMES = {"input_names": ["images", "scale"], "output_names": ["features", "mean"]}
X = torch.ones(2, 4)


@pytest.fixture(scope="module")
def model() -> Images:
    torch.manual_seed(0)
    return Images().eval()


@pytest.fixture(scope="module")
def plan(model: Images) -> bytes:
    return images(model).data


@pytest.fixture(scope="module")
def ours() -> EdgeModule:
    return torch2edge.convert(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), [X])


# ---- the kinds of files -------------------------------------------------------------------------------------------------


def test_kinds(plan: bytes, ours: EdgeModule, tmp_path: Path) -> None:
    path = tmp_path / "m.engine"
    path.write_bytes(plan)
    assert (recognised(path).kind, recognised(path).plan) == ("plan", plan)
    assert recognised(ultralytics_file(path, plan, task="detect", names={"0": "ä"})).plan == plan
    found = recognised(path)
    assert (found.kind, found.built_by) == ("ultralytics", "Ultralytics 8.4.190")
    assert found.header["names"] == {"0": "ä"}
    ours.save(path)
    assert recognised(path).metadata == ours.metadata
    torch.save(ours.state_dict(), path)
    assert (recognised(path).metadata, recognised(path).plan) == (ours.metadata, ours._plan)
    assert torch2edge.load(path).metadata == ours.metadata


@takes_bytearrays
@pytest.mark.parametrize("zipped", [True, False])
def test_torch2trts(plan: bytes, tmp_path: Path, zipped: bool) -> None:
    state = {"engine": bytearray(plan), **NAMES, "output_flattener": {"schema": (0, {"m": 1}), "size": 2}}
    torch.save(state, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    found = recognised(tmp_path / "m.pth")
    assert (found.kind, found.plan) == ("torch2trt", plan)
    assert found.header == {k: v for k, v in state.items() if k != "engine"}


@pytest.mark.skipif(LOADS_BYTEARRAYS, reason="torch.load(weights_only=True) takes a bytearray here")
def test_an_old_torch_cannot_read_torch2trts_safely(plan: bytes, tmp_path: Path) -> None:
    refused(
        tmp_path / "m.pth", saved({"engine": bytearray(plan), **NAMES}), r"cannot read .* safely.*Load it with a newer torch"
    )


@takes_bytearrays
def test_what_our_trt_module_saved_needs_no_gpu(tmp_path: Path) -> None:
    net = nn.Linear(4, 3).eval()
    module = torch2trt(net, [X])
    torch.save(module.state_dict(), tmp_path / "m.pth")
    assert torch2edge.load(tmp_path / "m.pth").metadata == module.metadata
    state = module.state_dict()
    state["engine"][-1] ^= 1
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(EngineFileError, match=r"m\.pth is damaged: its checksum does not match"):
        torch2edge.load(tmp_path / "m.pth")


@builds_only
def test_without_a_gpu_a_plan_of_others_says_where_to_load_it(plan: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.plan").write_bytes(plan)
    files = [tmp_path / "m.plan", ultralytics_file(tmp_path / "u.engine", plan)]
    if LOADS_BYTEARRAYS:
        torch.save({"engine": bytearray(plan), **NAMES}, tmp_path / "m.pth")
        files.append(tmp_path / "m.pth")
    for file in files:
        with pytest.raises(
            ExecutionError, match=r"only the deserialised engine tells .* no NVIDIA GPU.*Load it on the machine"
        ):
            torch2edge.load(file)


@builds_only
def test_what_is_no_plan_is_told_by_tensorrt_itself(plan: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.engine"
    for data in (plan[: len(plan) // 2], plan[:100], b"abcd" + plan[4:], plan + b"0", np.random.default_rng(0).bytes(5000)):
        path.write_bytes(data)
        with pytest.raises(EngineFileError, match=r"cannot load .*m\.engine:\n  .*Serialization") as caught:
            torch2edge.load(path)
        assert "was built by another version of TensorRT or for another GPU" in str(caught.value)
    ultralytics_file(path, plan[:-1])
    with pytest.raises(EngineFileError, match=r"cannot load .*m\.engine:\n  .*Serialization"):
        torch2edge.load(path)


def refused(path: Path, data: bytes, what: str) -> None:
    path.write_bytes(data)
    with pytest.raises(EngineFileError, match=what) as caught:
        torch2edge.load(path)
    assert str(path) in str(caught.value)


def archive(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr(name, b"x")
    return buffer.getvalue()


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def exported() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(4, 3).eval(), (X,)), buffer)
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(4, 3).eval(), X), buffer)
    return buffer.getvalue()


def an_onnx() -> bytes:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value])
    return onnx.helper.make_model(graph, producer_name="me").SerializeToString()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(400)


OTHERS = {
    "nothing": (lambda: b"", "is empty: 0 bytes"),
    "a few bytes": (lambda: b"abcdef", "too short for an engine: 6 bytes"),
    "a pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "a script": (lambda: b"import torch\n\nprint(torch.ones(3))\n" * 9, "is a text file"),
    "a page": (lambda: b"<!DOCTYPE html><html>" + b" " * 99, "page of HTML"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(99), "compressed by gzip. Unpack it"),
    "a library": (lambda: b"\x7fELF" + bytes(99), "a shared library"),
    "ONNX": (an_onnx, r"is an ONNX file. Convert it: torch2edge.convert\('.*m.engine', inputs\)"),
    "safetensors": (safetensors, "weights .safetensors."),
    "weights": (lambda: saved(nn.Linear(4, 3).state_dict()), r"holds weights \(weight, bias\). Load them into their model"),
    "a tensor": (lambda: saved(torch.ones(3)), "torch.save wrote a Tensor there"),
    "an empty dict": (lambda: saved({}), r"holds weights \(none\)"),
    "a TorchScript": (scripted, "is a TorchScript module. Convert the model"),
    "an exported program": (exported, r"is an exported program. Convert it: torch2edge.convert\(torch.export.load"),
    "numpy's": (lambda: archive("a.npy"), r"a zip archive of a\.npy"),
    "half an archive": (lambda: saved(nn.Linear(4, 3).state_dict())[:-50], "truncated or damaged archive"),
    "a half header": (lambda: (900).to_bytes(4, "little") + b'{"stride": 32, ' + bytes(100), "truncated: it begins as Ultra"),
    "a header alone": (lambda: (2).to_bytes(4, "little") + b"{}" + bytes(9), "truncated: 9 bytes follow Ultralytics' header"),
    "no JSON": (lambda: (9).to_bytes(4, "little") + b"{'a': 12}" + bytes(99), "damaged, or of a kind that torch2edge"),
    "a negative length": (lambda: b"\xff\xff\xff\xff" + b"{}" + bytes(99), "is damaged, or of a kind"),
    "an empty module": (lambda: saved(EdgeModule().state_dict()), "state of an empty EdgeModule"),
    "no bytes": (lambda: saved({"_extra_state": torch.ones(3)}), "its _extra_state is a Tensor, not an engine's bytes"),
    "foreign bytes": (lambda: saved({"_extra_state": torch.ones(99, dtype=torch.uint8)}), "the engine in .* was not saved by"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(("make", "what"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_engine_is_named(make: Any, what: str, tmp_path: Path) -> None:
    refused(tmp_path / "m.engine", make(), what)


@pytest.mark.parametrize("wrong", [None, 5, "", b"net.engine", "a\0b", nn.ReLU()])
def test_no_path(wrong: Any) -> None:
    with pytest.raises(torch2edge.ConfigError, match="path is that of an engine's file, but is "):
        torch2edge.load(wrong)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(EngineFileError, match=re.escape(f"cannot read {path}: {what}")):
            torch2edge.load(path)


@takes_bytearrays
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"engine": "text"}, "its engine is a str where a bytearray should be"),
        ({"input_names": "images"}, "its input_names are 'images' where a list"),
        ({"output_names": [1]}, "its output_names are"),
    ],
)
def test_a_damaged_state_of_torch2trt(plan: bytes, tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    refused(tmp_path / "m.pth", saved({"engine": bytearray(plan), **NAMES, **changes}), what)


@takes_bytearrays
@pytest.mark.parametrize("flattener", [{"size": 2}, {"schema": (0, 7), "size": 2}, {"schema": 1.5}, [1]])
def test_a_damaged_flattener(plan: bytes, tmp_path: Path, flattener: Any) -> None:
    state = {"engine": bytearray(plan), **NAMES, "input_flattener": flattener}
    refused(tmp_path / "m.pth", saved(state), "damaged input_flattener")


def test_an_engine_inside_of_a_bigger_state(ours: EdgeModule, tmp_path: Path) -> None:
    state = nn.ModuleDict({"head": nn.Linear(1, 1), "body": ours}).state_dict()
    refused(tmp_path / "m.pth", saved(state), r"the state of a bigger module, with engines in it \(body\)")


# ---- no code runs -------------------------------------------------------------------------------------------------------


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "state", "engine"])
def test_a_pickle_runs_nothing(how: str, tmp_path: Path) -> None:
    trap = Malicious(tmp_path / "trap")
    data = {
        "zip": lambda: saved(trap),
        "legacy": lambda: saved(trap, _use_new_zipfile_serialization=False),
        "pickle": lambda: pickle.dumps(trap),
        "state": lambda: saved({"_extra_state": trap}),
        "engine": lambda: saved({"engine": trap, **NAMES}),
    }[how]()
    refused(tmp_path / "m.pth", data, "can run any program, so torch2edge does not")
    assert not trap.path.exists()
    torch.load(io.BytesIO(data), weights_only=False) if how != "pickle" else pickle.loads(data)
    assert trap.path.exists()  # the trap works


@pytest.mark.parametrize("kind", ["namedtuple", "dataclass", "mapping", "structseq"])
def test_a_header_calls_nothing(kind: str, ours: EdgeModule, tmp_path: Path) -> None:
    """Outputs are put into classes that the header names: nothing but such classes is called."""
    trap = tmp_path / "trap"
    plain = {"kind": "plain", "value": str(trap)}
    forged = {"kind": kind, "type": "os:mkdir", "keys": ["path", "_"], "items": [plain, {"kind": "tensor"}]}
    (tmp_path / "m.engine").write_bytes(pack({**ours.metadata, "output_structure": forged}, ours._plan))
    metadata = torch2edge.load(tmp_path / "m.engine").metadata
    module = EdgeModule(ours._plan, metadata, fallback=lambda tensors: [torch.ones(2, 3)])
    with pytest.raises(InputError, match=f"os:mkdir, which the engine's header names as a {kind}, is none"):
        module(X)
    assert not trap.exists()


# ---- what TensorRT tells, as a header -----------------------------------------------------------------------------------


def computed(model: Images, ranges: Any = (), **nesting: Any) -> EdgeModule:
    """A plan of others as ``load`` makes a module of it, computed by the reference executor."""
    made = images(model, ranges)
    metadata = metadata_of(made.facts(), "m.plan", size=len(made.data), built_by="trtexec", **nesting)
    return EdgeModule(made.data, metadata, fallback=made.reference([row["binding"] for row in metadata["outputs"]]))


def call(n: int = 2, height: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 3, height, 16), torch.randn(n, 1, 1, 1)


@builds_only
def test_by_position_and_by_name(model: Images) -> None:
    module, (x, scale) = computed(model), call()
    expected = model(x, scale)
    for given in (module(x, scale), module(x, scale=scale), module(scale=scale, images=x)):
        assert type(given) is tuple
        for one, other in zip(given, expected, strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-5)
    for args, kwargs in (((x,), {}), ((x, scale), {"images": x}), ((x, scale, x), {}), ((x,), {"skale": scale})):
        with pytest.raises(InputError, match="is called with"):
            module(*args, **kwargs)
    with pytest.raises(InputError, match=r"images is torch\.float16"):
        module(x.half(), scale)


@builds_only
def test_ranges_of_each_axis_and_profile(model: Images) -> None:
    module = computed(model, SHAPES)
    for n, height in ((1, 8), (1, 24), (2, 9), (8, 24)):
        x, scale = call(n, height)
        torch.testing.assert_close(module(x, scale)[1], model(x, scale)[1].detach(), rtol=1e-4, atol=1e-5)
    for n, height, message in (
        (9, 16, "axis 0 of images is 9; the engine was built for 1 to 1 or 2 to 8 there"),
        (2, 25, "axis 2 of images is 25; the engine was built for 8 to 24 there"),
    ):
        with pytest.raises(InputError, match=message):
            module(*call(n, height))
    with pytest.raises(InputError, match=r"no optimization profile .* takes images.shape\[0\] = 1, .* scale.shape\[0\] = 2"):
        module(call(1)[0], call(2)[1])
    report = str(module.report)
    for part in ("images.shape[2]", "axis 2 of images", "not checked: built by trtexec", "nothing is known of its precisions"):
        assert part in report
    assert "module" not in report.splitlines()[1:3]


def test_an_output_varies_where_its_sizes_in_the_profiles_differ() -> None:
    """TensorRT 8.6 has an engine tell the shapes of its first profile."""
    x = Tensor("x", True, "float32", (-1, 3), (((1, 3),) * 3, ((2, 3), (4, 3), (8, 3))))
    told = [("a", (1, 8, -1)), ("b", (-1, 4)), ("c", ()), ("d", (1, 5))]
    facts = Facts((x, *(Tensor(name, False, "float32", shape) for name, shape in told)), portable=True)
    calls = [{"a": (n, 8, n + 6), "b": (2, 4), "c": (), "d": (1, 5)} for n in (1, 1, 1, 2, 4, 8)]
    found = with_output_shapes(facts, calls, "m.plan")
    assert {t.name: t.shape for t in found.outputs()} == {"a": (-1, 8, -1), "b": (-1, 4), "c": (), "d": (1, 5)}
    assert (found.inputs(), found.portable) == ([x], True)
    assert with_output_shapes(facts, [{**calls[0], "a": (1, 8, 7)}], "m.plan").outputs()[0].shape == (1, 8, -1)
    between = [calls[0], {**calls[1], "d": (1, 6)}, calls[2]]  # only the most usual size differs
    assert with_output_shapes(facts, between, "m.plan").outputs()[3].shape == (1, -1)


def test_an_output_whose_size_no_call_tells_is_refused() -> None:
    x = Tensor("x", True, "float32", (3, 4))
    y, places = Tensor("y", False, "float32", (3,)), Tensor("places", False, "int32", (2, -1))
    message = r"m\.plan has places, \(2, -1\), whose size hangs on the values of the inputs"
    for calls in ([], [{"y": (3,), "places": (2, 0)}, {"y": (3,), "places": (2, -1)}]):
        with pytest.raises(EngineFileError, match=message):
            with_output_shapes(Facts((x, y, places)), calls, "m.plan")
    assert with_output_shapes(Facts((x, y)), [], "m.plan") == Facts((x, y))


@builds_only
def test_one_output_is_a_tensor() -> None:
    made = totals()
    module = EdgeModule(made.data, metadata_of(made.facts(), "it", size=1, built_by="x"), fallback=made.reference(["twice"]))
    ids = torch.randint(-99, 99, (3, 4), dtype=torch.int32)
    assert torch.equal(module(ids), ids * 2)
    assert torch.equal(module(**{"ids:0": ids}), ids * 2)


@builds_only
def test_torch2trts_nesting(model: Images) -> None:
    inputs = nested(NAMES["input_names"], {"schema": ({"x": 0, "by": 1}, None), "size": 2}, True)
    outputs = nested(["mean", "features"], {"schema": {"m": 0, "rest": [1, None]}, "size": 2}, False)
    module, (x, scale) = computed(model, inputs=inputs, outputs=outputs), call()
    given, (features, mean) = module({"by": scale, "x": x}, None), model(x, scale)
    torch.testing.assert_close(given["m"], mean.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(given["rest"][0], features.detach(), rtol=1e-4, atol=1e-5)
    assert given["rest"][1] is None
    assert [row["name"] for row in module.metadata["inputs"]] == ["args[0]['x']", "args[0]['by']"]
    assert nested(["a"], None, False).structure == {"kind": "tensor"}


def test_names_that_do_not_fit(model: Images) -> None:
    facts = images(model).facts()
    for names, message in ((["images", "nope"], "m.plan has no 'nope'; it has images, scale"),
                           (["images"], "m.plan has scale too, but only images are named")):  # fmt: skip
        wanted = Nested(names, {"kind": "list", "items": [{"kind": "tensor"}] * len(names)})
        with pytest.raises(EngineFileError, match=message):
            metadata_of(facts, "m.plan", size=1, built_by="x", inputs=wanted)


@builds_only
def test_a_saved_one_is_a_file_of_ours(model: Images, tmp_path: Path) -> None:
    module = computed(model, SHAPES)
    module.metadata["ultralytics"] = {"names": {"0": "person"}}
    module.save(tmp_path / "m.engine")
    again = torch2edge.load(tmp_path / "m.engine")
    assert again.metadata == module.metadata
    assert str(again.report) == str(module.report)
    with pytest.raises(ExecutionError, match="cannot run here"):
        again(*call())
    assert pickle.loads(pickle.dumps(module)).metadata == module.metadata


def test_an_engine_for_several_gpus_is_not_bound_to_one() -> None:
    rows = (Tensor("x", True, "float32", (1,)), Tensor("y", False, "float32", (1,)))
    assert metadata_of(Facts(rows, portable=True), "it", size=1, built_by="x")["compute_capabilities"] == []


def test_a_header_whose_length_begins_like_a_page(tmp_path: Path) -> None:
    """The length comes first, and may be any byte: 60 is "<"."""
    plan = bytes(100)
    plain = ultralytics_file(tmp_path / "yolo.engine", plan, note="").stat().st_size - len(plan) - 4
    for begin in (b"<", b"<!"):
        wanted = int.from_bytes(begin.ljust(2, b"\x03"), "little")
        path = ultralytics_file(tmp_path / "yolo.engine", plan, note="x" * (wanted - plain))
        assert path.read_bytes().startswith(begin)
        found = recognised(path)
        assert (found.kind, found.plan) == ("ultralytics", plan)
    (tmp_path / "page.engine").write_bytes(b"<!DOCTYPE html><html></html>" + b" " * 200)
    with pytest.raises(EngineFileError, match="a page of HTML"):
        recognised(tmp_path / "page.engine")
