"""Blocks of convolutional and audio networks: gates, pyramids, skips, normalizations, temporal convolutions."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["BLOCKS"]


class SqueezeExcite(nn.Module):
    """A gate per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class CBAM(nn.Module):
    """Gates per channel and per place, from averages and maxima."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(channels, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, channels, 1, bias=False))
        self.place = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * torch.sigmoid(self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1)))
        both = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.place(both))


class DropPath(nn.Module):
    """Stochastic depth: nothing in eval mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        return x * torch.rand(len(x), 1, 1, 1).round()


class ConvNeXt(nn.Module):
    """Depthwise 7x7, layer norm over channels last, layer scale, stochastic depth."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(dim, dim, 7, padding=3, groups=dim), nn.LayerNorm(dim, eps=1e-6)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.scale, self.drop = nn.Parameter(torch.linspace(0.1, 1, dim)), DropPath()

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.up(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.middle(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + self.drop((self.scale * self.down(y)).permute(0, 3, 1, 2))


class ConvNeXtV2(ConvNeXt):
    """With global response normalization."""

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        y = super().middle(x)
        size = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
        return y + 0.5 * y * (size / (size.mean(-1, keepdim=True) + 1e-6)) - 0.1


class UNet(nn.Module):
    """Odd sizes: the skips are padded to, or resized by, what they meet."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.low = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 6), (6, 8), (8, 8)))
        self.up, self.back, self.out = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(16, 6, 3, padding=1), nn.Conv2d(12, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.one(x))
        b = F.relu(self.two(F.max_pool2d(a, 2)))
        c = self.up(F.relu(self.low(F.max_pool2d(b, 2))))
        h, w = b.size(2) - c.size(2), b.size(3) - c.size(3)
        c = F.pad(c, [w // 2, w - w // 2, h // 2, h - h // 2])
        d = F.relu(self.back(torch.cat([b, c], 1)))
        d = F.interpolate(d, size=a.shape[2:], mode="bilinear", align_corners=True)
        return self.out(torch.cat([a, d], 1))


class ASPP(nn.Module):
    """Dilated branches and one of the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Conv2d(4, 3, 3, padding=d, dilation=d) for d in (1, 2, 4)])
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 3, 1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = F.interpolate(self.image(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([*(branch(x) for branch in self.branches), image], 1)


class FPN(nn.Module):
    """A pyramid from the top down, with a dict in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([nn.Conv2d(c, 4, 1) for c in (3, 5, 7)])
        self.outer = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)])

    def forward(self, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = list(x)
        last = self.inner[2](x[names[2]])
        found = [self.outer[2](last)]
        for i in (1, 0):
            side = self.inner[i](x[names[i]])
            last = side + F.interpolate(last, size=side.shape[-2:], mode="nearest")
            found.insert(0, self.outer[i](last))
        return {**dict(zip(names, found)), "pool": F.max_pool2d(found[-1], 1, 2, 0)}


class StandardizedConv(nn.Conv2d):
    """BiT's convolution, whose weights are normalized in the forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        var, mean = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return self._conv_forward(x, (self.weight - mean) / torch.sqrt(var + 1e-6), self.bias)


class GroupNormNet(nn.Module):
    """Residual, pre-activated, of group norms."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(2, 8), StandardizedConv(8, 8, 3, padding=1)
        self.last, self.fc = nn.GroupNorm(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.conv(F.relu(self.norm(x)))
        return self.fc(self.last(x).flatten(2).mean(-1))


class Fourier(nn.Module):
    """Coordinates as sines and cosines (NeRF), and a timestep's embedding (diffusion)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bands", 2.0 ** torch.arange(3) * math.pi)
        self.modulate = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        angles = (x[..., None] * self.bands).flatten(-2)
        features = torch.cat((x, angles.sin(), angles.cos()), -1)
        rates = torch.exp(-math.log(10000) * torch.arange(8) / 8)
        times = step[:, None].float() * rates[None]
        scale, shift = self.modulate(torch.cat([times.cos(), times.sin()], -1)).chunk(2, 1)
        return features.mean(-1, keepdim=True) * (1 + scale[:, None]) + shift[:, None]


class TCN(nn.Module):
    """Causal dilated convolutions: padded on both sides, the end cut off."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        convolutions = [nn.Conv1d(channels, channels, 3, padding=2 * d, dilation=d) for d in (1, 2, 4)]
        self.layers = nn.ModuleList([nn.utils.parametrizations.weight_norm(layer) for layer in convolutions])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            padding = layer.padding[0]
            x = F.relu(x + F.relu(layer(x)[:, :, :-padding].contiguous()))
        return x[:, :, -1]


class ConvTasNet(nn.Module):
    """Encoder, masks of a temporal network with global layer norm and PReLU, decoder by a transposed convolution."""

    def __init__(self, basis: int = 8, width: int = 6, sources: int = 2) -> None:
        super().__init__()
        self.sources = sources
        self.encoder, self.decoder = nn.Conv1d(1, basis, 8, 4, bias=False), nn.ConvTranspose1d(basis, 1, 8, 4, bias=False)
        self.enter = nn.Conv1d(basis, width, 1)
        self.depthwise = nn.Conv1d(width, width, 3, padding=2, dilation=2, groups=width)
        self.prelu, self.gain = nn.PReLU(), nn.Parameter(torch.ones(1, width, 1))
        self.mask = nn.Conv1d(width, sources * basis, 1)

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2), keepdim=True)
        return self.gain * (x - mean) / torch.sqrt(((x - mean) ** 2).mean((1, 2), keepdim=True) + 1e-8)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        rest = (8 - wave.shape[-1] % 8) % 8
        mixed = F.relu(self.encoder(F.pad(wave, (4, rest + 4))[:, None]))
        y = self.norm(self.prelu(self.depthwise(self.norm(self.prelu(self.enter(mixed))))))
        masks = self.mask(y).view(len(wave), self.sources, *mixed.shape[1:]).softmax(1)
        sources = self.decoder((masks * mixed[:, None]).flatten(0, 1))
        return sources.view(len(wave), self.sources, -1)[..., 4 : 4 + wave.shape[-1]]


