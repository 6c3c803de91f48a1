"""Scores of a stream: a row per image, a row per prompt, and the table made of them."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.metrics.conventions import score_case
from lightning_samseg.online.columns import CLIPPED, SAM, column_label, scored_columns
from lightning_samseg.online.predictions import Feedback, Prediction, PromptOutcome
from lightning_samseg.types import Case


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
    learned_dsc: float
    """Of what learned: in the file under the name of the run's own column, see ``online.columns``."""
    learned_hd: float
    empty_reference: int
    """1 where the image shows no object."""
    sam_empty: int
    """1 where SAM's mask is empty; like every ``empty``."""
    sam_clipped_empty: int
    learned_empty: int


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
    updates: int
    """Updates of the network that followed, for this prompt and those learned from together with it."""
    skipped: int
    """Updates that ``learning.seconds_per_image`` left no time for."""


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
        learned_dsc=fused.dsc,
        learned_hd=fused.hd,
        empty_reference=int(not (reference == 1).any()),
        sam_empty=int(sam.empty_prediction),
        sam_clipped_empty=int(clipped.empty_prediction),
        learned_empty=int(fused.empty_prediction),
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
            updates=outcome.updates,
            skipped=outcome.skipped,
        )
        for number, (prompt, outcome, place) in enumerate(zip(prediction.prompts, outcomes, prompts, strict=True))
    ]


def summary(rows: Sequence[ImageRow], column: str = "aux_ol") -> dict[str, Any]:
    """The table at the end: means over images, per set and overall.

    Args:
        rows: Of the whole stream.
        column: What learned, see ``online.columns``.

    Returns:
        ``sam``, ``sam_clipped`` and the column, each ``{"dsc", "hd"}``: a fraction and a distance in pixels, None where
        no image has one; ``mean_alpha`` over prompts; ``images``, ``prompts``, ``rectified`` images,
        ``without_prompt``, ``empty_references`` and ``dropped`` images (without a distance, left out of the mean
        distance); ``empty_predictions`` of each column; and under ``sets`` the same for each set, in the order of the
        stream.
    """
    names = dict.fromkeys(row.set_name for row in rows)
    return {
        **_means(rows, column),
        "sets": {name: _means([row for row in rows if row.set_name == name], column) for name in names},
    }


def format_summary(table: Mapping[str, Any]) -> str:
    """The table for the screen: a line per set and one for the whole stream."""
    columns = scored_columns(table)
    heads = "".join(f"{column_label(name):>20}" for name in columns)
    lines = [f"{'':<16}{'images':>7}{heads}", f"{'':<23}" + f"{'DSC %':>11}{'HD px':>9}" * len(columns)]
    parts = dict(table["sets"]) if len(table["sets"]) > 1 else {}
    for name, part in {**parts, "all": table}.items():
        cells = "".join(
            (f"{100 * part[c]['dsc']:>11.2f}" if part[c]["dsc"] is not None else f"{'-':>11}")
            + (f"{part[c]['hd']:>9.2f}" if part[c]["hd"] is not None else f"{'-':>9}")
            for c in columns
        )
        lines.append(f"{name:<16}{part['images']:>7}{cells}")
    return "\n".join(lines)


def _means(rows: Sequence[ImageRow], column: str) -> dict[str, Any]:
    fields = {SAM: SAM, CLIPPED: CLIPPED, column: "learned"}
    prompts = sum(row.prompts for row in rows)
    means: dict[str, Any] = {
        name: {metric: _mean([getattr(row, f"{field}_{metric}") for row in rows]) for metric in ("dsc", "hd")}
        for name, field in fields.items()
    }
    return means | {
        "mean_alpha": sum(row.alpha * row.prompts for row in rows if row.prompts) / prompts if prompts else None,
        "images": len(rows),
        "prompts": prompts,
        "rectified": sum(row.feedback == "expert" for row in rows),
        "without_prompt": sum(row.prompts == 0 for row in rows),
        "empty_references": sum(row.empty_reference for row in rows),
        "empty_predictions": {
            name: sum(getattr(row, f"{field}_empty") for row in rows) for name, field in fields.items()
        },
        "dropped": sum(any(math.isnan(getattr(row, f"{field}_hd")) for field in fields.values()) for row in rows),
    }


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else None
