"""What one image of a stream leaves behind for those who write, draw and log; on rank 0 for all processes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.online.distributed import gather_on_first, rank_and_size
from lightning_samseg.online.predictions import Prediction
from lightning_samseg.online.scores import ImageRow, PromptRow, image_row, prompt_rows
from lightning_samseg.online.step import ImageOutcome
from lightning_samseg.types import StreamItem


class StreamRecord(NamedTuple):
    """One image, as it was predicted and scored."""

    prediction: Prediction
    """From another process without what the network saw and answered at its input's size."""
    image: ImageRow
    prompts: list[PromptRow]
    picture: NDArray[np.uint8]
    """``(H, W, 3)``."""
    reference: NDArray[np.uint8]
    """``(H, W)``, as in ``StreamItem``."""
    sam_seconds: float = 0.0
    """Wall time until SAM's logits were there, from the cache or not; the step's, divided by its images."""
    seconds: float = 0.0
    """Wall time of predicting and learning; the step's, divided by its images."""


def gather_records(own: list[StreamRecord], sam_seconds: float, seconds: float) -> list[StreamRecord]:
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
    records = sorted(gather_on_first(own), key=lambda each: each.image.position)
    images = max(1, len(records))
    return [each._replace(sam_seconds=sam_seconds / images, seconds=seconds / images) for each in records]


def stream_record(
    outcome: ImageOutcome, item: StreamItem, prompts: NDArray[np.float64], convention: str = "aux_ol"
) -> StreamRecord:
    """Score an image and list its prompts; waits for the device.

    Args:
        outcome: Its prediction, and what was learned from it.
        item: The image.
        prompts: ``(m, 2)`` points or ``(m, 4)`` boxes.
        convention: See :mod:`lightning_samseg.metrics.conventions`.
    """
    case = item["cases"][0]
    rows = prompt_rows(outcome.prediction, outcome.outcomes, prompts, case)
    image = image_row(outcome.prediction, outcome.feedback, item["reference"], case, item["set_name"], convention)
    return StreamRecord(outcome.prediction, image, rows, item["original"], item["reference"])
