"""Arguments that stand in groups: each group is a dataclass, and may be given as a plain table instead."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from inspect import Parameter, signature
from typing import Any

from lightning_samseg.errors import BadValueError
from lightning_samseg.moved_arguments import MOVED


def defaults(kind: type) -> dict[str, Any]:
    """Defaults of a method's arguments, also of those that it hands on to the classes that it inherits from."""
    found: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        own = signature(each.__init__).parameters  # type: ignore[misc]
        found |= {name: option.default for name, option in own.items()}
    return {name: default for name, default in found.items() if default is not Parameter.empty}


def with_groups(kind: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a method with their groups as it takes them; what a table leaves out has the method's default."""
    check_groups(kind, arguments)
    known = defaults(kind)
    return {
        name: replace(known[name], **value) if isinstance(value, Mapping) and is_group(known.get(name)) else value
        for name, value in arguments.items()
    }


def check_groups(kind: type, arguments: Mapping[str, Any]) -> None:
    """Raise UserError where one value is given in the place of a group."""
    known = defaults(kind)
    for name, value in arguments.items():
        group = known.get(name)
        if is_group(group) and not isinstance(value, Mapping | type(group)):
            new = MOVED.get(kind.__name__, {}).get(name, f"{name}.{next(iter(vars(group)))}")
            raise BadValueError(
                f"{kind.__name__} has {name} in a group now.",
                expected=f"{name} with {', '.join(vars(group))}",
                found=f"{name} {value}",
                fix=f"set --model.{new}, in a config the same under model.init_args",
            )


def as_tables(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with their groups as plain tables, as configs and checkpoints hold them."""
    return {name: asdict(value) if is_group(value) else value for name, value in arguments.items()}


def is_group(value: Any) -> bool:
    """Whether a value is a group of arguments."""
    return is_dataclass(value) and not isinstance(value, type)
