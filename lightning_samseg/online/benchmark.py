"""What AuxOL costs beside its network, and what passes of many images bring to fill the cache of SAM's logits."""

import statistics
import tempfile
import time
from typing import Any

import numpy as np
import torch

from lightning_samseg.losses.binary import dice_loss
from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.frozen_sam import FrozenSam
from lightning_samseg.models.unet import AuxiliaryConfig, build_auxiliary
from lightning_samseg.online.batch import BatchConfig, OnlineBatch
from lightning_samseg.online.cache import LogitsCache
from lightning_samseg.online.crop_network import CropNetwork
from lightning_samseg.online.crops import network_target
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.fusion import Fusion, FusionConfig
from lightning_samseg.online.learner import OnlineLearner
from lightning_samseg.online.prefetch import Request, SamPrefetcher, sam_prefetcher
from lightning_samseg.prompts.boxes import Box


def benchmark_online(
    repeats: int = 3,
    rounds: int = 4,
    width: float | None = None,
    crop_size: int | None = None,
    capacity: int = 32,
    image_size: tuple[int, int] = (528, 620),
    seed: int = 0,
) -> dict[str, Any]:
    """Time a round of the stream with one box prompt, SAM's logits in the cache, and the network's step alone.

    The round finds SAM's logits (of 1024 px) on the disk, brings them to the image's size, predicts, gets feedback and
    learns. The step is forward, loss, backward and AdamW on the full online batch. Both are measured in turn on one
    network.

    Args:
        repeats: Measurements of each, of which the median counts, after one that does not.
        rounds: Prompts per measurement.
        width: Of the U-Net; None: 1 on a GPU (17.3 M parameters), 1/4 on a CPU.
        crop_size: Side of its input; None: 128 on a GPU, 64 on a CPU.
        capacity: Of the online batch, which is full.
        image_size: ``(H, W)`` of the images; the default is Kvasir's mean.
        seed: Of weights and images.

    Returns:
        The arguments, ``device``, ``online_s`` and ``bare_s`` (seconds per prompt) and their ``ratio``.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    width = (1.0 if on_gpu else 0.25) if width is None else width
    crop_size = (128 if on_gpu else 64) if crop_size is None else crop_size
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_auxiliary(AuxiliaryConfig(width=width), in_channels=4).to(device)
    crops_of = CropNetwork(network, crop_size=crop_size, extra_channel="mask")
    learner = OnlineLearner(crops_of, Fusion(FusionConfig("adaptive")), OnlineBatch(BatchConfig(capacity)))
    stream = _Stream(image_size, rounds, seed)
    inside = torch.from_numpy(stream.reference[stream.box.slices] > 0).to(device)
    with tempfile.TemporaryDirectory() as folder:
        stream.fill(folder)
        for position in range(capacity):
            (prompt,) = learner.predict(*stream.sample(position, device), position).prompts
            learner.batch.insert(prompt.network_input, network_target(inside, crop_size), torch.ones((), device=device))

        online, bare = [], []
        for repeat in range(repeats + 1):
            start = _now(device)
            for number in range(rounds):
                prediction = learner.predict(*stream.sample(number, device), capacity + repeat * rounds + number)
                learner.learn(prediction, Expert().feedback(prediction, stream.reference))
            middle = _now(device)
            for _ in range(rounds):
                crops, masks = learner.batch.tensors()
                learner.network.optimizer.zero_grad()
                torch.autograd.backward(dice_loss(network.train()(crops), masks).mean())
                learner.network.optimizer.step()
            online.append((middle - start) / rounds)
            bare.append((_now(device) - middle) / rounds)
    online_s, bare_s = statistics.median(online[1:]), statistics.median(bare[1:])
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "repeats": repeats,
        "rounds": rounds,
        "width": width,
        "crop_size": crop_size,
        "capacity": capacity,
        "image_size": list(image_size),
        "seed": seed,
        "online_s": online_s,
        "bare_s": bare_s,
        "ratio": online_s / bare_s,
    }


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
    """Noise with a disc, SAM's logits for it and its box: the content does not matter for the time."""

    def __init__(self, image_size: tuple[int, int], length: int, seed: int) -> None:
        height, width = image_size
        rng = np.random.default_rng(seed)
        self.pictures = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(length)]
        rows, columns = np.ogrid[:height, :width]
        radius = min(height, width) // 4
        self.reference = (np.hypot(rows - height // 2, columns - width // 2) < radius).astype(np.uint8)
        self.box = Box(width // 2 - radius, height // 2 - radius, width // 2 + radius, height // 2 + radius)

    def fill(self, folder: str) -> None:
        """Put logits for every picture, of the size of SAM's, on the disk."""
        self.generalist = FrozenSam("tiny", image_size=1024)
        low_res = torch.randn(1, 256, 256, generator=torch.Generator().manual_seed(0))
        cache = LogitsCache(folder, 10**9)
        self.ahead = SamPrefetcher(lambda requests: [low_res] * len(requests), "benchmark", "box", 1, cache)
        for picture in self.pictures:
            self.ahead.logits(Request(picture, np.array([self.box], np.float64)))

    def sample(self, number: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, list[Box]]:
        """A picture with SAM's logits from the disk, as ``AuxOl`` gets them."""
        picture = self.pictures[number % len(self.pictures)]
        low_res = self.ahead.logits(Request(picture, np.array([self.box], np.float64))).to(device).float()
        logits = self.generalist.restore(low_res, self.generalist.geometry(picture))
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))), logits, [self.box]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
