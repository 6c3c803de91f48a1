"""The speed of CPC-SAM's training step, side by side: what makes it cheap on a CPU."""

import statistics
import time
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from lightning_samseg.methods.cpc_sam import CpcSam
from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.branched_sam import AdapterConfig
from lightning_samseg.models.sam_config import PretrainedSam
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
    batches: Any = _batches(image_size, batch, num_classes, 2)
    data: DataLoader[Any] = DataLoader(batches, batch_size=None)
    seconds: dict[str, list[float]] = {name: [] for name in CHEAPER}
    timers = {name: _Timer(backbone, image_size, num_classes, **options) for name, options in CHEAPER.items()}
    for _ in range(repeats + 1):
        for name, model in timers.items():
            model.clock = time.process_time
            _fit(model, data, precision)
            seconds[name].append(model.seconds[-1])
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    dearest = medians["lora_everywhere"]
    return {
        **{f"{name}_s": value for name, value in medians.items()},
        **{f"{name}_speedup": dearest / value for name, value in medians.items()},
        **{"backbone": backbone, "image_size": image_size, "batch": batch, "precision": str(precision)},
    }


def _fit(model: CpcSam, data: DataLoader[Any], precision: Any) -> None:
    """Two iterations."""
    trainer = lightning.Trainer(
        max_steps=2,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)


class _Timer(CpcSam):
    """Measures whole iterations, from batch to batch."""

    def __init__(self, backbone: BackboneName, image_size: int, num_classes: int, **arguments: Any) -> None:
        super().__init__(
            sam=PretrainedSam(backbone),
            image_size=image_size,
            num_classes=num_classes,
            ssl_start_iter=0,
            optimizer=OptimizerConfig(lr=1e-4),
            **arguments,
        )
        self.seconds: list[float] = []
        self.clock = time.perf_counter

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._start = self._now()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seconds.append(self._now() - self._start)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.clock()


def _batches(image_size: int, batch: int, num_classes: int, count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    half = batch // 2

    def images() -> torch.Tensor:
        return torch.rand(half, 3, image_size, image_size, generator=generator)

    coarse = torch.randint(0, num_classes + 1, (half, 4, 4), generator=generator)
    mask = coarse.repeat_interleave(image_size // 4, 1).repeat_interleave(image_size // 4, 2)
    return [{"labelled": {"image": images(), "mask": mask}, "unlabelled": {"image": images()}} for _ in range(count)]
