"""Scores of a validation or test pass, gathered case by case over all ranks."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_samseg.errors import UserError
from lightning_samseg.metrics.conventions import distance_unit, find_convention, score_case
from lightning_samseg.metrics.tables import METRICS, CaseRow, CaseTable
from lightning_samseg.types import Case

LabelArray = npt.NDArray[Any]


class CaseScores(Metric):
    """DSC, JC, HD95, ASD, ASSD and HD per case and class, at the original size of the images.

    An image is scored when it arrives; the slices of a volume wait on the host until all of them have come, in any
    order, and are then scored in 3-D. Under DDP :meth:`compute` gathers the finished rows; ranks may have any
    number of cases, also none, but the slices of one volume must come to one rank. Use ``update`` and ``compute``,
    not ``forward``, which would score every batch on its own.

    Args:
        num_classes: C, foreground classes.
        convention: ``cpc_sam``, ``aux_ol`` or ``strict``, see :mod:`lightning_samseg.metrics.conventions`.

    Raises:
        UserError: If the convention is unknown.
    """

    full_state_update = False
    scored: list[Tensor]
    arrived: list[Tensor]

    def __init__(self, num_classes: int, convention: str = "strict") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.convention = find_convention(convention).name
        # Records travel as bytes: text, flags and float64 in one gather, untouched by a module's precision and device.
        self.add_state("scored", default=[], dist_reduce_fx="cat")
        self.add_state("arrived", default=[], dist_reduce_fx="cat")
        self._waiting: dict[str, list[_Slice]] = {}

    def update(
        self, cases: Sequence[Case], predictions: Sequence[LabelArray], references: Sequence[LabelArray]
    ) -> None:
        """Take the predictions of one batch.

        Args:
            cases: One per image or slice.
            predictions: Integer class ids 0..C, ``(H, W)`` at each case's original size.
            references: The same for the references.

        Raises:
            UserError: If an array has not the original size of its case, holds other class ids, or the slices of a
                volume contradict each other; the message names the file.
        """
        for case, prediction, reference in zip(cases, predictions, references, strict=True):
            _check_slice(case, prediction, reference)
            self._append("arrived", [_Arrival(case.case_id, case.slice_index, case.num_slices)])
            if case.num_slices == 1:
                # A spacing with three numbers marks a volume that happens to have one slice.
                is_volume = case.spacing is not None and len(case.spacing) == 3
                self._score(case, *((prediction[None], reference[None]) if is_volume else (prediction, reference)))
                continue
            slices = self._waiting.setdefault(case.case_id, [])
            slices.append(_Slice(case, prediction.astype(np.uint8), reference.astype(np.uint8)))
            if len({s.case.slice_index for s in slices}) == case.num_slices:
                self._score(case, *_stack(self._waiting.pop(case.case_id)))

    def compute(self) -> CaseTable:
        """The table of all cases of all ranks; every rank gets the same one, or raises the same error.

        Raises:
            UserError: If no case came, a case or slice came twice, a volume lacks slices, or its slices came to several
                ranks.
        """
        rows = [CaseRow(*record) for record in _decode(self.scored, _ROW)]
        _check_complete(
            [_Arrival(*record) for record in _decode(self.arrived, _ARRIVAL)], {row.case_id for row in rows}
        )
        return CaseTable(rows)

    def reset(self) -> None:
        """Forget all cases, also the slices that wait."""
        super().reset()
        self._waiting = {}

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the rows of all ranks; called by ``compute``."""
        # torchmetrics gives a rank without cases a 1-D float tensor, and gathering unlike tensors aborts or hangs.
        for name, record in (("scored", _ROW), ("arrived", _ARRIVAL)):
            if not len(getattr(self, name)):
                setattr(self, name, [torch.empty((0, record.itemsize), dtype=torch.uint8, device=self.device)])
        super().sync(*args, **kwargs)

    def _score(self, case: Case, prediction: LabelArray, reference: LabelArray) -> None:
        scores = score_case(prediction, reference, self.num_classes, case.spacing, self.convention, name=case.source)
        unit = distance_unit(self.convention, case.spacing, volume=case.num_slices > 1)
        self._append("scored", [CaseRow(case.case_id, *score, unit, self.convention) for score in scores])

    def _append(self, name: str, records: Sequence[tuple[Any, ...]]) -> None:
        dtype = _ROW if name == "scored" else _ARRIVAL
        table = np.array(records, dtype).view(np.uint8).reshape(len(records), dtype.itemsize)
        getattr(self, name).append(torch.from_numpy(table).to(self.device))


