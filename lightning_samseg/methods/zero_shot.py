"""SAM without any training: prompted by what the reference shows. The rows "SAM-point" of CPC-SAM's Table 1."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from lightning_samseg.errors import UserError
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.models.frozen_sam import FrozenSam, MaskChoice
from lightning_samseg.models.sam_config import SamConfig
from lightning_samseg.online.prompter import PrompterConfig
from lightning_samseg.prompts.boxes import crop_of_box
from lightning_samseg.prompts.objects import ReferenceObject, find_objects
from lightning_samseg.types import Batch, PromptKind, Query, Segmentation


class ZeroShot(BaseMethod):
    """A frozen SAM, told by the reference where each class is. Its scores are no prediction: they need the reference.

    The rule is that of Mazurowski et al. (Medical Image Analysis 2023), whom CPC-SAM follows: of each class, the
    largest 8-connected component of the reference gets one positive point, on the pixel farthest from its border, or
    one tight box. A class that an image does not show gets no prompt, so nothing of it is predicted. Mazurowski et al.
    look at one class at a time; where the masks of several overlap, ``overlap`` decides.

    Images go to SAM at their original size; ``data.image_size`` and the other arguments of the view do not matter.

    Args:
        sam: Which SAM; it takes no adapter.
        prompter: ``kind``, ``point`` and ``min_object_side``; the rest is not for this method. A ``point`` is the
            deepest pixel, the first one row by row where several are. A ``box`` is the tight one, given by its
            outermost pixels, as SAM's corners are.
        prompt_per: ``class``: one prompt, for the largest component. ``object``: one for every component, each answered
            alone.
        mask: ``first`` of SAM's three masks, as Mazurowski et al. take without knowledge of the best one; or SAM's
            ``single`` mask, the only one that MedSAM and LiteMedSAM have been trained on.
        overlap: Where masks of several prompts overlap, the ``highest`` logit wins, or the ``smaller`` mask: right for
            structures that lie in one another, such as the ventricle in the myocardium.
        base: Arguments of :class:`BaseMethod`; those of the optimizer do nothing.
    """

    needs_training = False

    def __init__(
        self,
        sam: SamConfig = SamConfig("sam_vit_b"),
        prompter: PrompterConfig = PrompterConfig("point", "deepest"),
        prompt_per: Literal["class", "object"] = "class",
        mask: MaskChoice = "single",
        overlap: Literal["highest", "smaller"] = "highest",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.prompter, self.prompt_kind = prompter, prompter.kind
        self.prompt_per = prompt_per
        self.mask: MaskChoice = mask
        self.overlap = overlap
        self.sam = FrozenSam(sam.backbone, sam.size, sam.checkpoint, sam.preprocessing)
        if (warning := self.sam.prompt_warning(prompter.kind)) is not None:
            rank_zero_warn(warning)

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the pretrained weights."""
        return self.sam.weights_sha256

    def predict_labels(self, batch: Batch) -> list[np.ndarray]:
        """Label maps uint8 ``(H, W)`` at the original size.

        Raises:
            UserError: If the batch has no reference to take prompts from.
        """
        if "reference" not in batch:
            raise UserError(
                "Zero-shot SAM takes its prompts from the reference masks, which these images do not have.",
                fix="use the verb test or validate, on a data set with masks; or give prompts of your own: "
                "predict --method zero_shot --prompts FILE --input FOLDER --output DIR",
            )
        return [self.label_map(*pair) for pair in zip(batch["original"], batch["reference"], strict=True)]

    def answer(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Answer prompts that somebody gives; everything they mean is of class 1."""
        return [
            self.segment(each.picture, _as_sam(each, self.prompt_kind), [1] * len(each.prompts)) for each in queries
        ]

    def label_map(self, image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Prompt SAM for every class of one image.

        Args:
            image: uint8 ``(H, W, 3)``, RGB.
            reference: uint8 ``(H, W)``, class ids 0..C.

        Returns:
            uint8 ``(H, W)``, class ids.
        """
        prompted = class_objects(reference, self.num_classes, self.prompt_per, self.prompter.min_object_side)
        if self.prompt_kind == "point":
            places = np.array([item.point(self.prompter.point) for _, item in prompted])
        else:
            places = np.array([outermost_pixels(item) for _, item in prompted])
        return self.segment(image, places, [class_id for class_id, _ in prompted]).labels

    @torch.no_grad()
    def segment(self, image: NDArray[np.uint8], prompts: NDArray[Any], class_ids: Sequence[int]) -> Segmentation:
        """Answer prompts for one image.

        Args:
            image: uint8 ``(H, W, 3)``, RGB.
            prompts: ``(m, 2)`` points or ``(m, 4)`` boxes, corners included, in pixels of the image; m may be 0.
            class_ids: Class 1..C of each prompt.

        Returns:
            As probability of each class the largest of its prompts, of the background what the largest of them leaves.
        """
        size = (image.shape[0], image.shape[1])
        probabilities = torch.zeros(self.num_classes + 1, *size)
        probabilities[0] = 1
        if len(class_ids) == 0:
            return Segmentation(np.zeros(size, np.uint8), probabilities)
        asked = {"points" if self.prompt_kind == "point" else "boxes": prompts}
        low_res, geometry = self.sam.predict(image, mask=self.mask, **asked)
        logits = self.sam.restore(low_res, geometry)
        inside = logits > 0
        rank = logits if self.overlap == "highest" else -inside.sum((1, 2), keepdim=True).float()
        winner = torch.where(inside, rank, -torch.inf).argmax(0)
        for class_id, answer in zip(class_ids, logits.sigmoid().float().cpu(), strict=True):
            probabilities[class_id] = torch.maximum(probabilities[class_id], answer)
        probabilities[0] = 1 - probabilities[1:].amax(0)
        classes = np.array(class_ids, np.uint8)
        labels = np.where(inside.any(0).cpu().numpy(), classes[winner.cpu().numpy()], np.uint8(0))
        return Segmentation(labels, probabilities)


def class_objects(
    reference: NDArray[np.uint8],
    num_classes: int,
    prompt_per: Literal["class", "object"] = "class",
    min_side: int = 1,
) -> list[tuple[int, ReferenceObject]]:
    """List what gets a prompt.

    Args:
        reference: uint8 ``(H, W)``, class ids 0..C.
        num_classes: C.
        prompt_per: ``class``: the largest 8-connected component of each class. ``object``: all of them.
        min_side: Components whose box is narrower or lower are left out, in pixels.

    Returns:
        Class id and object, classes ascending; nothing for a class without pixels.
    """
    prompted = []
    for class_id in range(1, num_classes + 1):
        components = find_objects(reference == class_id, min_side=min_side)  # smallest first
        chosen = components[-1:] if prompt_per == "class" else components
        prompted += [(class_id, component) for component in chosen]
    return prompted


def outermost_pixels(item: ReferenceObject) -> tuple[int, int, int, int]:
    """Give the box prompt of an object, ``(x0, y0, x1, y1)``, corners included: what SAM takes for a tight box."""
    box = item.box
    return box.x0, box.y0, box.x1 - 1, box.y1 - 1


def _as_sam(query: Query, kind: PromptKind | None) -> NDArray[Any]:
    """Prompts as SAM takes them: points, or the outermost pixels of boxes, clipped to the picture.

    Raises:
        UserError: If one shares no pixel with the picture.
    """
    if kind == "point":
        return np.asarray(query.prompts, np.float64)
    case = query.case
    places = enumerate(query.prompts, start=1)
    boxes = [crop_of_box(place, case.original_size, f"{case.source}, box {number}") for number, place in places]
    return np.array([(x0, y0, x1 - 1, y1 - 1) for x0, y0, x1, y1 in boxes], np.float64)
