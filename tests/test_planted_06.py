"""Errors planted in the chapter on loss landscapes: limbs of its claims tell each from the sound run.

Limbs that fail in the sound run are told by worlds in which they hold: those named "null".
"""

import functools

import pytest

from lazylib.book import claims
from tests.notebooks import RECORDS, answers, refused, run_cells, told, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "06_loss_landscapes.ipynb"
SMALL = {"widths": [6, 12, 40], "n": 150, "d": 30, "resolution": 9, "iterations": 300.0}
SHORT = {  # curvature is in no claim
    "sharpness_of(net, problem, w[0])]":
        "joined({unit: xr.Dataset(dict(top=1.0, trace=1.0, trace_error=0.1)) for unit in ('raw', 'relative')}, 'unit')]"
}  # fmt: skip
ALIGN_NOTHING = {'"aligned": measures.align(net, w, w[0])': '"aligned": w'}

PLANTED = {  # what is wrong → the limbs that tell it, lines replaced, parameters changed
    "nothing is trained": (
        {"L1.bump", "L1.large_m", "L1.narrow", "L2.bump", "L2.middle"}, {}, {"iterations": 1e-3},
    ),
    "the plane is too small to reach the valley": (
        {"L1.bump", "L1.large_m", "L1.narrow", "L1.deeper", "L2.middle"}, {}, {"extent": 0.2},
    ),
    "the side of the plane for half of it": ({"L1.stays", "L1.narrow"}, {}, {"extent": 6.0}),
    "standard errors for standard deviations": (
        {"L1.narrow", "L1.deeper"},
        {"measures.plane_loss(net, plane, edge, edge, ":
         "measures.plane_loss(net, plane, edge / p.runs**0.5, edge / p.runs**0.5, "},
        {},
    ),
    "widths in the wrong order": (
        {"L1.wide", "L1.large_m", "L1.narrow", "L1.widens"},
        {'"m": p.widths}))': '"m": p.widths}).assign_coords(m=p.widths[::-1]).sortby("m"))'},
        {},
    ),
    "the share that is worse than the zero function": (
        {"L1.wide", "L1.widens"}, {"wide=(data.grid < 1)": "wide=(data.grid > 1)"}, {},
    ),
    "the first width over the last": (
        {"L1.wide", "L1.widens"},
        {"wide.sel(m=LAST) / wide.sel(m=FIRST)": "wide.sel(m=FIRST) / wide.sel(m=LAST)"},
        {},
    ),
    "a difference for a ratio": (
        {"L1.wide", "L1.widens"},
        {"wide.sel(m=LAST) / wide.sel(m=FIRST)": "wide.sel(m=LAST) - wide.sel(m=FIRST)"},
        {},
    ),
    "the aligned plane in place of the published one": (
        {"L1.bump", "L1.large_m", "L1.own"},
        {
            '"published": w, "aligned": measures.align(net, w, w[0])':
                '"published": measures.align(net, w, w[0]), "aligned": w',
        },
        {},
    ),
    "the width of the bottom for its depth": (
        {"L1.deeper"}, {'data.depth.sel(scale="1/√m"': 'data.wide.sel(scale="1/√m"'}, {},
    ),
    "the width of the other scale": (
        {"L1.stays"}, {'stats.estimate(first.sel(scale="1/m"))': 'stats.estimate(first.sel(scale="1/√m"))'}, {},
    ),
    "the window of 1/m under the surface of 1/√m, as in the published script": (
        {"L1.widens"},
        {
            "[planes_of(net, problem, w, seed)": '[planes_of(net, problem, w, seed, solved["1/m"][2])',
            "def planes_of(net, problem, w, seed)": "def planes_of(net, problem, w, seed, other)",
            "grid_of(net, problem, plane)),": "grid_of(net, problem, plane, EDGE * float("
                "measures.pca_plane(other).directions.norm() / plane.directions.norm()))),",
        },
        {},
    ),
    "the output scales swapped": (
        {"L1.stays", "L2.middle"},
        {
            'SCALES = {"1/m": lambda m: 1 / m, "1/√m": lambda m: m**-0.5}':
                'SCALES = {"1/m": lambda m: m**-0.5, "1/√m": lambda m: 1 / m}',
            'STEP = {"1/m": lambda m: 0.05 / m, "1/√m": lambda m: 1 / m}':
                'STEP = {"1/m": lambda m: 1 / m, "1/√m": lambda m: 0.05 / m}',
        },
        {},
    ),
    "the scales the wrong way round on the plane of one half": (
        {"L2.unseen"},
        {'others.sel(scale="1/√m") - others.sel(scale="1/m")': 'others.sel(scale="1/m") - others.sel(scale="1/√m")'},
        {},
    ),
    "functions for weights on the plane of one half": (
        {"L2.unseen"},
        {"torch.stack([own[half:], other[half:]])": "torch.stack([own[half:], net.m**0.25 * other[half:]])"},
        {},
    ),
    "neurons aligned on the plane of one half": (
        {"L2.unseen"},
        {
            "measures.pca_plane(own[:half])": "measures.pca_plane(measures.align(net, own[:half], own[0]))",
            "torch.stack([own[half:], other[half:]])":
                "torch.stack([measures.align(net, w, own[0]) for w in (own[half:], other[half:])])",
        },
        {},
    ),
    "the same functions in place of the same weights": (
        {"L2.bump", "L2.middle", "L2.function"}, {'"1/√m": other, "1/√m as': '"1/√m": net.m**0.25 * other, "1/√m as'}, {},
    ),
    "the aligned plane under the projections": (
        {"L2.bump", "L2.function", "L2.order"},
        {
            'orders = {"published": lambda w: w,': 'orders = {"published": lambda w: measures.align(net, w, own[0]),',
        },
        {},
    ),
    "the rescaled weights are not": ({"L2.function"}, {"net.m**0.25 * other}": "other}"}, {}),
    "half of the power of m": ({"L2.function"}, {"net.m**0.25 * other}": "net.m**0.125 * other}"}, {}),
    "an alignment of the projections that does nothing": (
        {"L2.order"}, {'"aligned": lambda w: measures.align(net, w, own[0])': '"aligned": lambda w: w'}, {},
    ),
    "the order as published for the aligned one": ({"L2.order"}, {'gap("1/√m", "aligned"))': 'gap("1/√m"))'}, {}),
    "the difference of losses the wrong way round": (
        {"L2.bump"},
        {'losses.sel(net=net) - losses.sel(net="1/m")': 'losses.sel(net="1/m") - losses.sel(net=net)'},
        {},
    ),
    "the distance of the mean for the mean distance": (
        {"L2.middle"}, {'places.transpose("axis", ...)': 'places.mean("run").transpose("axis", ...)'}, {},
    ),
    "a run diverged": (
        {"L1", "L2", "L3"}, {"w0 + flow.u, flow.reached": "w0 + flow.u, flow.reached & (np.arange(p.runs) > 0)"}, {},
    ),
    "trained on the test set": (
        {"L1", "L2", "L3"}, {"square_loss(net, w0, problem.x, problem.y)": "square_loss(net, w0, problem.x_test, problem.y_test)"}, {},
    ),
    "null: an alignment that does nothing": ({"L1.own"}, ALIGN_NOTHING, {}),
    "null: all runs from one point, so that their neurons have one order": (
        {"L1.bump", "L1.large_m", "L1.narrow", "L1.own", "L2.bump"},
        {
            "w0 = net.init(1.0, range(p.runs * seed, p.runs * (seed + 1)))":
                "w0 = net.init(1.0, [p.runs * seed] * p.runs)\n"
                "    w0 = w0 + 0.01 * torch.randn(w0.shape, generator=generator(seed, 'start'))"
        },
        {},
    ),
    "null: initial weights ten times larger": (
        {"L1.stays", "L1.narrow", "L1.widens", "L2.middle", "L2.unseen"},
        {"w0 = net.init(1.0,": "w0 = net.init(10.0,"},
        {},
    ),
    "null: initial weights that grow with the width": (
        {"L1.wide", "L1.widens", "L1.deeper"}, {"w0 = net.init(1.0,": "w0 = net.init((m / p.widths[0]) ** 1.7,"}, {},
    ),
    "null: an α that does nothing": (
        {"L2.bump", "L2.middle"}, {'"1/√m": lambda m: m**-0.5}': '"1/√m": lambda m: 1 / m}'}, {},
    ),
    "null: other starts for 1/√m, and an alignment of the projections that does nothing": (
        {"L2.function", "L2.order"},
        {
            "range(p.runs * seed, p.runs * (seed + 1))":
                'range(p.runs * seed + 99 * (scale != "1/m"), p.runs * (seed + 1) + 99 * (scale != "1/m"))',
            '"aligned": lambda w: measures.align(net, w, own[0])': '"aligned": lambda w: w',
        },
        {},
    ),
}  # fmt: skip

