"""The scaled model in differences, against the formula in float64 and against forward mode."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from lazylib.nets import Scaled, convnet, displacement, from_module, plain_outputs, tangent_outputs, twin
from lazylib.nets import scaled as make_scaled

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


def test_stability_of_windows_is_that_of_the_published_script():
    """There the pooled values are compared with those pooled after all but the first winners were set to zero."""
    net, x, u = problem(dtype=torch.float64, size=0.1)

    def pooled(weights, masks=None):
        found, made, pool = [], [], nn.MaxPool2d(2, 2, return_indices=True)

        def look(_, inputs, output):
            z, at = inputs[0], pool(inputs[0])[1]
            back = torch.zeros_like(z).flatten(2).scatter(2, at.flatten(2), output.flatten(2)).view_as(z)
            made.append(back > 0 if masks is None else masks[len(made)])
            found.append(pool(z * made[-1])[0] == output)

        hooks = [layer.register_forward_hook(look) for layer in net.modules() if isinstance(layer, nn.MaxPool2d)]
        torch.func.functional_call(net, weights, (x,))
        for hook in hooks:
            hook.remove()
        return found, made

    start = {name: w.detach() for name, w in net.named_parameters()}
    masks, shares = pooled(start)[1], []
    for alpha in (1.0, 10.0, 1e3):
        found = pooled({name: w + u[name] / alpha for name, w in start.items()}, masks)[0]
        shares.append(torch.cat([f.flatten() for f in found]).double().mean().item())
        assert scaled(net, alpha, u).stability(x, "windows") == pytest.approx(shares[-1], abs=1e-9)
    assert len(masks) == 5 and shares == sorted(shares) and shares[0] < 0.95 < shares[-1]
    assert scaled(net, math.inf, u).stability(x, of="windows") == 1.0


def test_stability_says_what_there_is_none_of():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="'units' or 'windows', not 'pools'"):
        Scaled(net, 1.0).stability(torch.ones(1, 4), "pools")
    with pytest.raises(ValueError, match="max pooling"):
        Scaled(net, 1.0).stability(torch.ones(1, 4), "windows")
    with pytest.raises(ValueError, match="a ReLU"):
        Scaled(net[:2], 1.0).stability(torch.ones(1, 4))


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


@pytest.mark.parametrize("alpha", [1.0, 10.0, math.inf])
def test_pooling_before_the_relu_is_the_same_but_for_rounding(alpha):
    """Outputs and gradients, by each of the ways; the module as it is against the order that training takes.

    Not to the last bit everywhere: how many values a processor takes at once decides which are rounded once.
    """
    net, x, u = problem()
    model = scaled(net, alpha, u)
    model.two_passes = alpha == 1.0
    kinds = [type(layer) for layer in model._fast]
    assert kinds != [type(layer) for layer in net] and set(model._fast.state_dict()) == set(net.state_dict())
    assert not any(pair == (nn.ReLU, nn.MaxPool2d) for pair in itertools.pairwise(kinds))
    found = []
    for way in (model._fast, model.module):
        object.__setattr__(model, "_fast", way)
        outputs = model(x)
        found.append([outputs, *torch.autograd.grad(outputs.square().sum(), list(model.u))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * float(b.abs().max()))


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
        assert [type(layer) for layer in displacement._pool_first(module)] == order
    shared = nn.Linear(2, 2)
    assert len(displacement._pool_first(nn.Sequential(shared, nn.ReLU(), shared))) == 3


# ---- modules of any kind ----


class Sum(nn.Sequential):
    """A sequence that adds its input: a subclass whose layers are known and whose forward pass is not."""

    def forward(self, x):
        return x + super().forward(x)


class Tokens(nn.Module):
    """Embeddings, LayerNorm, torch's own transformer layer, tied output weights."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, activation="gelu", batch_first=True)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        return self.head(self.layer(self.tokens(tokens))).mean(1)


def twice():
    shared = nn.Linear(4, 4)
    tied = nn.Linear(4, 4)
    tied.weight = shared.weight
    return nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), tied, nn.ReLU(), nn.Linear(4, 2))


def kinds(name):
    torch.manual_seed(0)
    x, images = torch.randn(5, 4), torch.randn(5, 2, 6, 6)
    return {
        "subclass": lambda: (Sum(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), x),
        "twice": lambda: (twice(), x),
        "gelu": lambda: (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2)), x),
        "batch norm": lambda: (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()), images),
        "pool": lambda: (nn.Sequential(nn.Conv2d(2, 3, 3), nn.MaxPool2d(3, 1), nn.Flatten()), images),
        "tokens": lambda: (Tokens(), torch.randint(5, (3, 4))),
    }[name]()


