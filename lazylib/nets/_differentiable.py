"""Modules are called in ways that torch can differentiate, twice and in forward mode, and rightly.

Where torch's fused functions have no second or no forward derivative (attention, LSTM, GLU, weight normalization), or
a wrong one, they are replaced by what they stand for, while a module is called, and put back afterwards.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def differentiable() -> Iterator[None]:
    """Inside the block attention is the mathematical one, recurrent layers are torch's own, and `_FORMULAS` hold.

    Dropout that is on gives a ValueError. It is enough that the forward pass is inside: derivatives belong to the
    functions that it called.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _Formulas():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def all_digits() -> Iterator[None]:
    """Convolutions, recurrent layers and matrix products keep all digits of float32 inside the block.

    Of the first two torch's default on a GPU is TF32, which has 4; `torch.set_float32_matmul_precision` and settings
    fp32_precision may ask for it, or for bfloat16, anywhere.
    """
    back: Any = torch.backends  # whose parts are not all typed
    exact: Any
    if hasattr(back.cudnn, "conv"):
        parts = [
            back.cudnn.conv,
            back.cudnn.rnn,
            back.cuda.matmul,
            back.mkldnn.conv,
            back.mkldnn.rnn,
            back.mkldnn.matmul,
        ]
        name, exact = "fp32_precision", "ieee"
    else:  # torch before 2.9
        parts, name, exact = [back.cudnn, back.cuda.matmul], "allow_tf32", False
    before = [getattr(part, name) for part in parts]
    try:
        for part in parts:
            setattr(part, name, exact)
        yield
    finally:
        for part, value in zip(parts, before, strict=True):
            setattr(part, name, value)


class _Formulas(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return _FORMULAS.get(function, function)(*args, **(kwargs or {}))


def _standardized(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) * (variance + eps).rsqrt()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """A factor and a shift for each channel, which are dimension 1 of x."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


# The derivatives of the next three by weights and inputs are wrong in torch (2.13) where forward mode is differentiated
# again, be it forward or in reverse: the mean and the variance count as constants. That of `_weight_norm` is wrong
# wherever it is taken twice, for the same reason.


def _layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    out = _standardized(input, tuple(range(-len(normalized_shape), 0)), eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    if not use_input_stats:
        return nnf.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _affine(_standardized(input, tuple(range(2, input.dim())), eps), weight, bias)


def _batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if not training:
        return nnf.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _affine(_standardized(input, (0, *range(2, input.dim())), eps), weight, bias)


def _weight_norm(v, g, dim=0):
    dims = tuple(k for k in range(v.dim()) if k != dim % v.dim()) if dim != -1 else tuple(range(v.dim()))
    return v * (g / v.square().sum(dims, keepdim=True).sqrt())


def _glu(input, dim=-1):
    value, gate = input.chunk(2, dim)
    return value * gate.sigmoid()


def _no_chance(function: Callable) -> Callable:
    """A function of torch with arguments p or lower, and training, that must not draw random numbers."""
    signature = inspect.signature(function)

    def call(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        if given.arguments["training"] and given.arguments.get("p", 1) > 0:
            raise ValueError(
                f"the module must be deterministic, but {function.__name__} is on: call .eval() of it first, and pass "
                "it training=self.training where it is called as a function."
            )
        return function(*args, **kwargs)

    return call


def _not_fused(function: Callable) -> Callable:
    def call(*args, **kwargs):
        before = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
        torch._C._set_mkldnn_enabled(False)  # its public name warns of settings that are not touched, as does cudnn's,
        torch._C._set_cudnn_enabled(False)  # which fails where convolutions and recurrent layers differ in precision
        try:
            return function(*args, **kwargs)
        finally:
            torch._C._set_mkldnn_enabled(before[0])
            torch._C._set_cudnn_enabled(before[1])

    return call


_CHANCE = (
    nnf.dropout,
    nnf.dropout1d,
    nnf.dropout2d,
    nnf.dropout3d,
    nnf.alpha_dropout,
    nnf.feature_alpha_dropout,
    nnf.rrelu,
)
_FORMULAS: dict[Callable, Callable] = {
    nnf.layer_norm: _layer_norm,
    nnf.instance_norm: _instance_norm,
    nnf.batch_norm: _batch_norm,
    torch._weight_norm: _weight_norm,
    nnf.glu: _glu,
}
_FORMULAS |= {function: _no_chance(function) for function in _CHANCE}
_FORMULAS |= {function: _not_fused(function) for function in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)}
