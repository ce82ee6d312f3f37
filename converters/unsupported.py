"""Ops that have no converter on purpose, and why: for the error that refuses them and for README.md.

Names are without namespace and overload. Some are refused while the model is traced, the others before the network is made.
"""

from __future__ import annotations

from torch2edge.lower.registry import registry

__all__ = ["UNSUPPORTED"]

_RANDOM = "random: an engine would repeat one draw for ever; draw outside and pass it in as an input"
_SIZES = "the size of its result depends on the data, not on the input shapes alone; compute with a mask (torch.where)"
_MATRIX = (
    "TensorRT has no such algorithm for matrices; of constants it is computed while tracing, of an input compute it outside"
)
_SERIES = "it is no combination of the functions that TensorRT has, and an approximation would not be exact for all arguments"
_BITS = "it works on the bits of floats"
_SHAPE = "it changes the shape of a tensor in place; use x.flatten()[:n].reshape(...)"
_LOOP = "the number of its steps depends on the data"
_BOXES = "the number of boxes kept depends on the data; call it on the engine's outputs"
_BINS = "TensorRT has no counts by value, and no bounds of the bins that an engine could compute exactly; count outside"
_WINDOWS = (
    "its windows are as large as the boxes, which depend on the data; torchvision.ops.roi_align with a sampling_ratio does"
)
_PACKED = "a packed sequence has a batch that shrinks from step to step; run the layer on the padded batch"
_MOST = "the most frequent element: TensorRT has no counts by value; count outside"

UNSUPPORTED = {
    **dict.fromkeys(
        ["bernoulli", "exponential", "multinomial", "normal", "rand", "rand_like", "randint", "randint_like", "randn",
         "randn_like", "randperm"], _RANDOM,
    ),
    **dict.fromkeys(
        ["_unique2", "bincount", "masked_select", "nonzero", "unique_consecutive", "unique_dim"], _SIZES,
    ),
    **dict.fromkeys(
        ["_linalg_det", "_linalg_eigh", "_linalg_slogdet", "_linalg_solve_ex", "_linalg_svd", "cholesky", "linalg_cholesky_ex",
         "linalg_eig", "linalg_inv_ex", "linalg_lstsq", "linalg_lu_factor_ex", "linalg_matrix_exp", "linalg_pinv", "linalg_qr",
         "linalg_solve_triangular", "triangular_solve"], _MATRIX,
    ),
    **dict.fromkeys(
        ["digamma", "i0", "igamma", "igammac", "lgamma", "polygamma", "special_bessel_j0", "special_bessel_j1", "special_i0e",
         "special_i1", "special_i1e", "special_zeta"], _SERIES,
    ),
    **dict.fromkeys(["frexp", "nextafter"], _BITS),
    **dict.fromkeys(["resize", "resize_"], _SHAPE),
    **dict.fromkeys(["gcd", "lcm"], _LOOP),
    **dict.fromkeys(["histc", "histogram"], _BINS),
    **dict.fromkeys(["roi_pool", "ps_roi_pool"], _WINDOWS),
    "mode": _MOST,
    "nms": _BOXES,
    "_pack_padded_sequence": _PACKED,
}  # fmt: skip

registry().refuse(UNSUPPORTED)
