"""Every public function of lazylib shows an example, which runs; every class shows one or names who makes it."""

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

from lazylib import book

ROOMS = ("nets", "problems", "objectives", "flows", "measures", "laziness", "runs")
NOT_RUN = {"cifar10_or_sample"}  # it may load a set


def public():
    for room in ROOMS:
        module = importlib.import_module(f"lazylib.{room}")
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                yield pytest.param(module, name, thing, id=f"{room}.{name}")


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(book.__path__)])
def test_the_examples_of_the_book_run(name):
    assert doctest.testmod(importlib.import_module(f"lazylib.book.{name}")).failed == 0


@pytest.mark.parametrize(("module", "name", "thing"), public())
def test_it_shows_an_example_that_runs(module, name, thing):
    thing = inspect.unwrap(thing)
    text = inspect.getdoc(thing) or ""
    assert not re.search(r"^-{4,}$", text, re.MULTILINE), "sections are written as `Args:`, `Returns:`"
    if inspect.isclass(thing) and ">>>" not in text:
        made_by = re.findall(r"`+([a-z_]+)`+", text.split("\n\n")[0])
        assert any(hasattr(module, function) for function in made_by), "no example, and no function that makes it"
        return
    (found,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs={})
    assert found.examples, "no example"
    results = doctest.DocTestRunner().run(found)
    assert results.failed == 0
