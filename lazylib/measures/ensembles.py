"""What the networks of an ensemble differ by, and what their mean gains: from a few networks to infinitely many.

k networks that differ by their initialization alone give k samples of a function F. A statistic of them, such as the
error of their mean, depends on k. It is therefore computed for all of them and for halves of them, the rows of
``subsets``; ``over_halves`` makes of these numbers the limit of many networks, with an interval.

``summarize_ensemble`` keeps of labelled outputs the few numbers that are needed, and ``by_subset`` makes of these the
variance and the errors of all networks and of the halves.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import xarray as xr
from scipy import special


def subsets(k: int, most: int = 60) -> np.ndarray:
    """All of k networks, and halves of them: which networks belong to each.

    The halves have r = ⌊k/2⌋ networks. There are all binom(k, r) of them, or else half as many random orders of the
    networks as `most` says, of each the first r and the last r. The same k gives the same halves.

    Args:
        k: networks, at least 4.
        most: so many halves at most, at least 2.

    Returns:
        (1 + halves, k) of truth values; the first row is all networks.

    Raises:
        ValueError: k or most is too small.

    Example:
        >>> from lazylib.measures import subsets
        >>> subsets(4).astype(int)[:3]
        array([[1, 1, 1, 1],
               [1, 1, 0, 0],
               [1, 0, 1, 0]])
        >>> subsets(20).shape
        (61, 20)
    """
    if k < 4 or most < 2:
        raise ValueError(f"k must be at least 4 and most at least 2, got {k} and {most}.")
    r = k // 2
    if math.comb(k, r) <= most:
        halves = np.array(list(itertools.combinations(range(k), r)))  # (halves, r)
    else:
        orders = [np.random.default_rng(i).permutation(k) for i in range(most // 2)]
        halves = np.array([half for order in orders for half in (order[:r], order[-r:])])
    return np.array([np.ones(k, dtype=bool), *(np.isin(np.arange(k), half) for half in halves)])


def pair_variances(F: np.ndarray) -> np.ndarray:
    """½ ⟨(F_i − F_j)²⟩_x for each pair of networks, of which ``ensemble_variance`` is the mean.

    Args:
        F: outputs, (…, k, N), of k networks on N inputs.

    Returns:
        (…, k, k), in units of F², zero for a network with itself.

    Example:
        >>> import numpy as np
        >>> from lazylib.measures import pair_variances
        >>> pair_variances(np.array([[0.0, 1.0], [2.0, 1.0]]))
        array([[0., 1.],
               [1., 0.]])
    """
    gram = F @ np.swapaxes(F, -1, -2) / F.shape[-1]  # ⟨F_i F_j⟩, (…, k, k)
    squares = np.diagonal(gram, axis1=-2, axis2=-1)  # (…, k)
    return (squares[..., :, None] + squares[..., None, :]) / 2 - gram


def ensemble_variance(pairs: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Variance of F over initializations, averaged over the inputs: ⟨E (F − E F)²⟩_x.

    It is the mean of ½ ⟨(F_i − F_j)²⟩_x over the pairs of different networks of a subset, and has no bias.

    Args:
        pairs: (…, k, k), what ``pair_variances`` returns.
        members: (S, k), the networks of each subset, such as the rows of ``subsets``; two or more in each.

    Returns:
        (S, …), in units of F².

    Raises:
        ValueError: a subset has less than two networks.

    Source: Geiger, Spigler, Jacot, Wyart 2020, figure 4a.

    Example:
        >>> import numpy as np
        >>> from lazylib.measures import ensemble_variance, pair_variances, subsets
        >>> F = np.array([[0.0], [1.0], [2.0], [3.0]])
        >>> ensemble_variance(pair_variances(F), subsets(4))[:3].round(3)
        array([1.667, 0.5  , 2.   ])
    """
    members = np.asarray(members, dtype=float)
    size = members.sum(1)  # (S,)
    if (size < 2).any():
        raise ValueError(f"each subset must have two networks or more, got {size.min():g}.")
    total = np.einsum("si,...ij,sj->...s", members, pairs, members)  # (…, S)
    return np.moveaxis(total / (size * (size - 1)), -1, 0)