class _Slice(NamedTuple):
    case: Case
    prediction: LabelArray
    reference: LabelArray


class _Arrival(NamedTuple):
    case_id: str
    slice_index: int
    num_slices: int


_ID_LENGTH = 128
_ROW = np.dtype(
    [("case_id", f"U{_ID_LENGTH}"), ("class_id", "i4")]
    + [(metric, "f8") for metric in METRICS]
    + [("empty_prediction", "?"), ("empty_reference", "?"), ("diagonal", "f8"), ("unit", "U5"), ("convention", "U8")]
)
_ARRIVAL = np.dtype([("case_id", f"U{_ID_LENGTH}"), ("slice_index", "i4"), ("num_slices", "i4")])


def _decode(state: list[Tensor] | Tensor, dtype: np.dtype[Any]) -> list[tuple[Any, ...]]:
    """Records of a state: a list of tables on this rank, one table after the gather."""
    tables = [state] if isinstance(state, Tensor) else state
    return [record for table in tables for record in np.ascontiguousarray(table.cpu()).view(dtype).ravel().tolist()]


def _check_slice(case: Case, prediction: LabelArray, reference: LabelArray) -> None:
    for what, labels in (("prediction", prediction), ("reference mask", reference)):
        if labels.shape != tuple(case.original_size):
            raise UserError(
                f"{case.source}: the {what} has not the size of the image",
                expected=str(tuple(case.original_size)),
                found=str(labels.shape),
                fix="check that the mask belongs to this image and that predictions are resized back",
            )
    if not 0 < len(case.case_id) <= _ID_LENGTH:
        fix = "give the case a shorter name"
        raise UserError(f"{case.source}: case id {case.case_id!r} must have 1 to {_ID_LENGTH} characters", fix=fix)
    if not 0 <= case.slice_index < case.num_slices:
        raise UserError(
            f"{case.source}: slice {case.slice_index} of a volume of {case.num_slices} slices",
            fix="number the slices of a volume from 0",
        )


def _stack(slices: list[_Slice]) -> tuple[LabelArray, LabelArray]:
    """Volume ``(slices, H, W)`` of prediction and reference, in the order of the slices."""
    first = slices[0].case
    for key in ("original_size", "num_slices", "spacing"):
        other = next((s.case for s in slices if getattr(s.case, key) != getattr(first, key)), None)
        if other is not None:
            raise UserError(
                f"The slices of volume {first.case_id} differ in {key}",
                found=f"{getattr(first, key)} in {first.source}, {getattr(other, key)} in {other.source}",
                fix="check that the slices belong to one volume",
            )
    ordered = sorted(slices, key=lambda s: s.case.slice_index)
    return np.stack([s.prediction for s in ordered]), np.stack([s.reference for s in ordered])


def _check_complete(arrivals: Iterable[_Arrival], scored: set[str]) -> None:
    counts = Counter((arrival.case_id, arrival.slice_index) for arrival in arrivals)
    twice = sorted(key for key, count in counts.items() if count > 1)
    if twice:
        raise UserError(
            f"{len(twice)} case(s) or slice(s) came more than once, first: case {twice[0][0]}, slice {twice[0][1]}",
            expected="every case once",
            fix="make case ids unique, and use a sampler that pads no batch (trainer.use_distributed_sampler: false)",
        )
    sizes = {arrival.case_id: arrival.num_slices for arrival in arrivals}
    missing = {
        case_id: [index for index in range(size) if (case_id, index) not in counts]
        for case_id, size in sorted(sizes.items())
        if case_id not in scored
    }
    if not missing:
        return
    case_id, indices = next(((c, i) for c, i in missing.items() if i), next(iter(missing.items())))
    if indices:
        shown = ", ".join(map(str, indices[:10])) + (", ..." if len(indices) > 10 else "")
        raise UserError(
            f"{len(missing)} volume(s) are incomplete, first: case {case_id}",
            expected=f"{sizes[case_id]} slices",
            found=f"{sizes[case_id] - len(indices)}; missing slice(s) {shown}",
            fix="predict all slices of a volume: no drop_last, no limit_test_batches inside a volume",
        )
    raise UserError(
        f"The slices of {len(missing)} volume(s) came to several ranks, first: case {case_id}",
        fix="use a sampler that keeps the slices of a volume on one rank",
    )
