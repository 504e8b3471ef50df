"""Errors planted in the chapter on loss landscapes: the claim that they break turns to "does not hold"."""

import nbformat
import pytest

from lazylib.flows import gradient_flow
from lazylib.nets import TwoLayer
from lazylib.objectives import square_loss
from lazylib.problems import teacher_student
from tests.notebooks import answers, run_cells, turned, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "06_loss_landscapes.ipynb"
SMALL = {"widths": [6, 12, 40], "n": 150, "d": 30, "probes": 2, "resolution": 9, "iterations": 300.0}
# What no error here touches is not done again: equal trainings come from a cache; curvature is in no claim.
SHORT = {
    "gradient_flow(square_loss(net, w0, problem.x, problem.y), T, rtol=p.rtol)":
        "__import__('tests.test_planted_06', fromlist=[0]).trained(net.m, net.scale, p.n, p.d, seed, w0, T)",
    "sharpness_of(net, problem, w[0])]":
        "joined({unit: xr.Dataset(dict(top=1.0, trace=1.0, trace_error=0.1)) for unit in ('raw', 'relative')}, 'unit')]",
}  # fmt: skip
CACHE = {}


def trained(m, scale, n, d, seed, w0, T):
    """The chapter's training, once for equal arguments."""
    key = (m, scale, n, d, seed, T, float(w0.double().sum()))
    if key not in CACHE:
        problem = teacher_student(seed, d=d, n=n, n_test=n, scale=100.0)
        objective = square_loss(TwoLayer(d, m, scale=scale), w0, problem.x, problem.y)
        CACHE[key] = gradient_flow(objective, T, rtol=0.5)
    return CACHE[key]


def shortened(folder):
    """A copy of the chapter up to its claims, without the figures and sliders that come only to be seen."""
    notebook = nbformat.read(CHAPTER, as_version=4)
    last = next(k for k, cell in enumerate(notebook.cells) if "ledger.judge(" in cell.source)
    notebook.cells = [
        cell
        for cell in notebook.cells[: last + 1]
        if "mystnb" not in cell.metadata and "widgets.explore(" not in cell.source
    ]
    path = folder / CHAPTER.name
    nbformat.write(notebook, path)
    return path


PLANTED = {  # what is wrong → the claims that it breaks, lines replaced, parameters changed
    "nothing is trained": (["L1", "L2"], {}, {"iterations": 1e-3}),
    "the plane is too small to reach the valley": (["L1"], {}, {"extent": 0.2}),
    "widths in the wrong order": (
        ["L1"],
        {'"m": p.widths}))': '"m": p.widths}).assign_coords(m=p.widths[::-1]).sortby("m"))'},
        {},
    ),
    "the aligned plane in place of the published one": (
        ["L1"],
        {
            '"published": w, "aligned": measures.align(net, w, w[0])':
                '"published": measures.align(net, w, w[0]), "aligned": w',
        },
        {},
    ),
    "the output scales swapped": (
        ["L2"],
        {
            'SCALES = {"1/m": lambda m: 1 / m, "1/√m": lambda m: m**-0.5}':
                'SCALES = {"1/m": lambda m: m**-0.5, "1/√m": lambda m: 1 / m}',
            'STEP = {"1/m": lambda m: 0.05 / m, "1/√m": lambda m: 1 / m}':
                'STEP = {"1/m": lambda m: 1 / m, "1/√m": lambda m: 0.05 / m}',
        },
        {},
    ),
    "the same functions in place of the same weights": (
        ["L2"], {'"1/√m": other, "1/√m as': '"1/√m": net.m**0.25 * other, "1/√m as'}, {},
    ),
    "the aligned plane under the projections": (
        ["L2"],
        {
            'orders = {"published": lambda w: w,': 'orders = {"published": lambda w: measures.align(net, w, own[0]),',
        },
        {},
    ),
    "a run diverged": (
        ["L1", "L2"],
        {"w0 + flow.u, flow.reached": "w0 + flow.u, flow.reached & (np.arange(p.runs) > 0)"},
        {},
    ),
}  # fmt: skip


CAUGHT = [set(claims) for claims, *_ in PLANTED.values()]  # for each error the claims that find it


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    path = shortened(tmp_path_factory.mktemp("chapter"))

    def run(patches=None, parameters=None):
        patches, parameters = {**SHORT, **(patches or {})}, {**SMALL, **(parameters or {})}
        return run_cells(path, patches=patches, parameters=parameters)

    return run


@pytest.fixture(scope="module")
def sound(judged):
    return judged()


def test_nothing_planted_nothing_found(sound):
    assert verdicts(sound)["L2"] == "holds" and answers(sound, "L2")["own"] == "no"
    found = answers(sound, "L1")
    assert found.pop("deeper") in ("open", "no")  # with a few trials; more than them say no
    assert found.keys() == {"wide", "stays", "bump", "large_m", "narrow", "widens", "own"}
    assert {name: found[name] for name in ("wide", "bump", "widens", "own")} == {
        "wide": "yes", "bump": "other size", "widens": "yes", "own": "no"}  # fmt: skip
    assert sound["removed"] and sound["made"]


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_found(error, judged, sound):
    claims, patches, parameters = PLANTED[error]
    assert turned(judged(patches, parameters), sound) >= set(claims)


def test_an_alignment_that_does_nothing_removes_no_bump(judged):
    """The trap's own verdict can turn, too: it is the alignment that removes the bump."""
    space = judged({'"aligned": measures.align(net, w, w[0])': '"aligned": w'})
    assert not space["removed"] and answers(space, "L1")["own"] == "yes"


def test_copies_that_are_not_shuffled_make_no_bump(judged):
    """Moved at random instead, by as little as it takes to span a plane."""
    space = judged({"measures.permute(net, w, torch.randperm(net.m, generator=rng))":
                    "w + 0.01 * w.std() * torch.randn(len(w), generator=rng)"})  # fmt: skip
    assert not space["made"] and space["removed"]
