"""The speed of CPC-SAM's training step: the joint update against the authors' three rounds, side by side."""

import statistics
import time
from typing import Any, Literal

import lightning
import torch
from torch.utils.data import DataLoader

from lightning_samseg.methods.cpc_sam import CpcSam
from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.sam_config import PretrainedSam
from lightning_samseg.optim import OptimizerConfig

Update = Literal["joint", "sequential"]


def benchmark_cpc_step(
    repeats: int = 3,
    backbone: BackboneName = "lite_medsam",
    image_size: int = 112,
    batch: int = 4,
    num_classes: int = 3,
    precision: Any = "bf16-mixed",
) -> dict[str, Any]:
    """Seconds per iteration of both schedules on the same generated images, turn by turn in one process.

    Args:
        repeats: Measured iterations of each schedule, each after one that is not counted.
        backbone: Any; its pretrained weights are needed but for ``tiny``.
        image_size: Side of the input in pixels.
        batch: Images per iteration, half of them labelled.
        num_classes: Foreground classes.
        precision: Of Lightning's Trainer.

    Returns:
        Median seconds of each and their ratio ``sequential / joint``; on a GPU also the peak memory of each in MiB.
    """
    seconds: dict[Update, list[float]] = {"joint": [], "sequential": []}
    memory: dict[str, float] = {}
    updates: tuple[Update, ...] = ("joint", "sequential")
    timers = {update: _Timer(update, backbone, image_size, num_classes) for update in updates}
    batches: Any = _batches(image_size, batch, num_classes, 2)
    data: DataLoader[Any] = DataLoader(batches, batch_size=None)
    for _ in range(repeats):
        for update, model in timers.items():
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            trainer = lightning.Trainer(
                max_steps=2,
                precision=precision,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(model, data)
            seconds[update].append(model.seconds[-1])  # the first iteration of a fit is not counted
            if torch.cuda.is_available():
                memory[f"{update}_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    joint, sequential = (statistics.median(seconds[update]) for update in updates)
    return {
        "joint_s": joint,
        "sequential_s": sequential,
        "speedup": sequential / joint,
        **memory,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "backbone": backbone,
        "image_size": image_size,
        "batch": batch,
        "precision": str(precision),
    }


class _Timer(CpcSam):
    """Measures whole iterations, from batch to batch."""

    def __init__(self, update: Update, backbone: BackboneName, image_size: int, num_classes: int) -> None:
        super().__init__(
            sam=PretrainedSam(backbone),
            image_size=image_size,
            num_classes=num_classes,
            update=update,
            ssl_start_iter=0,
            optimizer=OptimizerConfig(lr=1e-4),
        )
        self.seconds: list[float] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._start = self._now()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seconds.append(self._now() - self._start)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _batches(image_size: int, batch: int, num_classes: int, count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    half = batch // 2

    def images() -> torch.Tensor:
        return torch.rand(half, 3, image_size, image_size, generator=generator)

    coarse = torch.randint(0, num_classes + 1, (half, 4, 4), generator=generator)
    mask = coarse.repeat_interleave(image_size // 4, 1).repeat_interleave(image_size // 4, 2)
    return [{"labelled": {"image": images(), "mask": mask}, "unlabelled": {"image": images()}} for _ in range(count)]
