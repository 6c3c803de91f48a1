"""Learning-rate schedule shared by CPC-SAM and SAMed."""

from lightning_samseg.errors import UserError


def warmup_poly(step: int, warmup: int, power: float, max_iters: int) -> float:
    """Factor on the base learning rate in iteration ``step``: linear warm-up, then polynomial decay.

    The authors set the rate after each iteration, so their decay lags by one: with ``W = warmup`` and
    ``N = max_iters`` the factor is ``1 / W`` at step 0, ``k / W`` for 1 <= k <= W and
    ``(1 - (k - 1 - W) / N) ** power`` after it. ``N`` is not shortened by the warm-up, so the rate does not quite
    reach 0 at step N; beyond the decay's end it stays 0. CPC-SAM's code uses W = 250, power 0.9 and a base of 1e-3.

    Made for ``LambdaLR(optimizer, functools.partial(warmup_poly, warmup=..., power=..., max_iters=...))``.

    Args:
        step: Iteration, counted from 0.
        warmup: Iterations of linear warm-up; 0 starts at the full rate.
        power: Exponent of the decay; 0 keeps the rate constant after the warm-up.
        max_iters: Iterations of the whole run.

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
            fix="set trainer.max_steps or trainer.max_epochs.",
        )
    if step <= warmup:
        return max(step, 1) / max(warmup, 1)
    return max(1 - (step - 1 - warmup) / max_iters, 0.0) ** power
