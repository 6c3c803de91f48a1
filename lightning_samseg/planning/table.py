"""The table of the README: what CPC-SAM on every backbone needs at every image size."""

from collections.abc import Iterator, Sequence

from lightning_samseg.methods import CpcSam
from lightning_samseg.models.backbones import BACKBONES
from lightning_samseg.planning.cost import dry_run
from lightning_samseg.planning.steps import Load

SIZES = (256, 512, 1024)
LOAD = Load(6, 6, 12)
"""The paper's batch."""


def table(backbones: Sequence[str] | None = None, sizes: Sequence[int] | None = None) -> Iterator[str]:
    """Yield the lines of a Markdown table, each as soon as it is known.

    Args:
        backbones: Names; None for all that have weights.
        sizes: Sides of the input in pixels; None for 256, 512 and 1024.
    """
    yield "| backbone | px | trained | all | GFLOP a step | training fp32 | training bf16 | predicting 12, fp32 |"
    yield "|---|---|---|---|---|---|---|---|"
    for backbone in backbones or [name for name, each in BACKBONES.items() if each.checkpoint is not None]:
        for size in sizes or SIZES:
            arguments = {"sam": {"backbone": backbone}, "image_size": size, "num_classes": 3}
            full, half = (dry_run(CpcSam, arguments, LOAD, precision) for precision in ("32-true", "bf16-mixed"))
            memory = " | ".join(f"{each / 2**30:.1f} GiB" for each in (full.training, half.training, full.prediction))
            numbers = f"{full.trained / 1e6:.2f} M | {full.parameters / 1e6:.0f} M | {full.gflop:,.0f}"
            yield f"| `{backbone}` | {size} | {numbers} | {memory} |"
