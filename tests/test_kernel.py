"""The tangent kernel and the closed-form solution against Jacobians and against training."""

import math

import pytest
import torch

from lazylib.measures import kernel_flow, stable_step, tangent_kernel, tangent_solution
from lazylib.nets import Deep, TwoLayer, from_module, tangent
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
    for w in (w0[0], w0[:, :7], 3.0):
        with pytest.raises(ValueError, match="w must be the 7 parameters of the module"):
            tangent_kernel(torch.nn.Linear(6, 1), w, problem.x)
    batch = tangent_kernel(net, torch.cat([w0, 2 * w0]), problem.x)
    assert torch.equal(batch[1], tangent_kernel(net, 2 * w0[0], problem.x))
    solution = tangent_solution(net, w0[0], problem.x, problem.y, problem.x_test)
    for T in (-1.0, math.nan):
        with pytest.raises(ValueError, match="T must be ≥ 0"):
            solution.train(T)


def test_a_module_at_given_weights_is_the_net_made_from_it(problem):
    layers = [torch.nn.Linear(6, 5), torch.nn.Softplus(), torch.nn.Linear(5, 1, bias=False)]
    module = torch.nn.Sequential(*layers)
    net, w0 = from_module(module)
    w, x = (w0 + 0.3 * torch.arange(len(w0)) / len(w0)).double(), problem.x
    kernel = tangent_kernel(module, w, x, x[:3])
    torch.testing.assert_close(kernel, tangent_kernel(net, w, x, x[:3]))
    assert not torch.allclose(kernel, tangent_kernel(net, w0.double(), x, x[:3]))  # the planted mistake: other weights
    torch.testing.assert_close(torch.nn.utils.parameters_to_vector(module.parameters()), w0)  # the module is as it was


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


def test_the_solution_of_k_outputs_of_tokens_with_a_frozen_layer():
    """Against the flow in parameter space; a frozen layer in float32 is brought to float64."""
    torch.manual_seed(0)
    layers = torch.nn.Embedding(7, 3), torch.nn.Flatten(), torch.nn.Tanh(), torch.nn.Linear(6, 2)
    module, x = torch.nn.Sequential(*layers), torch.tensor([[0, 1], [2, 3], [4, 5], [6, 0]])
    module[0].requires_grad_(False)
    net, w0 = from_module(module, x)
    y, w0 = torch.randn(3, 2, dtype=F64), w0.double()
    solution = tangent_solution(net, w0, x[:3], y, x[3:])
    rows = torch.func.jacrev(lambda w: net(w, x).flatten())(w0)  # (8, P)
    u, h0, steps = torch.zeros_like(w0), net(w0, x).flatten(), 4000
    for _ in range(steps):  # Euler's method up to T = 2
        u = u - 2.0 / steps * rows[:6].T @ (h0[:6] + rows[:6] @ u - y.flatten()) / 3
    torch.testing.assert_close(solution.train(2.0).flatten(), (h0 + rows @ u)[:6], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(solution.test(2.0).flatten(), (h0 + rows @ u)[6:], rtol=1e-3, atol=1e-3)
    assert solution.displacement(2.0) == pytest.approx(float(u.norm()), rel=1e-3)
    with pytest.raises(ValueError, match=r"y must have the shape \(3, 2\) of the outputs, got \(3,\)"):
        tangent_solution(net, w0, x[:3], y[:, 0], x[3:])


# ---- gradient flow with a fixed kernel ----

TIMES = [0.0, 0.3, 4.0]


def by_small_steps(kernel, y, per_unit=2000):
    """The outputs at TIMES, each step a step of gradient descent on ½ mean ‖h − y‖²."""
    found, h = [], torch.zeros_like(y)
    for step in range(round(TIMES[-1] * per_unit) + 1):
        if step in [round(t * per_unit) for t in TIMES]:
            found.append(h)
        h = h - kernel @ (h - y) / len(y) / per_unit
    return torch.stack(found)


@pytest.fixture
def kernel_and_targets():
    features = torch.randn(5, 3, dtype=F64, generator=torch.Generator().manual_seed(0))  # of rank 3
    return features @ features.T, torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 0, 1]), 2).double()


