"""The tangent kernel and the closed-form solution against Jacobians and against training."""

import math

import pytest
import torch

from lazylib.measures import tangent_kernel, tangent_solution
from lazylib.nets import Deep, TwoLayer, tangent
from lazylib.problems import teacher_student

F64 = torch.float64


@pytest.fixture
def problem():
    return teacher_student(0, d=6, n=15, n_test=8, dtype=F64)


@pytest.mark.parametrize("net", [TwoLayer(6, 5, scale=0.4), TwoLayer(6, 5, "softplus"), Deep(6, (4, 3))])
def test_kernel_is_the_gram_matrix_of_gradients(net, problem):
    w = net.init(1.0, 0, dtype=F64)[0]
    rows = [torch.func.grad(lambda v, x=x: net(v, x[None])[0])(w) for x in problem.x]
    others = [torch.func.grad(lambda v, x=x: net(v, x[None])[0])(w) for x in problem.x_test]
    j, j_test = torch.stack(rows), torch.stack(others)
    assert torch.allclose(tangent_kernel(net, w, problem.x), j @ j.T, atol=1e-12)
    assert torch.allclose(tangent_kernel(net, w, problem.x_test, problem.x), j_test @ j.T, atol=1e-12)


@pytest.mark.parametrize("m", [3, 40])  # under- and over-parameterized
def test_solution_is_the_tangent_model_trained_by_tiny_steps(problem, m):
    net = TwoLayer(6, m)
    w0 = net.init(1.0, 1, dtype=F64)[0]
    solution = tangent_solution(net, w0, problem.x, problem.y, problem.x_test)
    jacobian = torch.func.jacrev(lambda w: net(w, problem.x))(w0)
    h0, u = net(w0, problem.x), torch.zeros_like(w0)
    step, T = 1e-3, 4.0
    for _ in range(4000):
        u -= step * jacobian.T @ (h0 + jacobian @ u - problem.y) / 15
    assert torch.allclose(solution.train(T), h0 + jacobian @ u, atol=2e-3)
    model = tangent(net, w0)
    assert torch.allclose(solution.test(T), model(w0 + u, problem.x_test), atol=2e-3)
    assert solution.displacement(T) == pytest.approx(float(u.norm()), rel=2e-3)
    assert (solution.train(0.0) - h0).abs().max() == 0


def test_at_infinity_the_overparameterized_model_interpolates_with_least_displacement(problem):
    net = TwoLayer(6, 40)
    w0 = net.init(1.0, 1, dtype=F64)[0]
    solution = tangent_solution(net, w0, problem.x, problem.y, problem.x_test)
    assert torch.allclose(solution.train(math.inf), problem.y, atol=1e-9)
    jacobian = torch.func.jacrev(lambda w: net(w, problem.x))(w0)
    least = torch.linalg.pinv(jacobian) @ (problem.y - net(w0, problem.x))
    assert solution.displacement(math.inf) == pytest.approx(float(least.norm()), rel=1e-8)


def test_underparameterized_limit_is_the_projection_on_the_range_of_the_jacobian(problem):
    net = TwoLayer(6, 1)
    w0 = net.init(1.0, 3, dtype=F64)[0]
    solution = tangent_solution(net, w0, problem.x, problem.y, problem.x_test)
    jacobian = torch.func.jacrev(lambda w: net(w, problem.x))(w0)
    h0 = net(w0, problem.x)
    expected = h0 + jacobian @ torch.linalg.pinv(jacobian) @ (problem.y - h0)
    assert torch.allclose(solution.train(math.inf), expected, atol=1e-9)
    assert (expected - problem.y).abs().max() > 1e-3


def test_bad_time_and_bad_parameters_are_refused(problem):
    net = TwoLayer(6, 4)
    w0 = net.init(1.0, 1, dtype=F64)
    with pytest.raises(ValueError, match="w must be the parameters of one net"):
        tangent_kernel(net, w0[None], problem.x)
    with pytest.raises(ValueError, match="w must be None for a module"):
        tangent_kernel(torch.nn.Linear(6, 1), w0[0], problem.x)
    batch = tangent_kernel(net, torch.cat([w0, 2 * w0]), problem.x)
    assert torch.equal(batch[1], tangent_kernel(net, 2 * w0[0], problem.x))
    solution = tangent_solution(net, w0[0], problem.x, problem.y, problem.x_test)
    for T in (-1.0, math.nan):
        with pytest.raises(ValueError, match="T must be ≥ 0"):
            solution.train(T)


@pytest.mark.parametrize("T", [0.3, 20.0])
def test_coefficients_give_the_displacement_of_the_tangent_flow(problem, T):
    """Against the exponential of the flow in parameter space, with no kernel."""
    net = TwoLayer(6, 5, "softplus")
    w0 = net.init(1.0, 2, dtype=F64)[0]
    solution = tangent_solution(net, w0, problem.x, problem.y, problem.x_test)
    jacobian = torch.func.jacrev(lambda w: net(w, problem.x))(w0)  # (n, P)
    n, p = jacobian.shape
    flow = torch.zeros(p + 1, p + 1, dtype=F64)  # u̇ = −JᵀJu/n + Jᵀr/n as one linear equation of (u, 1)
    flow[:p, :p], flow[:p, p] = -jacobian.T @ jacobian / n, jacobian.T @ (problem.y - net(w0, problem.x)) / n
    expected = torch.matrix_exp(flow * T)[:p, p]
    found = torch.func.vjp(lambda w: net(w, problem.x), w0)[1](solution.coefficients(T))[0]
    assert torch.allclose(found, expected, rtol=0, atol=1e-9 * float(expected.norm()))
    assert solution.displacement(T) == pytest.approx(float(found.norm()), rel=1e-9)
