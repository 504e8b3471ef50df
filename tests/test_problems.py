"""The teacher–student problem has the published law."""

import dataclasses

import pytest
import torch

from lazylib.problems import check_apart, parity, teacher_student


def test_inputs_lie_on_the_sphere_and_targets_are_the_teachers():
    p = teacher_student(3, d=10, n=40, n_test=30, dtype=torch.float64)
    assert p.x.shape == (40, 10) and p.x_test.shape == (30, 10) and p.y.shape == (40,)
    assert torch.allclose(p.x.norm(dim=1), torch.ones(40, dtype=torch.float64))
    a, b = p.teacher[:3], p.teacher[3:].reshape(3, 10)
    assert torch.allclose(a.abs(), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(b.norm(dim=1), torch.ones(3, dtype=torch.float64))
    expected = sum(a[i] * torch.relu(p.x @ b[i]) for i in range(3))
    assert torch.allclose(p.y, expected, atol=1e-14)


def test_a_batch_holds_the_single_problems_each_with_its_own_teacher():
    batch = teacher_student([4, 7], d=6, n=9, n_test=5, scale=100.0)
    for row, seed in enumerate((4, 7)):
        one = teacher_student(seed, d=6, n=9, n_test=5, scale=100.0)
        assert torch.equal(batch.x[row], one.x) and torch.equal(batch.y_test[row], one.y_test)
    assert not torch.equal(batch.teacher[0], batch.teacher[1])
    assert not torch.equal(batch.x, batch.x_test[:, :5].repeat(1, 2, 1)[:, :9])
    again = batch.rows(torch.tensor([1, 1]))
    assert torch.equal(again.y[0], batch.y[1]) and torch.equal(again.y[1], batch.y[1])


@pytest.mark.parametrize("wrong", [dict(d=0), dict(n=-1), dict(m0=0), dict(n_test=2.5)])
def test_sizes_must_be_whole_and_positive(wrong):
    with pytest.raises(ValueError, match="must be a whole number ≥ 1"):
        teacher_student(0, **wrong)


def test_no_seeds_is_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        teacher_student([])


@pytest.mark.parametrize("shape", [(40, 7), (3, 40, 7)])
def test_test_inputs_are_no_training_inputs(shape):
    x, x_test = torch.randn(shape), torch.randn(shape)
    check_apart(x, x_test)
    leaked = x_test.clone()
    leaked[..., ::20, :] = x[..., 5:7, :]
    count, of = leaked[..., 0].numel() // 20, leaked[..., 0].numel()
    with pytest.raises(ValueError, match=f"test inputs must not be training inputs, but {count} of {of} are"):
        check_apart(x, leaked)
    check_apart(x, leaked, most=0.1)
    p = teacher_student(0, d=7, n=40, n_test=40)
    for problem in (p, parity("digits", 40, 40)):
        part = problem.x_test.clone()
        part[:2] = problem.x[8:10]
        with pytest.raises(ValueError, match="but 2 of 40 are"):
            dataclasses.replace(problem, x_test=part)


def test_a_few_twins_of_a_set_of_images_are_let_pass():
    x, x_test = torch.randn(500, 4), torch.randn(500, 4)
    x_test[:5] = x[:5]
    check_apart(x, x_test)
    x_test[5] = x[5]
    with pytest.raises(ValueError, match="6 of 500"):
        check_apart(x, x_test)


def test_an_output_that_is_no_number_is_no_right_answer():
    data = parity("digits", 10, 10, 0)
    outputs = torch.stack([data.y_test, torch.full_like(data.y_test, torch.nan)])
    found = data.error(outputs)
    assert found[0] == 0 and found[1].isnan()
