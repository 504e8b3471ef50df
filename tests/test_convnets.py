"""Sizes and initialization of the convolutional networks."""

import math

import pytest
import torch
from torch import nn

from lazylib.nets import convnet


def convolutions(net):
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(
    ("name", "widths", "weights"),
    [
        (
            "vgg11",
            [64, 128, 256, 256, 512, 512, 512, 512],
            9 * (3 * 64 + 64 * 128 + 128 * 256 + 256**2 + 256 * 512 + 3 * 512**2),
        ),
        (
            "resnet18",
            [64] * 5 + [128] * 5 + [256] * 5 + [512] * 5,  # two 3×3 a block, a 1×1 where the width changes
            9 * (3 * 64 + 4 * 64**2 + 64 * 128 + 3 * 128**2 + 128 * 256 + 3 * 256**2 + 256 * 512 + 3 * 512**2)
            + 64 * 128
            + 128 * 256
            + 256 * 512,
        ),
    ],
)
def test_channels_and_parameters(name, widths, weights):
    net = convnet(name)
    assert [layer.out_channels for layer in convolutions(net)] == widths
    assert sum(w.numel() for w in net.parameters()) == weights + sum(widths) + 512 * 10 + 10


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
@pytest.mark.parametrize("k", [1 / 64, 0.25, 1.5])
def test_the_widening_factor_multiplies_every_width(name, k):
    one, wide = (convolutions(convnet(name, value)) for value in (1, k))
    assert [layer.out_channels for layer in wide] == [k * layer.out_channels for layer in one]
    assert convnet(name, k)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_weights_are_xavier_normal_and_biases_zero(gain):
    for layer in convolutions(convnet("vgg11", gain=gain))[2:]:
        size = layer.kernel_size[0] ** 2
        std = gain * math.sqrt(2 / (size * (layer.in_channels + layer.out_channels)))
        assert layer.weight.std().item() == pytest.approx(std, rel=0.01)
        assert not layer.bias.any()


def test_a_gain_multiplies_the_output_by_its_ninth_power():
    """VGG-11 has nine layers and, at the start, no biases."""
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    one, two = (convnet("vgg11", 1 / 8, gain=gain).double()(x) for gain in (1.0, 2.0))
    torch.testing.assert_close(two, 2.0**9 * one)


def test_there_is_no_batch_normalization_and_a_seed_fixes_the_weights():
    net, same, other = (
        convnet("resnet18", 1 / 8),
        convnet("resnet18", 1 / 8),
        convnet("resnet18", 1 / 8, seed=1),
    )
    assert not any("Norm" in type(layer).__name__ for layer in net.modules())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), same.parameters(), strict=True))
    assert not torch.equal(next(net.parameters()), next(other.parameters()))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"name": "vgg12"}, "vgg11, resnet18"),
        ({"k": 0.0}, "k must"),
        ({"k": -1}, "k must"),
        ({"k": 0.3}, "k must"),
        ({"k": math.nan}, "k must"),
        ({"k": True}, "k must"),
        ({"gain": 0.0}, "gain must"),
        ({"classes": 0}, "classes must"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, word):
    with pytest.raises(ValueError, match=word) as error:
        convnet(**{"name": "vgg11", **arguments})
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
