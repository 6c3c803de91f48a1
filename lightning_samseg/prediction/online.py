"""AuxOL in a loop of one's own: predict, let somebody correct, learn. No Trainer is involved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_samseg.adapters.checkpoints import CheckpointFiles, read_checkpoint
from lightning_samseg.errors import UserError
from lightning_samseg.methods import AuxOl
from lightning_samseg.models.sam_config import SamConfig
from lightning_samseg.online.predictions import Prediction
from lightning_samseg.online.scores import ImageRow, image_row
from lightning_samseg.prediction.answers import Answer, Given, joined
from lightning_samseg.prediction.model import Model, Sam
from lightning_samseg.prediction.predictor import Predictor, device_of, method_class
from lightning_samseg.transforms import View
from lightning_samseg.types import PromptKind, Query


@dataclass(frozen=True)
class OnlineAnswer(Answer):
    """What SAM and the auxiliary network say of a picture, before anything is learned from it."""

    query: Query
    prediction: Prediction
    """With what SAM alone says: ``prediction.sam``, bool ``(H, W)``."""


class Online(Model):
    """A frozen SAM with a network beside it that learns from each corrected mask (AuxOL, Listing 1).

    All prompts of a picture are predicted before its mask is used: ``fit`` with ``learning.order`` ``image``. With the
    reference as mask the numbers are those of ``fit`` on the same stream. Settings are those of
    :class:`lightning_samseg.methods.AuxOl`.

    Args:
        sam: From ``load_sam``; or None to load it as the settings say.
        fusion: ``fixed`` or ``adaptive``, or all of a ``FusionConfig``.
        prompt: By what it will be prompted: ``box`` or ``point``.
        settings: Other arguments of ``AuxOl``; groups may be dictionaries, as ``learning={"lr": 1e-3}``.

    Raises:
        UserError: If settings contradict each other.
    """

    def __init__(
        self, sam: Sam | None = None, fusion: Any = "fixed", prompt: PromptKind = "box", **settings: Any
    ) -> None:
        settings["prompter"] = {**settings.get("prompter", {}), "kind": prompt}
        settings["fusion"] = {"kind": fusion} if isinstance(fusion, str) else fusion
        if sam is None:
            method, device = AuxOl(**settings), device_of("auto")
        else:
            given, device = sam.method.sam, sam.method.device
            settings["sam"] = SamConfig(given.backbone, None, None, given.preprocessing, given.image_size)
            method = AuxOl(**settings)
            method.__dict__["generalist"] = given  # frozen, both may use it
        super().__init__(_predictor(method, device))
        self._next = 0

    method: AuxOl

    @classmethod
    def restore(cls, path: str | Path, device: str = "auto", weights: str | None = None) -> "Online":
        """Go on where :meth:`save` was called, bit for bit as without a break.

        Args:
            path: The file.
            device: ``auto`` for a GPU where there is one, or torch's name.
            weights: File of the frozen SAM instead of the cached one.

        Raises:
            UserError: If the file is missing, damaged or from elsewhere, or SAM's weights are others.
        """
        content = read_checkpoint(path)
        kind = method_class(content, path)
        if not issubclass(kind, AuxOl) or "online_optimizer" not in content:
            raise UserError(
                f"{path} is not what Online.save writes.",
                found=str(content.get("method")),
                fix="give such a file; lightning_samseg.load opens the checkpoint of a run",
            )
        method, restored = kind.from_checkpoint(content, path, weights), cls.__new__(cls)
        Model.__init__(restored, _predictor(method, device_of(device)))
        method.configure_optimizers().load_state_dict(content["online_optimizer"])
        restored._next = method.learner.position
        return restored

    def save(self, path: str | Path) -> Path:
        """Write all that it has learned: a file for :meth:`restore`, ``lightning_samseg.load`` and ``predict``."""
        method, path = self.method, Path(path).expanduser()
        content = method.as_checkpoint(online_optimizer=method.configure_optimizers().state_dict())
        CheckpointFiles().save_checkpoint(content, path)
        return path

    def learn(self, answer: OnlineAnswer, mask: Any = None, set_name: str = "") -> ImageRow | None:
        """Learn from what somebody says of a picture that was predicted.

        Args:
            answer: From :meth:`predict`; each once, in the order of the predictions.
            mask: ``(H, W)``, 0 or 1; ``types.IGNORED`` where nobody knows. What lies outside of the prompts' crops is
                not looked at. None: nobody says anything.
            set_name: Of the set that the picture belongs to, for the row.

        Returns:
            Scores of the answer and of SAM alone against the mask, as ``cases.csv`` of a stream has them; None without
            a mask.

        Raises:
            UserError: If the mask is of another size, or the weights are no longer finite.
        """
        method, prediction, case = self.method, answer.prediction, answer.query.case
        reference = None if mask is None else np.asarray(mask).astype(np.uint8)
        feedback = method.expert.feedback(prediction, reference, case.source)
        own = [method.device] if method.device.type == "cuda" else []
        with torch.random.fork_rng(devices=own):
            method.seed_step(prediction.position)
            method.learner.learn(prediction, feedback)
        if reference is None:
            return None
        return image_row(prediction, feedback, reference, case, set_name, method.convention)

    def _predict(self, sources: Sequence[Given], prompts: Sequence[list[NDArray[np.float64] | None]]) -> list[Answer]:
        return [self._answer(source, each[0]) for source, each in zip(sources, prompts, strict=True)]

    def _answer(self, source: Given, prompts: NDArray[np.float64] | None) -> OnlineAnswer:
        if source.volume is not None:
            raise UserError(f"{source.name} is a volume.", fix="give its slices one after the other, as arrays")
        query = self._query(source, 0, prompts)
        prediction = self.method.predict_next(query, self._next)
        self._next += 1
        plain = joined([prediction.as_segmentation()], source, self.class_names)
        return OnlineAnswer(plain.labels, plain.probabilities, plain.class_names, source, query, prediction)


def _predictor(method: AuxOl, device: torch.device) -> Predictor:
    """SAM gets its pictures at their own size: the view does not matter."""
    return Predictor(method, View(64), ("foreground",), 1, "32-true", scales_volumes=False).to(device)
