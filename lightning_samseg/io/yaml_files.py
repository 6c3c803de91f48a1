"""YAML files that users write, but for the configurations of runs, which jsonargparse reads."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from lightning_samseg.errors import UserError
from lightning_samseg.io.text import read_text


class _KeysOnce:
    """Refuses a key that is given twice, of which YAML would silently take the last."""

    def construct_mapping(self: Any, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key if isinstance(key, Hashable) else None)
        return super().construct_mapping(node, deep)  # type: ignore[misc]


class _Values(_KeysOnce, yaml.SafeLoader):
    """What YAML makes of each value."""


class _Texts(_KeysOnce, yaml.BaseLoader):
    """Every value as it is written: ON stays ON, where YAML makes it true, no is not false, and 1e3 no number."""


def read_yaml(path: str | Path, expected: str, *, texts: bool = False) -> Any:
    """Read a YAML file.

    Args:
        path: The file. That it is there is for the caller to check.
        expected: What it should hold, for messages.
        texts: Take every value, keys too, as the text that is written there.

    Returns:
        Its content; None for an empty file, "" with ``texts``.

    Raises:
        UserError: If it is not UTF-8, not YAML, or a key is given twice; the message names the place.
    """
    try:
        return yaml.load(read_text(path), Loader=_Texts if texts else _Values)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of 2024-02-30, which is no date
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}"
        raise UserError(
            f"{path}{place}: it is not YAML.",
            expected=expected,
            found=" ".join(str(getattr(error, "problem", None) or error).split())[:200],
            fix="correct the place it names; text with ': ', ' #' or a quotation mark belongs in quotes",
        ) from error
