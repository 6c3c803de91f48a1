"""Options that are filled in from others: a user may say them, too, but not otherwise. Needs no torch."""

import os
import re
from collections.abc import Callable
from typing import Any

from lightning_samseg.errors import UserError, first_line

FILLED_IN: tuple[tuple[str, str, Callable[[Any], Any] | None], ...] = (
    ("seed_everything", "model.init_args.seed", int),
    ("seed_everything", "data.init_args.seed", int),
    ("data.init_args.image_size", "model.init_args.image_size", None),
)
"""Source, target, conversion. Beside them the number of classes, which is known when there are data."""
NUM_CLASSES = "model.init_args.num_classes"


def check_filled_in(given: Any, config: Any) -> None:
    """Refuse what was said otherwise than it will be.

    Args:
        given: Options that the user named, before any was filled in: anything with ``get(dotted name)``.
        config: All options, afterwards; likewise.

    Raises:
        UserError: If two differ, naming the one to set; if there is no seed.
    """
    seed = config.get("seed_everything")
    if isinstance(seed, bool) or seed is None:
        raise UserError(
            "A run has a seed, which is written down.",
            found=f"seed_everything {'null' if seed is None else str(seed).lower()}",
            fix="set --seed_everything to a number, or leave it out for 42",
        )
    for source, target, _ in FILLED_IN:
        value, said, name = config.get(source), given.get(target), _typed(source)
        if said is not None and said != value:
            raise _contradiction(target, said, name, value, f"set --{name} {said}, or leave {_typed(target)} out")


def check_num_classes(given: Any, count: int) -> None:
    """Refuse another number of classes than the data have.

    Args:
        given: As for :func:`check_filled_in`.
        count: Foreground classes of the data.
    """
    said = given.get(NUM_CLASSES)
    if said not in (None, count):
        fix = f"leave {_typed(NUM_CLASSES)} out; where the data have other classes, see data_modules/README.md"
        raise _contradiction(NUM_CLASSES, said, "the data", count, fix)


def unresolved(error: Exception) -> UserError:
    """What to say where a configuration refers to something, ``${...}``, that is not there.

    Args:
        error: OmegaConf's.
    """
    text = first_line(error)
    unknown = re.search(r"Interpolation key '([A-Za-z_]\w*)' not found", text)
    if unknown and (unknown[1] in os.environ or unknown[1].isupper()):
        fix = f"write ${{oc.env:{unknown[1]}}} for the variable of the environment"
    elif "Environment variable" in text:
        fix = "set that variable, or write ${oc.env:NAME,VALUE} with a value for where it is not set"
    else:
        fix = "correct what stands in ${...}: ${oc.env:NAME} is a variable of the environment"
    verb, _, place = str(getattr(error, "full_key", None) or "fit.").partition(".")
    return UserError(
        f"The configuration refers to what is not there{f', at {_typed(place)}' if place else ''}.",
        expected=f"${{oc.env:NAME}} for a variable of the environment, "
        f"${{{verb}.data.init_args.root}} for another entry",
        found=text,
        fix=fix,
    )


def _contradiction(target: str, said: Any, source: str, value: Any, fix: str) -> UserError:
    name = _typed(target)
    return UserError(
        f"{name} is filled in from {source}, and cannot differ from it.",
        expected=f"{name} {value}",
        found=f"{name} {said}",
        fix=fix,
    )


def _typed(name: str) -> str:
    """Name of an option as it is typed."""
    return name.replace(".init_args.", ".")
