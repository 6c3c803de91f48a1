"""Methods by the names that their arguments had before they stood in groups: short, for tests."""

from typing import Any

from lightning_samseg.moved_arguments import MOVED


def grouped(kind: type, **flat: Any) -> Any:
    """The method with, for instance, ``crop_size=32`` as its ``crop.size``."""
    return kind(**tables(kind, **flat))


def tables(kind: type, **flat: Any) -> dict[str, Any]:
    """The arguments for that."""
    moved = next(MOVED[each.__name__] for each in kind.__mro__ if each.__name__ in MOVED)
    found: dict[str, Any] = {}
    for name, value in flat.items():
        group, _, option = moved.get(name, name).partition(".")
        if option:
            found.setdefault(group, {})[option] = value
        else:
            found[name] = value
    return found
