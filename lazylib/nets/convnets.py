"""Convolutional networks as plain torch modules: VGG-11 and ResNet-18 of any width, and two small ones.

VGG-11 and ResNet-18 (`convnet`) are without batch normalization and classify (n, channels, 32, 32) images. `k`
multiplies every number of channels (the *widening factor*). Weights are Xavier-normal with a gain and biases zero, as
in Chizat, Oyallon, Bach 2019 (section 3.2). `small_convnet` and `pooled_convnet` have one output and are in NTK
parametrization.
"""

import math

import torch
from torch import Tensor, nn

from ..runs.rng import generator
from . import deep

SIZE = 32  # pixels: five halvings leave one position in VGG-11, three and a pool of 4 in ResNet-18
_VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
_RESNET18 = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))  # channels, stride


class Residual(nn.Module):
    """relu(main(x) + shortcut(x)): two 3×3 convolutions beside the identity, or beside a 1×1 one."""

    def __init__(self, before: int, channels: int, stride: int):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(before, channels, 3, stride, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        same = stride == 1 and before == channels
        self.shortcut = nn.Sequential() if same else nn.Sequential(nn.Conv2d(before, channels, 1, stride))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.main(x) + self.shortcut(x))


def _vgg11(k: float, classes: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = channels
    for entry in _VGG11:
        if isinstance(entry, str):  # "M"
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(before, _width(entry, k), 3, padding=1), nn.ReLU()]
            before = _width(entry, k)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before, classes))


def _resnet18(k: float, classes: int, channels: int) -> nn.Sequential:
    before = _width(64, k)
    layers: list[nn.Module] = [nn.Conv2d(channels, before, 3, padding=1), nn.ReLU()]
    for entry, stride in _RESNET18:
        layers.append(Residual(before, _width(entry, k), stride))
        before = _width(entry, k)
    return nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(before, classes))


MODELS = {"vgg11": _vgg11, "resnet18": _resnet18}


