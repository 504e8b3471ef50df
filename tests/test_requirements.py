"""requirements.txt, requirements.lock and pyproject.toml agree; the lock has hashes and names no index."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LIST = (ROOT / "requirements.txt").read_text(encoding="utf-8")
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
# Which build of torch is right depends on the machine; the lock leaves it out, with what it brings for CUDA.
TORCH = {"torch", "torchvision"}
CUDA = re.compile(r"cuda-|nvidia-|triton$")


def statements(text: str) -> list[str]:
    """The lines of a requirements file without comments, continued ones joined."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.replace("\\\n", "").splitlines())
    return [line for line in lines if line]


def name(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name)


def direct() -> dict[str, Requirement]:
    found = [Requirement(line) for line in statements(LIST)]
    assert len({name(each) for each in found}) == len(found), "a package stands twice in requirements.txt"
    return {name(each): each for each in found}


def locked() -> list[Requirement]:
    return [Requirement(line.partition("--hash")[0]) for line in statements(LOCK)]


def test_requirements_are_exact():
    assert TORCH < direct().keys()
    for each in direct().values():
        assert re.fullmatch(r"==[^*,]+", str(each.specifier)), f"{each} allows more than one version"


def test_every_requirement_is_in_the_lock_with_the_same_version():
    """For every Python and every system, that is, without a marker."""
    have = {(name(each), each.specifier) for each in locked() if each.marker is None}
    want = {(key, each.specifier) for key, each in direct().items() if key not in TORCH}
    assert not want - have, "requirements.lock is older than requirements.txt: make lock"


def test_the_lock_holds_exact_versions_with_hashes_and_names_no_index():
    for line in statements(LOCK):
        assert re.fullmatch(r"[^\s=]+==\S+( ; [^-]+)?(\s+--hash=sha256:[0-9a-f]{64})+", line), line
    assert "://" not in LOCK


def test_the_lock_leaves_the_build_of_torch_to_the_machine():
    found = {name(each) for each in locked() if name(each) in TORCH or CUDA.match(name(each))}
    assert not found, "`make lock` must leave these out"


@pytest.mark.parametrize("package", sorted(TORCH))
def test_the_lock_has_what_torch_needs_on_every_machine(package):
    """So that its own build is all that is still to be installed."""
    needs = [Requirement(each) for each in importlib.metadata.requires(package)]
    needs = {name(each) for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})}
    assert needs
    assert not {each for each in needs - TORCH if not CUDA.match(each)} - {name(each) for each in locked()}


def test_the_pins_are_what_the_package_allows():
    """Everything that pyproject.toml names stands in requirements.txt, in a version that it allows."""
    given = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = given["project"]
    asked = given["build-system"]["requires"] + project["dependencies"]
    asked += sum(project["optional-dependencies"].values(), [])
    asked = [Requirement(each) for each in asked]
    assert len({name(each) for each in asked}) == len(asked), "a package stands twice in pyproject.toml"
    for each in asked:
        (pin,) = direct()[name(each)].specifier
        assert pin.version in each.specifier, f"{each}, but requirements.txt has {pin.version}"
