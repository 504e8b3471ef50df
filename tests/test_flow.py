"""The stabilized flow: order, stability, known solutions, limits, and what it says when it fails."""

import itertools

import numpy as np
import pytest
import torch

from lazylib.flows import flow as flow_module
from lazylib.flows import gradient_descent, gradient_flow, rkc
from lazylib.measures import tangent_solution
from lazylib.nets import Deep, TwoLayer
from lazylib.objectives import Objective, square_loss
from lazylib.problems import teacher_student
from lazylib.problems.teacher import sphere
from lazylib.runs import generator

F64 = torch.float64


def rkc_step(f, y, h, s):
    stages = [y]
    f0 = f(y)
    for c in rkc.coefficients(s):
        older = stages[-2] if len(stages) > 1 else 0 * y
        stages.append(c[0] * y + c[1] * stages[-1] + c[2] * older + h * (c[3] * f(stages[-1]) + c[4] * f0))
    return stages[-1]


@pytest.mark.parametrize("s", [2, 3, 7, 20])
def test_rkc_has_order_two_on_a_nonlinear_equation(s):
    errors = []
    for n in (20, 40, 80):
        y = 1.0
        for _ in range(n):
            y = rkc_step(lambda v: -(v**2), y, 1 / n, s)
        errors.append(abs(y - 0.5))  # y = 1/(1 + t)
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(np.abs(orders - 2) < 0.15), orders


@pytest.mark.parametrize("s", [2, 5, 50, 200])
def test_rkc_is_stable_on_its_interval_and_not_far_beyond(s):
    beta = rkc.stability(s)
    for z in np.linspace(0.01, 1, 97) * beta:
        assert abs(rkc_step(lambda v, z=z: -z * v, 1.0, 1.0, s)) <= 1 + 1e-12
    assert abs(rkc_step(lambda v: -1.2 * beta * v, 1.0, 1.0, s)) > 1
    assert rkc.stages_for(beta * 0.999) == s


class Quadratic(Objective):
    """F(u) = ½ Σ λ_k (u_k − 1)², with the solution u_k = 1 − exp(−λ_k t); outputs are u itself."""

    bytes_per_run = 1

    def __init__(self, eigenvalues, runs=1):
        self.eigenvalues = eigenvalues
        self.w0 = torch.ones(runs, len(eigenvalues), dtype=F64)
        self.y = torch.ones_like(self.w0)
        self.evaluations = 0

    def gradient(self, u):
        self.evaluations += 1
        return self.eigenvalues * (u - 1), u

    def loss(self, out):
        return 0.5 * (self.eigenvalues * (out - 1) ** 2).sum(1)

    def error_size(self, out, rows):
        return torch.maximum((out - 1).square().mean(1), torch.ones(1, dtype=F64)).sqrt()

    def moved(self, u, v, rows):
        return v.square().mean(1).sqrt()

    def select(self, rows):
        return Quadratic(self.eigenvalues, len(rows))


def test_known_solution_of_a_stiff_problem_with_few_gradients():
    lam = torch.logspace(-2, 4, 30, dtype=F64)
    objective = Quadratic(lam)
    flow = gradient_flow(objective, 10.0, rtol=1e-3)
    assert flow.reached.all()
    assert torch.allclose(flow.u[0], 1 - torch.exp(-10 * lam), atol=1e-3)
    assert flow.evals[0] == objective.evaluations < 10.0 * 1e4 / 2 / 15  # gradient descent needs T λmax / 2


def test_error_falls_as_the_square_of_the_mean_step():
    lam, T = torch.logspace(-1, 1, 10, dtype=F64), 3.0
    points = []
    for rtol in (1e-3, 1e-4, 1e-5, 1e-6):
        flow = gradient_flow(Quadratic(lam), T, rtol=rtol)
        points.append((T / flow.steps[0], float((flow.u[0] - 1 + torch.exp(-T * lam)).abs().max())))
    h, error = np.log(np.array(points)).T
    assert abs(np.polyfit(h, error, 1)[0] - 2) < 0.25