class Shuffle(nn.Module):
    """ShuffleNet's split and shuffle, written out; space to depth and back (YOLO's focus, sub-pixel convolution)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        focus = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        a, b = self.conv(focus).chunk(2, 1)
        y = torch.cat((a, b * 2), 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        return F.pixel_shuffle(self.up(y), 2) + F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2)


class Patches(nn.Module):
    """ViT's embedding with a class token and a position table resized in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.ones(1, 1, 8))
        self.table = nn.Parameter(torch.linspace(-1, 1, 17 * 8).reshape(1, 17, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(x)
        h, w = y.shape[2:]
        grid = self.table[:, 1:].reshape(1, 4, 4, 8).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(h, w), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)
        y = torch.cat((self.token.expand(len(x), -1, -1), y.flatten(2).transpose(1, 2)), 1)
        return y + torch.cat((self.table[:, :1], grid), 1)


class Detect(nn.Module):
    """A detector's head: distributions to distances, anchors made in the forward, boxes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Conv2d(4, 4 * 8 + 3, 1) for _ in range(2)])

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        found, anchors, strides = [], [], []
        for head, x, stride in zip(self.heads, maps, (8, 16)):
            h, w = x.shape[-2:]
            y, xs = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
            anchors.append(torch.stack((xs, y), -1).view(-1, 2))
            strides.append(torch.full((h * w, 1), float(stride)))
            found.append(head(x).flatten(2))
        boxes, classes = torch.cat(found, 2).split((32, 3), 1)
        distances = boxes.view(len(boxes), 4, 8, -1).softmax(2).mul(torch.arange(8.0).view(1, 1, 8, 1)).sum(2)
        low, high = distances.chunk(2, 1)
        places, steps = torch.cat(anchors).T, torch.cat(strides).T
        result = torch.cat((places - low, places + high), 1) * steps
        result[:, :2] = result[:, :2].clamp_(min=0)
        return torch.cat((result, classes.sigmoid()), 1)


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


BLOCKS = {
    "squeeze_excite": (SqueezeExcite(6), [image(2, 6, 9, 11)]),
    "cbam": (CBAM(6), [image(2, 6, 9, 11)]),
    "conv_next": (ConvNeXt(), [image(1, 8, 9, 7)]),
    "conv_next_v2": (ConvNeXtV2(), [image(1, 8, 9, 7)]),
    "unet": (UNet(), [image(1, 3, 23, 31)]),
    "aspp": (ASPP(), [image(1, 4, 13, 9)]),
    "fpn": (FPN(), [{"p3": image(1, 3, 17, 13), "p4": image(1, 5, 9, 7), "p5": image(1, 7, 5, 4)}]),
    "group_norm": (GroupNormNet(), [image(2, 8, 7, 5)]),
    "fourier": (Fourier(), [image(2, 5, 3), torch.tensor([3, 500])]),
    "tcn": (TCN(), [image(2, 6, 20)]),
    "conv_tasnet": (ConvTasNet(), [image(2, 61)]),
    "shuffle": (Shuffle(), [image(1, 4, 8, 12)]),
    "patches": (Patches(), [image(2, 3, 24, 20)]),
    "detect": (Detect(), [[image(1, 4, 6, 8), image(1, 4, 3, 4)]]),
}
