"""How lazy is the training of your own model: two snapshots of any torch module, compared on your own data.

before = laziness.snapshot(model)                  # at initialization, or at the start of fine-tuning
...                                                # any training loop, any optimizer
report = laziness.compare(before, model, x, y)     # prints as a table
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
