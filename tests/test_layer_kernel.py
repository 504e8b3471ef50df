"""The layer-wise kernel against Jacobians."""

import pytest
import torch
from torch import nn

import lazylib.measures._kernel_paths as paths
from lazylib.measures import tangent_kernel
from lazylib.nets import convnet, from_module
from lazylib.runs import _memory as memory


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


def test_a_sequence_of_vectors_and_an_activation_in_place():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.last = nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)

        def forward(self, x):
            return self.last(self.act(self.first(x)).mean(1))

    net, x = Tokens().double(), torch.randn(3, 6, 4).double()
    left = jacobian(net, x)
    layers = [net.first, net.last]
    torch.testing.assert_close(paths.by_layers(net, layers, x), left @ left.T)
    torch.testing.assert_close(tangent_kernel(net, None, x), left @ left.T)


def test_frozen_weights_do_not_count_and_nothing_is_left_behind():
    net, x = convnet("vgg11", 1 / 64).double(), torch.randn(2, 3, 32, 32).double()
    net[0].requires_grad_(False)
    net[3].bias.requires_grad_(False)
    net[6].weight.requires_grad_(False)
    h, w0 = from_module(net)
    rows = torch.func.jacrev(lambda w: h(w, x).flatten())(w0)
    torch.testing.assert_close(tangent_kernel(net, None, x), rows @ rows.T)
    torch.testing.assert_close(tangent_kernel(net, 2 * w0, x), tangent_kernel(h, 2 * w0, x))
    assert not any(layer._forward_hooks for layer in net.modules())
    with pytest.raises(ValueError, match="at least one trainable parameter"):
        tangent_kernel(net.requires_grad_(False), None, x)


class Again(nn.Module):
    """Uses a layer twice, or its weight outside it; or subtracts the mean over the inputs."""

    def __init__(self, how):
        super().__init__()
        self.how, self.first, self.last = how, nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        z = torch.tanh(self.first(x))
        if self.how == "twice":
            z = torch.tanh(self.first(z))
        if self.how == "outside":
            z = z @ self.first.weight
        out = self.last(z)
        return out - out.mean(0) if self.how == "together" else out


@pytest.mark.parametrize("how", ["once", "twice", "outside", "together"])
def test_weights_used_twice_are_counted_twice(how):
    net, x = Again(how).double(), torch.randn(5, 4).double()
    left, right = jacobian(net, x), jacobian(net, x[:3])
    torch.testing.assert_close(tangent_kernel(net, None, x), left @ left.T)
    if how != "together":
        torch.testing.assert_close(tangent_kernel(net, None, x, x[:3]), left @ right.T)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(2),
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Conv2d(2, 2, 3, groups=2, padding=1),
        nn.GroupNorm(1, 2),
    ],
)
def test_any_other_layer_goes_by_jacobians(layer):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), layer, nn.Tanh(), nn.Flatten(), nn.Linear(18, 2)).double().eval()
    x = torch.randn(4, 1, 5, 5).double()
    rows = [torch.autograd.grad(v, list(net.parameters()), retain_graph=True) for v in net(x).flatten()]
    left = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    torch.testing.assert_close(tangent_kernel(net, None, x), left @ left.T)


@pytest.mark.parametrize(("inputs", "size"), [(2, 2**30), (3, 1), (32, 1)])
def test_parts_and_blocks_do_not_change_a_jacobian(inputs, size, monkeypatch):
    monkeypatch.setattr(paths, "_INPUTS", inputs)
    monkeypatch.setattr(paths, "_BYTES", size)
    for how in ("once", "together"):  # the latter cannot be taken in parts
        net, x = Again(how).double(), torch.randn(7, 4).double()
        h, w0 = from_module(net)
        torch.testing.assert_close(paths.jacobian(h, w0, x), jacobian(net, x))


def test_a_jacobian_takes_little_memory_beside_itself(monkeypatch):
    """64 images through a small network: outputs in blocks, by what the activations take."""
    net, w0 = from_module(nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6272, 1)))
    x, seen, vmap = torch.randn(64, 1, 28, 28), [], torch.func.vmap
    monkeypatch.setattr(torch.func, "vmap", lambda f: lambda v: seen.append(len(v)) or vmap(f)(v))
    monkeypatch.setattr(paths, "_BYTES", 20 * 2**20)
    rows = paths.jacobian(net, w0, x)
    assert rows.shape == (64, len(w0)) and max(seen) * 32 * 6272 * 4 < 20 * 2**20
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: type("", (), {"available": 2**20}))
    with pytest.raises(MemoryError, match="the Jacobian needs .* GiB"):
        paths.jacobian(net, w0, x)


def test_a_random_module_is_refused():
    net = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"layer 1 \(Dropout\) draws random numbers"):
        tangent_kernel(net, None, torch.randn(2, 3))


def test_convolutions_keep_all_digits_on_a_gpu(monkeypatch):
    """torch convolves in TF32 there unless it is told not to; what the reader had set is put back."""
    seen, sums = [], paths.by_layers
    conv, name, told, exact = torch.backends.cudnn, "allow_tf32", True, False  # torch before 2.9
    if hasattr(conv, "conv"):
        conv, name, told, exact = conv.conv, "fp32_precision", "tf32", "ieee"
    monkeypatch.setattr(paths, "by_layers", lambda *given: seen.append(getattr(conv, name)) or sums(*given))
    before = getattr(conv, name)
    try:
        setattr(conv, name, told)
        tangent_kernel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), None, torch.ones(3, 2, 2))
        assert seen == [exact] and getattr(conv, name) == told
    finally:
        setattr(conv, name, before)
