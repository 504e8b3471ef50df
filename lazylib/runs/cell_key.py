"""What made a result: a digest of code and data by their content, the same in every process.

The key of a stored cell (`lazylib.runs.sweep`) is made here. Functions and classes of the reader count by their
bytecode and by the globals they use, modules of the reader by all that is in them (or by the attributes used, where
these can be told), all else by its data; installed packages by name, lazylib by its files as a whole. What looks names
up by their text (`eval`, `import_module`, `sys.modules`, …) hides what it uses, and is refused.
"""

from __future__ import annotations

import builtins
import contextlib
import copyreg
import dis
import functools
import importlib
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .files import digest

_SCALARS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_CODE = (
    "co_code",
    "co_consts",
    "co_names",
    "co_varnames",
    "co_freevars",
    "co_cellvars",
    "co_flags",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
    "co_exceptiontable",
)  # no file, no line
_OF_A_MODULE = (  # what Python puts there: where it lies, not what it does
    "__builtins__ __cached__ __doc__ __file__ __loader__ __name__ __package__ __path__ __spec__".split()
)
_OF_A_CLASS = (
    "__annotations__ __abstractmethods__ __classcell__ __dataclass_fields__ __dataclass_params__ __dict__ __doc__ "
    "__firstlineno__ __module__ __qualname__ __static_attributes__ __weakref__ _abc_impl".split()
)
_HIDING = {"builtins": {"eval", "exec", "globals"}, "sys": {"modules"}}  # module → what looks names up by their text
_ALWAYS = {"__import__", "import_module", "__builtins__", "__globals__"}  # so does this, and nothing else has its name
_HIDDEN = (eval, exec, globals, __import__, importlib.import_module, importlib.__import__, sys.modules, vars(builtins))


def identity(value: Any, seen: dict, name: str = "run") -> bytes:
    """Digest of a value by its content, the same in every process: no address, file name or line number."""
    kind = type(value)
    head = f"{kind.__module__}.{kind.__qualname__}".encode()
    if kind in _SCALARS:
        return digest(head, value if kind is bytes else repr(value).encode())
    if id(value) not in seen:
        seen[id(value)] = (b"being visited, %d" % len(seen), value)  # ends cycles; held, its id stays unique
        parts = []
        for part in _content(value, name):
            name = part if type(part) is str else name  # in a pair (name, value), for the error message
            parts.append(identity(part, seen, name))
        seen[id(value)] = (digest(head, *parts), value)
    return seen[id(value)][0]


def _content(value: Any, name: str) -> Sequence:
    """What a value consists of: functions and classes of the reader by their code, all else by its data."""
    if any(value is each for each in _HIDDEN):  # whatever it is called here
        raise _hides(name, getattr(value, "__name__", "all modules or builtins"))
    if type(value) in (list, tuple):
        return value
    if type(value) in (dict, types.MappingProxyType):
        return list(value.items())
    if type(value) in (set, frozenset):
        return sorted(identity(entry, {}, name) for entry in value)
    if type(value) is np.ndarray or isinstance(value, np.generic):  # a subclass has more than its numbers
        return [repr(value.dtype), value.shape, value.tolist() if value.dtype.hasobject else value.tobytes()]
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)  # whatever its strides
        what = [str(value.dtype), tuple(value.shape), value.device.type, value.requires_grad]
        return [*what, flat.view(torch.uint8).numpy().tobytes()]  # numpy has no bfloat16
    if isinstance(value, types.ModuleType):
        if _elsewhere(value.__name__):
            return [value.__name__]
        members = [(key, member) for key, member in sorted(vars(value).items()) if key not in _OF_A_MODULE]
        return [value.__name__, members]
    if isinstance(value, types.CodeType):
        return [getattr(value, attribute) for attribute in _CODE]
    if isinstance(value, types.FunctionType):
        closure = [cell.cell_contents for cell in value.__closure__ or ()]
        data = [value.__defaults__, value.__kwdefaults__, closure, vars(value)]
        if not _elsewhere(value.__module__):
            return [value.__code__, *data, sorted(_globals_used(value).items())]
        # A function made by a call, say a transform of a net, carries data of ours.
        return [value.__module__, value.__qualname__, *(data if "<locals>" in value.__qualname__ else ())]
    if isinstance(value, type) and _elsewhere(value.__module__):
        return [value.__module__, value.__qualname__]
    if isinstance(value, type):
        members = [(key, member) for key, member in sorted(vars(value).items()) if key not in _OF_A_CLASS]
        return [value.__qualname__, value.__bases__, type(value), members]
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    if isinstance(value, functools.cached_property):
        return [value.func]
    if hasattr(value, "__wrapped__"):  # lru_cache, staticmethod, classmethod
        return [value.__wrapped__]
    try:  # any other object by what pickle would write of it
        registered = copyreg.dispatch_table.get(type(value))
        reduced = registered(value) if registered else value.__reduce_ex__(2)
    except Exception:
        raise TypeError(
            "what run uses must have a value by which to know stored cells again, but "
            f"{name!r} is a {type(value).__name__}: make it inside run, or sweep without store"
        ) from None
    if isinstance(reduced, str):
        return [getattr(value, "__module__", None), reduced]
    return [list(part) if isinstance(part, Iterator) else part for part in reduced]


