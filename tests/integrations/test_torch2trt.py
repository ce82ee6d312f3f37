"""torch2trt(): its arguments mean what they did, or are refused by name."""

from __future__ import annotations

import inspect
import logging
from collections import namedtuple

import pytest
import torch
from support.rows import Function
from torch import nn

from torch2edge import ConfigError, InputError, TrainingModeError, UnsupportedOpError
from torch2edge._trt import trt
from torch2edge.build import session
from torch2edge.integrations.torch2trt import Flattener, ListDataset, TRTModule, torch2trt

pytestmark = pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")


def agree(function, *shapes, **options):
    """Convert, then compare structure, shapes and values on inputs that the conversion has not seen."""
    module = Function(function).eval()
    module_trt = torch2trt(module, [torch.randn(s) for s in shapes], **options)
    fresh = [torch.randn(s) for s in shapes]
    wanted, given = module(*fresh), module_trt(*fresh)
    flattener = Flattener.from_value(wanted)
    assert flattener.schema == Flattener.from_value(given).schema
    for a, b in zip(flattener.flatten(wanted), flattener.flatten(given)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert torch.allclose(a, b, atol=1e-4)
    return module_trt


# What torch2trt gets wrong or refuses at 4e820ae, and what its tests convert.
@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: x.squeeze(1), (2, 1, 3)),
        (lambda x: x.unsqueeze(-1), (2, 3)),
        (lambda x: x.sum(), (2, 3)),
        (lambda x: x.mean(-1), (2, 3, 4)),
        (lambda x: torch.add(x, x, alpha=3), (2, 3)),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), (2, 3)),
        (lambda x: nn.functional.log_softmax(x, 1), (2, 3, 4)),
        (lambda x: nn.functional.softplus(x, beta=3), (2, 3)),
        (lambda x: nn.functional.max_pool2d(x, 2), (1, 3, 8, 8)),
        (lambda x: nn.functional.max_pool2d(x, 3, dilation=2), (1, 3, 9, 9)),
        (lambda x: nn.functional.pad(x, (1, 2), mode="reflect"), (1, 3, 8)),
        (lambda x: nn.functional.gelu(x), (2, 3)),
        (lambda x: x[0], (2, 3)),
        (lambda x: x[:, torch.tensor([2, 0])], (2, 3)),
        (lambda x: torch.max(x, 1).indices, (2, 3)),
        (lambda x: x.mul(2).reshape(3, 2), (2, 3)),
        (lambda x: x.T, (2, 3)),
        (lambda x: nn.functional.relu6(x * 10), (2, 3)),
        (lambda x: nn.functional.normalize(x), (2, 3)),
        (lambda x: x.view(x.size(0) * x.size(1), -1), (2, 3, 4)),
        (lambda x: torch.flatten(x, 0, 1), (2, 3, 4)),
        (lambda x: x, (2, 3)),  # torch2trt renames the input itself
    ],
)
def test_what_torch2trt_gets_wrong(function, shape):
    agree(function, shape)


def test_nested_inputs_and_outputs():
    module = Function(lambda x, d: {"b": x + d["z"], "a": (d["y"] * 2, [x - d["y"]])}).eval()
    data = (torch.randn(2, 3), {"z": torch.randn(2, 3), "y": torch.randn(2, 3)})
    module_trt = torch2trt(module, data)
    out, out_trt = module(*data), module_trt(*data)
    assert torch.allclose(out["b"], out_trt["b"])
    assert torch.allclose(out["a"][1][0], out_trt["a"][1][0])
    assert module_trt.input_names == ["input_0", "input_1", "input_2"]
    assert module_trt.input_flattener.schema == [0, {"y": 1, "z": 2}]  # keys in sorted order, as in torch2trt
    assert module_trt.output_flattener.schema == {"a": (0, [1]), "b": 2}


