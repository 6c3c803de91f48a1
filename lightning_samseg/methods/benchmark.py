"""The speed of CPC-SAM's training step, side by side: what makes it cheap on a CPU."""

import statistics
from typing import Any

from lightning_samseg.methods.cpc_sam import CpcSam
from lightning_samseg.methods.timing import StepTimer, fit, semi_batches
from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.sam_config import AdapterConfig, PretrainedSam
from lightning_samseg.optim import OptimizerConfig

CHEAPER: dict[str, dict[str, Any]] = {
    "lora_everywhere": {},
    "lora_in_the_last_two": {"adapter": AdapterConfig(blocks=[-2, -1])},
    "last_two_encode_once": {"adapter": AdapterConfig(blocks=[-2, -1]), "encode_once": True},
    "frozen_encode_once": {"adapter": AdapterConfig(rank=0), "encode_once": True},
    "frozen_encode_once_pooled": {"adapter": AdapterConfig(rank=0), "encode_once": True, "embedding_pool": 2},
}
"""Settings from the dearest to the cheapest."""


def benchmark_cheap_step(
    repeats: int = 3,
    backbone: BackboneName = "lite_medsam",
    image_size: int = 112,
    batch: int = 6,
    num_classes: int = 1,
    precision: Any = "bf16-mixed",
) -> dict[str, Any]:
    """Processor seconds per iteration of CPC-SAM with the options that make it cheap, turn by turn in one process.

    Images come again, so that what is encoded once is looked up, as after the first of ``data.views``.

    Args:
        repeats: Measured iterations of each; a first round, which fills the disk, is not counted.
        backbone: Any; its pretrained weights are needed but for ``tiny``.
        image_size: Side of the input in pixels.
        batch: Images per iteration, half of them labelled.
        num_classes: Foreground classes.
        precision: Of Lightning's Trainer.

    Returns:
        Median seconds of each, and how many times as fast it is as LoRA in all blocks.
    """
    batches = semi_batches(image_size, batch // 2, batch // 2, num_classes)
    seconds: dict[str, list[float]] = {name: [] for name in CHEAPER}
    models = {
        name: CpcSam(
            sam=PretrainedSam(backbone),
            image_size=image_size,
            num_classes=num_classes,
            ssl_start_iter=0,
            optimizer=OptimizerConfig(lr=1e-4),
            **options,
        )
        for name, options in CHEAPER.items()
    }
    for _ in range(repeats + 1):
        for name, model in models.items():
            timer = StepTimer()
            fit(model, batches, precision, timer)
            seconds[name].append(timer.seconds[-1][1])
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    dearest = medians["lora_everywhere"]
    return {
        **{f"{name}_s": value for name, value in medians.items()},
        **{f"{name}_speedup": dearest / value for name, value in medians.items()},
        **{"backbone": backbone, "image_size": image_size, "batch": batch, "precision": str(precision)},
    }
