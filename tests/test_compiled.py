"""The compiled two-layer kernels against torch, and the flow of single runs against the flow of a batch."""

import numpy as np
import pytest
import torch

from lazylib.flows import gradient_flow, one_run
from lazylib.flows.batch import Integrator
from lazylib.flows.one_run import _run
from lazylib.nets import TwoLayer
from lazylib.nets import _two_layer_cpu as compiled
from lazylib.objectives import square_loss
from lazylib.problems import teacher_student

F64 = torch.float64


def problem(dtype=F64, d=6, m=8, n=20):
    p = teacher_student([0, 1, 2], d=d, n=n, n_test=10, dtype=dtype)
    net = TwoLayer(d, m, scale=0.7)
    return square_loss(net, net.init([0.3, 1.0, 2.0], [3, 4, 5], dtype=dtype), p.x, p.y)


def displaced(objective):
    return 0.3 * torch.randn(objective.w0.shape, dtype=F64, generator=torch.Generator().manual_seed(0)).to(
        objective.w0.dtype
    )


MANY = 2 * compiled.CHUNK + 7  # inputs that come in three parts, the last one short


@pytest.mark.parametrize("n", [20, compiled.CHUNK, MANY])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-13), (torch.float32, 2e-6)])
def test_evaluate_is_minus_the_gradient_and_leaves_the_outputs(dtype, tolerance, n):
    objective = problem(dtype, n=n)
    u = displaced(objective)
    gradient, out = objective.gradient(u)
    for row in range(3):
        run, f = _run(objective, row), np.empty(objective.size, u.numpy().dtype)
        compiled.evaluate(run, u[row].numpy(), f)
        np.testing.assert_allclose(f, -gradient[row], rtol=0, atol=tolerance * float(gradient[row].abs().max()))
        np.testing.assert_allclose(run.out, out[row], rtol=0, atol=tolerance * float(out[row].abs().max()))


@pytest.mark.parametrize("busy", [False, True])
def test_gradients_of_a_descent_are_those_of_the_objective(busy, monkeypatch):
    monkeypatch.setattr(compiled, "blas_has_threads", lambda: busy)
    objective = problem()
    gradient, at_once = one_run.gradients(objective), displaced(objective)
    for u in (at_once, 2 * at_once):  # nothing of the first is left in the second
        for found, expected in zip(gradient(u), objective.gradient(u), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_small_displacements_are_not_lost_in_single_precision():
    single, double = problem(torch.float32), problem(F64)
    u = 1e-7 * displaced(double)
    exact = double.jvp(0 * u, u)[1].numpy()  # h is linear over so small a step, away from kinks
    run, f = _run(single, 1), np.empty(single.size, np.float32)
    compiled.evaluate(run, u[1].float().numpy(), f)
    run.h0[:] = 0.0  # the change alone
    compiled.evaluate(run, u[1].float().numpy(), f)
    np.testing.assert_allclose(run.out, exact, rtol=0, atol=1e-4 * np.abs(exact).max())


@pytest.mark.parametrize("n", [20, MANY])
def test_moved_is_the_norm_of_the_differential(n):
    objective = problem(n=n)
    u = displaced(objective)
    v = displaced(objective).flip(0)
    expected = objective.jvp(u, v).square().mean(1).sqrt()
    for row in range(3):
        run, f = _run(objective, row), np.empty(objective.size)
        compiled.evaluate(run, u[row].numpy(), f)
        assert compiled.moved(run, u[row].numpy(), v[row].numpy()) == pytest.approx(float(expected[row]), rel=1e-12)


def test_power_iterations_find_the_largest_eigenvalue_of_the_hessian():
    objective = problem().select([0])
    net, x, y = objective.net, objective.x[0], objective.y[0]
    hessian = torch.func.hessian(lambda w: 0.5 * (net(w, x) - y).square().mean())(objective.w0[0])
    largest = float(torch.linalg.eigvalsh(hessian).abs().max())
    run = _run(objective, 0)
    f0, f, point, v = np.zeros((4, objective.size))
    v[:] = np.random.default_rng(0).standard_normal(objective.size)
    v /= np.linalg.norm(v)
    compiled.evaluate(run, 0 * v, f0)
    for _ in range(200):
        estimate = compiled.power_iteration(run, 0 * v, f0, v, 1e-7, point, f)
    assert estimate == pytest.approx(largest, rel=1e-3)


def test_nan_does_not_travel_silently():
    objective = problem()
    u = displaced(objective)[0].numpy()
    for place in (0, -1):  # an output weight, an input weight
        broken, run, f = u.copy(), _run(objective, 0), np.empty(len(u))
        broken[place] = np.nan
        compiled.evaluate(run, broken, f)
        assert np.isnan(compiled.defect(run, u, f, broken, f, 0.1, f.copy())[0])


@pytest.mark.parametrize("threads", [1, 3])
def test_single_runs_take_the_steps_of_the_batch(monkeypatch, threads):
    objective, T = problem(), np.array([1.0, 30.0, 5.0])
    times = np.array([0.0, 0.3, 1.0])

    def observe(u, runs):
        return {"u": u, "run": torch.as_tensor(runs)}

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        single = gradient_flow(objective, T, times=times, observe=observe)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(one_run, "integrate", lambda *arguments: Integrator(*arguments).run())
    batch = gradient_flow(objective, T, times=times, observe=observe)
    for name in ("evals", "steps", "rejected", "status"):
        assert (getattr(single, name) == getattr(batch, name)).all(), name
    assert torch.allclose(single.u, batch.u, atol=1e-10) and torch.allclose(single.loss, batch.loss, atol=1e-10)
    assert np.allclose(single.observed["u"], batch.observed["u"], atol=1e-10)
    assert (single.observed["run"] == np.arange(3)[:, None]).all()
