"""Sizes and initialization of the convolutional networks."""

import math

import pytest
import torch
from torch import nn

from lazylib.nets import FullyConnected, convnet, from_module, gain, pooled_convnet, small_convnet
from lazylib.runs import generator


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


# ---- the small one ----


def test_a_pixel_a_side_is_a_fully_connected_net_of_the_middle_weights():
    """One pixel meets only the middle of each filter: the factors are those of the filters, the rest is the same."""
    net = small_convnet(5, 2, 1, seed=3).double()
    dense = FullyConnected(2, 5, L=2)
    weights = [w if w.dim() == 2 else w[:, :, w.shape[2] // 2, w.shape[3] // 2] for w in net.parameters()]
    weights = [w / size for w, size in zip(weights, (5, 3, 1), strict=True)]
    x = torch.randn(7, 2, dtype=torch.float64)
    flat = torch.cat([w.reshape(-1) for w in weights])
    torch.testing.assert_close(net(x)[:, 0], dense(flat, x))
    wrong = torch.cat([w.reshape(-1) for w in (3 * weights[0], *weights[1:])])
    assert not torch.allclose(net(x)[:, 0], dense(wrong, x), rtol=0.1)


def test_weights_come_from_a_stream_a_layer():
    net, other = small_convnet(4, 3, 16, seed=1), small_convnet(4, 3, 16, seed=2)
    for l, (weight, another) in enumerate(zip(net.parameters(), other.parameters(), strict=True)):
        assert torch.equal(weight, torch.randn(weight.shape, generator=generator(1, f"layer {l}")))
        assert not torch.equal(weight, another)


@pytest.mark.parametrize("side", [7, 8, 14, 16])
def test_a_wide_one_starts_with_outputs_of_unit_size(side):
    """Over networks, but for the borders, where filters reach over the edge; images have norm √d."""
    x = torch.randn(1, 3 * side**2)
    x *= math.sqrt(x.shape[1]) / x.norm()
    outputs = torch.cat([small_convnet(64, 3, side, seed)(x) for seed in range(100)])
    size = float(outputs.detach().square().mean().sqrt())
    assert 0.6 < size < 1.2
    assert not 0.6 < size * gain("softplus") ** 2 < 1.2 and not 0.6 < size / gain("softplus") ** 2 < 1.2


def test_it_is_a_net_of_flat_parameters():
    net, w0 = from_module(small_convnet(4, 1, 8))
    assert w0.shape == (net.size,) == (4 * 25 + 16 * 9 + 4 * 4,)
    assert net(torch.stack([w0, 2 * w0]), torch.randn(5, 64)).shape == (2, 5)


@pytest.mark.parametrize("name", ["channels", "colours", "side"])
@pytest.mark.parametrize("size", [0, 2.0])
def test_a_small_one_needs_whole_sizes(name, size):
    with pytest.raises(ValueError, match=rf"^{name} must be a whole number"):
        small_convnet(**{"channels": 4, "colours": 3, "side": 8, name: size})


# ---- the one of GSJW ----


def published(net, x, side):
    """Its output by the formulas of the authors' code, of which the last layer is divided by h: √h times that."""
    *convolutions, last = [weight.detach() for weight in net.parameters()]
    z = x.unflatten(1, (-1, side, side))
    for weight, stride in zip(convolutions, (2, 1, 2, 1), strict=True):
        z = torch.nn.functional.conv2d(z, weight / weight[0].numel() ** 0.5, stride=stride, padding=1)
        z = gain("softplus") * torch.nn.functional.softplus(z, 5.0)
    return last.numel() ** 0.5 * z.flatten(2).mean(2) @ (last[0] / last.numel())


@pytest.mark.parametrize(("colours", "side"), [(3, 32), (1, 28), (1, 19)])
def test_the_pooled_one_is_that_of_the_published_code(colours, side):
    net, x = pooled_convnet(6, colours, side, seed=1).double(), torch.randn(4, colours * side**2, dtype=torch.float64)
    torch.testing.assert_close(net(x)[:, 0], published(net, x, side))
    net[1].stride = (1, 1)
    assert not torch.allclose(net(x)[:, 0], published(net, x, side), rtol=0.01)


def test_the_pooled_one_needs_images_that_four_filters_fit_in():
    with pytest.raises(ValueError, match=r"^side must be at least 19 for .*, not 18\.$"):
        pooled_convnet(6, 1, 18)
    with pytest.raises(ValueError, match="^channels must be a whole number"):
        pooled_convnet(0, 1, 28)