def small_problem(activation="softplus", dtype=F64, m=8):
    p = teacher_student([0, 1, 2], d=6, n=20, n_test=10, dtype=dtype)
    net = TwoLayer(6, m, activation)
    return p, net, net.init([0.3, 1.0, 2.0], [3, 4, 5], dtype=dtype)


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_agrees_with_gradient_descent_of_vanishing_step(activation):
    p, net, w0 = small_problem(activation)
    objective = square_loss(net, w0, p.x, p.y)
    T = np.array([4.0, 2.0, 1.0])
    flow = gradient_flow(objective, T, rtol=1e-3)
    for n, tolerance in ((400, 4e-2), (4000, 4e-3)):
        _, u, _ = next(itertools.islice(gradient_descent(objective, T / n), n, None))
        assert ((flow.u - u).norm(dim=1) < tolerance * u.norm(dim=1)).all()
    assert (flow.u.norm(dim=1) > 0.02).all()


def test_generic_nets_flow_too():
    p = teacher_student([0, 1], d=6, n=20, n_test=10, dtype=F64)
    net = Deep(6, (5, 4), "gelu")
    objective = square_loss(net, net.init([1.0, 2.0], [3, 4], dtype=F64), p.x, p.y)
    flow = gradient_flow(objective, 2.0, rtol=1e-4)
    _, u, _ = next(itertools.islice(gradient_descent(objective, 5e-4), 4000, None))
    assert ((flow.u - u).norm(dim=1) < 5e-3 * u.norm(dim=1)).all()


def test_tends_to_the_tangent_solution_as_alpha_grows():
    p = teacher_student(0, d=6, n=20, n_test=10, dtype=F64)
    net = TwoLayer(6, 12)
    w0 = net.init(1.0, 4, symmetrized=True, dtype=F64)
    exact = tangent_solution(net, w0[0], p.x, p.y, p.x_test)
    gaps = []
    for alpha in (1.0, 1e4):
        flow = gradient_flow(square_loss(net, w0, p.x, p.y / alpha), 5.0, rtol=1e-3)
        out = alpha * square_loss(net, w0, p.x, p.y).outputs(flow.u, p.x_test)[0]
        gaps.append(float((out - exact.test(5.0)).norm() / exact.test(5.0).norm()))
    assert gaps[1] < 1e-3 and gaps[1] < 0.1 * gaps[0]


def test_a_run_is_the_same_in_a_batch_in_blocks_and_alone(monkeypatch):
    p, net, w0 = small_problem("relu")
    objective = square_loss(net, w0, p.x, p.y)
    T = np.array([1.0, 30.0, 5.0])
    whole = gradient_flow(objective, T)
    monkeypatch.setattr(flow_module, "BLOCK_BYTES", 2 * objective.bytes_per_run)
    blocks = gradient_flow(objective, T)
    for row in range(3):
        alone = gradient_flow(objective.select([row]), T[row])
        for other in (whole, blocks):
            assert torch.allclose(other.u[row], alone.u[0], atol=1e-12)
            assert other.evals[row] == alone.evals[0] and other.time[row] == T[row]


def test_observations_are_the_states_of_runs_that_end_there():
    p, net, w0 = small_problem()
    objective = square_loss(net, w0, p.x, p.y)
    times = np.array([0.0, 0.1, 0.7, 2.0])
    flow = gradient_flow(
        objective, 2.0, times=times, observe=lambda u, runs: {"u": u, "run": torch.as_tensor(runs)}, rtol=1e-4
    )
    assert (flow.observed["run"] == np.arange(3)[:, None]).all()
    assert np.abs(flow.observed["u"][:, 0]).max() == 0
    for k in (1, 2, 3):
        there = gradient_flow(objective, times[k], rtol=1e-5).u.numpy()
        seen = flow.observed["u"][:, k]
        assert (np.linalg.norm(seen - there, axis=1) < 2e-3 * np.linalg.norm(there, axis=1)).all()


def test_a_start_beside_a_kink_does_not_stall(monkeypatch):
    """There a step's error falls only once it is too short to cross; found in chapter 2's runs in the plane."""
    net, rng = TwoLayer(2, 16), generator(15, "init")
    a, b = torch.rand(8, generator=rng, dtype=torch.float64), sphere(8, 2, rng).reshape(-1)
    w0 = 0.1 * torch.cat([a, -a, b, b]).unsqueeze(0)
    problem = teacher_student([15], d=2, n=15, n_test=1, dtype=torch.float64)
    objective = square_loss(net, w0, problem.x, problem.y)
    assert gradient_flow(objective, 500.0).reached.all()
    monkeypatch.setattr(rkc, "KINK_FAILURES", rkc.MAX_FAILURES)
    assert gradient_flow(objective, 500.0).status == ["stalled"]


