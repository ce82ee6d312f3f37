"""Blocks of transformers: position biases, rotary embeddings, masks made in the forward, caches, windows."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from support.torch_features import where_torch_has

__all__ = ["BLOCKS"]


def heads(x: torch.Tensor, count: int) -> torch.Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)"""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


class RMSNorm(nn.Module):
    """As written out in many language models."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(dim, hidden, False), nn.Linear(dim, hidden, False)
        self.down = nn.Linear(hidden, dim, False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class FusedGates(nn.Module):
    """Gates of one projection, by chunk, by F.glu and with GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(12, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.project(x).chunk(2, dim=-1)
        return F.gelu(a, approximate="tanh") * b + F.glu(self.project(x), -1)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    """The two halves of the last axis, turned by 90 degrees."""
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


class Rotary(nn.Module):
    """Rotary attention with grouped queries, causal by a mask made in the forward (LLaMA)."""

    def __init__(self, dim: int = 32, heads: int = 4, groups: int = 2) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, dim // heads
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * groups * self.size)
        self.norm, self.feed = RMSNorm(dim), SwiGLU(dim, 48)
        self.register_buffer("frequencies", 1 / 10000 ** (torch.arange(0, self.size, 2).float() / self.size))

    def turn(self, x: torch.Tensor) -> torch.Tensor:
        angles = torch.outer(torch.arange(x.shape[-2]).float(), self.frequencies)
        angles = torch.cat((angles, angles), -1)
        return x * angles.cos().to(x.dtype) + rotate_half(x) * angles.sin().to(x.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[1]
        y = self.norm(x)
        q, (k, v) = heads(self.q(y), self.heads), (heads(t, self.groups) for t in self.kv(y).chunk(2, -1))
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (self.turn(k), v))
        mask = torch.full((n, n), float("-inf"), dtype=x.dtype).triu(1)
        scores = self.turn(q) @ k.transpose(-2, -1) / math.sqrt(self.size) + mask
        x = x + (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return x + self.feed(x)


class GroupedQueries(nn.Module):
    """F.scaled_dot_product_attention with fewer keys than queries, rotary pairs interleaved."""

    def turn(self, x: torch.Tensor) -> torch.Tensor:
        n, d = x.shape[-2:]
        angles = torch.arange(n)[:, None] / 100 ** (torch.arange(0, d, 2) / d)
        even, odd = x[..., ::2], x[..., 1::2]
        turned = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
        return torch.stack(turned, -1).flatten(-2)

    def forward(self, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(self.turn(q), self.turn(kv), kv, is_causal=True, enable_gqa=True)


class T5Bias(nn.Module):
    """T5's relative attention bias: buckets of distances, logarithmic beyond half of them."""

    def __init__(self, buckets: int = 8, heads: int = 2, bidirectional: bool = True) -> None:
        super().__init__()
        self.buckets, self.bidirectional = buckets, bidirectional
        self.bias = nn.Embedding(buckets, heads)

    def bucket(self, distance: torch.Tensor) -> torch.Tensor:
        count, result = self.buckets, torch.zeros_like(distance)
        if self.bidirectional:
            count //= 2
            result = result + (distance > 0).long() * count
            distance = distance.abs()
        else:
            distance = -torch.min(distance, torch.zeros_like(distance))
        exact = count // 2
        far = exact + (torch.log(distance.float() / exact) / math.log(16 / exact) * (count - exact)).long()
        far = torch.min(far, torch.full_like(far, count - 1))
        return result + torch.where(distance < exact, distance, far)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[-2]
        distance = torch.arange(n)[None] - torch.arange(n)[:, None]
        bias = self.bias(self.bucket(distance)).permute(2, 0, 1)[None]
        return (x @ x.transpose(-2, -1) + bias).softmax(-1) @ x


class T5Positions(T5Bias):
    """The same with positions that are an input, so that the buckets are computed in the engine.

    Without the clamp the logarithm of 0 would be cast to an integer, which neither PyTorch nor TensorRT defines.
    """

    def bucket(self, distance: torch.Tensor) -> torch.Tensor:
        near = self.buckets // 4
        far = near + (torch.log(distance.abs().clamp(min=1) / near) / math.log(16 / near) * near).long()
        size = torch.where(distance.abs() < near, distance.abs(), far.clamp(max=2 * near - 1))
        return (distance > 0).long() * 2 * near + size

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        bias = self.bias(self.bucket(positions[None] - positions[:, None])).permute(2, 0, 1)[None]
        return (x @ x.transpose(-2, -1) + bias).softmax(-1) @ x


class ALiBi(nn.Module):
    """Linear biases, slopes in a geometric series, and a causal mask by tril."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, n = x.shape[1:3]
        slopes = torch.pow(2.0, -8 * torch.arange(1, h + 1) / h).view(h, 1, 1)
        bias = slopes * (torch.arange(n)[None] - torch.arange(n)[:, None])
        scores = x @ x.transpose(-2, -1) + bias.to(x.dtype)
        keep = torch.tril(torch.ones(n, n)).view(1, 1, n, n)
        return scores.masked_fill(keep == 0, torch.finfo(x.dtype).min).softmax(-1) @ x


class Padded(nn.Module):
    """A padding mask of ones and zeros, as tokenizers give it, made additive and causal (GPT-2, BERT)."""

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        n = x.shape[-2]
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        causal = torch.triu(torch.ones(n, n, dtype=torch.bool), diagonal=1)
        mask = mask.expand(-1, 1, n, n).masked_fill(causal, torch.finfo(x.dtype).min)
        return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


class Cache(nn.Module):
    """One step of decoding: the new key and value after those of before; all three come out."""

    def __init__(self, dim: int = 16, count: int = 2) -> None:
        super().__init__()
        self.count, self.qkv = count, nn.Linear(dim, 3 * dim)

    def forward(
        self, x: torch.Tensor, past: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        q, k, v = (heads(t, self.count) for t in self.qkv(x).split(x.shape[-1], -1))
        k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), (k, v)


class StaticCache(nn.Module):
    """A cache of fixed length, written at a position that is an input."""

    def forward(self, cache: torch.Tensor, new: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        cache = cache.index_copy(2, position, new)
        visible = torch.arange(cache.shape[2])[None] <= position[:, None]
        return F.scaled_dot_product_attention(new, cache, cache, attn_mask=visible[None, None])


class Window(nn.Module):
    """Swin's shifted windows with its table of relative positions and its mask between regions."""

    def __init__(self, dim: int = 8, size: int = 4, shift: int = 2, count: int = 2) -> None:
        super().__init__()
        self.size, self.shift, self.count = size, shift, count
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.linspace(-1, 1, (2 * size - 1) ** 2 * count).reshape(-1, count))
        places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        between = (places[:, :, None] - places[:, None]).permute(1, 2, 0) + size - 1
        self.register_buffer("index", between[..., 0] * (2 * size - 1) + between[..., 1])

    def windows(self, x: torch.Tensor) -> torch.Tensor:
        b, h, w, c = x.shape
        x = x.view(b, h // self.size, self.size, w // self.size, self.size, c)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, self.size**2, c)

    def regions(self, h: int, w: int) -> torch.Tensor:
        regions, count = torch.zeros(1, h, w, 1), 0
        for rows in (slice(0, -self.size), slice(-self.size, -self.shift), slice(-self.shift, None)):
            for columns in (slice(0, -self.size), slice(-self.size, -self.shift), slice(-self.shift, None)):
                regions[:, rows, columns] = count
                count += 1
        flat = self.windows(regions).squeeze(-1)
        apart = flat[:, None] - flat[:, :, None]
        return apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0).to(self.table.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, h, w, c = x.shape
        y = self.windows(torch.roll(x, (-self.shift, -self.shift), (1, 2)))
        q, k, v = self.qkv(y).reshape(-1, self.size**2, 3, self.count, c // self.count).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(self.size**2, self.size**2, -1).permute(2, 0, 1)
        scores = q @ k.transpose(-2, -1) + bias[None]
        mask = self.regions(h, w)
        scores = (scores.view(b, len(mask), *scores.shape[1:]) + mask[None, :, None]).view(-1, *scores.shape[1:])
        y = self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, self.size**2, c))
        y = y.view(b, h // self.size, w // self.size, self.size, self.size, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return x + torch.roll(y, (self.shift, self.shift), (1, 2))


class Decomposed(nn.Module):
    """SAM's relative positions: a bias of rows plus one of columns, by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = (nn.Parameter(torch.linspace(a, 1, 7 * 8).reshape(7, 8)) for a in (-1, 0))

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        index = torch.arange(4)[:, None] - torch.arange(4)[None] + 3
        grid = q.unflatten(1, (4, 4))
        by_row = torch.einsum("bhwc,hkc->bhwk", grid, self.rows[index])
        by_column = torch.einsum("bhwc,wkc->bhwk", grid, self.columns[index])
        scores = (q @ q.transpose(-2, -1)).view(-1, 4, 4, 4, 4) + by_row[..., None] + by_column[..., None, :]
        return scores.view(-1, 16, 16).softmax(-1) @ q


def tokens(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


BLOCKS = {
    "rms_norm": (RMSNorm(12), [tokens(2, 5, 12)]),
    "swiglu": (SwiGLU(12, 20), [tokens(2, 5, 12)]),
    "fused_gates": (FusedGates(), [tokens(2, 5, 12)]),
    "rotary": (Rotary(), [tokens(2, 7, 32)]),
    **dict(
        where_torch_has(
            "aten.scaled_dot_product_attention.default",
            "enable_gqa",
            [
                ("grouped_queries", (GroupedQueries(), [tokens(1, 4, 6, 8), tokens(1, 2, 6, 8)])),
            ],
        )
    ),
    "t5_bias": (T5Bias(), [tokens(1, 2, 20, 4)]),
    "t5_bias_causal": (T5Bias(bidirectional=False), [tokens(1, 2, 20, 4)]),
    "t5_positions": (T5Positions(), [tokens(1, 2, 12, 4), torch.arange(12)]),
    "alibi": (ALiBi(), [tokens(2, 4, 6, 8)]),
    "padding_mask": (Padded(), [tokens(2, 2, 5, 4), torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])]),
    "kv_cache": (Cache(), [tokens(1, 1, 16), (tokens(1, 2, 5, 8), tokens(1, 2, 5, 8))]),
    "static_cache": (StaticCache(), [tokens(1, 2, 8, 4), tokens(1, 2, 1, 4), torch.tensor([3])]),
    "window": (Window(), [tokens(2, 8, 12, 8)]),
    "decomposed_positions": (Decomposed(), [tokens(2, 16, 8)]),
    "encoder_layer": (nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=True), [tokens(2, 5, 16)]),
    "decoder_layer": (nn.TransformerDecoderLayer(16, 2, 24), [tokens(5, 2, 16), tokens(3, 2, 16)]),
}
