"""Sliders over pictures: what the page gets, what a running kernel adds, and what is refused."""

import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from ipywidgets.widgets.widget import _instances  # all widgets there are
from ipywidgets.widgets.widget_link import Link
from matplotlib.colors import to_rgb
from PIL import Image

from lazylib.book import plot, widgets


def draw(**point):
    figure, ax = plt.subplots(figsize=(2, 1.5))
    ax.plot([0, 1], [0, sum(value for value in point.values() if not isinstance(value, str))])
    return figure


def words(**point):
    return f"a line for {point}"


def page_part(box):
    return [child for child in box.children if widgets.LIVE not in child._dom_classes]


def test_one_slider_has_a_picture_with_words_for_each_value():
    box = widgets.explore(draw, words, tau=[0.1, 1.0, 10.0])
    slider, stack = page_part(box)
    assert slider.description == "τ" and [label for label, _ in slider.options] == ["0.1", "1", "10"]
    assert slider.index == stack.selected_index == 1
    for value, child in zip((0.1, 1.0, 10.0), stack.children, strict=True):
        alt, data = re.search(r'alt="([^"]*)" src="data:image/png;base64,([^"]*)"', child.value).groups()
        assert str(value) in alt
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert picture.format == "PNG" and len(picture.convert("RGB").getcolors(10**6)) <= widgets.COLORS
    assert len({child.value for child in stack.children}) == 3


def test_a_parameter_is_shown_by_its_symbol():
    for name, symbol in {"alpha": "α", "alpha_hat": "√h·α", "m": "m"}.items():
        assert page_part(widgets.explore(draw, words, **{name: [1.0, 2.0]}))[0].description == symbol


def test_the_slider_is_linked_in_the_browser():
    slider, stack = page_part(widgets.explore(draw, words, tau=[1.0, 2.0]))
    links = [(w.source, w.target) for w in _instances.values() if isinstance(w, Link)]
    assert ((slider, "index"), (stack, "selected_index")) in links


def test_two_sliders_reach_every_pair():
    box = widgets.explore(draw, words, alpha=[1.0, 2.0, 3.0], tau=[10.0, 20.0])
    _, _, outer = page_part(box)
    pictures = [[child.value for child in inner.children] for inner in outer.children]
    for alpha, row in zip((1.0, 2.0, 3.0), pictures, strict=True):
        for tau, picture in zip((10.0, 20.0), row, strict=True):
            assert f"{{&#x27;alpha&#x27;: {alpha}, &#x27;tau&#x27;: {tau}}}" in picture
    assert len({picture for row in pictures for picture in row}) == 6


def test_with_a_kernel_any_value_is_computed_and_nonsense_is_answered_by_a_sentence():
    def strict(tau):
        if tau <= 0:
            raise ValueError(f"tau must be > 0, got {tau}.")
        return draw(tau=tau)

    box = widgets.explore(strict, words, tau=[1.0, 2.0])
    live = box.children[-1]
    assert widgets.LIVE in live._dom_classes
    field, shown = live.children[0].children[0], live.children[1]
    field.value = 1.37
    assert "1.37" in shown.value and "<img" in shown.value
    field.value = -1.0
    assert shown.value == "<p>tau must be &gt; 0, got -1.0.</p>"
    assert len(widgets.explore(draw, words, live=False, tau=[1.0, 2.0]).children) == 2


def test_figures_are_closed():
    before = len(plt.get_fignums())
    widgets.explore(draw, words, tau=[1.0, 2.0])
    assert len(plt.get_fignums()) == before


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "one or two sliders, got 0"),
        ({"a": [1, 2], "b": [1, 2], "c": [1, 2]}, "one or two sliders, got 3"),
        ({"tau": [1.0]}, "tau needs at least 2 values, got 1"),
        ({"tau": list(range(61))}, "at most 60 pictures, got 61"),
    ],
)
def test_bad_sliders_get_one_sentence_before_anything_is_drawn(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        widgets.explore(lambda **point: pytest.fail("work has started"), words, **values)


def test_thin_lines_keep_their_colours_beside_an_image():
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3))
    colors, x = plot.COLORS[1:6], np.logspace(-2, 2, 50)
    for k, color in enumerate(colors):
        left.loglog(x, x ** (k / 3), color=color, linewidth=2)
    right.imshow(np.random.default_rng(0).random((60, 60)), cmap="RdBu_r")
    data = re.search('base64,([^"]+)', widgets._picture(figure, "")).group(1)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).reshape(-1, 3)
    for wanted in [(1.0, 1.0, 1.0), *map(to_rgb, colors)]:
        assert (abs(picture / 255 - np.array(wanted)).max(1) < 0.1).any(), wanted
