"""What the chapters of the book share: parameters, ledger, statistics, figures, sliders. Nothing else imports it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