@pytest.mark.parametrize("name", ["subclass", "twice", "gelu", "batch norm", "pool", "tokens"])
@pytest.mark.parametrize("alpha", [2.0, 1e6, math.inf])
def test_any_module_is_scaled_to_the_digits_of_float32(name, alpha):
    net, x = kinds(name)
    net.eval()
    model = make_scaled(net, alpha)
    assert model.by_differences == (name == "twice")
    rng = torch.Generator().manual_seed(1)
    for u in model.u:
        u.data = 0.3 * torch.randn(u.shape, generator=rng)
    exact, x2 = copy.deepcopy(net).double(), x.double() if x.is_floating_point() else x
    u = {key: w.detach().double().requires_grad_() for key, w in model.displacement().items()}
    # a central difference is the tangent model to 1e-8; α = 10⁶ is at 10⁻⁶ of it, or the formula in float64 itself
    expected = plain_outputs(exact, u, x2, min(alpha, 1e6))
    found = model(x)
    assert found.dtype == torch.float32
    close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.detach().abs().max())}
    torch.testing.assert_close(found.double(), expected, **close)
    cotangent = torch.randn(found.shape, generator=rng)
    ours = torch.autograd.grad((found * cotangent).sum(), list(model.u))
    wanted = torch.autograd.grad((expected * cotangent).sum(), list(u.values()))
    for got, want in zip(ours, wanted, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))
    if alpha == 1e6 and name != "twice":  # float32 as it is written would not do
        plain = plain_outputs(net, dict(model.displacement()), x, alpha)
        assert (plain - found).norm() > 1e-2 * found.norm()


def test_the_readers_module_stays_as_it_is():
    net, x = kinds("batch norm")
    net.eval()
    net[0].bias.requires_grad_(False)
    flags = [w.requires_grad for w in net.parameters()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for model in (Scaled(net, 10.0), Scaled(net, math.inf), twin(net)):
        model.train()
        model(x).sum().backward()
        assert not model.module[1].training and len([w for w in model.parameters() if w.grad is not None]) == 3
    assert [w.requires_grad for w in net.parameters()] == flags
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_scale_that_float64_does_not_reach_and_random_modules_are_refused():
    net, _ = kinds("gelu")
    with pytest.raises(ValueError, match="alpha must be at most 1e.09 or inf for this module"):
        Scaled(net, 1e10)
    with pytest.raises(TypeError, match="differences go through Conv2d, .* not through all layers of Sequential"):
        Scaled(net, 10.0).stability(torch.ones(1, 4))
    for make in (lambda module: Scaled(module, 10.0), twin):
        with pytest.raises(ValueError, match=r"its layer layer.self_attn \(MultiheadAttention\) draws random numbers"):
            make(kinds("tokens")[0])
        with pytest.raises(ValueError, match="at least one trainable parameter"):
            make(nn.ReLU())


# ---- the twin ----


@pytest.mark.parametrize("name", ["twice", "gelu", "batch norm", "tokens"])
def test_the_twin_is_the_tangent_model_under_the_readers_loop(name):
    """Trained by SGD with momentum and weight decay, it does what h(w0) + J(w − w0) with a full Jacobian does."""
    net, x = kinds(name)
    net = net.double().eval()
    x = x.double() if x.is_floating_point() else x
    h, w0 = from_module(net)
    shape = net(x).shape
    slope, start = torch.func.jacrev(lambda w: h(w, x).flatten())(w0), h(w0, x).flatten()
    model, w = twin(net), w0.clone().requires_grad_()
    assert [key for key, _ in model.named_parameters()] == [f"module.{key}" for key, _ in net.named_parameters()]
    torch.testing.assert_close(model(x), net(x))

    def train(parameters, outputs):
        optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            (outputs() - 1).square().mean().backward()
            optimizer.step()
        return outputs()

    expected = train([w], lambda: start + slope @ (w - w0))
    found = train(model.parameters(), lambda: model(x))
    assert found.shape == shape
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-9, atol=1e-10)
    assert not torch.allclose(found, net(x), rtol=0.01)


def test_the_twin_takes_what_the_module_takes():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, a, b):
            return {"logits": self.left(a) * self.right(b)}

    net, a, b = Pair(), torch.randn(4, 3), torch.randn(4, 3)
    model = twin(net, output=lambda out: out["logits"])
    torch.testing.assert_close(model(a, b=b), net(a, b)["logits"])
    for w in model.parameters():
        w.data *= 2
    expected = sum(net(a, b)["logits"] for _ in range(3))  # h is bilinear: h(w0) + Dh(w0) w0 = 3 h(w0)
    torch.testing.assert_close(model(a, b=b), expected)
    half = twin(nn.Linear(3, 2).bfloat16())
    assert half(a.bfloat16()).dtype == torch.float32


def test_twins_are_saved_and_loaded():
    net, x = kinds("gelu")
    first, second = twin(net), twin(copy.deepcopy(net).requires_grad_())
    for w in first.parameters():
        w.data += 0.1
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(x), first(x))
