"""What the rest of the library knows of a method: how it is asked, what it shows, how a checkpoint brings it back."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, TypeVar

import lightning
from torch import nn

from lightning_samseg.adapters.checkpoints import require
from lightning_samseg.errors import UserError
from lightning_samseg.methods.groups import as_tables, defaults, with_groups
from lightning_samseg.methods.unused_options import refuse_unused
from lightning_samseg.moved_arguments import check_moved
from lightning_samseg.runs.options import PRECISIONS, flat
from lightning_samseg.runs.resume import check_fit
from lightning_samseg.types import Case, Panel, PromptKind, Query, Segmentation, StreamItem

M = TypeVar("M", bound="Method")


class _TakesTables(type):
    """Lets the groups of a method's arguments be plain tables, too."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of the constructor, which ``__call__`` would hide."""
        own = inspect.signature(cls.__init__)  # type: ignore[misc]
        return own.replace(parameters=list(own.parameters.values())[1:])

    def __call__(cls, *args: Any, **arguments: Any) -> Any:
        return super().__call__(*args, **with_groups(cls, arguments))


class Method(lightning.LightningModule, metaclass=_TakesTables):
    """The contract of a segmentation method: predictor, callbacks and API use nothing else of it.

    :class:`BaseMethod` fulfils it for networks that take no prompts and learn from batches; most methods start there.
    A method calls ``save_hyperparameters()`` in its constructor, so that its checkpoints bring it back.
    """

    prompt_kind: PromptKind | None = None
    """By what each object is prompted; None for a method that takes no prompts."""
    needs_training: ClassVar[bool] = True
    """Whether there is anything to fit, and a checkpoint to load before a test."""
    uses_unlabelled = False
    """Whether a training step takes a SemiBatch; the data module asks for it."""
    uses_stream: ClassVar[bool] = False
    """Whether fitting is one pass through a stream, scored as it goes: no validation, no best weights, no test.

    Such a method's ``training_step`` takes a StreamItem and gives ``records``, a list of ``StreamRecord``s that fills
    the run's tables. What has learned is called ``column`` in ``cases.csv``, tables and figures; the metrics have a
    ``convention``.
    """
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    """In which it can be trained."""
    held_by_checkpoint: ClassVar[Mapping[str, Any]] = {
        **{"sam.pretrained": False, "sam.checkpoint": None},
        **{"adapter.file": None, "network.encoder_weights": None},
    }
    """Arguments of the constructor that load what a checkpoint brings anyway, and their values for when it does."""

    num_classes: int
    """C, foreground classes."""
    image_size: int
    """S, side of the network input in pixels."""
    seed: int
    """Base of every random draw."""

    def save_hyperparameters(self, *args: Any, frame: FrameType | None = None, **options: Any) -> None:
        """As Lightning's, with groups as plain tables: checkpoints hold no code.

        Raises:
            UserError: If an argument has no effect beside others.
        """
        caller = inspect.currentframe().f_back  # type: ignore[union-attr]
        super().save_hyperparameters(*args, frame=frame or caller, **options)
        self.hparams.update(as_tables(self.hparams))
        self._hparams_initial = copy.deepcopy(self.hparams)  # as Lightning's, which is what loggers get
        refuse_unused(self)

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the pretrained weights the network started from; None for random ones."""
        return None

    def frozen_sam(self, pretrained: bool = True) -> nn.Module | None:
        """The frozen SAM beside the method, made at the first call: no submodule, and in no checkpoint. None without.

        Args:
            pretrained: False makes it with random weights, for where its size alone counts.

        Raises:
            UserError: If its weights are missing.
        """
        return None

    def ask_frozen_sam(self, item: StreamItem) -> int:
        """Ask the frozen SAM about an image of the stream as a step does, so that a plan can count what that costs.

        Returns:
            Images that share SAM's pass; 0 where a step asks nothing.
        """
        return 0

    def resume_stream(self, prompts: Path) -> None:
        """Go by what an interrupted run has written of its stream, where a step hung on time; by default nothing did.

        Args:
            prompts: Its ``prompts.csv``, which may reach beyond the checkpoint.
        """

    def to_mid_run(self) -> None:
        """Let the next step need what steps in the middle of a run need; plans call it before each of their steps.

        By default all steps are alike. Overridden by what begins without unlabelled images, or with an empty memory.
        """

    def answer(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Segment pictures at their own size, in evaluation mode and with what is known now.

        Args:
            queries: At least one; with prompts of ``prompt_kind``. There may be none on a picture: it is background.

        Returns:
            One answer per query, in order.

        Raises:
            UserError: If a prompt lies outside of its picture.
        """
        raise NotImplementedError

    def panels(self, image: Any, case: Case) -> Sequence[Panel]:
        """What there is to see of a validation image beside the answer; by default nothing.

        The same for an image at every call, whatever else is drawn: pictures then differ by what was learned alone.

        Args:
            image: ``(1, 3, S, S)`` on the method's device.
            case: Where it comes from.
        """
        return ()

    def class_names_of(self, data: Any) -> list[str]:
        """Names of the foreground classes that the method answers with when it has learned from a data module."""
        return [str(name) for name in getattr(data, "class_names", ())]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint say what Lightning's ``hyper_parameters`` and ``datamodule_hyper_parameters`` leave open.

        With them it is enough to predict without a config: ``method`` (class), ``weights_sha256`` (of the pretrained
        weights), ``class_names``, ``precision``, and ``scales_volumes`` (see ``data_modules.layouts.base.Layout``).

        Args:
            checkpoint: Gets plain values only, so that ``torch.load(weights_only=True)`` reads it.
        """
        trainer = self._trainer
        data = getattr(trainer, "datamodule", None)
        checkpoint["method"] = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint["weights_sha256"] = self.weights_sha256
        checkpoint["class_names"] = self.class_names_of(data)
        checkpoint["precision"] = "32-true" if trainer is None else str(trainer.precision)
        checkpoint["scales_volumes"] = bool(getattr(getattr(data, "layout", None), "scales_volumes", False))

    def as_checkpoint(self, **entries: Any) -> dict[str, Any]:
        """What a checkpoint of the method holds that is written without a trainer; ``entries`` go into it as well."""
        checkpoint: dict[str, Any] = {
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": self.state_dict(),
            "hparams_name": "kwargs",
            "hyper_parameters": dict(self.hparams),
            **entries,
        }
        self.on_save_checkpoint(checkpoint)
        return checkpoint

    @classmethod
    def from_checkpoint(cls: type[M], checkpoint: Mapping[str, Any], path: str | Path, weights: str | None = None) -> M:
        """Build the method anew from what a checkpoint says, with the checkpoint's weights.

        Args:
            checkpoint: From ``read_checkpoint``.
            path: Its file, for messages.
            weights: File of a frozen SAM that the checkpoint does not hold, instead of the cached one.

        Raises:
            UserError: If it lacks something, is of another version, or SAM's weights are missing or others.
        """
        require(checkpoint, path, "hyper_parameters")
        arguments = {key: value for key, value in checkpoint["hyper_parameters"].items() if key[0] != "_"}
        check_moved(cls, arguments, path)
        try:
            method = cls.without_weights(arguments)
        except TypeError as error:  # an argument that this version does not have
            raise UserError(
                f"{path} was written by another version of {cls.__module__.partition('.')[0]}.",
                found=str(error),
                fix="predict with the version that wrote it (metrics.json in the run folder names the commit)",
            ) from error
        check_fit(checkpoint, method, path)
        method.load_state_dict(checkpoint["state_dict"])
        return method

    @classmethod
    def without_weights(cls: type[M], arguments: Mapping[str, Any]) -> M:
        """Build the method without reading what a checkpoint would bring anyway: pretrained weights, adapters.

        Args:
            arguments: Of the constructor, groups as plain tables.
        """
        given, known = dict(arguments), flat(as_tables(defaults(cls)))
        for name, value in cls.held_by_checkpoint.items():
            if name in known:
                group, _, option = name.partition(".")
                given[group] = {**given.get(group, {}), option: value} if option else value
        return cls(**given)
