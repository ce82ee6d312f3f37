"""A user's library, and converters in the manner of torch2trt's users."""

from __future__ import annotations

from support.rows import Function
from torch2edge._trt import trt
from torch2edge.integrations.torch2trt import torch2trt

LIBRARY = """
import torch
def scaled(x, factor, bias=0.0):
    return torch.special.bessel_j0(x) * factor + bias  # no engine computes this
def both(x, y=None):
    return {"sum": x + y, "parts": (x, [x - y, y.relu()])}
class Gate:
    def __call__(self, x):
        return torch.special.bessel_j0(x)
    @staticmethod
    def fixed(x):
        return torch.special.bessel_j0(x)
class Block(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(width))
    def forward(self, x, y):
        return torch.special.bessel_j0(x) + self.weight * y
class Sub(Block):
    pass
class Other(Block):
    def forward(self, x, y):
        return x - y
"""


def relu_layer(ctx, position=0):
    x = ctx.method_args[position]
    ctx.method_return._trt = ctx.network.add_activation(input=x._trt, type=trt.ActivationType.RELU).get_output(0)


def convert(function, *inputs, held=(), **options):
    return torch2trt(Function(function, *held).eval(), list(inputs), **options)
