"""The layer-wise kernel against Jacobians."""

import pytest
import torch
from torch import nn

import lazylib.measures._kernel_paths as paths
from lazylib.measures import tangent_kernel
from lazylib.nets import convnet


def jacobian(net, x):
    """(n·classes, P)"""
    w = {name: w.detach() for name, w in net.named_parameters()}
    parts = torch.func.jacrev(lambda v: torch.func.functional_call(net, v, (x,)))(w)
    return torch.cat([part.flatten(2) for part in parts.values()], 2).flatten(0, 1)


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
@pytest.mark.parametrize("entries", [2**26, 1])
def test_it_is_the_product_of_jacobians(name, entries, monkeypatch):
    monkeypatch.setattr(paths, "_ENTRIES", entries)  # 1: one channel at a time
    net = convnet(name, 1 / 32, gain=1.4).double()
    x, x2 = torch.randn(3, 3, 32, 32).double(), torch.randn(2, 3, 32, 32).double()
    left, right = jacobian(net, x), jacobian(net, x2)
    torch.testing.assert_close(tangent_kernel(net, None, x), left @ left.T)
    torch.testing.assert_close(tangent_kernel(net, None, x, x2), left @ right.T)


def test_strides_pads_and_missing_biases():
    net = nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), stride=2, padding=1, bias=False),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(36, 4, bias=False),
    ).double()
    x = torch.randn(3, 2, 6, 6).double()
    left = jacobian(net, x)
    torch.testing.assert_close(tangent_kernel(net, None, x), left @ left.T)


def test_frozen_weights_will_do_and_nothing_is_left_behind():
    net = convnet("vgg11", 1 / 64).requires_grad_(False)
    tangent_kernel(net, None, torch.randn(2, 3, 32, 32))
    assert not any(layer._forward_hooks for layer in net.modules()) and not any(
        w.requires_grad for w in net.parameters()
    )


def test_an_unknown_layer_with_weights_is_named():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
    with pytest.raises(TypeError, match="BatchNorm2d"):
        tangent_kernel(net, None, torch.randn(2, 1, 5, 5))


def test_a_padding_in_words_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten())
    with pytest.raises(TypeError, match="zero padding in numbers, not Conv2d"):
        tangent_kernel(net, None, torch.randn(2, 1, 5, 5))
