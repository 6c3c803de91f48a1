"""Named conventions: which formula a number comes from and what an empty mask scores.

======================  ==========================  ==============================  ============================
value                   ``cpc_sam``                 ``aux_ol``                      ``strict`` (default)
======================  ==========================  ==============================  ============================
dsc                     2i / (a + b)                (2i + 1) / (a + b + 1)          2i / (a + b)
jc                      i / u                       i / u                           i / u
hd95                    pooled (medpy)              larger directed one (MONAI)     pooled (medpy)
asd                     prediction to reference     prediction to reference         prediction to reference
assd                    pooled mean                 pooled mean                     pooled mean
hd                      maximum                     maximum                         maximum
unit of distances       mm; px without a spacing    px always                       mm; px without a spacing
one mask empty: dsc     0                           1 / (a + b + 1)                 0
one mask empty: jc      0                           0                               0
one mask empty: dist.   NaN                         diagonal                        diagonal
both masks empty: dsc   1                           1                               1
both masks empty: jc    1                           1                               1
both masks empty: dist. NaN                         NaN                             0
======================  ==========================  ==============================  ============================

a, b = voxels of prediction and reference, i = of their intersection, u = of their union; "dist." = hd95, asd, assd
and hd. The diagonal is ``norm(shape * spacing)`` of the whole image or volume, a little more than the largest
possible distance. "One mask empty" holds for a missed object and for one that is not there alike. NaN means "no
distance": a mean leaves it out, and every summary says how many were left out, because dropping misses makes a
model look better. The column ``asd`` is the directed distance in every convention, so that it means the same in
every table; the symmetric one stands beside it.

Pixels whose reference is ``types.IGNORED`` are background in prediction and reference alike, in every convention. DSC
and JC are thus those of the other pixels alone. Distances are those between the surfaces of what is left of both; where
both reach into an ignored area, both end at its border.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_samseg.errors import UserError
from lightning_samseg.metrics import functional as F
from lightning_samseg.metrics.functional import BoolArray
from lightning_samseg.types import IGNORED

ConventionName = Literal["cpc_sam", "aux_ol", "strict"]


@dataclass(frozen=True)
class Convention:
    """One column of the table above."""

    name: ConventionName
    dice_smooth: float
    """Added to numerator and denominator of the DSC."""
    hd95: Literal["pooled", "directed"]
    """One percentile over both directions together, or the larger of the two directed percentiles."""
    unit: Literal["mm", "px"]
    """``mm``: distances use the spacing where the case has one; ``px``: never."""
    one_empty: Literal["nan", "diagonal"]
    """Distances when exactly one of the masks is empty."""
    both_empty: Literal["nan", "zero"]
    """Distances when both masks are empty."""


CPC_SAM = Convention("cpc_sam", dice_smooth=0.0, hd95="pooled", unit="mm", one_empty="nan", both_empty="nan")
"""The test script of CPC-SAM (paper: "Implementation Details and Evaluation Metrics"): medpy's dc, jc, hd95 and
(directed) asd per volume, in mm; an empty prediction has NaN distances, which nanmean leaves out (their helper for
2-D images, which their test script does not call, gives -1, and a mean would count it; not ours). medpy raises
where the reference alone is empty (it never is in ACDC); our rule there is DSC 0 and NaN distances, counted like
the others."""

AUX_OL = Convention("aux_ol", dice_smooth=1.0, hd95="directed", unit="px", one_empty="diagonal", both_empty="nan")
"""The authors' AuxOL code (``metric.py``): Dice with smooth 1, and MONAI's Hausdorff distance without a percentile
(column ``hd``), in pixels, capped at ``sqrt(H^2 + W^2)``; only MONAI's infinity for an empty mask can reach the
cap. For two empty masks MONAI gives NaN, which the authors average into a NaN mean; here it is left out and
counted. The paper's Tables 1 and 2 report DSC and HD only; the other columns follow MONAI (hd95, asd, assd) and
medpy (jc)."""

STRICT = Convention("strict", dice_smooth=0.0, hd95="pooled", unit="mm", one_empty="diagonal", both_empty="zero")
"""Ours, the default: CPC-SAM's formulas, but every case counts. A missed object costs DSC 0 and the diagonal, a
correctly empty prediction scores DSC 1 and distance 0, and nothing is dropped."""

CONVENTIONS: Mapping[str, Convention] = MappingProxyType({c.name: c for c in (CPC_SAM, AUX_OL, STRICT)})


class ClassScore(NamedTuple):
    """Scores of one class of one case. Distances are NaN where the convention gives none."""

    class_id: int
    """1..C."""
    dsc: float
    """Fraction in [0, 1]."""
    jc: float
    """Fraction in [0, 1]."""
    hd95: float
    """In mm or px, as all distances."""
    asd: float
    assd: float
    hd: float
    """Full Hausdorff distance."""
    empty_prediction: bool
    empty_reference: bool
    diagonal: float
    """Of the whole image or volume, what ``strict`` gives a miss."""


def find_convention(name: str) -> Convention:
    """The convention of that name.

    Raises:
        UserError: If there is none.
    """
    if name not in CONVENTIONS:
        raise UserError(
            f"Unknown metric convention {name!r}",
            expected=", ".join(CONVENTIONS),
            fix="use `strict` unless you reproduce a paper's table",
        )
    return CONVENTIONS[name]


def distance_unit(
    convention: str, spacing: Sequence[float] | None, volume: bool = False
) -> Literal["mm", "px", "voxel"]:
    """Unit of the distances of a case with this spacing (None = unknown) under a convention."""
    if spacing is None:
        return "voxel" if volume else "px"
    return find_convention(convention).unit


def score_case(
    prediction: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    num_classes: int,
    spacing: Sequence[float] | None = None,
    convention: str = "strict",
    name: str = "the case",
) -> list[ClassScore]:
    """Score one image or volume, class by class, at its original size.

    Args:
        prediction: Integer class ids 0..C, ``(H, W)`` or ``(D, H, W)``. Class 0 is background and is not scored.
        reference: The same for the reference, with ``IGNORED`` on pixels that do not count.
        num_classes: C.
        spacing: Voxel size in mm in array order, one number per axis; None where it is unknown.
        convention: ``cpc_sam``, ``aux_ol`` or ``strict``.
        name: File or case, for messages.

    Returns:
        C scores, of classes 1..C in this order.

    Raises:
        UserError: If shapes differ, an array has not 2 or 3 axes or holds other than class ids 0..C, if the spacing is
            not one positive number per axis, or if the convention is unknown.
    """
    rules = find_convention(convention)
    if prediction.shape == reference.shape and (ignored := reference == IGNORED).any():
        prediction, reference = np.where(ignored, 0, prediction), np.where(ignored, 0, reference)
    _check_pair(prediction, reference, num_classes, spacing, name)
    if rules.unit == "px":
        spacing = None
    return [
        _score_class(class_id, prediction == class_id, reference == class_id, spacing, rules)
        for class_id in range(1, num_classes + 1)
    ]


def _score_class(
    class_id: int, prediction: BoolArray, reference: BoolArray, spacing: Sequence[float] | None, rules: Convention
) -> ClassScore:
    empty_prediction, empty_reference = not prediction.any(), not reference.any()
    sides = np.multiply(prediction.shape, 1.0 if spacing is None else spacing)
    diagonal = float(np.linalg.norm(sides))
    if not (empty_prediction or empty_reference):
        distances = F.surface_distances(prediction, reference, spacing)
        percentile = F.hd95 if rules.hd95 == "pooled" else F.hd95_directed
        hd95, asd, assd, hd = percentile(distances), F.asd(distances), F.assd(distances), F.hd(distances)
    else:
        hd95 = asd = assd = hd = _empty_distance(empty_prediction and empty_reference, diagonal, rules)
    return ClassScore(
        class_id,
        dsc=F.dsc(prediction, reference, rules.dice_smooth),
        jc=F.jc(prediction, reference),
        hd95=hd95,
        asd=asd,
        assd=assd,
        hd=hd,
        empty_prediction=empty_prediction,
        empty_reference=empty_reference,
        diagonal=diagonal,
    )


def _empty_distance(both: bool, diagonal: float, rules: Convention) -> float:
    if both:
        return 0.0 if rules.both_empty == "zero" else nan
    return diagonal if rules.one_empty == "diagonal" else nan


def _check_pair(
    prediction: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    num_classes: int,
    spacing: Sequence[float] | None,
    name: str,
) -> None:
    if prediction.shape != reference.shape or reference.ndim not in (2, 3):
        raise UserError(
            f"{name}: prediction and reference do not match",
            expected="two arrays of one shape, (H, W) or (slices, H, W)",
            found=f"prediction {prediction.shape}, reference {reference.shape}",
            fix="predict at the original size of the image",
        )
    for what, labels in (("prediction", prediction), ("reference", reference)):
        integer = np.issubdtype(labels.dtype, np.integer)
        if not integer or (labels.size and not 0 <= labels.min() <= labels.max() <= num_classes):
            raise UserError(
                f"{name}: the {what} is no map of class ids",
                expected=f"integers 0..{num_classes}",
                found=f"{labels.dtype}" + (f" in {labels.min()}..{labels.max()}" if labels.size else ""),
                fix="set the number of classes of the data set, or correct the mask file",
            )
    if spacing is not None and (len(spacing) != reference.ndim or not all(0 < side < np.inf for side in spacing)):
        raise UserError(
            f"{name}: the spacing does not fit the mask",
            expected=f"{reference.ndim} positive numbers, in mm",
            found=str(tuple(spacing)),
            fix="correct the header of the file, or leave the spacing out to measure in pixels",
        )
