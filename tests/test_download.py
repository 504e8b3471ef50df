"""The notebooks for download: every role and directive becomes plain Markdown; what is not known is refused."""

import pytest

from tests.made_notebooks import code, notebook, text
from tools import download


class Book:
    figure = {"fig-a": "2.1"}.__getitem__
    equation = {"eq-a": "7"}.__getitem__
    title = {"/02_b": "The other chapter"}.__getitem__


@pytest.mark.parametrize(
    ("myst", "plain"),
    [
        ("See {numref}`fig-a`, ({eq}`eq-a`).", "See figure 2.1, ((7))."),
        ("{numref}`here <fig-a>`", "figure 2.1"),
        ("{cite:t}`COB` say", "Chizat et al. (2019) say"),
        ("said {cite:p}`COB, GELU`", "said (Chizat et al., 2019; Hendrycks and Gimpel, 2016)"),
        ("{doc}`/02_b` and {doc}`that <02_b>`", "[The other chapter](02_b.ipynb) and [that](02_b.ipynb)"),
        ("(here)=\n## Title", "## Title"),
        ("$$\nx\n$$ (eq-a)\nmore", "$$\nx\n\\tag{7}\n$$\nmore"),
        ("```{math}\n:label: eq-a\nx\n```", "$$\nx \\tag{7}\n$$"),
        ("```{math}\nx\n```\ny", "$$\nx\n$$\ny"),
        (
            "```{admonition} Solution\n:class: dropdown\n\nBy {eq}`eq-a`.\n```\nend",
            "<details><summary>Solution</summary>\n\nBy (7).\n\n</details>\nend",
        ),
        (":::{warning}\nNot run:\n\n- why\n:::", "> **Warning.**\n> Not run:\n>\n> - why"),
        ("`{cite` is code, $\\{x\\}`$ too", "`{cite` is code, $\\{x\\}`$ too"),
        ("why: `` a {doc}`b` `` and {eq}`eq-a`", "why: `` a {doc}`b` `` and (7)"),
        ("```python\n{}\n```", "```python\n{}\n```"),
    ],
)
def test_plain(myst, plain):
    assert download.plain(myst, Book) == plain


@pytest.mark.parametrize("myst", ["{glue:text}`a`", "```{tableofcontents}\n```", ":::{unknown}\nx\n:::"])
def test_what_is_not_known_is_refused(myst):
    with pytest.raises(ValueError, match="there is no plain Markdown for '"):
        download.plain(myst, Book)


def test_a_notebook_lists_the_works_it_cites_once_and_shows_its_captions():
    figure = code("plot()")
    figure.metadata["mystnb"] = {"figure": {"name": "fig-a", "caption": "As in {eq}`eq-a`."}}
    cells = [
        text("{cite:t}`COB` and {cite:t}`COB`"),
        figure,
        text("```{bibliography}\n:filter: docname in docnames\n```"),
    ]
    before, drawn, caption, works = download.resolved(notebook(*cells), Book).cells
    assert before.source == "Chizat et al. (2019) and Chizat et al. (2019)" and drawn.source == "plot()"
    assert caption.source == "*Figure 2.1.* As in (7)."
    assert (
        works.source.startswith("- Lénaïc Chizat, Edouard Oyallon, and Francis Bach") and works.source.count("\n") == 0
    )
