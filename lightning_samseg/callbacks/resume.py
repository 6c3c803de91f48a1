"""What Lightning leaves undone where a run goes on."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import LambdaLR

from lightning_samseg.runs.record import Record


class Resumption(Callback):
    """Lets options of the optimizer act that have changed, and counts logged steps as if there had been no break.

    Lightning restores the optimizer with its old learning rate, weight decay and so on. It counts a step twice where
    the run had ended at an iteration with a validation. It stands before callbacks that log.

    Args:
        record: Says whether the run goes on, and whether anything has changed.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self._wanted: list[list[dict[str, Any]]] = []
        self._base_lrs: list[list[float] | None] = []
        self._counted = record.resumed_at is None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the options say, before the checkpoint's state comes."""
        if self.record.changed_now:
            self._wanted = [
                [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
                for optimizer in trainer.optimizers
            ]
            schedulers: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
            self._base_lrs = [list(getattr(scheduler, "base_lrs", [])) or None for scheduler in schedulers]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put it back; the schedule goes on where it was."""
        if not self._wanted:
            return
        before = {id(group): group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups}
        for optimizer, groups in zip(trainer.optimizers, self._wanted, strict=True):
            for group, wanted in zip(optimizer.param_groups, groups, strict=True):
                group.update(wanted)
        for config, base_lrs in zip(trainer.lr_scheduler_configs, self._base_lrs, strict=True):
            scheduler: Any = config.scheduler
            groups = scheduler.optimizer.param_groups
            if base_lrs is None:  # one that keeps no base, such as ReduceLROnPlateau, starts from the new rate
                continue
            if isinstance(scheduler, LambdaLR):
                factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
            else:
                factors = [
                    before[id(group)] / base if base else 1.0
                    for group, base in zip(groups, scheduler.base_lrs, strict=True)
                ]
            scheduler.base_lrs = base_lrs
            for group, base, factor in zip(groups, base_lrs, factors, strict=True):
                group["lr"] = base * factor
            scheduler._last_lr = [group["lr"] for group in groups]

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """Set the counter by which Lightning names the rows of a log."""
        if not self._counted:
            self._counted = True
            loop = trainer.fit_loop.epoch_loop
            loop._batches_that_stepped = (loop.batch_progress.total.ready - 1) // trainer.accumulate_grad_batches
