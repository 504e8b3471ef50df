"""Ways to compute a tangent kernel, one for each kind of net: see ``lazylib.measures.tangent_kernel``."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from ..nets import deep
from ..nets._calls import refuse_random
from ..nets._differentiable import all_digits
from ..nets.deep import SOFTPLUS_BETA, FullyConnected, denormals_flushed
from ..nets.modules import from_module
from ..nets.two_layer import TwoLayer
from ..runs._memory import require_memory, saved_bytes

_INPUTS = 32  # at a time, of a Jacobian
_BYTES = 2**30  # of activations at a time, of a Jacobian
_ENTRIES = 2**26  # of the largest block of per-image gradients held at a time: 256 MB in float32


def two_layer(net: TwoLayer, w: Tensor, x: Tensor, x2: Tensor) -> Tensor:
    """Of the ReLU net: scale² (Σ_k relu relu′ + x·x′ Σ_k a_k² 1 1′); w (P,)."""
    a, b = net.split(w)
    p, p2 = x @ b.T, x2 @ b.T  # (n, m), (n2, m)
    on, on2 = (p > 0).to(w.dtype) * a, (p2 > 0).to(w.dtype) * a
    return net.scale**2 * (p.relu() @ p2.relu().T + (x @ x2.T) * (on @ on2.T))


def by_jacobian(net, w: Tensor, x, x2) -> Tensor:
    """Of any net, by Jacobians in reverse mode, (n·k, n2·k); w (P,)."""
    left = jacobian(net, w, x)
    return left @ (left if x2 is x else jacobian(net, w, x2)).T


def jacobian(net, w: Tensor, x) -> Tensor:
    """Dh(w) on x, (n·k, P): some inputs at a time, as one backward pass for each output would go through all of them.

    Only where outputs of the parts are those of the whole, that is, where an input's outputs depend on no other input.
    """
    with torch.no_grad():
        outputs = net(w, x)
    require_memory(2 * outputs.numel() * len(w) * w.element_size(), "the Jacobian", w.device)
    if isinstance(x, Tensor) and len(x) == len(outputs) > _INPUTS:
        with torch.no_grad():
            parts = torch.cat([net(w, part) for part in x.split(_INPUTS)])
        tol = 100 * torch.finfo(w.dtype).eps * max(1.0, float(outputs.abs().max()))
        if torch.allclose(parts, outputs, rtol=0, atol=tol):
            return torch.cat([_rows(net, w, part) for part in x.split(_INPUTS)])
    return _rows(net, w, x)


def _rows(net, w: Tensor, x) -> Tensor:
    outputs, pull = torch.func.vjp(lambda v: net(v, x).flatten(), w)
    each = 2 * saved_bytes(lambda v: net(v, x), w)
    require_memory(each, "a backward pass of the net", w.device)
    block = max(1, _BYTES // max(1, each))  # outputs at a time
    basis = torch.eye(len(outputs), dtype=w.dtype, device=w.device)
    return torch.cat([torch.func.vmap(lambda v: pull(v)[0])(some) for some in basis.split(block)])


def _factors(net: FullyConnected, w: Tensor, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Z_{l−1} (B, fan in, n), the first (d, n), and Δ_l (B, fan out, n) of the layers l = 1 … L + 1."""
    layers, factors = net.split(w), net.factors
    z, p = [x.mT], []
    for (weight, b), c in zip(layers[:-1], factors, strict=False):
        pre = c * (weight @ z[-1])
        p.append(pre if b is None else pre + net.bias * b.unsqueeze(-1))
        z.append(net.act(p[-1]))
    delta = [torch.ones_like(p[0][:, :1])]  # (B, 1, n)
    for (weight, _), c, pre in reversed(list(zip(layers[1:], factors[1:], p, strict=True))):
        back = c * (weight.mT @ delta[0])
        relu = net.activation == "relu"
        gate = (pre > 0).to(pre) if relu else torch.sigmoid(SOFTPLUS_BETA * pre)
        delta.insert(0, back * gate)
    return z, delta


