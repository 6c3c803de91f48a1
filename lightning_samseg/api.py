"""The library in Python: ``import lightning_samseg as samseg``. The command line is built on the same parts.

``load`` and ``load_sam`` give something to predict with, ``Online`` learns from masks as they come, ``fit`` and
``test`` make a run with its folder, as the verbs of the command line do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from data_modules import SegmentationDataModule
from lightning_samseg.adapters.checkpoints import read_checkpoint
from lightning_samseg.errors import BadValueError, UserError
from lightning_samseg.methods import Method
from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.prediction.answers import Answer
from lightning_samseg.prediction.model import Model, Sam
from lightning_samseg.prediction.online import Online
from lightning_samseg.prediction.predictor import device_of, load_predictor, method_class, zero_shot
from lightning_samseg.runs.loggers import Wandb
from lightning_samseg.runs.session import Session
from lightning_samseg.runs.trainer import TRAINER_DEFAULTS, check_trainer, quieten

__all__ = ["Answer", "Model", "Online", "Run", "Sam", "fit", "load", "load_sam", "test"]


def load(path: str | Path, device: str = "auto", trust: bool = False, weights: str | None = None) -> Model:
    """Load a trained model from its checkpoint; no config is needed.

    Args:
        path: ``best.ckpt`` or ``last.ckpt`` of a run; of AuxOL also what ``Online.save`` has written.
        device: ``auto`` for a GPU where there is one, or torch's name.
        trust: Import a method that is not part of this package, which runs its code.
        weights: File of the frozen SAM instead of the cached one, for AuxOL.

    Raises:
        UserError: If the file is missing, damaged or from elsewhere, or the device cannot be used.
    """
    return Model(load_predictor(path, weights, trust).to(device_of(device)))


def load_sam(backbone: BackboneName = "sam_vit_b", device: str = "auto", weights: str | None = None) -> Sam:
    """Load a frozen SAM, to be prompted by boxes or points.

    Args:
        backbone: Its name; ``python -m lightning_samseg weights list`` shows them.
        device: As for :func:`load`.
        weights: File of weights in official SAM's names instead of the cached ones.

    Raises:
        UserError: If the weights are missing or of another architecture.
    """
    return Sam(zero_shot(backbone, "box", weights).to(device_of(device)))


@dataclass(frozen=True)
class Run:
    """What a fit or a test leaves."""

    folder: Path
    """Where ``metrics.json``, ``config.yaml``, ``logs`` and ``checkpoints`` are; see the README."""
    scores: dict[str, float]
    """What was logged last, such as ``val/dsc`` or ``test/dsc``; of a stream ``dsc/aux_ol``. Fractions and mm or px."""
    best: Path | None
    """``best.ckpt``, or ``last.ckpt`` where nothing says which weights are best; None if nothing was written."""
    trainer: Trainer


def fit(
    method: LightningModule,
    data: LightningDataModule,
    *,
    folder: str | Path,
    max_steps: int = -1,
    val_check_interval: int | None = None,
    ckpt_path: str | None = None,
    allow_changes: bool = False,
    callbacks: Sequence[Callback] = (),
    wandb: Wandb | None = None,
    tensorboard: bool = False,
    checkpoint_every: int = 200,
    monitor: str | None = None,
    **trainer: Any,
) -> Run:
    """Train a method in a run folder of its own, with the checkpoints, logs and guards of the verb ``fit``.

    Args:
        method: A method of this package, or any LightningModule; ``val/dsc`` chooses the best weights of the former.
        data: A data module of this package, or any other.
        folder: The run folder.
        max_steps: Iterations; of a stream, images. -1: the whole stream, or what ``max_epochs`` says.
        val_check_interval: Iterations between two validations; None: a tenth of the run.
        ckpt_path: ``last`` to go on from where the run was.
        allow_changes: Let it go on as another experiment.
        callbacks: More callbacks.
        wandb: Settings of Weights & Biases, to log there, too.
        tensorboard: Log to TensorBoard, too.
        checkpoint_every: Iterations between two ``last.ckpt``.
        monitor: Name of the logged value whose highest chooses ``best.ckpt``, for a LightningModule of your own.
        trainer: Other arguments of ``lightning.Trainer``, such as ``precision`` or ``devices``.

    Raises:
        UserError: If the folder holds an earlier run, or method and data do not go together.
    """
    ours = isinstance(data, SegmentationDataModule)
    arguments: dict[str, Any] = {"max_steps": max_steps, **(TRAINER_DEFAULTS if ours else {}), **trainer}
    if val_check_interval is not None or (ours and max_steps > 0):
        arguments["val_check_interval"] = val_check_interval or max(1, max_steps // 10)
    if ours:
        check_trainer(arguments)
    _check_pair(method, data)
    quieten()
    session = Session("fit", type(method), folder, ckpt_path, not arguments.get("fast_dev_run"))
    options = _options(method, data, arguments, session)
    session.record(options, allow_changes)
    with session:
        session.check(method, data)
        arguments = session.trainer_arguments(
            arguments,
            data,
            callbacks,
            wandb=wandb,
            tensorboard=tensorboard,
            checkpoint_every=checkpoint_every,
            monitor=monitor,
        )
        own = Trainer(default_root_dir=session.run_dir, **arguments)
        session.watch(own)
        own.fit(method, datamodule=data, ckpt_path=session.checkpoint, weights_only=True)
    return _run(session, own)


def test(
    checkpoint: str | Path | None,
    data: LightningDataModule,
    *,
    method: LightningModule | None = None,
    folder: str | Path | None = None,
    trust: bool = False,
    callbacks: Sequence[Callback] = (),
    overlays: int = 24,
    **trainer: Any,
) -> Run:
    """Score a checkpoint on the test images, as the verb ``test`` does.

    Args:
        checkpoint: ``best.ckpt`` or ``last.ckpt`` of a run; None for a method that learns nothing.
        data: As for :func:`fit`.
        method: Built already; None: as the checkpoint says. A LightningModule of your own has to be given.
        folder: Run folder for the results; None: the checkpoint's, in which a new one is made if it has results.
        trust: As for :func:`load`.
        callbacks: More callbacks.
        overlays: Most pictures that are drawn.
        trainer: Other arguments of ``lightning.Trainer``.

    Raises:
        UserError: If the checkpoint cannot be read, or does not belong to the method.
    """
    if method is None:
        if checkpoint is None:
            raise UserError("There is nothing to test.", fix="give a checkpoint, or method=... that learns nothing")
        content = read_checkpoint(checkpoint)
        method = method_class(content, checkpoint, trust).from_checkpoint(content, checkpoint)
    if folder is None and checkpoint is not None:
        place = Path(checkpoint).resolve().parent
        folder = place.parent if place.name == "checkpoints" else place
    arguments = {**(TRAINER_DEFAULTS if isinstance(data, SegmentationDataModule) else {}), **trainer}
    _check_pair(method, data)
    quieten()
    session = Session("test", type(method), folder, None if checkpoint is None else str(checkpoint))
    session.record(_options(method, data, arguments, session))
    with session:
        session.check(method, data)
        arguments = session.trainer_arguments(arguments, data, callbacks, overlays=overlays)
        own = Trainer(default_root_dir=session.run_dir, **arguments)
        own.test(method, datamodule=data, ckpt_path=session.checkpoint, weights_only=True, verbose=False)
    return _run(session, own)


def _run(session: Session, trainer: Trainer) -> Run:
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return Run(session.results_dir, scores, session.best_or_last(), trainer)


def _check_pair(method: LightningModule, data: Any) -> None:
    """Refuse what the command line fills in, and a constructor in Python was told otherwise."""
    if not isinstance(method, Method) or method.uses_stream:
        return
    for name in ("num_classes", "image_size") if method.prompt_kind is None else ("num_classes",):
        theirs = getattr(data, name, None)
        if theirs is not None and getattr(method, name) != theirs:
            raise BadValueError(
                f"Method and data have another {name}.",
                expected=f"{name}={theirs}, as the data",
                found=f"{name}={getattr(method, name)}",
                fix=f"build the method with {name}={theirs}",
            )


def _options(method: LightningModule, data: Any, trainer: Mapping[str, Any], session: Session) -> dict[str, Any]:
    """What ``config.yaml`` of the run says; of classes with ``save_hyperparameters`` enough to repeat it."""
    return {
        "seed_everything": getattr(method, "seed", None),
        "trainer": {**_plain(trainer), "default_root_dir": str(session.run_dir)},
        "model": _class_and_arguments(method),
        "data": _class_and_arguments(data),
        "ckpt_path": None if session.checkpoint is None else str(session.checkpoint),
    }


def _class_and_arguments(each: Any) -> dict[str, Any]:
    known = {name: value for name, value in getattr(each, "hparams", {}).items() if name[0] != "_"}
    return {"class_path": f"{type(each).__module__}.{type(each).__qualname__}", "init_args": _plain(known)}


def _plain(value: Any) -> Any:
    """A value as YAML has it; what is none becomes text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
