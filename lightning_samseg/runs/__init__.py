"""One run: its folder, who may write into it, loggers, provenance, requeue."""

from lightning_samseg.lazy import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "folder": "Claim Status read_status",
        "loggers": "Wandb",
        "record": "Record",
        "session": "Session",
    },
)
