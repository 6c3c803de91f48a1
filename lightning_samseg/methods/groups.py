"""Arguments that stand in groups: each group is a dataclass, and may be given as a plain table instead."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from inspect import signature
from typing import Any


def defaults(kind: type) -> dict[str, Any]:
    """Defaults of a method's arguments, also of those that it hands on to the classes that it inherits from."""
    found: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        own = signature(each.__init__).parameters  # type: ignore[misc]
        found |= {name: option.default for name, option in own.items() if option.default is not option.empty}
    return found


def with_groups(kind: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a method with their groups as it takes them; what a table leaves out has the method's default."""
    if not any(isinstance(value, Mapping) for value in arguments.values()):
        return dict(arguments)
    known = defaults(kind)
    return {
        name: replace(known[name], **value) if isinstance(value, Mapping) and is_group(known.get(name)) else value
        for name, value in arguments.items()
    }


def as_tables(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with their groups as plain tables, as configs and checkpoints hold them."""
    return {name: asdict(value) if is_group(value) else value for name, value in arguments.items()}


def is_group(value: Any) -> bool:
    """Whether a value is a group of arguments."""
    return is_dataclass(value) and not isinstance(value, type)
