"""Scores of segmentations: per pair of masks, per case under a named convention, gathered over ranks."""

from lightning_samseg.metrics.cases import CaseScores
from lightning_samseg.metrics.conventions import ConventionName, score_case
from lightning_samseg.metrics.tables import CaseRow, CaseTable

__all__ = ["CaseRow", "CaseScores", "CaseTable", "ConventionName", "score_case"]
