"""Chapter 4 at the smoke preset with one thing broken: the limbs of its claims tell it from the sound run.

The chapter is run once; for a planted error the cells that contain it, those that depend on it, and the claims are
run again. "null: …" is no error but a world in which a limb must say no, or, where it says no in the sound run, hold.
"""

import functools

import pytest

from tests.notebooks import answers, refused, run_again, run_cells, told, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "04_step_size.ipynb"
# Cells that are run again where what they call was changed, by a line in each.
DESCENT = ["fixed = sweep(", "stable = [", "edge_right, edge_all =", "same = [", "at_far, RATIO"]
PROBLEM = ["def descend(", "def flows(", *DESCENT]
EDGE = ["edge_right, edge_all ="]
CHOICES = ["choices, from_plain =", "table = compared(live)"]

S1 = {  # what is wrong → lines replaced, cells run again, limbs that tell it
    "steps adapted to τ": (
        {'{"gd": p.step,': '{"gd": published_step(tau),'},
        DESCENT,
        {"S1.published_falls", "S1.reverse", "S1.falls", "S1.flow", "S1.tangent"},
    ),
    "τ in reverse": ({"setting(seed, tau, symmetrized)\n": "setting(seed, 0.3 / tau, symmetrized)\n"}, DESCENT, {"S1"}),
    "test inputs in another order": (
        {"risk(test, test.outputs(u))": "risk(test, test.outputs(u).flip(-1))"},
        DESCENT,
        {"S1.reverse", "S1.falls?", "S1.flow", "S1.tangent"},
    ),
    "test targets in another order": (
        {"(problem.x_test, problem.y_test)\n": "(problem.x_test, problem.y_test.flip(-1))\n"},
        PROBLEM,
        {"S1.reverse", "S1.falls?", "S1.adapted", "S1.clock", "S1.tangent"},
    ),
    "a stable run diverged": (
        {
            "    reached = math.isfinite(loss + end)": "    reached = math.isfinite(loss + end) and (seed, tau) != (1, 1.0)"
        },
        DESCENT,
        {"S1"},
    ),
    "step fifty times too large": ({'{"gd": p.step,': '{"gd": 50 * p.step,'}, DESCENT, {"S1"}),
    "a tenth of the iterations": (
        {'"iterations": p.iterations}': '"iterations": p.iterations // 10}'},
        DESCENT,
        {"S1.flow", "S1.tangent"},
    ),
    "momentum in plain descent, too": (
        {'beta, best = p.momentum if rule == "momentum" else 0.0, math.inf': "beta, best = p.momentum, math.inf"},
        DESCENT,
        {"S1.published_falls", "S1.reverse", "S1.falls", "S1.flow", "S1.tangent"},
    ),
    "training loss in place of the test loss": (
        {"best = min(best, end)": "best = min(best, loss)"},
        DESCENT,
        {"S1.published", "S1.falls?"},
    ),
    "loss in units of that at the start": (
        {
            '                    {**rule, "symmetrized": False})\n': '                    {**rule, "symmetrized": False})\nfixed_plain["best"] = fixed_plain.best / plain.test.isel(s=0, drop=True)\n'
        },
        DESCENT,
        {"S1.published"},
    ),
    "horizons swapped": (
        {
            '"fixed": np.full(len(taus), T), "published": 1e4 * published_step(taus)': '"published": np.full(len(taus), T), "fixed": 1e4 * published_step(taus)'
        },
        DESCENT,
        {"S1.flow", "S1.adapted", "S1.tangent"},
    ),
    "mean over τ in place of trials": (
        {'.mean("seed").values\n    up': '.mean("tau").values\n    up'},
        [],
        {"S1.reverse", "S1.adapted", "S1.clock"},
    ),
    "time of the fixed step for adapted ones": (
        {".best_published) == 1": ".best_fixed) == 1"},
        [],
        {"S1.adapted"},
    ),
    "time in place of kernel time": (
        {"data.s <= s * 1.000001": "data.s <= s * data.rate / float(data.rate.max())"},
        [],
        {"S1.clock"},
    ),
    "limit of stability twice too high": ({"* 2 * (1 + beta)": "* 4 * (1 + beta)"}, EDGE, {"S1.clock"}),
    "tangent model of another τ": (
        {"flow.tangent_fixed.sel(tau=far)": "flow.tangent_fixed.isel(tau=0)"},
        [],
        {"S1.tangent"},
    ),
    "the symmetrized run told twice": ({"large = fixed_plain.isel(tau=-1)": "large = at_far"}, [], {"S1.lazy"}),
    "limits of laziness in percent": (
        {
            '.value < CHANGES and found["training loss / null risk"].value < LEARNED': '.value < 5 and found["training loss / null risk"].value < 100 * LEARNED'
        },
        [],
        {"S1.lazy"},
    ),
    "null: the published start symmetrized": (
        {'{**rule, "symmetrized": False}': '{**rule, "symmetrized": True}'},
        DESCENT,
        {"S1.published", "S1.flow", "S1.lazy"},
    ),
    "null: for the published start the test targets of other inputs": (
        {
            "    rate = lam * taus**2\n": "    rate = lam * taus**2\n"
            "    test = test if symmetrized else square_loss(net, w0, problem.x_test, problem.y_test.roll(1))\n"
        },
        DESCENT,
        {"S1.flow", "S1.adapted", "S1.clock"},
    ),
    "null: networks that were never trained": (
        {'"iterations": p.iterations}': '"iterations": 0}'},
        DESCENT,
        {"S1.published_falls", "S1.reverse", "S1.falls?", "S1.flow", "S1.tangent"},
    ),
}
S2 = {
    "change of the kernel in percent of a percent": (
        {
            "table.assign(look=table.end / level)": "table.assign(look=table.end / level, kernel_change=table.kernel_change / 100)"
        },
        [],
        {"S2.changed"},
    ),
    "lazy level a hundred times too high": ({"level = flow.": "level = 100 * flow."}, [], {"S2.some"}),
    "choices swapped": (
        {
            '"flow": flow.rename(names), "plain": runs["plain"].rename(names)': '"plain": flow.rename(names), "flow": runs["plain"].rename(names)'
        },
        [],
        {"S2.changed", "S2.unlearned?"},
    ),
    "training loss in units of the first test loss": (
        {
            '"plain": runs["plain"].rename(names)': '"plain": runs["plain"].rename(names).assign(train=runs["plain"].train_published / runs["plain"].test[..., 0])'
        },
        [],
        {"S2.unlearned"},
    ),
    "the smallest τ for the largest": (
        {'sel(choice="plain").isel(tau=-1), {}': 'sel(choice="plain").isel(tau=0), {}'},
        [],
        {"S2.unlearned"},
    ),
    "null: the other start symmetrized, too": (
        {'plain = sweep(flows, seeds, {"symmetrized": False,': 'plain = sweep(flows, seeds, {"symmetrized": True,'},
        CHOICES,
        {"S2.changed", "S2.unlearned?"},
    ),
}
FEW = 20  # iterations of the optimizers with which momentum is a mimic, too: it has not learned yet
S2_EARLY = {
    "a run diverged": (
        {
            "    reached = math.isfinite(loss + end)": '    reached = math.isfinite(loss + end) and (rule, seed) != ("adam", 1)'
        },
        CHOICES,
        {"S2.finished"},
    ),
    "step times τ² in place of over it": ({"0.1 / np.square(taus)": "0.1 * np.square(taus)"}, CHOICES, {"S2.finished"}),
    "step of the smallest τ for all": (
        {'"momentum": published_step(tau)': '"momentum": published_step(p.opt_taus[0])'},
        CHOICES,
        {"S2.finished", "S2.each?"},
    ),
    "each choice compared with itself": (
        {'fakes.sel(choice=[OWN.get(name, "flow") for name in fakes.choice.values])': "fakes"},
        [],
        {"S2.some", "S2.each?"},
    ),
    "bounds of the lazy level in the wrong order": (
        {"LOOKS, CHANGES, LEARNED = (0.8, 2)": "LOOKS, CHANGES, LEARNED = (2, 0.8)"},
        [],
        {"S2.some", "S2.each?"},
    ),
    "learned where much is left": ({"(middle.train < LEARNED)": "(middle.train > LEARNED)"}, [], {"S2.each?"}),
    "mimics are what is lazy": ({"& ~lazy": "& lazy"}, [], {"S2.some", "S2.each?"}),
    "null: one start for all, of the optimizers, too": (
        {
            'plain = sweep(flows, seeds, {"symmetrized": False,': 'plain = sweep(flows, seeds, {"symmetrized": True,',
            "for each in (True, False))": "for each in (True, True))",
        },
        CHOICES,
        {"S2.some", "S2.changed", "S2.each?"},
    ),
}
PLANTED = {**S1, **S2}

