"""A SAM that was adapted to a task, as the generalist beside which AuxOL learns (AuxOL section 4.3).

SAMed, with LoRA or with Medical-SAM-Adapter's bottlenecks, takes no prompts: one answer per image, a logit per class.
The paper does not say how it prompts its adapted SAMs. Here a prompt says which object is meant: its answer is the
model's, where that prompt's object is (:mod:`lightning_samseg.prompts.regions`).
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.adapters.checkpoints import open_adapter
from lightning_samseg.adapters.files import Adapter, build_adapted
from lightning_samseg.errors import UserError
from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.bottleneck import MSA_KEY
from lightning_samseg.models.generalist import Generalist
from lightning_samseg.prompts.regions import share_among_prompts
from lightning_samseg.transforms import View
from lightning_samseg.types import Case


class AdaptedSam(Generalist):
    """A SAM adapted by SAMed or CpcSam; it answers without prompts. Frozen unless :meth:`train_only` is called.

    One image: ``pixels, geometry = preprocess(image)``, ``low_res = foreground(pixels)``, ``restore(low_res[0],
    geometry)``.

    Args:
        adapter: An adapter (``.safetensors``) or a checkpoint of the run that trained it (``.ckpt``).
        backbone: Which SAM it was made on; must agree.
        checkpoint: Base weights in official SAM's names instead of the cached ones.

    Raises:
        UserError: If the file is no adapter, or is of another backbone or other base weights.
    """

    many_in_pass = False

    def __init__(self, adapter: str | Path, backbone: BackboneName, checkpoint: str | None = None) -> None:
        super().__init__()
        content = open_adapter(adapter)
        self.backbone = content.architecture.backbone
        if self.backbone != backbone:
            raise UserError(
                f"The adapter {adapter} is for another backbone.",
                expected=backbone,
                found=self.backbone,
                fix=f"set --model.sam.backbone {self.backbone}",
            )
        self.sam = build_adapted(content, adapter, checkpoint)
        self.branches = content.architecture.branches
        self.image_size = content.architecture.image_size
        # Adapters that do not say how their training images were prepared: the data modules' default.
        self.view = View(self.image_size, **(content.view or {}))
        self.adapter_sha256 = fingerprint(content)
        self.requires_grad_(False).eval()

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the base weights."""
        return self.sam.weights_sha256

    @property
    def identity(self) -> str:
        """What the answer for an image depends on besides it: part of a cache's key."""
        view = json.dumps({name: getattr(self.view, name) for name in View.STORED}, sort_keys=True)
        return f"{self.backbone} {self.weights_sha256} adapter {self.adapter_sha256} {self.image_size} {view}"

    def prompt_warning(self, _: str) -> None:
        """None: it answers without prompts."""

    def train_only(self, part: str) -> None:
        """Thaw a part of the model, for DirectOL.

        Args:
            part: ``adapter``: LoRA or the bottlenecks in the encoder. ``all``: with the decoders.

        Raises:
            UserError: If there is nothing to train.
        """
        self.requires_grad_(False)
        for name, parameter in self.sam.named_parameters():
            inside = ".lora_" in name or MSA_KEY in name
            parameter.requires_grad_(inside or (part == "all" and name.startswith("mask_decoders.")))
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise UserError(
                "The adapter has no layers in the image encoder that could learn.",
                found="LoRA of rank 0",
                fix="train one with --model.adapter.rank 4 or --model.adapter.kind msa, or set --model.trained all",
            )

    def foreground(self, pixels: Tensor) -> Tensor:
        """Log-odds of any foreground class, with gradients where something was thawed.

        Args:
            pixels: Float ``(B, 3, S, S)`` from :meth:`preprocess`.

        Returns:
            Float32 ``(B, 1, L, L)``: of the mean of the branches' softmax, as CpcSam predicts.
        """
        embedding = self.sam.encode(pixels)
        branches = [self.sam.decode(embedding, branch).float().log_softmax(1) for branch in range(self.branches)]
        scores = torch.stack(branches)
        return scores[:, :, 1:].logsumexp((0, 2)).unsqueeze(1) - scores[:, :, :1].logsumexp(0)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """The answers themselves: there is nothing to prompt. As :meth:`foreground`, without gradients."""
        return self.foreground(pixels)

    def answer(self, embedding: Tensor, geometry: Case, points: Any = None, boxes: Any = None) -> Tensor:
        """Low-resolution logits ``(1, L, L)``, whatever the prompts, to which the model is blind."""
        return embedding[0]

    def predict(self, image: NDArray[np.uint8], *_: Any) -> tuple[Tensor, Case]:
        """Answer once for a picture.

        Args:
            image: uint8 ``(H, W, 3)``, RGB.
            _: Prompts, to which the model is blind.

        Returns:
            Low-resolution logits ``(1, L, L)`` on the device of the weights, and the geometry.
        """
        pixels, geometry = self.preprocess(image)
        return self.answer(self.encode(pixels.to(next(self.parameters()).device)), geometry), geometry

    def of_prompts(self, low_res: Tensor, geometry: Case, prompts: NDArray[np.float64]) -> Tensor:
        """The one answer at the size of the image, for each prompt where that prompt's object is."""
        return share_among_prompts(self.restore(low_res, geometry), prompts)


def fingerprint(adapter: Adapter) -> str:
    """Hash of what an adapter computes: its tensors, architecture and view; the same for a run's checkpoint and export.

    Returns:
        64 hexadecimal digits.
    """
    described = {"architecture": asdict(adapter.architecture), "view": adapter.view}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, value in sorted(adapter.tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
