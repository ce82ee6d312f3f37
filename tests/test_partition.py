"""fallback="torch" and plan(): where a model is cut, and that the parts together are the model."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from support.torch_features import UNCOMPILED
from torch import nn

import torch2edge
from torch2edge.errors import ConfigError, ConversionError, InputError, TrainingModeError, VerificationError

pytestmark = pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")


class Block(nn.Sequential):
    def __init__(self, channels: int = 4) -> None:
        super().__init__(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())


class Branch(nn.Module):
    """A Python branch between two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x):
        x = self.first(x)
        if x.sum() > 1e9:
            return x
        return self.second(x)


def image(size: int = 8) -> torch.Tensor:
    return torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(size))


def partitioned(model: nn.Module, *inputs, **options):
    module = torch2edge.convert(model.eval(), list(inputs), fallback="torch", **options)
    with torch.no_grad():
        torch.testing.assert_close(module(*inputs), model(*inputs), rtol=1e-5, atol=1e-5)
    return module


def rows(plan: torch2edge.Plan) -> dict[str, str]:
    return {row.path: row.runs for row in plan.rows}


def reason(plan: torch2edge.Plan, path: str) -> str:
    return next(row.reason for row in plan.rows if row.path == path)


def test_a_branch_cuts_the_model():
    model = Branch().eval()
    before = copy.deepcopy(model.state_dict())
    x = image()
    module = partitioned(model, x)
    assert isinstance(module, torch2edge.PartitionedModule)
    plan = module.report.plan
    assert plan.engines == ["first", "second"]
    assert rows(plan) == {"": "PyTorch", "first": "engine", "second": "engine"}
    assert "DataDependentError" in reason(plan, "")
    assert "test_partition.py" in reason(plan, "")
    engine = plan.rows[1]
    assert (engine.calls, engine.tensors, engine.bytes) == (1, 2, 2 * 4 * 8 * 8 * 4)
    assert engine.flops == 2 * 4 * 4 * 9 * 64
    assert plan.coverage["flops"] == 1
    assert type(model.first) is Block
    assert not isinstance(model.first, torch2edge.EdgeModule)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))
    assert module.report.calls == {"first": (1, 0), "second": (1, 0)}


def test_the_plan_is_the_decision_without_a_build():
    model = Branch().eval()
    plan = torch2edge.plan(model, [image()])
    built = torch2edge.convert(model, [image()], fallback="torch").report.plan
    assert plan.to_dict() == built.to_dict()
    text = str(plan)
    assert "2 engines: 100.0% of the FLOPs" in text
    assert next(x for x in text.splitlines() if x.startswith("first")).split()[:5] == ["first", "Block", "engine", "1", "4"]
    assert "stays PyTorch, because" in text
    assert torch2edge.Plan.from_dict(plan.to_dict()) == plan


def test_a_model_that_converts_is_one_engine():
    module = partitioned(Block(), image())
    assert isinstance(module, torch2edge.EdgeModule)
    plan = torch2edge.plan(Block().eval(), image())
    assert plan.engines == [""]
    assert str(plan).startswith("the whole model becomes one engine")


def test_an_op_without_a_converter_stays():
    class Bessel(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    model = nn.Sequential(Block(), Bessel(), nn.ModuleDict({"a": Block()})["a"])
    module = partitioned(model, image())
    plan = module.report.plan
    assert plan.engines == ["0", "2"]
    assert reason(plan, "1") == "1 op cannot be converted: aten.special_bessel_j0.default"
    assert [(u["op"], u["module"]) for u in plan.unsupported] == [("aten.special_bessel_j0.default", "1")]


def test_parts_in_lists_and_dicts_are_replaced():
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])
            self.named = nn.ModuleDict({"last": Block()})

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.named["last"](x) if float(x.max()) > -1 else x

    assert partitioned(Held(), image()).report.plan.engines == ["blocks.0", "blocks.1", "named.last"]


def test_small_parts_are_not_worth_an_engine():
    model = Branch().eval()
    model.first = nn.ReLU().eval()
    plan = torch2edge.plan(model, [image()])
    assert plan.engines == ["second"]
    assert reason(plan, "first") == "it is 1 op, fewer than min_ops=3"
    assert torch2edge.plan(model, [image()], min_ops=1).engines == ["first", "second"]
    with pytest.raises(ConversionError, match="no submodule with at least min_ops=50 ops converts"):
        torch2edge.convert(model, [image()], fallback="torch", min_ops=50)


