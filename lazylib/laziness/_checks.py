"""What cannot be measured is refused, in one sentence that names the layer and the way out."""

from __future__ import annotations

from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from ..runs._memory import require_memory, saved_bytes
from .subject import State, Subject, watch

_DROPOUT = (nn.modules.dropout._DropoutNd,)
_BATCH = (nn.modules.batchnorm._NormBase,)
_CHECKPOINTS = (
    "the model keeps no activations but computes them anew in the backward pass (checkpointing), then at its own "
    "weights and not at those of the snapshot: switch that off before measuring."
)


def require_deterministic(subject: Subject, state: State) -> None:
    """ValueError, in one sentence with the layer and the way out, where h(w; x) is not a function of w and one x."""
    for name, layer in subject.model.named_modules():
        kind = f"layer {name or '(the model)'}, {type(layer).__name__},"
        rate = layer.p if isinstance(layer, _DROPOUT) else getattr(layer, "dropout", 0.0)
        if layer.training and isinstance(rate, float) and rate > 0:
            raise ValueError(f"{kind} drops units at random: call model.eval() before measuring, model.train() after.")
        if layer.training and isinstance(layer, _BATCH) and not _is_instance(layer):
            raise ValueError(
                f"{kind} is in train mode, where an input's outputs depend on its mini-batch: "
                "call model.eval() before measuring, model.train() after."
            )
        if isinstance(layer, _BATCH) and layer.running_mean is None and not _is_instance(layer):
            raise ValueError(
                f"{kind} keeps no running statistics, so that an input's outputs depend on its mini-batch: "
                "measure a model whose inputs do not mix."
            )
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and layer.max_norm is not None:
            raise ValueError(f"{kind} changes its weights in each pass: measure with max_norm=None.")
    rows = slice(0, min(subject.n, 8))
    with torch.no_grad():
        first = _first_pass(subject, state, rows)
        if not torch.equal(first.nan_to_num(), subject(state, rows).nan_to_num()):
            name = _first_difference(subject, state, rows)
            raise ValueError(
                f"two passes over the same inputs differ, first in layer {name}: the model must be deterministic, "
                "so switch its noise off (model.eval(), or training=self.training where dropout is called as a "
                "function)."
            )
        require_finite(first, "the outputs")
        alone = torch.cat([subject(state, slice(i, i + 1)) for i in range(rows.stop)])
        # outputs may be zero, a difference: how much they move with the weights says what rounding may do
        buffers = subject.buffers()
        larger = {k: v if k in buffers or not v.is_floating_point() else 1.01 * v for k, v in state.items()}
        size = first.abs().max() + 100 * (subject(larger, rows) - first).abs().max()
        if (alone - first).abs().max() > 1e3 * torch.finfo(first.dtype).eps * size:
            raise ValueError(
                "an input's outputs depend on the other inputs of its mini-batch: measure a model whose inputs "
                "do not mix, with inputs in the first dimension (batch_first=True)."
            )


def _first_pass(subject: Subject, state: State, rows: slice) -> Tensor:
    try:
        with torch.enable_grad(), torch.autograd.graph.disable_saved_tensors_hooks(_CHECKPOINTS):
            subject(state, slice(0, 1))
        return subject(state, rows)
    except (ValueError, TypeError) as error:
        if str(error).startswith(("the model returns", "output= ", "the module must be deterministic")):
            raise
        raise ValueError(f"the model does not take x: {_one_line(error)}.") from error
    except Exception as error:  # what a module raises is for the module to say
        if _CHECKPOINTS in str(error):
            raise ValueError(_CHECKPOINTS) from error
        raise ValueError(f"the model does not take x, computed in {subject.dtype}: {_one_line(error)}.") from error


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _first_difference(subject: Subject, state: State, rows: slice) -> str:
    seen: list[tuple[str, Any]] = []
    own = "(the model's own forward)"
    with watch(subject.model, lambda name, out: seen.append((name, out))):
        subject(state, rows)
        half = len(seen)
        subject(state, rows)
    for (name, a), (_, b) in zip(seen[:half], seen[half:], strict=False):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and (a.shape != b.shape or not torch.equal(a, b)):
            return name.partition("#")[0] or own
    return own


def _is_instance(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.instancenorm._InstanceNorm)