def ensemble_error(Fy: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Share of the inputs that the mean output of each subset of the networks puts into the wrong class.

    Args:
        Fy: outputs times classes ±1, (…, k, N), positive where the class is right; 0 counts as wrong.
        members: (S, k), the networks of each subset; the unit matrix for single networks.

    Returns:
        (S, …), between 0 and 1; NaN where an output of the mean is.

    Source: Geiger, Spigler, Jacot, Wyart 2020, figure 4c and d.

    Example:
        Two networks, each wrong on another input; their mean is right on both.

        >>> import numpy as np
        >>> from lazylib.measures import ensemble_error
        >>> Fy = np.array([[-1.0, 2.0], [2.0, -1.0]])
        >>> ensemble_error(Fy, np.eye(2)), ensemble_error(Fy, np.array([[True, True]]))
        (array([0.5, 0.5]), array([0.]))
    """
    sums = (row @ Fy for row in np.asarray(members, dtype=float))  # the mean has the sum's sign
    return np.stack([np.where(np.isnan(each).any(-1), np.nan, (each <= 0).mean(-1)) for each in sums])


def largest_share(pairs: np.ndarray) -> np.ndarray:
    """Share of the variance between k networks that lies in one direction of function space, the largest one.

    It is 1/(k − 1) if all directions were equal, and near 1 if the networks differ by multiples of one function.

    Args:
        pairs: (…, k, k), what ``pair_variances`` returns.

    Returns:
        (…,), between 1/(k − 1) and 1.

    Example:
        >>> import numpy as np
        >>> from lazylib.measures import largest_share, pair_variances
        >>> f = np.array([1.0, -2.0])
        >>> print(round(float(largest_share(pair_variances(np.stack([0 * f, f, 3 * f])))), 3))
        1.0
    """
    centre = np.eye(pairs.shape[-1]) - 1 / pairs.shape[-1]
    values = np.linalg.eigvalsh(-centre @ pairs @ centre)  # those of the centred Gram matrix, increasing
    return values[..., -1] / values.sum(-1)


def mean_product(F: xr.DataArray, G: xr.DataArray) -> xr.DataArray:
    """⟨E F · E G⟩_x of the mean outputs over initializations, without bias: from products of different networks only.

    Of F with itself it is the mean square of the mean output, of F − F′ with itself how far the mean output of one kind
    of networks is from that of another; it can then come out below 0.

    Args:
        F, G: outputs of k ≥ 2 networks each, the dimension seed, on the same inputs, the dimension test.

    Returns:
        Of the other dimensions, in units of F·G.

    Example:
        Two networks, of which one is 1 everywhere and the other 3.

        >>> import xarray as xr
        >>> from lazylib.measures import mean_product
        >>> F = xr.DataArray([[1.0, 1.0], [3.0, 3.0]], dims=("seed", "test"))
        >>> print(float(mean_product(F, F)))
        3.0
    """
    k = F.sizes["seed"]
    return (F.sum("seed") * G.sum("seed") - (F * G).sum("seed")).mean("test") / (k * (k - 1))


def summarize_ensemble(Fy: xr.DataArray, orders: int = 30) -> xr.Dataset:
    """What the statistics of ensembles need of the outputs: a few numbers for each set of k networks.

    Args:
        Fy: outputs times classes ±1, with the dimensions seed (k networks), test (inputs) and any others.
        orders: random orders of the networks over which `joined` is averaged; the same each time.

    Returns:
        Of the other dimensions, and of those named here: pairs (seed, other), ``pair_variances``; single (seed),
        mean_of_all and mean_of_half (half), ``ensemble_error`` of each network, of all and of the halves of
        ``subsets``; joined (members), that of the mean of j networks; power, ``mean_product`` of F with itself.

    Raises:
        ValueError: fewer than four networks.

    Example:
        >>> import numpy as np, xarray as xr
        >>> from lazylib.measures import summarize_ensemble
        >>> Fy = xr.DataArray([[-1.0, 2.0], [2.0, -1.0], [-1.0, 2.0], [2.0, 2.0]], dims=("seed", "test"))
        >>> found = summarize_ensemble(Fy)
        >>> found.single.values, float(found.mean_of_all)
        (array([0.5, 0.5, 0.5, 0. ]), 0.0)
    """
    F = Fy.transpose(..., "seed", "test").astype(float)
    k, dims, rng = F.sizes["seed"], F.dims[:-2], np.random.default_rng(0)
    by_halves = ensemble_error(F.values, subsets(k))  # (1 + halves, …)
    places = [np.argsort(rng.permutation(k)) for _ in range(orders)]
    joined = [ensemble_error(F.values, place <= np.arange(k)[:, None]) for place in places]  # (k, …) each
    return xr.Dataset(
        {
            "pairs": ((*dims, "seed", "other"), pair_variances(F.values)),
            "single": (("seed", *dims), ensemble_error(F.values, np.eye(k))),
            "mean_of_all": (dims, by_halves[0]),
            "mean_of_half": (("half", *dims), by_halves[1:]),
            "joined": (("members", *dims), np.mean(joined, axis=0)),
            "power": mean_product(F, F),
        },
        coords={**{name: F[name] for name in (*dims, "seed") if name in F.coords}, "members": np.arange(1, k + 1)},
    )


def by_subset(summary: xr.Dataset) -> xr.Dataset:
    """The summary with Var F and the errors for all networks and for halves of them, the dimension subset.

    Args:
        summary: what ``summarize_ensemble`` returns.

    Returns:
        It, with the coordinate networks (their number k), and by subset: variance, ``ensemble_variance``; one, the mean
        error of its single networks; many, the error of their mean. What is computed of these by subset is then an
        argument of ``over_halves``.

    Example:
        >>> import numpy as np, xarray as xr
        >>> from lazylib.measures import by_subset, over_halves, summarize_ensemble
        >>> F = xr.DataArray(np.random.default_rng(0).normal(1, 0.5, size=(6, 1000)), dims=("seed", "test"))
        >>> found = by_subset(summarize_ensemble(F))
        >>> print("Var F = {:.2f} [{:.2f}, {:.2f}]".format(*map(float, over_halves(found.variance, 6))))
        Var F = 0.25 [0.24, 0.26]
    """
    k = summary.sizes["seed"]
    members = xr.DataArray(subsets(k), dims=("subset", "seed"))
    pairs = summary.pairs.transpose(..., "seed", "other")
    many = summary.mean_of_all.expand_dims("subset"), summary.mean_of_half.rename(half="subset")
    return summary.assign(
        variance=(("subset", *pairs.dims[:-2]), ensemble_variance(pairs.values, members.values)),
        one=(summary.single * members).sum("seed") / members.sum("seed"),
        many=xr.concat(many, "subset"),
    ).assign_coords(networks=k)


def over_halves(values: np.ndarray, k: int, confidence: float = 0.95) -> tuple:
    """The limit of many networks of a statistic, and its confidence interval, from k networks and from halves of them.

    A statistic with a bias ∝ 1/(number of networks) has the limit (k E_k − r E_r)/(k − r), if E_k is its value for
    all k and E_r its mean over the halves, r = ⌊k/2⌋. The interval is that of the delete-d jackknife, d = k − r: the
    variance of the statistic is r/d times the mean square by which the halves deviate from their mean; Student's t
    with k − 1 degrees of freedom. It knows how the statistic varies, not what the extrapolation adds. For a known
    mean plus Gaussian noise in few directions, k from 5 to 20, it covers the truth in 90 to 99 % of cases; for noise
    that is independent from input to input also that of a variance or of single networks, but that of the error of
    an ensemble in 77 to 87 % only.

    Args:
        values: the statistic, (1 + halves, …), by the rows of ``subsets(k)``; also a DataArray.
        k: networks.
        confidence: of the interval, in (0, 1).

    Returns:
        value, low, high, each (…).

    Raises:
        ValueError: the number of values is not that of ``subsets(k)``; confidence out of range.

    Source: Shao, Wu, *A general theory for jackknife variance estimation*, The Annals of Statistics 17 (1989),
    1176–1197.

    Example:
        The square of a mean is too large by its variance; the limit is without it: 3² − 14/3/4.

        >>> import numpy as np
        >>> from lazylib.measures import over_halves, subsets
        >>> members = subsets(4)
        >>> means = members @ np.array([1.0, 2.0, 3.0, 6.0]) / members.sum(1)
        >>> value, low, high = over_halves(means**2, 4)
        >>> print(f"{value:.2f} [{low:.1f}, {high:.1f}]")
        7.83 [-13.0, 28.6]
    """
    rows = len(subsets(k))
    if len(values) != rows:
        raise ValueError(f"values must be {rows} for {k} networks, by the rows of subsets({k}), got {len(values)}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    r, of_all, of_half = k // 2, values[0], values[1:]
    value = (k * of_all - r * of_half.mean(axis=0)) / (k - r)
    reach = special.stdtrit(k - 1, (1 + confidence) / 2) * math.sqrt(r / (k - r)) * of_half.std(axis=0)
    return value, value - reach, value + reach
