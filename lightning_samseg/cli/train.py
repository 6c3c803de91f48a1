"""``fit``, ``validate``, ``test`` and ``predict``: one LightningCLI, and the rules of a run folder."""

import sys
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import ActionYesNo, Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from omegaconf.errors import OmegaConfBaseException

from data_modules import SegmentationDataModule
from lightning_samseg.cli.option_errors import check_configs, reworded
from lightning_samseg.errors import UserError, explained
from lightning_samseg.io.text import escape
from lightning_samseg.methods.groups import check_groups
from lightning_samseg.runs.filled_in import FILLED_IN, NUM_CLASSES, check_filled_in, check_num_classes, unresolved
from lightning_samseg.runs.loggers import Wandb
from lightning_samseg.runs.session import Session
from lightning_samseg.runs.trainer import TRAINER_DEFAULTS, check_trainer, quieten


class SamsegCLI(LightningCLI):
    """The command line. A config written for one verb serves the others: every verb knows the same keys."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with ExitStack() as self._until_end:  # holds the run folder while the run writes into it
            super().__init__(*args, **kwargs)

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
        torch.set_float32_matmul_precision(config.matmul_precision if torch.cuda.is_available() else "highest")
        writes = not trainer.fast_dev_run
        self.session = Session(str(self.subcommand), self._method(), trainer.default_root_dir, config.ckpt_path, writes)
        trainer.default_root_dir = str(self.session.run_dir)
        config.ckpt_path = None if self.session.checkpoint is None else str(self.session.checkpoint)
        allowed, config.allow_changes = config.allow_changes, False  # for this once
        options = yaml.safe_load(self._parser(self.subcommand).dump(config, skip_none=False))
        self.session.record(options, allowed)
        self._until_end.enter_context(self.session)

    def _method(self) -> Any:
        """The class of the model, which is not built yet."""
        return class_of(self.config[self.subcommand].model)

    def instantiate_classes(self) -> None:
        """Build everything; a checkpoint that does not fit the model is explained before the run starts."""
        super().instantiate_classes()
        self.session.check(self.model, self.datamodule)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
        """Add what every run has: loggers, result files, checkpoints, guards."""
        own, wandb = self.config[self.subcommand], self.config_init[self.subcommand].wandb
        arguments = self.session.trainer_arguments(
            config,
            self.datamodule,
            callbacks,
            wandb=wandb,
            tensorboard=own.tensorboard,
            checkpoint_every=own.checkpoint_every,
            overlays=own.overlays,
        )
        trainer = super()._instantiate_trainer(arguments, [])
        self.session.watch(trainer)
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand == "predict":
            kwargs["return_predictions"] = False
        return {**kwargs, "weights_only": True}

    def after_fit(self) -> None:
        """Test the best weights, or the last where no validation has taken place."""
        config = self.config[self.subcommand]
        if config.test_after_fit and not config.trainer.fast_dev_run and not self.session.uses_stream:
            self.trainer.strategy.barrier()
            path = self.session.best_or_last()
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
    if "model.init_args" in config:  # jsonargparse takes a number for a group; a whole group has dotted names here
        check_groups(class_of(config.model), dict(config.model.init_args.items()))
    if config.trainer.logger is False and (config.wandb or config.tensorboard):
        raise UserError(
            "Without loggers there is nothing to log to W&B or TensorBoard with.",
            found="trainer.logger false",
            fix="leave it out, or leave out --wandb and --tensorboard",
        )
    return given


def class_of(config: Namespace) -> Any:
    """The class that a configuration names."""
    module, _, name = config.class_path.rpartition(".")
    return getattr(import_module(module), name)


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
    quieten()
    arguments = sys.argv
    sys.argv = [arguments[0], *argv]  # what Lightning starts the other ranks with
    try:
        with _mistakes_in_options(argv):
            return cli(
                pl.LightningModule,
                SegmentationDataModule,
                save_config_callback=None,
                seed_everything_default=42,
                trainer_defaults=TRAINER_DEFAULTS,
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
