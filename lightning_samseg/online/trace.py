"""The trace of a stream: a row per image and a row per prompt, appended as they come, and the table made of them."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.errors import UserError
from lightning_samseg.io.tables import read_table, table_text, write_table
from lightning_samseg.metrics.conventions import score_case
from lightning_samseg.online.ranks import gather_on_first, rank_and_size
from lightning_samseg.online.records import Feedback, Prediction, PromptOutcome
from lightning_samseg.online.walk import Walked
from lightning_samseg.types import Case, StreamItem

COLUMNS = ("sam", "sam_clipped", "aux_ol")
"""What is compared: SAM alone, SAM inside the crops (what clipping alone gains), SAM and AuxOL."""


class ImageRow(NamedTuple):
    """One image, as it stands in ``cases.csv``. NaN (an empty cell): there is no such number."""

    position: int
    """In the stream, from 0."""
    set_name: str
    case_id: str
    slice_index: int
    prompts: int
    feedback: str
    """Who spoke: expert, pseudo or none."""
    alpha: float
    """Mean over the prompts of the weights used."""
    sam_dsc: float
    """Fraction in [0, 1], like every ``dsc``."""
    sam_hd: float
    """Hausdorff distance in pixels, like every ``hd``."""
    sam_clipped_dsc: float
    sam_clipped_hd: float
    aux_ol_dsc: float
    aux_ol_hd: float
    empty_reference: int
    """1 where the image shows no object."""
    sam_empty: int
    """1 where SAM's mask is empty; like every ``empty``."""
    sam_clipped_empty: int
    aux_ol_empty: int


class PromptRow(NamedTuple):
    """One prompt, as it stands in ``prompts.csv``."""

    position: int
    case_id: str
    slice_index: int
    prompt: int
    """Number of the prompt in its image, from 0."""
    kind: str
    """``box`` or ``point``."""
    x: float
    """The point; NaN for a box, which is the crop."""
    y: float
    crop_x0: int
    crop_y0: int
    crop_x1: int
    crop_y1: int
    alpha: float
    """Weight of SAM that was used."""
    alpha_star: float
    """Best weight in hindsight (Eq. 3); NaN where nobody looked."""
    loss: float
    """Of the prediction, before any update; NaN where nothing was learned."""
    replaced: int | None
    """Entry of the online batch that was written, -1 where the batch stayed as it was; None: nothing was learned."""


class Round(NamedTuple):
    """What one image of the stream leaves behind."""

    prediction: Prediction
    """From another process without what the network saw and answered at its input's size."""
    image: ImageRow
    prompts: list[PromptRow]
    sam_seconds: float = 0.0
    """Wall time until SAM's logits were there, from the cache or not; the step's, divided by its images."""
    seconds: float = 0.0
    """Wall time of predicting and learning; the step's, divided by its images."""


def gather_rounds(own: list[Round], sam_seconds: float, seconds: float) -> list[Round]:
    """Bring a step's images from all processes together; all must call this.

    Args:
        own: This process's.
        sam_seconds: Wall time of its step until SAM's logits were there.
        seconds: Wall time of predicting and learning.

    Returns:
        On rank 0, the images of the step in the order of the stream, with rank 0's times; on other ranks none.
    """
    if rank_and_size()[1] > 1:
        own = [each._replace(prediction=each.prediction.on_host()) for each in own]
    rounds = sorted(gather_on_first(own), key=lambda each: each.image.position)
    images = max(1, len(rounds))
    return [each._replace(sam_seconds=sam_seconds / images, seconds=seconds / images) for each in rounds]


def round_of(walked: Walked, item: StreamItem, prompts: NDArray[np.float64], convention: str = "aux_ol") -> Round:
    """Score an image and list its prompts; waits for the device.

    Args:
        walked: What became of the image.
        item: The image.
        prompts: ``(m, 2)`` points or ``(m, 4)`` boxes.
        convention: See :mod:`lightning_samseg.metrics.conventions`.
    """
    case = item["cases"][0]
    rows = prompt_rows(walked.prediction, walked.outcomes, prompts, case)
    image = image_row(walked.prediction, walked.feedback, item["reference"], case, item["set_name"], convention)
    return Round(walked.prediction, image, rows)


