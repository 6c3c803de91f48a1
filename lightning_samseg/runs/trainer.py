"""What every run has around its trainer: arguments that are settled here, and the callbacks."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar

from lightning_samseg.adapters.checkpoints import LAST, CheckpointFiles
from lightning_samseg.callbacks import (
    BestCheckpoint,
    CaseGallery,
    LastCheckpoint,
    OverlayWriter,
    PredictionWriter,
    ResultsWriter,
    Resumption,
    SaveConfig,
    SpeedMonitor,
    StopOnNonFinite,
    StreamFigures,
    StreamWriter,
    ValidationOverlays,
)
from lightning_samseg.errors import UserError
from lightning_samseg.runs.options import PRECISIONS
from lightning_samseg.runs.process import say
from lightning_samseg.runs.record import Record

TRAINER_DEFAULTS: dict[str, Any] = {
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
    "use_distributed_sampler": False,
}
"""Of a run on data modules of ours, which count iterations and deal images out themselves."""

_EPOCHS = {
    "max_epochs": (None, -1),
    "min_epochs": (None, 0),
    "check_val_every_n_epoch": (None, 1),
    "reload_dataloaders_every_n_epochs": (0,),
}
"""Arguments that count epochs -> values that do not matter where there is but one."""


def check_trainer(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of the trainer that a run would not follow.

    Args:
        arguments: Of ``lightning.pytorch.Trainer``.

    Raises:
        UserError: If one counts epochs, decides what is decided here, or asks for weights of another precision.
    """
    precision = str(arguments.get("precision") or "32")
    if precision not in PRECISIONS and precision not in {name.partition("-")[0] for name in PRECISIONS}:
        raise UserError(
            "Weights are float32; SAM's computations and AdamW's small numbers allow no others.",
            expected=f"trainer.precision {', '.join(PRECISIONS)}",
            found=f"trainer.precision {precision}",
            fix="set --trainer.precision bf16-mixed to save memory and time",
        )
    for name, harmless in _EPOCHS.items():
        if arguments.get(name, harmless[0]) not in harmless:
            length = "; --trainer.val_check_interval is in iterations, too" if "val" in name else ""
            raise UserError(
                "Epochs are not counted: training is one row of iterations.",
                found=f"trainer.{name} {arguments[name]}",
                fix=f"leave it out and set --trainer.max_steps{length}",
            )
    if arguments.get("use_distributed_sampler"):
        raise UserError(
            "The data module deals images and whole cases out to the processes itself.",
            found="trainer.use_distributed_sampler true",
            fix="leave it out, or set it to false",
        )
    if arguments.get("logger") is True:
        raise UserError(
            "Curves and pictures are in logs/ of the run folder unless trainer.logger is false.",
            found="trainer.logger true",
            fix="leave it out; --tensorboard true and --wandb.project NAME add loggers, trainer.logger one of your own",
        )


def settled(arguments: Mapping[str, Any], stream_length: int | None = None) -> dict[str, Any]:
    """Arguments of the trainer with what every run has; what becomes of a limit is said.

    Args:
        arguments: Of ``lightning.pytorch.Trainer``, checked.
        stream_length: Images of the stream that is walked through once; None for other trainings.
    """
    steps, interval, plugins = (arguments.get(name) for name in ("max_steps", "val_check_interval", "plugins"))
    steps = -1 if steps is None else steps
    new: dict[str, Any] = {"use_distributed_sampler": False}
    new["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins] if plugins else []), CheckpointFiles()]
    if stream_length is not None:
        new["max_steps"] = stream_length if steps < 0 else min(steps, stream_length)
        if steps > stream_length:
            say(f"The stream has {stream_length} images: the run ends there, before trainer.max_steps {steps}.")
    elif isinstance(interval, int) and 0 < steps < interval:
        new["val_check_interval"] = steps
        say(f"The run is shorter than trainer.val_check_interval {interval}: it is validated once, at its end.")
    return {**arguments, **new}


def build_callbacks(
    verb: str,
    run_dir: Path,
    results_dir: Path,
    record: Record,
    arguments: Mapping[str, Any],
    *,
    uses_stream: bool = False,
    scored: bool = True,
    checkpoint_every: int = 200,
    overlays: int = 24,
    monitor: str | None = "val/dsc",
) -> list[Callback]:
    """What works around the trainer of every run: progress, files of results, checkpoints, guards.

    Args:
        verb: ``fit``, ``validate``, ``test`` or ``predict``.
        run_dir: The run folder, which holds ``checkpoints``.
        results_dir: Where this verb writes its results.
        record: Of the run.
        arguments: Of the trainer: ``fast_dev_run``, ``enable_progress_bar``, ``accelerator``, ``logger``.
        uses_stream: Whether the method is scored while it walks through a stream.
        scored: Whether its steps give label maps, and its scores are those of whole cases, as a ``Method``'s.
        checkpoint_every: Iterations between two ``last.ckpt``.
        overlays: Most pictures of a test.
        monitor: Logged value by which ``best.ckpt`` is chosen, the highest; None for no such file.
    """
    folder = run_dir / "checkpoints"
    fits, keeps = verb == "fit", verb == "fit" and not arguments.get("fast_dev_run")
    own: list[Callback] = [Resumption(record)] if fits else []
    if not arguments.get("fast_dev_run"):
        own.append(SaveConfig(results_dir, record))
    if arguments.get("enable_progress_bar") is not False:
        # Refreshing the bar reads the loss back from the device, so not after every step of a GPU. It comes before
        # those that write, so that it is closed before they say where the results are.
        on_cpu = arguments.get("accelerator") == "cpu" or not torch.cuda.is_available()
        own.append(TQDMProgressBar(refresh_rate=1 if on_cpu else 20))
    if uses_stream:
        own += [StreamWriter(results_dir, record), StreamFigures(results_dir)] if keeps else []
    else:
        own += [StopOnNonFinite(folder / LAST), ResultsWriter(results_dir, record)]
        own += [OverlayWriter(results_dir, overlays), ValidationOverlays(), CaseGallery()] if scored else []
    if verb == "predict" and scored:
        own.append(PredictionWriter(results_dir))
    if fits and scored:
        own.append(SpeedMonitor())
    if fits and not uses_stream:
        own += [LearningRateMonitor("step")] if arguments.get("logger") else []
        own += [BestCheckpoint(folder, monitor)] if keeps and monitor is not None else []
    return [*own, LastCheckpoint(folder, checkpoint_every)] if keeps else own


def quieten() -> None:
    """Keep Lightning's remarks that do not apply here off the screen."""
    for remark in (
        "does not have many workers",
        "have no `validation_step`",  # a stream is not validated
        "dataloader is not resumable",  # ours is, by step count
        "is smaller than the logging interval",
        "`srun` command is available",
        "exists and is not empty",  # a run that is resumed
        "callbacks used to create the checkpoint need to be provided",  # a test needs none of a fit
        "isinstance.treespec, LeafSpec.",  # Lightning's own
        "skip_none parameter was deprecated",
    ):
        warnings.filterwarnings("ignore", message=f"(?s).*{remark}.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)
    logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector").setLevel(logging.WARNING)


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()