def require_room(subject: Subject, state: State, names: list[str], inputs: int, times: int, way_out: str) -> None:
    """MemoryError, in one sentence, where activations of so many inputs at once cannot fit, with all that they cause.

    What a pass leaves for the backward pass is measured on one and on two inputs, for it grows in line. It is needed
    `times`; beside it there are eight copies of the weights.
    """
    w = torch.cat([state[name].flatten() for name in names])

    def kept(rows: int) -> int:
        def pass_of(w: Tensor) -> Tensor:
            parts = w.split([state[name].numel() for name in names])
            given = {name: part.view(state[name].shape) for name, part in zip(names, parts, strict=True)}
            return subject({**state, **given}, slice(0, rows))

        return saved_bytes(pass_of, w)

    one = kept(1)
    needed = times * (one + (inputs - 1) * (kept(2) - one if inputs > 1 else 0)) + 8 * w.nbytes
    what = f"a backward pass over {inputs} inputs at once"
    require_memory(needed, what, subject.device, way_out)


def require_finite(values: Tensor, what: str) -> None:
    if not values.isfinite().all():
        raise ValueError(f"{what} must be finite, but {int((~values.isfinite()).sum())} of {values.numel()} are not.")


def require_true_tangent(subject: Subject, state: State, u: State) -> None:
    """ValueError where derivatives along u are not those of the outputs: hidden from autograd, or broken in place.

    The forward-mode derivative is compared with central differences of two widths on a few inputs, layer by layer to
    find where it goes wrong, and with the reverse-mode derivative. This is done at w0 + u/2: at w0 itself many units
    may lie exactly on their kink, such as those of dead channels without a bias.
    """
    state = {name: w + 0.5 * u[name] if name in u else w for name, w in state.items()}
    rows = slice(0, min(subject.n, 4))
    tangents: dict[str, Tensor | None] = {}

    def keep(name, out):
        if isinstance(out, Tensor) and out.is_floating_point():
            tangent = forward_ad.unpack_dual(out).tangent
            tangents[name] = None if tangent is None else tangent.clone()  # another layer may go on in place

    def at(share):
        seen: dict[str, Tensor] = {}
        moved = {name: w + share * u[name] if name in u else w for name, w in state.items()}

        def note(name, out):
            if isinstance(out, Tensor) and out.is_floating_point():
                seen[name] = out.clone()

        with watch(subject.model, note):
            out = subject(moved, rows)
        return {**seen, "": out}

    with torch.no_grad():
        h, tangent = subject.tangent(state, u, rows, keep)
        tangents = {**tangents, "": tangent} if subject.forward else {"": tangent}
        eps = 1e-2 if subject.dtype == torch.float32 else 1e-4
        wide, narrow = ((at(e), at(-e)) for e in (eps, eps / 2))
        wrong = []
        for name in [name for name in wide[0] if name] + [""]:
            if name not in tangents:
                continue
            coarse = (wide[0][name] - wide[1][name]) / (2 * eps)
            fine = (narrow[0][name] - narrow[1][name]) / eps
            tangent_here = tangents[name]
            given = torch.zeros_like(fine) if tangent_here is None else tangent_here
            rounding = torch.finfo(subject.dtype).eps * narrow[0][name].norm() / eps
            allowed = 0.05 * fine.norm() + 4 * (fine - coarse).norm() + 20 * rounding
            if (given - fine).norm() > allowed:
                wrong.append((name, float(given.norm()), float(fine.norm())))
        if wrong and wrong[-1][0] == "":
            name, found, true = wrong[0]
            where = f"in layer {name.partition('#')[0]}" if name else "in the model's own forward"
            raise ValueError(
                f"the derivative of the outputs along w − w0 goes wrong first {where}: autograd says {found:.3g}, "
                f"differences say {true:.3g}; take away what hides weights from it there (detach, .data, no_grad, "
                "checkpointing, an operation in place, weights copied or stacked outside of forward)."
            )
    if tangent is None:
        return
    v = torch.randn_like(h)
    with torch.enable_grad():
        weights = {name: state[name].detach().requires_grad_() for name in u}
        back = torch.autograd.grad(subject({**state, **weights}, rows), list(weights.values()), v, allow_unused=True)
    pairs = [(g.double() * u[name].double()).sum() for g, name in zip(back, weights, strict=True) if g is not None]
    reverse, forwards = float(sum(pairs)), float((v.double() * tangent.double()).sum())
    if abs(reverse - forwards) > 1e-2 * float(v.norm() * tangent.norm()):
        raise ValueError(
            f"forward and reverse mode disagree on ⟨v, Dh (w − w0)⟩, {forwards:.3g} and {reverse:.3g}: an autograd "
            "function of the model gives a gradient that is not its derivative; measure without it."
        )