def convnet(
    name: str, k: float = 1.0, *, gain: float = 1.0, seed: int = 0, classes: int = 10, channels: int = 3
) -> nn.Sequential:
    """A network at its random initialization, in float32 on the CPU: (n, channels, 32, 32) → (n, classes).

    Args:
        name: "vgg11" (convolutions 64-M-128-M-256-256-M-512-512-M-512-512-M, each with ReLU, then one linear
            layer) or "resnet18" (blocks 2, 2, 2, 2 of 64, 128, 256, 512 channels, average pool of 4, linear).
        k: widening factor, by which every number of channels is multiplied; 64·k must be a whole number ≥ 1.
        gain: weights are N(0, gain²·2/(fan in + fan out)), biases 0. A layer of ReLU halves the second moment of
            its input, so with gain g activations shrink or grow by about g²/2 a layer (in the square).
        seed: fixes the weights; for one name and k they are proportional to the gain.
        classes: outputs.
        channels: of the images.

    Returns:
        The module, without batch normalization.

    Raises:
        ValueError: an unknown name, or k, gain or sizes that are not allowed.

    Source: Chizat, Oyallon, Bach 2019, section 3.2 and its public code.

    Example:
        >>> import torch
        >>> from lazylib.nets import convnet
        >>> net = convnet("vgg11", k=1 / 8, gain=2**0.5)
        >>> sum(weight.numel() for weight in net.parameters()), net(torch.zeros(2, 3, 32, 32)).shape
        (145210, torch.Size([2, 10]))
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, not {name!r}.")
    if isinstance(k, bool) or not (math.isfinite(k) and k > 0 and float(64 * k).is_integer()):
        raise ValueError(f"k must be positive and 64·k a whole number, not {k}.")
    if not (math.isfinite(gain) and gain > 0):
        raise ValueError(f"gain must be finite and positive, not {gain}.")
    for label, size in (("classes", classes), ("channels", channels)):
        if not (isinstance(size, int) and size >= 1):
            raise ValueError(f"{label} must be a whole number ≥ 1, not {size!r}.")
    with torch.device("meta"):  # torch's own initialization would be drawn for nothing
        module = MODELS[name](float(k), classes, channels)
    module = module.to_empty(device="cpu")
    rng = generator(seed, f"{name} weights")
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_normal_(layer.weight, gain, generator=rng)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


class _Times(nn.Module):
    def __init__(self, c: float):
        super().__init__()
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        return self.c * x


def small_convnet(channels: int, colours: int, side: int, seed: int = 0) -> nn.Sequential:
    """Two convolutions of stride 2 and a linear layer, in NTK parametrization: images as rows → one output each.

    Convolutions of 5×5 and of 3×3 pixels and the linear layer have weights N(0, 1) and no biases. As in
    ``FullyConnected``, each is divided by √fan in, and the hidden units are a·softplus_5 with the factor a that keeps
    unit variance.

    Args:
        channels: of both convolutions; the width h of the net.
        colours: 1 or 3, say.
        side: pixels of a side; the convolutions leave ⌈side/4⌉.
        seed: fixes the weights, each layer by a stream of its own.

    Returns:
        A module on the CPU in float32: x (n, colours·side²), ordered by colour, row, column → (n, 1). With
        ``from_module`` it is a net of flat parameters.

    Raises:
        ValueError: a size is not a whole number ≥ 1.

    Source: after Geiger, Spigler, Jacot, Wyart 2020, section 2.1; smaller than their net, `pooled_convnet`.

    Example:
        >>> import torch
        >>> from lazylib.nets import small_convnet
        >>> net = small_convnet(channels=4, colours=3, side=16)
        >>> [tuple(weight.shape) for weight in net.parameters()]
        [(4, 3, 5, 5), (4, 4, 3, 3), (1, 64)]
        >>> net(torch.zeros(10, 3 * 16 * 16)).shape
        torch.Size([10, 1])
    """
    _check_sizes(channels, colours, side)
    return _ntk_convnet(channels, colours, side, [(5, 2, 2), (3, 2, 1)], nn.Flatten(), math.ceil(side / 4) ** 2, seed)


def pooled_convnet(channels: int, colours: int, side: int, seed: int = 0) -> nn.Sequential:
    """Four convolutions of 5×5 pixels and the mean over what they leave, as `small_convnet` in all else.

    The strides are 2, 1, 2, 1, and images are padded by one pixel. The last layer is divided by √h, so that f is √h
    times that of the authors' code, which divides it by h.

    Args:
        channels: of all convolutions; the width h of the net.
        colours: 1 or 3, say.
        side: pixels of a side, at least 19.
        seed: fixes the weights, each layer by a stream of its own.

    Returns:
        A module as `small_convnet` gives it.

    Raises:
        ValueError: a size is not a whole number ≥ 1, or the images are too small.

    Source: Geiger, Spigler, Jacot, Wyart 2020, figure 6; class ``CV`` of their code, mariogeiger/feature_lazy.

    Example:
        >>> import torch
        >>> from lazylib.nets import pooled_convnet
        >>> net = pooled_convnet(channels=4, colours=3, side=32)
        >>> [tuple(weight.shape) for weight in net.parameters()]
        [(4, 3, 5, 5), (4, 4, 5, 5), (4, 4, 5, 5), (4, 4, 5, 5), (1, 4)]
        >>> net(torch.zeros(10, 3 * 32 * 32)).shape
        torch.Size([10, 1])
    """
    _check_sizes(channels, colours, side)
    if side < 19:
        raise ValueError(f"side must be at least 19 for four convolutions of 5×5 pixels, not {side}.")
    mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return _ntk_convnet(channels, colours, side, [(5, 2, 1), (5, 1, 1)] * 2, mean, 1, seed)


def _check_sizes(channels: int, colours: int, side: int) -> None:
    for label, size in (("channels", channels), ("colours", colours), ("side", side)):
        if not (isinstance(size, int) and size >= 1):
            raise ValueError(f"{label} must be a whole number ≥ 1, not {size!r}.")


def _ntk_convnet(
    channels: int, colours: int, side: int, convolutions: list, end: nn.Module, left: int, seed: int
) -> nn.Sequential:
    """Convolutions (pixels of a side, stride, padding), what flattens their outputs to `left` a channel, the rest."""
    layers: list[nn.Module] = []
    a, before = deep.gain("softplus"), colours
    with torch.device("meta"):  # torch's own initialization would be drawn for nothing
        for size, stride, padding in convolutions:
            gain = a if layers else 1.0  # of the units before
            layers += [
                nn.Conv2d(before, channels, size, stride, padding=padding, bias=False),
                _Times(gain / math.sqrt(size**2 * before)),
                nn.Softplus(deep.SOFTPLUS_BETA),
            ]
            before = channels
        last = nn.Linear(channels * left, 1, bias=False)
        module = nn.Sequential(
            nn.Unflatten(1, (colours, side, side)), *layers, end, last, _Times(a / math.sqrt(channels * left))
        )
    module = module.to_empty(device="cpu")
    for l, weight in enumerate(module.parameters()):
        weight.data = torch.randn(weight.shape, generator=generator(seed, f"layer {l}"))
    return module


def _width(channels: int, k: float) -> int:
    return int(channels * k)
