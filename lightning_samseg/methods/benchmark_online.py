"""What a prompt of AuxOL costs at the paper's setting, part by part: before, now, in bfloat16, with the fast preset."""

from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.methods.aux_ol import AuxOl
from lightning_samseg.methods.timing import now
from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.frozen_sam import FrozenSam
from lightning_samseg.models.sam_config import SamConfig
from lightning_samseg.online.step import ImageOutcome
from lightning_samseg.online.stream_record import stream_record
from lightning_samseg.types import Case, StreamItem

PARTS = ("sam", "predict", "learn", "score")
FAST: dict[str, Any] = {
    "sam": {"backbone": "lite_medsam"},
    "auxiliary": {"network": "unet4m", "precision": "auto"},
    "crop": {"size": 96},
    "fusion": {"kind": "best_so_far", "window": 20},
    "learning": {"loss": "structure", "update_entries": 4, "entries": "drawn"},
}
"""``experiments/aux_ol/preset_fast.yaml``."""
WAYS: dict[str, dict[str, Any]] = {
    "before": {},
    "fp32": {},
    "bf16": {"auxiliary": {"precision": "bf16"}},
    "fast": FAST,
}
"""Arguments of ``AuxOl``, over the paper's; ``before`` has AdamW as PyTorch gives it for a CPU."""


def benchmark_online(
    backbone: BackboneName = "lite_medsam",
    repeats: int = 3,
    rounds: int = 1,
    width: float = 1.0,
    crop_size: int = 128,
    image_size: tuple[int, int] = (528, 620),
    ways: str = "before,fp32,bf16,fast",
    seed: int = 0,
) -> dict[str, Any]:
    """Time a prompt of the stream with a full online batch of 32, in turn in each way, with random weights.

    Args:
        backbone: The generalist; the fast preset has its own.
        repeats: Measurements of each way, in turn, of which the median counts, after one that does not.
        rounds: Prompts per measurement.
        width: Factor on the channels of the auxiliary networks.
        crop_size: Side of the network's input; the fast preset has its own.
        image_size: ``(H, W)`` of the images; the default is Kvasir's mean.
        ways: Which, with commas, the first being what the others are compared with: ``before`` is float32 with AdamW
            parameter by parameter, ``fp32`` and ``bf16`` are the paper's setting as it is now, ``fast`` is
            ``experiments/aux_ol/preset_fast.yaml``.
        seed: Of weights and images.

    Returns:
        The arguments, ``device``, ``threads`` and for each way ``parts_s`` (seconds per prompt for SAM, prediction,
        learning and scoring), their sum ``prompt_s``, the processor's time ``cpu_s`` over all threads, which other
        programs disturb less, and how many ``times_as_fast`` it is as the first, and its learning alone.

    Raises:
        UserError: If a way is unknown.
    """
    names = [name.strip() for name in ways.split(",")]
    if unknown := [name for name in names if name not in WAYS]:
        raise UserError(
            f"The benchmark online has no way {unknown[0]!r}.",
            expected=", ".join(WAYS),
            fix="correct it, or leave it out",
        )
    base = {"sam": {"backbone": backbone}, "auxiliary": {"width": width}, "crop": {"size": crop_size}}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    methods = {name: ready(merged(base, WAYS[name]), device, name == "before", seed) for name in names}
    spent: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in names}
    for repeat in range(repeats + 1):
        for name, method in methods.items():
            images = [noise(image_size, seed + repeat * rounds + number) for number in range(rounds)]
            every = [timed_parts(method, item) for item in images]
            parts = zip(*every, strict=True)
            spent[name].append([(fmean(wall for wall, _ in part), fmean(cpu for _, cpu in part)) for part in parts])
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "backbone": backbone,
        "repeats": repeats,
        "rounds": rounds,
        "width": width,
        "crop_size": crop_size,
        "image_size": list(image_size),
        "seed": seed,
    }
    for name in names:
        wall, cpu = (
            {part: median(each[i][kind] for each in spent[name][1:]) for i, part in enumerate(PARTS)} for kind in (0, 1)
        )
        result[name] = {"parts_s": wall, "prompt_s": sum(wall.values()), "cpu_s": sum(cpu.values())}
        first = result[names[0]]
        result[name]["times_as_fast"] = {
            "prompt": first["prompt_s"] / result[name]["prompt_s"],
            "learn": first["parts_s"]["learn"] / wall["learn"],
            "cpu": first["cpu_s"] / result[name]["cpu_s"],
        }
    return result


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of groups, the second over the first."""
    together = {**one, **other}
    return {
        name: {**one.get(name, {}), **value} if isinstance(value, Mapping) else value
        for name, value in together.items()
    }


def ready(arguments: Mapping[str, Any], device: str, plain: bool = False, seed: int = 0) -> AuxOl:
    """AuxOL with random weights, SAM's too, on the device, where the online batch is full.

    Args:
        arguments: Of the constructor, in groups.
        device: ``cuda`` or ``cpu``.
        plain: With AdamW parameter by parameter, as PyTorch gives it for a CPU.
        seed: Of the weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        method = AuxOl(**{**arguments, "cache_gb": 0, "seed": seed})
        sam = SamConfig(**method.hparams["sam"])
        frozen = FrozenSam(sam.backbone, sam.size, None, sam.preprocessing, pretrained=False)
    vars(method)["generalist"] = frozen.to(device)  # not a submodule
    method.to(device)
    network, batch = method.learner.network, method.learner.batch
    if plain:
        for group in network.optimizer.param_groups:
            group["fused"] = False
    crop = torch.rand(network.in_channels, network.crop_size, network.crop_size, device=device)
    while len(batch) < batch.capacity:  # a new entry has a larger loss, and takes the place of the first
        batch.insert(crop, (crop[:1] > 0.5).float(), torch.zeros((), device=device))
    return method


def noise(image_size: tuple[int, int], seed: int) -> StreamItem:
    """Noise with a disc as its object: the content does not matter for the time."""
    height, width = image_size
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, columns = np.ogrid[:height, :width]
    disc = np.hypot(rows - height // 2, columns - width // 2) < min(height, width) // 4
    case = Case(f"noise{seed}", "noise.png", image_size, image_size)
    return StreamItem(position=seed, set_name="noise", cases=[case], original=picture, reference=disc.astype(np.uint8))


def timed_parts(method: AuxOl, item: StreamItem) -> list[tuple[float, float]]:
    """Take a step of the stream with one image, and time it.

    Args:
        method: On its device.
        item: An image with one prompt.

    Returns:
        Seconds of the clock and of the processor for each of ``PARTS``.
    """
    prompts = method.prompter.prompts_of(item)
    moments = [now()]
    image = method.arrival(item, prompts)
    moments.append(now())
    prediction = method.learner.predict(image.image, image.sam_logits, image.crops, image.position)
    moments.append(now())
    feedback = method.expert.feedback(prediction, image.reference, image.name)
    outcomes = method.learner.learn(prediction, feedback)
    moments.append(now())
    stream_record(ImageOutcome(prediction, feedback, outcomes), item, prompts, method.convention)
    moments.append(now())
    return [(end[0] - start[0], end[1] - start[1]) for start, end in pairwise(moments)]
