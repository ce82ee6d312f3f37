"""Every registered converter has rows; check_row asserts of each row that its converter was called."""

from __future__ import annotations

from support.tables import all_dynamic_rows, all_rows
from support.torch_features import LACKING

from torch2edge.lower import registry

# PyTorch has these kernels for GPUs only, so a row cannot call them on the CPU: test_coverage_lists.py converts them, and
# compares with F.scaled_dot_product_attention.
GPU_KERNELS = {f"aten._scaled_dot_product_{kind}_attention.default" for kind in ("cudnn", "efficient", "flash")}


def test_every_registered_op_has_rows() -> None:
    tested = {str(row.op) for row in (*all_rows(), *all_dynamic_rows())}
    missing = {str(target) for target in registry().all()} - tested
    untestable = GPU_KERNELS | LACKING
    assert missing == untestable, f"converters without a row: {sorted(missing - untestable)}"
