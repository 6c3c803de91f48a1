"""Many runs: grid files, Slurm, local workers, progress."""

from lightning_samseg.lazy import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "grid": "Run read_grid",
        "profile": "Profile read_profile",
        "progress": "Standing standings",
        "submit": "Submission",
    },
)
