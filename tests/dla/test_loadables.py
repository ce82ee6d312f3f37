"""Subgraphs of the DLA: connected, runnable as a whole, by turns; of generated networks too."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from support.dla_networks import Net

from torch2edge._trt import trt
from torch2edge.dla import Setting
from torch2edge.dla.loadables import LIMITS, keep, limit_of
from torch2edge.dla.planner import plan_layers
from torch2edge.dla.reading import read

SHAPE = (1, 4, 6, 6)
ON, OFF = trt.UnaryOperation.ABS, trt.UnaryOperation.NEG  # the DLA has no NEG


def step(net, name, x, on=True):
    """A layer that the DLA takes, or one that it does not."""
    layer = net.raw.add_unary(x, ON if on else OFF)
    layer.name = name
    return layer.get_output(0)


def join(net, name, *tensors):
    layer = net.raw.add_elementwise(*tensors, trt.ElementWiseOperation.SUM)
    layer.name = name
    return layer.get_output(0)


def loadables(net, **at):
    return net.plan(**at).loadables


def test_a_layer_on_the_gpu_cuts():
    net = Net()
    x = step(net, "a", net.input(*SHAPE))
    x = step(net, "gpu", x, on=False)
    net.output(step(net, "c", step(net, "b", x)))
    assert loadables(net) == [["a"], ["b", "c"]]


def test_a_way_around_over_the_gpu_keeps_two_apart():
    """a -> gpu -> b and a -> b: as one subgraph it would have to stop for the GPU."""
    net = Net()
    a = step(net, "a", net.input(*SHAPE))
    net.output(join(net, "b", a, step(net, "gpu", a, on=False)))
    assert loadables(net) == [["a"], ["b"]]


def test_a_residual_on_the_dla_is_one():
    net = Net()
    a = step(net, "a", net.input(*SHAPE))
    net.output(join(net, "c", a, step(net, "b", a)))
    assert loadables(net) == [["a", "b", "c"]]


def test_a_way_out_to_the_gpu_that_does_not_come_back_is_no_hindrance():
    net = Net()
    a = step(net, "a", net.input(*SHAPE))
    net.output(step(net, "gpu", a, on=False))
    net.output(step(net, "b", a))
    assert loadables(net) == [["a", "b"]]


def test_two_groups_meet_in_one_layer():
    net = Net()
    left = step(net, "left", step(net, "gpu1", net.input(*SHAPE), on=False))
    right = step(net, "right", step(net, "gpu2", net.input(*SHAPE), on=False))
    net.output(join(net, "both", left, right))
    assert loadables(net) == [["left", "right", "both"]]


def test_a_layer_that_is_ready_early_is_in_an_early_subgraph():
    """As pe/conv of a YOLO11: what reads it waits for the GPU once more."""
    net = Net()
    a = step(net, "a", net.input(*SHAPE))
    early = step(net, "early", step(net, "gpu1", a, on=False))
    late = step(net, "gpu3", step(net, "b", step(net, "gpu2", a, on=False)), on=False)
    net.output(step(net, "d", join(net, "c", early, late)))
    assert loadables(net) == [["a"], ["early"], ["b"], ["c", "d"]]


def test_what_the_gpu_makes_of_inputs_comes_first():
    net = Net()
    a = step(net, "a", net.input(*SHAPE))
    net.output(join(net, "b", a, step(net, "gpu", net.input(*SHAPE), on=False)))
    assert loadables(net) == [["a", "b"]]


def test_disconnected_layers_are_of_their_own():
    net = Net()
    x = step(net, "gpu", net.input(*SHAPE), on=False)
    for name in "ab":
        net.output(step(net, name, x))
    assert loadables(net) == [["a"], ["b"]]


def test_layers_of_two_batches_are_apart():
    """No layer that the rules let through changes the batch, so the shape is changed by hand."""
    net = Net()
    net.output(step(net, "c", step(net, "b", step(net, "a", net.input(2, 4, 6, 6)))))
    layers = read(net.raw)
    assert plan_layers(layers, Setting()).loadables == [["a", "b", "c"]]
    for layer in layers[1:]:
        layer.outputs = (replace(layer.outputs[0], shape=(4, 2, 6, 6)),)
    assert plan_layers(layers, Setting()).loadables == [["a"], ["b", "c"]]


# ---- generated networks -------------------------------------------------------------------------------------------------


def generated(seed):
    """A random directed graph of layers with one or two operands."""
    rng, net = random.Random(seed), Net()
    tensors = [net.input(*SHAPE)]
    for number in range(rng.randint(8, 28)):
        share = rng.choice((0.2, 0.5))
        x = rng.choice(tensors[-6:])
        if rng.random() < 0.4 and len(tensors) > 2:
            y = rng.choice(tensors)
            tensors.append(join(net, f"{number}", x, y))
        else:
            tensors.append(step(net, f"{number}", x, on=rng.random() > share))
    net.output(tensors[-1])
    net.output(net.relu(tensors[len(tensors) // 2]))
    return net


@pytest.mark.parametrize("seed", range(40))
def test_generated_networks(seed):
    net = generated(seed)
    layers = read(net.raw)
    names = {layer.name: layer.index for layer in layers}
    plan = plan_layers(layers, Setting())
    groups = [[names[name] for name in group] for group in plan.loadables]
    on_dla = [names[row.name] for row in plan.layers if row.device == "DLA"]
    assert sorted(index for group in groups for index in group) == sorted(on_dla)
    assert groups == sorted(groups)
    home = {index: number for number, group in enumerate(groups) for index in group}
    for group in groups:
        members = set(group)
        assert group == sorted(group)
        # connected: from its first layer every other one is reached along edges inside
        seen, todo = set(), [group[0]]
        while todo:
            index = todo.pop()
            if index not in seen:
                seen.add(index)
                near = [*layers[index].makers, *layers[index].readers]
                todo += [other.index for other in near if other.index in members]
        assert seen == members
    # runnable: groups and single layers, as units, have no cycle
    units = {layer.index: home.get(layer.index, f"gpu {layer.index}") for layer in layers}
    before = {unit: set() for unit in units.values()}
    for layer in layers:
        for maker in layer.makers:
            if units[maker.index] != units[layer.index]:
                before[units[layer.index]].add(units[maker.index])
    while ready := [unit for unit, needs in before.items() if not needs]:
        for unit in ready:
            del before[unit]
        for needs in before.values():
            needs.difference_update(ready)
    assert not before, "the subgraphs wait for each other"


@pytest.mark.parametrize("seed", range(40))
def test_generated_networks_by_taking_turns(seed):
    """The definition, step by step: the GPU runs all that it can, then the DLA all that it can, until nothing is left."""
    net = generated(seed)
    layers = read(net.raw)
    plan = plan_layers(layers, Setting())
    on_dla = {row.name for row in plan.layers if row.device == "DLA"}
    done, expected, turn = set(), [], 0
    while len(done) < len(layers):
        ran = set()
        while ready := [
            x for x in layers
            if x.index not in done and (x.name in on_dla) is bool(turn % 2) and all(m.index in done for m in x.makers)
        ]:  # fmt: skip
            done |= {x.index for x in ready}
            ran |= {x.index for x in ready}
        while turn % 2 and ran:
            todo, group = [min(ran)], set()
            while todo:
                index = todo.pop()
                if index in ran and index not in group:
                    group.add(index)
                    todo += [n.index for n in (*layers[index].makers, *layers[index].readers)]
            expected.append([layers[index].name for index in sorted(group)])
            ran -= group
        turn += 1
    assert sorted(plan.loadables) == sorted(expected)


# ---- how many -----------------------------------------------------------------------------------------------------------


def islands(count, wide=()):
    """As many subgraphs of one layer, or of two for the numbers in ``wide``, with the GPU between them."""
    net = Net()
    x = net.input(*SHAPE)
    for number in range(count):
        x = step(net, f"{number}", x)
        if number in wide:
            x = step(net, f"{number}+", x)
        x = step(net, f"gpu {number}", x, on=False)
    net.output(x)
    return net


@pytest.mark.parametrize(("version", "most"), [("8.6", 16), ("10.3", 16), ("8.4", 5), ("8.2", 8)])
def test_more_subgraphs_than_a_core_takes(version, most):
    assert limit_of(Setting(tensorrt=version)).count == most
    assert len(islands(most).plan(tensorrt=version).loadables) == most
    plan = islands(most + 1).plan(tensorrt=version)
    assert len(plan.loadables) == most
    left = [row for row in plan.layers if row.rule == "loadables-per-core"]
    assert [row.name for row in left] == [str(most)]
    assert left[0].reason == f"DLA supports only {most} subgraphs per DLA core. Switching to GPU for layer {most}"
    assert left[0].device == "GPU"


def test_larger_subgraphs_stay_before_smaller_ones():
    """GH marcoslucianops/DeepStream-Yolo#27: conv_6 and conv_8 go, conv_11 with the layers before it stays."""
    plan = islands(20, wide=(18, 19)).plan(tensorrt="8.6")
    assert [names[0] for names in plan.loadables] == [str(n) for n in (*range(14), 18, 19)]


def test_every_row_of_the_limits_is_reached():
    found = {limit_of(Setting(tensorrt=version)).count for version in ("7.1", "8.4.1", "8.5", "10.7", "11.4.1")}
    assert found == {row.count for row in LIMITS}
    assert keep([], {}, 3) == []
