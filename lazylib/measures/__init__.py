"""What is measured of a net and of a run: κ, kernels, curvature, landscapes, fixed features."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
