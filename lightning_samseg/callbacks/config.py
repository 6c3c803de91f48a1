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
        kwargs: What LightningCLI hands over.
    """

    def __init__(self, *args: Any, folder: str | Path = ".", **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})
        self.folder = Path(folder)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called once, on rank zero."""
        path = self.folder / "config.yaml"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                temporary.write_text(self.parser.dump(self.config, skip_none=False))
