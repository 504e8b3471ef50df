"""Descents against steps written out."""

import itertools

import pytest
import torch

from lazylib.flows import adam, gradient_descent, sgd
from lazylib.nets import TwoLayer
from lazylib.objectives import square_loss
from lazylib.problems import teacher_student

F64 = torch.float64


@pytest.fixture
def objective():
    p = teacher_student([0, 1], d=6, n=15, n_test=8, dtype=F64)
    net = TwoLayer(6, 5)
    return square_loss(net, net.init([0.5, 1.0], [2, 3], dtype=F64), p.x, p.y)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_heavy_ball_equals_torchs_sgd(objective, momentum):
    w = objective.w0.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=0.3, momentum=momentum)
    for _ in range(20):
        optimizer.zero_grad()
        objective.loss(objective.net(w, objective.x)).sum().backward()
        optimizer.step()
    k, u, out = next(itertools.islice(gradient_descent(objective, 0.3, momentum=momentum), 20, None))
    assert k == 20
    assert torch.allclose(objective.w0 + u, w.detach(), atol=1e-12)
    assert torch.allclose(out, objective.net(w, objective.x).detach(), atol=1e-12)


def test_each_run_has_its_own_step(objective):
    _, u, _ = next(itertools.islice(gradient_descent(objective, [0.1, 0.4]), 7, None))
    for row, step in enumerate((0.1, 0.4)):
        _, alone, _ = next(itertools.islice(gradient_descent(objective.select([row]), step), 7, None))
        assert torch.allclose(u[row], alone[0], atol=1e-14)


def test_sgd_descends_the_batches_it_is_given():
    w0 = torch.tensor([[1.0, -2.0]], dtype=F64)
    targets = iter(torch.arange(10, dtype=F64))

    def gradient(w):
        y = next(targets)
        return w - y, 0.5 * (w - y).square().sum(1)

    runs = sgd(gradient, w0, 0.5)
    k, w, loss = next(runs)
    assert k == 0 and torch.equal(w, w0) and float(loss) == pytest.approx(2.5)
    k, w, loss = next(runs)
    assert k == 1 and torch.allclose(w, torch.tensor([[0.5, -1.0]], dtype=F64))
    assert torch.equal(w0, torch.tensor([[1.0, -2.0]], dtype=F64))


def test_bad_steps_are_refused(objective):
    for wrong, sentence in (
        (dict(step=0.0), "step must be finite and > 0"),
        (dict(step=[0.1, 0.1, 0.1]), "one number or 2"),
        (dict(step=0.1, momentum=1.0), "momentum must lie in"),
    ):
        with pytest.raises(ValueError, match=sentence):
            next(gradient_descent(objective, **wrong))


def test_adam_is_that_of_torch():
    net, problem = TwoLayer(4, 6), teacher_student(0, d=4, n=20, n_test=1, dtype=torch.float64)
    w0 = net.init([0.3, 1.0], 0, dtype=torch.float64)
    steps = [0.01, 0.03]
    run = adam(square_loss(net, w0, problem.x, problem.y), steps, betas=(0.8, 0.95), eps=1e-4)
    u = next(u for k, u, _ in run if k == 25)
    for row, step in enumerate(steps):
        w = w0[row].clone().requires_grad_()
        optimizer = torch.optim.Adam([w], lr=step, betas=(0.8, 0.95), eps=1e-4)
        for _ in range(25):
            optimizer.zero_grad()
            (0.5 * (net(w, problem.x) - problem.y).square().mean()).backward()
            optimizer.step()
        torch.testing.assert_close(w0[row] + u[row], w.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "word"), [({"betas": (0.9, 1.0)}, "betas"), ({"eps": 0.0}, "eps"), ({"step": -1.0}, "step")]
)
def test_adam_refuses_wrong_arguments(wrong, word):
    net, problem = TwoLayer(4, 6), teacher_student(0, d=4, n=20, n_test=1)
    objective = square_loss(net, net.init(1.0, 0), problem.x, problem.y)
    with pytest.raises(ValueError, match=f"{word}.*\\.$"):
        next(adam(objective, **{"step": 0.01, **wrong}))
