"""The tangent kernel of a network with many outputs, layer by layer, without ever forming its Jacobian."""

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from .memory import require_memory

_ENTRIES = 2**26  # of the largest block of per-image gradients held at a time: 256 MB in float32


def layer_kernel(module: nn.Module, x: Tensor, x2: Tensor | None = None) -> Tensor:
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
        if not (conv or isinstance(layer, nn.Linear)):
            raise TypeError(
                "the layers with weights must be Linear or Conv2d with one group and zero padding, "
                f"not {layer}."
            )
    same = x2 is None
    with torch.no_grad():
        classes = module(x[:1]).shape[1]
    rows, columns = len(x) * classes, len(x if same else x2) * classes
    require_memory(2 * rows * columns * x.element_size(), "the tangent kernel", x.device)
    kernel = x.new_zeros(rows, columns)
    left = _parts(module, layers, x)
    right = left if same else _parts(module, layers, x2)
    for layer in layers:
        _add(kernel, *left.pop(layer), *((None, None) if same else right.pop(layer)), layer.bias is not None)
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
        g = (
            torch.stack([grad[k] for grad in grads], 1).flatten(3)
            if isinstance(layer, nn.Conv2d)
            else torch.stack([grad[k] for grad in grads], 1).unsqueeze(3)
        )  # (n, classes, channels, positions)
        a = inputs[layer]
        a = (
            nnf.unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
            if isinstance(layer, nn.Conv2d)
            else a.unsqueeze(2)
        )  # (n, fan in, positions)
        parts[layer] = a, g
    return parts


def _add(kernel: Tensor, a: Tensor, g: Tensor, a2: Tensor | None, g2: Tensor | None, bias: bool) -> None:
    """Add a layer's part to the kernel."""
    a2, g2 = (a, g) if a2 is None else (a2, g2)
    fan_in, positions, channels = a.shape[1], a.shape[2], g.shape[2]
    if bias:  # the gradient with respect to the bias of a channel
        kernel.addmm_(g.sum(3).flatten(0, 1), g2.sum(3).flatten(0, 1).T)
    if (
        positions**2 < fan_in
    ):  # operations: rows·columns·channels·positions² against rows·columns·channels·fan in
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
            kernel += (left @ g2[..., t].flatten(0, 1).T) * inputs.repeat_interleave(
                classes, 0
            ).repeat_interleave(classes, 1)
