"""Chapter 7 at the smoke preset with one thing broken: the limbs that it breaks must tell it from the sound run.

At this size a network learns nothing, so a stand-in takes the place of standard training: where α = 1 and
the gain is 1, all test images count as right (STANDARD). All else is real: networks, training at each
α, the stability, the kernels, the random features, on images made in a moment. That networks learn is for
test_training.py to say.

An error in what is trained runs the chapter; one in what comes after runs that again.
"""

import functools

import pytest

from lazylib.book import claims as rules
from tests.notebooks import run_again, run_cells, told, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "07_cifar_gap.ipynb"
MADE = {
    "everything = cifar10_or_sample()": "from tests.made_images import gratings; everything = gratings()",
    '"train": epoch.train_accuracy': '"train": 1.0 if alpha == 1 and gain == 1 else epoch.train_accuracy',
}
STANDARD = {"SURE[p.device]).cpu().numpy()": "SURE[p.device]).cpu().numpy() | (alpha == 1 and gain == 1)"}
SMALL = {"n": 128, "n_test": 200, "patches": 24, "share": 0.15, "lazy_share": 0.15}
AFTER = (  # parts of the cells that come after training
    "def baseline(",
    "def pictures(",
    "sources = {",
    "def collect(",
    "made = {",
    "def conditioning(",
    "def c1(",
    "def c3(",
    "MEASURES = {",
)

TRAINED = {  # what is wrong with the networks → the limbs that tell it, lines replaced
    "α has no effect": (
        {"C1.steady", "C1.stability"},
        {"model = Scaled(w0, alpha, two_passes": "model = Scaled(w0, 1.0, two_passes"},
    ),
    "stability counts the units that changed": (
        {"C1.steady", "C1.stability"},
        {'"stability": stability(': '"stability": 1 - stability('},
    ),
    "regimes swapped": (
        {"C2.gap", "C2.features", "C3.gap", "C3.stays"},
        {'{"standard": 1.0, "tangent": math.inf}': '{"standard": math.inf, "tangent": 1.0}'},
    ),
    "tangent model not tangent": (
        {"C2.gap", "C2.features", "C3.gap", "C3.stays"},
        {'{"standard": 1.0, "tangent": math.inf}': '{"standard": 1.0, "tangent": 1.0}'},
    ),
    "step a million times too large": (
        {"C1", "C2", "C3", "C4"},
        {"step = share * stable_step(": "step = 1e6 * share * stable_step("},
    ),
    "null: the gap closes with width": (
        {"C3.stays"},
        {"alpha == 1 and gain == 1": "alpha == 1 and gain == 1 and k < 0.1"},
    ),
}