def test_names_of_bindings_follow_the_flattener():
    module = Function(lambda x, d: {"b": x + d["z"], "a": d["y"] * 2}).eval()
    data = (torch.randn(2), {"z": torch.randn(3, 2), "y": torch.randn(4)})
    module_trt = torch2trt(module, data, input_names=["x", "y", "z"], output_names=["a", "b"])
    assert module_trt.input_names == ["x", "y", "z"]
    assert module_trt.output_names == ["a", "b"]
    shapes = {module_trt.network.get_input(i).name: tuple(module_trt.network.get_input(i).shape) for i in range(3)}
    assert shapes == {"x": (2,), "y": (4,), "z": (3, 2)}
    assert {module_trt.network.get_output(i).name for i in range(2)} == {"a", "b"}
    with pytest.raises(ConfigError, match=r"input_names is \['x'\], but the model's inputs are 3 tensors"):
        torch2trt(module, data, input_names=["x"])
    with pytest.raises(ConfigError, match="'x' is among them"):
        torch2trt(module, data, input_names=["x", "x", "z"])


def test_an_input_that_nothing_needs_has_no_binding():
    module_trt = torch2trt(Function(lambda x, y: x * 2).eval(), [torch.randn(2), torch.randn(3)])
    assert module_trt.input_names == ["input_0"]
    assert module_trt.input_flattener.schema == [0, None]


def test_a_dataset_gives_the_sample():
    dataset = ListDataset([(torch.randn(1, 3), torch.randn(1, 3))] * 3)
    module = Function(torch.add).eval()
    assert torch.equal(torch2trt(module, dataset)(*dataset[1]), module(*dataset[1]))
    with pytest.raises(InputError, match="the Dataset is empty"):
        torch2trt(module, ListDataset())


def test_shapes_that_are_the_samples_are_taken():
    x = torch.randn(1, 3)
    module = nn.Linear(3, 2).eval()
    torch2trt(module, [x], min_shapes=[(1, 3)], opt_shapes=[(1, 3)], max_shapes=[(1, 3)])
    torch2trt(module, [x], max_batch_size=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_batch_size": 4}, "batches of 1 to 4"),
        ({"max_shapes": [(4, 3)]}, r"max_shapes asks for \(4, 3\) as the shape of input 0, but the sample's is \(1, 3\)"),
        ({"min_shapes": [(1, 2)]}, "min_shapes asks for"),
        ({"opt_shapes": [(2, 3)]}, "opt_shapes asks for"),
        ({"opt_shapes": []}, "nested like the inputs"),
        ({"int8_mode": True, "int8_calib_algorithm": "legacy"}, "algorithm is 'legacy'"),
        ({"avg_timing_iterations": 0}, "avg_timing_iterations must be a whole number from 1 on, but is 0"),
        ({"log_level": "verbose"}, "log_level is 'verbose'"),
        ({"dla_core": 1}, "dla_core is given"),
    ],
)
def test_what_cannot_be_honoured_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        torch2trt(nn.Linear(3, 2).eval(), [torch.randn(1, 3)], **options)


def test_timing_iterations_reach_the_builder(monkeypatch):
    told = []
    configure = session.configure
    monkeypatch.setattr(session, "configure", lambda config, *rest: (configure(config, *rest), told.append(config))[0])
    torch2trt(nn.Linear(3, 2).eval(), [torch.randn(1, 3)], avg_timing_iterations=5)
    assert [config.avg_timing_iterations for config in told] == [5]


def test_a_dataset_of_several_shapes_is_refused():
    dataset = ListDataset([(torch.randn(1, 3),), (torch.randn(2, 3),)])
    with pytest.raises(ConfigError, match=r"the Dataset asks for \(2, 3\).*convert once for each shape"):
        torch2trt(nn.Linear(3, 2).eval(), dataset)


@pytest.mark.parametrize(
    ("keyword", "near"),
    [
        ("fp16", "fp16_mode"),
        ("int8_calib_batch_size", "int8_calib_dataset"),
        ("max_workspace", "max_workspace_size"),
        ("xyz", ""),
    ],
)
def test_unknown_keywords_raise(keyword, near):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{keyword}'.*{near}"):
        torch2trt(nn.Linear(3, 2).eval(), [torch.randn(1, 3)], **{keyword: 1})


