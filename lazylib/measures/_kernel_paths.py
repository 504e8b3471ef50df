"""Ways to compute a tangent kernel, one for each kind of net: see ``lazylib.measures.tangent_kernel``."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from ..nets import deep
from ..nets.deep import SOFTPLUS_BETA, FullyConnected, denormals_flushed
from ..nets.two_layer import TwoLayer
from ..runs._memory import require_memory

_ENTRIES = 2**26  # of the largest block of per-image gradients held at a time: 256 MB in float32


def two_layer(net: TwoLayer, w: Tensor, x: Tensor, x2: Tensor) -> Tensor:
    """Of the ReLU net: scale² (Σ_k relu relu′ + x·x′ Σ_k a_k² 1 1′); w (P,)."""
    a, b = net.split(w)
    p, p2 = x @ b.T, x2 @ b.T  # (n, m), (n2, m)
    on, on2 = (p > 0).to(w.dtype) * a, (p2 > 0).to(w.dtype) * a
    return net.scale**2 * (p.relu() @ p2.relu().T + (x @ x2.T) * (on @ on2.T))


def by_jacobian(net, w: Tensor, x: Tensor, x2: Tensor) -> Tensor:
    """Of any net, by reverse-mode Jacobians; w (P,)."""
    jacobian = torch.func.jacrev(lambda v: net(v, x))(w)  # (n, P)
    other = jacobian if x2 is x else torch.func.jacrev(lambda v: net(v, x2))(w)
    return jacobian @ other.T


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


def by_layers(module: nn.Module, x: Tensor, x2: Tensor | None = None) -> Tensor:
    """K[(i, c), (j, d)] = ⟨∂h_c(x_i)/∂w, ∂h_d(x2_j)/∂w⟩ at the module's weights, (n·classes, n2·classes).

    module: built of Conv2d (zero padding, one group) and Linear as the layers with weights, each used once
        in a pass; outputs (n, classes), one image's independent of the others'. x: (n, c, h, w); x2:
        default x.

    The gradient of output c at image i with respect to a layer's weights is G_ic A_iᵀ, with the layer's
    inputs as patches A (fan in × positions) and the derivative of the output with respect to the layer's
    values G (channels × positions), so the layer's part of K is tr(G_ic A_iᵀ A_j G_jdᵀ). It is summed from
    gradients, a block of channels at a time, or, where positions are few and weights many, from the products
    AᵀA and GᵀG over pairs of positions, whichever is cheaper. One backward pass for each class gives all G.

    Row i·classes + c is output c of image i. Raises TypeError for a layer it cannot treat, MemoryError before
    work starts if K cannot fit.
    """
    layers = [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]
    for layer in layers:
        conv = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
        conv = conv and not isinstance(layer.padding, str)
        if not (conv or isinstance(layer, nn.Linear)):
            raise TypeError(
                "the layers with weights must be Linear or Conv2d with one group and zero padding in numbers, "
                f"not {layer}."
            )
    with torch.no_grad():
        classes = module(x[:1]).shape[1]
    rows, columns = len(x) * classes, len(x if x2 is None else x2) * classes
    require_memory(2 * rows * columns * x.element_size(), "the tangent kernel", x.device)
    kernel = x.new_zeros(rows, columns)
    left = _parts(module, layers, x)
    right = left if x2 is None else _parts(module, layers, x2)
    for layer in layers:
        a, g = left.pop(layer)
        a2, g2 = (a, g) if right is left else right.pop(layer)
        _add(kernel, a, g, a2, g2, layer.bias is not None)
    return kernel


def _parts(module: nn.Module, layers: list, x: Tensor) -> dict:
    """Layer → inputs as patches A (n, fan in, positions), derivatives G (n, classes, channels, positions)."""
    inputs, values = {}, {}

    def keep(layer, given, value):
        inputs[layer], values[layer] = given[0].detach(), value

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.enable_grad():
            outputs = module(x.detach().requires_grad_())  # (n, classes); so that frozen weights will do
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
            assert not isinstance(layer.padding, str)  # `by_layers` refuses it
            a = nnf.unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
            parts[layer] = a, g.flatten(3)  # (n, fan in, positions), (n, classes, channels, positions)
        else:
            parts[layer] = a.unsqueeze(2), g.unsqueeze(3)
    return parts


def _add(kernel: Tensor, a: Tensor, g: Tensor, a2: Tensor, g2: Tensor, bias: bool) -> None:
    """Add a layer's part to the kernel."""
    fan_in, positions, channels = a.shape[1], a.shape[2], g.shape[2]
    if bias:  # the gradient with respect to the bias of a channel
        kernel.addmm_(g.sum(3).flatten(0, 1), g2.sum(3).flatten(0, 1).T)
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
