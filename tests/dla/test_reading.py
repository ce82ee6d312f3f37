"""Networks as plain layers: every attribute that is read is in every TensorRT, neighbours are right, nothing is left of it."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest
from support.dla_networks import Net
from support.trt_versions import VERSIONS, has

from torch2edge._trt import trt
from torch2edge.dla import reading
from torch2edge.dla.cbuf import banks_needed
from torch2edge.dla.reading import READERS, read


def attributes(function):
    """What a reader reads of its layer."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)).strip().rstrip(",").lstrip('"'))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "raw"}


def read_of(kind):
    """Attributes of one reader; a lambda's line has its own alone."""
    _, function = READERS[kind]
    if function.__name__ != "<lambda>":
        found = attributes(function)
        return found | (attributes(reading._padding) if "_padding(raw" in inspect.getsource(function) else set())
    table = ast.parse(inspect.getsource(reading)).body[-1].value
    lambdas = {key.value: value.elts[1] for key, value in zip(table.keys, table.values)}
    return {n.attr for n in ast.walk(lambdas[kind]) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "raw"}


@pytest.mark.parametrize("kind", READERS)
def test_every_attribute_is_in_every_version(kind):
    found = read_of(kind)
    assert found
    for version in VERSIONS:
        missing = {a for a in found if not has(version, READERS[kind][0], a)}
        assert not missing, f"TensorRT {version} has no {READERS[kind][0]}.{missing}"


def test_neighbours_and_what_is_folded_before_its_maker_stands():
    net = Net()
    x = net.relu(net.input(1, 2, 4, 4))
    layer = net.raw.add_convolution_nd(x, 3, (2, 2), trt.Weights())
    layer.set_input(1, net.constant(3, 2, 2, 2))  # stands behind the layer that reads it
    net.test(layer, then_relu=True)
    first, tested, constant, last = read(net.raw)
    assert [layer.folded for layer in (first, tested, constant, last)] == [False, False, True, False]
    assert tested.makers == [first]
    assert tested.readers == [last]
    assert first.readers == [tested]
    assert [t.name for t in tested.data] == [first.outputs[0].name]
    assert tested.inputs[1].constant
    assert last.outputs[0].output
    assert not tested.outputs[0].output
    assert tested.options["kernel"] == (2, 2)
    assert first.outputs[0].shape == (1, 2, 4, 4)


def test_paddings_that_tensorrt_computes():
    net = Net()
    layer = net.convolution(net.input(1, 1, 80, 80), kernel=(32, 3))
    layer.padding_mode = trt.PaddingMode.SAME_UPPER
    net.test(layer)
    assert read(net.raw)[0].options["padding"] == (16, 1)
    assert net.row().device == "DLA"


def test_a_fixed_shape_is_folded_and_an_open_one_is_not():
    for size, folded in ((2, True), (-1, False)):
        net = Net()
        x = net.input(size, 3)
        shape = net.raw.add_shape(x)
        net.output(net.raw.add_cast(shape.get_output(0), trt.DataType.FLOAT).get_output(0))
        assert [layer.folded for layer in read(net.raw)] == [folded, folded]


def test_nothing_of_the_network_is_held():
    net = Net()
    net.output(net.relu(net.input(1, 2, 3, 4)))
    (layer,) = read(net.raw)
    values = [layer.name, layer.type, *layer.options.values(), *(v for t in layer.inputs for v in vars(t).values())]
    assert not any(type(v).__module__.startswith("tensorrt") for v in values)


def test_the_convolution_buffer_by_the_guides_formula():
    """RetinaNet-ResNet34's stem at 1280x768 in INT8 takes 1 + 9 banks, and NVIDIA runs it on the DLA."""
    assert banks_needed(3, 1280, (7, 7), (1, 1), 1) == 10
    assert banks_needed(3, 1280, (7, 7), (2, 1), 1) == 1 + 17  # 13 rows of 320 entries
    assert banks_needed(2048, 7, (3, 3), (1, 1), 2) == 2 + 3
