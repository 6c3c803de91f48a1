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
import yaml
from jsonargparse import ActionYesNo, Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf.errors import OmegaConfBaseException

from data_modules import SegmentationDataModule
from lightning_samseg.adapters.checkpoints import read_checkpoint
from lightning_samseg.errors import UserError, explained
from lightning_samseg.io.text import escape
from lightning_samseg.option_errors import check_configs, reworded
from lightning_samseg.runs.error_log import keep_in
from lightning_samseg.runs.filled_in import FILLED_IN, NUM_CLASSES, check_filled_in, check_num_classes, unresolved
from lightning_samseg.runs.folder import Claim, results_folder
from lightning_samseg.runs.loggers import Wandb, build_loggers, default_folder
from lightning_samseg.runs.process import is_main_process, say
from lightning_samseg.runs.record import Record
from lightning_samseg.runs.requeue import Requeued, requeue
from lightning_samseg.runs.resume import check_fit, check_state, find_checkpoint
from lightning_samseg.runs.trainer import build_callbacks, check_trainer, settled

_RESULTS_DIR = "SAMSEG_RESULTS_DIR"
"""Variable by which the processes that Lightning starts learn where the results go."""
_TRAINER_DEFAULTS = {
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
    "use_distributed_sampler": False,
}


class SamsegCLI(LightningCLI):
    """The command line. A config written for one verb serves the others: every verb knows the same keys."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._claim: Claim | None = None
        try:
            with ExitStack() as self._until_end:  # holds the run folder while the run writes into it
                super().__init__(*args, **kwargs)
        except Requeued:
            if is_main_process():
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
        help_changes = "let a run go on with options that make another experiment; it is recorded"
        parser.add_argument("--allow_changes", action=ActionYesNo, nargs="?", default=False, help=help_changes)
        self.fill_in(parser)

    def fill_in(self, parser: LightningArgumentParser) -> None:
        """Options that are one: set once, filled in elsewhere."""
        for source, target, conversion in FILLED_IN:
            parser.link_arguments(source, target, compute_fn=conversion)
        parser.link_arguments("data", NUM_CLASSES, compute_fn=self._num_classes, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse what would not be followed."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        self._given = check_options(sys.argv[1:], config)

    def _num_classes(self, data: SegmentationDataModule) -> int:
        """What the data have; the user may have said the same, too."""
        check_num_classes(self._given, data.num_classes)
        return data.num_classes

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
        writes = not trainer.fast_dev_run and is_main_process()
        resumes = config.ckpt_path is not None or not writes
        self.results_dir = results_folder(self.run_dir, str(self.subcommand), resumes)
        if is_main_process():
            os.environ[_RESULTS_DIR] = str(self.results_dir)
        else:  # started by the main process, which may have made the folder already: it must not count as another run's
            self.results_dir = Path(os.environ.get(_RESULTS_DIR, self.results_dir))
        config.ckpt_path = self._find_checkpoint(config.ckpt_path)
        self.record = self._record(config)
        if writes and self.results_dir == self.run_dir:
            self._claim = self._until_end.enter_context(Claim(self.run_dir, str(self.subcommand)))

    def _record(self, config: Namespace) -> Record:
        """What the run is told; where it goes on, what it was told before."""
        allowed, config.allow_changes = config.allow_changes, False  # for this once
        options = yaml.safe_load(self._parser(self.subcommand).dump(config, skip_none=False))
        record = Record(options, allowed)
        if config.ckpt_path is not None:
            checkpoint, path = read_checkpoint(config.ckpt_path), Path(config.ckpt_path)
            if self.subcommand == "fit":
                check_state(checkpoint, path)
                record.resume(checkpoint, path, self.run_dir)
            else:
                record.take_over(checkpoint)
        return record

    def _find_checkpoint(self, given: str | None) -> str | None:
        path = find_checkpoint(self.run_dir, given)
        if path is not None:
            return str(path)
        if self.subcommand == "fit" and given == "last":
            say(f"No {self.run_dir}/checkpoints/last.ckpt yet: the run starts from the beginning.")
        elif self.subcommand != "fit" and getattr(self._method(), "needs_training", True):
            raise UserError(
                f"{self.subcommand} needs trained weights.",
                expected="--ckpt_path FILE, or --ckpt_path best or last for those of the run folder",
                fix=f"add --ckpt_path {self.run_dir}/checkpoints/best.ckpt",
            )
        return None

    def _method(self) -> Any:
        """The class of the model, which is not built yet."""
        module, _, name = self.config[self.subcommand].model.class_path.rpartition(".")
        return getattr(import_module(module), name)

    def _uses_stream(self) -> bool:
        """Whether fitting is one walk through a stream, scored as it goes: no validation, best weights or test."""
        return getattr(self._method(), "uses_stream", False)

    def instantiate_classes(self) -> None:
        """Build everything; a checkpoint that does not fit the model is explained before the run starts."""
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
                say(f"warning: data.{name} is {getattr(view, name)}, but {path} was trained with {trained[name]}.")

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
        """Add what every run has: loggers, result files, checkpoints, guards."""
        own, streams = self.config[self.subcommand], self._uses_stream()
        config = settled(config, len(self.datamodule.stream_items()) if streams else None)
        config["logger"] = [] if config["logger"] is False else [*self._loggers(), *_as_list(config["logger"])]
        around = build_callbacks(
            str(self.subcommand),
            self.run_dir,
            self.results_dir,
            self.record,
            config,
            uses_stream=streams,
            checkpoint_every=own.checkpoint_every,
            overlays=own.overlays,
        )
        trainer = super()._instantiate_trainer(config, [*callbacks, *around])
        if self._claim is not None:
            done: Any = trainer.fit_loop.epoch_loop.batch_progress.total
            self._claim.progress = lambda: (
                done.processed,
                int(min(max(0, trainer.max_steps), trainer.num_training_batches)),
            )
        return trainer

    def _loggers(self) -> list[Any]:
        config = self.config_init[self.subcommand]
        name, verb = self.run_dir.name, str(self.subcommand)
        writes = is_main_process() and not config.trainer.fast_dev_run
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


class _AsGiven(_ParserOnly):
    """Its parser leaves what others would fill in to the user."""

    def fill_in(self, parser: LightningArgumentParser) -> None:
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
        config = _parser(_ParserOnly).parse_args(list(argv))
        check_options(argv, config[config.subcommand])
        return config[config.subcommand]


@contextmanager
def _mistakes_in_options(argv: Sequence[str]) -> Iterator[None]:
    """Turn what jsonargparse raises into our messages."""
    _check_text(argv)
    check_configs(argv)
    try:
        yield
    except ArgumentError as error:
        if isinstance(error.__cause__, OmegaConfBaseException):
            raise unresolved(error.__cause__) from error
        if explained(error):
            raise  # it has a message of its own
        raise reworded(str(error), argv[0]) from error
    except OmegaConfBaseException as error:
        raise unresolved(error) from error


def check_options(argv: Sequence[str], config: Namespace) -> Namespace:
    """Refuse options that would not be followed, because they are filled in from others or mean nothing here.

    Args:
        argv: The verb and its options.
        config: What they were parsed to.

    Returns:
        The options that the command line and its config files name, without defaults and before any is filled in.

    Raises:
        UserError: At the first; the message names the one to set.
    """
    parsed = _parser(_AsGiven).parse_args(list(argv), defaults=False)
    given: Namespace = parsed[parsed.subcommand]
    check_trainer(given.get("trainer") or {})
    check_filled_in(given, config)
    if config.trainer.logger is False and (config.wandb or config.tensorboard):
        raise UserError(
            "Without loggers there is nothing to log to W&B or TensorBoard with.",
            found="trainer.logger false",
            fix="leave it out, or leave out --wandb and --tensorboard",
        )
    return given


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] if value else []


@lru_cache(maxsize=2)
def _parser(cli: type[SamsegCLI]) -> LightningArgumentParser:
    return run([], cli).parser


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
                save_config_callback=None,
                seed_everything_default=42,
                trainer_defaults=_TRAINER_DEFAULTS,
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
