"""Loss landscapes: planes through weight space, the loss on a plane, and neurons put in a common order.

A plane is w = origin + s·directions[0] + t·directions[1]. Its two directions carry the unit of s and t: the
standard deviation of a set of solutions (`pca_plane`), or a relative change of the weights (`random_plane`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..nets._base import ACTIVATIONS
from ..nets.deep import Deep
from ..nets.transforms import Transform
from ..nets.two_layer import TwoLayer
from ..runs._memory import require_memory
from ..runs.rng import generator

THREAD_WORK = 10_000_000  # outputs of neurons that are worth a thread
CPU_BLOCK, GPU_BLOCK = (
    1 << 20,
    1 << 28,
)  # bytes of activations at a time; on a CPU they should stay in its cache


@dataclass(frozen=True)
class Plane:
    """w = origin + s·directions[0] + t·directions[1], with orthogonal directions.

    origin (P,); directions (2, P); share: parts of the variance along the two directions (PCA), or None.
    """

    origin: Tensor
    directions: Tensor
    share: tuple[float, float] | None = None

    def points(self, coordinates: Tensor) -> Tensor:
        """Weights (…, P) at coordinates (…, 2)."""
        return self.origin + coordinates.to(self.origin) @ self.directions

    def coordinates(self, w: Tensor) -> Tensor:
        """(s, t) of the orthogonal projections of w (…, P) on the plane, (…, 2)."""
        return (w - self.origin) @ (self.directions / self.directions.square().sum(1, keepdim=True)).T

    def project(self, w: Tensor) -> Tensor:
        """The nearest points of the plane, (…, P)."""
        return self.points(self.coordinates(w))


def pca_plane(weights: Tensor) -> Plane:
    """The plane through the mean of R weight vectors along their first two principal components.

    s and t are in sample standard deviations (with R − 1) along the components. The R vectors themselves do
    not lie on the plane unless R ≤ 3: it holds the share of their variance that ``share`` says.

    Args:
        weights: (R, P), R ≥ 3.

    Returns:
        The plane.

    Raises:
        ValueError: fewer or not finite vectors, or if they lie on one line.

    Source: the note of Bahaduri and Goudelin, section on loss landscapes.

    Example:
        >>> import torch
        >>> from lazylib.measures import pca_plane
        >>> plane = pca_plane(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 2.0, 1.0]]))
        >>> round(sum(plane.share), 4)  # three points lie on their plane
        1.0
    """
    if weights.dim() != 2 or len(weights) < 3:
        raise ValueError(f"weights must be (runs, parameters) with three runs or more, got {tuple(weights.shape)}.")
    if not bool(torch.isfinite(weights).all()):
        raise ValueError("weights must be finite, got NaN or infinite entries.")
    w = weights.double()
    mean = w.mean(0)
    gram = (w - mean) @ (w - mean).T  # (R, R): few runs, many parameters
    values, vectors = torch.linalg.eigh(gram)
    if not values[-2] > 1e-12 * values[-1]:
        raise ValueError("weights must span a plane, but they lie on one line or coincide.")
    top, vectors = values[[-1, -2]], vectors[:, [-1, -2]]  # (2,), (R, 2)
    directions = vectors.T @ (w - mean) / (len(w) - 1) ** 0.5  # (2, P), of length std
    share = (top / values.clamp(min=0).sum()).tolist()
    return Plane(mean.to(weights), directions.to(weights), tuple(share))


def filters(net) -> Tensor:
    """For every entry of w the number of its filter, (P,): the weights into one unit (Li et al. 2018, §4).

    For a bias or any other one-dimensional parameter −1: it has no filter and is not moved.
    """
    if isinstance(net, TwoLayer):
        return torch.cat([torch.zeros(net.m, dtype=torch.long), torch.arange(1, net.m + 1).repeat_interleave(net.d)])
    if isinstance(net, Deep):
        shapes = [torch.Size(shape) for shape in net.shapes] + [torch.Size([sum(net.widths)])] * net.bias
    elif isinstance(net, torch.nn.Module):
        shapes = [p.shape for p in net.parameters() if p.requires_grad]
    elif isinstance(net, Transform) and (isinstance(net.net, torch.nn.Module) or net.net.size == net.size):
        return filters(net.net)
    else:
        raise ValueError(f"filters are known for TwoLayer, Deep, a torch module and their transforms, not {net!r}.")
    ids, first = [], 0
    for shape in shapes:
        units = shape[0] if len(shape) > 1 else 0
        numbers = torch.arange(first, first + units) if units else torch.tensor([-1])
        ids.append(numbers.repeat_interleave(shape.numel() // len(numbers)))
        first += units
    return torch.cat(ids)


def filter_rms(net, w: Tensor) -> Tensor:
    """‖w_j‖/√(size of j) of the filter j of every entry: the rms of its weights.

    Called r, it gives E vᵀHv = Σ_k r_k² H_kk for a random v whose part in each filter j has length ‖w_j‖.

    Args:
        net: any net; the filters of a two-layer net are its neurons' (a_j) and (b_j).
        w: parameters, (P,).

    Returns:
        (P,), 0 where there is no filter.

    Example:
        >>> import torch
        >>> from lazylib.measures import filter_rms
        >>> from lazylib.nets import Deep
        >>> filter_rms(Deep(d=2, widths=(1,)), torch.tensor([3.0, 4.0, 2.0])).round(decimals=3)
        tensor([3.5360, 3.5360, 2.0000])
    """
    ids = filters(net).to(w.device) + 1
    count = torch.zeros(int(ids.max()) + 1, dtype=w.dtype, device=w.device)
    square = count.index_add(0, ids, w.square())
    rms = (square / count.index_add(0, ids, torch.ones_like(w)).clamp(min=1)).sqrt()
    return torch.where(ids > 0, rms[ids], 0.0)


def random_plane(net, w: Tensor, seed: int = 0) -> Plane:
    """A filter-normalized random plane through w.

    Each filter of a Gaussian direction is scaled to the norm of the same filter of w, so that s = 1 changes
    every unit's weights by 100 %: pictures of nets whose weights differ in size can be compared. The second
    direction is made orthogonal to the first (they nearly are) and normalized again as a whole.

    Args:
        net: any net.
        w: parameters, (P,).
        seed: of the directions.

    Returns:
        The plane.

    Source: Li et al. 2018, section 4.

    Example:
        >>> import torch
        >>> from lazylib.measures import plane_loss, random_plane
        >>> from lazylib.nets import TwoLayer
        >>> net = TwoLayer(d=2, m=3)
        >>> w, x = net.init(1.0, 0)[0], torch.eye(2)
        >>> plane_loss(net, random_plane(net, w), [0.0], [0.0], x, net(w, x))  # at its own outputs
        tensor([[0.]])
    """
    if w.dim() != 1:
        raise ValueError(f"w must be the parameters of one run, (P,), got shape {tuple(w.shape)}.")
    rng = generator(seed, "plane")
    unit = filter_rms(net, w)
    first, second = (
        unit * (v / torch.where(norm > 0, norm, 1.0))
        for v in torch.randn(2, len(w), generator=rng, dtype=torch.float64).to(w)
        for norm in [filter_rms(net, v)]
    )
    length = second.norm()
    second = second - first * (first @ second) / (first @ first)
    return Plane(w, torch.stack([first, second * (length / second.norm())]))


def _coordinates(s, t, like: Tensor) -> Tensor:
    """All pairs (s, t), (S·T, 2), s slowest."""
    s, t = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (s, t))
    for name, values in dict(s=s, t=t).items():
        if values.dim() != 1 or not len(values) or not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} must be a non-empty list of finite numbers, got {values.tolist()}.")
    return torch.cartesian_prod(s, t)


def plane_values(f: Callable[[Tensor], Tensor], plane: Plane, s, t, block: int = 64) -> Tensor:
    """f on the grid s × t of a plane, (S, T), `block` points at a time.

    Args: f: function of weights (B, P) → (B,), any; s (S,), t (T,): coordinates.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}.")
    coordinates = _coordinates(s, t, plane.origin)
    require_memory(block * plane.origin.nbytes, f"a block of {block} points", plane.origin.device)
    return torch.cat([f(plane.points(part)) for part in coordinates.split(block)]).view(len(s), len(t))