CAUGHT = [names for *_, names in [*PLANTED.values(), *S2_EARLY.values()]]  # for each error the limbs that tell it


@functools.cache
def sound(**parameters) -> dict:
    return run_cells(CHAPTER, parameters=parameters, whole=False)


def judged(patches: dict, dependents: list, **parameters) -> dict:
    """The namespace after the cells with a patch, their dependents and the claims have been run again."""
    lines = ["ledger.judge(", *dependents]
    namespace = {**sound(**parameters), "live": dict(sound(**parameters)["live"])}  # a cell adds to it
    return run_again(
        namespace, CHAPTER, patches, lambda cell, touched: touched or any(line in cell.source for line in lines)
    )


def test_nothing_planted_nothing_found_but_what_the_page_says():
    """The published start falls by less than 1.5, and is not lazy; momentum is no mimic if it is given time."""
    assert verdicts(sound()) == {"S1": "does not hold", "S2": "undecided"}
    failed = {id: {name for name, answer in answers(sound(), id).items() if answer == "no"} for id in ("S1", "S2")}
    assert failed == {"S1": {"published", "lazy"}, "S2": set()}
    assert answers(sound(), "S1")["clock"] == "yes" and answers(sound(), "S2")["each"] == "open"
    assert answers(sound(opt_iterations=FEW), "S2")["each"] == "yes"


