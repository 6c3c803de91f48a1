"""``fit``, ``validate``, ``test`` and ``predict``: one LightningCLI, and the rules of a run folder."""

import logging
import os
import signal
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from data_modules import SegmentationDataModule
from lightning_samseg.callbacks import (
    BestCheckpoint,
    CaseGallery,
    LastCheckpoint,
    OverlayWriter,
    PredictionWriter,
    ResultsWriter,
    SaveConfig,
    SpeedMonitor,
    StopOnNonFinite,
    StreamFigures,
    StreamWriter,
    ValidationOverlays,
)
from lightning_samseg.error_log import keep_in
from lightning_samseg.errors import UserError, explained
from lightning_samseg.io.checkpoints import read_checkpoint
from lightning_samseg.io.text import escape
from lightning_samseg.launch.requeue import Requeued, requeue
from lightning_samseg.launch.run_folder import Claim, results_folder
from lightning_samseg.loggers import Wandb, build_loggers, default_folder
from lightning_samseg.option_errors import check_configs, reworded

_RESULTS_DIR = "SAMSEG_RESULTS_DIR"
"""Variable by which the processes that Lightning starts learn where the results go."""


class SamsegCLI(LightningCLI):
    """The command line. A config written for one verb serves the others: every verb knows the same keys."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._claim: Claim | None = None
        try:
            with ExitStack() as self._until_end:  # holds the run folder while the run writes into it
                super().__init__(*args, **kwargs)
        except Requeued:
            if _is_main_process():
                requeue()
            raise
        except Exception as error:
            if hasattr(self, "results_dir"):
                keep_in(error, self.results_dir)
            raise
        except SIGTERMException as error:  # Lightning's would end the process with status 0, as if the run had finished
            error.code = 128 + signal.SIGTERM
            raise

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Let mistakes in options be raised, where jsonargparse would print its usage and end the program."""
        return super().init_parser(**{**kwargs, "exit_on_error": False})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What a run has beside trainer, model and data."""
        parser.add_argument("--test_after_fit", type=bool, default=False, help="test the best checkpoint after fit")
        parser.add_argument("--checkpoint_every", type=int, default=200, help="iterations between two last.ckpt")
        parser.add_argument("--overlays", type=int, default=24, help="most pictures of a test")
        help_tf32 = "float32 products on NVIDIA GPUs: high uses TF32, as CPC-SAM's torch 1.9 did; highest does not"
        parser.add_argument("--matmul_precision", type=Literal["highest", "high"], default="high", help=help_tf32)
        parser.add_argument("--wandb", type=Wandb | None, default=None, help="log to Weights & Biases, too")
        parser.add_argument("--tensorboard", type=bool, default=False, help="log to TensorBoard, too")
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
        parser.link_arguments("data.init_args.image_size", "model.init_args.image_size")
        parser.link_arguments("data", "model.init_args.num_classes", compute_fn=_num_classes, apply_on="instantiate")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, without what only some of them would know or what is decided here."""
        decided = {"weights_only", "verbose", "return_predictions"}
        return {verb: skipped | decided for verb, skipped in LightningCLI.subcommands().items()}

    def _parse_ckpt_path(self) -> None:
        """Leave the model's arguments to the config; Lightning would take them from the checkpoint."""

    def before_instantiate_classes(self) -> None:
        """Settle the folder of the results and the checkpoint before anything heavy is built."""
        config = self.config[self.subcommand]
        trainer = config.trainer
        if self.subcommand == "fit" and not getattr(self._method(), "needs_training", True):
            raise UserError(
                f"{self._method().__name__} learns nothing.",
                fix="use the verb test, validate or predict instead of fit",
            )
        if self.subcommand != "fit" and self._uses_stream():
            raise UserError(
                f"{self._method().__name__} is scored while it learns.",
                fix="use the verb fit; metrics.json in its run folder holds the scores",
            )
        if trainer.default_root_dir is None:
            trainer.default_root_dir = default_folder(config.model.class_path.rsplit(".", 1)[-1].lower())
        torch.set_float32_matmul_precision(config.matmul_precision if torch.cuda.is_available() else "highest")
        self.run_dir = Path(trainer.default_root_dir)
        writes = not trainer.fast_dev_run and _is_main_process()
        resumes = config.ckpt_path is not None or not writes
        self.results_dir = results_folder(self.run_dir, str(self.subcommand), resumes)
        if _is_main_process():
            os.environ[_RESULTS_DIR] = str(self.results_dir)
        else:  # started by the main process, which may have made the folder already: it must not count as another run's
            self.results_dir = Path(os.environ.get(_RESULTS_DIR, self.results_dir))
        config.ckpt_path = self._find_checkpoint(config.ckpt_path)
        if writes and self.results_dir == self.run_dir:
            self._claim = self._until_end.enter_context(Claim(self.run_dir, str(self.subcommand)))
        interval, steps = trainer.val_check_interval, trainer.max_steps
        if isinstance(interval, int) and 0 < steps < interval:
            trainer.val_check_interval = steps  # a run shorter than the interval is validated once, at its end

    def _find_checkpoint(self, ckpt_path: str | None) -> str | None:
        if ckpt_path in ("last", "best"):
            path = self.run_dir / "checkpoints" / f"{ckpt_path}.ckpt"
            if not path.is_file() and self.subcommand == "fit":
                _say(f"No {path} yet: the run starts from the beginning.")
                return None
            ckpt_path = str(path)
        if ckpt_path is not None:
            read_checkpoint(ckpt_path)
        elif self.subcommand != "fit" and getattr(self._method(), "needs_training", True):
            raise UserError(
                f"{self.subcommand} needs trained weights.",
                expected="--ckpt_path FILE, or --ckpt_path best or last for those of the run folder",
                fix=f"add --ckpt_path {self.run_dir}/checkpoints/best.ckpt",
            )
        return ckpt_path

    def _method(self) -> Any:
        """The class of the model, which is not built yet."""
        module, _, name = self.config[self.subcommand].model.class_path.rpartition(".")
        return getattr(import_module(module), name)

    def _uses_stream(self) -> bool:
        """Whether fitting is one walk through a stream, scored as it goes: no validation, best weights or test."""
        return getattr(self._method(), "uses_stream", False)

    def instantiate_classes(self) -> None:
        """Build everything; a checkpoint that does not fit the model is explained before the run starts."""
        resumed = self.config[self.subcommand].ckpt_path is not None
        self.save_config_kwargs = {"folder": self.results_dir, "keep": self.subcommand == "fit" and resumed}
        super().instantiate_classes()
        if path := self.config[self.subcommand].ckpt_path:
            checkpoint = read_checkpoint(path)
            check_fit(checkpoint, self.model, path)
            self._compare_view(checkpoint, path)

    def _compare_view(self, checkpoint: dict[str, Any], path: str) -> None:
        """Say so where images are prepared in another way than those the checkpoint was trained on."""
        trained, view = checkpoint.get("datamodule_hyper_parameters", {}), self.datamodule.view
        for name in ("normalise", "resize", "grey", "geometry"):
            if name in trained and trained[name] != getattr(view, name) and not self._uses_stream():
                _say(f"warning: data.{name} is {getattr(view, name)}, but {path} was trained with {trained[name]}.")

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
        """Add what every run has: loggers, result files, checkpoints, guards."""
        if not config["logger"]:
            config["logger"] = self._loggers()
        config["use_distributed_sampler"] = False  # the data module shards its streams and whole cases itself
        if self._uses_stream():
            length = len(self.datamodule.stream_items())
            config["max_steps"] = length if config["max_steps"] < 0 else min(config["max_steps"], length)
        trainer = super()._instantiate_trainer(config, [*callbacks, *self._own_callbacks(config)])
        if self._claim is not None:
            done: Any = trainer.fit_loop.epoch_loop.batch_progress.total
            self._claim.progress = lambda: (
                done.processed,
                int(min(max(0, trainer.max_steps), trainer.num_training_batches)),
            )
        return trainer

    def _own_callbacks(self, trainer: dict[str, Any]) -> list[pl.Callback]:
        config = self.config[self.subcommand]
        own: list[pl.Callback] = []
        if trainer["enable_progress_bar"] is not False:
            # Refreshing the bar reads the loss back from the device, so not after every step of a GPU. It comes first,
            # so that it is closed before the others say where the results are.
            on_cpu = trainer["accelerator"] == "cpu" or not torch.cuda.is_available()
            own.append(TQDMProgressBar(refresh_rate=1 if on_cpu else 20))
        if self._uses_stream():
            if not trainer["fast_dev_run"]:
                own += [StreamWriter(self.results_dir), StreamFigures(self.results_dir)]
        else:
            overlays = OverlayWriter(self.results_dir, config.overlays)
            own += [StopOnNonFinite(), ResultsWriter(self.results_dir), overlays, ValidationOverlays(), CaseGallery()]
        if self.subcommand == "predict":
            own.append(PredictionWriter(self.results_dir))
        folder = self.run_dir / "checkpoints"
        if self.subcommand == "fit":
            own.append(SpeedMonitor())
        if self.subcommand == "fit" and not self._uses_stream():
            own.append(LearningRateMonitor("step"))
            if not trainer["fast_dev_run"]:
                own.append(BestCheckpoint(folder))
        if self.subcommand == "fit" and not trainer["fast_dev_run"]:
            own.append(LastCheckpoint(folder, config.checkpoint_every))
        return own

    def _loggers(self) -> list[Any]:
        config = self.config_init[self.subcommand]
        name, verb = self.run_dir.name, str(self.subcommand)
        writes = _is_main_process() and not config.trainer.fast_dev_run
        return build_loggers(self.results_dir, name, verb, config.wandb, config.tensorboard, writes)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand == "predict":
            kwargs["return_predictions"] = False
        return {**kwargs, "weights_only": True}

    def after_fit(self) -> None:
        """Test the best weights, or the last where no validation has taken place."""
        config = self.config[self.subcommand]
        if config.test_after_fit and not config.trainer.fast_dev_run and not self._uses_stream():
            best, last = (self.run_dir / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
            self.trainer.strategy.barrier()
            path = best if best.is_file() else last
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True, verbose=False)


