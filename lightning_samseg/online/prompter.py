"""Prompts of a stream's images and where the auxiliary network looks for each: simulated from references, or a file."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.prompts.boxes import Box, crop_of_box, crop_of_point
from lightning_samseg.prompts.files import PromptFile
from lightning_samseg.prompts.noise import shift_box
from lightning_samseg.prompts.objects import PointKind, find_objects
from lightning_samseg.types import Case, PromptKind, StreamItem

PointCrop = Literal["paper", "authors", "largest_component"]

POINT_CROPS: dict[PointCrop, dict[str, Any]] = {
    "paper": {"largest_component": False, "margin": 0.0, "min_side": 1},
    "authors": {"largest_component": False, "margin": 0.10, "min_side": 16},
    "largest_component": {"largest_component": True, "margin": 0.10, "min_side": 16},
}
# Stream of random numbers beside those of the expert and the network; with the position every draw is independent.
BOX_SHIFT = 3


@dataclass(frozen=True)
class PrompterConfig:
    """Prompts of the objects: the arguments under ``prompter:``.

    Args:
        kind: What every object is prompted by.
        point: ``centroid`` of the object's pixels (authors of AuxOL), or its ``deepest`` pixel, which always lies on
            it.
        objects: ``instances`` where the data set knows its objects (GlaS), else the 8-connected components;
            ``components`` always (authors).
        min_object_side: Objects whose box is narrower or lower get no prompt, in pixels; the authors' rule is 16.
        file: CSV or COCO file with the prompts, instead of the reference's objects. Images that it does not name have
            no prompt and are background.
        box_shift: Boxes are shifted by this fraction of their sides (robustness study of the TMI version: 0.05).
        point_crop: Rectangle around SAM's mask for a point. ``paper``: its bounding box. ``authors``: with a margin of
            10 % on each side, and the whole image where it is below 16 px. ``largest_component``: so, of that alone.

    Raises:
        UserError: If a number is out of range.
    """

    kind: PromptKind = "box"
    point: PointKind = "centroid"
    objects: Literal["instances", "components"] = "instances"
    min_object_side: int = 1
    file: str | None = None
    box_shift: float = 0.0
    point_crop: PointCrop = "paper"

    def __post_init__(self) -> None:
        """Check the shift."""
        if not 0 <= self.box_shift < 1:
            raise UserError(
                f"prompter: box_shift {self.box_shift}", expected="a fraction in [0, 1)", fix="use 0.05 as the authors"
            )


class Prompter:
    """Prompts every object of an image, or what a file says.

    Args:
        config: See there.
        seed: Of the shifts.

    Raises:
        UserError: If the file is no prompt file.
    """

    def __init__(self, config: PrompterConfig = PrompterConfig(), seed: int = 42) -> None:
        self.config, self.seed = config, seed
        self.file = None if config.file is None else PromptFile(config.file, config.kind)

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
            instances = "instances" in item and self.config.objects == "instances"
            mask = item["instances"] if instances else item["reference"] == 1
            found = find_objects(mask, instances=instances, min_side=self.config.min_object_side, name=case.source)
            rows = [each.box if self.config.kind == "box" else each.point(self.config.point) for each in found]
            places = np.array(rows, np.float64).reshape(-1, 4 if self.config.kind == "box" else 2)
        if self.config.box_shift and self.config.kind == "box":
            for number, place in enumerate(places):
                rng = np.random.default_rng((self.seed, BOX_SHIFT, item["position"], number))
                box = crop_of_box(place, case.original_size, f"{case.source}, prompt {number}")
                places[number] = shift_box(box, self.config.box_shift, case.original_size, rng)
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
        masks = (sam_logits > 0).cpu().numpy() if self.config.kind == "point" else [None] * len(prompts)
        for number, (place, mask) in enumerate(zip(prompts, masks, strict=True)):
            if self.config.kind == "box":
                crops.append(crop_of_box(place, case.original_size, f"{case.source}, prompt {number}"))
            else:
                crops.append(crop_of_point(mask, **POINT_CROPS[self.config.point_crop]))
        return crops


def _name(case: Any) -> str:
    """Name of an image in a prompt file: its case id, with the slice behind it for volumes."""
    return f"{case.case_id}_{case.slice_index:03d}" if case.num_slices > 1 else case.case_id
