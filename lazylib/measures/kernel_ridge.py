"""Kernel ridge regression of classes on fixed features of images that know their mirror images."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from ..runs.rng import generator

_ROWS = 1000  # rows of a kernel at a time
_ROUNDING = 1e-5  # of an entry of a kernel in float32, with some to spare


class MirrorKernelRidge:
    """Kernel ridge regression of classes on features of images that know their mirror images, by Nyström's method.

    k(x, c) = G(f(x) − f(c)) + G(f(x) − f(c mirrored)) with a Gaussian G(d) = exp(−|d|²/s) of standardized features, s
    being `width` times the mean of |d|² over pairs of centres c, which are drawn at random among the first four fifths
    of the images. The scores are K(x, C) w, where w minimizes ‖K w − targets‖² + penalty·wᵀ K(C, C) w over one-hot
    targets less their mean, and K is less its mean over the centres. The penalty is the one with which the fit on the
    first four fifths classifies the last fifth best; then all are fitted with it.

    Args:
        features: (n, p), float16 or float32; computed in float32, solved in float64.
        mirror: permutation (p,) that makes the features of the mirrored images.
        y: class numbers, (n,).
        classes: how many there are.
        centres: how many, at most.
        width: of the Gaussian, > 0; see above.
        penalties: to choose from; of those that do equally well the first.
        seed: of the draw of the centres.

    Raises:
        ValueError: fewer than five images, no penalty, or one or a width that is not positive.

    Source: Williams, Seeger 2001 (Nyström's method).

    Example:
        >>> import torch
        >>> from lazylib.measures import MirrorKernelRidge
        >>> f = torch.cat([torch.zeros(20, 2), torch.ones(20, 2)]) + 0.1 * torch.randn(40, 2)
        >>> y = torch.arange(2).repeat_interleave(20)
        >>> order = torch.randperm(40)
        >>> fit = MirrorKernelRidge(f[order], torch.tensor([1, 0]), y[order], classes=2, centres=10)
        >>> fit(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        tensor([0, 1])
    """

    def __init__(
        self,
        features: Tensor,
        mirror: Tensor,
        y: Tensor,
        classes: int,
        *,
        centres: int,
        width: float = 1.0,
        penalties: Sequence[float] = (1.0, 0.3, 0.1, 0.03),
        seed: int = 0,
    ):
        n, known = len(features), len(features) * 4 // 5
        if n < 5:
            raise ValueError(f"features must have five rows or more, not {n}.")
        if not width > 0:
            raise ValueError(f"width must be positive, not {width}.")
        if not penalties or not all(penalty > 0 for penalty in penalties):
            raise ValueError(f"penalties must be one or more positive numbers, not {penalties}.")
        rows = torch.randperm(known, generator=generator(seed, "centres"))[:centres].to(features.device)
        chosen = features[rows].float()
        self.mean, variance = ((v + v[mirror]) / 2 for v in (chosen.mean(0), chosen.var(0)))
        self.std = variance.clamp(min=1e-12).sqrt()
        chosen = self._standardized(chosen)
        self.centres = (chosen, chosen[:, mirror])
        self.scale = 2 * width * float(chosen.square().sum(1).mean())  # they are centred
        gram = torch.cat([self._kernel(part) for part in chosen.split(_ROWS)])
        self.shift = gram.mean(0)
        gram = ((gram + gram.T) / 2).double()
        gram.diagonal().add_(_ROUNDING * len(gram) ** 0.5)  # more than float32 has made of its smallest eigenvalues
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        self.root = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), eye, upper=False).T.float()
        targets = nnf.one_hot(y, classes).float() - 1 / classes
        quadratic = torch.zeros_like(gram)
        right = gram.new_zeros(len(gram), classes)
        for part, some in _parts(features[:known], targets[:known]):
            self._add(quadratic, right, self._rows(part), some)
        fits = {penalty: _solved(quadratic, right, penalty) for penalty in penalties}
        correct = dict.fromkeys(penalties, 0)
        for part, answers, some in _parts(features[known:], y[known:], targets[known:]):
            rows = self._rows(part)
            for penalty, weights in fits.items():
                correct[penalty] += int(((rows @ weights).argmax(1) == answers).sum())
            self._add(quadratic, right, rows, some)
        self.penalty = max(correct, key=correct.__getitem__)
        self.weights = _solved(quadratic, right, self.penalty)

    def __call__(self, features: Tensor) -> Tensor:
        """Class numbers (n,) of features (n, p)."""
        return torch.cat([(self._rows(part) @ self.weights).argmax(1) for part in features.split(_ROWS)])

    def _rows(self, features: Tensor) -> Tensor:
        """Features of Nyström's method: their products are k, as far as the centres tell."""
        return (self._kernel(self._standardized(features.float())) - self.shift) @ self.root

    def _standardized(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std

    def _kernel(self, f: Tensor) -> Tensor:
        """k of standardized features with all centres, (n, centres)."""
        return sum(
            torch.cdist(f, c, compute_mode="use_mm_for_euclid_dist").square_().div_(-self.scale).exp_()
            for c in self.centres
        )  # type: ignore[return-value]

    @staticmethod
    def _add(quadratic: Tensor, right: Tensor, rows: Tensor, targets: Tensor) -> None:
        quadratic += rows.T @ rows
        right += rows.T @ targets


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(_ROWS) for tensor in tensors), strict=True)


def _solved(quadratic: Tensor, right: Tensor, penalty: float) -> Tensor:
    """(quadratic + penalty)⁻¹ right."""
    system = quadratic.clone()
    system.diagonal().add_(penalty)
    return torch.cholesky_solve(right, torch.linalg.cholesky(system)).float()
