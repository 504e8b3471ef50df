"""Planes, the loss on them, and the order of neurons."""

import itertools
import math

import pytest
import torch

from lazylib.measures import (
    align,
    barrier,
    filter_rms,
    landscape,
    pca_plane,
    permute,
    plane_loss,
    random_plane,
)
from lazylib.measures.landscape import Plane, filters, plane_values
from lazylib.nets import Deep, TwoLayer, centred, from_module
from lazylib.problems import teacher_student

F64 = torch.float64


def losses(net, x, y):
    return lambda w: 0.5 * (net(w, x) - y).square().mean(-1)


@pytest.fixture
def problem():
    return teacher_student(0, d=4, n=50, n_test=70, dtype=F64)


def rows(r, p, seed=0):
    return torch.randn(r, p, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_pca_plane_against_the_covariance_matrix():
    w = rows(7, 5) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1], dtype=F64)
    values, vectors = torch.linalg.eigh(torch.cov(w.T))
    plane = pca_plane(w)
    torch.testing.assert_close(plane.origin, w.mean(0))
    for k in range(2):
        assert plane.directions[k].norm().item() == pytest.approx(values[-1 - k].sqrt().item())
        assert abs(float(plane.directions[k] @ vectors[:, -1 - k])) == pytest.approx(values[-1 - k].sqrt().item())
        assert plane.share[k] == pytest.approx(float(values[-1 - k] / values.sum()))
    torch.testing.assert_close(plane.coordinates(w).std(0), torch.ones(2, dtype=F64))  # the unit of s and t


def test_three_vectors_lie_on_their_plane_and_projections_are_nearest():
    w = rows(3, 20)
    plane = pca_plane(w)
    torch.testing.assert_close(plane.project(w), w)
    assert sum(plane.share) == pytest.approx(1)
    other = rows(1, 20, seed=1)[0]
    rest = other - plane.project(other)
    assert float((plane.directions @ rest).abs().max()) < 1e-12 and rest.norm() > 1


@pytest.mark.parametrize(
    ("w", "words"),
    [
        (rows(2, 5), "three runs"),
        (rows(5, 5) * math.inf, "finite"),
        (torch.outer(torch.arange(4.0, dtype=F64), rows(1, 5)[0]), "one line"),
    ],
)
def test_weights_without_a_plane_are_refused(w, words):
    with pytest.raises(ValueError, match=words):
        pca_plane(w)


@pytest.mark.parametrize("net", [TwoLayer(4, 3, scale=0.3), TwoLayer(4, 3, "softplus"), Deep(4, (3, 5))])
@pytest.mark.parametrize("block", [None, 1])
def test_the_grid_is_the_loop_over_its_points(net, block, problem, monkeypatch):
    if block:
        monkeypatch.setattr("lazylib.measures.landscape.CPU_BLOCK", block)
    plane = pca_plane(rows(6, net.size))
    s, t = [-1.5, 0.0, 2.0], torch.linspace(-1, 1, 45)  # more points than a block
    expected = torch.tensor(
        [
            [
                float(
                    losses(net, problem.x, problem.y)(plane.origin + a * plane.directions[0] + b * plane.directions[1])
                )
                for b in t.double()
            ]
            for a in s
        ],
        dtype=F64,
    )
    torch.testing.assert_close(plane_loss(net, plane, s, t, problem.x, problem.y), expected)
    torch.testing.assert_close(plane_values(losses(net, problem.x, problem.y), plane, s, t, block=7), expected)


def test_targets_must_have_the_shape_of_the_outputs(problem):
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    deep, (several, _) = Deep(4, (3, 5)), from_module(module)
    for net in (deep, TwoLayer(4, 3), TwoLayer(4, 3, "softplus")):
        plane = pca_plane(rows(6, net.size))
        with pytest.raises(ValueError, match=r"y must have the shape \(\d+,\) of the outputs, got \(\d+, 1\)"):
            plane_loss(net, plane, [0.0], [0.0], problem.x, problem.y[:, None])
    plane, y = pca_plane(rows(6, several.size)), torch.stack([problem.y, 2 * problem.y], 1)
    expected = 0.5 * (several(plane.origin, problem.x) - y).square().sum(1).mean()
    torch.testing.assert_close(plane_loss(several, plane, [0.0], [0.0], problem.x, y), expected.view(1, 1))


def test_threads_and_blocks_do_not_change_the_loss_on_a_plane(monkeypatch):
    problem, net = teacher_student(0, d=4, n_test=700), TwoLayer(4, 10)
    plane, s = pca_plane(rows(6, net.size).float()), [-1.0, 0.5]
    expected = plane_values(losses(net, problem.x_test, problem.y_test), plane, s, s)
    for threads, block in ((1, 1 << 20), (3, 1 << 20), (3, 1)):  # a block of 1 byte: 128 inputs at a time
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        monkeypatch.setattr(landscape, "THREAD_WORK", 1)
        monkeypatch.setattr(landscape, "CPU_BLOCK", block)
        torch.testing.assert_close(plane_loss(net, plane, s, s, problem.x_test, problem.y_test), expected)


