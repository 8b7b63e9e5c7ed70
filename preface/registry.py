"""Classes that are known by being there: a module in the right package is all that it takes."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

Kind = TypeVar("Kind")


def subclasses(parent: type[Kind], package: str) -> list[type[Kind]]:
    """Every class made from `parent`, near or far, once all modules of the package are imported; in that order."""
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")
    found: list[type[Kind]] = []
    pending = [*parent.__subclasses__()]
    while pending:
        kind = pending.pop(0)
        found.append(kind)
        pending += kind.__subclasses__()
    return found
