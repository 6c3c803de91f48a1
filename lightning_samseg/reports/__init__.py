"""Finished runs as tables and figures, beside the papers' numbers. Needs no torch."""

from lightning_samseg.lazy import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "build": "build_report",
        "runs": "RunRecord find_runs read_run",
    },
)