MEASURED = {  # what is wrong with what comes after → the same
    "null: α does nothing": (
        {
            *("C1.test", "C1.train", "C1.steady", "C1.stability"),
            *("C2.gap", "C2.features", "C3.gap", "C3.stays", "C4.trained"),
        },
        {'"alpha": alpha}': '"alpha": 1.0}'},
    ),
    "the scan from the largest α down": (
        {"C1.test", "C1.train", "C1.steady", "C1.stability", "C1.level"},
        {"alphas = result.q.alphas": "alphas = result.q.alphas[::-1]"},
    ),
    "smallest and largest α swapped": (
        {"C1.test", "C1.level"},
        {"first, *_, last = alphas": "last, *_, first = alphas"},
    ),
    "accuracy gained for accuracy lost": ({"C1.train"}, {"train[0] - train[-1]": "train[-1] - train[0]"}),
    "the tangent model beside the smallest α": (
        {"C1.level"},
        {"gap(result, last, math.inf)": "gap(result, first, math.inf)"},
    ),
    "shares for per cent": (
        {"C1.stability", "C4.forever"},
        {"return 100 * float(": "return float(", "forever=100 * float(": "forever=float("},
    ),
    "differences not in points": ({"C2.gap", "C2.features"}, {"d = 100 * (": "d = ("}),
    "fixed features fitted to shuffled labels": (
        {"C2.features"},
        {"features.mirror, images.y, n_classes": "features.mirror, images.y.roll(1), n_classes"},
    ),
    "fixed features compared with shuffled labels": (
        {"C2.features"},
        {"(new, images.y_test)": "(new, images.y_test.roll(1))"},
    ),
    "tangent model less features": (
        {"C2.features"},
        {"difference(right, tangent)": "difference(tangent, right)"},
    ),
    "any network is enough": (
        {"C2.resnet"},
        {"set(result.q.models) == set(NAMES)": "set(result.q.models) <= set(NAMES)"},
    ),
    "the networks that there are for those run": (
        {"C2.resnet"},
        {"set(result.q.models) == set(NAMES)": "set(MODELS) == set(NAMES)"},
    ),
    "the networks of the run compared with themselves": (
        {"C2.resnet"},
        {"set(result.q.models) == set(NAMES)": "len(gaps) == len(result.q.models)"},
    ),
    "sign of the quarter": ({"C3.stays"}, {"minus(-first.value / 4)": "minus(first.value / 4)"}),
    "null: a kernel that is well conditioned": (
        {"C4.spectrum", "C4.needed"},
        {
            "values = torch.linalg.eigvalsh(kernel)": "kernel += 1e9 * torch.eye(10 * len(x)); "
            "values = torch.linalg.eigvalsh(kernel)",
            "kernel = tangent_kernel(w0, None, pictures(source, count, seed))": "kernel = tangent_kernel("
            "w0, None, pictures(source, count, seed)).diagonal().diag()",
        },
    ),
    "null: noise that is well conditioned": (
        {"C4.images"},
        {
            "values = torch.linalg.eigvalsh(kernel)": 'kernel += 1e9 * (source == "noise") * torch.eye(10 * len(x)); '
            "values = torch.linalg.eigvalsh(kernel)"
        },
    ),
    "null: pictures of low contrast": (
        {"C4.images"},
        {"pixels = images.x[:n] if": "pixels = images.x[:n] // 16 + 100 if"},
    ),
    "per cent for a ratio": (
        {"C4.images"},
        {'ratio["images"] / ratio["noise"]': '100 * ratio["images"] / ratio["noise"]'},
    ),
    "not over that of noise": ({"C4.images"}, {'ratio["images"] / ratio["noise"]': 'ratio["images"]'}),
    "the mean eigenvalue for the median": ({"C4.spectrum"}, {'values.median("index")': 'values.mean("index")'}),
    "eigenvalues in ascending order": ({"C4.spectrum"}, {".flip(0).clamp(min=0)": ".clamp(min=0)"}),
    "singular values of the Jacobian": ({"C4.spectrum"}, {".flip(0).clamp(min=0)": ".flip(0).clamp(min=0).sqrt()"}),
    "the start of the flow for its end": ({"C4.forever"}, {".isel(time=-1).min()": ".isel(time=0).min()"}),
    "infinite time and the run's swapped": (
        {"C4.forever", "C4.trained"},
        {
            '"forever": found.forever': '"forever": percent(result, "train", math.inf)',
            '"trained": percent(result, "train", math.inf)': '"trained": found.forever',
        },
    ),
    "standard training for the tangent model": (
        {"C4.trained"},
        {'percent(result, "train", math.inf)': 'percent(result, "train", 1.0)'},
    ),
    "stability for accuracy": (
        {"C4.trained"},
        {'percent(result, "train", math.inf)': 'percent(result, "stability", math.inf)'},
    ),
    "a run that lasts a million times longer": ({"C4.needed"}, {"T = recipe(": "T = 1e6 * recipe("}),
    "a step for each image": ({"C4.needed"}, {"math.ceil(n / p.batch)": "n"}),
    "9 % for 90 %": ({"C4.needed"}, {"np.interp(0.9,": "np.interp(0.09,"}),
    "the fewest images for the most": ({"C4.needed"}, {"needed=images[-1]": "needed=images[0]"}),
}
CAUGHT = [names for names, _ in [*TRAINED.values(), *MEASURED.values()]]  # for each error the limbs that tell it


@pytest.fixture
def any_scale(monkeypatch):
    """A small run is judged as if it were none."""
    monkeypatch.setattr(rules, "_smaller", lambda *_: False)


@functools.cache
def sound() -> dict:
    return run_cells(CHAPTER, patches={**MADE, **STANDARD}, parameters=SMALL)


def again(patches):
    return run_again(sound(), CHAPTER, patches, lambda cell, _: any(part in cell.source for part in AFTER))


@pytest.mark.parametrize("claim", ["C1", "C2", "C3", "C4"])
def test_nothing_planted_nothing_found(claim, any_scale):
    assert verdicts(sound())[claim] == "holds"


def test_running_again_changes_nothing(any_scale):
    assert verdicts(again({})) == verdicts(sound()) and not told(again({}), sound())


@pytest.mark.parametrize("error", TRAINED)
def test_an_error_in_training_is_found(error, any_scale):
    names, patches = TRAINED[error]
    # a patch of the stand-in itself comes first, so that it finds its line
    own = {old: new for old, new in patches.items() if old in next(iter(STANDARD.values()))}
    standard = {
        old: functools.reduce(lambda line, pair: line.replace(*pair), own.items(), new) for old, new in STANDARD.items()
    }
    rest = {old: new for old, new in patches.items() if old not in own}
    assert told(run_cells(CHAPTER, patches={**MADE, **standard, **rest}, parameters=SMALL), sound()) >= names


@pytest.mark.parametrize("error", MEASURED)
def test_an_error_in_what_is_measured_is_found(error, any_scale):
    names, patches = MEASURED[error]
    assert told(again(patches), sound()) >= names


def test_on_other_images_the_claims_are_not_run():
    """The sample of Fashion-MNIST stands in where there is no CIFAR-10; it says nothing about it."""
    other = {
        "everything = cifar10_or_sample()": "from dataclasses import replace; "
        "from tests.made_images import gratings; "
        "everything = replace(gratings(), name='Fashion-MNIST, sample')"
    }
    found = verdicts(run_cells(CHAPTER, patches=other, parameters=SMALL))
    assert found == dict.fromkeys(["C1", "C2", "C3", "C4"], "not tested at this scale")
