"""The speed of CPC-SAM's training step: joint update, three rounds, three rounds the usual way, side by side."""

import re
import statistics
from collections.abc import Callable
from types import MethodType
from typing import Any, Literal

import numpy as np
import torch
from segment_anything.modeling.image_encoder import add_decomposed_rel_pos
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.methods.cpc_sam import CpcSam
from lightning_samseg.methods.timing import StepTimer, fit, matmul_gflops, semi_batches
from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.meter import Meter
from lightning_samseg.models.sam_config import PretrainedSam
from lightning_samseg.models.sam_vit import RelPosAttention
from lightning_samseg.optim import OptimizerConfig
from lightning_samseg.prompts.benchmark import per_region_points
from lightning_samseg.prompts.points import ClassPoints

Way = Literal["joint", "sequential", "usual"]
_DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def benchmark_cpc_step(
    repeats: int = 3,
    backbone: BackboneName = "lite_medsam",
    image_size: int = 112,
    batch: str = "2+2",
    num_classes: int = 3,
    precision: str = "32-true,bf16-mixed",
) -> dict[str, Any]:
    """Seconds per iteration of each way on the same generated images and random weights, turn by turn in one process.

    ``joint`` and ``sequential`` are ours. ``usual`` makes the three rounds as the authors' code does: attention of the
    package segment-anything with its N x N bias (SAM's own encoders), and points region by region with a pass over the
    whole image for each.

    Args:
        repeats: Measured iterations of each, each after one that is not counted.
        backbone: Any; no pretrained weights are needed.
        image_size: Side of the input in pixels.
        batch: Labelled and unlabelled images per iteration, such as ``1+1``.
        num_classes: Foreground classes.
        precision: Of Lightning's Trainer; several with commas between.

    Returns:
        For each precision ``matmul_gflops``, the rate of a large product of matrices in the same run, and for each way
        the median ``seconds``, ``cpu_seconds`` over all threads, which other programs disturb less, counted ``gflop``,
        ``share_of_matmul`` (the rate of the step over that of the product) and on a GPU ``peak_mib``; and of what the
        usual way takes as a multiple of ours, ``speedup`` and ``cpu_speedup``.

    Raises:
        UserError: If ``batch`` or ``precision`` is none.
    """
    labelled, unlabelled = _sizes(batch)
    precisions = precision.split(",")
    if unknown := set(precisions) - set(_DTYPES):
        found = ", ".join(sorted(unknown))
        raise UserError("That is no precision.", expected=", ".join(_DTYPES), found=found, fix="correct it")
    ways: tuple[Way, ...] = ("joint", "sequential", "usual")
    models = {way: _Way(way, backbone, image_size, num_classes) for way in ways}
    batches = semi_batches(image_size, labelled, unlabelled, num_classes)
    found_at: dict[str, Any] = {}
    for each in precisions:
        rows: dict[str, Any] = {way: _count(model, batches, each) for way, model in models.items()}
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        rate = 0.0
        for _ in range(repeats):
            rate = max(rate, matmul_gflops(_DTYPES[each]))
            for way, model in models.items():
                times[way].append(_time(model, batches, each))
                if torch.cuda.is_available():
                    rows[way]["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        for name, row in rows.items():
            row["seconds"], row["cpu_seconds"] = (
                statistics.median(column) for column in zip(*times[name], strict=True)
            )
            row["share_of_matmul"] = row["gflop"] / row["seconds"] / rate
        usual, ours = rows["usual"], rows["joint"]
        found_at[each] = {
            "matmul_gflops": rate,
            **rows,
            "speedup": usual["seconds"] / ours["seconds"],
            "cpu_speedup": usual["cpu_seconds"] / ours["cpu_seconds"],
        }
    return {
        **found_at,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "backbone": backbone,
        "image_size": image_size,
        "batch": batch,
    }


class _Way(CpcSam):
    """CPC-SAM as it is updated one way or another."""

    def __init__(self, way: Way, backbone: BackboneName, image_size: int, num_classes: int) -> None:
        super().__init__(
            sam=PretrainedSam(backbone, pretrained=False),
            image_size=image_size,
            num_classes=num_classes,
            update="joint" if way == "joint" else "sequential",
            ssl_start_iter=0,
            optimizer=OptimizerConfig(lr=1e-4),
        )
        self.is_usual = way == "usual"
        for module in self.modules() if self.is_usual else ():
            if isinstance(module, RelPosAttention):
                module.forward = MethodType(_usual_attention, module)  # type: ignore[method-assign]

    def choose_points(self, labels: Tensor, rngs: list[np.random.Generator]) -> Callable[[], ClassPoints]:
        if not self.is_usual:
            return super().choose_points(labels, rngs)
        tokens = np.stack(
            [
                per_region_points(image, self.num_classes + 1, lambda n, rng=rng: int(rng.integers(n)))  # type: ignore[misc]
                for image, rng in zip(labels.to(torch.uint8).cpu().numpy(), rngs, strict=True)
            ]
        )
        chosen = torch.from_numpy(tokens).float().to(labels.device)
        center, random = chosen[:, :, 0], chosen[:, :, 1]
        points = ClassPoints(center[..., :2], center[..., 2].long(), random[..., :2], random[..., 2].long())
        return lambda: points


def _usual_attention(attention: RelPosAttention, x: Tensor) -> Tensor:
    """As ``segment_anything.modeling.image_encoder.Attention`` computes it, with all scores and biases in memory."""
    batch, height, width, dim = x.shape
    heads, head_dim = attention.num_heads, dim // attention.num_heads

    def split(projected: Tensor) -> Tensor:
        return projected.view(batch, -1, heads, head_dim).transpose(1, 2).reshape(batch * heads, -1, head_dim)

    q, k, v = split(attention.q_proj(x)), split(attention.k_proj(x)), split(attention.v_proj(x))
    scores = (q * head_dim**-0.5) @ k.transpose(-2, -1)
    sides = (height, width)
    scores = add_decomposed_rel_pos(scores, q, attention.rel_pos_h, attention.rel_pos_w, sides, sides)
    mixed = (scores.softmax(dim=-1) @ v).view(batch, heads, height, width, head_dim)
    return attention.proj(mixed.permute(0, 2, 3, 1, 4).reshape(batch, height, width, dim))


def _count(model: _Way, batches: list[dict[str, Any]], precision: str) -> dict[str, Any]:
    with Meter() as meter:
        fit(model, batches[:1], precision)
    return {"gflop": meter.flops / 1e9}


def _time(model: _Way, batches: list[dict[str, Any]], precision: str) -> tuple[float, float]:
    """Seconds, and the processor's, of the second of two iterations: the first of a fit is not counted."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    timer = StepTimer()
    fit(model, batches, precision, timer)
    return timer.seconds[-1]


def _sizes(batch: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)\+([1-9]\d*)", batch)
    if match is None:
        expected = "labelled and unlabelled images, such as batch=1+1"
        raise UserError("That is no batch of CPC-SAM's.", expected=expected, found=batch, fix="correct it")
    return int(match[1]), int(match[2])
