"""κ and its parts against full Jacobian and Hessian tensors, closed forms, and scaling laws."""

import functools
import math

import pytest
import torch
from torch.func import hessian, jacfwd

from lazylib import measures
from lazylib.measures import criterion, hessian_norm, jacobian_norm, two_layer_kappa
from lazylib.measures._neurons import largest_gated
from lazylib.nets import ACTIVATIONS, TwoLayer, from_module

F64 = torch.float64
TIGHT = {"starts": 16, "tol": 1e-5}  # the defaults of `hessian_norm`
kappa, relative_changes = (functools.partial(f, **TIGHT) for f in (measures.kappa, measures.relative_changes))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def sphere(n, d, seed=0):
    return torch.nn.functional.normalize(normal(n, d, seed=seed), dim=1)


def layered(sizes, activation, x):
    """A net without biases as a function of its flat parameters, and their number."""
    shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
    counts = [p * q for p, q in shapes]

    def h(w):
        z = x
        for k, (part, shape) in enumerate(zip(w.split(counts), shapes, strict=True)):
            z = z @ part.view(shape)
            z = ACTIVATIONS[activation](z) if k < len(shapes) - 1 else z
        return z[:, 0] if sizes[-1] == 1 else z

    return h, sum(counts)


def tensors(h, w):
    """Dh (N, P) and D²h (N, P, P) of h/√n, built in full."""
    n = h(w).shape[0]
    first, second = jacfwd(h)(w), hessian(h)(w)
    return (first.reshape(-1, len(w)) / math.sqrt(n), second.reshape(-1, len(w), len(w)) / math.sqrt(n))


def brute_hessian_norm(t, starts=60):
    """max_ν ‖H_ν‖ of a full tensor t (N, P, P) by dense alternation from many directions ν."""
    nu = torch.cat([torch.eye(len(t), dtype=F64)[t.abs().amax(dim=(1, 2)) > 0], normal(starts, len(t))])
    for k in range(4000):
        nu = nu / nu.norm(dim=1, keepdim=True)
        values, vectors = torch.linalg.eigh(torch.einsum("rn,npq->rpq", nu, t))
        u = vectors.gather(2, values.abs().argmax(dim=1)[:, None, None].expand(-1, t.shape[1], 1))[:, :, 0]
        q = torch.einsum("npq,rp,rq->rn", t, u, u)
        norms = q.norm(dim=1)
        if k > 20 and (q / norms[:, None] - nu).abs().max() < 1e-9:
            break
        nu = q[norms.topk(8).indices] if k == 20 else q
    return norms.max().item()


@pytest.mark.parametrize("activation", ["relu", "softplus", "gelu"])
@pytest.mark.parametrize("sizes", [(3, 4, 1), (3, 3, 3, 1), (3, 4, 2)], ids=["two-layer", "deep", "vector"])
def test_equals_brute_force(sizes, activation):
    x = sphere(6, 3)
    h, size = layered(sizes, activation, x)
    w = normal(size, seed=3)
    y = normal(*h(w).shape, seed=4)
    first, second = tensors(h, w)
    k = kappa(h, w, y)
    residual = math.sqrt((h(w) - y).square().sum().item() / 6)
    assert k.converged
    assert k.residual == pytest.approx(residual, rel=1e-12)
    assert k.jacobian_norm == pytest.approx(torch.linalg.matrix_norm(first, 2).item(), rel=1e-9)
    assert k.hessian_norm == pytest.approx(brute_hessian_norm(second), rel=1e-8)
    assert k.kappa == pytest.approx(k.residual * k.hessian_norm / k.jacobian_norm**2, rel=1e-12)


@pytest.mark.parametrize("activation", ["relu", "softplus", "gelu"])
@pytest.mark.parametrize("seed", range(2))
def test_the_defaults_do_for_kappa(activation, seed):
    """Eight starts, of which four go on, and a tolerance of 10⁻²; four starts alone miss the last of these by 6 %."""
    h, size = layered((3, 6, 6, 1), activation, sphere(12, 3))
    w, y = normal(size, seed=seed), normal(12, seed=9)
    found, best = measures.kappa(h, w, y), hessian_norm(h, w, tol=1e-3)
    assert found.converged and found.hessian_norm == pytest.approx(best.value, rel=1e-3)
    assert found[1:3] == kappa(h, w, y, tol=1.0)[1:3]


