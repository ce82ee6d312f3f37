"""What would keep a layer on the DLA: by the rule that it breaks, or where that says little by its type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Row

__all__ = ["advice_for", "advice_text"]

REWRITTEN = "dla_rewrites=True does it for a module, and keeps the function"

BY_RULE = {
    "static-shapes": "convert with fixed sizes",
    "precision-allowed": "add fp16=True, or int8=True with a calibration",
    "batch": "convert for a smaller batch",
    "batch-before-8.4": "convert for a batch of at most 32",
    "convolution-cbuf": "fewer input channels, a narrower image, a smaller kernel or dilation, or INT8 in place of FP16",
    "convolution-groups": "fewer groups",
    "convolution-padding-kernel": "pad less than the kernel, or pad before by another convolution",
    "convolution-dilation": "a dilation of at most 32",
    "convolution-stride": "a stride of at most 8, or two convolutions",
    "deconvolution-padding": (
        "nn.ConvTranspose2d with padding 0 (kernel equal to stride gives the same sizes), or nn.Upsample(mode='nearest') and "
        "a convolution; then fine-tune"
    ),
    "deconvolution-groups": "groups=1, or nn.Upsample(mode='nearest') and a grouped convolution; then fine-tune",
    "deconvolution-dilation": "dilation=1; then fine-tune",
    "pooling-window": "a chain of windows of at most 8 x 8",
    "pooling-inclusive": "nn.AvgPool2d(count_include_pad=True), or no padding",
    "activation-op": (
        "nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh or nn.SiLU (a sigmoid and a product); then fine-tune"
    ),
    "unary-op": (
        "nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh or nn.SiLU in place of activations made of exp, erf or log "
        "(GELU, ELU, Mish); then fine-tune"
    ),
    "clip-low": "nn.ReLU6, or nn.Hardtanh(0, n) with n from 1 to 127",
    "clip-high": "nn.ReLU6, or nn.Hardtanh(0, n) with n from 1 to 127",
    "elementwise-op": "multiply by a reciprocal in place of a division, by itself in place of a power",
    "elementwise-broadcast": "operands of equal shapes, or of (N, C, 1, 1)",
    "concat-axis": "concatenate along the channels",
    "concat-inputs": "leave the concatenation of one tensor out",
    "resize-whole": "whole scale factors",
    "resize-linear": "a scale of at most 4, or mode='nearest'",
    "resize-nearest": "a scale of at most 32, or two of them",
    "resize-mode": "mode='nearest' or 'bilinear'",
    "resize-linear-rounding": "align_corners=False",
    "slice-4d": "slice images (N, C, H, W), before they are flattened",
    "slice-mode": "no slices beyond the borders: pad in a convolution",
    "slice-stride": "a strided convolution or a pooling in place of a strided slice",
    "slice-batch": "slice channels, not the batch",
    "shuffle-4d": (
        "keep (N, C, H, W) as long as layers follow: 1 x 1 convolutions in place of flatten and linear; a reshape at the end "
        "can be done outside of the engine"
    ),
    "matmul-constant": "products of two activations (attention) belong on the GPU: give it the whole block with device_types",
    "reduce-version": "nn.AvgPool2d with windows of at most 8 x 8 in place of a mean over the image",
    "reduce-op": "nn.AvgPool2d with windows of at most 8 x 8 in place of a mean over the image",
    "explicit-quantization": "convert the float model with int8=True and a calibration",
    "dimensions": "sizes of at most 8192: split the tensor",
    "matmul-channels": "at most 8192 features: pool more before, or split the layer",
    "two-spatial-dims": "keep (N, C, H, W): 1 x 1 convolutions in place of flatten and linear",
    "softmax-xavier": "leave softmax out of the engine, or to the GPU at its end",
    "loadables-per-core": "give islands of one or two layers to the GPU with device_types, so that the larger ones fit",
}
BY_TYPE = {
    "NORMALIZATION": (
        "nn.BatchNorm2d in place of GroupNorm, InstanceNorm or LayerNorm (it becomes part of the convolution); then fine-tune"
    ),
    "PLUGIN_V2": "nn.BatchNorm2d in place of InstanceNorm and GroupNorm; other plugins run on the GPU only",
    "GATHER": "split channels by slices, or select them by a 1 x 1 convolution",
    "PADDING": "the padding of the convolution that follows",
    "TOPK": "leave it to the GPU at the end of the network",
    "SELECT": "products with a mask in place of torch.where",
}

#: Where ``dla_rewrites`` does what is advised: rule, or type of a layer -> for what.
BY_REWRITING = {
    "pooling-window": "for a pooling over the whole image",
    "activation-op": "for a hardsigmoid or hardswish in a head behind an image",
    "slice-mode": "for zeros in front of a convolution",
    "shuffle-4d": "for linear layers behind an image of at most 8192 channels, 32 high and wide",
    "reduce-version": "for sizes whose factors are at most 8",
    "reduce-op": "for sizes whose factors are at most 8",
    "matmul-channels": "for a flattened image of at most 8192 channels, 32 high and wide",
    "two-spatial-dims": "for a head behind an image of at most 8192 channels, 32 high and wide",
    "PADDING": "for zeros",
}


def advice_for(row: Row, *, rewritten: bool = False) -> str:
    """How a layer could stay on the DLA; "" for one that does, that was asked to be on the GPU, or without advice.

    Args:
        rewritten: the network is of a graph that went through ``dla_rewrites`` already.
    """
    if row.device == "DLA" or row.rule == "device-types":
        return ""
    general = row.rule.rpartition("-")[0]  # elementwise-op-8.4 is elementwise-op of some versions
    advice = BY_RULE.get(row.rule) or BY_RULE.get(general) or BY_TYPE.get(row.type, "")
    where = "" if rewritten else _rewritten_where(row)
    return f"{advice} ({where} {REWRITTEN})" if where else advice


def _rewritten_where(row: Row) -> str:
    """For what ``dla_rewrites`` does it; "" for what it cannot."""
    if row.rule == "activation-op" and "HARD_SIGMOID" not in row.reason:
        return ""
    return BY_REWRITING.get(row.rule) or BY_REWRITING.get(row.type, "")


def advice_text(rows: Sequence[Row], *, rewritten: bool = False) -> list[str]:
    """A line for each piece of advice, with the layers that it is for; ``rewritten`` as for ``advice_for``."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if advice := advice_for(row, rewritten=rewritten):
            found.setdefault(advice, []).append(row.name)
    return [f"to keep {_listed(names)} on the DLA: {advice}" for advice, names in found.items()]


def _listed(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
