"""Chapter 13 at the smoke preset: the measures tell lazy runs from others, not so where the runs are the same."""

import functools
import sys
import types

import numpy as np
import pytest
import torch
import xarray as xr
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
    alpha, first = found["p"].alpha, {key: each[0].ratio for key, each in found["predictions"].items()}
    for name in ("residual net", "transformer"):  # κ is proportional to 1/α
        assert first[name, alpha] == pytest.approx(first[name, 1.0] / alpha, rel=0.05)


def test_the_scales_are_those_of_the_stored_results():
    found = sound()["scales"]
    h = load("10_phases_cpu").isel(h=-1)
    change = np.exp(np.log(h.kernel_change).mean("seed"))
    row = found["kernel change", "chapter 10, 300 wide"]
    assert [float(row[k]) for k in ("lazy", "feature learning")] == pytest.approx(
        [change.isel(alpha_hat=i).item() for i in (-1, 0)], rel=0.06
    )
    between = change.values[np.abs(np.log(change.values)).argmin()]
    assert float(row["between"]) == pytest.approx(between, rel=0.06) and 0.5 < between < 2
    vgg = load("07_runs_gpu").stability.sel(setting="vgg11 k=1.0 α=1.0 square gain=1.0 augmented").item()
    row = found["1 − stability", "chapter 7, VGG-11, k=1.0"]
    assert float(row["feature learning"]) == pytest.approx(1 - vgg, rel=0.06)
    for values in found.values():
        given = [float(values[k]) for k in ("lazy", "between", "feature learning") if values.get(k)]
        assert given == sorted(given) and len(given) >= 2


def load(name):
    return xr.load_dataset(ROOT / "results" / f"{name}.nc", engine="h5netcdf")


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
