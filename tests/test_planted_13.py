"""Chapter 13 at the smoke preset: the measures tell lazy runs from others, not so where the runs are the same."""

import functools
import sys
import types

import pytest
import torch
from torch import nn

from tests.notebooks import run_cells
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "13_your_model.ipynb"
SHORT = {"steps": 30, "n": 16}
NO_KAPPA = {"for alpha in (1.0, p.alpha)}": "for alpha in ()}"}  # the slow part, of which these tests ask nothing

PLANTED = {  # what is wrong → lines replaced
    "the same run twice": {"resnets(seed, p.alpha)": "resnets(seed, 1.0)"},
}


@functools.cache
def sound():
    return run_cells(CHAPTER, parameters=SHORT)


def test_nothing_planted_every_measure_tells_lazy_runs_apart():
    found = sound()
    assert found["told"]["linear-model gap"] and found["told"]["kernel change"]
    first, lazy = (each[0] for each in found["predictions"].values())
    assert lazy.ratio == pytest.approx(first.ratio / found["p"].alpha, rel=0.05)  # κ is proportional to 1/α


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_found(error):
    assert not any(run_cells(CHAPTER, patches={**NO_KAPPA, **PLANTED[error]}, parameters=SHORT)["told"].values())


def test_it_runs_on_a_model_of_the_readers_own(monkeypatch, capsys):
    module = types.ModuleType("a_readers_module")

    def make(seed):
        x = torch.randn(8, 3)

        def train(model):
            with torch.no_grad():
                model[0].weight.mul_(1.5)

        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), x, x[:, 0], train

    module.make = make
    monkeypatch.setitem(sys.modules, "a_readers_module", module)
    found = run_cells(CHAPTER, patches=NO_KAPPA, parameters={**SHORT, "steps": 8, "model": "a_readers_module:make"})
    own = found["reports"]["yours", "a_readers_module:make"]
    assert len(own) == 3 and all(report["displacement"] > 0 for report in own)
    assert "‖w − w0‖/‖w0‖" in capsys.readouterr().out