def test_wrong_coordinates_are_refused(problem):
    net = TwoLayer(4, 3)
    plane = pca_plane(rows(6, net.size))
    for s in ([], [math.nan], [[0.0]]):
        with pytest.raises(ValueError, match="^s must be a non-empty list"):
            plane_loss(net, plane, s, [0.0], problem.x, problem.y)
    with pytest.raises(ValueError, match="block"):
        plane_values(lambda w: w.sum(1), plane, [0.0], [0.0], block=0)


@pytest.mark.parametrize("net", [TwoLayer(4, 3), Deep(4, (3, 5)), Deep(4, (3, 5), bias=True)])
def test_filters_are_the_weights_into_a_unit(net):
    w = rows(1, net.size)[0]
    parts = [net.split(w)[0][None], net.split(w)[1]] if isinstance(net, TwoLayer) else net.split(w)
    expected = torch.cat([p.square().mean(1).sqrt().repeat_interleave(p.shape[1]) for p in parts])
    expected = torch.cat([expected, expected.new_zeros(net.size - len(expected))])  # biases have no filter
    torch.testing.assert_close(filter_rms(net, w), expected)
    torch.testing.assert_close(filters(centred(net, w)), filters(net))


def test_a_module_has_filters_and_its_biases_none():
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 2), torch.nn.Flatten(), torch.nn.Linear(12, 2)).double()
    net, w = from_module(module)
    expected = torch.cat(
        [
            torch.arange(3).repeat_interleave(8),
            torch.full((3,), -1),
            3 + torch.arange(2).repeat_interleave(12),
            torch.full((2,), -1),
        ]
    )
    assert filters(net).equal(expected)
    plane = random_plane(net, w)
    assert not plane.directions[:, expected < 0].any()
    with pytest.raises(ValueError, match="filters are known"):
        filters(lambda w, x: x)


def test_random_plane_has_the_filters_norms():
    net = TwoLayer(4, 3)
    w = rows(1, net.size)[0]
    plane = random_plane(net, w, seed=3)
    torch.testing.assert_close(filter_rms(net, plane.directions[0]), filter_rms(net, w))
    assert abs(float(plane.directions[0] @ plane.directions[1])) < 1e-12 * float(w @ w)
    torch.testing.assert_close(plane.directions[1].norm(), w.norm())
    assert not torch.equal(plane.directions, random_plane(net, w, seed=4).directions)
    assert torch.equal(plane.directions, random_plane(net, w, seed=3).directions)


def test_barrier_of_a_known_function():
    def f(w):
        return (w[:, 0].square() - 1).square() + w[:, 1]  # a double well, tilted

    w, other = torch.tensor([-1.0, 0.0], dtype=F64), torch.tensor([1.0, 2.0], dtype=F64)
    assert barrier(f, w, other).tolist() == pytest.approx([1.0])  # at 0, above the line from 0 to 2
    assert barrier(f, w, torch.stack([w, other])).tolist() == pytest.approx([0.0, 1.0])
    with pytest.raises(ValueError, match="points"):
        barrier(f, w, other, points=2)


def test_align_finds_the_best_of_all_permutations_and_keeps_the_function(problem):
    net = TwoLayer(4, 5)
    w, reference = rows(2, net.size)
    aligned = align(net, w, reference)
    best = min(
        float((permute(net, w, torch.tensor(order)) - reference).norm()) for order in itertools.permutations(range(5))
    )
    assert float((aligned - reference).norm()) == pytest.approx(best)
    torch.testing.assert_close(net(aligned, problem.x), net(w, problem.x))


def test_align_undoes_a_shuffle():
    net = TwoLayer(10, 30)
    w = rows(1, net.size)[0]
    shuffled = torch.stack([permute(net, w, torch.randperm(30)) for _ in range(3)])
    assert align(net, shuffled, w).equal(w.expand(3, -1))
    with pytest.raises(ValueError, match="TwoLayer"):
        align(Deep(4, (3,)), w, w)


def test_a_plane_of_one_shuffled_network_has_a_bump_that_alignment_removes(problem):
    """What chapter 6 rests on: equal functions, unequal order."""
    net = TwoLayer(4, 30)
    w = rows(1, net.size)[0]
    y = net(w, problem.x)
    copies = torch.stack(
        [permute(net, w, torch.randperm(30, generator=torch.Generator().manual_seed(k))) for k in range(6)]
    )
    f = losses(net, problem.x, y)
    assert float(f(copies).max()) < 1e-20 and float(barrier(f, copies[0], copies[1:]).min()) > 0.1 * float(y.var())
    assert float(f(copies.mean(0)[None])) > 0.1 * float(y.var())
    assert float(barrier(f, copies[0], align(net, copies, copies[0])).max()) < 1e-20


def test_a_plane_is_a_plane():
    plane = Plane(torch.zeros(3), torch.tensor([[1.0, 0, 0], [0, 2.0, 0]]))
    assert plane.points(torch.tensor([2.0, 3.0])).tolist() == [2.0, 6.0, 0.0]
    assert plane.coordinates(torch.tensor([2.0, 6.0, 5.0])).tolist() == [2.0, 3.0]


def test_whole_numbers_are_targets_too():
    net, x = TwoLayer(3, 4), torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    w = net.init(1.0, [0, 1, 2])
    found = [plane_loss(net, pca_plane(w), [0.0, 1.0], [0.0], x, torch.tensor([1, -1] * 5, dtype=t)) for t in KINDS]
    assert torch.equal(*found) and found[0].dtype == w.dtype


KINDS = (torch.int64, torch.float32)
