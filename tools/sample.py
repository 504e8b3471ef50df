"""Make lazylib's sample of Fashion-MNIST from the whole set: for each class the first 600 training and 400 test images.

    python -m tools.sample

The sample is fixed: a test compares it with what this gives wherever the whole set is at hand.
"""

import hashlib
import io
import lzma
import os

import numpy as np
from torch import Tensor

from lazylib.problems import images

TRAIN, TEST = 600, 400  # images of each class


def rows() -> np.ndarray:
    """The sample as an array of bytes (10 000, 785), a row an image: class and pixels; classes take turns."""
    whole = images.read("fashion")

    def first(x: Tensor, y: Tensor, count: int) -> np.ndarray:
        of_class = np.stack([np.flatnonzero(y.numpy() == c)[:count] for c in range(10)], axis=1)  # (count, 10)
        chosen = of_class.reshape(-1)
        return np.column_stack([y[chosen].numpy().astype(np.uint8), x[chosen].flatten(1).numpy()])

    return np.concatenate([first(whole.x, whole.y, TRAIN), first(whole.x_test, whole.y_test, TEST)])


def main() -> None:
    ((name, _),) = images.SAMPLE.items()
    found, buffer, path = rows(), io.BytesIO(), images.HERE / name
    np.save(buffer, found)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    os.replace(temporary, path)
    digest = hashlib.sha256(found.tobytes()).hexdigest()
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, SHA-256 of its rows {digest}")


if __name__ == "__main__":
    main()
