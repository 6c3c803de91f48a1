"""Names of a package that are imported when they are asked for: many of its readers need no torch."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, where: Mapping[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """Give a package's ``__getattr__`` and ``__all__``.

    Args:
        package: Its name.
        where: Module -> names that it defines, with blanks between them.
    """
    modules = {name: module for module, names in where.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return get, [*modules]
