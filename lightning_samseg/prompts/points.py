"""Class-wise point prompts from label maps: the centre of each class's largest component, and random points in it.

CPC-SAM, Sec. 2.2 (cross prompting: centre) and 2.3 (prompt consistency: random).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.prompts.components import Component, deepest_pixels, inner_pixels, largest_component
from lightning_samseg.types import NOT_A_POINT

Absent = Literal["background_point", "not_a_point"]
Draw = Callable[[int], int]
"""Uniform draw of an integer from 0..n-1."""


@dataclass(frozen=True)
class PromptsConfig:
    """The points that CPC-SAM prompts by: the arguments under ``prompts:``.

    Args:
        num_center: Centre points per class (Table 3); with 0 the random points alone make the pseudo label.
        num_random: Random points per class (Table 3); with 0 there is no consistency loss (Table 2, row 3).
        random_prompts: What several random points of a class make in the authors' variants for Table 3: ``together``
            one prompt with one output (rows 3 and 4), or ``separate`` prompts of one point per class, each with an
            output of its own, which all teach and are taught (row 1).
        include_background: Whether the background has points, too, as in the authors' code; the paper names objects.
            Without, ``K - 1`` stands for ``K`` in every shape.
        absent: What stands in for all points of a class without a pixel. ``background_point`` (the authors' code): the
            background's centre with label 0, or (0, 0) with label 0 where there is no background either.
            ``not_a_point``: (0, 0) with label -1; always so without ``include_background``.
    """

    num_center: int = 1
    num_random: int = 1
    random_prompts: Literal["together", "separate"] = "together"
    include_background: bool = True
    absent: Absent = "background_point"

    @property
    def separate(self) -> int:
        """Prompts that the random points make."""
        return self.num_random if self.random_prompts == "separate" else 1


class ClassPoints(NamedTuple):
    """Point prompts of a batch, on the device of the label maps. Class ids ascend along the second axis."""

    center: Tensor
    """float32 ``(B, K * num_center, 2)``, (x, y) in pixels of the label map."""
    center_labels: Tensor
    """int64 ``(B, K * num_center)``, class ids, or -1 for no point."""
    random: Tensor
    """float32 ``(B, K * num_random, 2)``."""
    random_labels: Tensor
    """int64 ``(B, K * num_random)``."""

    def prompts(self, random_prompts: int = 1) -> list[tuple[Tensor, Tensor, bool]]:
        """What a decoder is prompted by, one prompt after the other, the centres' first.

        Args:
            random_prompts: Into how many prompts the random points are dealt, a divisor of ``num_random``; each gets an
                equal share of every class's.

        Returns:
            Points ``(B, N, 2)`` and labels ``(B, N)`` of each prompt, and whether its points are random.
        """
        center = [(self.center, self.center_labels, False)]
        random = [
            (self.random[:, i::random_prompts], self.random_labels[:, i::random_prompts], True)
            for i in range(random_prompts)
        ]
        return [prompt for prompt in center + random if prompt[0].shape[1]]

    def split(self, parts: int) -> "list[ClassPoints]":
        """The points of ``parts`` batches of one size that were chosen together."""
        return [ClassPoints(*each) for each in zip(*(part.chunk(parts) for part in self), strict=True)]


def class_points(
    labels: Tensor,
    num_classes: int,
    rng: np.random.Generator | Sequence[np.random.Generator],
    config: PromptsConfig = PromptsConfig(),
) -> ClassPoints:
    """Choose centre and random points of every class's largest 8-connected component, image by image.

    The centre is the pixel deepest inside the component, ties broken at random. A second centre is the deepest pixel of
    what is left when the disc inscribed at the first is taken away, and so on; where nothing is left the first is
    repeated. Random points are drawn independently, uniform over the component's pixels. Table 3 of the paper varies
    both numbers; the authors' published code has one of each and no rule for more centres.

    The whole batch goes to the host and its points come back in one copy each.

    Args:
        labels: As for :func:`start_class_points`, like all the others.
        num_classes: ``K``.
        rng: Source of all draws.
        config: How many points, of which classes.

    Returns:
        The points.

    Raises:
        UserError: A number of points is negative, or both are 0.
    """
    return start_class_points(labels, num_classes, rng, config)()


def start_class_points(
    labels: Tensor,
    num_classes: int,
    rng: np.random.Generator | Sequence[np.random.Generator],
    config: PromptsConfig = PromptsConfig(),
) -> Callable[[], ClassPoints]:
    """Begin what :func:`class_points` does, in the background: the caller goes on with what needs no points.

    From a GPU the label maps come while it computes what is asked of it next. With a generator per image the images
    are shared among as many threads as PyTorch has (``torch.get_num_threads()``), whose most costly parts run at the
    same time; the points are those of one thread, to the bit. With one generator the draws of the images follow each
    other, and the points are chosen before this function returns.

    Args:
        labels: Integer ``(B, H, W)`` class ids, as from the argmax of the logits; any device.
        num_classes: ``K``, with background, at most 256.
        rng: Source of all draws, advanced in place; or one per image, so that an image's points do not depend on
            which others share its batch or process.
        config: How many points, of which classes; 0 centre (random) points per class give an empty ``center``
            (``random``). How they are dealt to prompts is for :meth:`ClassPoints.prompts`.

    Returns:
        A function that waits for the points and gives them, the same ones at every call. What was raised in the
        background is raised there.

    Raises:
        UserError: A number of points is negative, or both are 0.
    """
    if min(config.num_center, config.num_random) < 0 or config.num_center + config.num_random == 0:
        raise UserError(
            "No point prompt can be made from these numbers of points per class.",
            expected="two numbers >= 0, at least one of them positive",
            found=f"{config.num_center} centre and {config.num_random} random points",
            fix="ask for at least one centre or one random point.",
        )
    maps, device = _to_host(labels), labels.device

    def choose(index: int, image_rng: np.random.Generator) -> NDArray[np.float32]:
        return image_points(maps()[index], num_classes, _draw_from(image_rng), config)

    if isinstance(rng, np.random.Generator):
        tokens = [choose(index, rng) for index in range(len(labels))]
        return partial(_on_device, tokens, config.num_center, device)
    if len(rng) != len(labels):
        raise ValueError(f"{len(labels)} images and {len(rng)} generators")
    with_threads = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="class_points")
    chosen = [with_threads.submit(choose, *each) for each in enumerate(rng)]
    with_threads.shutdown(wait=False)
    return cache(lambda: _on_device([each.result() for each in chosen], config.num_center, device))


def _to_host(labels: Tensor) -> Callable[[], NDArray[np.uint8]]:
    """Copy label maps to the host; what is returned waits for those that are still on their way from a GPU."""
    small = labels.to(torch.uint8)
    if not small.is_cuda:
        return small.cpu().numpy
    on_host = torch.empty(small.shape, dtype=torch.uint8, pin_memory=True)
    on_host.copy_(small, non_blocking=True)
    arrival = torch.cuda.current_stream(small.device).record_event()

    def arrived() -> NDArray[np.uint8]:
        arrival.synchronize()
        return on_host.numpy()

    return arrived


def _on_device(tokens: Sequence[NDArray[np.float32]], num_center: int, device: torch.device) -> ClassPoints:
    """Points of :func:`image_points`, image by image, as tensors."""
    on_host = torch.from_numpy(np.stack(tokens))
    # Without pinned memory the copy would wait until the device has done all that it was asked before.
    on_device = on_host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else on_host.to(device)
    center, random = on_device[:, :, :num_center].flatten(1, 2), on_device[:, :, num_center:].flatten(1, 2)
    return ClassPoints(center[..., :2], center[..., 2].long(), random[..., :2], random[..., 2].long())


def image_points(
    labels: NDArray[np.uint8],
    num_classes: int,
    draw: Draw,
    config: PromptsConfig = PromptsConfig(),
) -> NDArray[np.float32]:
    """Choose the points of one image; the arguments are those of :func:`class_points`.

    Draws follow the authors' order: class by class, its random points first. With ``draw`` the ``randint`` of
    ``numpy.random.RandomState(seed)`` the points are those of their code under ``numpy.random.seed(seed)``.

    Args:
        labels: uint8 ``(H, W)`` class ids.
        num_classes: ``K``.
        draw: Uniform draw from 0..n-1.
        config: How many points, of which classes.

    Returns:
        float32 ``(K, num_center + num_random, 3)`` of (x, y, label), centres first; ``K - 1`` rows without background.
    """
    num_center, num_random = config.num_center, config.num_random
    first_class = 0 if config.include_background else 1
    background_stands_in = config.include_background and config.absent == "background_point"
    stand_in = (0, 0, 0 if background_stands_in else NOT_A_POINT)
    tokens = np.empty((num_classes - first_class, num_center + num_random, 3), np.float32)
    for class_id in range(first_class, num_classes):
        component = largest_component(labels == class_id)
        token = tokens[class_id - first_class]
        if component is None:
            token[:] = stand_in
            continue
        pixels = inner_pixels(component)
        token[num_center:, :2] = component.points([pixels[draw(len(pixels))] for _ in range(num_random)])
        is_stand_in = class_id == 0 and background_stands_in
        centers = _centers(component, max(num_center, int(is_stand_in)), draw)
        token[:num_center, :2] = centers[:num_center]
        token[:, 2] = class_id
        if is_stand_in:
            stand_in = (*centers[0], 0)
    return tokens


def _centers(component: Component, count: int, draw: Draw) -> NDArray[np.int64]:
    rest = component._replace(mask=component.mask.copy())
    centers = np.empty((count, 2), np.int64)
    for i in range(count):
        if not rest.mask.any():
            centers[i:] = centers[0]
            break
        deepest, radius = deepest_pixels(rest)
        pixel = deepest[draw(len(deepest))]
        centers[i] = rest.points(pixel)
        if i + 1 < count:
            row, column = divmod(pixel, rest.mask.shape[1])
            rows, columns = np.ogrid[: rest.mask.shape[0], : rest.mask.shape[1]]
            rest.mask[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = 0
    return centers


def _draw_from(rng: np.random.Generator) -> Draw:
    return lambda n: int(rng.integers(n))
