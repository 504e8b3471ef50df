"""examples/your_model_colab.ipynb runs from top to end, and is installed from the address of _config.yml."""

import nbformat
import pytest
import yaml
from matplotlib import pyplot as plt

from tools.pages import ROOT

NOTEBOOK = ROOT / "examples" / "your_model_colab.ipynb"


def code():
    return [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]


def test_it_runs_and_tells_what_it_says_it_does(capsys):
    names = {}
    for cell in code():
        if "install" not in cell.metadata.get("tags", []):
            exec(compile(cell.source, NOTEBOOK.name, "exec"), names)
    assert 0.5 < names["report"]["linear-model gap"] and names["report"]["loss after"] < 0.1  # it learned features
    assert names["first"].converged and names["first"].ratio > 0
    assert 70 < names["tracker"].records[-1]["step"] <= 100
    assert "κ/(2c)" in (printed := capsys.readouterr().out) and "kernel change" in printed
    assert all(ax.lines or ax.containers for ax in names["figure"].axes)
    plt.close("all")


def test_it_is_installed_from_the_address_of_the_book():
    (install,) = [cell.source for cell in code() if "install" in cell.metadata.get("tags", [])]
    address = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    assert install.startswith(f'REPOSITORY = "{address}"  #') and 'pip install -q "git+{REPOSITORY}"' in install
    assert not any(cell.outputs for cell in code())


def test_without_an_address_it_says_what_to_do(monkeypatch):
    (install,) = [cell.source for cell in code() if "install" in cell.metadata.get("tags", [])]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = install.replace('    %pip install -q "git+{REPOSITORY}"', "    pass").split("\n", 1)[1]
    with pytest.raises(SystemExit, match="Write the address of the project into REPOSITORY"):
        exec(source, {"REPOSITORY": ""})
