"""Fourier transforms and complex numbers, which tracing writes in real ops (torch2edge/trace/complex.py)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.rows import Row, check_row, convert_row, rows
from torch import nn

from torch2edge.errors import InplaceError, TraceError

aten = torch.ops.aten
fft = torch.fft
SIGNAL = (2, 3, 12)


class Spectrogram(nn.Module):
    """Power of a short-time Fourier transform."""

    def __init__(self, size: int = 16, hop: int = 4, **options: Any) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(size))
        self.size, self.hop, self.options = size, hop, options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(x, self.size, self.hop, window=self.window, return_complex=True, **self.options)
        return spectrum.abs() ** 2


class Rotary(nn.Module):
    """Rotary positions as LLaMA writes them."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(5.0), 0.5 ** torch.arange(3))
        self.register_buffer("angles", angles, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(self.angles), self.angles)).flatten(-2)


def filtered(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """A circular convolution by spectra."""
    return fft.irfft(fft.rfft(x) * fft.rfft(h), n=x.shape[-1])


def mixed(x: torch.Tensor) -> torch.Tensor:
    """GFNet's and FNet's way with two axes."""
    return fft.irfft2(fft.rfft2(x, norm="ortho") * (0.5 - 1j), s=x.shape[-2:], norm="ortho")


def there_and_back(x: torch.Tensor) -> torch.Tensor:
    spectrum = torch.stft(x, 16, 4, window=torch.hann_window(16), return_complex=True)
    return torch.istft(spectrum * 2, 16, 4, window=torch.hann_window(16), length=x.shape[-1])


ROWS = [
    *rows(aten.matmul.default, [
        (lambda x: fft.rfft(x).abs(), SIGNAL), (lambda x: torch.view_as_real(fft.rfft(x)), (7,)),
        (lambda x: fft.rfft(x, dim=1, norm="ortho").real, SIGNAL), (lambda x: fft.rfft(x, n=8, norm="forward").imag, SIGNAL),
        (lambda x: fft.rfft(x, n=20).abs(), SIGNAL), (lambda x: fft.fft(x).imag, SIGNAL),
        (lambda x: fft.fft2(x).real, (2, 6, 5)), (lambda x: fft.ifft(fft.fft(x)).real, SIGNAL),
        (lambda x: fft.fftn(x, norm="ortho").abs(), (3, 4, 5)), (lambda x: fft.fftshift(fft.fft(x), dim=-1).abs(), SIGNAL),
        (lambda x: torch.view_as_real(fft.ifft(x.to(torch.complex64), norm="forward")), SIGNAL),
        (lambda x: fft.irfft(fft.rfft(x)), SIGNAL), (lambda x: fft.irfft(fft.rfft(x), n=11), (2, 11)),
        (lambda x: fft.irfft(fft.rfft(x, dim=1), dim=1, n=4, norm="forward"), SIGNAL), (mixed, (2, 6, 5)), (mixed, (2, 7, 8)),
        (filtered, (2, 12), (12,)), (lambda x: fft.hfft(x.to(torch.complex64)), SIGNAL),
        (lambda x: fft.rfft(x - 0.5).angle(), (2, 5)), (lambda x: (fft.fft(x) * fft.fft(x).conj()).real, SIGNAL),
        (lambda x: (fft.rfft(x) / (2 + 1j) - 1j).abs(), SIGNAL), (lambda x: (1.0 / (fft.rfft(x) + 40)).imag, SIGNAL),
        (lambda x: torch.cat([fft.rfft(x), -fft.rfft(x)], -1)[:, 1:].sum(1).real, SIGNAL),
        (Spectrogram(), (2, 64)), (Spectrogram(center=False, normalized=True), (50,)),
        (Spectrogram(onesided=False, pad_mode="constant"), (2, 40)), (Spectrogram(400, 160), (1, 1600)),
        (lambda x: torch.stft(x, 8, window=torch.ones(8), return_complex=False), (2, 40)),
        (there_and_back, (2, 64)),
    ]),
    *rows(aten.stack.default, [
        (Rotary(), (2, 5, 6)), (lambda x, y: torch.view_as_real(torch.complex(x, y) * 1j), (3, 4), (3, 4)),
        (lambda x, y: torch.view_as_real(torch.polar(x, y)), (3, 4), (3, 4)),
    ]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:stft with return_complex=False")
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


@pytest.mark.parametrize(("fn", "words"), [
    (fft.rfft, r"a complex result in .*use torch\.view_as_real"),
    (lambda x: (fft.rfft(x) ** 2).real, r"aten\.pow\.Tensor_Scalar in .*test_spectral\.py:\d+: TensorRT has no complex"),
    (lambda x: fft.rfft(x).exp().abs(), r"aten\.exp\.default in .* no form in real ones here.*\.abs\(\)"),
    (lambda x: fft.rfft(x.repeat(1, 1, 400)).abs(), "a Fourier transform of 4800 elements; as a matrix product at most 4096"),
])  # fmt: skip
def test_what_has_no_real_form_is_refused(fn: Any, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        convert_row(Row(aten.matmul.default, fn, (SIGNAL,)))


def written_through(x: torch.Tensor) -> torch.Tensor:
    spectrum = fft.rfft(x)
    torch.view_as_real(spectrum)[..., 0] = 0
    return spectrum.abs()


def test_a_write_through_view_as_real_is_refused():
    with pytest.raises(InplaceError, match="the memory of a complex tensor"):
        convert_row(Row(aten.matmul.default, written_through, (SIGNAL,)))


def scaled_in_place(x: torch.Tensor) -> torch.Tensor:
    spectrum = fft.rfft(x)
    spectrum[..., 0] *= 2
    return spectrum.abs()


def test_a_write_to_a_complex_tensor_is_refused():
    with pytest.raises(InplaceError, match="it writes to a complex tensor"):
        convert_row(Row(aten.matmul.default, scaled_in_place, (SIGNAL,)))


def real_part_written(x: torch.Tensor) -> torch.Tensor:
    spectrum = fft.rfft(x)
    spectrum.real.mul_(2)
    return torch.view_as_real(spectrum)


def test_a_write_to_the_real_part_reaches_the_whole():
    check_row(Row(aten.stack.default, real_part_written, (SIGNAL,)))
