"""What is trained: saved, read back, and read from other people's files."""

from lightning_samseg.lazy import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "adapted_sam": "AdaptedSam",
        "checkpoints": "CheckpointFiles open_adapter read_checkpoint",
        "convert": "from_authors_adapter merge_adapter",
        "files": "Adapter Architecture read_adapter write_adapter",
    },
)