def test_memory_is_asked_for_before_work(monkeypatch):
    h, size = layered((3, 4, 1), "gelu", sphere(6, 3))
    w = normal(size)
    expected = hessian_norm(h, w, tol=1e-3)
    monkeypatch.setattr(criterion, "BYTES", 1)  # one start at a time
    assert hessian_norm(h, w, tol=1e-3).value == pytest.approx(expected.value, rel=1e-5)
    monkeypatch.setattr("lazylib.runs._memory.psutil.virtual_memory", lambda: type("", (), {"available": 1000}))
    with pytest.raises(MemoryError, match="a product with the second derivative of h needs"):
        hessian_norm(h, w)


def test_hessian_norm_on_a_grid_of_output_directions():
    """With two outputs ν runs over half a circle, which a grid covers without any iteration."""
    h, size = layered((3, 4, 4, 1), "gelu", sphere(2, 3))
    w = normal(size, seed=5)
    second = tensors(h, w)[1]
    t = torch.linspace(0, math.pi, 20001, dtype=F64)
    nu = torch.stack([t.cos(), t.sin()], dim=1)
    best = max(
        torch.linalg.eigvalsh(torch.einsum("rn,npq->rpq", part, second)).abs().max().item() for part in nu.split(2000)
    )
    assert hessian_norm(h, w).value == pytest.approx(best, rel=1e-7)  # spacing²/8 = 3e-9


def test_known_norms():
    """h = ½(c1 w1², c2 w2²): Dh = diag(c w)/√2 and ‖D²h‖ = max|c|/√2; h = ½ wᵀHw: ‖D²h‖ = max|λ|."""
    c = torch.tensor([1.0, -3.0], dtype=F64)
    w = torch.tensor([4.0, 1.0], dtype=F64)
    k = kappa(lambda w: 0.5 * c * w**2, w, torch.zeros(2, dtype=F64))
    assert k.hessian_norm == pytest.approx(3 / math.sqrt(2), rel=1e-10)
    assert k.jacobian_norm == pytest.approx(4 / math.sqrt(2), rel=1e-10)
    assert k.residual == pytest.approx(math.sqrt((8**2 + 1.5**2) / 2), rel=1e-12)
    q = torch.linalg.qr(normal(5, 5))[0]
    matrix = q @ torch.diag(torch.tensor([1.0, 2.0, -7.0, 3.0, 0.0], dtype=F64)) @ q.T
    assert hessian_norm(lambda w: (0.5 * w @ matrix @ w)[None], normal(5)).value == pytest.approx(7, rel=1e-9)


class Norms(torch.nn.Module):
    """Tied embeddings, and a normalization between them."""

    def __init__(self, norm):
        super().__init__()
        self.tokens, self.norm, self.mix = torch.nn.Embedding(4, 3), norm, torch.nn.Linear(3, 3)

    def forward(self, tokens):
        z = self.mix(self.norm(self.tokens(tokens).mT).mT.mean(1))
        return torch.nn.functional.gelu(z) @ self.tokens.weight[:2].T


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    "norm",
    [
        torch.nn.LayerNorm(3, elementwise_affine=False),
        torch.nn.InstanceNorm1d(3, affine=True),
        torch.nn.BatchNorm1d(3, track_running_stats=False),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norms_of_modules_equal_brute_force(norm, raw):
    """Layers whose nested forward derivative is wrong in torch, and a tied weight; a module, or a reader's function."""
    torch.manual_seed(0)
    module, x = Norms(norm).double(), torch.tensor([[0, 1, 2], [3, 3, 1], [2, 0, 3]])
    net, w0 = from_module(module)
    w0 = w0 + 0.3 * normal(len(w0))
    names, shapes = zip(*((name, p.shape) for name, p in module.named_parameters()), strict=True)

    def by_hand(w):
        parts = w.split([shape.numel() for shape in shapes])
        parts = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(module, parts, (x,))

    h = by_hand if raw else lambda w: net(w, x)
    first, second = tensors(lambda w: net(w, x), w0)  # test_modules.py has them by differences
    torch.testing.assert_close(second, second.mT)
    found = hessian_norm(h, w0, starts=32, tol=1e-4)
    assert found.converged and found.value == pytest.approx(brute_hessian_norm(second), rel=1e-6)
    assert jacobian_norm(h, w0).value == pytest.approx(torch.linalg.matrix_norm(first, 2).item(), rel=1e-9)


def test_dropout_in_a_function_is_refused():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1)).double()
    x = sphere(6, 3)

    def h(w):
        return torch.func.functional_call(module, {"0.weight": w.view(4, 3)}, (x,)).squeeze(-1)

    with pytest.raises(ValueError, match="dropout is on"):
        hessian_norm(h, normal(12))
    module.eval()
    assert hessian_norm(h, normal(12)).value == 0