class _ParserOnly(SamsegCLI):
    """Sets the parser of all verbs up, and stops there."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = {"subcommand": None}

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass


def parse(argv: Sequence[str]) -> Any:
    """Parse what :func:`run` would run, and go no further: nothing is built, no folder is touched.

    Args:
        argv: The verb and its options.

    Returns:
        The verb's configuration.

    Raises:
        UserError: If an option or a configuration is wrong.
    """
    with _mistakes_in_options(argv):
        config = _parser().parse_args(list(argv))
        return config[config.subcommand]


@contextmanager
def _mistakes_in_options(argv: Sequence[str]) -> Iterator[None]:
    """Turn what jsonargparse raises into our messages."""
    _check_text(argv)
    check_configs(argv)
    try:
        yield
    except ArgumentError as error:
        if explained(error) or type(error.__cause__).__module__.startswith("omegaconf"):
            raise  # it has a message of its own
        raise reworded(str(error), argv[0]) from error


@lru_cache(maxsize=1)
def _parser() -> LightningArgumentParser:
    return run([], _ParserOnly).parser


def run(argv: Sequence[str], cli: type[SamsegCLI] = SamsegCLI) -> SamsegCLI:
    """Run a verb of the command line.

    Args:
        argv: The verb and its options.
        cli: The command line's class.

    Returns:
        The command line with its ``trainer``, ``model`` and ``datamodule``, after the run.

    Raises:
        UserError: For mistakes a user can mend.
    """
    _quieten()
    arguments = sys.argv
    sys.argv = [arguments[0], *argv]  # what Lightning starts the other ranks with
    try:
        with _mistakes_in_options(argv):
            return cli(
                pl.LightningModule,
                SegmentationDataModule,
                save_config_callback=SaveConfig,
                seed_everything_default=42,
                trainer_defaults={"check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "log_every_n_steps": 10},
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                parser_kwargs={
                    "parser_mode": "omegaconf+",
                    "prog": "python -m lightning_samseg",
                    "allow_abbrev": False,
                },
            )
    finally:
        sys.argv = arguments


def _check_text(argv: Sequence[str]) -> None:
    """Refuse options that no configuration can hold: paths that are no UTF-8."""
    for text in argv:
        if any("\udc80" <= letter <= "\udcff" for letter in text):
            raise UserError(
                f"The option {escape(text)} is not UTF-8, as configurations are.",
                expected="folders and files of a run under names in UTF-8; the images in them may have any",
                fix="rename it, or make a link to it under another name (ln -s)",
            )


def _quieten() -> None:
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


def check_fit(checkpoint: dict[str, Any], model: torch.nn.Module, path: str | Path) -> None:
    """Raise UserError, naming the differing entries, unless the checkpoint's weights are those of this model."""
    theirs = {key: tuple(value.shape) for key, value in checkpoint["state_dict"].items()}
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if theirs == ours:
        return
    differing = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    examples = "; ".join(f"{key}: model {ours.get(key)}, checkpoint {theirs.get(key)}" for key in differing[:3])
    raise UserError(
        f"The checkpoint {path} belongs to another model.",
        expected="the model, backbone, image size and classes it was trained with (config.yaml of its run folder)",
        found=f"{len(differing)} differing entries; {examples}",
        fix="use --config config.yaml of that run folder, or another checkpoint",
    )


def _num_classes(data: SegmentationDataModule) -> int:
    return data.num_classes


def _is_main_process() -> bool:
    return not any(int(os.environ.get(name, "0") or 0) for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "RANK"))


def _say(message: str) -> None:
    if _is_main_process():
        print(message)