# In what becomes of the landscapes afterwards; judged on the stored run, whose wide networks are trained to the end.
PLANTED_STORED = {  # what is wrong → the limbs that tell it, lines replaced
    "the losses of both scales the wrong way round": (
        {"L3.large_m", "L3.small_m"},
        {'loss.sel(scale="1/√m") - loss.sel(scale="1/m")': 'loss.sel(scale="1/m") - loss.sel(scale="1/√m")'},
    ),
    "the narrower scale for the wider one": (
        {"L3.large_m", "L3.small_m"},
        {'width.sel(scale="1/m") - width.sel(scale="1/√m")': 'width.sel(scale="1/√m") - width.sel(scale="1/m")'},
    ),
    "the share of the test loss that is explained": (
        {"L3.large_m", "L3.small_m", "L3.over_m"}, {'part.loss.mean("run")': '1 - part.loss.mean("run")'},
    ),
    "losses of the projections": ({"L3.small_m"}, {'part.loss.mean("run")': "part.projected.mean('run')"}),
    "the barrier between solutions for their loss": (
        {"L3.small_m", "L3.over_m"}, {'part.loss.mean("run")': "part.barrier"},
    ),
    "shuffled copies of one network": (
        {"L3.small_m"}, {'part = data.sel(plane="published")\n    width': 'part = data.sel(plane="shuffled")\n    width'},
    ),
    "the lowest point for the width": (
        {"L3.large_m", "L3.small_m"}, {"width, loss = part.wide": "width, loss = part.depth"},
    ),
    "the share that is worse than the zero function": (
        {"L3.large_m", "L3.small_m", "L3.over_m"}, {"width, loss = part.wide": "width, loss = 1 - part.wide"},
    ),
    "the first width for the last": (
        {"L3.large_m", "L3.small_m"}, {"for i in (-1, 0))": "for i in (0, -1))"},
    ),
    "widths in the wrong order": (
        {"L3.over_m"}, {"width, loss = part.wide": "width, loss = part.wide.copy(data=part.wide.values[:, ::-1])"},
    ),
    "null: one scale behind both labels": (
        {"L3.large_m"},
        {
            'part = data.sel(plane="published")\n    width':
                'part = data.sel(plane="published", scale=["1/m", "1/m"]).assign_coords(scale=[*SCALES])\n    width'
        },
    ),
    "null: the widest networks behind every width": (
        {"L3.small_m"},
        {
            'part = data.sel(plane="published")\n    width':
                'part = data.sel(plane="published").isel(m=[-1] * len(data.m)).assign_coords(m=data.m)\n    width'
        },
    ),
    "null: in each trial the losses of the widths in another order": (
        {"L3.over_m"},
        {
            'part.loss.mean("run")':
                'part.loss.mean("run").copy(data=np.random.default_rng(0).permuted(part.loss.mean("run"), axis=1))'
        },
    ),
}  # fmt: skip


