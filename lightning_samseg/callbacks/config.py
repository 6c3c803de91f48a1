"""The resolved configuration beside the results it made."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from lightning_samseg.io.files import atomic_write


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the folder of the results; a run that is resumed keeps the one it started with.

    Args:
        folder: Folder of the results.
        keep: Whether a file that is there already stays.
        kwargs: What LightningCLI hands over.
    """

    def __init__(self, *args: Any, folder: str | Path = ".", keep: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})
        self.folder = Path(folder)
        self.keep = keep

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called once, on rank zero."""
        path = self.folder / "config.yaml"
        if not (self.keep and path.exists()):
            with atomic_write(path) as temporary:
                temporary.write_text(self.parser.dump(self.config, skip_none=False))
