"""Noise that is correlated along a sequence, so that exploration covers more.

iCEM, arXiv:2008.06389, after Timmer and Koenig, Astronomy and Astrophysics 300, 1995.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def coloured_noise(
    lead: Sequence[int], steps: int, exponent: float, device: torch.device
) -> Tensor:
    """Gaussian noise `[*lead, steps]` of variance 1, spectral density 1 / f^exponent.

    The lowest frequency that a sequence holds, 1 / steps, bounds the spectrum. White noise for 0.
    Draws from torch's global generator.
    """
    white = torch.randn(*lead, steps, device=device)
    if exponent == 0 or steps == 1:
        return white
    frequency = torch.fft.rfftfreq(steps, device=device).clamp(min=1 / steps)
    scale = frequency ** (-exponent / 2)
    every = torch.fft.fftfreq(steps, device=device).abs().clamp(min=1 / steps)
    variance = (every**-exponent).mean()  # of what the filter leaves of white noise
    return torch.fft.irfft(torch.fft.rfft(white) * scale, n=steps) / variance.sqrt()
