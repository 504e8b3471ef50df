"""Errors planted in the chapter on trajectories are told from a sound run by the limbs of its claims."""

import functools
from pathlib import Path

import pytest

from tests.notebooks import answers, run_again, run_cells, told, verdicts

CHAPTER = Path(__file__).resolve().parents[1] / "chapters/02_trajectories.ipynb"
SWAPPED = {"[p.tau_nonlazy, p.tau_lazy]": "[p.tau_lazy, p.tau_nonlazy]"}
SHORT = {  # steps, hence the flow times of all runs, a hundred times too small
    "PLANE_STEP = 0.005": "PLANE_STEP = 0.005 / 100",
    "step = np.minimum(10, 0.1 / np.square(TAUS))": "step = np.minimum(10, 0.1 / np.square(TAUS)) / 100",
}
UNBALANCED = {"torch.cat([a, -a, b": "torch.cat([a, a, b"}  # the second half does not cancel the first
NO_CONTROL = {'"symmetrized": True': '"symmetrized": False'}
TARGETS = "objective = square_loss(net, w0, problem.x, problem.y)"
DISPLACED = '"displacement": relative_displacement(w0[runs], u)'
START = "    w0 = net.init(TAUS, seed, symmetrized)"
NOISE = (
    "    problem.y.normal_(generator=generator(seed, 'y')), problem.y_test.normal_(generator=generator(seed, 'test'))\n"
)
STEP, PLANE_START = (
    "step = np.minimum(10, 0.1 / np.square(TAUS))",
    "torch.tensor(taus).double().unsqueeze(1) * plane_init(net, seed)",
)
LONG = {"iterations": 6000, "plane_iterations": 1, "plane_check": 1, "plane_trials": 2}  # to 10 %, symmetrized, too

PLANTED = {  # what is wrong → lines replaced, what tells it, parameters
    "initialization scales swapped": (
        SWAPPED,
        {"T1.far", "T1.near", "T1.aligned", "T1.teacher", "T2.smaller", "T2.early", "T2.grows", "T3.higher"},
        {},
    ),
    "horizon a hundred times too short": (
        SHORT,
        {"T1.fitted", "T2.stops", "T2.early", "T3.settled"},
        {},
    ),
    "the symmetrization is broken": (UNBALANCED | NO_CONTROL, {"T1.near", "T2.symmetrized", "T4.equal"}, {}),
    "null: targets in the plane permuted": (
        {TARGETS: TARGETS.replace("problem.y)", 'problem.y[:, torch.randperm(15, generator=generator(seed, "y"))])')},
        {"T1.near", "T1.teacher", "T1.fitted"},
        {},
    ),
    "null: the published runs symmetrized": (
        {'fixed={"symmetrized": False}': 'fixed={"symmetrized": True}'},
        {"T2.early", "T2.grows", "T4.own"},
        {},
    ),
    "null: targets are noise": ({START: NOISE + START}, {"T2.grows", "T3.higher", "T4.own"}, {}),
    "null: in the plane two other starts at one τ for both": (
        {PLANE_START: "torch.stack([plane_init(net, seed + 100 * k) for k in range(len(taus))])"},
        {"T1.far", "T1.near", "T1.aligned", "T1.teacher"},
        {},
    ),
    "null: the steps of the lazy runs for all": (
        {STEP: "step = np.full(2, 0.1 / TAUS[1] ** 2)"},
        {"T2.stops", "T3.settled", "T4.same", "T4.equal", "T4.clocks"},
        {},
    ),
    "null: the same steps for all, in which small weights hardly move": (
        {STEP: "step = np.full(2, 0.001 / TAUS[1] ** 2)"},
        {"T2.smaller", "T2.early", "T2.stops", "T3.settled"},
        {},
    ),
    "changes of the weights not divided": ({"(u / w0[runs]).abs()": "u.abs()"}, {"T2.smaller"}, {}),
    "displacement over the last weights": ({DISPLACED: DISPLACED.replace("w0[runs]", "w")}, {"T1.far"}, {}),
    "first and last state swapped": (
        {"(plane.isel(iteration=i) for i in (0, -1))": "(plane.isel(iteration=i) for i in (-1, 0))"},
        {"T1.far", "T1.aligned", "T1.teacher", "T1.fitted"},
        {},
    ),
    "alignment regardless of the sign": (
        {"torch.where(same, cosine, -1.0).amax(-1)": "cosine.abs().amax(-1)"},
        {"T1.aligned"},
        {},
    ),
    "the gain in alignment backwards": (
        {"ends = last.alignment - first.alignment": "ends = first.alignment - last.alignment"},
        {"T1.aligned"},
        {},
    ),
    "stops where the loss still falls": ({"stalls = ~(before": "stalls = (before"}, {"T2.early"}, {}),
    "any gain postpones the stop": ({"gain=1e-4": "gain=0.0"}, {"T2.stops", "T2.grows"}, {}),
    "gain relative to the best loss": ({"- best >= gain": "- best >= gain * best"}, {"T2.stops", "T2.grows"}, {}),
    "share of the first half": ({"(1 - half / all)": "(half / all)"}, {"T2.early"}, {}),
    "share upside down": ({"(1 - half / all)": "(1 - all / half)"}, {"T2.grows"}, {}),
    "the last twentieth for the second half": (
        {"(end / 2, end)": "(0.95 * end, end)"},
        {"T2.grows", "T2.symmetrized"},
        {},
    ),
    "the published run for the control": (
        {'share_late(control["sum"], control_stop)': 'share_late(runs["sum"], stop)'},
        {"T2.symmetrized"},
        {},
    ),
    "non-lazy over lazy": (
        {
            'logs.sel(regime="lazy") - logs.sel(regime="non-lazy")': 'logs.sel(regime="non-lazy") - logs.sel(regime="lazy")'
        },
        {"T2.smaller", "T3.higher", "T4.same"},
        {},
    ),
    "test losses over their starts": (
        {"over_nonlazy(data.test.interp(": "over_nonlazy((data.test / data.test.isel(iteration=0)).interp("},
        {"T3.higher"},
        {},
    ),
    "training loss for test loss": ({"half, end = runs.test": "half, end = runs.train"}, {"T3.settled"}, {}),
    "change since the start": ({"[p.iterations / 2, p.iterations]": "[0, p.iterations]"}, {"T3.settled"}, {}),
    "losses are not shares": (
        {"(runs, 0.1 * initial)": "(runs, 0.1)", "(runs, 0.01 * initial)": "(runs, 0.01)"},
        {"T4.own"},
        {},
    ),
    "one start for both": (
        {"(runs, 0.1 * initial)": '(runs, 0.1 * initial.sel(regime="lazy", drop=True))'},
        {"T4.own"},
        {},
    ),
    "flow time for iterations": ({"lambda data: xr.ones_like(data.step)": "lambda data: data.step"}, {"T4.same"}, {}),
    "what was never reached, at the end": ({", right=np.inf)": ")"}, {"T4.equal"}, {}),
    "published runs for equal starts": (
        {"time_ratios(control, 0.1 * initial_control)": "time_ratios(runs, 0.1 * initial)"},
        {"T4.equal"},
        {},
    ),
    "each to its own last loss": (
        {'1.1 * final.sel(regime="lazy", drop=True)': "1.1 * final"},
        {"T4.same", "T4.clocks"},
        LONG,
    ),
    "kernel time without the kernel": ({"data.step * data.rate": "data.step"}, {"T4.clocks"}, LONG),
    "kernel time over the rate": ({"data.step * data.rate": "data.step / data.rate"}, {"T4.clocks"}, LONG),
}
CAUGHT = [names for _, names, _ in PLANTED.values()]  # for each error the limbs that tell it