def image_row(
    prediction: Prediction,
    feedback: Feedback,
    reference: NDArray[np.uint8],
    case: Case,
    set_name: str,
    convention: str = "aux_ol",
) -> ImageRow:
    """Score an image's prediction as it was made, at the image's size.

    Args:
        prediction: The record.
        feedback: What became known after it.
        reference: uint8 ``(H, W)``, 1 on foreground, ``IGNORED`` where pixels do not count.
        case: Where the image comes from.
        set_name: Set that it counts in.
        convention: See :mod:`lightning_samseg.metrics.conventions`.

    Returns:
        The row.
    """
    sam, clipped, fused = (
        score_case(mask.cpu().numpy().view(np.uint8), reference, 1, None, convention, name=case.source)[0]
        for mask in (prediction.sam, prediction.sam_clipped, prediction.mask)
    )
    alphas = [float(prompt.alpha) for prompt in prediction.prompts]
    return ImageRow(
        position=prediction.position,
        set_name=set_name,
        case_id=case.case_id,
        slice_index=case.slice_index,
        prompts=len(alphas),
        feedback=feedback.source,
        alpha=fmean(alphas) if alphas else math.nan,
        sam_dsc=sam.dsc,
        sam_hd=sam.hd,
        sam_clipped_dsc=clipped.dsc,
        sam_clipped_hd=clipped.hd,
        aux_ol_dsc=fused.dsc,
        aux_ol_hd=fused.hd,
        empty_reference=int(not (reference == 1).any()),
        sam_empty=int(sam.empty_prediction),
        sam_clipped_empty=int(clipped.empty_prediction),
        aux_ol_empty=int(fused.empty_prediction),
    )


def prompt_rows(
    prediction: Prediction,
    outcomes: Sequence[PromptOutcome],
    prompts: NDArray[np.float64],
    case: Case,
) -> list[PromptRow]:
    """List what happened to each prompt of an image.

    Args:
        prediction: The record.
        outcomes: What learning did, one per prompt.
        prompts: ``(m, 2)`` points or ``(m, 4)`` boxes.
        case: Where the image comes from.

    Returns:
        One row per prompt.
    """
    is_point = prompts.shape[1] == 2
    return [
        PromptRow(
            position=prediction.position,
            case_id=case.case_id,
            slice_index=case.slice_index,
            prompt=number,
            kind="point" if is_point else "box",
            x=float(place[0]) if is_point else math.nan,
            y=float(place[1]) if is_point else math.nan,
            crop_x0=prompt.crop.x0,
            crop_y0=prompt.crop.y0,
            crop_x1=prompt.crop.x1,
            crop_y1=prompt.crop.y1,
            alpha=float(prompt.alpha),
            alpha_star=math.nan if outcome.alpha_star is None else float(outcome.alpha_star),
            loss=math.nan if outcome.loss is None else float(outcome.loss),
            replaced=None if outcome.slot is None else int(outcome.slot),
        )
        for number, (prompt, outcome, place) in enumerate(zip(prediction.prompts, outcomes, prompts, strict=True))
    ]


