"""Problems: inputs, targets and the teacher that made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..nets.two_layer import TwoLayer
from ..runs.rng import generator


@dataclass(frozen=True)
class Problem:
    """A regression problem, or a batch of them with one row a run.

    Attributes:
        x, x_test: inputs, (n, d) or (B, n, d). Test inputs that are training inputs are refused: `check_apart`.
        y, y_test: targets, (n,) or (B, n).
        teacher: parameters (P0,) or (B, P0) of ``teacher_net``.
        teacher_net: the net that made the targets.

    Example:
        >>> from lazylib.problems import teacher_student
        >>> batch = teacher_student([0, 1, 2], d=5, n=20)
        >>> batch.rows([2, 2]).y.shape
        torch.Size([2, 20])
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    teacher: Tensor
    teacher_net: TwoLayer

    def __post_init__(self):
        check_apart(self.x, self.x_test)

    def rows(self, index) -> Problem:
        """The sub-batch at ``index`` (a run may be repeated)."""
        parts = (self.x, self.y, self.x_test, self.y_test, self.teacher)
        x, y, x_test, y_test, teacher = (part[index] for part in parts)
        return Problem(x, y, x_test, y_test, teacher, self.teacher_net)


def check_apart(x: Tensor, x_test: Tensor, most: float = 0.01) -> None:
    """See that test inputs are not training inputs.

    Args:
        x: training inputs, (…, d).
        x_test: test inputs, (…, d).
        most: share of the test inputs that may be training inputs all the same: sets of images have a few twins.

    Raises:
        ValueError: a larger share of them is.

    Example:
        >>> import torch
        >>> from lazylib.problems import check_apart
        >>> check_apart(torch.eye(3), -torch.eye(3))
    """
    if x.shape[-1:] != x_test.shape[-1:]:
        return  # whoever uses them says it better
    mark = torch.linspace(1, 2, x.shape[-1], dtype=torch.float64, device=x.device).sqrt()
    # A number for each input, in parts: a copy of all in float64 may be large.
    known, new = (torch.cat([p.double() @ mark for p in z.flatten(0, -2).split(4096)]) for z in (x, x_test))
    seen = torch.isin(new, known)
    if seen.double().mean() > most:
        raise ValueError(f"test inputs must not be training inputs, but {int(seen.sum())} of {seen.numel()} are.")


def sphere(n: int, d: int, rng: torch.Generator) -> Tensor:
    """n points uniform on the unit sphere of R^d.

    Args:
        n: points.
        d: dimension.
        rng: the generator they are drawn from.

    Returns:
        (n, d), float64.

    Example:
        >>> from lazylib.problems import sphere
        >>> from lazylib.runs import generator
        >>> sphere(3, 2, generator(0, "data")).norm(dim=1).round(decimals=6)
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    return torch.nn.functional.normalize(torch.randn(n, d, generator=rng, dtype=torch.float64), dim=-1)


def null_risk(y: Tensor) -> Tensor:
    """½ mean y², the risk of the zero function: what a net that has learned nothing has to pay.

    The unit of the losses in the chapters, for the ½ mean (h − y)² of ``square_loss``.

    Args:
        y: targets, (…, n), floating point.

    Returns:
        (…,), a number for each set of n targets, in the dtype of y, in the unit of y².

    Raises:
        ValueError: there are no targets.

    Source: the loss is that of Chizat, Oyallon, Bach 2019, figures 1 and 2.

    Example:
        >>> import torch
        >>> from lazylib.problems import null_risk
        >>> null_risk(torch.tensor([[1.0, -1.0], [2.0, 0.0]]))
        tensor([0.5000, 1.0000])
    """
    if not (y.dim() and y.shape[-1]):
        raise ValueError(f"y must hold at least one target, (…, n), got shape {tuple(y.shape)}.")
    return 0.5 * y.square().mean(dim=-1)


def teacher_student(
    seeds: int | Sequence[int],
    *,
    d: int = 100,
    n: int = 1000,
    m0: int = 3,
    n_test: int = 1000,
    scale: float = 1.0,
    dtype=torch.float32,
    device=None,
) -> Problem:
    """Inputs uniform on the unit sphere, targets of a random two-layer ReLU teacher.

    The teacher is scale · Σ_{i≤m0} a_i relu(b_i·x) with ‖b_i‖ = 1 and a_i = ±1.

    Args:
        seeds: a whole number gives one problem; a sequence gives a batch, a row for each seed, each with its own
            teacher and inputs.
        d: input dimension.
        n: training inputs.
        m0: the teacher's neurons.
        n_test: test inputs.
        scale: factor on the teacher's output.
        dtype: of all tensors; they are drawn in float64.
        device: of all tensors.

    Returns:
        The problem.

    Raises:
        ValueError: a size below 1, or no seed.

    Source: Chizat, Oyallon, Bach 2019, figures 1 and 2.

    Example:
        >>> from lazylib.problems import teacher_student
        >>> problem = teacher_student(0, d=10, n=50)
        >>> problem.x.shape, problem.y.shape, problem.teacher_net.m
        (torch.Size([50, 10]), torch.Size([50]), 3)
    """
    for name, value in dict(d=d, n=n, m0=m0, n_test=n_test).items():
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} must be a whole number ≥ 1, got {value!r}.")
    net = TwoLayer(d, m0, scale=scale)

    def one(seed: int) -> tuple[Tensor, ...]:
        rng = generator(seed, "teacher")
        signs = 2.0 * torch.randint(0, 2, (m0,), generator=rng) - 1.0
        teacher = torch.cat([signs.double(), sphere(m0, d, rng).reshape(-1)])  # (P0,)
        rng = generator(seed, "data")
        x, x_test = sphere(n, d, rng), sphere(n_test, d, rng)
        return x, net(teacher, x), x_test, net(teacher, x_test), teacher

    if isinstance(seeds, int):
        parts = one(seeds)
    else:
        if not len(seeds):
            raise ValueError("seeds must not be empty.")
        parts = tuple(torch.stack(part) for part in zip(*map(one, seeds), strict=True))
    x, y, x_test, y_test, teacher = (part.to(dtype=dtype, device=device) for part in parts)
    return Problem(x, y, x_test, y_test, teacher, net)
