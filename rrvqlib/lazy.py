"""Packages that offer the names of their modules, and import a module when one of them is used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def offer(package: str, **modules: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` (PEP 562) of a package.

    Args:
        package: its `__name__`.
        modules: of the package, each with the names that it offers, separated by blanks.

    Raises:
        ValueError: a name is that of a module, too.
    """
    home = {name: module for module, names in modules.items() for name in names.split()}
    clash = home.keys() & modules.keys()
    if clash:  # once imported, the module would hide the name
        raise ValueError(f"{package} offers {sorted(clash)} and has modules of these names")

    def getattribute(name: str) -> Any:
        if name in home:
            return getattr(import_module(f"{package}.{home[name]}"), name)
        if name in modules:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattribute, lambda: sorted([*home, *modules])
