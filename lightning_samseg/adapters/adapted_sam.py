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
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_samseg.adapters.checkpoints import open_adapter
from lightning_samseg.adapters.files import Adapter, build_adapted
from lightning_samseg.errors import UserError
from lightning_samseg.io.geometry import resize_image
from lightning_samseg.io.images import to_grey
from lightning_samseg.models.bottleneck import MSA_KEY
from lightning_samseg.models.frozen_sam import SAM_MEAN, SAM_STD, InputGeometry
from lightning_samseg.models.image_encoders import BackboneName

DEFAULT_VIEW = {"resize": "squash", "normalise": "minmax", "grey": False, "geometry": "half_pixel"}
"""Of adapters that do not say how their training images were prepared: the data modules' default."""


class AdaptedSam(nn.Module):
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

    def __init__(self, adapter: str | Path, backbone: BackboneName, checkpoint: str | None = None) -> None:
        super().__init__()
        content = open_adapter(adapter)
        self.backbone = content.architecture.backbone
        if self.backbone != backbone:
            raise UserError(
                f"The adapter {adapter} is for another backbone.",
                expected=backbone,
                found=self.backbone,
                fix=f"set --model.backbone {self.backbone}",
            )
        self.sam = build_adapted(content, adapter, checkpoint)
        self.branches = content.architecture.branches
        self.image_size = content.architecture.image_size
        self.view: dict[str, Any] = DEFAULT_VIEW if content.view is None else content.view
        self.adapter_sha256 = fingerprint(content)
        self.requires_grad_(False).eval()

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the base weights."""
        return self.sam.weights_sha256

    @property
    def identity(self) -> str:
        """What the answer for an image depends on besides it: part of a cache's key."""
        view = json.dumps(self.view, sort_keys=True)
        return f"{self.backbone} {self.weights_sha256} adapter {self.adapter_sha256} {self.image_size} {view}"

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
                found="lora_rank 0",
                fix="train one with --model.lora_rank 4 or --model.adapter_kind msa, or set --model.trained all",
            )

    def train(self, mode: bool = True) -> "AdaptedSam":
        """Stay in evaluation mode, which is the same to these networks."""
        return super().train(False)

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
    def predict(self, image: NDArray[np.uint8], *_: Any) -> tuple[Tensor, InputGeometry]:
        """Answer once for a picture.

        Args:
            image: uint8 ``(H, W, 3)``, RGB.
            _: Prompts, to which the model is blind.

        Returns:
            Low-resolution logits ``(1, L, L)`` on the device of the weights, and the geometry.
        """
        pixels, geometry = self.preprocess(image)
        return self.foreground(pixels.to(next(self.parameters()).device))[0], geometry

    def geometry(self, image: NDArray[np.uint8]) -> InputGeometry:
        """How a picture, uint8 ``(H, W, 3)``, will lie in the network's input."""
        return self.geometry_of((image.shape[0], image.shape[1]))

    def geometry_of(self, size: tuple[int, int]) -> InputGeometry:
        """The same for its size ``(H, W)``."""
        if self.view["resize"] == "squash":
            return InputGeometry(size, (self.image_size, self.image_size))
        scale = self.image_size / max(size)
        return InputGeometry(size, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))

    def preprocess(self, image: NDArray[np.uint8]) -> tuple[Tensor, InputGeometry]:
        """Turn a picture into network input as the adapter's training did (``lightning_samseg.transforms``).

        Args:
            image: uint8 ``(H, W, 3)``, RGB.

        Returns:
            Float ``(1, 3, S, S)`` on the host, and the geometry that leads there and back.
        """
        geometry = self.geometry(image)
        height, width = geometry.content_size
        values = _normalised(to_grey(image) if self.view["grey"] else image, self.view["normalise"])
        resized = resize_image(values, geometry.content_size, self.view["geometry"])
        pixels = torch.zeros(1, 3, self.image_size, self.image_size)
        pixels[0, :, :height, :width] = torch.from_numpy(resized if resized.ndim == 2 else resized.transpose(2, 0, 1))
        return pixels, geometry

    def restore(self, low_res: Tensor, geometry: InputGeometry) -> Tensor:
        """Bring logits to the size of the image: enlarged to the input, padding cut off, resized; bilinear.

        Args:
            low_res: ``(N, L, L)``.
            geometry: Of the image.

        Returns:
            Float ``(N, H, W)``.
        """
        height, width = geometry.content_size
        size = (self.image_size, self.image_size)
        maps = F.interpolate(low_res[:, None], size, mode="bilinear", align_corners=False)[..., :height, :width]
        corners = self.view["geometry"] == "corner_aligned"
        return F.interpolate(maps, geometry.image_size, mode="bilinear", align_corners=corners)[:, 0]


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


def _normalised(image: NDArray[np.uint8], how: str) -> NDArray[np.float32]:
    values = image.astype(np.float32)
    if how == "stored":
        return values / np.float32(255)
    if how == "sam":
        return np.asarray(((values[..., None] if values.ndim == 2 else values) - SAM_MEAN) / SAM_STD, np.float32)
    if how == "percentile":
        low, high = (float(bound) for bound in np.percentile(values, (0.5, 99.5)))
        values = values.clip(low, high)
    else:
        low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) * (1.0 / (high - low) if high > low else 0.0), np.float32)
