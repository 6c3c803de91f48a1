"""What AuxOL costs beside its network: a round of the stream against the bare training step on the same batch."""

import statistics
import time
from typing import Any

import numpy as np
import torch

from lightning_samseg.losses.binary import dice_loss
from lightning_samseg.models.unet import build_auxiliary
from lightning_samseg.online.batch import OnlineBatch
from lightning_samseg.online.crops import network_target
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.fusion import Fusion
from lightning_samseg.online.learner import OnlineLearner
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
    """Time predict, feedback and learn for one box prompt, SAM's logits given, and the network's step alone.

    The step is forward, loss, backward and AdamW on the full online batch. Both are measured in turn on one network.

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
        network = build_auxiliary(in_channels=4, width=width).to(device)
    learner = OnlineLearner(
        network, Fusion("adaptive"), OnlineBatch(capacity), crop_size=crop_size, extra_channel="mask"
    )
    stream = _Stream(image_size, seed)
    inside = torch.from_numpy(stream.reference[stream.box.slices] > 0).to(device)
    for position in range(capacity):
        (prompt,) = learner.predict(*stream.sample(), position).prompts
        learner.batch.insert(prompt.network_input, network_target(inside, crop_size), torch.ones((), device=device))

    online, bare = [], []
    for repeat in range(repeats + 1):
        start = _now(device)
        for number in range(rounds):
            prediction = learner.predict(*stream.sample(), capacity + repeat * rounds + number)
            learner.learn(prediction, Expert().feedback(prediction, stream.reference))
        middle = _now(device)
        for _ in range(rounds):
            crops, masks = learner.batch.tensors()
            learner.optimizer.zero_grad()
            torch.autograd.backward(dice_loss(network.train()(crops), masks).mean())
            learner.optimizer.step()
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


class _Stream:
    """A disc, SAM's logits for it and its box: the content does not matter for the time."""

    def __init__(self, image_size: tuple[int, int], seed: int) -> None:
        height, width = image_size
        self.rng = np.random.default_rng(seed)
        rows, columns = np.ogrid[:height, :width]
        radius = min(height, width) // 4
        distance = radius - np.hypot(rows - height // 2, columns - width // 2)
        self.reference = (distance > 0).astype(np.uint8)
        self.logits = torch.tensor(distance / 4, dtype=torch.float32)[None]
        self.box = Box(width // 2 - radius, height // 2 - radius, width // 2 + radius, height // 2 + radius)

    def sample(self) -> tuple[torch.Tensor, torch.Tensor, list[Box]]:
        image = torch.from_numpy(self.rng.integers(0, 256, (3, *self.reference.shape), dtype=np.uint8))
        return image, self.logits, [self.box]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