def _blocks(net: FullyConnected, w: Tensor, x: Tensor) -> Iterator[tuple[slice, tuple]]:
    chunk = max(1, deep.CHUNK_BYTES // (len(w) * net.h * w.element_size()))
    for start in range(0, len(x), chunk):
        part = slice(start, min(start + chunk, len(x)))
        yield part, _factors(net, w, x[part])


def fully_connected(net: FullyConnected, w: Tensor, x: Tensor, x2: Tensor | None) -> Tensor:
    """Of a batch of nets, w (B, P), layer by layer: with z_l and Δ_l = ∂f/∂p_l as in ``objectives._deep_hinge``,

        Θ = Σ_l (c_l² Z_{l−1}ᵀZ_{l−1} + β²) ∘ Δ_lᵀΔ_l.

    Inputs go in blocks; only the result is held whole.
    """
    theta = w.new_empty(len(w), len(x), len(x if x2 is None else x2))
    with denormals_flushed():
        _add_blocks(theta, net, w, x, x2)
    return theta


def _add_blocks(theta: Tensor, net: FullyConnected, w: Tensor, x: Tensor, x2: Tensor | None) -> None:
    columns = list(_blocks(net, w, x if x2 is None else x2))
    for rows, (z, delta) in columns if x2 is None else _blocks(net, w, x):
        for others, (z2, delta2) in columns:
            block = theta[:, rows, others]
            for l, c in enumerate(net.factors):
                gram = c**2 * (z[l].mT @ z2[l])  # (…, n, n2)
                gram = gram + net.bias**2 if net.bias else gram
                if l == net.L:  # Δ = 1
                    block += gram
                elif l == 0:
                    torch.mul(delta[0].mT @ delta2[0], gram, out=block)
                else:
                    block += (delta[l].mT @ delta2[l]).mul_(gram)


def of_module(module: nn.Module, x, x2=None) -> Tensor:
    """Of a module at its present weights, (n·k, n2·k); row i·k + c is output c at x_i. Frozen parameters do not count.

    Layer by layer if that gives for random vectors v, v2 the product ⟨Dh(x)ᵀv, Dh(x2)ᵀv2⟩ of two backward passes, which
    it does not where a weight is used outside its layer, say, or inputs depend on each other; else by Jacobians.
    """
    refuse_random(module)
    with all_digits():
        return _of_module(module, x, x2)


def _of_module(module: nn.Module, x, x2) -> Tensor:
    layers = [layer for layer in module.modules() if any(p.requires_grad for p in layer.parameters(recurse=False))]
    if layers and all(map(_plain, layers)) and isinstance(x, Tensor):
        kernel = by_layers(module, layers, x, x2)
        if kernel is not None and _is_right(module, kernel, x, x if x2 is None else x2):
            return kernel
    net, w = from_module(module)
    return by_jacobian(net, w, x, x if x2 is None else x2)


def _plain(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear


def _is_right(module: nn.Module, kernel: Tensor, x: Tensor, x2: Tensor) -> bool:
    rng = torch.Generator().manual_seed(0)
    v, v2 = (torch.randn(size, generator=rng).to(kernel) for size in kernel.shape)
    weights = [p for p in module.parameters() if p.requires_grad]
    with torch.enable_grad():
        pulled = [
            torch.autograd.grad(module(at).flatten() @ along, weights, allow_unused=True)
            for at, along in ((x, v), (x2, v2))
        ]
    pairs = [(a, b) for a, b in zip(*pulled, strict=True) if a is not None and b is not None]
    expected = sum(float((a * b).sum()) for a, b in pairs)
    size = math.prod(math.hypot(*(float(part.norm()) for part in side)) for side in zip(*pairs, strict=True))
    return abs(float(v @ (kernel @ v2)) - expected) <= torch.finfo(kernel.dtype).eps ** (1 / 3) * size


def by_layers(module: nn.Module, layers: list, x: Tensor, x2: Tensor | None = None) -> Tensor | None:
    """K[(i, c), (j, d)] = ⟨∂h_c(x_i)/∂w, ∂h_d(x2_j)/∂w⟩ at the module's weights, (n·classes, n2·classes), or None.

    layers: those with weights, Conv2d (zero padding, one group) and Linear, each used once in a pass, or else None is
        returned; outputs (n, classes), one image's independent of the others'. x: (n, …); x2: default x.

    The gradient of output c at image i with respect to a layer's weights is G_ic A_iᵀ, with the layer's
    inputs as patches A (fan in × positions) and the derivative of the output with respect to the layer's
    values G (channels × positions), so the layer's part of K is tr(G_ic A_iᵀ A_j G_jdᵀ). It is summed from
    gradients, a block of channels at a time, or, where positions are few and weights many, from the products
    AᵀA and GᵀG over pairs of positions, whichever is cheaper. One backward pass for each class gives all G.

    Raises MemoryError before work starts if K cannot fit.
    """
    with torch.no_grad():
        first = module(x[:1])
    if not isinstance(first, Tensor) or first.dim() != 2:
        return None
    rows, columns = len(x) * first.shape[1], len(x if x2 is None else x2) * first.shape[1]
    require_memory(2 * rows * columns * x.element_size(), "the tangent kernel", x.device)
    kernel = first.new_zeros(rows, columns)
    left = _parts(module, layers, x)
    right = left if x2 is None else _parts(module, layers, x2)
    if left is None or right is None:
        return None
    for layer in layers:
        a, g = left.pop(layer)
        a2, g2 = (a, g) if right is left else right.pop(layer)
        bias = layer.bias is not None and layer.bias.requires_grad
        _add(kernel, a, g, a2, g2, layer.weight.requires_grad, bias)
    return kernel


def _parts(module: nn.Module, layers: list, x: Tensor) -> dict | None:
    """Layer → inputs as patches A (n, fan in, positions), derivatives G (n, classes, channels, positions).

    None if a layer is not used once.
    """
    inputs, values, uses = {}, {}, []

    def keep(layer, given, value):
        uses.append(layer)
        inputs[layer], values[layer] = given[0].detach(), value
        return value.clone()  # what comes next may change it in place

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.enable_grad():
            outputs = module(x)  # (n, classes)
        if len(uses) != len(layers) or len(values) != len(layers):
            return None
        order = list(values)
        grads = [
            torch.autograd.grad(outputs[:, c].sum(), [values[layer] for layer in order], retain_graph=True)
            for c in range(outputs.shape[1])
        ]
    finally:
        for hook in hooks:
            hook.remove()
    parts = {}
    for k, layer in enumerate(order):
        a, g = inputs[layer], torch.stack([grad[k] for grad in grads], 1)
        if isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str)  # see `_plain`
            a = nnf.unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
            parts[layer] = a, g.flatten(3)  # (n, fan in, positions), (n, classes, channels, positions)
        else:  # (n, …, fan in), (n, classes, …, channels)
            parts[layer] = a.reshape(len(a), -1, a.shape[-1]).mT, g.flatten(2, -2).mT if g.dim() > 3 else g.unsqueeze(3)
    return parts


def _add(kernel: Tensor, a: Tensor, g: Tensor, a2: Tensor, g2: Tensor, weight: bool, bias: bool) -> None:
    """Add a layer's part to the kernel, of its weight, its bias or both."""
    fan_in, positions, channels = a.shape[1], a.shape[2], g.shape[2]
    if bias:  # the gradient with respect to the bias of a channel
        kernel.addmm_(g.sum(3).flatten(0, 1), g2.sum(3).flatten(0, 1).T)
    if not weight:
        return
    if positions**2 < fan_in:  # operations: rows·columns·channels·positions² against rows·columns·channels·fan in
        _add_by_positions(kernel, a, g, a2, g2)
        return
    block = max(1, _ENTRIES // (max(len(a), len(a2)) * g.shape[1] * fan_in))  # channels at a time
    for c in range(0, channels, block):
        left = _gradients(a, g[:, :, c : c + block])
        right = left if g2 is g else _gradients(a2, g2[:, :, c : c + block])
        kernel.addmm_(left, right.T)


def _gradients(a: Tensor, g: Tensor) -> Tensor:
    """Gradients with respect to the weights of some channels, (n·classes, channels·fan in)."""
    n, classes, channels, positions = g.shape
    return torch.bmm(g.reshape(n, classes * channels, positions), a.mT).reshape(n * classes, -1)


def _add_by_positions(kernel: Tensor, a: Tensor, g: Tensor, a2: Tensor, g2: Tensor) -> None:
    classes = g.shape[1]
    for s in range(a.shape[2]):
        left = g[..., s].flatten(0, 1)  # (n·classes, channels)
        for t in range(a2.shape[2]):
            inputs = a[:, :, s] @ a2[:, :, t].T  # (n, n2)
            kernel += (left @ g2[..., t].flatten(0, 1).T) * inputs.repeat_interleave(classes, 0).repeat_interleave(
                classes, 1
            )
