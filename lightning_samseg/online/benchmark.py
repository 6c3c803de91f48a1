"""What passes of many images bring to fill the cache of SAM's logits."""

import statistics
import time
from typing import Any

import numpy as np
import torch

from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.frozen_sam import FrozenSam
from lightning_samseg.online.prefetch import Request, sam_prefetcher
from lightning_samseg.prompts.boxes import Box


def benchmark_fill(
    backbone: BackboneName = "lite_medsam",
    images: int = 8,
    batch: int = 4,
    repeats: int = 3,
    image_size: tuple[int, int] = (528, 620),
    seed: int = 0,
) -> dict[str, Any]:
    """Time SAM's logits for a stream of unseen images, one box each: one image at a time, and ``batch`` in a pass.

    Args:
        backbone: The generalist; its weights must be cached.
        images: Of the stream.
        batch: Images in a pass.
        repeats: Measurements of each, in turn, of which the median counts, after one that does not.
        image_size: ``(H, W)``.
        seed: Of the images.

    Returns:
        The arguments, ``device``, ``single_s`` and ``batched_s`` (seconds per image), their ``ratio``, whether the
        logits of both are ``equal`` bit for bit, and whether those of a pass are ``apart``: not changed by neighbours.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generalist = FrozenSam(backbone).to(device)
    stream = _Stream(image_size, images, seed)
    box = np.array([stream.box], np.float64)
    requests = [Request(picture, box) for picture in stream.pictures]

    def fill(size: int, start: int = 0) -> tuple[float, list[torch.Tensor]]:
        ahead = sam_prefetcher(generalist, "box", size)
        begin = _now(device)
        passes = [ahead.compute(requests[at : at + size]) for at in range(start, images, size)]
        return _now(device) - begin, [answer for answers in passes for answer in answers]

    pairs = [(fill(1), fill(batch)) for _ in range(repeats + 1)]
    single_s, batched_s = (statistics.median(pair[i][0] for pair in pairs[1:]) / images for i in (0, 1))
    (_, single), (_, batched) = pairs[0]
    _, shifted = fill(batch, start=1)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "backbone": backbone,
        "images": images,
        "batch": batch,
        "repeats": repeats,
        "image_size": list(image_size),
        "seed": seed,
        "single_s": single_s,
        "batched_s": batched_s,
        "ratio": single_s / batched_s,
        "equal": all(torch.equal(one, other) for one, other in zip(single, batched, strict=True)),
        "apart": all(torch.equal(one, other) for one, other in zip(batched[1:], shifted, strict=True)),
    }


class _Stream:
    """Noise and a box in it: the content does not matter for the time."""

    def __init__(self, image_size: tuple[int, int], length: int, seed: int) -> None:
        height, width = image_size
        rng = np.random.default_rng(seed)
        self.pictures = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(length)]
        radius = min(height, width) // 4
        self.box = Box(width // 2 - radius, height // 2 - radius, width // 2 + radius, height // 2 + radius)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
