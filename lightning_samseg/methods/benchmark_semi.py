"""Time and memory of a training step of the semi-supervised methods, beside the supervised U-Net's, in one run."""

import ctypes
import gc
import os
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.methods.bcp import Bcp
from lightning_samseg.methods.cps import Cps
from lightning_samseg.methods.dc_net import DcNet
from lightning_samseg.methods.mc_net_plus import McNetPlus
from lightning_samseg.methods.semi_sam import SemiSam
from lightning_samseg.methods.supervised import UNet
from lightning_samseg.methods.timing import StepTimer, fit
from lightning_samseg.methods.uamt import Uamt
from lightning_samseg.methods.unimatch import UniMatch
from lightning_samseg.methods.urpc import Urpc
from lightning_samseg.models.branched_unet import NetworkConfig
from lightning_samseg.optim import OptimizerConfig
from lightning_samseg.types import Case

METHODS: dict[str, tuple[type[BaseMethod], dict[str, Any]]] = {
    "unet": (UNet, {}),
    "mean_teacher": (SemiSam, {"sam_consistency": 0.0}),
    "uamt": (Uamt, {}),
    "uamt_one_teacher_pass": (Uamt, {"teacher_passes": 1}),
    "cps": (Cps, {}),
    "urpc": (Urpc, {}),
    "mc_net_plus": (McNetPlus, {}),
    "dc_net": (DcNet, {}),
    "bcp": (Bcp, {"pretrain_iters": 0}),
    "unimatch": (UniMatch, {}),
    "semi_sam": (SemiSam, {}),
}


def benchmark_semi(
    repeats: int = 3,
    image_size: int = 256,
    batch: int = 24,
    num_classes: int = 3,
    backbone: str = "lite_medsam",
    precision: Any = "32-true",
    only: str | None = None,
) -> dict[str, Any]:
    """Seconds per iteration and peak memory of each method on the same generated images, turn by turn in one process.

    Half of a batch is labelled; the U-Net has as many images, all of them labelled, and UniMatch half a batch more to
    mix in. SemiSAM's embeddings are in memory: its first iteration, which makes them, does not count.

    Args:
        repeats: Measured iterations of each method, each after one that is not counted.
        image_size: Side of the input in pixels.
        batch: Images per iteration, a multiple of 4.
        num_classes: Foreground classes.
        backbone: SemiSAM's SAM; its pretrained weights are needed but for ``tiny``.
        precision: Of Lightning's Trainer.
        only: Names of methods, separated by commas; None for all.

    Returns:
        Of each method the median seconds, and those of the processor, over all threads; the ratio to the U-Net's, on a
        CPU of the latter, which other jobs disturb less; and the peak memory above what the process held before, in
        MiB: allocated on a GPU, else resident (Linux). ``semi_sam_over_mean_teacher`` is what SAM adds.
    """
    names = list(METHODS) if only is None else only.split(",")
    methods = {name: _build(name, image_size, num_classes, backbone) for name in names}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    memory: dict[str, float | None] = {}
    for _ in range(repeats):
        for name, method in methods.items():
            with _peak_memory() as peak:
                timer = StepTimer()
                fit(method, _batches(name, image_size, batch, num_classes), precision, timer)
            times[name].append(timer.seconds[-1])
            # What was freed once may stay with the process, so that later repeats need less anew.
            memory[name] = max(filter(None, (memory.get(name), peak[0])), default=None)
    seconds, cpu_seconds = (
        {name: statistics.median(each[which] for each in times[name]) for name in names} for which in (0, 1)
    )
    compared = seconds if torch.cuda.is_available() else cpu_seconds
    rows = {
        name: {
            "seconds": seconds[name],
            "cpu_seconds": cpu_seconds[name],
            "over_unet": compared[name] / compared["unet"] if "unet" in names else None,
            "peak_mib": memory[name],
        }
        for name in names
    }
    both = "semi_sam" in names and "mean_teacher" in names
    return {
        "methods": rows,
        "semi_sam_over_mean_teacher": compared["semi_sam"] / compared["mean_teacher"] if both else None,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "image_size": image_size,
        "batch": batch,
        "backbone": backbone,
        "precision": str(precision),
    }


def _build(name: str, image_size: int, num_classes: int, backbone: str) -> BaseMethod:
    kind, arguments = METHODS[name]
    if kind is SemiSam:
        arguments = {**arguments, "sam": {"backbone": backbone}}
    recipe: dict[str, Any] = {
        "network": NetworkConfig("paper", in_channels=1),
        "optimizer": OptimizerConfig("sgd", lr=0.01, weight_decay=1e-4, warmup_iters=0),
    }
    torch.manual_seed(0)
    method = kind(num_classes=num_classes, image_size=image_size, **recipe, **arguments)
    if isinstance(method, SemiSam):
        picture = np.random.default_rng(0).integers(0, 255, (image_size, image_size, 3), dtype=np.uint8)
        method.picture = lambda _: picture  # type: ignore[method-assign, assignment]
    return method


@contextmanager
def _peak_memory() -> Iterator[list[float | None]]:
    """Fill a list with the largest memory in between, in MiB above that at the beginning; None if it is not known."""
    peak: list[float | None] = [None]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        yield peak
        peak[0] = (torch.cuda.max_memory_allocated() - allocated) / 2**20
        return
    _give_back()
    before, done, highest = _resident(), threading.Event(), [0.0]
    if before is None:
        yield peak
        return

    def watch() -> None:
        while not done.wait(0.005):
            highest[0] = max(highest[0], _resident() or 0.0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield peak
    done.set()
    watcher.join()
    peak[0] = max(highest[0] - before, 0.0)


def _give_back() -> None:
    """Return to the system what was freed: what an earlier method left would hide what this one needs."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library


def _resident() -> float | None:
    """Resident memory of this process in MiB, on Linux."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _batches(name: str, image_size: int, batch: int, num_classes: int) -> list[dict[str, Any]]:
    """Two iterations; smooth images and masks, as noise would give components by the thousand."""
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Tensor:
        coarse = torch.rand(count, 1, 8, 8, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, size=image_size, mode="bilinear")
        return fine.expand(-1, 3, -1, -1)

    def labelled(count: int) -> dict[str, Any]:
        coarse = torch.randint(0, num_classes + 1, (count, 4, 4), generator=generator)
        mask = coarse.repeat_interleave(image_size // 4, 1).repeat_interleave(image_size // 4, 2)
        return {"image": images(count), "mask": mask}

    if name == "unet":
        return [labelled(batch) for _ in range(2)]
    half = batch // 2
    count = batch if name == "unimatch" else half
    size = (image_size, image_size)
    cases = [Case(str(i), str(i), size, size) for i in range(count)]
    unlabelled = {"image": images(count), "motion": torch.eye(2, 3).expand(count, 2, 3), "cases": cases}
    return [{"labelled": labelled(half), "unlabelled": unlabelled} for _ in range(2)]
