"""What passes between learner, expert and whoever writes results: predictions, feedback, outcomes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_samseg.online.fusion import FeedbackSource, fuse
from lightning_samseg.prompts.boxes import Box
from lightning_samseg.types import Segmentation

SamAlone = Literal["sum", "doubled", "largest"]
"""How SAM's probabilities for an image's prompts become one map, which is then thresholded at 0.5.

``sum``: their sum, as the authors' code takes it for boxes. ``doubled``: twice the sum, as it does for points, where it
adds each probability twice (``main.py``, lines 125 and 143): in effect a threshold of 0.25. ``largest``: the largest,
for an adapted SAM, whose prompts share one answer, so that a pixel in two boxes has the same probability in both.
"""


class Look(NamedTuple):
    """What a network sees and answers for one prompt."""

    network_input: Tensor
    """Float ``(C, h, w)`` of its own size."""
    network_logits: Tensor
    """Float ``(1, S, S)``: the answer at the size at which it learns."""
    logits: Tensor
    """Float ``(h, w)``: the answer at the size of the crop."""


@dataclass(frozen=True)
class PromptPrediction:
    """Prediction for one prompt, made before anything was learned from its image. Nobody writes to the tensors."""

    crop: Box
    """Where the auxiliary network looked, ``h x w`` pixels of the image."""
    network_input: Tensor
    """Float ``(C, S, S)``, what it saw."""
    network_logits: Tensor
    """Float ``(1, S, S)``, what it answered."""
    sam_logits: Tensor
    """Float ``(h, w)``: ``s`` of Eq. 1 inside the crop."""
    aux_logits: Tensor
    """Float ``(h, w)``: ``u`` of Eq. 1."""
    alpha: Tensor
    """Float ``()``, the weight used."""

    @property
    def fused_logits(self) -> Tensor:
        """Float ``(h, w)``: the argument of the sigmoid in Eq. 1."""
        return fuse(self.sam_logits, self.aux_logits, self.alpha)


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image of the stream: the record that is scored."""

    position: int
    """Of the image in the stream, from 0."""
    prompts: tuple[PromptPrediction, ...]
    """One per prompt; empty for an image without a prompt, which is background."""
    mask: Tensor
    """bool ``(H, W)``, SAM + AuxOL: union over prompts of the thresholded crops, background outside every crop."""
    sam_clipped: Tensor
    """bool ``(H, W)``, the same with SAM's logits in place of the fused ones: what clipping alone gains."""
    sam_probability: Tensor
    """Float ``(H, W)`` from :func:`sam_alone`; may exceed 1."""

    @property
    def sam(self) -> Tensor:
        """SAM alone, bool ``(H, W)``: its probability thresholded at 0.5."""
        return self.sam_probability > 0.5

    @property
    def probability(self) -> Tensor:
        """Of the foreground, float ``(H, W)``: the largest of the prompts' fused probabilities, 0 outside all crops."""
        foreground = torch.zeros_like(self.sam_probability)
        for prompt in self.prompts:
            inside = foreground[prompt.crop.slices]
            foreground[prompt.crop.slices] = torch.maximum(inside, prompt.fused_logits.sigmoid())
        return foreground

    def as_segmentation(self) -> Segmentation:
        """Label map and probabilities."""
        foreground = self.probability
        labels = self.mask.cpu().numpy().astype(np.uint8)
        return Segmentation(labels, torch.stack([1 - foreground, foreground]))

    def on_host(self) -> "Prediction":
        """A copy in host memory to send to another process, without what the network saw and answered at its size."""
        prompts = tuple(
            replace(
                prompt,
                network_input=torch.empty(0),
                network_logits=torch.empty(0),
                sam_logits=prompt.sam_logits.cpu(),
                aux_logits=prompt.aux_logits.cpu(),
                alpha=prompt.alpha.cpu(),
            )
            for prompt in self.prompts
        )
        masks = (self.mask.cpu(), self.sam_clipped.cpu(), self.sam_probability.cpu())
        return Prediction(self.position, prompts, *masks)


