"""Whether a device computes what the CPU does: every method's prediction and step."""

import traceback
import warnings
from collections import Counter
from typing import Any

import lightning
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.methods import (
    AuxOl,
    Bcp,
    CpcSam,
    Cps,
    DcNet,
    McNetPlus,
    Method,
    SAMed,
    SemiSam,
    Uamt,
    UNet,
    UniMatch,
    Urpc,
)
from lightning_samseg.planning.cost import build
from lightning_samseg.planning.steps import Load, Steps

LARGEST_DIFFERENCE = 1e-4
_SIZE: dict[str, Any] = {"image_size": 64, "num_classes": 2}
CHECKS: dict[str, tuple[type[Method], dict[str, Any]]] = {
    "cpc_sam": (CpcSam, {"sam": {"backbone": "tiny"}, **_SIZE}),
    "cpc_sam sequential": (CpcSam, {"sam": {"backbone": "tiny"}, "update": "sequential", **_SIZE}),
    "samed": (SAMed, {"sam": {"backbone": "tiny"}, **_SIZE}),
    "unet": (UNet, {"network": {"name": "unet/resnet18"}, **_SIZE}),
    "uamt": (Uamt, _SIZE),
    "cps": (Cps, _SIZE),
    "urpc": (Urpc, _SIZE),
    "mc_net_plus": (McNetPlus, _SIZE),
    "dc_net": (DcNet, _SIZE),
    "bcp": (Bcp, _SIZE),
    "unimatch": (UniMatch, _SIZE),
    "semi_sam": (SemiSam, {"sam": {"backbone": "tiny"}, **_SIZE}),
    "aux_ol": (
        AuxOl,
        {"sam": {"backbone": "tiny"}, "auxiliary": {"width": 1 / 16}, "crop": {"size": 32}, "cache_gb": 0},
    ),
}
"""What is compared: small networks with random weights."""
DRAWS = frozenset(CHECKS) - {"cpc_sam", "cpc_sam sequential", "samed", "unet", "aux_ol"}
"""Methods whose steps draw random numbers on the device: their losses need not be the CPU's."""


def check(name: str, device: str, precision: str) -> float:
    """Largest difference between a device and the CPU, of predictions before a step and of the step's loss.

    Args:
        name: Of ``CHECKS``.
        device: ``cuda``, or ``cpu``.
        precision: Only ``32-true`` is compared; in others all numbers are to be finite.

    Raises:
        UserError: If a number is not finite.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        if precision not in CHECKS[name][0].precisions:
            return 0.0
        there = _numbers(name, device, precision)
        if not bool(there.isfinite().all()):
            raise UserError(f"{name} in {precision} gives numbers that are not finite.", fix="use 32-true")
        if precision != "32-true":
            return 0.0
        return float((there - _numbers(name, "cpu", precision)).abs().max())
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _numbers(name: str, device: str, precision: str) -> torch.Tensor:
    kind, arguments = CHECKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = build(kind, arguments).to(device)
        steps = Steps(method, Load(2, 2, 2), precision, "gpu" if device == "cuda" else "cpu", picture=(48, 64))
        predicted = torch.cat([each.probabilities.flatten().cpu() for each in steps.predict()])
        method.train()
        metrics = steps.fit(steps=1).callback_metrics
        after = [float(metrics["train/loss"])] if name not in DRAWS and "train/loss" in metrics else []
        if method.uses_stream:  # what has been learned is in the next prediction
            after = [float(steps.predict()[0].probabilities.mean())]
    return torch.cat([predicted.float(), torch.tensor(after)])


def waits(steps: Steps) -> Counter[str]:
    """Where the host waits for the GPU in a step: file and line -> times, of the second step."""
    watch = _Waits()
    steps.fit(watch, steps=2)
    return watch.places


class _Waits(lightning.Callback):
    """Collects PyTorch's warnings about waiting during the second step."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin to listen."""
        if batch_idx == 1:
            self._show, warnings.showwarning = warnings.showwarning, self._note  # type: ignore[assignment]
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Listen no more."""
        if batch_idx == 1:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = self._show

    def _note(self, message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        if "synchroniz" not in str(message):
            return
        ours = [each for each in traceback.extract_stack() if "lightning_samseg" in each.filename]
        place = ours[-3] if len(ours) > 2 else None
        self.places[
            f"`{filename if place is None else place.filename}:{lineno if place is None else place.lineno}`"
        ] += 1