class Shared(nn.Module):
    """Two paths to one module, which runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left = Block()
        self.right = self.left

    def forward(self, x):
        y = self.left(x)
        return self.right(y) if y.sum() < 1e9 else y


def test_a_shared_module_is_one_engine():
    module = partitioned(Shared(), image())
    assert module.report.plan.engines == ["left"]
    assert module.left is module.right
    assert module.report.calls == {"left": (2, 0)}


def test_branches_that_share_weights():
    class Tied(Branch):
        def __init__(self) -> None:
            super().__init__()
            self.second[0].weight = self.first[0].weight

    module = partitioned(Tied(), image())
    assert module.report.plan.engines == ["first", "second"]
    assert module.first[0].weight is module.second[0].weight


class TwoSizes(Shared):
    def forward(self, x):
        y = self.left(x)
        return self.right(y[..., :4]) if y.sum() < 1e9 else y


def test_what_is_called_with_two_shapes_stays():
    plan = torch2edge.plan(TwoSizes().eval(), [image()])
    assert plan.engines == []
    assert reason(plan, "left") == "it is called with 2 kinds of inputs in one forward: 1x4x8x8; 1x4x8x4"


def test_what_hangs_on_the_data_stays():
    class Selected(Branch):
        def forward(self, x):
            return self.first(x[:, :, : 1 + int(x.flatten()[3:12].argmax()) % 4]).sum()

    plan = torch2edge.plan(Selected().eval(), [image(4)])
    assert plan.engines == []
    assert reason(plan, "first").startswith("its inputs hang on the data: 1x4x")


def test_what_sets_attributes_stays():
    class Remembers(Block):
        def forward(self, x):
            self.seen = super().forward(x)
            return self.seen

    model = Branch().eval()
    model.first = Remembers().eval()
    plan = torch2edge.plan(model, [image()])
    assert plan.engines == ["first.0", "second"] or plan.engines == ["second"]
    assert reason(plan, "first") == "its forward sets the attribute seen of first, which other code may read"


def test_an_output_that_is_written_through_stays():
    class View(nn.Module):
        def forward(self, x):
            return x.flatten(1), (x + 1).relu() * 2

    class Writes(Branch):
        def __init__(self) -> None:
            super().__init__()
            self.view = View()

        def forward(self, x):
            x = self.first(x)
            flat, other = self.view(x)
            if x.sum() < 1e9:
                flat.add_(1)  # x too
            return x + other

    module = partitioned(Writes(), image())
    assert "shares memory" in reason(module.report.plan, "view")


def test_other_shapes_run_in_pytorch():
    model = Branch().eval()
    module = partitioned(model, image())
    x = image(6)
    with pytest.warns(torch2edge.PartitionWarning) as warned:
        given = module(x)
    assert str(warned[0].message).startswith("first has an engine, but this call runs in PyTorch: args[0] is torch.float32")
    assert len(warned) == 2
    torch.testing.assert_close(given, model(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(x)
    assert module.report.calls == {"first": (1, 2), "second": (1, 2)}
    assert "first: 2 of 3 calls" in str(module.report)


def test_training_mode_runs_in_pytorch():
    module = partitioned(Branch(), image()).train()
    with pytest.warns(torch2edge.PartitionWarning, match="it is in training mode"):
        module(image()).sum().backward()
    assert module.module.first[0].weight.grad is not None


def test_options_reach_the_parts():
    model = Branch().eval()
    module = torch2edge.convert(model, [image()], fallback="torch", verify=False, tolerance=0.5)
    assert module.report.tolerance == 0.5
    assert str(module.report.engines["first"].check_text()).startswith("not checked")
    assert "not checked" in str(module.report)
    gpu = torch2edge.trt.DeviceType.GPU
    placed = torch2edge.convert(model, [image()], fallback="torch", device_types={"first.0": gpu, model.second: gpu})
    assert [m.device for m in placed.report.engines["second"].modules] == ["GPU"] * 3


def test_a_wrong_whole_is_told(monkeypatch):
    original = torch2edge.PartitionedModule.forward
    monkeypatch.setattr(torch2edge.PartitionedModule, "forward", lambda self, x: original(self, x) * 1.01)
    with pytest.raises(VerificationError, match="1 of 1 outputs are not the model's") as caught:
        torch2edge.convert(Branch().eval(), [image()], fallback="torch")
    assert caught.value.report.plan.engines == ["first", "second"]


def test_errors_of_the_call():
    model = Branch()
    with pytest.raises(TrainingModeError):
        torch2edge.plan(model.train(), [image()])
    model.eval()
    with pytest.raises(InputError, match="does not run on these inputs: RuntimeError"):
        torch2edge.plan(model, [torch.randn(1, 3, 8, 8)])
    with pytest.raises(ConfigError, match="fallback is 'tensorflow'"):
        torch2edge.convert(model, [image()], fallback="tensorflow")
    with pytest.raises(ConfigError, match="optimization_level"):
        torch2edge.convert(model, [image()], fallback="torch", optimization_level=9)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


def test_a_custom_autograd_function_converts_by_its_forward():
    class Custom(nn.Module):
        def forward(self, x):
            return Square.apply(x) + 1

    assert torch2edge.convert(Custom().eval(), [image()]).report.check[0].passed


@pytest.mark.filterwarnings("ignore:`torch.jit")  # of whichever category
def test_a_scripted_submodule_stays_and_is_named():
    model = Branch().eval()
    model.first = torch.jit.trace(Block().eval(), image())
    with pytest.raises(torch2edge.TraceError, match=r"the submodule first is a .*\(torch.jit\)"):
        torch2edge.convert(model, [image()])
    plan = torch2edge.plan(model, [image()])
    assert plan.engines == ["second"]
    assert "torch.jit" in reason(plan, "first")
    partitioned(model, image())


@UNCOMPILED
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_module_is_unwrapped():
    model = Branch().eval()
    model.first = torch.compile(model.first, backend="eager")
    assert torch2edge.plan(model, [image()]).engines == ["first", "second"]
    partitioned(model, image())
    assert torch2edge.convert(torch.compile(Block().eval()), [image()]).report.check[0].passed
    inside = nn.Sequential(torch.compile(Block()), nn.ReLU()).eval()
    assert torch2edge.convert(inside, [image()]).report.check[0].passed


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_quantized_submodule_is_named():
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), dtype=torch.qint8)
    with pytest.raises(torch2edge.TraceError, match=r"the submodule 0 is a torch.ao.nn.quantized.*Convert the float model"):
        torch2edge.convert(quantized, [torch.randn(2, 8)])