def test_running_again_changes_nothing():
    again = judged({}, [*DESCENT, *CHOICES])
    assert [answers(again, id) for id in ("S1", "S2")] == [answers(sound(), id) for id in ("S1", "S2")]
    assert told(again, sound()) == set()


@pytest.mark.parametrize(("patches", "dependents", "names"), PLANTED.values(), ids=PLANTED)
def test_an_error_is_told(patches, dependents, names):
    assert told(judged(patches, dependents), sound()) >= names


@pytest.mark.parametrize(("patches", "dependents", "names"), S2_EARLY.values(), ids=S2_EARLY)
def test_an_error_is_told_where_momentum_is_a_mimic(patches, dependents, names):
    found = judged(patches, dependents, opt_iterations=FEW)
    assert told(found, sound(opt_iterations=FEW)) >= names


def test_a_wrong_explanation_leaves_the_verdict():
    """The page must not say why, and no failure reads as a yes; but the claim's own limbs are as they were."""
    beyond = {"S1.clock", "S1.tangent", "S1.lazy"}
    for patches, dependents, names in S1.values():
        if names <= beyond:
            assert told(judged(patches, dependents), sound()) <= beyond


STOPPED = {  # what is wrong, where the run itself says so → lines replaced
    "λ of the first trial for all": {"setting(seed, 1.0)[-1]\n    taus": "setting(0, 1.0)[-1]\n    taus"},
}  # fmt: skip


@pytest.mark.parametrize("patches", STOPPED.values(), ids=STOPPED)
def test_a_planted_error_stops_the_run(patches):
    with refused():
        judged(patches, EDGE)
