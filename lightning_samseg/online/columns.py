"""What the tables and figures of a stream compare, and what it is called there. Needs no torch."""

from collections.abc import Iterable

SAM, CLIPPED = "sam", "sam_clipped"
"""SAM alone, and SAM inside the crops: what clipping alone gains."""
LEARNED = {"aux_ol": "SAM + AuxOL", "direct_ol": "DirectOL"}
"""What learned: the fusion of SAM and AuxOL's network, or DirectOL's adapted SAM as it has become; a run has one."""
LABELS = {SAM: "SAM", CLIPPED: "SAM, clipped", **LEARNED}
COLOURS = {SAM: "#E69F00", CLIPPED: "#999999", "aux_ol": "#0072B2", "direct_ol": "#0072B2"}
"""Told apart by colour-blind readers."""


def learned_column(names: Iterable[str]) -> str | None:
    """The column of what learned among a run's names; None where there is none, so that the run is no stream's."""
    return next((column for column in names if column in LEARNED), None)
