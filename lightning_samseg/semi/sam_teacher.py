"""A frozen SAM as a teacher of a small network that sees augmented images (SemiSAM, in two dimensions).

SAM encodes every image once, as it is. What the network predicts of an augmented version becomes prompts; they are
carried back to the image by the augmentation's known transform, and SAM's masks are carried forth by it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lightning_samseg.models.frozen_sam import AT_ONCE, FrozenSam
from lightning_samseg.prompts.clicks import click_candidates
from lightning_samseg.prompts.components import largest_component
from lightning_samseg.types import Case, PromptKind


class SamTeacher:
    """Not a module: a frozen SAM has no place in the checkpoint of a network that predicts without it.

    Args:
        sam: On the device where the masks are wanted.
        prompt: ``point``: a click deep inside of a class (``prompts.clicks``), drawn from its candidates. ``box``:
            around the largest component of a class, for a SAM that has been trained on boxes alone.
        threshold: Logit above which a pixel belongs to a mask.
    """

    def __init__(self, sam: FrozenSam, prompt: PromptKind, threshold: float) -> None:
        self.sam, self.prompt, self.threshold = sam, prompt, threshold
        self.encoded: dict[tuple[str, int], tuple[Tensor, Case]] = {}
        """Embeddings by case and slice, float16 on the host: 2 MB each at SAM's size of 1024 px."""

    @torch.no_grad()
    def teach(
        self,
        labels: Tensor,
        motion: Tensor,
        cases: Sequence[Case],
        picture: Callable[[Case], NDArray[np.uint8]],
        num_classes: int,
        rng: np.random.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Let SAM segment what a network has found in augmented images.

        Args:
            labels: int64 ``(B, S, S)``, the network's labels; their maps go to the host.
            motion: float32 ``(B, 2, 3)``, see ``Batch``.
            cases: Of the images.
            picture: Reads an image that is not encoded yet, uint8 ``(H, W, 3)``.
            num_classes: C.
            rng: Draws the clicks.

        Returns:
            SAM's labels, int64 ``(B, S, S)``, in the geometry of the augmented images: of the classes whose logit is
            above the threshold the highest one; and which images had a prompt, bool ``(B,)``.
        """
        maps = labels.to(torch.uint8).cpu().numpy()
        side, device = labels.shape[-1], labels.device
        found = [
            (image, class_id, place)
            for image in range(len(maps))
            for class_id in range(1, num_classes + 1)
            if (place := self._prompt_of(maps[image] == class_id, rng)) is not None
        ]
        prompted = torch.zeros(len(maps), dtype=torch.bool)
        logits = torch.full((len(maps), num_classes + 1, side, side), -torch.inf, device=device)
        logits[:, 0] = self.threshold  # the background wins where no class is above it
        motion = motion.double().cpu()
        for first in range(0, len(found), AT_ONCE):
            some = found[first : first + AT_ONCE]
            with _float32():
                low_res, to_input = self._answer(some, motion, cases, picture, side)
            with torch.autocast(device.type, enabled=False):  # bfloat16 cannot tell neighbouring pixels apart
                grid = F.affine_grid(to_input.to(device), [len(some), 1, side, side], align_corners=False)
                answers = F.grid_sample(low_res[:, None], grid, padding_mode="zeros", align_corners=False)[:, 0]
            for (image, class_id, _), answer in zip(some, answers, strict=True):
                logits[image, class_id] = answer
                prompted[image] = True
        return logits.argmax(1), prompted.to(device)

    def _answer(
        self,
        found: Sequence[tuple[int, int, NDArray[np.float64]]],
        motion: Tensor,
        cases: Sequence[Case],
        picture: Callable[[Case], NDArray[np.uint8]],
        side: int,
    ) -> tuple[Tensor, Tensor]:
        """Low-resolution logits of prompts, and for each the map from the augmented image to SAM's input."""
        device = next(self.sam.parameters()).device
        embeddings, places, maps = [], [], []
        for image, _, corners in found:
            embedding, geometry = self._encoded(cases[image], picture)
            (h, w), size = geometry.content_size, self.sam.image_size
            # Both frames reach from -1 to 1; the image fills the top-left part of SAM's.
            part = torch.tensor([w / size, h / size], dtype=torch.float64)
            to_input = motion[image] * part[:, None]
            to_input[:, 2] += part - 1
            unit = torch.from_numpy((corners + 0.5) / side * 2 - 1)
            moved = unit @ to_input[:, :2].T + to_input[:, 2]
            places.append(((moved + 1) / 2 * size - 0.5).clamp(0, size - 1))
            maps.append(to_input.float())
            embeddings.append(embedding.to(device, non_blocking=True).float())
        stacked = torch.stack(embeddings)
        if self.prompt == "point":
            points = torch.stack(places).float().to(device)
            ones = torch.ones(points.shape[:2], dtype=torch.int, device=device)
            return self.sam.logits(stacked, points, ones), torch.stack(maps)
        boxes = torch.stack([torch.cat([place.amin(0), place.amax(0)]) for place in places])
        return self.sam.logits(stacked, boxes=boxes.float().to(device)), torch.stack(maps)

    def _prompt_of(self, region: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float64] | None:
        """The click ``(1, 2)``, or the four corners of the box ``(4, 2)``, as (x, y); None for an empty region."""
        if self.prompt == "point":
            rows, columns = np.nonzero(click_candidates(region)[0])
            if len(rows) == 0:
                return None
            chosen = int(rng.integers(len(rows)))
            return np.array([[columns[chosen], rows[chosen]]], np.float64)
        component = largest_component(region)
        if component is None:
            return None
        height, width = component.mask.shape
        x1, y1 = component.x + width - 1, component.y + height - 1
        corners = [(x, y) for x in (component.x, x1) for y in (component.y, y1)]
        return np.array(corners, np.float64)

    def _encoded(self, case: Case, picture: Callable[[Case], NDArray[np.uint8]]) -> tuple[Tensor, Case]:
        key = case.case_id, case.slice_index
        if key not in self.encoded:
            pixels, geometry = self.sam.preprocess(picture(case))
            embedding = self.sam.encode(pixels.to(next(self.sam.parameters()).device))[0]
            self.encoded[key] = embedding.half().cpu(), geometry
        return self.encoded[key]


@contextmanager
def _float32() -> Iterator[None]:
    """What SAM makes by itself fits its weights, whatever the precision of the network that it teaches."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