def plane_loss(net, plane: Plane, s, t, x: Tensor, y: Tensor) -> Tensor:
    """½ mean (h − y)² on the grid s × t of a plane, for any net.

    Of a two-layer net all points share three matrix products: the preactivations b_i·x are linear in (s, t).
    Inputs and points go in blocks of a fixed size, whatever the grid.

    Args:
        net: any net.
        plane: from `pca_plane` or `random_plane`.
        s: values (S,).
        t: values (T,).
        x: inputs, (n, d), or what the net takes.
        y: targets, shaped as the outputs, (n,) or (n, k); with k outputs (h − y)² is the sum over them.

    Returns:
        (S, T), in the unit of y².

    Raises:
        ValueError: y has not the shape of the outputs.

    Example:
        >>> import torch
        >>> from lazylib.measures import plane_loss, random_plane
        >>> from lazylib.nets import TwoLayer
        >>> net = TwoLayer(d=2, m=3)
        >>> w, x = net.init(1.0, 0)[0], torch.eye(2)
        >>> plane_loss(net, random_plane(net, w), [-1.0, 0.0, 1.0], [0.0, 1.0], x, torch.zeros(2)).shape
        torch.Size([3, 2])
    """
    if not isinstance(net, TwoLayer):
        shape = net(plane.origin, x).shape

        def loss(w: Tensor) -> Tensor:
            error = (net(w, x) - y).square()  # (G, n) or (G, n, k)
            return 0.5 * (error.sum(2) if error.dim() > 2 else error).mean(1)
    else:
        shape = x.shape[:1]
    if y.shape != shape:
        raise ValueError(f"y must have the shape {tuple(shape)} of the outputs, got {tuple(y.shape)}.")
    y = y.to(plane.origin)
    if not isinstance(net, TwoLayer):
        return plane_values(loss, plane, s, t)
    coordinates = _coordinates(s, t, x)
    if net.activation == "relu" and x.device.type == "cpu":
        return _compiled_plane_loss(net, plane, s, t, x, y)
    weights = torch.cat([torch.ones_like(coordinates[:, :1]), coordinates], 1)  # (G, 3)
    a, b = net.split(torch.cat([plane.origin[None], plane.directions]))  # (3, m), (3, m, d)
    a, sigma = (net.scale * weights @ a).unsqueeze(1), ACTIVATIONS[net.activation]  # (G, 1, m)
    budget = (CPU_BLOCK if x.device.type == "cpu" else GPU_BLOCK) // x.element_size()
    points = max(1, min(32, budget // (16 * net.m)))
    inputs = min(len(x), max(16, budget // (points * net.m)))
    total, space = x.new_zeros(len(weights)), x.new_empty(points * net.m * inputs)  # used again by every block
    for rows, targets in zip(x.split(inputs), y.split(inputs), strict=True):
        z = (b @ rows.T).view(3, -1)  # (3, m·c)
        for k in range(0, len(weights), points):
            block = weights[k : k + points]  # (g, 3)
            p = torch.mm(block, z, out=space[: len(block) * z.shape[1]].view(len(block), -1))
            hidden = (p.relu_() if net.activation == "relu" else sigma(p)).view(-1, net.m, len(rows))
            out = torch.bmm(a[k : k + points], hidden).squeeze(1)  # (g, c)
            total[k : k + points] += out.sub_(targets).square_().sum(1)
    return (total / (2 * len(x))).view(len(s), len(t))


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Threads that stay: new ones start on one core and take milliseconds, a whole plane, to spread."""
    return ThreadPoolExecutor(count, "plane")


def _compiled_plane_loss(net: TwoLayer, plane: Plane, s, t, x: Tensor, y: Tensor) -> Tensor:
    """`plane_loss` of a ReLU net on a CPU, the inputs shared among torch's threads where that pays."""
    from ..nets import _two_layer_cpu as compiled  # loads a compiler

    m = -(-net.m // 4) * 4  # neurons with all weights zero fill up the fours
    # (numpy's, as torch's threads would linger on the cores that the ones below need)
    corners = np.concatenate([plane.origin.numpy()[None], plane.directions.numpy()])  # (3, P)
    a, b = (v.numpy() for v in net.split(torch.from_numpy(corners)))  # (3, m), (3, m, d)
    a, b = np.pad(net.scale * a, ((0, 0), (0, m - net.m))), np.pad(b, ((0, 0), (0, m - net.m), (0, 0)))
    s, t = (torch.as_tensor(v, dtype=x.dtype).numpy() for v in (s, t))
    xs, ys = x.numpy(), y.numpy()

    def part(rows: slice) -> np.ndarray:
        total = np.zeros((len(s), len(t)))
        for first in range(rows.start, rows.stop, inputs):
            some = slice(first, min(first + inputs, rows.stop))
            z = (b.reshape(3 * m, -1) @ xs[some].T).reshape(3, m, -1)
            compiled.plane_loss_sums(z, a, s, t, ys[some], total)
        return total

    inputs = 128 * max(1, CPU_BLOCK // (3 * m * 128 * xs.itemsize))  # at a time: their z stays in the cache
    work = m * len(ys) * len(s) * len(t)
    count = max(1, min(torch.get_num_threads(), work // THREAD_WORK))
    edges = np.linspace(0, len(ys), count + 1).astype(int)
    parts = [slice(*pair) for pair in zip(edges[:-1], edges[1:], strict=True)]
    with compiled.one_blas_thread():
        total = part(parts[0]) if count == 1 else sum(_threads(count).map(part, parts))
    return torch.from_numpy(total / (2 * len(ys))).to(y.dtype)


def barrier(f: Callable[[Tensor], Tensor], w: Tensor, other: Tensor, points: int = 25) -> Tensor:
    """Height of the loss over the segment from w to other: max_t f(w_t) − (1−t) f(w) − t f(other).

    w_t = (1−t) w + t·other at equidistant t in [0, 1], ends included: never negative.

    Args:
        f: the loss, (R, P) → (R,).
        w: (R, P) or (P,).
        other: (R, P) or (P,).
        points: values of t.

    Returns:
        (R,), in the unit of f.

    Source: Frankle et al. 2020, with the straight line between the ends as base.

    Example:
        >>> import torch
        >>> from lazylib.measures import barrier
        >>> hill = lambda w: 1 - w.square().sum(-1)
        >>> barrier(hill, torch.tensor([[-1.0]]), torch.tensor([[1.0]]))
        tensor([1.])
    """
    if not points >= 3:
        raise ValueError(f"points must be at least 3, got {points}.")
    w, other = torch.broadcast_tensors(torch.atleast_2d(w), torch.atleast_2d(other))
    t = torch.linspace(0, 1, points, dtype=w.dtype, device=w.device)
    losses = torch.stack([f(u + t[:, None] * (v - u)) for u, v in zip(w, other, strict=True)])  # (R, points)
    return (losses - (1 - t) * losses[:, :1] - t * losses[:, -1:]).amax(1)


def permute(net: TwoLayer, w: Tensor, order: Tensor) -> Tensor:
    """The same function with its neurons in another order.

    Args:
        net: a two-layer net.
        w: parameters, (P,).
        order: neuron i becomes neuron order[i] of w, (m,).

    Returns:
        (P,).

    Example:
        >>> import torch
        >>> from lazylib.measures import permute
        >>> from lazylib.nets import TwoLayer
        >>> permute(TwoLayer(d=1, m=2), torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1, 0]))
        tensor([2., 1., 4., 3.])
    """
    a, b = net.split(w)
    return torch.cat([a[order], b[order].reshape(-1)])


def align(net: TwoLayer, w: Tensor, reference: Tensor) -> Tensor:
    """w with its neurons reordered to be as near to a reference as possible; the function stays the same.

    The order minimizes ‖w − reference‖ over all m! permutations, exactly: a linear assignment with the gains
    a_i a′_j + b_i·b′_j.

    Args:
        net: a two-layer net.
        w: parameters, (P,) or (R, P).
        reference: (P,).

    Returns:
        As w.

    Source: for deeper nets Ainsworth, Hayase and Srinivasa 2023, "Git Re-Basin".

    Example:
        >>> import torch
        >>> from lazylib.measures import align
        >>> from lazylib.nets import TwoLayer
        >>> align(TwoLayer(d=1, m=2), torch.tensor([2.0, 1.0, 4.0, 3.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
        tensor([1., 2., 3., 4.])
    """
    if not isinstance(net, TwoLayer):
        raise ValueError(f"neurons are aligned for a TwoLayer net, not {net!r}.")
    if w.dim() == 2:
        return torch.stack([align(net, row, reference) for row in w])
    (a, b), (a0, b0) = (net.split(v.double()) for v in (w, reference))
    gain = torch.outer(a0, a) + b0 @ b.T  # (m, m): neuron of the reference, neuron of w
    return permute(net, w, torch.as_tensor(linear_sum_assignment(gain.cpu().numpy(), maximize=True)[1]))
