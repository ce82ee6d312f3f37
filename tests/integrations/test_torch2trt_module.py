"""TRTModule: torch2trt's state dict, both ways."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support.torch_features import LOADS_BYTEARRAYS
from torch import nn

import torch2edge
from torch2edge import ConfigError, EngineFileError, ExecutionError, InputError
from torch2edge._trt import why_not_executable
from torch2edge.integrations.torch2trt import Flattener, TRTModule, torch2trt
from torch2edge.integrations.torch2trt.plans import plan_metadata

pytestmark = pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
KEYS = ["engine", "input_names", "output_names", "input_flattener", "output_flattener"]


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x, d):
        return {"b": self.linear(x), "a": (d["y"] * 2, None, d["x"])}


def converted(device="cpu"):
    model = Nested().eval().to(device)
    data = torch.randn(1, 3, device=device), {"y": torch.randn(2, device=device), "x": torch.randn(4, device=device)}
    return model, data, torch2trt(model, data)


def test_the_keys_are_torch2trts():
    _, _, module_trt = converted()
    state = module_trt.state_dict()
    assert list(state) == [*KEYS, "torch2edge"]
    assert isinstance(state["engine"], bytearray)
    assert len(state["engine"]) == module_trt.report.engine_bytes
    assert state["input_names"] == ["input_0", "input_1", "input_2"]
    assert sorted(state["output_names"]) == ["output_0", "output_1", "output_2"]
    assert state["input_flattener"] == {"schema": [0, {"x": 1, "y": 2}], "size": 3}
    assert state["output_flattener"] == {"schema": {"a": (0, None, 1), "b": 2}, "size": 3}


def test_output_names_are_in_the_flatteners_order():
    """torch2trt's forward puts the tensor of output_names[i] at the number i of the schema."""
    _, _, module_trt = converted()
    shapes = {module_trt.network.get_output(i).name: tuple(module_trt.network.get_output(i).shape) for i in range(3)}
    assert [shapes[name] for name in module_trt.output_names] == [(2,), (4,), (1, 2)]
    shapes = {module_trt.network.get_input(i).name: tuple(module_trt.network.get_input(i).shape) for i in range(3)}
    assert [shapes[name] for name in module_trt.input_names] == [(1, 3), (4,), (2,)]


def test_save_and_load(tmp_path):
    _, _, module_trt = converted()
    torch.save(module_trt.state_dict(), tmp_path / "m.pth")
    other = TRTModule()
    other.load_state_dict(torch.load(tmp_path / "m.pth", weights_only=LOADS_BYTEARRAYS))
    assert other.metadata == module_trt.metadata
    assert other.report.to_dict() == module_trt.report.to_dict()
    assert other.state_dict() == module_trt.state_dict()
    assert other.input_flattener.schema == [0, {"x": 1, "y": 2}]


def test_inside_another_module():
    _, _, module_trt = converted()
    outer = nn.ModuleDict({"inner": nn.Sequential(nn.Linear(1, 1), module_trt)})
    state = outer.state_dict()
    assert [k for k in state if "engine" in k] == ["inner.1.engine"]
    empty = nn.ModuleDict({"inner": nn.Sequential(nn.Linear(1, 1), TRTModule())})
    empty.load_state_dict(state)
    assert empty["inner"][1].output_flattener.schema == {"a": (0, None, 1), "b": 2}


def test_what_an_edge_module_saved_loads_too(tmp_path):
    edge = torch2edge.convert(nn.Linear(3, 2).eval(), [torch.randn(1, 3)])
    module_trt = TRTModule()
    module_trt.load_state_dict(edge.state_dict())
    assert module_trt.input_names == ["input_0"]
    assert list(module_trt.state_dict()) == [*KEYS, "torch2edge"]
    keyword = torch2edge.convert(nn.Linear(3, 2).eval(), [], {"input": torch.randn(1, 3)})
    module_trt.load_state_dict(keyword.state_dict())
    with pytest.raises(ConfigError, match="takes keyword inputs"):
        module_trt.state_dict()
    _, _, made = converted()
    made.save(tmp_path / "m.engine")
    assert torch2edge.load(tmp_path / "m.engine").metadata == made.metadata


def test_empty():
    module_trt = TRTModule()
    assert (module_trt.engine, module_trt.context, module_trt.input_names, module_trt.output_flattener) == (None,) * 4
    with pytest.raises(EngineFileError, match="empty: there is nothing to save"):
        module_trt.state_dict()
    with pytest.raises(ExecutionError, match="empty"):
        module_trt(torch.zeros(1))
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "engine", "input_names", "output_names"'):
        module_trt.load_state_dict({})
    with pytest.raises(ConfigError, match="needs input_names and output_names"):
        TRTModule(b"plan")


