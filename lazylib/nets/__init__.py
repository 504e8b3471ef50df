"""Networks as functions h(w, x) of a flat vector of parameters, transforms of them, and convolutional modules."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