def test_a_run_that_overflows_says_diverged_and_leaves_the_others_alone():
    p, net, w0 = small_problem("relu", torch.float32)
    w0 = w0.clone()
    w0[1] *= 1e30
    flow = gradient_flow(
        square_loss(net, w0, p.x, p.y), 1.0, times=[0.5, 1.0], observe=lambda u, runs: {"norm": u.norm(dim=1)}
    )
    assert flow.status.tolist() == ["reached", "diverged", "reached"]
    assert flow.time[1] == 0 and np.isnan(flow.observed["norm"][1]).all()
    assert np.isfinite(flow.observed["norm"][[0, 2]]).all() and torch.isfinite(flow.u).all()


def test_a_run_out_of_gradients_says_stalled_and_keeps_its_last_state():
    p, net, w0 = small_problem("relu")
    flow = gradient_flow(square_loss(net, w0, p.x, p.y), 1e4, max_evals=60)
    assert (flow.status == "stalled").all() and not flow.reached.any()
    assert ((flow.time > 0) & (flow.time < 1e4)).all() and torch.isfinite(flow.loss).all()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (dict(T=0.0), "T must be finite and > 0"),
        (dict(T=[1.0, 2.0]), "T must be one number or 3"),
        (dict(T=float("nan")), "T must be finite"),
        (dict(T=1.0, rtol=2.0), "rtol must lie between"),
        (dict(T=1.0, times=[0.5]), "pass observe"),
        (dict(T=1.0, times=[2.0], observe=dict), "lie in"),
        (dict(T=1.0, times=[], observe=dict), "K ≥ 1"),
        (dict(T=1.0, max_evals=0), "max_evals must be"),
    ],
)
def test_bad_input_gets_one_sentence(wrong, sentence):
    p, net, w0 = small_problem()
    with pytest.raises(ValueError, match=sentence):
        gradient_flow(square_loss(net, w0, p.x, p.y), **wrong)


def test_too_little_memory_is_said_before_work_starts(monkeypatch):
    p, net, w0 = small_problem()
    objective = square_loss(net, w0, p.x, p.y)
    monkeypatch.setattr(objective, "gradient", lambda u: pytest.fail("work has started"))
    monkeypatch.setattr("lazylib.runs._memory.psutil.virtual_memory", lambda: type("M", (), {"available": 1000})())
    with pytest.raises(MemoryError, match="a batch of 3 runs needs .* GiB"):
        gradient_flow(objective, 1.0)


def test_a_flow_starts_from_zero():
    class Linear:
        size, q = 2, 1

        def __call__(self, w, x):
            return w @ x.mT

    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    flow = gradient_flow(square_loss(Linear(), torch.zeros(1, 2), x, x @ torch.tensor([1.0, -2.0])), T=50.0, rtol=1e-3)
    assert flow.reached.all() and torch.allclose(flow.u, torch.tensor([[1.0, -2.0]]), atol=1e-2)
    net = TwoLayer(2, 8)
    still = gradient_flow(square_loss(net, torch.zeros(1, net.size), x, x[:, 0]), T=5.0)
    assert still.reached.all() and not still.u.any()  # a saddle


@pytest.mark.parametrize(
    ("w0", "x", "words"),
    [
        (torch.zeros(1, 24, dtype=torch.float64), torch.zeros(3, 2), "both be float32 or both float64"),
        (torch.zeros(1, 24).half(), torch.zeros(3, 2).half(), "both be float32 or both float64"),
        (torch.zeros(1, 24), torch.zeros(0, 2), "a run and an input at least, got 1 and 0"),
        (torch.zeros(0, 24), torch.zeros(3, 2), "a run and an input at least, got 0 and 3"),
    ],
)
def test_two_layer_networks_refuse_what_they_cannot_compute(w0, x, words):
    with pytest.raises(ValueError, match=words):
        square_loss(TwoLayer(2, 8), w0, x, torch.zeros(len(x), dtype=x.dtype))
