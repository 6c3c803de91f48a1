"""What a run was told and made from: beside the results it made, in its checkpoints, and in its loggers."""

from pathlib import Path
from typing import Any

import lightning
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lightning_samseg.io.text import write_text
from lightning_samseg.runs.provenance import facts, provenance
from lightning_samseg.runs.record import KEY, Record

ROWS_OF_A_PART = 10_000_000
"""More rows than one process of a run writes."""


class SaveConfig(Callback):
    """Writes ``config.yaml`` into the folder of the results, and the record of the run into every checkpoint.

    A run that goes on keeps its file, unless options have changed: then the file has the new ones, and comments tell of
    the old ones. W&B's config gets all of it, with code, weights, data and split (see ``provenance``); TensorBoard gets
    it as text.

    Args:
        folder: Folder of the results.
        record: Options of the run; learns the facts here.
    """

    def __init__(self, folder: str | Path, record: Record) -> None:
        self.folder = Path(folder)
        self.record = record
        self._is_set_up = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare the data with the checkpoint's, and write; the first time only, when the data are set up.

        Raises:
            UserError: See :meth:`Record.note_facts`.
        """
        if self._is_set_up:  # the test after a fit
            return
        self._is_set_up = True
        if stage == "fit":
            self.record.note_facts(facts(trainer, pl_module))
        if trainer.is_global_zero:
            if self.record.resumed_at is None or not (self.folder / "config.yaml").exists():
                self._write()
            self._tell_loggers(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what has changed, now that nothing of the checkpoint was refused."""
        if trainer.is_global_zero and self.record.changed_now:
            self._write()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the record."""
        checkpoint[KEY] = self.record.state()

    def _text(self) -> str:
        options = yaml.safe_dump(dict(self.record.options), sort_keys=False, allow_unicode=True)
        return f"# lightning.pytorch=={lightning.__version__}\n{self.record.comments()}{options}"

    def _write(self) -> None:
        write_text(self.folder / "config.yaml", self._text())

    def _tell_loggers(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                origin = {**provenance(trainer, pl_module), "changes": self.record.changes}
                # A sweep's own entries have dotted names, such as model.optimizer.lr, and stay as they are.
                logger.experiment.config.update({**self.record.options, **origin}, allow_val_change=True)
                _go_on(logger.experiment)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("config", f"```\n{self._text()}\n```")


def _go_on(run: Any) -> None:
    """Count the rows of an offline run that is resumed from where no earlier part can have come to.

    W&B numbers the rows of each part from 0 and, without its server, does not know of earlier ones.
    """
    if getattr(run, "offline", False):
        parts = len(list(Path(run.dir).parents[1].glob(f"offline-run-*-{run.id}")))
        if parts > 1:
            run.log({"restarts": parts - 1}, step=(parts - 1) * ROWS_OF_A_PART)
