"""VGG-11 and ResNet-18 without batch normalization, of any width, as plain torch modules.

Both classify (n, channels, 32, 32) images. `k` multiplies every number of channels (the *widening factor*).
Weights are Xavier-normal with a gain and biases zero, as in Chizat, Oyallon, Bach 2019 (section 3.2).
"""

import math

import torch
from torch import Tensor, nn

from ..runs.rng import generator

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

    name: "vgg11" (convolutions 64-M-128-M-256-256-M-512-512-M-512-512-M, each with ReLU, then one linear
        layer) or "resnet18" (blocks 2, 2, 2, 2 of 64, 128, 256, 512 channels, average pool of 4, linear).
    k: widening factor; 64·k must be a whole number ≥ 1, so that every width is.
    gain: weights are N(0, gain²·2/(fan in + fan out)), biases 0. A layer of ReLU halves the second moment of
        its input, so with gain g activations shrink or grow by about g²/2 a layer (in the square).
    seed: fixes the weights; for one name and k they are proportional to the gain.

    Raises ValueError, in one sentence, for an unknown name and for k, gain or sizes that are not allowed.
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


def _width(channels: int, k: float) -> int:
    return int(channels * k)
