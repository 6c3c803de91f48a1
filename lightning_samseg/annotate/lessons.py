"""Lessons: what the network is to learn from an accepted image, as files until a checkpoint holds what was learned.

The record cannot be made again once its weights are gone, so it is stored before the image counts as accepted. Of the
accepted mask the journal knows.
"""

import hashlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write
from lightning_samseg.online.predictions import Prediction, PromptPrediction, assemble
from lightning_samseg.prompts.boxes import Box
from lightning_samseg.types import Case

_TENSORS = ("network_input", "network_logits", "sam_logits", "aux_logits", "alpha")


class Lesson(NamedTuple):
    """One accepted image with its record."""

    prediction: Prediction
    prompts: NDArray[np.float64]
    """``(m, 4)`` boxes or ``(m, 2)`` points."""
    mask: NDArray[np.uint8]
    """``(H, W)``, what the expert accepted."""
    case: Case


def lesson_path(folder: Path, position: int) -> Path:
    """File of the lesson at a position of the stream."""
    return folder / f"{position:06d}.pt"


def save_record(path: Path, prediction: Prediction) -> str:
    """Write the record of an image.

    Args:
        path: File to write; complete or absent.
        prediction: The record; of SAM alone the mask is kept, not the probability.

    Returns:
        The file's sha256.

    Raises:
        OSError: If the disk does not take it.
    """
    sam = prediction.sam.cpu()
    content = {
        "position": prediction.position,
        "size": list(sam.shape),
        "sam": torch.from_numpy(np.packbits(sam.numpy())),
        "prompts": [
            {"crop": list(each.crop), **{name: getattr(each, name).cpu() for name in _TENSORS}}
            for each in prediction.prompts
        ],
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_record(path: Path, sha256: str, device: torch.device) -> Prediction:
    """Read a record back, bit by bit; SAM's probability is 1 inside its mask and 0 outside.

    Args:
        path: The file.
        sha256: That the journal knows.
        device: Of the network.

    Raises:
        UserError: If it is missing or another.
    """
    data = path.read_bytes() if path.is_file() else None
    if data is None or hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(
            f"The lesson {path} is {'missing' if data is None else 'damaged'}, and no checkpoint has learned from it.",
            expected=f"a file with sha256 {sha256}",
            fix="put it back from a backup, or start a new workspace; masks/ and journal.jsonl have every mask",
        )
    content: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location=device)
    height, width = content["size"]
    bits = np.unpackbits(content["sam"].cpu().numpy(), count=height * width).reshape(height, width)
    sam: Tensor = torch.from_numpy(bits).to(device, torch.float32)
    prompts = tuple(
        PromptPrediction(Box(*each["crop"]), **{name: each[name] for name in _TENSORS}) for each in content["prompts"]
    )
    return assemble(content["position"], prompts, sam)
