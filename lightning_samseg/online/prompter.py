"""Prompts of a stream's images and where the auxiliary network looks for each: simulated from references, or a file."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.prompts.boxes import Box, crop_of_box, crop_of_point
from lightning_samseg.prompts.files import PromptFile
from lightning_samseg.prompts.noise import shift_box
from lightning_samseg.prompts.objects import PointKind, find_objects
from lightning_samseg.types import Case, StreamItem

PointCrop = Literal["paper", "authors", "largest_component"]

POINT_CROPS: dict[PointCrop, dict[str, Any]] = {
    "paper": {"largest_component": False, "margin": 0.0, "min_side": 1},
    "authors": {"largest_component": False, "margin": 0.10, "min_side": 16},
    "largest_component": {"largest_component": True, "margin": 0.10, "min_side": 16},
}
# Stream of random numbers beside those of the expert and the network; with the position every draw is independent.
BOX_SHIFT = 3


class Prompter:
    """Prompts every object of an image, or what a file says; the options are those of ``AuxOl``.

    Args:
        prompt: What every object is prompted by.
        point: See ``prompts.objects``.
        objects: ``instances`` where the data set knows its objects, else 8-connected components; ``components`` always.
        min_object_side: Objects whose box is narrower or lower get no prompt, in pixels.
        prompt_file: CSV or COCO file with the prompts, instead of the reference's objects.
        box_shift: Boxes are shifted by this fraction of their sides.
        point_crop: Rectangle around SAM's mask for a point.
        seed: Of the shifts.

    Raises:
        UserError: If a number is out of range or the file is no prompt file.
    """

    def __init__(
        self,
        prompt: Literal["box", "point"] = "box",
        point: PointKind = "centroid",
        objects: Literal["instances", "components"] = "instances",
        min_object_side: int = 1,
        prompt_file: str | None = None,
        box_shift: float = 0.0,
        point_crop: PointCrop = "paper",
        seed: int = 42,
    ) -> None:
        if not 0 <= box_shift < 1:
            raise UserError(f"box_shift {box_shift}", expected="a fraction in [0, 1)", fix="use 0.05 as the authors do")
        self.prompt, self.point, self.objects = prompt, point, objects
        self.min_object_side, self.box_shift, self.point_crop, self.seed = min_object_side, box_shift, point_crop, seed
        self.file = None if prompt_file is None else PromptFile(prompt_file, prompt)

    def bind(self, items: Iterable[Any]) -> str | None:
        """Find the images that the prompt file names.

        Args:
            items: ``data_modules`` items of the whole stream, which have ``case_id``, ``image``, ``slice_index`` and
                ``num_slices``.

        Returns:
            How many images have prompts, as a line for the screen; None without a file.

        Raises:
            UserError: If the file names an image that is not in the stream.
        """
        if self.file is None:
            return None
        images = {_name(item): [item.image.name, item.image.stem] if item.num_slices == 1 else [] for item in items}
        without = self.file.bind(images)
        return f"{self.file.path}: {len(images) - without} of {len(images)} images have prompts"

    def prompts_of(self, item: StreamItem) -> NDArray[np.float64]:
        """Prompts of an image, simulated from its reference or from the prompt file.

        Returns:
            ``(m, 4)`` boxes or ``(m, 2)`` points in pixels of the image; ``m`` is 0 for an image without object.

        Raises:
            UserError: If a prompt of the file lies outside of the image, or was drawn on one of another size.
        """
        case = item["cases"][0]
        if self.file is not None:
            places = self.file.prompts(_name(case), case.original_size)
        else:
            instances = "instances" in item and self.objects == "instances"
            mask = item["instances"] if instances else item["reference"] == 1
            found = find_objects(mask, instances=instances, min_side=self.min_object_side, name=case.source)
            rows = [each.box if self.prompt == "box" else each.point(self.point) for each in found]
            places = np.array(rows, np.float64).reshape(-1, 4 if self.prompt == "box" else 2)
        if self.box_shift and self.prompt == "box":
            for number, place in enumerate(places):
                rng = np.random.default_rng((self.seed, BOX_SHIFT, item["position"], number))
                box = crop_of_box(place, case.original_size, f"{case.source}, prompt {number}")
                places[number] = shift_box(box, self.box_shift, case.original_size, rng)
        return places

    def crops_of(self, prompts: NDArray[np.float64], sam_logits: Tensor, case: Case) -> list[Box]:
        """Where the auxiliary network looks for each prompt (Sec. 3.2).

        Args:
            prompts: As from :meth:`prompts_of`.
            sam_logits: Float ``(m, H, W)``.
            case: The image.

        Raises:
            UserError: If a box is empty or lies outside of the image.
        """
        crops = []
        masks = (sam_logits > 0).cpu().numpy() if self.prompt == "point" else [None] * len(prompts)
        for number, (place, mask) in enumerate(zip(prompts, masks, strict=True)):
            if self.prompt == "box":
                crops.append(crop_of_box(place, case.original_size, f"{case.source}, prompt {number}"))
            else:
                crops.append(crop_of_point(mask, **POINT_CROPS[self.point_crop]))
        return crops


def _name(case: Any) -> str:
    """Name of an image in a prompt file: its case id, with the slice behind it for volumes."""
    return f"{case.case_id}_{case.slice_index:03d}" if case.num_slices > 1 else case.case_id
