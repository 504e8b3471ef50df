"""What a flow or a descent asks of an objective F(w)."""

from __future__ import annotations

from torch import Tensor

FEATURES = 30  # how much more an error of u counts where u is as large as w


class Objective:
    """What a flow asks of an objective, where the answer is mostly the same.

    - done: function outputs (B, n) → (B,) bool, the objective's own end of training (None: there is none); a flow asks
      it at the end of every step.
    - moved: see above.
    - features: how much more an error of u counts where u is as large as w; 0 if the model is linear in u.
    - curvature: c ≥ 0 with c·‖Dh‖² ≤ λmax(∇²F), the norm of Dh being that of the root mean square of outputs.
    """

    done = None
    moved = None
    features = FEATURES
    curvature = 1.0

    @property
    def reach(self) -> Tensor:
        """Length of the displacement over which ∇²F is probed by a difference of gradients, (B,)."""
        return 1e-3 * self.w0.norm(dim=1)
