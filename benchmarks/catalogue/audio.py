"""Audio and time series: torchaudio's models, and the recurrent and convolutional stacks that people write themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from .entry import Entry, Example, alive

__all__ = ["audio_models"]


def audio_models() -> Iterator[Entry]:
    """Waveforms, spectrograms and multivariate series, batch first."""
    for kind in ("LSTM", "GRU", "RNN"):
        yield Entry(f"audio:{kind} stack", "time series", partial(_recurrent, kind))
    yield Entry("audio:TCN", "time series", _tcn)
    yield Entry("audio:keyword spotter", "audio", _keyword_spotter)
    for name in _TORCHAUDIO:
        yield Entry(f"torchaudio:{name}", "audio", partial(_torchaudio, name))


class Recurrent(nn.Module):
    """Two layers of an RNN in both directions, and a linear layer on the last step."""

    def __init__(self, kind: str, features: int = 16, hidden: int = 64, classes: int = 6) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(features, hidden, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """(batch, time, features) -> (batch, classes)."""
        steps, _ = self.rnn(series)
        return self.head(steps[:, -1])  # type: ignore[no-any-return]


class Causal(nn.Module):
    """A residual block of a temporal convolutional network: dilated convolutions that see the past only."""

    def __init__(self, inside: int, outside: int, dilation: int, kernel: int = 3) -> None:
        super().__init__()
        self.pad = (kernel - 1) * dilation
        self.conv1 = nn.utils.parametrizations.weight_norm(nn.Conv1d(inside, outside, kernel, dilation=dilation))
        self.conv2 = nn.utils.parametrizations.weight_norm(nn.Conv1d(outside, outside, kernel, dilation=dilation))
        self.skip = nn.Conv1d(inside, outside, 1) if inside != outside else nn.Identity()
        self.dropout = nn.Dropout(0.2)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """(batch, channels, time) -> (batch, channels, time)."""
        hidden = series
        for conv in (self.conv1, self.conv2):
            hidden = self.dropout(conv(nn.functional.pad(hidden, (self.pad, 0))).relu())
        return (hidden + self.skip(series)).relu()


class KeywordSpotter(nn.Module):
    """Log spectrogram by torch.stft, depthwise separable convolutions, mean over time."""

    def __init__(self, classes: int = 12, width: int = 32) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(400))
        layers: list[nn.Module] = [nn.Conv2d(1, width, (10, 4), stride=2, padding=(5, 1)), nn.BatchNorm2d(width), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """(batch, samples) -> (batch, classes)."""
        spectrum = torch.stft(waveform, 400, 160, window=self.window, return_complex=True)
        return self.body(torch.log(spectrum.abs() ** 2 + 1e-6)[:, None])  # type: ignore[no-any-return]


def _recurrent(kind: str) -> Example:
    return Example(alive(lambda: Recurrent(kind)), [torch.randn(2, 50, 16)])


def _tcn() -> Example:
    widths = [16, 32, 32, 64, 64]
    return Example(
        alive(lambda: nn.Sequential(*(Causal(a, b, 2**i) for i, (a, b) in enumerate(itertools.pairwise(widths))))),
        [torch.randn(2, 16, 100)],
    )


def _keyword_spotter() -> Example:
    return Example(alive(KeywordSpotter), [torch.randn(1, 16000)])


_TORCHAUDIO = ("ConvTasNet", "Wav2Letter", "DeepSpeech", "Conformer", "Emformer", "HDemucs", "wav2vec2_base", "WaveRNN",
               "squim_objective_base")  # fmt: skip


def _torchaudio(name: str) -> Example:
    """With its default sizes where it has them."""
    from torchaudio import models

    arguments = {
        "DeepSpeech": {"n_feature": 80}, "Emformer": {"input_dim": 80, "num_heads": 4, "ffn_dim": 256, "num_layers": 4,
        "segment_length": 4, "right_context_length": 1}, "Conformer": {"input_dim": 80, "num_heads": 4, "ffn_dim": 128,
        "num_layers": 4, "depthwise_conv_kernel_size": 31}, "HDemucs": {"sources": ["drums", "bass", "other", "vocals"]},
        "WaveRNN": {"upsample_scales": [5, 5, 8], "n_classes": 64, "hop_length": 200, "n_res_block": 2, "n_rnn": 64,
        "n_fc": 64},
        "Wav2Letter": {"input_type": "mfcc", "num_features": 13},
    }.get(name, {})  # fmt: skip
    model = alive(lambda: getattr(models, name)(**arguments))
    lengths = torch.tensor([100, 80])
    inputs = {
        "ConvTasNet": [torch.randn(1, 1, 8000)], "Wav2Letter": [torch.randn(1, 13, 200)],
        "DeepSpeech": [torch.randn(1, 1, 20, 80)], "Conformer": [torch.randn(2, 100, 80), lengths],
        "Emformer": [torch.randn(2, 101, 80), lengths], "HDemucs": [torch.randn(1, 2, 44100)],
        "wav2vec2_base": [torch.randn(1, 16000)], "WaveRNN": [torch.randn(1, 1, 2000), torch.randn(1, 1, 128, 14)],
        "squim_objective_base": [torch.randn(1, 16000)],
    }[name]  # fmt: skip
    return Example(model, inputs)