def test_linear_model_is_perfectly_lazy():
    x = normal(5, 3)
    k = kappa(lambda w: x @ w, normal(3), normal(5, seed=1))
    assert (k.hessian_norm, k.kappa, k.converged) == (0.0, 0.0, True)
    assert k.jacobian_norm == pytest.approx(torch.linalg.matrix_norm(x, 2).item() / math.sqrt(5), rel=1e-9)


@pytest.mark.parametrize("activation", ["relu", "softplus", "gelu"])
@pytest.mark.parametrize(("n", "d"), [(9, 3), (4, 6)])
@pytest.mark.parametrize("tau", [0.3, 3.0])
def test_two_layer_equals_brute_force(activation, n, d, tau):
    x, y, m = 2 * sphere(n, d), normal(n, seed=1), 5
    a, b = tau * normal(m, seed=2), tau * normal(m, d, seed=3)
    h, _ = layered((d, m, 1), activation, x)
    w = torch.cat([b.T.reshape(-1), a])  # layered has the input weights first
    first, second = tensors(lambda w: -0.7 * h(w), w)
    k = two_layer_kappa(x, y, a, b, scale=-0.7, activation=activation)
    assert k.converged
    assert k.residual == pytest.approx((-0.7 * h(w) - y).norm().item() / math.sqrt(n), rel=1e-12)
    assert k.jacobian_norm == pytest.approx(torch.linalg.matrix_norm(first, 2).item(), rel=1e-10)
    assert k.hessian_norm == pytest.approx(brute_hessian_norm(second), rel=1e-8)


def test_relu_closed_form_is_the_largest_of_all_neurons():
    """The bounds that skip neurons must never skip the largest one."""
    for seed in range(3):
        n, d, m = 80, 12, 1500
        x, b = sphere(n, d, seed), normal(m, d, seed=seed + 10)
        x = x * torch.linspace(0.1, 30, n, dtype=F64)[:, None]
        gates = (b @ x.T > 0).to(F64)
        every = torch.linalg.eigvalsh(torch.einsum("ji,ip,iq->jpq", gates, x, x) / n)[:, -1]
        k = two_layer_kappa(x, torch.zeros(n, dtype=F64), normal(m), b, scale=0.5)
        assert k.hessian_norm == pytest.approx(0.5 * every.max().sqrt().item(), rel=1e-11)


def test_relu_closed_form_survives_misleading_bounds():
    """190 patterns of eigenvalue 1, 18 of them equal, have larger bounds than the one of eigenvalue 1.05²."""
    x = torch.eye(21, dtype=F64)
    x[20, 20] = 1.05
    i, j = torch.triu_indices(20, 20, offset=1)
    gates = torch.ones(191, 21, dtype=torch.bool)
    gates[range(190), i] = gates[range(190), j] = gates[:190, 20] = False
    gates[190, :20] = False
    assert largest_gated(x, gates) == pytest.approx(1.05**2 / 21, rel=1e-12)


def test_general_and_two_layer_paths_agree():
    d, m, n = 10, 8, 40
    x, y = sphere(n, d), normal(n, seed=1)
    for activation in ACTIVATIONS:
        net = TwoLayer(d, m, activation, scale=m**-0.5)
        w = net.init(1.0, 0, symmetrized=True, dtype=F64)[0]
        general = kappa(lambda w, net=net: net(w, x), w, y, starts=48)
        special = two_layer_kappa(x, y, *net.split(w), scale=net.scale, activation=activation)
        assert general[:4] == pytest.approx(special[:4], rel=1e-7)
        assert general.converged and special.converged


def test_a_wide_net_of_equal_neurons_has_the_norm_of_one():
    """Blocks: the maximum sits on one neuron, so copies of it change nothing (a sum over neurons would)."""
    x, a, b = sphere(20, 4), normal(1), normal(1, 4, seed=1)
    one, many = (two_layer_kappa(x, torch.ones(20, dtype=F64), a.repeat(c), b.repeat(c, 1)) for c in (1, 7))
    assert many.hessian_norm == pytest.approx(one.hessian_norm, rel=1e-12)
    assert many.jacobian_norm == pytest.approx(math.sqrt(7) * one.jacobian_norm, rel=1e-12)


