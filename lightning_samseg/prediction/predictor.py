"""From a checkpoint, without a config, to label maps: what ``predict --input`` computes.

A checkpoint of a run says what it is: the method's class and arguments, how its images were prepared, the classes, the
precision. Methods that take prompts (AuxOL, zero-shot SAM) get them from a file.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_samseg.adapters.checkpoints import read_checkpoint
from lightning_samseg.errors import BadValueError, UserError
from lightning_samseg.io.images import to_grey, to_rgb_uint8
from lightning_samseg.methods import Method, ZeroShot
from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.sam_config import SamConfig
from lightning_samseg.online.prompter import PrompterConfig
from lightning_samseg.transforms import View, prepare_image
from lightning_samseg.types import PromptKind, Query, Segmentation

_OURS = "lightning_samseg.methods."


@dataclass(frozen=True)
class Predictor:
    """A method that is ready to predict."""

    method: Method
    view: View
    """How its images are prepared."""
    class_names: tuple[str, ...]
    """Foreground classes 1..C."""
    batch_size: int
    precision: str
    """Lightning's name, such as 32-true or bf16-mixed."""
    scales_volumes: bool
    """Whether volumes are scaled as a whole, see ``io.volumes.scaled_slice``."""

    @property
    def reads_scaled(self) -> bool:
        """Whether a slice is read with its volume scaled as a whole."""
        return self.view.normalise == "stored" and self.scales_volumes

    def to(self, device: torch.device) -> "Predictor":
        """Bring the method to a device, in evaluation mode."""
        self.method.to(device).eval()
        return self

    def query(self, picture: np.ndarray, prompts: NDArray[np.float64] | None = None, **case: Any) -> Query:
        """Prepare a picture as the method's images are.

        Args:
            picture: ``(H, W)`` or ``(H, W, 3)`` as read from a file.
            prompts: ``(m, 4)`` boxes or ``(m, 2)`` points, for a method that takes prompts.
            case: Arguments of ``prepare_image`` that say where the picture comes from.

        Raises:
            UserError: If the picture has no pixels or another number of channels.
        """
        frame = prepare_image(picture, self.view, **case)
        shown = np.empty((0, 0, 3), np.uint8)
        if prompts is not None:
            shown = to_rgb_uint8(to_grey(picture) if self.view.grey else picture)
        return Query(torch.from_numpy(frame.image), shown, frame.case, np.empty((0, 0)) if prompts is None else prompts)

    @torch.inference_mode()
    def answer(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Segment a batch, in the precision of the run.

        Args:
            queries: At least one.

        Raises:
            UserError: If a prompt lies outside of its image.
        """
        with self._autocast():
            return self.method.answer(queries)

    def _autocast(self) -> AbstractContextManager[Any]:
        kind = self.method.device.type
        if self.precision == "bf16-mixed":
            return torch.autocast(kind, torch.bfloat16)
        return torch.autocast(kind, torch.float16) if self.precision == "16-mixed" and kind == "cuda" else nullcontext()


def load_predictor(path: str | Path, weights: str | None = None, trust: bool = False) -> Predictor:
    """Rebuild the method of a checkpoint from what the checkpoint says.

    CPC-SAM, SAMed and U-Net are complete in it. AuxOL's frozen SAM is not: it comes from the weights' cache, and its
    hash is compared.

    Args:
        path: ``best.ckpt`` or ``last.ckpt`` of a run.
        weights: File of the frozen SAM instead of the cached one, for AuxOL.
        trust: Whether a method that is not part of this package may be imported, which runs its code.

    Raises:
        UserError: If the file is missing, damaged, or from elsewhere; if SAM's weights are missing or others.
    """
    checkpoint = read_checkpoint(path)
    method = method_class(checkpoint, path, trust).from_checkpoint(checkpoint, path, weights)
    data = checkpoint.get("datamodule_hyper_parameters", {})
    names = tuple(checkpoint.get("class_names", ()))
    # A method with prompts gets pictures at their own size: of Online.save there is no view to be kept.
    view = View(64) if method.prompt_kind is not None and not data else View.stored_in(data, path)
    return Predictor(
        method,
        view,
        (*names, *(f"class {number}" for number in range(len(names) + 1, method.num_classes + 1))),  # all have a name
        int(data.get("eval_batch_size", 4)),
        str(checkpoint.get("precision", "32-true")),
        bool(checkpoint.get("scales_volumes", False)),
    )


def zero_shot(backbone: BackboneName, prompt: PromptKind, weights: str | None = None) -> Predictor:
    """Take a SAM as it is, to be prompted from a file; everything it answers is one class.

    Raises:
        UserError: If its weights are missing.
    """
    method = ZeroShot(SamConfig(backbone, weights), PrompterConfig(prompt, "deepest"), num_classes=1)
    view = View(64)  # SAM gets its pictures at their own size
    return Predictor(method, view, ("foreground",), 1, "32-true", scales_volumes=False)


def device_of(name: str) -> torch.device:
    """Find a device.

    Args:
        name: ``auto`` for a GPU where there is one, or torch's name.

    Raises:
        UserError: If it cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = str(error).strip().splitlines()[0][:200]
        fix = "use device='cpu' (--device cpu)"
        raise BadValueError(f"The device {name!r} cannot be used.", found=found, fix=fix) from error
    return device


def method_class(checkpoint: Mapping[str, Any], path: str | Path, trust: bool = False) -> type[Method]:
    """Find the class that a checkpoint names; one that is not of this package is imported only where that is allowed.

    Args:
        checkpoint: From ``read_checkpoint``.
        path: Its file, for messages.
        trust: Whether code from elsewhere may be imported.

    Raises:
        UserError: If it is no method, cannot be imported, or may not be.
    """
    said = str(checkpoint.get("method", ""))
    module, _, name = said.rpartition(".")
    ours = f"{module}.".startswith(_OURS)
    if module and not ours and not trust:
        raise UserError(
            f"{path} is of {said}, which is not part of lightning_samseg: to use it, its code is imported and runs.",
            fix="pass trust=True (--trust on the command line) if you know whose code and checkpoint these are",
        )
    found, problem = None, said or "no method"
    try:
        found = getattr(import_module(module), name, None) if module else None
    except ModuleNotFoundError as error:  # of another version, or not to be found from here
        problem = str(error)
    if isinstance(found, type) and issubclass(found, Method):
        return found
    if ours or not module:
        raise UserError(
            f"{path} does not say which method it belongs to.",
            expected="a checkpoint of CpcSam, SAMed, UNet, AuxOl or another class of lightning_samseg.methods",
            found=problem,
            fix="predict with its config: predict --config RUN/config.yaml --ckpt_path FILE --data.predict_from FOLDER",
        )
    raise UserError(
        f"The method {said} of {path} cannot be used here.",
        expected="a class derived from lightning_samseg.methods.BaseMethod or Method, in a module that can be imported",
        found=problem if found is None else f"{said}, which is none",
        fix="put the class into a file of its own, and name the file's folder in the variable PYTHONPATH",
    )
