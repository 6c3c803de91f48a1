"""Methods of online learning by the names that their arguments had before they stood in groups: short, for tests."""

import inspect
from typing import Any

from lightning_samseg.methods import AuxOl, ZeroShot
from lightning_samseg.moved_arguments import MOVED


def grouped(kind: type, **flat: Any) -> Any:
    """The method with, for instance, ``crop_size=32`` as its ``crop.size``."""
    moved = MOVED[kind.__name__]
    defaults = {
        name: parameter.default
        for each in (AuxOl, kind)
        for name, parameter in inspect.signature(each).parameters.items()
        if kind is not ZeroShot or each is ZeroShot
    }
    groups: dict[str, dict[str, Any]] = {}
    alone = {}
    for name, value in flat.items():
        group, _, option = moved.get(name, name).partition(".")
        if option:
            groups.setdefault(group, {})[option] = value
        else:
            alone[name] = value
    made = {}
    for group, options in groups.items():
        default = defaults[group]
        made[group] = type(default)(**{**vars(default), **options})
    return kind(**made, **alone)