def _globals_used(function: types.FunctionType) -> dict[str, Any]:
    """Globals that a function and those defined in it load, and modules they import; of namespaces and modules, only
    attributes. Raises TypeError for code that looks names up by their text."""
    used: dict[str, Any] = {}
    codes = [function.__code__]
    for code in codes:  # grows while we read it
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    words = {word for code in codes for word in (*code.co_names, *code.co_consts) if type(word) is str}
    called = {key: value for key, value in function.__globals__.items() if key in words}
    spoken = words | {value.__name__ for value in called.values() if isinstance(value, types.ModuleType)}
    hidden = {f"{module}.{name}" for module in _HIDING.keys() & spoken for name in _HIDING[module] & words}
    if hidden := hidden | (_ALWAYS & words):
        raise _hides(function.__qualname__, min(hidden))
    for code in codes:
        steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
        for k, (step, then) in enumerate(zip(steps, steps[1:], strict=False)):
            name = step.argval
            if step.opname == "IMPORT_NAME":  # after the loads of its level and of the names from it
                used |= _imported(name, steps[k - 1].argval, steps[k - 2].argval, function.__globals__)
                continue
            loads = "GLOBAL" in step.opname or step.opname == "LOAD_NAME"
            if loads and name in _HIDING["builtins"] and name not in function.__globals__:
                raise _hides(function.__qualname__, name)
            if not loads or name not in function.__globals__:
                continue
            value = function.__globals__[name]
            own = isinstance(value, types.ModuleType) and not _elsewhere(value.__name__)
            attribute = then.opname in ("LOAD_ATTR", "LOAD_METHOD") and hasattr(value, then.argval)
            if attribute and (own or type(value) is types.SimpleNamespace):
                used[f"{name}.{then.argval}"] = getattr(value, then.argval)
            else:
                used[name] = value
    return used


def _hides(who: str, what: str) -> TypeError:
    return TypeError(
        f"what run uses must be told from its code, but {who} may call {what}: "
        "use names and plain imports, or sweep without store"
    )


def _imported(name: str, names: tuple[str, ...] | None, level: int, namespace: dict) -> dict[str, Any]:
    """The modules of the reader that an import inside a function loads, if they are there; each counts as a whole."""
    if not level and _elsewhere(name):
        return {}
    name = "." * level + name
    dot = "" if name.endswith(".") else "."
    wanted = [name, *(f"{name}{dot}{sub}" for sub in names)] if names else [name, name.partition(".")[0]]
    found = []
    for each in wanted:
        with contextlib.suppress(ImportError):  # run itself may do without it; a name need not be a submodule
            found.append(importlib.import_module(each, namespace.get("__package__")))
    return {f"import {module.__name__}": module for module in found if not _elsewhere(module.__name__)}


def _elsewhere(module: str | None) -> bool:
    """Is this a module of Python, of an installed package, or of lazylib (whose files count as a whole)?"""
    package = (module or "builtins").partition(".")[0]
    if package == "__main__":  # wherever its file lies, as that of pytest does among the installed packages
        return False
    if package == __name__.partition(".")[0] or package in sys.stdlib_module_names:
        return True
    found = sys.modules.get(package)
    places = [getattr(found, "__file__", None) or "", *getattr(found, "__path__", ())]
    return any({"site-packages", "dist-packages"} & set(Path(place).parts) for place in places)
