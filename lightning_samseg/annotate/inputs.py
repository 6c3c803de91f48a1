"""What clients send about an image, checked. Needs no torch."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.annotate.workspace import Known
from lightning_samseg.errors import UserError

MOST_PROMPTS = 256
LARGEST = 1e6
"""Of a coordinate."""


def places_of(prompts: Any, kind: str) -> NDArray[np.float64]:
    """Prompts as an array: ``(m, 4)`` boxes or ``(m, 2)`` points.

    Args:
        prompts: What was sent, see ``annotate.http``.
        kind: ``box`` or ``point``.

    Raises:
        UserError: If they are no prompts of this kind.
    """
    count = 4 if kind == "box" else 2
    rows = []
    if not isinstance(prompts, list) or len(prompts) > MOST_PROMPTS:
        raise UserError("These are no prompts.", expected=f"a list of at most {MOST_PROMPTS}", fix="send a list")
    for each in prompts:
        values = each.get(kind) if isinstance(each, dict) else None
        if not isinstance(values, list) or len(values) != count or not all(map(_is_number, values)):
            raise UserError(
                f"This workspace takes {kind} prompts.",
                expected=f"{{'{kind}': [{'x0, y0, x1, y1' if count == 4 else 'x, y'}]}} with finite numbers",
                found=str(each)[:200],
                fix=f"draw a {kind}; the kind is chosen when a workspace is made, with --prompt",
            )
        rows.append(values)
    return np.array(rows, np.float64).reshape(-1, count)


def effort_of(value: Any) -> dict[str, float]:
    """Numbers of an expert's work, as far as they are any."""
    numbers: dict[str, Any] = value if isinstance(value, dict) else {}
    names = [name for name in ("seconds", "strokes", "undos") if _is_number(numbers.get(name))]
    return {name: numbers[name] for name in names if numbers[name] >= 0}


def is_repeated(known: Known, revision: int, prompts: Any, mask: Any) -> bool:
    """Whether an accept is the image's last one once more."""
    return known.answered == revision and known.accepted == mask and known.prompts == prompts


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= LARGEST