def test_output_scale():
    """κ of αh against y is κ of h against y/α."""
    x = sphere(6, 3)
    h, size = layered((3, 4, 1), "softplus", x)
    w, y = normal(size), normal(6, seed=1)
    assert kappa(lambda w: 50 * h(w), w, y).kappa == pytest.approx(kappa(h, w, y / 50).kappa, rel=1e-8)


@pytest.mark.parametrize(("sizes", "q"), [((3, 4, 1), 2), ((3, 4, 3, 1), 3), ((3, 3, 3, 3, 1), 4)])
def test_homogeneity(sizes, q):
    """κ(λw0) = λ^(−q) κ(w0) for a centred ReLU net of degree q, over six decades of λ."""
    h, size = layered(sizes, "relu", sphere(5, 3))
    w, y = normal(size, seed=2), normal(5, seed=1)
    ks = {}
    for lam in (1e-3, 1.0, 1e3):
        h0 = h(lam * w)
        ks[lam] = kappa(lambda w, h0=h0: h(w) - h0, lam * w, y)
        expected = ks[1e-3].hessian_norm * (lam / 1e-3) ** (q - 2)
        assert ks[lam].hessian_norm == pytest.approx(expected, rel=1e-7)
    slope = math.log(ks[1e3].kappa / ks[1e-3].kappa) / math.log(1e6)
    assert slope == pytest.approx(-q, abs=1e-6)
    assert not slope == pytest.approx(-q - 1, abs=0.02) and not slope == pytest.approx(1 - q, abs=0.02)


def test_invariances():
    """Rotations of the parameters, of the inputs with the weights, and copies of the data change nothing."""
    x, y, m, d = sphere(6, 3), normal(6, seed=1), 4, 3
    h, size = layered((d, m, 1), "gelu", x)
    w = normal(size, seed=2)
    reference = kappa(h, w, y)
    q = torch.linalg.qr(normal(size, size, seed=3))[0]
    assert kappa(lambda v: h(q @ v), q.T @ w, y)[:4] == pytest.approx(reference[:4], rel=1e-7)
    assert kappa(lambda w: h(w).repeat(3), w, y.repeat(3))[:4] == pytest.approx(reference[:4], rel=1e-7)
    r = torch.linalg.qr(normal(d, d, seed=4))[0]
    a, b = normal(m), normal(m, d, seed=5)
    turned, straight = two_layer_kappa(x @ r, y, a, b @ r), two_layer_kappa(x, y, a, b)
    assert turned[:4] == pytest.approx(straight[:4], rel=1e-10)
    # w is Euclidean: a change of its units is no invariance
    stretched = kappa(lambda v: h(2 * v), w / 2, y)
    assert stretched.jacobian_norm == pytest.approx(2 * reference.jacobian_norm, rel=1e-7)


def test_relative_changes_of_one_step():
    x, y = sphere(6, 3), normal(6, seed=1)
    h, size = layered((3, 4, 1), "softplus", x)
    w = normal(size, seed=2)
    h0, (first, _) = h(w), tensors(h, w)
    gradient = first.T @ (h0 - y) / math.sqrt(6)
    for step in (1e-1, 1e-3):
        c = relative_changes(h, w, y, step)
        w1 = w - step * gradient
        f0, f1 = (0.5 * (v - y).square().mean().item() for v in (h0, h(w1)))
        moved = torch.linalg.matrix_norm(tensors(h, w1)[0] - first, 2) / torch.linalg.matrix_norm(first, 2)
        assert c.objective == pytest.approx(abs(f1 - f0) / f0, rel=1e-9)
        assert c.jacobian == pytest.approx(moved.item(), rel=1e-8)
        assert c.predicted_objective == pytest.approx(step * gradient.norm().item() ** 2 / f0, rel=1e-9)
        assert c.kappa[:4] == pytest.approx(kappa(h, w, y)[:4])
        assert 0 < c.alignment <= 1
        ratio = c.predicted_jacobian / c.predicted_objective
        assert ratio == pytest.approx(c.kappa.kappa / (2 * c.alignment), rel=1e-9)
    # at first order, in the smaller step
    assert c.objective == pytest.approx(c.predicted_objective, rel=1e-2)
    assert 0.01 * c.predicted_jacobian < c.jacobian < 1.01 * c.predicted_jacobian


