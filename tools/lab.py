"""The lab of the pages: its files as one piece of HTML, with the draws of lazylib that a run starts from.

A page opened from a disk may load neither modules nor workers by address, so the scripts stand in the page itself. They
run where they stand, since a module would wait for all scripts of the page.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lazylib.nets import TwoLayer
from lazylib.problems import sphere, teacher_student
from lazylib.runs import generator

FOLDER = Path(__file__).resolve().parent.parent / "lab"
SEEDS, WIDTHS = range(10), (4, 8, 16, 32, 64)
FRONT = 6, 16  # seed and width of the small lab, which has no control for them; view.js has them as defaults
N, N_TEST = 15, 100
MODULE = re.compile(r"^(import .*\n|export )", re.M)  # what a script that stands in a page cannot have


def on_the_circle(m: int, seed: int) -> torch.Tensor:
    """Half of the published start of chapter 2 for τ = 1: output weights (m/2,) in [0, 1], then directions (m/2, 2)."""
    rng = generator(seed, "init")
    a = torch.rand(m // 2, generator=rng, dtype=torch.float64)
    return torch.cat([a, sphere(m // 2, 2, rng).reshape(-1)])


def drawn(seed: int, widths: Sequence[int] = WIDTHS) -> dict[str, Any]:
    """Inputs, the teacher's signs and angles, and the initial weights of every width for τ = 1."""
    problem = teacher_student(seed, d=2, n=N, n_test=N_TEST, dtype=torch.float64)
    signs, directions = problem.teacher_net.split(problem.teacher)
    return {
        "x": problem.x.reshape(-1).numpy(),
        "xTest": problem.x_test.reshape(-1).numpy(),
        "signs": signs.tolist(),
        "angles": [math.atan2(y, x) for x, y in directions.tolist()],
        "normal": {m: TwoLayer(2, m).init(1.0, seed, dtype=torch.float64)[0].numpy() for m in widths},
        "circle": {m: on_the_circle(m, seed).numpy() for m in widths},
    }


def _packed(value: Any) -> Any:
    """Arrays as base64 of their bytes, little-endian float64."""
    if isinstance(value, np.ndarray):
        return base64.b64encode(value.astype("<f8").tobytes()).decode()
    return {name: _packed(part) for name, part in value.items()} if isinstance(value, dict) else value


UNPACK = """
const unpack = (value) => typeof value === "string"
  ? new Float64Array(Uint8Array.from(atob(value), (c) => c.charCodeAt(0)).buffer)
  : Array.isArray(value) || typeof value === "number" ? value
  : Object.fromEntries(Object.entries(value).map(([name, part]) => [name, unpack(part)]));
const from = (id) => document.getElementById(id).textContent;
const work = URL.createObjectURL(new Blob([from("lab-worker")], { type: "text/javascript" }));
const answer = new Function("onmessage", `${from("lab-worker")}; return answer;`)(); // as the worker answers
lab(document.querySelector(".lab"), unpack(JSON.parse(from("lab-drawn"))), work, answer);
"""


def page(small: bool = False, folder: Path = FOLDER) -> str:
    """The lab as HTML for one page; small: as the front page has it, with the fewest controls."""
    mathematics, worker, view, form = (
        (folder / name).read_text(encoding="utf-8") for name in ("mathematics.js", "worker.js", "view.js", "lab.html")
    )
    seeds, widths = ([FRONT[0]], [FRONT[1]]) if small else (SEEDS, WIDTHS)
    table = json.dumps(_packed({str(seed): drawn(seed, widths) for seed in seeds}), separators=(",", ":"))
    if small:
        form = form.replace('class="lab"', 'class="lab small"', 1)
    return "\n".join(
        [
            form,
            f'<script type="application/json" id="lab-drawn">{table}</script>',
            f'<script type="text/plain" id="lab-worker">{MODULE.sub("", mathematics + worker)}</script>',
            f'<script>(() => {{ "use strict";\n{MODULE.sub("", view)}{UNPACK}}})();</script>',
        ]
    )
