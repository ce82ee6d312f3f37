"""The DLA's table: a row per rule. What is wrong here is corrected by editing a row of one of the three files below.

A layer goes to the DLA if its type has a row at all, and no row that applies complains. Sources, as rows cite them:

- S0, S3: NVIDIA's ONNX-to-TensorRT guide and its page on working with DLA.
- G84: TensorRT developer guide 8.4-EA. D: the guide of TensorRT 10 and 11. H86: NvInfer.h of 8.6 (H86..H111: to 11.1).
- DLASW: NVIDIA/Deep-Learning-Accelerator-SW. TUT: NVIDIA-AI-IOT/jetson_dla_tutorial.
- GH owner/name#number: a build log or an answer in that thread.
- RECALL: remembered, checked against nothing. INF: concluded from the others.
"""

from __future__ import annotations

from .rule import Rule
from .rules_general import FIRST, LAST
from .rules_layers import LAYERS
from .rules_windows import WINDOWS

__all__ = ["RULES", "TYPES", "UNSUPPORTED"]

#: For a layer type without a row.
UNSUPPORTED = "Layer '{name}' ({type}): Unsupported on DLA. Switching this layer's device type to GPU."

RULES: tuple[Rule, ...] = (*FIRST, *WINDOWS, *LAYERS, *LAST)

#: The layer types that the DLA takes, some of them in some settings only.
TYPES = frozenset(name for rule in RULES for name in rule.types)
