"""Scores as a table: one row per case and class, its means, its CSV file."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from lightning_samseg.errors import UserError

METRICS = ("dsc", "jc", "hd95", "asd", "assd", "hd")
"""Columns that are averaged: two fractions, four distances."""


class CaseRow(NamedTuple):
    """Scores of one class of one case, as they stand in ``cases.csv``. NaN = no distance under this convention."""

    case_id: str
    class_id: int
    """1..C."""
    dsc: float
    """Fraction in [0, 1], like ``jc``."""
    jc: float
    hd95: float
    """Distance in ``unit``, like ``asd``, ``assd`` and ``hd``."""
    asd: float
    assd: float
    hd: float
    empty_prediction: bool
    empty_reference: bool
    diagonal: float
    """Of the whole image or volume in ``unit``: with it a report can give both conventions of empty masks."""
    unit: str
    """``mm``, ``px``, or ``voxel`` for a volume of unknown spacing."""
    convention: str


class CaseTable:
    """Rows sorted by case id and class.

    Args:
        rows: One per case and class, in any order; at least one.

    Raises:
        UserError: If there is no row.
    """

    def __init__(self, rows: Iterable[CaseRow]) -> None:
        self.rows = sorted(rows, key=lambda row: (row.case_id, row.class_id))
        if not self.rows:
            raise UserError("No case was scored", fix="check that the validation or test set has labelled images")

    @property
    def unit(self) -> str:
        """``mm``, ``px`` or ``voxel``; raises UserError where the rows hold several."""
        return self._common("unit", "give every case a spacing, or score in px by leaving all spacings out")

    @property
    def convention(self) -> str:
        """Name of the metric convention; raises UserError where the rows hold several."""
        return self._common("convention", "score all cases under one convention")

    def summary(self) -> dict[str, Any]:
        """Means over cases per class, then over classes; what JSON can hold.

        Returns:
            ``dsc`` and ``jc`` as fractions, ``hd95``, ``asd``, ``assd`` and ``hd`` in ``unit``, None where no value
            is left to average (the mean over classes is None as soon as one class has none). ``empty_predictions``,
            ``empty_references``, ``both_empty`` (counted in both former, too) and ``dropped`` (rows without a
            distance, left out of the mean distances) count pairs of case and class. ``per_class`` holds the same
            per class id, as a string; ``num_cases``, ``unit`` and ``convention`` stand beside.

        Raises:
            UserError: If the rows mix units or conventions.
        """
        classes = sorted({row.class_id for row in self.rows})
        per_class = {str(c): _class_summary([row for row in self.rows if row.class_id == c]) for c in classes}
        parts = list(per_class.values())
        means: dict[str, Any] = {metric: _mean([part[metric] for part in parts]) for metric in METRICS}
        counts = {key: sum(part[key] for part in parts) for key in _COUNTS}
        return {
            **means,
            "per_class": per_class,
            "num_cases": len({row.case_id for row in self.rows}),
            **counts,
            "unit": self.unit,
            "convention": self.convention,
        }

    def _common(self, column: str, fix: str) -> str:
        values = sorted({getattr(row, column) for row in self.rows})
        if len(values) > 1:
            example = {value: next(r.case_id for r in self.rows if getattr(r, column) == value) for value in values}
            found = ", ".join(f"{value} (case {case_id})" for value, case_id in example.items())
            raise UserError(f"The cases differ in {column} and have no common mean", found=found, fix=fix)
        return str(values[0])


_COUNTS = ("empty_predictions", "empty_references", "both_empty", "dropped")


def _class_summary(rows: list[CaseRow]) -> dict[str, Any]:
    values = {metric: [getattr(row, metric) for row in rows] for metric in METRICS}
    return {
        **{metric: _mean([v for v in values[metric] if not math.isnan(v)]) for metric in METRICS},
        "num_cases": len(rows),
        "empty_predictions": sum(row.empty_prediction for row in rows),
        "empty_references": sum(row.empty_reference for row in rows),
        "both_empty": sum(row.empty_prediction and row.empty_reference for row in rows),
        "dropped": sum(math.isnan(row.hd95) for row in rows),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None
