"""What the tables and figures of a stream compare, and what it is called there. Needs no torch."""

from collections.abc import Iterable, Mapping
from typing import Any

SAM, CLIPPED = "sam", "sam_clipped"
"""SAM alone, and SAM inside the crops: what clipping alone gains.

Beside them a run has one column more, what learned: the fusion of SAM and AuxOL's network, DirectOL's adapted SAM as it
has become, or whatever a method of one's own calls its ``column``.
"""
_LABELS = {SAM: "SAM", CLIPPED: "SAM, clipped", "aux_ol": "SAM + AuxOL", "direct_ol": "DirectOL"}
_COLOURS = {SAM: "#E69F00", CLIPPED: "#999999"}
_COLOUR_OF_LEARNED = "#0072B2"
"""The three are told apart by colour-blind readers."""


def column_label(column: str) -> str:
    """What a column is called in tables and figures; its own name where it has no other."""
    return _LABELS.get(column, column)


def column_colour(column: str) -> str:
    """Of its lines and bars."""
    return _COLOURS.get(column, _COLOUR_OF_LEARNED)


def scored_columns(summary: Mapping[str, Any]) -> list[str]:
    """The columns of a run's ``summary``: its entries with a DSC and a distance."""
    return [name for name, value in summary.items() if isinstance(value, Mapping) and set(value) == {"dsc", "hd"}]


def is_learned(column: str) -> bool:
    """Whether a column shows what learned; a run that is no stream's has the column ``""``."""
    return column not in ("", SAM, CLIPPED)


def learned_column(columns: Iterable[str]) -> str | None:
    """The column of what learned among those that a run has scored; None where it is no stream's."""
    names = list(columns)
    return next(filter(is_learned, names), None) if CLIPPED in names else None
