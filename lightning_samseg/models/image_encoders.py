"""Image encoders of the SAM family by name, at any input size, with their pretrained weights.

``models.backbones`` says what there is. The Vision Transformers are built from the package ``segment_anything`` with
:class:`RelPosAttention` in place of its attention. Official checkpoints are made for 1024 px; :func:`resize_positions`
fits their position tables to the size asked for.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_samseg.errors import UserError
from lightning_samseg.models import weights
from lightning_samseg.models.backbones import BACKBONES, BackboneName


class Pretrained(NamedTuple):
    """A checkpoint in official SAM's names, split by part, without the prefix. A part may be empty."""

    image_encoder: dict[str, Tensor]
    prompt_encoder: dict[str, Tensor]
    mask_decoder: dict[str, Tensor]
    sha256: str | None


def check_image_size(image_size: int) -> None:
    """Raise UserError unless ``image_size`` is a positive multiple of 16, SAM's patch size."""
    if image_size <= 0 or image_size % 16:
        nearest = max(16, round(image_size / 16) * 16)
        raise UserError(
            "The network input has an impossible size.",
            expected="image_size, a positive multiple of 16 (SAM's patch size)",
            found=str(image_size),
            fix=f"set --data.image_size {nearest}",
        )


def build_image_encoder(backbone: BackboneName, image_size: int) -> nn.Module:
    """An image encoder ``(B, 3, S, S) -> (B, 256, E, E)`` with random weights.

    Raises:
        UserError: If ``image_size`` is not a multiple of 16.
    """
    check_image_size(image_size)
    entry = BACKBONES[backbone]
    module, _, function = entry.encoder.partition(":")
    encoder: nn.Module = getattr(import_module(module), function)(entry, image_size)
    return encoder


def load_pretrained(backbone: BackboneName, checkpoint: str | Path | None = None) -> Pretrained:
    """Read the backbone's pretrained weights.

    Args:
        backbone: Name of the backbone; ``tiny`` has no weights of its own.
        checkpoint: A file in official SAM's names instead of the cached one.

    Raises:
        UserError: If the file is missing, corrupt, or belongs to another architecture.
    """
    if checkpoint is None:
        published = BACKBONES[backbone].checkpoint
        if published is None:
            return Pretrained({}, {}, {}, None)
        path = weights.resolve(backbone)
        sha256 = published.sha256  # as resolve has just made sure of
    else:
        path = Path(checkpoint)
        sha256 = None
    state = weights.load_state_dict(path)

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}

    unused = BACKBONES[backbone].unused
    image_encoder = {key: value for key, value in part("image_encoder").items() if not key.startswith(unused)}
    if not image_encoder:
        raise UserError(
            f"{path} holds no image encoder.",
            expected="entries named image_encoder.*, as in the official SAM checkpoints",
            found=", ".join(list(state)[:3]) or "no entries",
            fix=f"check the file, or leave the checkpoint out to use the cached weights of {backbone}",
        )
    sha256 = sha256 or weights.sha256_file(path)
    return Pretrained(image_encoder, part("prompt_encoder"), part("mask_decoder"), sha256)


def load_image_encoder(encoder: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load pretrained entries strictly, resizing position tables where only they differ in size.

    Raises:
        UserError: If entries are missing, unknown or of another shape: the checkpoint is of another backbone.
    """
    fitted = resize_positions(encoder, dict(state))
    try:
        encoder.load_state_dict(fitted, strict=True)
    except RuntimeError as error:
        details = [line.strip() for line in str(error).splitlines()[1:]]
        raise UserError(
            f"The checkpoint does not fit the backbone ({source}).",
            expected="every entry of the image encoder with the same shape",
            found=" ".join(details)[:300],
            fix="choose the --model.sam.backbone that the checkpoint was made for, or another checkpoint",
        ) from error


def resize_positions(encoder: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fit ``pos_embed`` (bilinear) and the global blocks' ``rel_pos_*`` (linear) to the encoder's input size.

    The tables that need it are those whose length differs, which is right for every depth; the authors of SAMed and
    CPC-SAM search the block number in the key, which is right for ViT-B only. Windowed blocks keep theirs.
    """
    own = encoder.state_dict()
    for key, value in state.items():
        if key not in own or value.shape == own[key].shape:
            continue
        if key.endswith("pos_embed") and value.ndim == 4:
            size = own[key].shape[1:3]
            grid = value.permute(0, 3, 1, 2)
            state[key] = F.interpolate(grid, size=size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        elif key.endswith(("rel_pos_h", "rel_pos_w")) and value.shape[1] == own[key].shape[1]:
            line = value.T[None]
            state[key] = F.interpolate(line, size=own[key].shape[0], mode="linear", align_corners=False)[0].T
    return state
