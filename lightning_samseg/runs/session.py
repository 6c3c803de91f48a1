"""One verb at work in a run folder: what the command line and the API put around a trainer."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_samseg.adapters.checkpoints import BEST, LAST, WORKSPACE, read_checkpoint
from lightning_samseg.errors import UserError
from lightning_samseg.methods.method import Method
from lightning_samseg.runs.error_log import keep_in
from lightning_samseg.runs.folder import Claim, results_folder
from lightning_samseg.runs.loggers import Wandb, build_loggers, default_folder, finish_wandb
from lightning_samseg.runs.process import is_main_process, say
from lightning_samseg.runs.record import Record
from lightning_samseg.runs.requeue import Requeued, requeue
from lightning_samseg.runs.resume import check_fit, check_state, find_checkpoint
from lightning_samseg.runs.trainer import build_callbacks, settled

_RESULTS_DIR = "SAMSEG_RESULTS_DIR"
"""Variable by which the processes that Lightning starts learn where the results go."""


class Session:
    """Settles where a verb works and from which checkpoint, and holds the run folder as a context manager.

    In order: construct it, ``record`` what the run is told, enter it, ``trainer_arguments``, build the trainer,
    ``watch`` it, ``check`` the model. Leaving it notes how the run ended, and puts a Slurm job back into the queue that
    was told to make room.

    Args:
        verb: ``fit``, ``validate``, ``test`` or ``predict``.
        method: Class of the method, or any LightningModule's.
        run_dir: The run folder; None for ``runs/METHOD``.
        ckpt_path: ``last`` or ``best`` of the run folder, a file, or None.
        writes: False for a trial that leaves nothing (``fast_dev_run``).

    Raises:
        UserError: If the verb does not suit the method, ``fit`` would mix two runs, or a checkpoint is missing.
    """

    def __init__(
        self,
        verb: str,
        method: type,
        run_dir: str | Path | None = None,
        ckpt_path: str | None = None,
        writes: bool = True,
    ) -> None:
        self.verb, self.method = verb, method
        learns, self.uses_stream = getattr(method, "needs_training", True), getattr(method, "uses_stream", False)
        if verb == "fit" and not learns:
            fix = "test it: samseg.test, or the verbs test, validate and predict"
            raise UserError(f"{method.__name__} learns nothing.", fix=fix)
        if verb != "fit" and self.uses_stream:
            raise UserError(
                f"{method.__name__} is scored while it learns.",
                fix="fit it: samseg.fit, or the verb fit; metrics.json in its run folder holds the scores",
            )
        self.run_dir = Path(default_folder(method.__name__.lower()) if run_dir is None else run_dir)
        self.writes = writes and is_main_process()
        self.results_dir = results_folder(self.run_dir, verb, ckpt_path is not None or not self.writes)
        if is_main_process():
            os.environ[_RESULTS_DIR] = str(self.results_dir)
        else:  # started by the main process, which may have made the folder already: it must not count as another run's
            self.results_dir = Path(os.environ.get(_RESULTS_DIR, self.results_dir))
        self.checkpoint = find_checkpoint(self.run_dir, ckpt_path)
        if self.checkpoint is None and verb == "fit" and ckpt_path == "last":
            say(f"No {self.run_dir}/checkpoints/last.ckpt yet: the run starts from the beginning.")
        elif self.checkpoint is None and verb != "fit" and learns:
            raise UserError(
                f"{verb} needs trained weights.",
                expected="--ckpt_path FILE, or --ckpt_path best or last for those of the run folder",
                fix=f"add --ckpt_path {self.run_dir}/checkpoints/best.ckpt",
            )
        self._claim: Claim | None = None
        self._loggers: list[Logger] = []
        """Those whose W&B run is ended here."""

    def record(self, options: Mapping[str, Any], allow_changes: bool = False) -> None:
        """Take down what the run is told; where it goes on, compare with what it was told before.

        Args:
            options: As in ``config.yaml``.
            allow_changes: Whether a run that goes on may be another experiment from there on.

        Raises:
            UserError: If it is one and may not be, or the checkpoint holds weights alone.
        """
        self.kept = Record(options, allow_changes)
        if self.checkpoint is not None:
            checkpoint = read_checkpoint(self.checkpoint)
            if self.verb == "fit" and WORKSPACE in checkpoint:
                say(f"A new stream begins with what has been learned from {checkpoint['global_step']} accepted images.")
            elif self.verb == "fit":
                check_state(checkpoint, self.checkpoint)
                self.kept.resume(checkpoint, self.checkpoint, self.run_dir)
            else:
                self.kept.take_over(checkpoint)

    def __enter__(self) -> "Session":
        """Claim the run folder, where results go into it."""
        if self.writes and self.results_dir == self.run_dir:
            self._claim = Claim(self.run_dir, self.verb).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the folder."""
        if self._claim is not None:
            self._claim.__exit__(kind, error, trace)
        if error is None:
            finish_wandb(self._loggers)
        if isinstance(error, Requeued) and is_main_process():
            requeue()
        elif isinstance(error, SIGTERMException):  # it would end the process with status 0, as if the run had finished
            error.code = 128 + signal.SIGTERM
        elif isinstance(error, Exception):
            keep_in(error, self.results_dir)

    def trainer_arguments(
        self,
        given: Mapping[str, Any],
        data: Any,
        callbacks: Sequence[Callback] = (),
        *,
        wandb: Wandb | None = None,
        tensorboard: bool = False,
        checkpoint_every: int = 200,
        overlays: int = 24,
        monitor: str | None = None,
    ) -> dict[str, Any]:
        """Arguments of the trainer with what every run has: loggers, result files, checkpoints, guards.

        Args:
            given: Arguments of ``lightning.pytorch.Trainer``, checked.
            data: The data module.
            callbacks: More of them.
            wandb: Settings of W&B, to log there, too.
            tensorboard: Log to TensorBoard, too.
            checkpoint_every: Iterations between two ``last.ckpt``.
            overlays: Most pictures of a test.
            monitor: Logged value by which ``best.ckpt`` is chosen; None for that of a :class:`Method`, else none.
        """
        arguments = settled(given, len(data.stream_items()) if self.uses_stream else None)
        scored = issubclass(self.method, Method)
        loggers: list[Logger] = []
        if arguments.get("logger") is not False:
            folder, name = self.results_dir, self.run_dir.name
            writes = is_main_process() and not arguments.get("fast_dev_run")
            built = build_loggers(folder, name, self.verb, wandb, tensorboard, writes)
            if getattr(sys.modules.get("wandb"), "run", None) is None:  # one that the user has begun goes on
                self._loggers = built
            loggers = [*built, *as_list(arguments.get("logger"))]
        arguments["logger"] = loggers
        around = build_callbacks(
            self.verb,
            self.run_dir,
            self.results_dir,
            self.kept,
            arguments,
            uses_stream=self.uses_stream,
            scored=scored,
            checkpoint_every=checkpoint_every,
            overlays=overlays,
            monitor=monitor or ("val/dsc" if scored else None),
        )
        return {**arguments, "callbacks": [*as_list(arguments.get("callbacks")), *callbacks, *around]}

    def watch(self, trainer: Trainer) -> None:
        """Let ``status.json`` tell how far the trainer is."""
        if self._claim is not None:
            done: Any = trainer.fit_loop.epoch_loop.batch_progress.total
            self._claim.progress = lambda: (
                done.processed,
                int(min(max(0, trainer.max_steps), trainer.num_training_batches)),
            )

    def check(self, model: Any, data: Any) -> None:
        """Compare model and data with the checkpoint; another preparation of images is said.

        Raises:
            UserError: If the checkpoint is of another model.
        """
        if self.checkpoint is None:
            return
        checkpoint = read_checkpoint(self.checkpoint)
        check_fit(checkpoint, model, self.checkpoint)
        trained, view = checkpoint.get("datamodule_hyper_parameters", {}), getattr(data, "view", None)
        for name in ("normalise", "resize", "grey", "geometry") if view is not None and not self.uses_stream else ():
            if name in trained and trained[name] != getattr(view, name):
                now = getattr(view, name)
                say(f"warning: data.{name} is {now}, but {self.checkpoint} was trained with {trained[name]}.")

    def best_or_last(self) -> Path | None:
        """``best.ckpt`` of the run, else ``last.ckpt``; None where neither has been written."""
        paths = [self.run_dir / "checkpoints" / name for name in (BEST, LAST)]
        return next((path for path in paths if path.is_file()), None)


def as_list(value: Any) -> list[Any]:
    """What may be one thing, a list of them, or nothing."""
    return list(value) if isinstance(value, list | tuple) else [value] if value else []
