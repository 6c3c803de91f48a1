"""Optimizer and learning-rate schedule of all methods that learn from batches."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import LambdaLR

from lightning_samseg.errors import UserError


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and schedule: the arguments under ``optimizer:``.

    Args:
        name: ``adamw``, or ``sgd`` with momentum.
        lr: Highest learning rate.
        weight_decay: Of every trained parameter.
        momentum: SGD's.
        warmup_iters: Iterations of linear warm-up; None for 1/120 of the run; CPC-SAM's code has 250.
        poly_power: Exponent of the polynomial decay after it.
        poly_lag: Iterations that the decay lags behind: 1 as most authors set the rate after each step, or 0.
        max_iters: Iterations of the schedule, and of a method's ramps; None for the length of the run.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.1
    momentum: float = 0.9
    warmup_iters: int | None = None
    poly_power: float = 0.9
    poly_lag: int = 1
    max_iters: int | None = None


def build_optimizer(config: OptimizerConfig, trained: list[torch.nn.Parameter], iters: int) -> dict[str, Any]:
    """Give what Lightning's ``configure_optimizers`` returns: the schedule is stepped every iteration.

    Args:
        config: Which optimizer and schedule.
        trained: Parameters.
        iters: Iterations of the schedule.
    """
    optimizer: torch.optim.Optimizer
    if config.name == "sgd":
        optimizer = torch.optim.SGD(trained, config.lr, config.momentum, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
    warmup = iters // 120 if config.warmup_iters is None else config.warmup_iters
    factor = partial(warmup_poly, warmup=warmup, power=config.poly_power, max_iters=iters, lag=config.poly_lag)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def warmup_poly(step: int, warmup: int, power: float, max_iters: int, lag: int = 1) -> float:
    """Factor on the base learning rate in iteration ``step``: linear warm-up, then polynomial decay.

    The authors set the rate after each iteration, so their decay lags by one: with ``W = warmup`` and
    ``N = max_iters`` the factor is ``1 / W`` at step 0, ``k / W`` for 1 <= k <= W and
    ``(1 - (k - 1 - W) / N) ** power`` after it, the 1 being the lag. ``N`` is not shortened by the warm-up, so the rate
    does not quite reach 0 at step N; beyond the decay's end it stays 0. CPC-SAM's code uses W = 250, power 0.9 and a
    base of 1e-3; SSL4MIS W = 0, power 0.9, a base of 1e-2, and in CPS a lag of 0.

    Made for ``LambdaLR(optimizer, functools.partial(warmup_poly, warmup=..., power=..., max_iters=...))``.

    Args:
        step: Iteration, counted from 0.
        warmup: Iterations of linear warm-up; 0 starts at the full rate.
        power: Exponent of the decay; 0 keeps the rate constant after the warm-up.
        max_iters: Iterations of the whole run.
        lag: Iterations that the decay lags behind, 0 or 1.

    Returns:
        Factor in [0, 1].

    Raises:
        UserError: ``max_iters`` is not positive, as with an unlimited trainer.
    """
    if max_iters <= 0:
        raise UserError(
            "The learning-rate schedule needs to know how long the run is.",
            expected="a positive number of iterations",
            found=str(max_iters),
            fix="set --trainer.max_steps",
        )
    if warmup and step <= warmup:
        return max(step, 1) / warmup
    return min(max(1 - (step - lag - warmup) / max_iters, 0.0), 1.0) ** power