class RowFile:
    """A CSV file that grows row by row and can be cut back to where a checkpoint left it.

    Args:
        path: The file; its folder is made.
        fields: Names of the columns.
        size: Bytes to keep of a file that is there; None starts a new one.

    Raises:
        UserError: If the file is shorter than it was.
    """

    def __init__(self, path: str | Path, fields: Sequence[str], size: int | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if size is None:
            write_table(self.path, fields, [])
            return
        found = self.path.stat().st_size if self.path.is_file() else 0
        if found < size:
            raise UserError(
                f"{self.path} lacks rows that the checkpoint counts on.",
                expected=f"at least {size} bytes",
                found=f"{found} bytes",
                fix="put the file back, or start the stream anew in another folder",
            )
        os.truncate(self.path, size)

    @property
    def size(self) -> int:
        """Bytes of the file, once the disk has them: a checkpoint counts on them."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def append(self, rows: Sequence[Sequence[object]]) -> None:
        """Write rows at the end, in one piece; full float precision, an empty cell for NaN and None."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(table_text(rows))


def read_rows(path: str | Path) -> list[ImageRow]:
    """Read ``cases.csv`` back.

    Args:
        path: The file.

    Returns:
        Its rows in order.
    """
    kinds = ImageRow.__annotations__
    return [ImageRow(**{k: _value(v, kinds[k]) for k, v in row.cells.items()}) for row in read_table(path)]


def read_prompt_alphas(path: str | Path) -> list[float]:
    """Read the weights used at each prompt from ``prompts.csv``, in order."""
    return [float(row.cells["alpha"]) for row in read_table(path)]


def summary(rows: Sequence[ImageRow]) -> dict[str, Any]:
    """The table at the end: means over images, per set and overall.

    Args:
        rows: Of the whole stream.

    Returns:
        ``sam``, ``sam_clipped`` and ``aux_ol``, each ``{"dsc", "hd"}``: a fraction and a distance in pixels, None where
        no image has one; ``mean_alpha`` over prompts; ``images``, ``prompts``, ``rectified`` images,
        ``without_prompt``, ``empty_references`` and ``dropped`` images (without a distance, left out of the mean
        distance); ``empty_predictions`` of each column; and under ``sets`` the same for each set, in the order of the
        stream.
    """
    names = dict.fromkeys(row.set_name for row in rows)
    return {**_means(rows), "sets": {name: _means([row for row in rows if row.set_name == name]) for name in names}}


def format_summary(table: Mapping[str, Any], label: str = "SAM + AuxOL") -> str:
    """The table for the screen: a line per set and one for the whole stream; ``label`` heads the method's column."""
    heads = "".join(f"{name:>20}" for name in ("SAM", "SAM clipped", label))
    lines = [f"{'':<16}{'images':>7}{heads}", f"{'':<23}" + f"{'DSC %':>11}{'HD px':>9}" * 3]
    parts = dict(table["sets"]) if len(table["sets"]) > 1 else {}
    for name, part in {**parts, "all": table}.items():
        cells = "".join(
            (f"{100 * part[c]['dsc']:>11.2f}" if part[c]["dsc"] is not None else f"{'-':>11}")
            + (f"{part[c]['hd']:>9.2f}" if part[c]["hd"] is not None else f"{'-':>9}")
            for c in COLUMNS
        )
        lines.append(f"{name:<16}{part['images']:>7}{cells}")
    return "\n".join(lines)


def _means(rows: Sequence[ImageRow]) -> dict[str, Any]:
    prompts = sum(row.prompts for row in rows)
    means: dict[str, Any] = {
        column: {metric: _mean([getattr(row, f"{column}_{metric}") for row in rows]) for metric in ("dsc", "hd")}
        for column in COLUMNS
    }
    return means | {
        "mean_alpha": sum(row.alpha * row.prompts for row in rows if row.prompts) / prompts if prompts else None,
        "images": len(rows),
        "prompts": prompts,
        "rectified": sum(row.feedback == "expert" for row in rows),
        "without_prompt": sum(row.prompts == 0 for row in rows),
        "empty_references": sum(row.empty_reference for row in rows),
        "empty_predictions": {column: sum(getattr(row, f"{column}_empty") for row in rows) for column in COLUMNS},
        "dropped": sum(any(math.isnan(getattr(row, f"{column}_hd")) for column in COLUMNS) for row in rows),
    }


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else None


def _value(text: str, kind: type) -> Any:
    return math.nan if kind is float and text == "" else kind(text)
