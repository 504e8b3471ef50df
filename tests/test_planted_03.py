"""Chapter 3 at the smoke preset with one thing broken: the limbs of its claims must tell it from the sound run."""

import functools

import pytest

from tests.notebooks import answers, refused, run_again, run_cells, told, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "03_tau_plateau.ipynb"
# Cells that a family of claims has nothing of, by a line in each: they are not run again.
OF_P5 = ["FEW_TAUS =", "def few_ends("]
OF_P4_P5 = ["BATCH = 200", "def exact(", "moved = descend(", "ratios = (under", *OF_P5]
# Where a parameter is the error, what only the other claims need is made small.
SHORT_P4_P5 = {"sgd_taus": [0.1, 1.0, 8.0], "sgd_iterations": 20, "few_time": 100.0}
SHORT_P1_P4 = {
    "taus": [3.0, 5.0, 7.0, 10.0],
    "far_taus": [100.0],
    "n": 50,
    "sgd_taus": [0.1, 1.0, 8.0],
    "sgd_iterations": 20,
}

P1_P3 = {  # what is wrong → the limbs that tell it, lines replaced
    "null: no start is symmetrized": (
        "P1.tangent P3.earlier P3.exponent",
        {
            "net.init(taus, seed, symmetrized=symmetrized,": "net.init(taus, seed, symmetrized=False,",
            'p.kappa_taus, seed, symmetrized=init == "symmetrized",': "p.kappa_taus, seed, symmetrized=False,",
        },
    ),
    "labels of the initializations swapped": (
        "P1.tangent P2.constant P2.lazy P3.earlier P3.exponent",
        {
            '{"symmetrized": True, "taus"': '{"symmetrized": 0, "taus"',
            '{"symmetrized": False, "taus"': '{"symmetrized": 1, "taus"',
            'p.kappa_taus, seed, symmetrized=init == "symmetrized",': 'p.kappa_taus, seed, symmetrized=init == "plain",',
        },
    ),
    "the flows without symmetrization start with it": (
        "P2.lazy P3.earlier",
        {'{"symmetrized": False, "taus"': '{"symmetrized": True, "taus"'},
    ),
    "exponent off by one": (
        "P2.constant P3.exponent",
        {"*net.split(w)).kappa": "*net.split(w)).kappa * float(w.norm())"},
    ),
    "τ grid reversed": (
        "P1.rises P1.starts P1.plateau P1.tangent P2.plateau P2.flat P3.earlier",
        {'{"end": end, "best"': '{"end": end[::-1], "best"'},
    ),
    "a run diverged": (
        "P1 P3",
        {
            "flow.u.double().cpu(), flow.reached": "flow.u.double().cpu(), flow.reached & ((seed != 1) | (not symmetrized))"
        },
    ),
    "the loss at the first time, not the last": (
        "P1.rises P1.starts P1.tangent P2.plateau P2.flat",
        {"losses[:, -1], losses.min": "losses[:, 0], losses.min"},
    ),
    "the tangent model's target over τ, not τ²": (
        "P1.tangent",
        {"residual=y0 / tau**2 -": "residual=y0 / tau -"},
    ),
    "null: τ does nothing": (
        "P1.rises P1.starts P3.exponent",
        {
            "net.init(taus, seed, symmetrized=symmetrized,": "net.init(np.ones_like(taus) if symmetrized else taus, seed, symmetrized=symmetrized,",
            "net.init(p.kappa_taus, seed,": "net.init([1.0] * len(p.kappa_taus), seed,",
        },
    ),
    "null: the output at the start is subtracted": (
        "P2.constant P2.positive P2.lazy P3.earlier",
        {
            "square_loss(net, w0, x.to(w0), y.to(w0))": "square_loss(net, w0, x.to(w0), y.to(w0) + net(w0, x.to(w0)))",
            "residual=y0 / tau**2 - tangent.h0)": "residual=y0 / tau**2)",
            "null_risk(at_T - y),": "null_risk(at_T - h0 - y),",
            "two_layer_kappa(problem.x, problem.y, *net.split(w))": "two_layer_kappa(problem.x, problem.y + net(w, problem.x), *net.split(w))",
        },
    ),
    "the smallest quarter of τ for the largest": (
        "P1.tangent",
        {"slice(-max(rounded(len(data.tau) / 4), 2), None)": "slice(None, max(rounded(len(data.tau) / 4), 2))"},
    ),
    "the plateau of the movement, not of the loss": (
        "P1.starts P1.plateau P3.earlier",
        {"stats.plateau(data.tau, data.end.fillna(0))": "stats.plateau(data.tau, data.moved.fillna(0))"},
    ),
    "the wrong end of τ at the start": (
        "P1.starts",
        {"first = float(symmetrized.end.isel(tau=0).mean())": "first = float(symmetrized.end.isel(tau=-1).mean())"},
    ),
    "the smallest τ pictured for the largest": (
        "P2.flat",
        {"plain.end.sel(tau=p.taus[-1])": "plain.end.sel(tau=plain_taus[0])"},
    ),
    "κ of the symmetrized start": (
        "P2.constant P2.positive",
        {'kappa.kappa.sel(init="plain").mean("seed")': 'kappa.kappa.sel(init="symmetrized").mean("seed")'},
    ),
    "null: the tangent model in the place of the network": (
        "P1.starts P2.plateau P2.flat P2.lazy",
        {'columns |= {"end": end,': 'columns |= {"end": columns["tangent_T"],'},
    ),
    "null: tangent models with an output at the start in the place of the networks": (
        "P1.plateau P2.plateau P2.flat P2.lazy P3.earlier",
        {
            "net.init(taus, seed, symmetrized=symmetrized,": "net.init(taus, seed, symmetrized=False,",
            'columns |= {"end": end,': 'columns |= {"end": columns["tangent_T"],',
        },
    ),
    "a mean of logarithms that is not taken back": (
        "P2.positive",
        {
            'kappa.kappa.sel(init="plain").mean("seed").values': 'np.log10(kappa.kappa.sel(init="plain")).mean("seed").values'
        },
    ),
}
P4 = {
    "teacher not divided": (
        "P4",
        {") / division  #": ") / 1  #"},
    ),
    "teacher multiplied": (
        "P4",
        {") / division  #": ") * division  #"},
    ),
    "start of the descent not symmetrized": (
        "P4.descent",
        {"w0 = wide.init(taus, seed, symmetrized=True)": "w0 = wide.init(taus, seed)"},
    ),
    "start of flow and descent not symmetrized": (
        "P4.plateau P4.limit?",
        {"= wide.init(taus, seed, symmetrized=True": "= wide.init(taus, seed, symmetrized=False"},
    ),
    "steps without the factor m": (
        "P4.starts?",
        {"return p.m * np.minimum": "return np.minimum"},
    ),
    "d missing in the gradient for b": (
        "P4.descent",
        {"x, y, b_metric=p.d": "x, y, b_metric=1.0"},
    ),
    "a step over τ, not τ²": (
        "P4.rises",
        {"0.25 / taus**2, 25)": "0.25 / taus, 25)"},
    ),
    "the flow at half the time of the descent": (
        "P4.descent",
        {"[0.95 * p.sgd_iterations, 20_000]": "[0.475 * p.sgd_iterations, 20_000]"},
    ),
    "the flow at the next τ": (
        "P4.descent",
        {'"same_time": ("tau", same_time[:-1])': '"same_time": ("tau", same_time[1:])'},
    ),
    "the two times of the flow swapped": (
        "P4.starts P4.descent",
        {"(same_time, flow), null = exact": "(flow, same_time), null = exact"},
    ),
    "losses of the flow in reversed order": (
        "P4.rises P4.starts P4.plateau",
        {'"flow": ("tau", flow[:-1])': '"flow": ("tau", flow[-2::-1])'},
    ),
    "the limit so far out that rounding eats it": (
        "P4.plateau P4.limit?",
        {"10 * taus[-1])": "1000 * taus[-1])"},
    ),
    "null risk divided once too often": (
        "P4.limit",
        {"objective.teacher_power[0])": "objective.teacher_power[0]) / division"},
    ),
    "sum of the last losses for their mean": (
        "P4.descent",
        {".double().numpy() / last": ".double().numpy()"},
    ),
    "null: the hidden layer is frozen": (
        "P4.rises P4.starts",
        {"b_metric=p.d": "b_metric=1e-12"},
    ),
    "null: networks that are neither symmetrized nor trained": (
        "P4.plateau P4.limit? P4.descent",
        {
            "= wide.init(taus, seed, symmetrized=True": "= wide.init(taus, seed, symmetrized=False",
            "[0.95 * p.sgd_iterations, 20_000]": "[1e-6, 2e-6]",
        },
    ),
    "the formula at other weights": (
        "P4.formula",
        {"population_loss(wide, w0, teacher_net, teacher)": "population_loss(wide, 1.1 * w0, teacher_net, teacher)"},
    ),
    "samples not on the sphere": (
        "P4.formula",
        {
            'sphere(100_000, p.d, generator(0, "samples"))': 'torch.randn(100_000, p.d, generator=generator(0, "samples"), dtype=F64)'
        },
    ),
    "samples of the other network": (
        "P4.formula",
        {"null_risk(wide(w0, x)[0] -": "null_risk(net(w0, x)[0] -"},
    ),
    "too few samples": (
        "P4.formula",
        {"sphere(100_000,": "sphere(100,"},
    ),
    "steps divided twice": (
        "P4.scaling",
        {"sgd_step(taus) / BATCH, 200)": "sgd_step(taus) / BATCH**2, 200)"},
    ),
    "losses divided by the batch, not by its square": (
        "P4.scaling",
        {"divided * BATCH**2 /": "divided * BATCH /"},
    ),
    "τ not scaled with the teacher": (
        "P4.scaling",
        {"math.sqrt(BATCH) * taus, 1.0": "taus, 1.0"},
    ),
    "null: other batches": (
        "P4.scaling",
        {"divided = descend(0,": "divided = descend(1,"},
    ),
}
P5 = {
    "risk not over the null risk": (
        "P5.stuck",
        {"risk.squeeze(1) / null[runs]": "risk.squeeze(1)"},
    ),
    "null: many more neurons than dimensions": (
        "P5.stuck",
        {
            "tiny = TwoLayer(p.d, p.few)": "tiny = TwoLayer(2, 20)",
            "teacher_student(seeds, d=p.d,": "teacher_student(seeds, d=2,",
            "TwoLayer(p.d, teacher_net.m + p.few)": "TwoLayer(2, teacher_net.m + 20)",
        },
    ),
    "risks of P5 at the first time, not the last": (
        "P5.global P5.minimum",
        {"end = data.isel(mark=-1).sel": "end = data.isel(mark=0).sel"},
    ),
    "risks of P5 in reversed order": (
        "P5.global P5.stuck",
        {
            "small, one, large = (end.risk.isel(tau=i) for i in (0, 1, -1))": "small, one, large = (end.risk.isel(tau=i) for i in (-1, 1, 0))"
        },
    ),
    "null: the centred network, that ends in a minimum": (
        "P5.minimum",
        {'.sel(init="symmetrized")\n    falls': '.sel(init="centred")\n    falls'},
    ),
    "null: the hidden layer is frozen, and the output not zero at the start": (
        "P5.zero P5.global P5.minimum",
        {
            "objective = population_loss(tiny, w0, teacher_net, teacher)\n": "objective = population_loss(tiny, w0, teacher_net, teacher, b_metric=1e-12)\n",
            'tiny.init(tau, seeds, symmetrized=init == "symmetrized", dtype=F64)': "tiny.init(tau, seeds, dtype=F64)",
        },
    ),
    "start of P5 not symmetrized": (
        "P5.zero",
        {'tiny.init(tau, seeds, symmetrized=init == "symmetrized", dtype=F64)': "tiny.init(tau, seeds, dtype=F64)"},
    ),
    "the centred network learns the bare teacher": (
        "P5.zero",
        {'if init == "centred":\n        pairs': 'if init == "none":\n        pairs'},
    ),
    "another network subtracted than the initial one": (
        "P5.zero",
        {"zip(teacher_net.split(teacher), tiny.split(w0))": "zip(teacher_net.split(teacher), tiny.split(2 * w0))"},
    ),
    "null risk of another teacher": (
        "P5.zero",
        {"tiny, w0, teacher_net, teacher).teacher_power": "tiny, w0, teacher_net, 0.9 * teacher).teacher_power"},
    ),
}
PARAMETERS = {  # what is wrong → the limbs that tell it, parameters
    "horizon a hundred times too short": ("P1.starts P2.plateau P2.flat P2.lazy", {**SHORT_P4_P5, "horizon": 0.01}),
    "τ ends before the plateau": (
        "P1.plateau P1.tangent P2.flat P3.earlier",
        {**SHORT_P4_P5, "taus": [0.01, 0.03, 0.1, 0.2, 0.3, 0.5]},
    ),
    "flow of P5 not converged": ("P5.global P5.minimum", {**SHORT_P1_P4, "few_time": 100.0}),
}
PLANTED = {
    error: (*row, unneeded)
    for errors, unneeded in ((P1_P3, OF_P4_P5), (P4, OF_P5), (P5, []))
    for error, row in errors.items()
}
CAUGHT = [set(limbs.split()) for limbs, *_ in (*PLANTED.values(), *PARAMETERS.values())]  # for each error the limbs
SOUND = {"P1": "holds", "P2": "holds", "P3": "holds", "P4": "holds at smaller scale", "P5": "does not hold"}


