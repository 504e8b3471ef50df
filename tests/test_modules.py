"""Torch modules of many kinds as nets of flat parameters: values and derivatives against autograd and differences."""

import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn
from torch.func import grad, jacrev, jvp, vjp
from torch.nn.utils import parametrizations

from lazylib.nets import from_module

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Encoder(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, **options)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.layer(x).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer, self.out = kind(4, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x):
        return self.out(self.layer(x)[0][:, -1])


class GPT(nn.Module):
    """A block of a decoder, with positions, causal attention by torch's function and tied embeddings."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(5, 4), nn.Embedding(4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(3))
        self.qkv, self.mix = nn.Linear(4, 12), nn.Linear(4, 4)
        self.mlp = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        q, k, v = (part.unflatten(-1, (2, 2)).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, -1))
        mixed = nnf.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).flatten(2))
        x = x + self.mlp(self.norms[1](x))
        return self.head(self.norms[2](x))[:, -1]


class Twice(nn.Module):
    """A layer used twice, under two names, and its weight once more in another one."""

    def __init__(self):
        super().__init__()
        self.first = self.second = nn.Linear(4, 4)
        self.third = nn.Linear(4, 4)
        self.third.weight = self.first.weight

    def forward(self, x):
        return self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, a, b):
        return {"logits": torch.tanh(self.left(a)) * self.right(b)}


def small(*layers):
    return nn.Sequential(*layers)


def images(*layers):
    return nn.Sequential(nn.Conv2d(2, 4, 3), *layers, nn.Flatten(), nn.Linear(36, 2))


VECTORS, SERIES, IMAGES = normal(5, 4), normal(3, 4, 4), normal(3, 2, 5, 5)
TOKENS = torch.randint(5, (3, 4), generator=torch.Generator().manual_seed(0))
MODULES = {
    "gelu": lambda: (small(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 1)), VECTORS),
    "layer norm": lambda: (
        small(nn.LayerNorm(4), nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 1)),
        VECTORS,
    ),
    "layer norm, no affine": lambda: (
        small(nn.Linear(4, 5), nn.LayerNorm(5, elementwise_affine=False), nn.Tanh(), nn.Linear(5, 1)),
        VECTORS,
    ),
    "rms norm": lambda: (small(nn.Linear(4, 5), nn.RMSNorm(5), nn.SiLU(), nn.Linear(5, 1)), VECTORS),
    "group norm": lambda: (images(nn.GroupNorm(2, 4), nn.Tanh()), IMAGES),
    "instance norm": lambda: (images(nn.InstanceNorm2d(4, affine=True), nn.Tanh()), IMAGES),
    "batch statistics": lambda: (images(nn.BatchNorm2d(4, track_running_stats=False), nn.Tanh()), IMAGES),
    "batch norm": lambda: (images(nn.BatchNorm2d(4), nn.Tanh()), IMAGES),
    "average pool": lambda: (
        small(nn.Conv2d(2, 4, 2), nn.SiLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 2)),
        IMAGES,
    ),
    "max pool": lambda: (small(nn.Conv2d(2, 4, 2), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 1)), IMAGES),
    "depthwise": lambda: (images(nn.Conv2d(4, 4, 3, padding="same", groups=4), nn.ELU()), IMAGES),
    "transposed": lambda: (small(nn.ConvTranspose2d(2, 1, 2), nn.Softplus(), nn.Flatten(), nn.Linear(36, 1)), IMAGES),
    "gated linear unit": lambda: (small(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 1)), VECTORS),
    "softmax": lambda: (small(nn.Linear(4, 5), nn.Softmax(-1), nn.Linear(5, 3)), VECTORS),
    "weight norm": lambda: (small(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 1)), VECTORS),
    "weight norm of all": lambda: (
        small(parametrizations.weight_norm(nn.Linear(4, 5), dim=None), nn.Tanh(), nn.Linear(5, 1)),
        VECTORS,
    ),
    "spectral norm": lambda: (
        small(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 1)),
        VECTORS,
    ),
    "in place": lambda: (images(nn.ReLU(inplace=True)), IMAGES),
    "attention": lambda: (Attention(), SERIES),
    "encoder": lambda: (Encoder(activation="gelu"), SERIES),
    "encoder, norm first": lambda: (Encoder(activation="gelu", norm_first=True), SERIES),
    "lstm": lambda: (Recurrent(nn.LSTM), SERIES),
    "gru": lambda: (Recurrent(nn.GRU), SERIES),
    "a layer twice": lambda: (Twice(), VECTORS),
    "gpt": lambda: (GPT(), TOKENS),
}


def made(name):
    """A module away from its initialization, where LayerNorm's weights are 1, say; and inputs."""
    torch.manual_seed(3)
    module, x = MODULES[name]()
    module = module.double().eval()
    with torch.no_grad():
        for k, p in enumerate(module.parameters()):
            p += 0.3 * normal(*p.shape, seed=k)
    return module, x


