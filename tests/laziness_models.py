"""Small modules of the kinds that people train, each with inputs: (name, make, inputs, output=)."""

import math

import torch
import torch.nn.functional as nnf
from torch import nn

from lazylib.problems import _torchvision


class Residual(nn.Module):
    """One in-place ReLU used twice, batch normalization, a shortcut."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.relu, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x):
        z = self.relu(self.norm(self.first(x)))
        return self.head(self.relu(self.second(z) + z).mean((2, 3)))


class TinyGPT(nn.Module):
    """Tokens in, logits of the next one out; the weights of the embedding are those of the head."""

    def __init__(self, tokens=7, d=8, T=5):
        super().__init__()
        self.wte, self.wpe, self.attn = nn.Embedding(tokens, d), nn.Embedding(T, d), nn.Linear(d, 3 * d)
        self.norm, self.end = nn.LayerNorm(d), nn.LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.head = nn.Linear(d, tokens, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, idx):
        z = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        q, k, v = self.attn(self.norm(z)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        z = z + nnf.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.head(self.end(z + self.mlp(z)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.attention(x, x, x)[0].mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell, self.head = kind(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(9, 4, mode="mean"), nn.Linear(4, 2)

    def forward(self, idx):
        return self.head(torch.relu(self.words(idx)))


class Two(nn.Module):
    """Two inputs, by position or by name; a dict out."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, a, b):
        return {"logits": (self.left(a) * torch.tanh(self.right(b)))[:, :2]}


class Graph(nn.Module):
    """A fixed matrix between positions, given beside the inputs: it is no batch."""

    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x, adjacency):
        return self.head(nnf.leaky_relu(adjacency @ self.mix(x), 0.1).sum(1))


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 5), nn.Linear(5, 2)
        self.body.requires_grad_(False)

    def forward(self, x):
        return self.head(nnf.relu(self.body(x)))


def heads():
    made = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
    nn.utils.parametrizations.weight_norm(made[0])
    nn.utils.parametrizations.orthogonal(made[2])
    return made


def old_weight_norm():
    made = nn.Sequential(nn.Linear(3, 6), nn.Softplus(), nn.Linear(6, 2))
    with torch.no_grad():
        nn.utils.weight_norm(made[0])
    return made


def spectral():
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 6)), nn.ELU(), nn.Linear(6, 2))


def vision(name, **sizes):
    return getattr(_torchvision.torchvision.models, name)(num_classes=2, **sizes)


def images(channels=2, size=6, n=5):
    return torch.randn(n, channels, size, size)


def plain(*shape):
    return lambda: torch.randn(*shape)


def tokens(n=5, T=5, kinds=7):
    return torch.randint(kinds, (n, T))


def logits(out):
    return out["logits"]


SMALL = {
    "relu": (lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), plain(6, 3), None),
    "one output": (lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU6(), nn.Linear(6, 1)), plain(6, 3), None),
    "residual": (Residual, images, None),
    "gpt": (TinyGPT, tokens, None),
    "attention": (Attention, plain(5, 4, 4), None),
    "encoder": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(12, 2)),
        plain(5, 3, 4),
        None,
    ),
    "encoder, norm first, gelu": (
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True, norm_first=True), nn.Flatten()
        ),
        plain(5, 3, 4),
        None,
    ),
    "decoder": (
        lambda: nn.TransformerDecoderLayer(4, 2, 8, batch_first=True),
        lambda: (torch.randn(5, 3, 4), torch.randn(5, 2, 4)),
        None,
    ),
    "lstm": (lambda: Recurrent(nn.LSTM), plain(5, 4, 3), None),
    "gru": (lambda: Recurrent(nn.GRU), plain(5, 4, 3), None),
    "rnn": (lambda: nn.RNN(3, 4, batch_first=True), plain(5, 4, 3), lambda out: out[0]),
    "embedding bag": (Bag, lambda: tokens(kinds=9), None),
    "group norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(64, 2)),
        images,
        None,
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2)),
        plain(6, 3),
        None,
    ),
    "instance norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, affine=True), nn.PReLU(), nn.Flatten()),
        images,
        None,
    ),
    "depthwise, pooled": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, groups=2, padding="same", padding_mode="circular"),
            nn.Hardswish(),
            nn.MaxPool2d(2, 1, ceil_mode=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        images,
        None,
    ),
    "transposed": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.LeakyReLU(0.2, inplace=True), nn.ConvTranspose2d(3, 1, 3)),
        lambda: images(size=4),
        None,
    ),
    "1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Mish(), nn.Flatten(), nn.LazyLinear(2)),
        plain(5, 2, 6),
        None,
    ),
    "bilinear": (lambda: nn.Bilinear(3, 2, 2), lambda: (torch.randn(6, 3), torch.randn(6, 2)), None),
    "two inputs": (Two, lambda: (torch.randn(6, 3), torch.randn(6, 2)), logits),
    "by keyword": (Two, lambda: {"b": torch.randn(6, 2), "a": torch.randn(6, 3)}, logits),
    "adjacency": (Graph, lambda: (torch.randn(6, 4, 3), torch.eye(4).roll(1, 0)), None),
    "frozen body": (Frozen, plain(6, 3), None),
    "parametrized": (heads, plain(6, 3), None),
    "old weight norm": (old_weight_norm, plain(6, 3), None),
    "spectral norm": (spectral, plain(6, 3), None),
}
LARGER = {  # of torchvision, in float32: most have millions of weights, or operations in place
    "resnet": lambda: _torchvision.torchvision.models.ResNet(
        _torchvision.torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=2
    ),
    "squeezenet": lambda: vision("squeezenet1_1"),
    "mobilenet v2": lambda: vision("mobilenet_v2", width_mult=0.25),
    "mobilenet v3": lambda: vision("mobilenet_v3_small"),
    "shufflenet": lambda: vision("shufflenet_v2_x0_5"),
    "densenet": lambda: _torchvision.torchvision.models.DenseNet(4, (1, 1), 8, num_classes=2),
    "vision transformer": lambda: _torchvision.torchvision.models.VisionTransformer(32, 8, 1, 2, 8, 16, num_classes=2),
}
assert math.prod((len(SMALL), len(LARGER))) >= 20
