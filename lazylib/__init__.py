"""Primitives for measuring lazy training in differentiable programming.

A *problem* gives inputs, targets and a loss; a *net* is a function h(w, x); an *objective* joins the two; a *flow*
moves w; a *measure* says how lazily; a *sweep* repeats it over a grid. The rooms are named after these words, and
`lazylib.book` is what the chapters of the book share beside them; `lazylib.laziness` asks it all of a model of your
own. What a reader needs first can be had from here.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