def test_damaged_states():
    _, _, module_trt = converted()
    state = module_trt.state_dict()
    with pytest.raises(EngineFileError, match="its checksum does not match"):
        TRTModule().load_state_dict({**state, "engine": state["engine"][:-1]})
    with pytest.raises(EngineFileError, match="no readable 'torch2edge' entry"):
        TRTModule().load_state_dict({**state, "torch2edge": "{}"})
    with pytest.raises(EngineFileError, match="is a str where a bytearray should be"):
        TRTModule().load_state_dict({**state, "engine": "plan"})
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "weight"'):
        TRTModule().load_state_dict({**state, "weight": torch.zeros(1)})
    moved = state["torch2edge"].replace(module_trt.metadata["version"], "8.5.0")
    with pytest.raises(EngineFileError, match=r"An engine runs only in the TensorRT version"):
        TRTModule().load_state_dict({**state, "torch2edge": moved})


def test_copies():
    model, data, module_trt = converted()
    twin = copy.deepcopy(module_trt)
    assert type(twin) is TRTModule
    assert torch.allclose(twin(*data)["b"], model(*data)["b"], atol=1e-5)
    assert twin.network is None
    assert type(pickle.loads(pickle.dumps(module_trt))) is TRTModule


def test_wrong_calls_are_refused():
    _, data, module_trt = converted()
    with pytest.raises(InputError, match="was converted for 3 tensors"):
        module_trt(data[0])
    with pytest.raises(InputError, match="fixed"):
        module_trt(torch.zeros(2, 3), data[1])


@pytest.mark.skipif(not why_not_executable(), reason="an engine can be deserialised here")
def test_without_a_gpu_a_foreign_state_says_where_to_load_it():
    _, _, module_trt = converted()
    foreign = {k: v for k, v in module_trt.state_dict().items() if k in KEYS}
    with pytest.raises(
        ExecutionError, match=r"the engine in this state dict was not made by torch2edge.*Load it on the machine"
    ):
        TRTModule().load_state_dict(foreign)
    with pytest.raises(ExecutionError, match="cannot run here"):
        _ = module_trt.engine
    with pytest.raises(ExecutionError, match="cannot run here"):
        module_trt.enable_profiling()


# ---- with a GPU -------------------------------------------------------------------------------------------------------


def cross(a, b):
    flattener = Flattener.from_value(a)
    return all(torch.allclose(x, y, atol=1e-2, rtol=1e-2) for x, y in zip(flattener.flatten(a), flattener.flatten(b)))


@pytest.mark.gpu
def test_a_state_that_torch2trt_saved_loads():
    model, _, module_trt = converted("cuda")
    foreign = {k: v for k, v in module_trt.state_dict().items() if k in KEYS}
    other = TRTModule()
    other.load_state_dict(foreign)
    fresh = torch.randn(1, 3, device="cuda"), {"y": torch.randn(2, device="cuda"), "x": torch.randn(4, device="cuda")}
    assert cross(other(*fresh), model(*fresh))
    assert other.report.notes[0].startswith("note: the engine in this state dict was not made by torch2edge")
    without = TRTModule()
    without.load_state_dict({k: foreign[k] for k in KEYS[:3]})  # as old versions saved it
    outputs = without(fresh[0], fresh[1]["x"], fresh[1]["y"])
    assert cross(outputs[2], model(*fresh)["b"])
    with pytest.raises(EngineFileError, match="has no 'nope'"):
        TRTModule().load_state_dict({**foreign, "input_names": ["nope", "input_1", "input_2"]})
    with pytest.raises(EngineFileError, match="cannot load the engine in this state dict"):
        TRTModule().load_state_dict({**foreign, "engine": foreign["engine"][:100]})


@pytest.mark.gpu
def test_attributes_of_a_live_engine(tmp_path):
    model, data, module_trt = converted("cuda")
    assert module_trt.engine.num_io_tensors == 6
    module_trt.enable_profiling()
    assert cross(module_trt(*data), model(*data))
    torch.cuda.synchronize()
    names, flatteners = (
        (module_trt.input_names, module_trt.output_names),
        (module_trt.input_flattener, module_trt.output_flattener),
    )
    (tmp_path / "m.plan").write_bytes(module_trt.state_dict()["engine"])
    for engine in (module_trt.engine, module_trt.engine.serialize(), str(tmp_path / "m.plan")):
        assert cross(TRTModule(engine, *names, *flatteners)(*data), model(*data))


@pytest.mark.gpu
def test_what_was_no_tensor_of_a_foreign_engine_takes_any_value():
    module_trt = torch2trt(nn.Linear(3, 2).eval().cuda(), [torch.randn(1, 3).cuda()])
    plan, x = bytes(module_trt.state_dict()["engine"]), torch.randn(1, 3).cuda()
    metadata = plan_metadata(plan, ["input_0"], ["output_0"], Flattener((0, None), 1), Flattener(0, 1), "it")
    assert metadata["inputs"][0]["shape"] == [1, 3]
    foreign = TRTModule(plan, ["input_0"], ["output_0"], Flattener((0, None), 1), Flattener(0, 1))
    assert cross(foreign(x, 0.5), module_trt(x))
