"""The two checkpoints of a run: ``best.ckpt`` by validation DSC, ``last.ckpt`` to go on from."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_samseg.adapters.checkpoints import BEST, LAST, read_checkpoint
from lightning_samseg.errors import UserError
from lightning_samseg.runs import requeue
from lightning_samseg.runs.process import say

LISTEN_EVERY = 10
"""Iterations between two questions of several ranks whether one of them was told to stop: each waits for the GPUs."""


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, the weights with the highest validation score so far: the mean DSC unless told otherwise.

    What "so far" is, ``best.ckpt`` itself says, which holds its own score: a run that goes on finds it there, also in a
    folder that was moved or copied, or from an older ``last.ckpt``.

    Args:
        folder: The run's ``checkpoints`` folder.
        monitor: Name under which the score is logged; the highest counts.
    """

    def __init__(self, folder: str | Path, monitor: str = "val/dsc") -> None:
        super().__init__(
            dirpath=folder, filename="best", monitor=monitor, mode="max", save_top_k=1, enable_version_counter=False
        )
        self.CHECKPOINT_EQUALS_CHAR = "-"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look how good the folder's ``best.ckpt`` is, where a training goes on."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            found = self._stored_score() if trainer.is_global_zero else None  # others may not see the folder
            score = trainer.strategy.broadcast(found)
            if score is not None:
                path = str(self._path)
                self.best_k_models = {path: score}
                self.best_model_path = self.kth_best_model_path = path
                self.best_model_score = self.kth_value = self.best_k_models[path]

    @property
    def _path(self) -> Path:
        return Path(str(self.dirpath)) / BEST

    def _stored_score(self) -> torch.Tensor | None:
        """Score of the weights in ``best.ckpt``; None where there are none."""
        if not self._path.is_file():
            return None
        try:
            states = read_checkpoint(self._path).get("callbacks", {})
            return torch.as_tensor(states[self.state_key]["best_model_score"]).clone()
        except (UserError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = "is damaged" if isinstance(error, UserError) else "does not say how good it is"
            say(f"warning: {self._path} {reason}: the next validation replaces it.")
            return None

    def state_dict(self) -> dict[str, Any]:
        """As Lightning's, with names in the run folder in place of paths."""
        state = {**super().state_dict(), "dirpath": None}
        state["best_k_models"] = {Path(path).name: score for path, score in self.best_k_models.items()}
        return state | {key: Path(path).name for key, path in state.items() if key.endswith("_path") and path}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Forget the best where the state knows of none: before the first validation, or after :meth:`forget_best`."""
        if state_dict["best_model_score"] is None:
            self.forget_best()

    def forget_best(self) -> None:
        """Start the comparison anew: the next validation is the best so far, and takes the file."""
        self.best_k_models = {}
        self.best_model_score = None
        self.kth_best_model_path = ""


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every so many iterations and at the end: what a killed run loses is never more than that.

    Where a validation follows the iteration, it comes first, so that a resumed run neither misses it nor forgets how
    good ``best.ckpt`` is. It stands behind ``BestCheckpoint`` in the list of callbacks for the same reason.

    In a Slurm job that gets SIGUSR1 it writes once more, at the end of a step that all ranks agree on, and stops the
    run with ``Requeued``; ``--ckpt_path last`` goes on from there. After SIGTERM, one process writes once more, too.

    ``CheckpointFiles`` writes it, so that a kill in the middle leaves the one before.

    Args:
        folder: The run's ``checkpoints`` folder.
        every: Iterations between two writes.
    """

    def __init__(self, folder: str | Path, every: int) -> None:
        self.path = Path(folder) / LAST
        self.every = every
        self._saved_step = -1
        self._due = self._leaves = False

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """Leave, or go on, once Lightning has logged the step that was saved."""
        if self._saved_step != trainer.global_step:
            return
        if self._leaves:
            raise requeue.Requeued
        for logger in trainer.loggers:
            logger.save()  # or a kill would leave a hole in front of the checkpoint

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the iteration count is a multiple of ``every``, or the job is told to stop."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:  # a checkpoint does not hold collected gradients
            return
        listens = trainer.world_size == 1 or (batch_idx + 1) // trainer.accumulate_grad_batches % LISTEN_EVERY == 0
        stop = listens and _told_to_stop(trainer)
        self._due = stop or trainer.global_step % self.every == 0
        if self._due and not _validation_follows(trainer):
            self._save(trainer)
            self._leaves = stop

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what had to wait for the validation."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        stop = _told_to_stop(trainer)
        if stop or self._due:
            self._due = False
            self._save(trainer)
            self._leaves = stop

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what came after the last multiple."""
        self._save(trainer)

    def on_test_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """The test after a fit is repeated as a whole: there is nothing to save."""
        if trainer.world_size == 1 and _told_to_stop(trainer):  # several ranks have unequal numbers of batches
            raise requeue.Requeued

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where Lightning stops after SIGTERM, which it does at the end of a step."""
        if isinstance(exception, SIGTERMException) and trainer.world_size == 1 and trainer.training:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step != self._saved_step:
            self._saved_step = trainer.global_step
            trainer.save_checkpoint(self.path)


def _told_to_stop(trainer: Trainer) -> bool:
    """Whether any rank was."""
    if not requeue.in_job() or trainer.world_size == 1:
        return requeue.told_to_stop()
    return trainer.strategy.reduce_boolean_decision(requeue.told_to_stop(), all=False)


def _validation_follows(trainer: Trainer) -> bool:
    """Whether Lightning validates after this iteration."""
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    return trainer.enable_validation and fetcher is not None and loop._should_check_val_fx(fetcher)
