"""Inputs and targets: teacher and student, images, images in two classes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