def test_kernel_flow_is_gradient_descent_by_tiny_steps(kernel_and_targets):
    kernel, y = kernel_and_targets
    expected = by_small_steps(kernel, y)
    assert torch.allclose(kernel_flow(kernel, y, TIMES), expected, atol=1e-3)
    wrong = 5 * kernel  # as if it were not divided by n
    assert not torch.allclose(kernel_flow(wrong, y, TIMES), expected, atol=0.05)


def test_kernel_flow_ends_at_the_projection_on_the_range_of_the_kernel(kernel_and_targets):
    kernel, y = kernel_and_targets
    (end,) = kernel_flow(kernel, y, [math.inf])
    assert torch.allclose(end, kernel @ torch.linalg.pinv(kernel) @ y, atol=1e-12)
    assert (end - y).abs().max() > 0.1


@pytest.mark.parametrize("T", [0.0, 3.0, math.inf])
def test_kernel_flow_is_the_tangent_solution_from_zero(problem, T):
    net = TwoLayer(6, 40)
    w0 = net.init(1.0, 1, symmetrized=True, dtype=F64)[0]  # with output 0
    solution = tangent_solution(net, w0, problem.x, problem.y, problem.x_test)
    found = kernel_flow(tangent_kernel(net, w0, problem.x), problem.y[:, None], [T])
    assert torch.allclose(found[0, :, 0], solution.train(T), atol=1e-9)


@pytest.mark.parametrize("times", [[-1.0], [math.nan], 1.0])
def test_kernel_flow_needs_times_and_fitting_shapes(kernel_and_targets, times):
    kernel, y = kernel_and_targets
    with pytest.raises(ValueError, match="times must be"):
        kernel_flow(kernel, y, times)
    for wrong in (y[:3], y[:, 0]):
        with pytest.raises(ValueError, match="kernel and y must be"):
            kernel_flow(kernel, wrong, TIMES)


# ---- the largest stable step ----


def grows(step, loss, momentum, targets):
    """Whether small weights of a linear layer grow in 400 steps of descent towards their minimum at zero."""
    rng = torch.Generator().manual_seed(0)
    layer, x = torch.nn.Linear(4, 3, bias=False).double(), torch.randn(6, 4, generator=rng, dtype=F64)
    layer.weight.data = 1e-9 * torch.randn(3, 4, generator=rng, dtype=F64)
    share, before = step * stable_step(layer, x, loss, momentum), float(layer.weight.detach().norm())
    optimizer = torch.optim.SGD(layer.parameters(), lr=share, momentum=momentum)
    for _ in range(400):
        optimizer.zero_grad()
        out = layer(x)
        value = out.square().mean() if loss == "square" else torch.nn.functional.cross_entropy(out, targets)
        value.backward()
        optimizer.step()
    return float(layer.weight.detach().norm()) > before


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_largest_stable_step_of_a_square_loss_is_sharp(momentum):
    assert not grows(0.98, "square", momentum, None)
    assert grows(1.02, "square", momentum, None)


def test_the_largest_stable_step_of_the_cross_entropy_is_safe():
    """Three equal classes have the curvature ⅓, less than the ½ that two classes can reach."""
    targets = torch.full((6, 3), 1 / 3, dtype=F64)
    assert not grows(0.98, "cross-entropy", 0.0, targets)
    assert not grows(1.45, "cross-entropy", 0.0, targets) and grows(1.55, "cross-entropy", 0.0, targets)


def test_the_largest_stable_step_refuses_what_it_does_not_know():
    layer, x = torch.nn.Linear(2, 1), torch.ones(1, 2)
    with pytest.raises(ValueError, match="loss must be"):
        stable_step(layer, x, "hinge")
    with pytest.raises(ValueError, match="momentum must be"):
        stable_step(layer, x, momentum=1.0)
