"""How a stored failure names its exception's class, and how the class is found again without importing anything.

A module's name alone does not identify a class: a script's module is `__main__`, and the same file has another
name when it is imported. So the script's file is recorded too, and names are matched with files both ways.
Namespaces are read directly, without calling `__getattr__` of a module or class, which could import or execute code.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from types import ModuleType
from typing import Any

MAINS = ("__main__", "__mp_main__")
"""Names of the module that is executed; `multiprocessing` uses the second one in a child process."""

_QUALNAME, _MODULE_DICT = vars(type)["__qualname__"], vars(ModuleType)["__dict__"]
_CLASS_DICT, MRO = vars(type)["__dict__"], vars(type)["__mro__"]


def own_names(cls: type) -> Mapping[str, Any]:
    """Return the namespace of a class itself, without calling code of its metaclass."""
    found: Mapping[str, Any] = _CLASS_DICT.__get__(cls)
    return found


def qualified(cls: type) -> str:
    """Return a class's name as a user would write it: with its module, unless built in."""
    module, name = _module(cls), _QUALNAME.__get__(cls)
    return name if module in {"builtins", ""} else f"{module}.{name}"


def address(cls: type) -> dict[str, str]:
    """Return what `find` needs to find the class again, in this process or another."""
    module = _module(cls)
    names = {"module": module, "qualname": _QUALNAME.__get__(cls)}
    if module in MAINS:
        imported_as, file = _main(sys.modules.get(module))
        if imported_as:
            names["module"] = imported_as
        elif file:
            names["file"] = file
    return names


def find(module: str, qualname: str, file: str = "") -> type[Exception] | None:
    """Return the exception class of this address if its module has been imported."""
    for namespace in _namespaces(module, file):
        cls = _walk(namespace, qualname)
        if cls is not None:
            return cls
    return None


def find_by_type(name: str) -> type[Exception] | None:
    """Return the class whose name, as `qualified` returns it, is this one, for records that have only the name."""
    if "." not in name:
        return _walk(_names_of(sys.modules["builtins"]), name)
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:split]))
        if module is not None:
            return _walk(_names_of(module), ".".join(parts[split:]))
    return None


def _module(cls: type) -> str:
    for base in MRO.__get__(cls):
        module = own_names(base).get("__module__")
        if module is not None or base is cls:
            # A class written in C has none in its namespace.
            module = module if isinstance(module, str) else getattr(base, "__module__", "")
            return module if isinstance(module, str) else ""
    return ""


def _names_of(module: object) -> Mapping[str, Any]:
    if not issubclass(type(module), ModuleType):
        return {}
    found: Mapping[str, Any] = _MODULE_DICT.__get__(module)
    return found


def _main(module: object) -> tuple[str, str]:
    """Return the name that the executed module has when it is imported, if known, and its file."""
    names = _names_of(module)
    name, file = getattr(names.get("__spec__"), "name", ""), names.get("__file__")
    name = "" if not isinstance(name, str) or name in MAINS else name
    return name, file if isinstance(file, str) else ""


def _namespaces(module: str, file: str) -> Iterator[Mapping[str, Any]]:
    """Yield the namespaces where the class may be, the likeliest first."""
    main = sys.modules.get("__main__")
    main_name, main_file = _main(main)
    if module in MAINS:
        if not file or (not main_name and PurePath(main_file).name == PurePath(file).name):
            yield _names_of(main)
        for name, imported in list(sys.modules.items()) if file else ():
            if name not in MAINS and _names_file(name, file):
                yield _names_of(imported)
        return
    yield _names_of(sys.modules.get(module))
    if main_name == module or (main_file and not main_name and _names_file(module, main_file)):
        yield _names_of(main)
    # If the class has moved within its package, the package itself has it under its public name.
    while "." in module:
        module = module.rpartition(".")[0]
        yield _names_of(sys.modules.get(module))


def _names_file(module: str, file: str) -> bool:
    """Return whether a module of this name can be loaded from this file: `pkg.jobs` from `…/pkg/jobs.py`."""
    names, parts = tuple(module.split(".")), PurePath(file).with_suffix("").parts
    if parts and parts[-1] == "__init__":
        parts = parts[:-1]
    return parts[-len(names) :] == names


def _walk(names: Mapping[str, Any], qualname: str) -> type[Exception] | None:
    found: object = None
    for name in qualname.split("."):
        found = names.get(name)
        if not issubclass(type(found), type):
            return None
        names = own_names(found)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    return found if issubclass(found, Exception) else None  # type: ignore[arg-type, return-value] # pyright: ignore[reportArgumentType, reportReturnType]
