"""What is known of GPUs, and how long they take. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_samseg.io.yaml_files import read_yaml

TABLE = Path(__file__).with_name("gpus.yaml")


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU."""

    key: str
    """Slurm's usual name of it, as in ``gpu_type`` of a profile."""
    name: str
    memory: float
    """GiB."""
    fp32: float
    """TFLOP/s of float32 products, by TF32 where it has that."""
    half: float
    """TFLOP/s of half precision."""
    bf16: bool = True
    shares: tuple[tuple[str, float, bool], ...] = ()
    """By precision: share of the peak that a step reaches, and whether that was measured."""

    def seconds(self, gflop: float, precision: str) -> tuple[float, bool]:
        """Time for so many 10^9 operations, and whether the rate was measured.

        Args:
            gflop: How many.
            precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        """
        share, measured = next((share, measured) for each, share, measured in self.shares if each == precision)
        return gflop / (1e3 * share * (self.fp32 if precision == "32-true" else self.half)), measured


def read_gpus() -> dict[str, Gpu]:
    """The table, by Slurm's usual names."""
    content: dict[str, Any] = read_yaml(TABLE, "the table of GPUs")
    assumed, measured = content["assumed_share"], content["measured"]
    found = {}
    for key, facts in content["gpus"].items():
        own = measured.get(key, {})
        shares = tuple((each, own.get(each, share), each in own) for each, share in assumed.items())
        found[key] = Gpu(key, shares=shares, **facts)
    return found
