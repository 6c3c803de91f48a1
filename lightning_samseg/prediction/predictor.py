"""From a checkpoint, without a config, to label maps: what ``predict --input`` computes.

A checkpoint of a run says what it is: the method's class and arguments, how its images were prepared, the classes, the
precision. Methods that take prompts (AuxOL, zero-shot SAM) get them from a file.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import LightningModule
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.adapters.checkpoints import read_checkpoint, require
from lightning_samseg.errors import UserError
from lightning_samseg.methods import AuxOl, BaseMethod, DirectOl, ZeroShot
from lightning_samseg.methods.base import restore_probabilities, restore_size
from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.online.expert import Expert
from lightning_samseg.prompts.boxes import crop_of_box
from lightning_samseg.prompts.files import PromptKind
from lightning_samseg.runs.resume import check_fit
from lightning_samseg.transforms import View
from lightning_samseg.types import Case

_OURS = "lightning_samseg.methods."
# The checkpoint holds the weights that these arguments would load; AuxOL's frozen SAM is what it does not hold.
_LOADS_NOTHING: dict[str, Any] = {"pretrained": False, "checkpoint": None, "adapter": None, "encoder_weights": None}
_LOADS_SAM: dict[str, Any] = {"encoder_weights": None, "cache_gb": 0, "prompt_file": None}


class Input(NamedTuple):
    """One picture, or one slice of a volume."""

    image: Tensor
    """float32 ``(3, S, S)``, network input."""
    picture: NDArray[np.uint8]
    """``(H, W, 3)`` at its own size, for methods that take prompts."""
    case: Case
    prompts: NDArray[np.float64]
    """``(m, 4)`` boxes or ``(m, 2)`` points in pixels of the picture; empty where the method takes none."""


class Output(NamedTuple):
    """What is predicted for it."""

    labels: NDArray[np.uint8]
    """``(H, W)`` class ids."""
    probabilities: NDArray[np.float16] | None
    """``(K, H, W)``, channel 0 is background; None where they are not asked for."""


@dataclass(frozen=True)
class Predictor:
    """A method that is ready to predict."""

    method: LightningModule
    view: View
    """How its images are prepared."""
    class_names: tuple[str, ...]
    """Foreground classes 1..C."""
    prompt: PromptKind | None
    """What it has to be prompted by; None: it takes no prompt."""
    batch_size: int
    precision: str
    """Lightning's name, such as 32-true or bf16-mixed."""
    scales_volumes: bool
    """Whether volumes are scaled as a whole, see ``io.volumes.scaled_slice``."""

    def to(self, device: torch.device) -> "Predictor":
        """Bring the method to a device, in evaluation mode."""
        self.method.to(device).eval()
        if isinstance(self.method, AuxOl):
            self.method.generalist.to(device)
        return self

    @torch.inference_mode()
    def predict(self, inputs: list[Input], probabilities: bool = False) -> list[Output]:
        """Predict a batch.

        Args:
            inputs: At least one.
            probabilities: Also give probabilities.

        Raises:
            UserError: If a prompt lies outside of its image.
        """
        with self._autocast():
            if self.prompt is not None:
                found = [self._segment(one) for one in inputs]
            else:
                assert isinstance(self.method, BaseMethod)
                batch = torch.stack([one.image for one in inputs]).to(self.method.device)
                pairs = zip(self.method.predict_probabilities(batch), inputs, strict=True)
                found = [
                    (
                        restore_size(each, one.case, self.method.restore),
                        restore_probabilities(each, one.case) if probabilities else each,
                    )
                    for each, one in pairs
                ]
        return [Output(labels, values.half().cpu().numpy() if probabilities else None) for labels, values in found]

    def _segment(self, one: Input) -> tuple[NDArray[np.uint8], Tensor]:
        """Label map, and probabilities ``(K, H, W)``, of one image by its prompts."""
        if isinstance(self.method, ZeroShot):
            return self.method.segment(one.picture, _inside(one, self.prompt), [1] * len(one.prompts))
        assert isinstance(self.method, AuxOl)
        logits = self.method.sam_logits(one.picture, one.prompts)
        crops = self.method.prompter.crops_of(one.prompts, logits, one.case)
        image = torch.from_numpy(np.ascontiguousarray(one.picture.transpose(2, 0, 1)))
        predicted = self.method.learner.predict(image, logits, crops, 0)
        foreground = torch.zeros(logits.shape[1:], device=logits.device)
        for each in predicted.prompts:
            inside = foreground[each.crop.slices]
            foreground[each.crop.slices] = torch.maximum(inside, each.fused_logits.sigmoid())
        return predicted.mask.cpu().numpy().astype(np.uint8), torch.stack([1 - foreground, foreground])

    def _autocast(self) -> AbstractContextManager[Any]:
        kind = self.method.device.type
        if self.precision == "bf16-mixed":
            return torch.autocast(kind, torch.bfloat16)
        return torch.autocast(kind, torch.float16) if self.precision == "16-mixed" and kind == "cuda" else nullcontext()