def by_differences(h, w, u, v, step=1e-3):
    """D²h[u, v], by differences of fourth order."""

    def second(e):
        return (h(w + e * (u + v)) - h(w + e * (u - v)) - h(w - e * (u - v)) + h(w - e * (u + v))) / (4 * e * e)

    return (4 * second(step / 2) - second(step)) / 3


@pytest.mark.parametrize("name", MODULES)
def test_every_kind_of_layer_has_its_derivatives(name):
    """Outputs are the module's; first derivatives those of its backward pass; second ones right in every order."""
    module, x = made(name)
    places = [id(p) for p in module.parameters()]
    net, w = from_module(module, x)
    assert [id(p) for p in module.parameters()] == places  # torch puts back the wrong ones in "a layer twice"
    out = module(x).flatten(1).squeeze(-1)
    torch.testing.assert_close(net(w, x), out, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net(torch.stack([2 * w, w]), x)[1], out, rtol=1e-12, atol=1e-12)
    rows = [torch.autograd.grad(value, list(module.parameters()), retain_graph=True) for value in out.flatten()]
    jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])  # (N, P)
    u, v, nu = normal(len(w), seed=1), normal(len(w), seed=2), normal(out.numel(), seed=3)

    def h(p):
        return net(p, x).flatten()

    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(jvp(h, (w,), (u,))[1], jacobian @ u, **close)
    torch.testing.assert_close(vjp(h, w)[1](nu)[0], nu @ jacobian, **close)
    second = by_differences(h, w, u / u.norm(), v / v.norm()) * u.norm() * v.norm()
    twice = jvp(lambda p: jvp(h, (p,), (u,))[1], (w,), (v,))[1]
    if name != "in place":  # which has kinks
        torch.testing.assert_close(twice, second, rtol=1e-5, atol=1e-5 * float(second.abs().max()))
    along = grad(lambda nu: jvp(lambda p: vjp(h, p)[1](nu)[0], (w,), (u,))[1] @ v)(nu)
    torch.testing.assert_close(along, twice, **close)
    product = jvp(lambda p: vjp(h, p)[1](nu)[0], (w,), (u,))[1]
    torch.testing.assert_close(vjp(lambda p: jvp(h, (p,), (u,))[1], w)[1](nu)[0], product, **close)
    torch.testing.assert_close(product @ v, nu @ twice, **close)


@pytest.mark.parametrize("name", ["layer norm", "encoder", "weight norm", "lstm"])
def test_outside_torch_is_as_it_was(name):
    module, x = made(name)
    before = module(x)
    flags = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    from_module(module, x)
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled) == flags
    assert torch.equal(module(x), before)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


# ---- what the net is, while the module goes on ----


def test_a_module_that_trains_on_does_not_move_the_net():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)).double().eval()
    net, w0 = from_module(module)
    start = net(w0, VECTORS)
    optimizer = torch.optim.Adam(module.train().parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        (module(3 + 2 * VECTORS) - 1).square().mean().backward()
        optimizer.step()
    assert torch.equal(net(w0, VECTORS), start)
    after, w = from_module(module.eval())
    torch.testing.assert_close(after(w, VECTORS), module(VECTORS).squeeze(-1))
    assert not torch.allclose(net(w, VECTORS), after(w, VECTORS), rtol=0.05)  # buffers belong to their checkpoint


def test_measuring_changes_no_buffer():
    """Not even that of a layer which writes to one at every pass."""

    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(4, 1)
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x):
            self.passes += 1
            return super().forward(x) * self.passes

    module = Counting()
    net, w0 = from_module(module)
    assert torch.equal(net(w0, VECTORS), net(w0, VECTORS)) and float(module.passes) == 0


def test_frozen_parameters_stay_and_everything_is_in_the_dtype_of_w():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)).eval()
    module[0].requires_grad_(False)
    net, w0 = from_module(module, VECTORS.float())
    assert len(w0) == net.size == 6 + 4 and w0.dtype == torch.float32
    double = net(w0.double(), VECTORS.float())
    assert double.dtype == F64
    torch.testing.assert_close(double, module.double()(VECTORS.float().double()).squeeze(-1))
    half, w = from_module(nn.Linear(4, 1).bfloat16())
    assert w.dtype == torch.float32 and half(w, VECTORS.bfloat16()).dtype == torch.float32


