"""Every path of lazylib that runs on a GPU, once, at small size, against the same in float64 on the processor.

python -m tools.gpu_paths [--device D]

Prints a line a path: its relative difference and what is allowed. Exits with 1 if one is beyond. Without a GPU the
paths run on the processor, which rehearses this program and says nothing about a GPU.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lazylib.flows import Recipe, gradient_descent, gradient_flow, train, train_frozen
from lazylib.flows.classifier import computing
from lazylib.measures import kernel_change, tangent_kernel, top_eigenvalue
from lazylib.nets import FullyConnected, Scaled, TwoLayer, convnet
from lazylib.objectives import soft_hinge, square_loss
from lazylib.problems import Images, parity, teacher_student

F32, F64 = torch.float32, torch.float64
LIMITS = {"float32": 2e-4, "tf32": 5e-3, "bfloat16": 5e-2}
Path_ = Callable[[str, torch.dtype], Tensor]  # what a path computes, by device and type


def two_layer(end: str) -> Path_:
    def path(device: str, dtype: torch.dtype) -> Tensor:
        net, problem = TwoLayer(20, 16), teacher_student([0, 1], d=20, n=60, n_test=30, dtype=dtype)
        w0 = net.init([0.3, 3.0], 0, symmetrized=True, dtype=dtype).to(device)
        x, y, x_test = (part.to(device) for part in (problem.x, problem.y, problem.x_test))
        objective = square_loss(net, w0, x, y)
        if end == "descent":
            u = next(u for k, u, _ in gradient_descent(objective, torch.tensor([0.5, 0.005]).to(w0)) if k == 200)
        else:
            u = gradient_flow(objective, [100.0, 1.0], rtol=1e-3).u
        return objective.outputs(u, x_test)

    return path


def deep(end: str) -> Path_:
    def path(device: str, dtype: torch.dtype) -> Tensor:
        data, net = parity("digits", 60, 40, 0), FullyConnected(64, 30, 3)
        x, y, x_test = (part.to(device, dtype) for part in (data.x, data.y, data.x_test))
        w0 = net.init(0, dtype=dtype).to(device)
        if end == "kernel":
            return tangent_kernel(net, w0[0], x)
        if end == "frozen kernel":
            kernel = tangent_kernel(net, w0[0], torch.cat([x, x_test]))
            return train_frozen(kernel[:60, :60], kernel[60:, :60], y, rtol=1e-3)
        alpha = torch.tensor([0.1, 100.0], dtype=dtype, device=device) / net.h**0.5
        objective = soft_hinge(net, w0.expand(2, -1), x, y, alpha)
        u = gradient_flow(objective, rtol=1e-3).u
        return kernel_change(net, w0, w0 + u, x_test) if end == "kernel change" else objective.outputs(u, x_test)

    return path


def pictures(device: str) -> Images:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randint(256, (96, 3, 32, 32), generator=rng, dtype=torch.uint8), torch.arange(96) % 10
    return Images("noise", x[:64], y[:64], x[64:], y[64:], (0.5,) * 3, (0.25,) * 3).to(device)


def conv(alpha: float, precision: str = "float32") -> Path_:
    def path(device: str, dtype: torch.dtype) -> Tensor:
        model, images = Scaled(convnet("vgg11", 0.0625, seed=0).to(device, dtype), alpha), pictures(device)
        rng = torch.Generator().manual_seed(1)
        with torch.no_grad(), computing(precision if dtype == F32 else "float64", device):
            for u in model.parameters():
                u.copy_(0.05 * torch.randn(u.shape, generator=rng, dtype=F64))
            return model(images.normalize(images.x_test).to(dtype)).double()

    return path


def conv_kernel(device: str, dtype: torch.dtype) -> Tensor:
    images = pictures(device)
    return tangent_kernel(
        convnet("vgg11", 0.0625, seed=0).to(device, dtype), None, images.normalize(images.x[:6]).to(dtype)
    )


def curvature(device: str, dtype: torch.dtype) -> Tensor:
    net, x = TwoLayer(20, 16), teacher_student(0, d=20, n=60, n_test=1, dtype=dtype).x.to(device)
    w = net.init(1.0, 0, dtype=dtype)[0].to(device)
    return torch.tensor([top_eigenvalue(lambda v: net(v, x).square().mean(), w, tol=1e-6).value])


def resumed(device: str, dtype: torch.dtype) -> Tensor:
    """Weights after two epochs; in float32 the second one goes on from a checkpoint."""
    images, recipe = pictures(device), Recipe(lr=0.02, epochs=2, batch=32)
    precision = {F32: "float32", F64: "float64"}[dtype]
    with tempfile.TemporaryDirectory() as folder:
        for epochs in (1, 2) if dtype == F32 else (2,):
            model = Scaled(convnet("vgg11", 0.0625, seed=0).to(device, dtype), 1.0)
            stops = {} if dtype == F64 else {"checkpoint": Path(folder) / "run.pt"}
            for epoch in train(model, images, recipe, precision=precision, **stops):
                if epoch.number == epochs:
                    break
    return torch.cat([u.detach().flatten() for u in model.parameters()])


def trained(alpha: float) -> Path_:
    """Outputs after steps that a GPU records as a graph, and some on batches that are not full."""

    def path(device: str, dtype: torch.dtype) -> Tensor:
        images, recipe = pictures(device), Recipe(lr=0.02, epochs=6, batch=12)
        model = Scaled(convnet("vgg11", 0.0625, seed=0).to(device, dtype), alpha)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "no CUDA graph")
            list(train(model, images, recipe, precision={F32: "float32", F64: "float64"}[dtype]))
        with torch.no_grad():
            return model(images.normalize(images.x_test).to(dtype)).double()

    return path


PATHS: dict[str, tuple[Path_, float]] = {
    "two layers, flow": (two_layer("flow"), 1e-2),
    "two layers, descent": (two_layer("descent"), 1e-3),
    "deep, flow of the soft hinge": (deep("flow"), 2e-2),
    "deep, change of the kernel": (deep("kernel change"), 2e-2),
    "deep, tangent kernel": (deep("kernel"), LIMITS["float32"]),
    "deep, trained with a frozen kernel": (deep("frozen kernel"), 2e-2),
    "convolutional, tangent kernel": (conv_kernel, 1e-3),
    "largest eigenvalue of a Hessian": (curvature, 1e-3),
    **{
        f"convolutional, α = {alpha:g}, {precision}": (conv(alpha, precision), limit)
        for alpha in (1.0, 1e3, float("inf"))
        for precision, limit in LIMITS.items()
    },
    "training, checkpoint and resumption": (resumed, 1e-2),
    **{f"training, α = {alpha:g}": (trained(alpha), 2e-2) for alpha in (1.0, 1e3, float("inf"))},
}


def difference(path: Path_, device: str) -> float:
    """Relative difference of a path in float32 on the device to float64 on the processor."""
    right, found = path("cpu", F64).double(), path(device, F32).double().cpu()
    return float((found - right).norm() / right.norm())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU if one is there"
    )
    device, wrong = parser.parse_args().device, []
    for name, (path, limit) in PATHS.items():
        if device == "cpu" and "tf32" in name:
            continue  # a processor has none
        try:
            found = difference(path, device)
            said = f"{found:.1e} (allowed {limit:.0e})"
        except Exception as error:  # the other paths are worth their seconds
            found, said = float("nan"), f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
        if not found <= limit:
            wrong.append(name)
        print(f"{'ok   ' if found <= limit else 'WRONG'} {name}: {said}", flush=True)
    print(f"{len(PATHS)} paths on {device}, {len(wrong)} wrong{': ' + ', '.join(wrong) if wrong else ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