def _inside(one: Input, kind: PromptKind | None) -> NDArray[Any]:
    """Prompts as SAM takes them: points, or the outermost pixels of boxes, clipped to the image.

    Raises:
        UserError: If one shares no pixel with the image.
    """
    size = one.case.original_size
    places = []
    for number, place in enumerate(one.prompts):
        if kind == "point":
            places.append(tuple(place))
            continue
        x0, y0, x1, y1 = crop_of_box(place, size, f"{one.case.source}, box {number + 1}")
        places.append((x0, y0, x1 - 1, y1 - 1))
    return np.array(places, np.float64)


def load_predictor(path: str | Path, weights: str | None = None) -> Predictor:
    """Rebuild the method of a checkpoint from what the checkpoint says.

    CPC-SAM, SAMed and U-Net are complete in it. AuxOL's frozen SAM is not: it comes from the weights' cache, and its
    hash is compared.

    Args:
        path: ``best.ckpt`` or ``last.ckpt`` of a run.
        weights: File of the frozen SAM instead of the cached one, for AuxOL.

    Raises:
        UserError: If the file is missing, damaged, or from elsewhere; if SAM's weights are missing or others.
    """
    checkpoint = read_checkpoint(path)
    kind = _method_class(checkpoint, path)
    require(checkpoint, path, "hyper_parameters", *(("online", "weights_sha256") if issubclass(kind, AuxOl) else ()))
    arguments = {key: value for key, value in checkpoint["hyper_parameters"].items() if key[0] != "_"}
    settled = _LOADS_SAM if issubclass(kind, AuxOl) else _LOADS_NOTHING
    arguments |= {key: value for key, value in settled.items() if key in signature(kind).parameters}
    if issubclass(kind, AuxOl):
        arguments["checkpoint"] = weights or arguments.get("checkpoint")
        arguments["expert"] = Expert(**arguments.pop("expert", {}))
    method = _built(kind, arguments, path)
    check_fit(checkpoint, method, path)
    method.load_state_dict(checkpoint["state_dict"])
    data = checkpoint.get("datamodule_hyper_parameters", {})
    names = tuple(checkpoint.get("class_names", ()))
    if isinstance(method, AuxOl):
        _check_weights(checkpoint, method, path)
        method.learner.load_state_dict(checkpoint["online"])
        names = (data.get("stream_class") or (names[0] if len(names) == 1 else "foreground"),)
    else:  # every class that it predicts has a name
        assert isinstance(method, BaseMethod)
        names += tuple(f"class {number}" for number in range(len(names) + 1, method.num_classes + 1))
    return Predictor(
        method,
        View.stored_in(data, path),
        names,
        method.prompter.prompt if isinstance(method, AuxOl) else None,
        int(data.get("eval_batch_size", 4)),
        str(checkpoint.get("precision", "32-true")),
        bool(checkpoint.get("scales_volumes", False)),
    )


def zero_shot(backbone: BackboneName, prompt: PromptKind, weights: str | None = None) -> Predictor:
    """Take a SAM as it is, to be prompted from a file; everything it answers is one class.

    Raises:
        UserError: If its weights are missing.
    """
    method = ZeroShot(backbone, weights, prompt=prompt, num_classes=1)
    view = View(64)  # SAM gets its pictures at their own size
    return Predictor(method, view, ("foreground",), prompt, 1, "32-true", scales_volumes=False)


def _method_class(checkpoint: dict[str, Any], path: str | Path) -> type[LightningModule]:
    """The class that the checkpoint names, if it is one of this package: nothing else is imported."""
    module, _, name = str(checkpoint.get("method", "")).rpartition(".")
    try:
        found = getattr(import_module(module), name, None) if f"{module}.".startswith(_OURS) else None
    except ModuleNotFoundError:  # of another version
        found = None
    if not (isinstance(found, type) and issubclass(found, (BaseMethod, AuxOl))) or issubclass(found, ZeroShot):
        raise UserError(
            f"{path} does not say which method it belongs to.",
            expected="a checkpoint of CpcSam, SAMed, UNet or AuxOl",
            found=str(checkpoint.get("method", "no method")),
            fix="predict with its config: predict --config RUN/config.yaml --ckpt_path FILE --data.predict_from FOLDER",
        )
    if issubclass(found, DirectOl):
        raise UserError(
            f"{path} is of DirectOl, which is a comparison and predicts while it learns only.",
            fix="use a checkpoint of AuxOl, or that of the SAMed run that its adapter came from",
        )
    return found


def _built(kind: Callable[..., LightningModule], arguments: dict[str, Any], path: str | Path) -> LightningModule:
    try:
        return kind(**arguments)
    except TypeError as error:  # an argument that this version does not have
        raise UserError(
            f"{path} was written by another version of lightning_samseg.",
            found=str(error),
            fix="predict with the version that wrote it (metrics.json in the run folder names the commit)",
        ) from error


def _check_weights(checkpoint: dict[str, Any], method: AuxOl, path: str | Path) -> None:
    if method.weights_sha256 != checkpoint["weights_sha256"]:
        raise UserError(
            f"{path} was trained beside another SAM: its weights are not part of the checkpoint.",
            expected=f"weights with sha256 {checkpoint['weights_sha256']}",
            found=str(method.weights_sha256),
            fix="give the file with --weights FILE, or see `python -m lightning_samseg weights list`",
        )
