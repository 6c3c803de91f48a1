"""What benchmarks of training steps share: generated batches, a trainer with nothing around it, a clock."""

import time
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader


class StepTimer(lightning.Callback):
    """Seconds of each step, from its batch to the next, when the device has done all of it."""

    def __init__(self) -> None:
        self.seconds: list[tuple[float, float]] = []
        """By the clock, and of the processor over all threads, which other programs disturb less."""

    def on_train_batch_start(self, *_: Any) -> None:
        """Start."""
        self._start = now()

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop."""
        wall, cpu = now()
        self.seconds.append((wall - self._start[0], cpu - self._start[1]))


def fit(method: lightning.LightningModule, batches: list[Any], precision: Any, timer: StepTimer | None = None) -> None:
    """Train on some batches, and do nothing else.

    Args:
        method: What learns.
        batches: One for each step.
        precision: Of Lightning's Trainer.
        timer: Told of each step.
    """
    trainer = lightning.Trainer(
        max_steps=len(batches),
        precision=precision,
        devices=1,
        callbacks=[] if timer is None else [timer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data: Any = batches
    trainer.fit(method, DataLoader(data, batch_size=None))


def semi_batches(size: int, labelled: int, unlabelled: int, num_classes: int, count: int = 2) -> list[dict[str, Any]]:
    """Batches of noise, with masks of blocks of all classes.

    Args:
        size: Side of the images in pixels.
        labelled: Images with a mask.
        unlabelled: Images without.
        num_classes: C.
        count: Batches.
    """
    generator = torch.Generator().manual_seed(0)

    def images(number: int) -> Tensor:
        return torch.rand(number, 3, size, size, generator=generator)

    coarse = torch.randint(0, num_classes + 1, (labelled, 4, 4), generator=generator)
    mask = coarse.repeat_interleave(size // 4, 1).repeat_interleave(size // 4, 2)
    return [
        {"labelled": {"image": images(labelled), "mask": mask}, "unlabelled": {"image": images(unlabelled)}}
        for _ in range(count)
    ]


def matmul_gflops(dtype: torch.dtype, side: int = 1536, device: str | None = None) -> float:
    """Rate of a product of two square matrices, in 10^9 operations per second of the clock; the best of three.

    Args:
        dtype: Of the matrices.
        side: Their rows and columns.
        device: None: a GPU where there is one.
    """
    a = torch.rand(side, side, device=device or ("cuda" if torch.cuda.is_available() else "cpu")).to(dtype)
    seconds = []
    for _ in range(3):
        start = now()[0]
        a @ a
        seconds.append(now()[0] - start)
    return 2 * side**3 / min(seconds) / 1e9


def now() -> tuple[float, float]:
    """The clock and the processor's time in seconds, once a GPU has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()
