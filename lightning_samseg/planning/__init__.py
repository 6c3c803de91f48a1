"""What a run will need, before anything is rented or queued: real steps on tensors that have a shape and no content."""

from lightning_samseg.lazy import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "cost": "Cost dry_run",
        "fitting": "Change first_that_fits",
        "gpus": "Gpu read_gpus",
        "fake": "shapes_only",
        "steps": "Load Steps",
    },
)
