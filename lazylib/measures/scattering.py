"""Scattering coefficients of images: features that are made, not learned."""

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor

_BATCH = 8  # images at a time
ANGLES = 8
BORDER = 4  # pixels of reflection around an image
YUV = ((0.299, 0.587, 0.114), (-0.147, -0.289, 0.436), (0.615, -0.515, -0.1))  # of red, green and blue


class Scattering:
    """Scattering coefficients of orders 0, 1 and 2 of colour images of 32×32 pixels (Bruna, Mallat 2013).

    An image, in luminance and two colour differences (YUV), is convolved with Morlet wavelets of scales 1 and 2 in 8
    angles; the moduli of scale 1 are convolved once more, with those of scale 2. All 1 + 8 + 8 + 64 = 81 paths a
    channel are averaged by a Gaussian of 1.6·2 pixels, read at 8×8 places and averaged to 5×5; of orders 1 and 2 the
    square root is taken. Nothing is trained or random.

    Attributes:
        mirror: the image that is mirrored left to right has the features ``f[:, mirror]``.

    Args:
        device: of the images.

    Example:
        >>> import torch
        >>> from lazylib.measures import Scattering
        >>> Scattering()(torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)).shape
        torch.Size([2, 6075])
    """

    def __init__(self, device: str | torch.device = "cpu"):
        n = 32 + 2 * BORDER
        # A wave of scale 2 is read at every other pixel; half a pixel aside, those lie symmetrically.
        half = torch.polar(torch.ones(n, dtype=torch.float64), math.pi * torch.fft.fftfreq(n, dtype=torch.float64))
        half[n // 2] = 0
        self.fine = morlet(n, 1).float().to(device)
        self.coarse = (morlet(n, 2) * half[:, None] * half).to(device, torch.complex64)
        pixel, place = torch.arange(n).double(), BORDER + 1.5 + 4 * torch.arange(8).double()
        bumps = [torch.exp(-((at - place[:, None]) ** 2) / (2 * 1.6**2)) for at in (pixel, pixel[::2] + 0.5)]
        self.low = [(bump / bump.sum(1, keepdim=True)).float().to(device) for bump in bumps]  # (8, n), (8, n/2)
        self.yuv = torch.tensor(YUV, device=device)
        turned = (ANGLES - 2 - torch.arange(ANGLES)) % ANGLES  # the angle that each becomes in the mirror
        pairs = (ANGLES * turned[:, None] + turned).flatten()
        paths = torch.cat([torch.zeros(1).long(), 1 + turned, 1 + ANGLES + turned, 1 + 2 * ANGLES + pairs])
        places = torch.arange(3 * len(paths) * 25).reshape(3, -1, 5, 5)
        self.mirror = places[:, paths].flip(-1).flatten().to(device)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Features (n, 6075) of images x (n, 3, 32, 32) in bytes.

        Raises:
            ValueError: images of another shape.
        """
        if x.shape[1:] != (3, 32, 32):
            raise ValueError(f"images must be of 3×32×32 pixels, not {'×'.join(map(str, x.shape[1:]))}.")
        return torch.cat([self._some(part) for part in x.split(_BATCH)])

    def _some(self, x: Tensor) -> Tensor:
        x = torch.einsum("kc,nchw->nkhw", self.yuv, x.float())
        x = nnf.pad(x, (BORDER,) * 4, mode="reflect")[:, :, None]  # (n, 3, 1, 40, 40)
        spectrum = torch.fft.fft2(x)
        first = torch.fft.ifft2(spectrum * self.fine).abs()  # (n, 3, 8, 40, 40)
        second = _modulus_of_half(torch.fft.fft2(first)[:, :, :, None] * self.coarse).flatten(2, 3)
        parts = (x, 0), (first, 0), (_modulus_of_half(spectrum * self.coarse), 1), (second, 1)
        paths = torch.cat([self.low[k] @ v @ self.low[k].T for v, k in parts], 2)  # (n, 3, 81, 8, 8)
        paths = nnf.adaptive_avg_pool2d(paths.flatten(1, 2), 5).unflatten(1, (3, -1))
        paths[:, :, 1:] = paths[:, :, 1:].clamp(min=0).sqrt()
        return paths.flatten(1)


def morlet(side: int, scale: int) -> Tensor:
    """Fourier transforms of Morlet wavelets of a scale in `ANGLES` angles, centred at pixel 0, of mean 0.

    A plane wave of frequency ¾π/scale under a Gaussian of 0.8·scale pixels along it and twice that across, less as
    much of the Gaussian as makes the mean 0; summed over its aliases.

    Args:
        side: pixels of a side.
        scale: in pixels.

    Returns:
        (ANGLES, side, side), real, float64.

    Example:
        >>> from lazylib.measures.scattering import morlet
        >>> abs(morlet(8, 1)[:, 0, 0]).max() < 1e-12
        tensor(True)
    """
    sigma, xi, slant = 0.8 * scale, 0.75 * math.pi / scale, 4 / ANGLES
    turns = 2 * math.pi * torch.arange(-2, 3, dtype=torch.float64)
    w = (2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64) + turns[:, None]).flatten()
    wavelets = []
    for angle in (math.pi * (t + 1 - ANGLES // 2) / ANGLES for t in range(ANGLES)):
        along = w * math.cos(angle) + w[:, None] * math.sin(angle)
        across = w[:, None] * math.cos(angle) - w * math.sin(angle)
        wave, bump = (
            torch.exp(-(sigma**2) / 2 * ((along - centre) ** 2 + (across / slant) ** 2))
            .reshape(5, side, 5, side)
            .sum((0, 2))
            for centre in (xi, 0.0)
        )
        wavelets.append(wave - wave[0, 0] / bump[0, 0] * bump)
    return torch.stack(wavelets)


def _modulus_of_half(spectrum: Tensor) -> Tensor:
    """|the image| at every other pixel, by folding its spectrum."""
    h = spectrum.shape[-1] // 2
    spectrum = spectrum[..., :h, :] + spectrum[..., h:, :]
    return torch.fft.ifft2(spectrum[..., :h] + spectrum[..., h:]).abs() / 4
