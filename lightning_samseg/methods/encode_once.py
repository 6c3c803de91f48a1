"""What the frozen first blocks of an image encoder make of an image, computed once and kept on disk.

With LoRA in the last blocks alone, or none, all before them does the same to an image at every step; only the blocks
behind, and the decoders, have to run. It is worth it where images come again: ``data.views``.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_samseg.errors import UserError
from lightning_samseg.io.files import cache_dir
from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.models.sam_vit import SamViT
from lightning_samseg.models.tiny_vit import TinyViT
from lightning_samseg.online.cache import LogitsCache

LIMIT_BYTES = 8_000_000_000


class Step(NamedTuple):
    """One part of an encoder; their composition is the encoder."""

    run: Callable[[Tensor], Tensor]
    part: nn.Module


def encoder_steps(encoder: nn.Module) -> list[Step]:
    """Divide an encoder into what runs one after the other; one that is not known is a single step."""
    if isinstance(encoder, TinyViT):
        parts: list[nn.Module] = [encoder.patch_embed]
        for stage in encoder.layers:
            parts += [*stage.blocks, *([] if stage.downsample is None else [stage.downsample])]  # type: ignore[misc, list-item]
        channels_last = Step(lambda x: encoder.patch_embed(x.contiguous(memory_format=torch.channels_last)), parts[0])
        return [channels_last, *(Step(part, part) for part in [*parts[1:], encoder.neck])]
    if isinstance(encoder, SamViT):
        first = Step(encoder.tokens, encoder.patch_embed)
        last = Step(lambda x: encoder.neck(x.permute(0, 3, 1, 2)), encoder.neck)
        return [first, *(Step(block, block) for block in encoder.blocks), last]
    return [Step(encoder, encoder)]


class EncodeOnce:
    """Runs an encoder whose frozen first steps are looked up, image by image.

    Entries are named by the hash of the image as the network sees it, augmented and at its size, and of the frozen
    weights, so that no image gets another one's, and runs of other seeds and settings share them. An image is encoded
    alone: what is kept does not depend on which others shared its batch, and a resumed run finds the same bits.

    Args:
        encoder: ``(B, 3, S, S)`` to ``(B, 256, E, E)``, on which is already decided what learns.
        limit_bytes: Of all entries; those that have not been used for longest go first.

    Raises:
        UserError: If the encoder learns from its first block on.
    """

    def __init__(self, encoder: nn.Module, limit_bytes: int = LIMIT_BYTES) -> None:
        steps = encoder_steps(encoder)
        learns = [any(parameter.requires_grad for parameter in step.part.parameters()) for step in steps]
        frozen = learns.index(True) if any(learns) else len(steps)
        if frozen < 2 and frozen < len(steps):
            raise UserError(
                "Nothing of the image encoder can be computed once: it learns from its first block on.",
                expected="LoRA in its last blocks alone, or none",
                fix="set --model.adapter.blocks [-2, -1] or --model.adapter.rank 0, or --model.encode_once false",
            )
        self.frozen, self.learning = steps[:frozen], steps[frozen:]
        self.cache = LogitsCache(cache_dir() / "encoded", limit_bytes)
        self._weights = ""
        encoder.register_load_state_dict_post_hook(self._forget)  # type: ignore[no-untyped-call]

    def __call__(self, images: Tensor) -> Tensor:
        """Encode ``(B, 3, S, S)``; a gradient reaches the steps that learn."""
        with torch.no_grad():
            x = torch.cat([self.look_up(image[None]) for image in images])
        for step in self.learning:
            x = step.run(x)
        return x

    def look_up(self, image: Tensor) -> Tensor:
        """What the frozen steps make of one image ``(1, 3, S, S)``, on its device."""

        def compute() -> Tensor:
            x = image
            for step in self.frozen:
                x = step.run(x)
            return x.float().contiguous()  # as it comes from the disk: sums depend on the layout in their last bits

        digest = hashlib.sha256(self.identity(image).encode())
        digest.update(image.cpu().contiguous().numpy().tobytes())
        return self.cache.get_or_compute(digest.hexdigest(), compute).to(image.device)

    def identity(self, image: Tensor) -> str:
        """Everything beside the image that its entry depends on."""
        if not self._weights:
            digest = hashlib.sha256()
            for step in self.frozen:
                for name, value in step.part.state_dict().items():
                    digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
            self._weights = digest.hexdigest()
        kind = image.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else image.dtype
        return f"{self._weights}\n{len(self.frozen)} {kind} {precision} torch {torch.__version__} {tuple(image.shape)}"

    def _forget(self, *_: Any) -> None:
        self._weights = ""


def look_up_encodings(sam: BranchedSam, trainer: Trainer) -> None:
    """Let a network look up what it can while it is fitted; what comes after, a test for instance, computes as usual.

    Args:
        sam: The network, whose ``encode_by`` is set.
        trainer: Of a run on a data module.

    Raises:
        UserError: If images never come again, or the encoder learns from its first block on.
    """
    data = getattr(trainer, "datamodule", None)
    if getattr(data, "augment", "none") != "none" and getattr(data, "views", None) is None:
        raise UserError(
            "Encoding each image once is of no use where each step sees new versions of the images.",
            expected="data.views, the number of augmented versions of each image",
            found="data.views null",
            fix="set --data.views 8, or --model.encode_once false",
        )
    once = EncodeOnce(sam.image_encoder)

    def encode(images: Tensor) -> Tensor:
        return once(images) if trainer.state.fn == TrainerFn.FITTING else sam.image_encoder(images)

    sam.encode_by = encode
