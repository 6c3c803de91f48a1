"""The same runs under the other convention: CPC-SAM's and ``strict`` score alike wherever neither mask is empty.

They differ in the distances of empty masks alone, see the table in :mod:`lightning_samseg.metrics.conventions`. Which
these are, and the diagonal that ``strict`` gives a miss, stands in ``cases.csv``; so a test is made once.
"""

from dataclasses import replace

import numpy as np

from lightning_samseg.reports.groups import Block
from lightning_samseg.reports.runs import FRACTIONS, RunRecord, Scores

OTHER = {"cpc_sam": "strict", "strict": "cpc_sam"}


def under_other(block: Block) -> Block | None:
    """A table's runs under the other convention of ``OTHER``, as a table of its own.

    Args:
        block: Of any kind and convention.

    Returns:
        None where the convention has no other, or a run is from before its ``cases.csv`` had diagonals.
    """
    convention = OTHER.get(block.facts["convention"])
    runs = [run for variant in block.variants for run in variant.runs]
    if block.kind != "cases" or convention is None or any(run.scores[""].diagonals is None for run in runs):
        return None
    variants = tuple(
        replace(variant, runs=tuple(_rescored(run, convention) for run in variant.runs)) for variant in block.variants
    )
    facts = {**block.facts, "convention": convention}
    return replace(block, title=f"{block.title}, convention {convention}", facts=facts, variants=variants)


def under(block: Block, convention: str) -> Block:
    """A table under a convention where that can be had, else as it is."""
    other = under_other(block) if block.facts["convention"] != convention else None
    return other if other is not None and other.facts["convention"] == convention else block


def _rescored(run: RunRecord, convention: str) -> RunRecord:
    return replace(run, scores={"": _under(run.scores[""], convention)})


def _under(scores: Scores, convention: str) -> Scores:
    assert scores.empty is not None
    assert scores.diagonals is not None
    prediction, reference = scores.empty
    missed, none = (np.nan, np.nan) if convention == "cpc_sam" else (scores.diagonals, 0.0)
    values = {
        metric: array
        if metric in FRACTIONS
        else np.where(prediction & reference, none, np.where(prediction | reference, missed, array))
        for metric, array in scores.values.items()
    }
    return replace(scores, values=values)