def sam_alone(sam_logits: Tensor, rule: SamAlone = "sum") -> Tensor:
    """Put SAM's answers to an image's prompts together, for the column "SAM alone".

    Args:
        sam_logits: Float ``(m, H, W)``, one map per prompt; ``m`` may be 0.
        rule: See ``SamAlone``.

    Returns:
        Float ``(H, W)``; foreground where it exceeds 0.5.
    """
    probabilities = sam_logits.sigmoid()
    if rule == "largest" and len(probabilities):
        return probabilities.amax(0)
    total = probabilities.sum(0)
    return 2 * total if rule == "doubled" else total


def assemble(position: int, prompts: tuple[PromptPrediction, ...], sam_probability: Tensor) -> Prediction:
    """Put the image-size masks of a prediction together.

    Args:
        position: Of the image in the stream.
        prompts: Predictions for the image's prompts.
        sam_probability: Float ``(H, W)`` of SAM alone.

    Returns:
        The record.
    """
    crops = [prompt.crop for prompt in prompts]
    height, width = sam_probability.shape
    device = sam_probability.device
    mask = paste([prompt.fused_logits for prompt in prompts], crops, (height, width), device)
    sam_clipped = paste([prompt.sam_logits for prompt in prompts], crops, (height, width), device)
    return Prediction(position, prompts, mask, sam_clipped, sam_probability)


def merge(predictions: Sequence[Prediction], sam_probability: Tensor) -> Prediction:
    """One image's record from predictions for its prompts made one at a time, with learning in between.

    That is the literal order of Listing 1 and of the authors' code, in which an image's later prompts profit from the
    rectified masks of its earlier ones.

    Args:
        predictions: At least one, all for the same image.
        sam_probability: Float ``(H, W)`` of SAM alone, for all prompts.

    Returns:
        The record.
    """
    prompts = tuple(prompt for prediction in predictions for prompt in prediction.prompts)
    return assemble(predictions[0].position, prompts, sam_probability)


@dataclass(frozen=True)
class Feedback:
    """What becomes known about an image after its prediction, one entry per prompt."""

    source: FeedbackSource
    """Who speaks: the expert, the network's own confidence, or nobody."""
    masks: tuple[Tensor | None, ...]
    """bool or uint8 ``(h, w)`` inside the prompt's crop, to learn from: 0, 1, or ``IGNORED``; None where there is
    nothing to learn."""
    reference: tuple[Tensor, ...] | None = None
    """What the expert would draw, even where nobody asked: seen only by ``Fusion(alpha_from="every")``."""

    def only(self, prompt: int) -> "Feedback":
        """The part that concerns one prompt, for learning prompt by prompt."""
        reference = None if self.reference is None else (self.reference[prompt],)
        return Feedback(self.source, (self.masks[prompt],), reference)


class PromptOutcome(NamedTuple):
    """What learning from one prompt did: tensors ``()`` on the network's device, None where the step did not occur."""

    loss: Tensor | None
    """Loss of the prediction, before any update (Listing 1, line 10)."""
    slot: Tensor | None
    """int64, entry of the online batch that was written; -1 where the batch stayed as it was."""
    alpha_star: Tensor | None
    """Best weight in hindsight (Eq. 3)."""
    updates: int = 0
    """Updates of the network that followed, for this prompt and those learned from together with it."""
    skipped: int = 0
    """Updates that there was no time for."""


def paste(pieces: Sequence[Tensor], crops: Sequence[Box], image_size: tuple[int, int], device: torch.device) -> Tensor:
    """Union of thresholded crops; background outside every crop.

    Args:
        pieces: Logits ``(h, w)`` of every crop.
        crops: Their boxes.
        image_size: ``(H, W)``.
        device: Where the logits are.

    Returns:
        bool ``(H, W)``.
    """
    mask = torch.zeros(image_size, dtype=torch.bool, device=device)
    for logits, crop in zip(pieces, crops, strict=True):
        mask[crop.slices] |= logits > 0
    return mask