CAUGHT = [names for names, *_ in [*PLANTED.values(), *PLANTED_STORED.values()]]  # for each error what tells it


def judged(patches=None, parameters=None):
    return run_cells(CHAPTER, patches={**SHORT, **(patches or {})}, parameters={**SMALL, **(parameters or {})})


sound = functools.cache(judged)


@functools.cache
def stored(*patches):
    """As `judged`, with what L3 says of the stored run."""
    space = judged(dict(patches))
    limbs = claims.weigh("L3", space["wider"](space["larger"]), {}).limbs
    record = {"verdict": "", "limbs": {name: {"answer": limb.answer} for name, limb in limbs.items()}}
    return {RECORDS: {"L3": record}}


def test_nothing_planted_nothing_found():
    assert answers(stored(), "L3") == {"large_m": "yes", "small_m": "no", "over_m": "no"}
    l2 = answers(sound(), "L2")
    assert verdicts(sound())["L2"] == "holds at smaller scale" and l2["function"] == l2["order"] == "no"
    found = answers(sound(), "L1")
    assert found.pop("deeper") in ("open", "no")  # with a few trials; more than them say no
    assert found.keys() == {"wide", "stays", "bump", "large_m", "narrow", "widens", "own"}
    assert {name: found[name] for name in ("wide", "bump", "widens", "own")} == {
        "wide": "yes", "bump": "other size", "widens": "yes", "own": "no"}  # fmt: skip
    assert sound()["removed"] and sound()["made"]


@pytest.mark.parametrize(("names", "patches", "parameters"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_is_told(names, patches, parameters):
    assert told(judged(patches, parameters), sound()) >= names


@pytest.mark.parametrize(("names", "patches"), PLANTED_STORED.values(), ids=PLANTED_STORED)
def test_a_planted_error_is_told_in_the_stored_run(names, patches):
    assert told(stored(*patches.items()), stored()) >= names


def test_an_alignment_that_does_nothing_removes_no_bump():
    """The trap's own verdict can turn, too: it is the alignment that removes the bump."""
    assert not judged(ALIGN_NOTHING)["removed"]


def test_copies_that_are_not_shuffled_make_no_bump():
    """Moved at random instead, by as little as it takes to span a plane."""
    space = judged({"measures.permute(net, w, torch.randperm(net.m, generator=rng))":
                    "w + 0.01 * w.std() * torch.randn(len(w), generator=rng)"})  # fmt: skip
    assert not space["made"] and space["removed"]


STOPPED = {  # what is wrong, where the run itself says so → lines replaced
    "starts of a trial again in the next": {
        "range(p.runs * seed, p.runs * (seed + 1))": "range(seed, seed + p.runs)"
    },
    "shuffled neurons for aligned ones, in all trials by one order": {
        '"aligned": lambda w: measures.align(net, w, own[0])': '"aligned": lambda w: shuffled(net, w[0], len(w), 0)'
    },
    "one problem for all trials": {
        "(net, T), problem = model(m, scale), problem_of(seed)": "(net, T), problem = model(m, scale), problem_of(0)"
    },
}  # fmt: skip


@pytest.mark.parametrize("patches", STOPPED.values(), ids=STOPPED)
def test_a_planted_error_stops_the_run(patches):
    with refused():
        judged(patches)