AFTER = ("plane = sweep(", "first, last =", "runs = sweep(", "def early_stop", "smaller = {", "initial, final =",
         "higher, higher_control", "ratios = {", "ledger.judge(")  # in the cells that verdicts come from  # fmt: skip


def judged(patches: dict[str, str], parameters: dict) -> dict:
    """The namespace with an error: the cells that have it are run again, and those of AFTER, unless it is in a τ."""
    if any("p.tau_" in old for old in patches):
        return run_cells(CHAPTER, patches=patches, parameters=parameters)
    return run_again(
        sound(**parameters), CHAPTER, patches, lambda cell, touched: touched or any(s in cell.source for s in AFTER)
    )


@functools.cache
def sound(**parameters) -> dict:
    return run_cells(CHAPTER, parameters=parameters, whole=not parameters)


def test_an_error_that_cannot_be_planted_is_noticed():
    with pytest.raises(AssertionError, match="no code"):
        run_cells(CHAPTER, patches={"a line that the chapter does not have": ""})


def test_without_an_error_no_claim_falls():
    held = {"T1": "holds", "T2": "holds", "T3": "holds", "T4": "does not hold"}
    assert verdicts(sound()) == held
    assert answers(sound(), "T2")["symmetrized"] == answers(sound(), "T4")["clocks"] == "no"  # beyond the claims
    assert answers(sound(), "T4")["own"] == "open" and answers(sound(), "T4")["same"] == "no"  # five seeds


def test_running_again_changes_nothing():
    assert verdicts(judged({}, {})) == verdicts(sound()) and not told(judged({}, {}), sound())


@pytest.mark.parametrize(("patches", "names", "parameters"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_is_told_by_the_limbs_that_it_breaks(patches, names, parameters):
    """Without symmetrization the lazy neurons move in the plane, to undo h(w0)."""
    found = judged(patches, parameters)
    assert told(found, sound(**parameters)) >= names
    if NO_CONTROL.items() <= patches.items():  # the control of T2 is no control any more
        assert answers(found, "T2")["symmetrized"] == "yes"
