"""A report on a model of ten million weights: wall time and memory of `laziness.compare` and `laziness.at_init`."""

import resource
import time

import torch
from torch import nn

from lazylib import laziness


class Transformer(nn.Module):
    """Characters in, logits of the next one out; d = 384, 6 layers: 10.7 million weights."""

    def __init__(self, tokens: int = 96, d: int = 384, layers: int = 6, T: int = 64):
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, d), nn.Embedding(T, d)
        layer = nn.TransformerEncoderLayer(d, 6, 4 * d, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, nn.LayerNorm(d), enable_nested_tensor=False)
        self.head = nn.Linear(d, tokens, bias=False)

    def forward(self, idx):
        T = idx.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(T)
        z = self.tokens(idx) + self.places(torch.arange(T))
        return self.head(self.blocks(z, mask=mask, is_causal=True))


def main() -> None:
    torch.manual_seed(0)
    print("| model | weights | inputs | s | peak memory, GiB | kernel change |")
    print("|---|---|---|---|---|---|")
    model = Transformer().eval()
    x = torch.randint(96, (64, 65))
    x, y = x[:, :-1], x[:, 1:]
    before = laziness.snapshot(model)
    descent = torch.optim.AdamW(model.parameters(), 3e-4)
    for _ in range(2):
        descent.zero_grad()
        nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        descent.step()
    descent = None
    begun = time.perf_counter()
    report = laziness.compare(before, model, x, y)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    kernel = report.find("kernel change")
    print(
        f"| transformer, 64 characters | {report.about['parameters'] / 1e6:.1f} million | {len(x)} | {seconds:.0f} "
        f"| {peak:.1f} | {kernel.value:.2f} ± {kernel.error:.2f} |"
    )


if __name__ == "__main__":
    main()
