"""The resolved configuration and the origin of a run: beside the results it made, and in its loggers."""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lightning_samseg.callbacks.provenance import provenance
from lightning_samseg.io.text import write_text

ROWS_OF_A_PART = 10_000_000
"""More rows than one process of a run writes."""


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the folder of the results; a run that is resumed keeps the one it started with.

    W&B's config gets all of it, with code, weights, data and split (see ``provenance``); TensorBoard gets it as text.

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
        """Called once, on rank zero, when the data are set up."""
        text = self.parser.dump(self.config, skip_none=False)
        path = self.folder / "config.yaml"
        if not (self.keep and path.exists()):
            write_text(path, text)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                entries = {**yaml.safe_load(text), **provenance(trainer, pl_module)}
                # A sweep's own entries have dotted names, such as model.lr, and stay as they are.
                logger.experiment.config.update(entries, allow_val_change=True)
                _go_on(logger.experiment)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("config", f"```\n{text}\n```")


def _go_on(run: Any) -> None:
    """Count the rows of an offline run that is resumed from where no earlier part can have come to.

    W&B numbers the rows of each part from 0 and, without its server, does not know of earlier ones.
    """
    if getattr(run, "offline", False):
        parts = len(list(Path(run.dir).parents[1].glob(f"offline-run-*-{run.id}")))
        if parts > 1:
            run.log({"restarts": parts - 1}, step=(parts - 1) * ROWS_OF_A_PART)