def test_the_signature_is_torch2trts():
    wanted = [
        *("module", "inputs", "input_names", "output_names", "log_level", "fp16_mode", "max_workspace_size"),
        *("strict_type_constraints", "keep_network", "int8_mode", "int8_calib_dataset", "int8_calib_algorithm", "use_onnx"),
        *("default_device_type", "dla_core", "gpu_fallback", "device_types", "min_shapes", "max_shapes", "opt_shapes"),
        *("onnx_opset", "max_batch_size", "avg_timing_iterations"),
    ]
    parameters = inspect.signature(torch2trt).parameters
    assert list(parameters)[: len(wanted)] == wanted
    assert parameters["max_workspace_size"].default == 1 << 25
    assert parameters["keep_network"].default is True
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD


def test_fp16_mode():
    x = torch.randn(1, 3)
    half = nn.Linear(3, 2).half().eval()
    assert torch2trt(half, [x.half()], fp16_mode=True)(x.half()).dtype == torch.float16
    module = torch2trt(nn.Linear(3, 2).eval(), [x], fp16_mode=True)
    assert module(x).dtype == torch.float32
    assert module.report.precision == "fp16+fp32"


@pytest.mark.filterwarnings("ignore:calibration")
@pytest.mark.parametrize("kind", ["dataset", "items", "inputs"])
def test_int8_mode(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    items = [[torch.randn(4, 16)] for _ in range(12)]
    data = {"dataset": ListDataset(items), "items": items, "inputs": None}[kind]
    module = torch2trt(model, items[0], int8_mode=True, int8_calib_dataset=data, int8_calib_algorithm="minmax")
    assert module.report.precision == "fp32+int8"
    x = torch.cat([item[0] for item in items[:1]])
    with torch.no_grad():
        error = (module(x) - model(x)).norm() / model(x).norm()
    assert 1e-4 < float(error) < 0.05


def test_other_options_are_passed_on():
    x = torch.randn(1, 3)
    module = nn.Linear(3, 2).eval()
    options = {"max_workspace_size": 1 << 26, "strict_type_constraints": True, "optimization_level": 0, "gpu_fallback": False}
    types = {"default_device_type": trt.DeviceType.GPU, "device_types": {module: trt.DeviceType.GPU}}
    module_trt = torch2trt(module, [x], keep_network=False, tolerance=0.5, int8_calib_dataset=[[x]], **options, **types)
    assert module_trt.network is None
    assert module_trt.report.tolerance == 0.5
    assert torch2trt(module, [x], verify=False).report.checked_by == ""
    assert torch.allclose(torch2trt(module, [x], use_onnx=True, onnx_opset=17)(x), module(x), atol=1e-5)


def test_an_unsupported_op_is_an_error_and_no_constant():
    with pytest.raises(UnsupportedOpError, match="special_bessel_j0"):
        torch2trt(Function(lambda x: torch.special.bessel_j0(x) + 1).eval(), [torch.randn(3)])
    with pytest.raises(TrainingModeError):
        torch2trt(nn.Linear(3, 2), [torch.randn(1, 3)])


def test_one_sample_serves_twice():
    x, module = torch.randn(1, 3), nn.Linear(3, 2).eval()
    for _ in range(2):
        module_trt = torch2trt(module, [x])
        assert module_trt.network.num_inputs == 1
        assert not hasattr(x, "_trt")
    fresh = torch.randn(1, 3)
    assert torch.allclose(module_trt(fresh), module(fresh), atol=1e-5)


def test_a_non_contiguous_input():
    module, x = nn.Conv2d(3, 4, 3).eval(), torch.randn(1, 9, 9, 3).permute(0, 3, 1, 2)
    assert torch.allclose(torch2trt(module, [x])(x), module(x), atol=1e-4)


def test_log_level_holds_for_the_call_only(caplog):
    log = logging.getLogger("torch2edge.tensorrt")
    before = log.level
    torch2trt(nn.Linear(3, 2).eval(), [torch.randn(1, 3)], log_level=trt.Logger.VERBOSE)
    assert log.level == before
    assert any(record.name == log.name and record.levelno == logging.DEBUG for record in caplog.records)


def test_a_named_tuple_comes_back():
    pair = namedtuple("pair", "a b")
    module_trt = torch2trt(Function(lambda x: pair(x + 1, x * 2)).eval(), [torch.randn(2)])
    assert module_trt.output_flattener.schema == (0, 1)
    assert type(module_trt(torch.zeros(2))) is pair
    assert isinstance(module_trt, TRTModule)
