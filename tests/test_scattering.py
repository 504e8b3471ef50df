"""Scattering against convolutions in space, and kernel ridge regression against its normal equations."""

import math

import numpy as np
import pytest
import torch

from lazylib.measures import MirrorKernelRidge, Scattering
from lazylib.measures.scattering import ANGLES, BORDER, morlet


def pictures(n):
    return torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [1, 2])
def test_a_wavelet_is_a_wave_under_a_gaussian_less_what_makes_its_mean_zero(scale):
    """In space, by its formula, repeated over the period."""
    n, sigma, xi = 24, 0.8 * scale, 0.75 * math.pi / scale
    copies = np.arange(-3 * n, 3 * n)
    y, x = np.meshgrid(copies, copies, indexing="ij")
    found = torch.fft.ifft2(morlet(n, scale)).numpy()
    for t in range(ANGLES):
        angle = math.pi * (t + 1 - ANGLES // 2) / ANGLES
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        slant = 4 / ANGLES
        bump = np.exp(-(along**2 + slant**2 * across**2) / (2 * sigma**2)) * slant / (2 * math.pi * sigma**2)
        whole = bump * (np.exp(1j * xi * along) - (bump * np.exp(1j * xi * along)).sum() / bump.sum())
        periodic = whole.reshape(6, n, 6, n).sum((0, 2))
        assert np.abs(np.roll(periodic, (0, 0), (0, 1)) - found[t]).max() < 1e-6 * np.abs(found[t]).max()


def test_a_path_is_what_convolutions_in_space_give():
    """Of luminance: order 0, and one path of orders 1 and 2 each, at one place."""
    x = pictures(1)
    found = Scattering()(x).reshape(3, 81, 5, 5)[0]
    y = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * x[0].float()).sum(0)
    y = np.pad(y.numpy().astype(float), BORDER, mode="reflect")
    n, j, k = len(y), 3, 5

    def convolved(image, scale, angle):
        kernel = torch.fft.ifft2(morlet(n, scale))[angle].numpy()
        return sum(
            kernel[a, b] * np.roll(image, (a, b), (0, 1))
            for a in range(n)
            for b in range(n)
            if abs(kernel[a, b]) > 1e-9
        )

    def averaged(image):
        at = BORDER + 1.5 + 4 * np.arange(8)
        bump = np.exp(-((np.arange(n) - at[:, None]) ** 2) / (2 * 1.6**2))
        bump /= bump.sum(1, keepdims=True)
        eight = torch.from_numpy(bump @ image @ bump.T)[None]
        return torch.nn.functional.adaptive_avg_pool2d(eight, 5)[0]

    first = np.abs(convolved(y, 1, j))
    torch.testing.assert_close(found[0].double(), averaged(y), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[1 + j].double().square(), averaged(first), rtol=1e-3, atol=1e-3)
    # Of scale 2 the moduli are read at every other pixel, which changes their average a little.
    second = averaged(np.abs(convolved(first, 2, k)))
    assert (found[1 + 2 * ANGLES + ANGLES * j + k].double().square() / second - 1).abs().max() < 0.1


def test_the_mirrored_image_has_the_features_in_another_order():
    scattering, x = Scattering(), pictures(3)
    torch.testing.assert_close(scattering(x.flip(-1)), scattering(x)[:, scattering.mirror], rtol=1e-4, atol=1e-4)
    assert not torch.equal(scattering.mirror, torch.arange(6075))
    assert (scattering(x.flip(-1)) - scattering(x)).abs().max() > 1


def test_an_image_of_one_colour_has_no_waves():
    found = Scattering()(torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)).reshape(3, 81, 25)
    torch.testing.assert_close(found[:, 0], torch.tensor([[77.0], [0.0], [0.0]]).expand(3, 25), rtol=1e-3, atol=0.05)
    assert found[:, 1:].abs().max() < 0.1


def blobs(n, seed=0):
    """Features of two classes that differ in what the mirror keeps, and a permutation that is its own inverse."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(2).repeat(n // 2)
    f = torch.randn(n, 6, generator=rng)
    return f + 1.6 * y[:, None] * torch.tensor([1.0, 1, 0, 0, 0, 0]), torch.tensor([1, 0, 3, 2, 5, 4]), y


def by_hand(fit, f, y, rows, penalty):
    """Scores of all f, fitted to some rows, in float64."""
    centres = fit.centres[0].double()
    mirrored, z = fit.centres[1].double(), ((f - fit.mean) / fit.std).double()

    def kernel(a):
        return sum(((a[:, None] - c[None]).square().sum(2) / -fit.scale).exp() for c in (centres, mirrored))

    gram = kernel(centres)
    k = kernel(z) - gram.mean(0)
    targets = torch.nn.functional.one_hot(y, 2).double() - 0.5
    gram = gram + 1e-5 * len(gram) ** 0.5 * torch.eye(len(gram))
    return k @ torch.linalg.solve(k[:rows].T @ k[:rows] + penalty * gram, k[:rows].T @ targets[:rows])


def test_the_fit_solves_its_normal_equations():
    f, mirror, y = blobs(100)
    fit = MirrorKernelRidge(f, mirror, y, classes=2, centres=30, width=2.0, penalties=(0.7,), seed=3)
    torch.testing.assert_close(fit.centres[1], fit.centres[0][:, mirror])
    pairs = (fit.centres[0][:, None] - fit.centres[0][None]).square().sum(2)
    assert fit.scale == pytest.approx(2 * float(pairs.mean()), rel=0.1)  # of the centres and their mirror images
    found = fit._rows(f) @ fit.weights
    torch.testing.assert_close(found.double(), by_hand(fit, f, y, 100, 0.7), rtol=0, atol=1e-3)


def test_the_penalty_is_the_one_that_does_best_on_the_last_fifth():
    f, mirror, y = blobs(400)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(2))
    f, y = f[order], y[order]
    f[:320] += 3 * torch.randn(320, 6, generator=torch.Generator().manual_seed(3))
    penalties = (100.0, 1.0, 0.03)
    fit = MirrorKernelRidge(f, mirror, y, classes=2, centres=150, penalties=penalties)
    right = {q: int((by_hand(fit, f, y, 320, q).argmax(1) == y)[320:].sum()) for q in penalties}
    assert fit.penalty == max(right, key=right.get) and len(set(right.values())) == 3


def test_mirror_images_get_the_same_answer_and_the_classes_are_learned():
    f, mirror, y = blobs(400)
    fit = MirrorKernelRidge(f, mirror, y, classes=2, centres=60)
    new, _, truth = blobs(400, seed=1)
    assert torch.equal(fit(new), fit(new[:, mirror]))
    assert (fit(new) == truth).double().mean() > 0.8
    assert (MirrorKernelRidge(f, mirror, y[torch.randperm(400)], classes=2, centres=60)(new) == truth).sum() < 300


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 0.0}, "width must be positive"),
        ({"penalties": ()}, "one or more positive"),
        ({"penalties": (0.0,)}, "one or more positive"),
        ({"features": torch.zeros(4, 6), "y": torch.zeros(4).long()}, "five rows"),
    ],
)
def test_bad_fits_are_refused(change, said):
    f, mirror, y = blobs(20)
    given = {"features": f, "mirror": mirror, "y": y, "classes": 2, "centres": 5, **change}
    with pytest.raises(ValueError, match=said):
        MirrorKernelRidge(**given)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="3×32×32 pixels, not 1×28×28"):
        Scattering()(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
