# ruff: noqa: SIM905
"""Ops that stay in float32 where the rest of a model is computed in half or bfloat16, and why.

The list is torch.amp's "CUDA Ops that can autocast to float32" (https://docs.pytorch.org/docs/stable/amp.html), without the
losses, and with what shares its reasons. Names are ATen's, without overloads.
"""

from __future__ import annotations

__all__ = ["FLOAT32_OPS", "MOVES"]

_GROWS = "it leaves half's range soon (65504), or amplifies the error of what it is given"
_ADDS = "it adds up many elements: rounding adds up too, and sums leave half's range"
_DIVIDES = "it divides by a sum or a deviation, which half rounds to zero or to infinity first"
_INTEGERS = "half is exact for integers up to 2048 only, bfloat16 up to 256"
_SMALL = "differences of nearly equal numbers: half has three digits"

#: name -> reason
FLOAT32_OPS: dict[str, str] = {
    **dict.fromkeys(
        """
        exp exp2 expm1 log log2 log10 log1p pow float_power sinh cosh tan acos asin atan atan2
        acosh asinh atanh erfinv special_erfinv reciprocal rsqrt square softplus logit log_sigmoid hypot sin cos
        fft_fft lgamma digamma mish
        """.split(),
        _GROWS,
    ),
    **dict.fromkeys(
        """
        softmax _softmax _safe_softmax log_softmax _log_softmax layer_norm native_layer_norm group_norm
        native_group_norm instance_norm rms_norm _fused_rms_norm norm linalg_vector_norm
        linalg_matrix_norm renorm cosine_similarity var var_mean std std_mean _native_batch_norm_legit
        """.split(),
        _DIVIDES,
    ),
    **dict.fromkeys(
        """
        sum prod cumsum cumprod logsumexp logcumsumexp nansum mean nanmean trace dist _euclidean_dist
        """.split(),
        _ADDS,
    ),
    **dict.fromkeys(
        """
        cdist _cdist_forward pdist _pdist_forward frac fmod remainder
        """.split(),
        _SMALL,
    ),
    **dict.fromkeys(
        """
        arange linspace floor_divide grid_sampler grid_sampler_2d grid_sampler_3d affine_grid_generator
        bucketize searchsorted
        """.split(),
        _INTEGERS,
    ),
}

#: Ops that hand on elements as they are, or choose among them, and are computed in the precision of what they are given.
MOVES = set(
    """
    _unsafe_view alias amax amin argmax argmin argsort cat channel_shuffle chunk clone constant_pad_nd contiguous
    copy detach diagonal expand flatten flip gather im2col index index_put index_select masked_fill masked_scatter
    max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices min movedim narrow pad
    permute pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat
    repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape roll scatter select
    select_scatter slice slice_scatter sort split split_with_sizes squeeze stack t take_along_dim tile topk
    transpose tril triu unbind unflatten unfold unsqueeze upsample_nearest1d upsample_nearest2d upsample_nearest3d
    view where
    """.split()
)