def test_a_compiled_module_is_what_it_compiles():
    module = small(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    net, w0 = from_module(torch.compile(module), VECTORS)
    torch.testing.assert_close(net(w0, VECTORS), module(VECTORS).squeeze(-1))


def test_several_inputs_and_named_outputs():
    module, x = Keywords().double(), {"a": VECTORS, "b": normal(5, 2)}
    net, w0 = from_module(module, x, output=lambda out: out["logits"])
    expected = module(**x)["logits"]
    torch.testing.assert_close(net(w0, x), expected)
    torch.testing.assert_close(net(w0, tuple(x.values())), expected)
    torch.testing.assert_close(net(torch.stack([w0, w0]), x)[1], expected)
    with pytest.raises(TypeError, match="must return a tensor, got dict with the keys logits: say what"):
        from_module(module, x)


def test_one_set_of_inputs_a_run():
    module = small(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    net, w0 = from_module(module, VECTORS)
    w, x = torch.stack([w0, 2 * w0]), torch.stack([VECTORS, VECTORS + 1])
    rows = torch.stack([net(w[k], x[k]) for k in range(2)])
    torch.testing.assert_close(net(w, x), rows)
    recurrent, w0 = from_module(Recurrent(nn.LSTM).double(), SERIES)
    w, x = torch.stack([w0, 2 * w0]), torch.stack([SERIES, SERIES + 1])
    torch.testing.assert_close(recurrent(w, x), torch.stack([recurrent(w[k], x[k]) for k in range(2)]))


# ---- what is refused ----


class NoForward(torch.autograd.Function):
    """The square, without a derivative in forward mode."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(context, inputs, output):
        context.save_for_backward(*inputs)

    @staticmethod
    def backward(context, slope):
        return 2 * context.saved_tensors[0] * slope


class Wrong(NoForward):
    """The square, with a derivative in forward mode that forgets the factor 2."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(context, inputs, output):
        context.save_for_backward(*inputs)
        context.save_for_forward(*inputs)

    @staticmethod
    def jvp(context, tangent):
        return context.saved_tensors[0] * tangent


class Then(nn.Module):
    """A linear layer, then a function."""

    def __init__(self, function, count=1):
        super().__init__()
        self.linear, self.function = nn.Linear(4, count), function

    def forward(self, x):
        return self.function(self.linear(x))


class Copies(nn.Module):
    """Computes with a copy of its parameters."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 1) for _ in range(2))
        self.stacked = torch.stack([layer.weight.detach() for layer in self.layers])

    def forward(self, x):
        return (x @ self.stacked.to(x).sum(0).T).squeeze(-1) + 0 * self.layers[0].bias


@pytest.mark.parametrize(
    ("module", "error", "sentence"),
    [
        (
            small(nn.Linear(4, 3), nn.Dropout(0.1)),
            ValueError,
            r"its layer 1 \(Dropout\) draws random numbers .* call .eval\(\)",
        ),
        (small(nn.Linear(4, 3), nn.BatchNorm1d(3)), ValueError, r"layer 1 \(BatchNorm1d\) changes its statistics"),
        (nn.LSTM(4, 3, 2, dropout=0.1), ValueError, r"layer itself \(LSTM\) draws random numbers"),
        (
            nn.TransformerEncoderLayer(4, 2, 8),
            ValueError,
            r"self_attn \(MultiheadAttention\) draws random",
        ),
        (parametrizations.spectral_norm(nn.Linear(4, 3)), ValueError, r"_SpectralNorm\) changes its statistics"),
        (Then(lambda z: nnf.dropout(z, 0.2)), ValueError, "dropout is on"),
        (Then(lambda z: z + torch.randn_like(z)), ValueError, "two passes on the same inputs differ"),
        (Then(lambda z: z / 0), ValueError, "outputs must be finite"),
        (Then(lambda z: z.sum()), ValueError, r"must give \(n,\) or \(n, k\) outputs, got \(\)"),
        (Then(lambda z: z[None, :, :, None, None]), ValueError, r"got \(1, 5, 1, 1\)"),
        (Then(Wrong.apply), ValueError, "forward and in reverse mode disagree"),
        (Then(lambda z: z.detach()), ValueError, "no trainable parameter reaches the outputs"),
        (Copies(), ValueError, "no trainable parameter reaches the outputs"),
        (nn.LazyLinear(3), ValueError, "the parameter weight has no shape yet"),
        (nn.Sequential(Then(NoForward.apply, 4), nn.Linear(4, 1)), NotImplementedError, r"of the layer 0 \(Then\)"),
        (Then(lambda z: (z, z)), TypeError, "must return a tensor, got tuple"),
    ],
)
def test_what_would_give_wrong_numbers_is_refused_in_a_sentence(module, error, sentence):
    with pytest.raises(error, match=sentence):
        from_module(module, VECTORS.float())


def test_inputs_that_are_changed_in_place_are_refused():
    with pytest.raises(ValueError, match="changes its inputs in place"):
        from_module(small(nn.ReLU(inplace=True), nn.Linear(4, 1)).double(), VECTORS.clone())


def test_dropout_that_is_off_will_do():
    module = small(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)).double().eval()
    net, w0 = from_module(module, VECTORS)
    assert math.isfinite(float(jacrev(lambda w: net(w, VECTORS))(w0).norm()))
    from_module(small(nn.Linear(4, 3), nn.Dropout(0.0)).double(), VECTORS)
