"""What goes on inside: units on the side of the kink where they were, and features that resemble what they were."""

from __future__ import annotations

import math

import torch
from scipy import special
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ._kernel import Estimate
from .subject import State, Subject, watch

KINKED = {"relu", "relu_", "leaky_relu", "leaky_relu_", "hardtanh", "hardtanh_", "_prelu_kernel", "threshold"}
KINKED |= {"threshold_", "rrelu_with_noise", "rrelu_with_noise_"}
SMOOTH = {"gelu", "gelu_", "silu", "silu_", "elu", "elu_", "celu", "celu_", "softplus", "mish", "mish_"}
SMOOTH |= {"hardswish", "hardswish_"}


class _Signs(TorchDispatchMode):
    """Notes p > 0 for the preactivations p of every activation that a pass meets, as a module or as a function."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.found: dict[tuple[str, str], list[Tensor]] = {}  # (layer, kind) → one tensor a use
        self.inside: list[str] = []
        self.hooks = []
        for name, layer in model.named_modules():
            self.hooks.append(layer.register_forward_pre_hook(lambda *_, name=name: self.inside.append(name)))
            self.hooks.append(layer.register_forward_hook(self._leave, always_call=True))

    def _leave(self, layer, given, out) -> None:  # a hook that returns something would replace the output
        self.inside.pop()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        operation = function.overloadpacket.__name__
        if operation in KINKED or operation in SMOOTH:
            kind = "kink" if operation in KINKED else "smooth"
            layer = self.inside[-1] if self.inside else ""
            shifted = operation.startswith(("hardtanh", "threshold"))  # ReLU6: at 0
            kink = (args[1] if len(args) > 1 else -1.0) if shifted else 0.0
            self.found.setdefault((layer, kind), []).append(args[0] > kink)
        return function(*args, **(kwargs or {}))

    def __exit__(self, *given):
        for hook in self.hooks:
            hook.remove()
        return super().__exit__(*given)


def stability(subject: Subject, w0: State, w: State) -> dict[tuple[str, str], tuple[int, int]]:
    """(layer, "kink" or "smooth") → pairs of a unit and an input on the same side of 0 at w0 and w, and all pairs."""
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    with torch.no_grad():
        for rows in subject.batches():
            signs = []
            for state in (w0, w):
                with _Signs(subject.model) as mode:
                    subject(state, rows)
                signs.append(mode.found)
            for key, before in signs[0].items():
                for a, b in zip(before, signs[1].get(key, []), strict=True):
                    same, total = counts.get(key, (0, 0))
                    counts[key] = same + int((a == b).sum()), total + a.numel()
    return counts


def similarity(subject: Subject, w0: State, w: State, sample: Tensor) -> dict[str, Estimate]:
    """Layer → unbiased linear CKA of its outputs at w0 and at w on a sample of at least 5 inputs.

    HSIC is the unbiased one, so that independent features read 0 in the mean; the error is that of the jackknife over
    inputs, for a finite population.

    Source: Kornblith, Norouzi, Lee, Hinton 2019 (CKA); Song, Smola, Gretton, Bedo, Borgwardt 2012 (unbiased HSIC).
    """
    grams: list[dict[str, Tensor]] = []
    layers = dict(subject.model.named_modules())
    for state in (w0, w):
        seen: dict[str, Tensor] = {}

        def keep(name, out, seen=seen):
            if isinstance(layers[name.partition("#")[0]], (nn.modules.dropout._DropoutNd, nn.Identity)):
                return  # off, it only repeats the layer before
            out = out[0] if isinstance(out, (tuple, list)) and out else out
            if isinstance(out, Tensor) and out.is_floating_point() and out.dim() > 1 and len(out) == len(sample):
                seen[name] = _gram(out.flatten(1))

        with torch.no_grad(), watch(subject.model, keep):
            subject(state, sample)
        grams.append(seen)
    found = {name: _cka(grams[0][name], grams[1][name], subject.n) for name in grams[0] if name in grams[1]}
    return {name: each for name, each in found.items() if each is not None}


def _gram(features: Tensor) -> Tensor:
    """Inner products of all pairs of inputs, (n, n), 0 on the diagonal; wide features go in parts."""
    total = torch.zeros(len(features), len(features), dtype=torch.float64, device=features.device)
    for part in features.split(2**16, dim=1):
        part = part.double()
        part = part - part.mean(0)  # HSIC does not see it; without it digits are lost
        total += part @ part.T
    return total.fill_diagonal_(0.0)


def _hsic(k: Tensor, l: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased HSIC of two Gram matrices with zero diagonals, and without each input, (n,)."""
    n = len(k)
    rows, others, product = k.sum(1), l.sum(1), k * l

    def put(trace, s, t, mixed, n):
        return (trace + s * t / ((n - 1) * (n - 2)) - 2 / (n - 2) * mixed) / (n * (n - 3))

    whole = put(product.sum(), rows.sum(), others.sum(), rows @ others, n)
    # rows without input i: k_j − K_ij for j ≠ i, and the row i itself, k_i − K_ii = k_i, has to go
    mixed = ((rows - k) * (others - l)).sum(1) - rows * others
    left = put(product.sum() - 2 * product.sum(1), rows.sum() - 2 * rows, others.sum() - 2 * others, mixed, n - 1)
    return whole, left


def _cka(k: Tensor, l: Tensor, population: int) -> Estimate | None:
    """None where features do not vary."""
    n = len(k)
    (kl, kl_less), (kk, kk_less), (ll, ll_less) = _hsic(k, l), _hsic(k, k), _hsic(l, l)
    if not (kk > 0 and ll > 0):
        return None
    value = kl / (kk * ll).sqrt()
    if n == population:
        return Estimate(float(value), 0.0)
    less = kl_less / (kk_less * ll_less).clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    variance = (1 - n / population) * (n - 1) / n * (less - less.mean()).square().sum()
    return Estimate(float(value), float(special.stdtrit(n - 1, 0.975)) * math.sqrt(float(variance)))