@functools.cache
def sound() -> dict:
    return run_cells(CHAPTER)


def with_error(patches: dict, unneeded: list) -> dict:
    """The namespace after the cells from the first with a patch on have been run again, without the unneeded."""
    begun = []

    def chosen(cell, touched):
        begun.extend([True] * touched)
        return bool(begun) and not any(line in cell.source for line in unneeded)

    return run_again(sound(), CHAPTER, patches, chosen)


def test_nothing_planted_nothing_found():
    """P5 fails by one limb only: the plateau is no minimum. Beyond P2, its plateau is not lazy."""
    assert verdicts(sound()) == SOUND
    assert answers(sound(), "P5") == {"zero": "yes", "global": "yes", "stuck": "yes", "minimum": "no"}
    assert answers(sound(), "P2")["lazy"] == "no"


def test_running_again_finds_nothing_by_itself():
    """Else the test below would prove nothing."""
    first = "MARKS = np.geomspace("  # of the cells that may be run again
    assert not told(with_error({first: first}, []), sound())


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_found(error):
    limbs, patches, unneeded = PLANTED[error]
    assert told(with_error(patches, unneeded), sound()) >= set(limbs.split())


@pytest.mark.parametrize("error", PARAMETERS)
def test_a_wrong_parameter_is_found(error):
    limbs, parameters = PARAMETERS[error]
    assert told(run_cells(CHAPTER, parameters=parameters, whole=False), sound()) >= set(limbs.split())


@pytest.mark.parametrize(
    ("claims", "parameters"),
    [("P1 P2 P3", SHORT_P4_P5), ("P5", SHORT_P1_P4)],
)
def test_the_smaller_runs_find_nothing_by_themselves(claims, parameters):
    found = told(run_cells(CHAPTER, parameters=parameters, whole=False), sound())
    assert not {limb for limb in found if limb[:2] in claims.split()}


STOPPED = {  # what is wrong, where the run itself says so → lines replaced
    "one seed for all trials": {
        "problem = teacher_student(seed, d=p.d, n=p.n, n_test=p.n, dtype=F64)":
            "seed = 0\n    problem = teacher_student(seed, d=p.d, n=p.n, n_test=p.n, dtype=F64)"
    },
}  # fmt: skip


@pytest.mark.parametrize("patches", STOPPED.values(), ids=STOPPED)
def test_a_planted_error_stops_the_run(patches):
    with refused():
        with_error(patches, OF_P4_P5)
