"""One step of the stream: predict its images, let the expert speak, learn (Listing 1)."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.online.distributed import maxima
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.learner import OnlineLearner
from lightning_samseg.online.predictions import Feedback, Prediction, PromptOutcome, merge
from lightning_samseg.prompts.boxes import Box


class Arrival(NamedTuple):
    """An image of the stream with SAM's answers."""

    position: int
    """In the stream, from 0."""
    image: Tensor
    """uint8 ``(3, H, W)``."""
    sam_logits: Tensor
    """Float ``(m, H, W)``, one map per prompt."""
    crops: list[Box]
    """``m`` boxes."""
    reference: NDArray[Any] | None
    """``(H, W)`` for the expert alone."""
    name: str
    """What to call the image in messages."""
    set_position: int | None = None
    """In its set, from 0; None: the stream is one set."""


class ImageOutcome(NamedTuple):
    """An image of a step: what was predicted, what the expert said, what was learned."""

    prediction: Prediction
    feedback: Feedback
    outcomes: tuple[PromptOutcome, ...]


def take_step(
    learner: OnlineLearner, expert: Expert, images: Sequence[Arrival], order: Literal["prompt", "image"]
) -> list[ImageOutcome]:
    """Predict the images of one step with what is known before it, and learn from all of them together.

    The paper's step has one image. With R of them, in one process or dealt out to several, which must all call this
    together, the step has turns:

    * order ``image``: every prompt of every image is predicted, then ``OnlineLearner.learn_together`` uses their masks.
    * order ``prompt`` (Listing 1): turn j predicts prompt j of every image that has one and learns from those; then
      turn j + 1. An image's later prompts profit from the earlier turns' masks, its own and the other images'.

    Whether the expert speaks depends on SAM alone, or on the prediction before the step's first update, never on what
    is learned in between; pseudo-labels are those of that prediction, too.

    Args:
        learner: Predicts and learns.
        expert: Rectifies.
        images: This process's images of the step in the order of the stream; there may be none.
        order: See above.

    Returns:
        One entry per image.
    """
    turns = 1 if order == "image" else maxima(max((len(each.crops) for each in images), default=0))[0]
    if turns < 2 or expert.looks_at_prediction:
        wholes = [learner.predict(each.image, each.sam_logits, each.crops, each.position) for each in images]
    else:  # every prompt will be predicted in its turn
        wholes = [learner.clipped_sam(each.sam_logits, each.crops, each.position) for each in images]
    feedbacks = [
        expert.feedback(whole, each.reference, each.name, each.set_position)
        for whole, each in zip(wholes, images, strict=True)
    ]
    if turns < 2:
        return [*map(ImageOutcome, wholes, feedbacks, learner.learn_together(wholes, feedbacks))]

    parts: list[list[Prediction]] = [[] for _ in images]
    outcomes: list[list[PromptOutcome]] = [[] for _ in images]
    for turn in range(turns):
        takers = [number for number, each in enumerate(images) if turn < len(each.crops)]
        for number in takers:
            each = images[number]
            logits, crop = each.sam_logits[turn : turn + 1], each.crops[turn]
            parts[number].append(learner.predict(each.image, logits, [crop], each.position))
        learned = learner.learn_together(
            [parts[number][-1] for number in takers], [feedbacks[number].only(turn) for number in takers]
        )
        for number, outcome in zip(takers, learned, strict=True):
            outcomes[number] += outcome
    return [
        ImageOutcome(merge(made, whole.sam_probability) if made else whole, feedback, tuple(each))
        for made, whole, feedback, each in zip(parts, wholes, feedbacks, outcomes, strict=True)
    ]