def test_lazy_nets_change_their_differential_less():
    """The measured ratio of the two changes falls as κ does, when the output is scaled up (centred net)."""
    x, y = sphere(6, 3), normal(6, seed=1)
    h, size = layered((3, 4, 1), "softplus", x)
    w = normal(size, seed=2)
    h0 = h(w)
    c = [relative_changes(lambda w, s=s: s * (h(w) - h0), w, y, 1e-4 / s**2) for s in (1.0, 100.0)]
    assert c[1].kappa.kappa == pytest.approx(c[0].kappa.kappa / 100, rel=1e-6)
    assert c[1].jacobian / c[1].objective == pytest.approx(c[0].jacobian / c[0].objective / 100, rel=1e-2)


def test_float32():
    x, y = sphere(9, 3), normal(9, seed=1)
    h, size = layered((3, 4, 1), "gelu", x)
    h32, _ = layered((3, 4, 1), "gelu", x.float())
    w = normal(size)
    single = kappa(h32, w.float(), y.float())
    assert single.converged and single[:4] == pytest.approx(kappa(h, w, y)[:4], rel=1e-4)
    a, b = normal(30), normal(30, 3, seed=1)
    for activation in ACTIVATIONS:
        single = two_layer_kappa(x.float(), y.float(), a.float(), b.float(), activation=activation)
        assert single[:4] == pytest.approx(two_layer_kappa(x, y, a, b, activation=activation)[:4], rel=1e-4)


def test_deterministic():
    h, size = layered((3, 4, 1), "relu", sphere(6, 3))
    w, y = normal(size), normal(6, seed=1)
    assert kappa(h, w, y) == kappa(h, w, y)


def test_too_few_iterations_are_reported():
    h, size = layered((3, 8, 1), "gelu", sphere(12, 3))
    w = normal(size)
    assert jacobian_norm(h, w).converged and not jacobian_norm(h, w, steps=2).converged
    assert hessian_norm(h, w).converged and not hessian_norm(h, w, steps=0, tol=1e-12).converged
    assert hessian_norm(h, w, steps=0).value <= hessian_norm(h, w).value * (1 + 1e-12)


def test_one_output_and_one_parameter():
    k = kappa(lambda w: (w**3)[:1], torch.tensor([2.0], dtype=F64), torch.tensor([5.0], dtype=F64))
    assert k[:4] == pytest.approx((3 * 12 / 144, 3.0, 12.0, 12.0), rel=1e-12)


def test_bad_input():
    x, y = sphere(6, 3), normal(6)
    h, size = layered((3, 4, 1), "relu", x)
    w = normal(size)
    with pytest.raises(ValueError, match=r"y must have the shape \(6,\).*got \(6, 1\)"):
        kappa(h, w, y[:, None])
    with pytest.raises(ValueError, match=r"one flat vector.*got shape \(1, 16\)"):
        kappa(h, w[None], y)
    with pytest.raises(ValueError, match="finite"):
        kappa(h, w * math.nan, y)
    with pytest.raises(ValueError, match="finite"):
        kappa(h, w, y * math.inf)
    with pytest.raises(ValueError, match="derivatives of h at w0 must be finite"):
        kappa(lambda w: w.abs().sqrt(), torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64))
    with pytest.raises(ValueError, match="derivatives of h at w0 must be finite"):
        hessian_norm(lambda w: w.abs() ** 1.5, torch.zeros(2, dtype=F64))
    with pytest.raises(ValueError, match=r"Dh\(w0\) must not be zero"):
        kappa(h, 0 * w, y)
    with pytest.raises(ValueError, match=r"shape \(n,\) or \(n, k\), got \(\)"):
        kappa(lambda w: w.sum(), w, y)
    with pytest.raises(ValueError, match="starts must be at least 1, got 0"):
        kappa(h, w, y, starts=0)
    for step in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="step must be positive and finite"):
            relative_changes(h, w, y, step)
    with pytest.raises(ValueError, match="must not be stationary"):
        relative_changes(h, w, h(w), 0.1)
    with pytest.raises(ValueError, match="too long"):
        relative_changes(h, w, y, 1e200)
    with pytest.raises(ValueError, match="activation must be one of .* or a function, got 'tanh'"):
        two_layer_kappa(x, y, normal(4), normal(4, 3), activation="tanh")
    with pytest.raises(ValueError, match=r"shapes \(n, d\), \(m,\) and \(m, d\)"):
        two_layer_kappa(x, y, normal(4), normal(4, 5))
