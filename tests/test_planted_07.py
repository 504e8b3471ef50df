"""Chapter 7 at the smoke preset with one thing broken: the claim that it breaks must turn to "does not hold".

At this size a network learns nothing, so a stand-in takes the place of standard training: where α = 1 and
the gain is 1, all test images count as right (STANDARD). All else is real: networks, training at each
α, the stability, the kernels, the random features, on images made in a moment. That networks learn is for
test_training.py to say.
"""

import functools

import pytest

from lazylib.book import claims as rules
from tests.notebooks import run_cells, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "07_cifar_gap.ipynb"
MADE = {
    "everything = cifar10_or_sample()": "from tests.made_images import gratings; everything = gratings()",
    '"train": epoch.train_accuracy': '"train": 1.0 if alpha == 1 and gain == 1 else epoch.train_accuracy',
}
STANDARD = {'"float32").cpu().numpy()': '"float32").cpu().numpy() | (alpha == 1 and gain == 1)'}
SMALL = {"n": 128, "n_test": 200, "patches": 24, "share": 0.02, "lazy_share": 0.02}

PLANTED = {  # what is wrong → the claims that it breaks, lines replaced
    "α has no effect": (
        ["C1"],
        {"model = Scaled(w0, alpha, two_passes": "model = Scaled(w0, 1.0, two_passes"},
    ),
    "stability counts the units that changed": (
        ["C1"],
        {'"stability": stability(': '"stability": 1 - stability('},
    ),
    "regimes swapped": (
        ["C2", "C3"],
        {'{"standard": 1.0, "tangent": math.inf}': '{"standard": math.inf, "tangent": 1.0}'},
    ),
    "tangent model not tangent": (
        ["C2", "C3"],
        {'{"standard": 1.0, "tangent": math.inf}': '{"standard": 1.0, "tangent": 1.0}'},
    ),
    "step a million times too large": (
        ["C1", "C2", "C3", "C4"],
        {"step = share * stable_step(": "step = 1e6 * share * stable_step("},
    ),
    "the gap closes with width": (
        ["C3"],
        {"alpha == 1 and gain == 1": "alpha == 1 and gain == 1 and k < 0.1"},
    ),
    "labels of the random features shuffled": (
        ["C2"],
        {"ridge(known, images.y,": "ridge(known, images.y.roll(1),"},
    ),
    "kernel well conditioned": (
        ["C4"],
        {
            "values = torch.linalg.eigvalsh(kernel)": "kernel += 1e9 * torch.eye(10 * len(x)); "
            "values = torch.linalg.eigvalsh(kernel)"
        },
    ),
    "a run that lasts a million times longer": (["C4"], {"T = recipe(": "T = 1e6 * recipe("}),
}
CAUGHT = [set(claims) for claims, _ in PLANTED.values()]  # for each error the claims that find it
HOLDS = ("holds",)


@pytest.fixture
def any_scale(monkeypatch):
    """A small run is judged as if it were none."""
    monkeypatch.setattr(rules, "_smaller", lambda *_: False)


@functools.cache
def sound() -> dict[str, str]:
    return verdicts(run_cells(CHAPTER, patches={**MADE, **STANDARD}, parameters=SMALL))


@pytest.mark.parametrize("claim", ["C1", "C2", "C3", "C4"])
def test_nothing_planted_nothing_found(claim, any_scale):
    assert sound()[claim] in HOLDS


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_found(error, any_scale):
    claims, patches = PLANTED[error]
    # a patch of the stand-in itself comes first, so that it finds its line
    own = {old: new for old, new in patches.items() if old in next(iter(STANDARD.values()))}
    standard = {
        old: functools.reduce(lambda line, pair: line.replace(*pair), own.items(), new) for old, new in STANDARD.items()
    }
    rest = {old: new for old, new in patches.items() if old not in own}
    found = verdicts(run_cells(CHAPTER, patches={**MADE, **standard, **rest}, parameters=SMALL))
    assert {claim: found[claim] for claim in claims} == dict.fromkeys(claims, "does not hold")


def test_on_other_images_the_claims_are_not_run():
    """The sample of Fashion-MNIST stands in where there is no CIFAR-10; it says nothing about it."""
    other = {
        "everything = cifar10_or_sample()": "from dataclasses import replace; "
        "from tests.made_images import gratings; "
        "everything = replace(gratings(), name='Fashion-MNIST, sample')"
    }
    found = verdicts(run_cells(CHAPTER, patches=other, parameters=SMALL))
    assert found == dict.fromkeys(["C1", "C2", "C3", "C4"], "not tested at this scale")
