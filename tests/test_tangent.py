"""The scaled model in differences, against the formula in float64 and against forward mode."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from lazylib.nets import Scaled, convnet, plain_outputs, tangent_outputs

ALPHAS = [1.0, 3.0, 100.0, 1e4, 1e7]


def problem(name="vgg11", dtype=torch.float32, size=0.02):
    """A small network, images, and displacements that flip units and winners of pooling at small α."""
    net = convnet(name, 1 / 16, gain=1.4).to(dtype)
    rng = torch.Generator().manual_seed(0)
    for name, w in net.named_parameters():  # biases too, so that nothing is tested at zero only
        if name.endswith("bias"):
            w.data = 0.1 * torch.randn(w.shape, generator=rng).to(w)
    u = {name: size * torch.randn(w.shape, generator=rng).to(w) for name, w in net.named_parameters()}
    return net, torch.randn(6, 3, 32, 32, generator=rng).to(dtype), u


def scaled(net, alpha, u):
    model = Scaled(net, alpha)
    for w, name in zip(model.u, model.names, strict=True):
        w.data = u[name].clone()
    return model


def double(u):
    return {name: w.double() for name, w in u.items()}


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_differences_agree_with_the_formula(name, alpha):
    net, x, u = problem(name, torch.float64)
    expected = plain_outputs(net, u, x, alpha)
    torch.testing.assert_close(
        scaled(net, alpha, u).propagate(x), expected, rtol=1e-6, atol=1e-6 * expected.std().item()
    )


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_plain_float32_fails_at_a_large_scale_and_differences_do_not(name):
    net, x, u = problem(name)
    expected = plain_outputs(copy.deepcopy(net).double(), double(u), x.double(), 1e7)
    plain, ours = plain_outputs(net, u, x, 1e7), scaled(net, 1e7, u)(x)
    assert (plain - expected).norm() > 0.5 * expected.norm()
    assert (ours - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_the_limit_is_the_forward_mode_derivative(name):
    net, x, u = problem(name, torch.float64)
    tangent = tangent_outputs(net, u, x)
    step = 1e-7  # a central difference, on inputs where no kink is that near
    moved = [
        torch.func.functional_call(net, {n: w + s * u[n] for n, w in net.named_parameters()}, (x,))
        for s in (step, -step)
    ]
    torch.testing.assert_close(tangent, (moved[0] - moved[1]) / (2 * step), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scaled(net, math.inf, u)(x), tangent)
    torch.testing.assert_close(scaled(net, math.inf, u).propagate(x), tangent)
    torch.testing.assert_close(scaled(net, 1e12, u).propagate(x), tangent, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("alpha", [1.0, 5.0, 1e7, math.inf])
def test_the_gradient_is_that_of_the_network_at_its_weights(alpha):
    """∂F/∂u = Dh(w0 + u/α): one reverse pass of the network itself."""
    net, x, u = problem(dtype=torch.float64)
    model, cotangent = scaled(net, alpha, u), torch.randn(6, 10, dtype=torch.float64)
    ours = torch.autograd.grad((model(x) * cotangent).sum(), list(model.u))
    w = {name: (w + u[name] / alpha).detach().requires_grad_() for name, w in net.named_parameters()}
    expected = torch.autograd.grad((torch.func.functional_call(net, w, (x,)) * cotangent).sum(), list(w.values()))
    for got, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6 * wanted.abs().max().item())


def test_two_passes_are_the_formula_and_have_its_gradient():
    net, x, u = problem(dtype=torch.float64)
    ours, plain = scaled(net, 3.0, u), Scaled(net, 3.0, two_passes=True)
    plain.load_state_dict(ours.state_dict())
    torch.testing.assert_close(plain(x), ours(x))
    assert plain(x).equal(plain_outputs(net, u, x, 3.0))
    gradients = (torch.autograd.grad(model(x).square().sum(), list(model.u)) for model in (plain, ours))
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6 * wanted.abs().max().item())


def test_the_output_is_zero_at_the_start_and_the_network_is_left_alone():
    net, x, _ = problem()
    before = [w.clone() for w in net.parameters()]
    for alpha in (1.0, 1e3, math.inf):
        model = Scaled(net, alpha)
        assert not model(x).any()
        model(x).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(w.grad is None for w in net.parameters())


def test_stability_is_the_share_of_units_on_their_side():
    net, x, u = problem(dtype=torch.float64, size=0.1)

    def signs(weights):
        found = []
        hooks = [
            layer.register_forward_hook(lambda *a: found.append(a[2] > 0))
            for layer in net.modules()
            if isinstance(layer, nn.ReLU)
        ]
        torch.func.functional_call(net, weights, (x,))
        for hook in hooks:
            hook.remove()
        return torch.cat([s.flatten() for s in found])

    start = {name: w.detach() for name, w in net.named_parameters()}
    shares = []
    for alpha in (1.0, 10.0, 1e3):
        moved = {name: w + u[name] / alpha for name, w in start.items()}
        expected = (signs(start) == signs(moved)).double().mean().item()
        assert scaled(net, alpha, u).stability(x) == pytest.approx(expected, abs=1e-9)
        shares.append(expected)
    assert shares == sorted(shares) and shares[0] < 0.95 < shares[-1]
    assert scaled(net, math.inf, u).stability(x) == 1.0


def test_any_module_has_a_tangent_model():
    net = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 2)).double()
    x, model = torch.randn(5, 4).double(), Scaled(net, math.inf)
    for w in model.u:
        w.data = torch.randn_like(w)
    expected = torch.func.jvp(
        lambda *w: torch.func.functional_call(net, dict(zip(model.names, w, strict=True)), (x,)),
        tuple(w.detach() for w in net.parameters()),
        tuple(w.detach() for w in model.u),
    )[1]
    torch.testing.assert_close(model(x).detach(), expected)


def test_pooling_leaves_out_the_edge_as_torch_does():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)).double()
    x, u = torch.randn(4, 1, 7, 7).double(), {n: torch.randn_like(w) for n, w in net.named_parameters()}
    torch.testing.assert_close(scaled(net, 2.0, u).propagate(x), plain_outputs(net, u, x, 2.0))


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan])
def test_a_scale_that_is_not_positive_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be positive"):
        Scaled(convnet("vgg11", 1 / 64), alpha)


@pytest.mark.parametrize("layer", [nn.Softplus(), nn.BatchNorm2d(2), nn.MaxPool2d(3, 2), nn.Conv2d(2, 2, 3, groups=2)])
def test_an_unknown_layer_is_named(layer):
    with pytest.raises(TypeError, match=type(layer).__name__):
        Scaled(nn.Sequential(nn.Conv2d(1, 2, 3), layer), 10.0)


@pytest.mark.parametrize("alpha", [1.0, 10.0, math.inf])
def test_pooling_before_the_relu_is_the_same_to_the_last_bit(alpha):
    """Outputs and gradients, by each of the ways; the module as it is against the order that training takes."""
    net, x, u = problem()
    model = scaled(net, alpha, u)
    model.two_passes = alpha == 1.0
    kinds = [type(layer) for layer in model._fast]
    assert kinds != [type(layer) for layer in net] and set(model._fast.state_dict()) == set(net.state_dict())
    assert not any(pair == (nn.ReLU, nn.MaxPool2d) for pair in itertools.pairwise(kinds))
    found = []
    for way in (model._fast, net):
        object.__setattr__(model, "_fast", way)
        outputs = model(x)
        found.append([outputs, *torch.autograd.grad(outputs.square().sum(), list(model.u))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_only_plain_modules_are_reordered():
    """A subclass has a forward pass of its own, and indices of a pooling are for whoever comes next."""

    class Own(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + 1

    for module in (
        Own(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, return_indices=True)),
    ):
        order = [type(layer) for layer in module]
        assert [type(layer) for layer in Scaled(module, math.inf)._fast] == order
