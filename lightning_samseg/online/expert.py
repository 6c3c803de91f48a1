"""The human expert, simulated: which predictions are rectified, and how well (Sec. 4.2; TMI version for the noise)."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.losses.binary import SMOOTH
from lightning_samseg.metrics import functional
from lightning_samseg.online.predictions import Feedback, Prediction
from lightning_samseg.prompts.noise import MaskNoise, distort_mask
from lightning_samseg.types import IGNORED

# What is drawn for; with the position in the stream they make every draw independent of the others.
AVAILABLE, NOISE = 1, 2


@dataclass(frozen=True)
class Expert:
    """Rectifies an image's prediction if ``every``, ``rate`` and ``below_dice`` all allow it.

    Raises:
        UserError: A number outside its range.
    """

    every: int = 1
    """Only every n-th image of each set, from its first (authors' code: 1, 2 or 4; it counts anew in each set)."""
    rate: float = 1.0
    """Probability that an image is rectified, drawn for each image on its own (Fig. 3: 0, 0.25, 0.5, 1)."""
    below_dice: float | None = None
    """Only images whose Dice, smoothed by 1, is below this (Fig. 4: 0.85)."""
    inclusive: bool = False
    """Also images whose Dice is exactly ``below_dice`` (authors' code; the paper: "falls below")."""
    dice_of: Literal["sam", "fused"] = "sam"
    """Whose Dice ``below_dice`` is about: that of SAM alone (authors' code), or of the fused prediction, which is what
    Sec. 3.2 shows to the expert. The paper's "segmentation outputs" may be either."""
    mask_noise: MaskNoise = "none"
    """How rectified masks are wrong."""
    noise_fraction: float = 0.05
    """Side of the eroding or dilating square as a fraction of the crop's shorter side."""
    pseudo_confidence: float | None = None
    """Without the expert, learn from the thresholded prediction for a prompt if the mean over its crop of
    ``max(p, 1 - p)`` reaches this. The paper suggests pseudo-labels without a rule; None: no pseudo-labels."""
    seed: int = 0
    """Of the draws for ``rate`` and for ``mask_noise="both"``."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        ranges = {
            "every": (self.every >= 1, "an integer of at least 1"),
            "rate": (0 <= self.rate <= 1, "a number in [0, 1]"),
            "below_dice": (self.below_dice is None or 0 <= self.below_dice <= 1, "a number in [0, 1]"),
            "noise_fraction": (0 <= self.noise_fraction < 1, "a number in [0, 1)"),
            "pseudo_confidence": (
                self.pseudo_confidence is None or 0.5 <= self.pseudo_confidence <= 1,
                "a number in [0.5, 1]",
            ),
            "seed": (self.seed >= 0, "an integer of at least 0"),
        }
        for name, (valid, expected) in ranges.items():
            if not valid:
                raise UserError(
                    f"expert: {name} out of range",
                    expected=expected,
                    found=str(getattr(self, name)),
                    fix=f"change {name}",
                )

    @property
    def looks_at_prediction(self) -> bool:
        """Whether feedback depends on more of a record than SAM alone and the crops."""
        return self.pseudo_confidence is not None or (self.below_dice is not None and self.dice_of == "fused")

    def feedback(
        self,
        prediction: Prediction,
        reference: NDArray[Any] | None,
        name: str = "reference",
        set_position: int | None = None,
    ) -> Feedback:
        """What becomes known about an image after its prediction.

        Args:
            prediction: The record of the image.
            reference: ``(H, W)``, non-zero on foreground but for ``IGNORED``, where nobody says: the correction of a
                crop is the reference inside it, as in the authors' code, where other objects that reach into the crop
                are foreground too. Or ``(m, H, W)``, one mask per prompt. None where the image has no reference: nobody
                rectifies it.
            name: What to call the reference in messages, such as its file.
            set_position: Of the image in its set, from 0; None: the stream is one set.

        Returns:
            Masks for the image's prompts, if any.

        Raises:
            UserError: The reference is of another size than the image.
        """
        nothing = (None,) * len(prediction.prompts)
        masks: tuple[Tensor, ...] | None = None
        if reference is not None:
            self._check_size(prediction, reference, name)
            masks = self._rectify(prediction, reference)
            place = prediction.position if set_position is None else set_position
            if self._available(prediction, reference, place):
                return Feedback("expert", masks, masks)
        if self.pseudo_confidence is not None:
            return Feedback("pseudo", pseudo_labels(prediction, self.pseudo_confidence), masks)
        return Feedback("none", nothing, masks)

    def _available(self, prediction: Prediction, reference: NDArray[Any], set_position: int) -> bool:
        if set_position % self.every:
            return False
        if self.rate < 1 and np.random.default_rng((self.seed, AVAILABLE, prediction.position)).random() >= self.rate:
            return False
        if self.below_dice is None:
            return True
        shown = prediction.sam if self.dice_of == "sam" else prediction.mask
        masks = reference if reference.ndim == 3 else reference[None]
        known = np.asarray((masks != IGNORED).all(0))
        foreground = np.asarray((masks != 0).any(0)) & known
        dice = functional.dsc(shown.cpu().numpy() & known, foreground, SMOOTH)
        return dice <= self.below_dice if self.inclusive else dice < self.below_dice

    def _rectify(self, prediction: Prediction, reference: NDArray[Any]) -> tuple[Tensor, ...]:
        """Masks ``(h, w)`` inside the prompts' crops, distorted where they are known, in the host's memory."""
        masks = []
        for number, prompt in enumerate(prediction.prompts):
            whole = reference if reference.ndim == 2 else reference[number]
            rng = np.random.default_rng((self.seed, NOISE, prediction.position, number))
            part = whole[prompt.crop.slices]
            ignored = part == IGNORED
            mask = distort_mask((part != 0) & ~ignored, self.mask_noise, self.noise_fraction, rng).view(np.uint8)
            mask[ignored] = IGNORED
            masks.append(torch.from_numpy(mask))
        return tuple(masks)

    @staticmethod
    def _check_size(prediction: Prediction, reference: NDArray[Any], name: str) -> None:
        height, width = prediction.mask.shape
        count = len(prediction.prompts)
        if reference.shape not in ((height, width), (count, height, width)):
            raise UserError(
                f"{name}: the mask does not fit its image",
                expected=f"{height} x {width} pixels (rows x columns), once or for each of {count} prompts",
                found=" x ".join(map(str, reference.shape)),
                fix="check that the mask belongs to the image and that neither was resized or turned",
            )


def pseudo_labels(prediction: Prediction, confidence: float) -> tuple[Tensor | None, ...]:
    """Take the network's own confident predictions for labels (Lee, 2013), as Sec. 3.2 suggests without an expert.

    Args:
        prediction: The record of the image.
        confidence: Least mean over the crop of ``max(p, 1 - p)`` with ``p`` the fused probability, in [0.5, 1].

    Returns:
        Per prompt the thresholded fusion, bool ``(h, w)``, or None where it is not confident enough. Deciding this
        waits for the device, once per prompt.
    """
    labels: list[Tensor | None] = []
    for prompt in prediction.prompts:
        foreground = prompt.fused_logits.sigmoid()
        certain = torch.maximum(foreground, 1 - foreground).mean()
        labels.append(prompt.fused_logits > 0 if certain.item() >= confidence else None)
    return tuple(labels)
