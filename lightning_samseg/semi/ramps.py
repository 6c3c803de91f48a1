"""Weights and decays that change in the course of training."""

from dataclasses import dataclass
from math import exp


@dataclass(frozen=True)
class ConsistencyConfig:
    """Weight of a consistency loss, rising in the course of training: the arguments under ``consistency:``.

    Args:
        weight: lambda, the highest.
        rampup_iters: Iterations until then; None for the length of the run, 0 for no ramp.
        rampup_stairs: In how many stairs it rises: SSL4MIS's 200 of 150 iterations.
    """

    weight: float = 0.1
    rampup_iters: int | None = None
    rampup_stairs: int = 200

    def at(self, step: int, run: int) -> float:
        """``w(t) = lambda r(t)``, see :func:`staircase_ramp`.

        Args:
            step: Iteration t, from 0.
            run: Iterations of the run.
        """
        return self.weight * staircase_ramp(step, self.iters(run), self.rampup_stairs)

    def iters(self, run: int) -> int:
        """Iterations of the ramp in a run of so many."""
        return run if self.rampup_iters is None else self.rampup_iters


def sigmoid_ramp(position: float, length: float) -> float:
    """Ramp of Laine and Aila: ``exp(-5 (1 - min(position, length) / length)^2)``, from 0.0067 to 1; 1 for length 0."""
    if length <= 0:
        return 1.0
    return exp(-5.0 * (1.0 - min(position, length) / length) ** 2)


def staircase_ramp(step: int, length: int, stairs: int) -> float:
    """The same ramp in so many stairs: ``r(t // (length / stairs), stairs)``.

    SSL4MIS raises its weights every 150 iterations, 200 times in its 30,000.

    Args:
        step: Iteration t, from 0; before 0 as at 0.
        length: Iterations until it is 1; 0 for no ramp.
        stairs: Number of stairs.
    """
    return sigmoid_ramp(max(step, 0) * stairs // length, stairs) if length > 0 else 1.0


def warmup_decay(step: int, highest: float) -> float:
    """Decay of a mean teacher after iteration ``step``: ``min(1 - 1 / (t + 1), highest)``; at first it copies."""
    return min(1.0 - 1.0 / (step + 1), highest)
