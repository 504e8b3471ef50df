"""torchvision, importable also where its compiled operators do not load.

torchvision's wheel on PyPI is built against one build of torch. Beside another build (a CPU build of torch,
say) its compiled operators are silently left out, and `import torchvision` then fails because it describes
two of them that nobody declared: "operator torchvision::nms does not exist". Data sets, transforms and image
classifiers need none of these operators, so declaring the two schemas is enough. Use

    from lazylib.problems._torchvision import torchvision
"""

import importlib.machinery
import importlib.util

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _compiled_operators_load() -> bool:
    """Whether torch knows torchvision's operators, loading them from the installed package if it has them."""
    if hasattr(torch.ops.torchvision, "nms"):
        return True
    package = importlib.util.find_spec("torchvision")
    if package is None:
        raise ModuleNotFoundError("torchvision is not installed: pip install torchvision")
    library = importlib.machinery.PathFinder.find_spec("_C", list(package.submodule_search_locations or ()))
    if library is None:
        return False
    try:
        torch.ops.load_library(library.origin)
    except OSError:
        return False
    return True


def declare_missing_operators() -> torch.library.Library | None:
    """Declare the schemas that `import torchvision` needs; does nothing where the compiled operators load.

    Returns the library that holds the declarations, which vanish with it, or None if nothing had to be
    declared. The declared operators have no implementation: calling one raises NotImplementedError.
    """
    if _compiled_operators_load():
        return None
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    return library


_library = declare_missing_operators()  # kept: the declarations live as long as this object

import torchvision  # noqa: E402  (must follow the declarations)

__all__ = ["declare_missing_operators", "torchvision"]
