"""SAM as it was published, frozen and prompted by points or boxes: the generalist beside which AuxOL learns.

Image encoders are ours (:mod:`lightning_samseg.models.image_encoders`), prompt encoder and mask decoder those of the
package ``segment_anything``, with all their weights, so that the logits are those of its ``SamPredictor``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_samseg.errors import UserError
from lightning_samseg.models.image_encoders import (
    EMBED_DIM,
    BackboneName,
    build_image_encoder,
    embedding_stride,
    load_image_encoder,
    load_pretrained,
)

Preprocessing = Literal["own", "sam"]
MaskChoice = Literal["single", "first"]
"""``single``: SAM's mask for prompts that are not ambiguous. ``first``: the first of its three for those that are."""
OWN_SIZE: dict[str, int] = {"lite_medsam": 256, "tiny": 64}
"""Input size a backbone was trained at, where it is not SAM's 1024."""
AT_ONCE = 32
"""Prompts in one call of the decoder: 40 MB each at SAM's size."""
SAM_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
SAM_STD = np.array([58.395, 57.12, 57.375], np.float32)


class InputGeometry(NamedTuple):
    """How an image lies in the network's square input."""

    image_size: tuple[int, int]
    """``(H, W)`` of the image in pixels."""
    content_size: tuple[int, int]
    """``(h, w)`` of the input's top-left part that shows it; the rest is padding."""

    def map(self, xy: Tensor) -> Tensor:
        """Bring coordinates from image pixels to input pixels.

        Args:
            xy: ``(..., 2)`` as (x, y), or ``(..., 4)`` as (x0, y0, x1, y1).

        Returns:
            The same shape.
        """
        (height, width), (h, w) = self.image_size, self.content_size
        dtype = torch.promote_types(xy.dtype, torch.float32)  # whole numbers would round the scale to 0
        scale = torch.tensor([w / width, h / height], dtype=dtype, device=xy.device)
        return xy * scale.repeat(xy.shape[-1] // 2)


class FrozenSam(nn.Module):
    """A frozen SAM that answers prompts with logits; always in evaluation mode, never with gradients.

    One image: ``pixels, geometry = preprocess(image)``; ``embedding = encode(pixels)``; ``low_res = logits(embedding,
    ...)`` with prompts in input pixels (``geometry.map``); ``restore(low_res, geometry)``. :meth:`predict` does all.

    Args:
        backbone: ``sam_vit_b``, ``sam_vit_l``, ``sam_vit_h``, ``medsam_vit_b``, ``lite_medsam``; ``tiny`` has weights
            drawn from a fixed seed, for tests.
        image_size: S, side of the square network input in pixels, a multiple of 16. None: what the backbone was trained
            at, 1024, for LiteMedSAM 256.
        checkpoint: Weights in official SAM's names instead of the cached ones.
        preprocessing: ``own``: as the backbone's authors publish it. ``sam``: as SAM's, whatever the backbone; so does
            the authors' AuxOL code with MedSAM, which runs in SAM's predictor.

            ========================  ================================  =============================================
            preprocessing             size                              values
            ========================  ================================  =============================================
            SAM                       longest side S, bilinear, padded  minus SAM's mean, by its standard deviation
            MedSAM                    S x S, cubic                      each image's minimum..maximum to 0..1
            LiteMedSAM                longest side S, by area, padded   each image's minimum..maximum to 0..1
            ========================  ================================  =============================================

    Raises:
        UserError: If the image size is impossible, or the weights are missing or of another architecture.
    """

    def __init__(
        self,
        backbone: BackboneName,
        image_size: int | None = None,
        checkpoint: str | Path | None = None,
        preprocessing: Preprocessing = "own",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.image_size = OWN_SIZE.get(backbone, 1024) if image_size is None else image_size
        self.preprocessing = preprocessing
        side = self.image_size // embedding_stride(backbone)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.image_encoder = build_image_encoder(backbone, self.image_size)
            self.prompt_encoder = PromptEncoder(
                embed_dim=EMBED_DIM,
                image_embedding_size=(side, side),
                input_image_size=(self.image_size, self.image_size),
                mask_in_chans=16,
            )
            transformer = TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, mlp_dim=2048, num_heads=8)
            self.mask_decoder = MaskDecoder(transformer_dim=EMBED_DIM, transformer=transformer)
        self.weights_sha256: str | None = None
        if backbone != "tiny" or checkpoint is not None:
            states = load_pretrained(backbone, checkpoint)
            source = str(checkpoint or backbone)
            load_image_encoder(self.image_encoder, states.image_encoder, source)
            _load(self.prompt_encoder, states.prompt_encoder, "prompt_encoder", source)
            _load(self.mask_decoder, states.mask_decoder, "mask_decoder", source)
            self.weights_sha256 = states.sha256
        self.requires_grad_(False).eval()

    @property
    def identity(self) -> str:
        """What the logits for an image and a prompt depend on besides these two: part of a cache's key."""
        return f"{self.backbone} {self.weights_sha256} {self.image_size} {self.preprocessing}"

    @property
    def _recipe(self) -> str:
        return "sam" if self.preprocessing == "sam" else self.backbone

    def train(self, mode: bool = True) -> "FrozenSam":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Encode preprocessed images.

        Args:
            image: Float ``(B, 3, S, S)`` from :meth:`preprocess`.

        Returns:
            Embedding ``(B, 256, E, E)``.
        """
        return self.image_encoder(image)

    @torch.no_grad()
    def logits(
        self,
        embedding: Tensor,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask: MaskChoice = "single",
    ) -> Tensor:
        """Answer M prompts in one call of the decoder, all for one image or each for its own.

        Args:
            embedding: ``(1, 256, E, E)``, or ``(M, 256, E, E)``.
            points: Float ``(M, N, 2)``, (x, y) in pixels of the network input; None for boxes alone.
            point_labels: Int ``(M, N)``: 1 on the object, 0 on background, -1 no point.
            boxes: Float ``(M, 4)``, (x0, y0, x1, y1) in pixels of the network input; None for points alone.
            mask: Which of SAM's masks.

        Returns:
            Low-resolution logits, float32 ``(M, 4E, 4E)``.

        Raises:
            ValueError: There is neither a point nor a box, or points come without labels.
        """
        if (points is None) != (point_labels is None) or (points is None and boxes is None):
            raise ValueError("a prompt needs points with labels, boxes, or both")
        prompted = None if points is None else (points, point_labels)
        with torch.autocast(embedding.device.type, enabled=False):  # bfloat16 cannot tell neighbouring pixels apart
            sparse, dense = self.prompt_encoder(prompted, boxes, None)
            image_pe = self.prompt_encoder.get_dense_pe()
        if len(embedding) > 1:  # the decoder repeats one embedding and adds a map of each prompt to it
            embedding, dense = torch.zeros_like(embedding[:1]), embedding + dense
        masks, _ = self.mask_decoder(embedding, image_pe, sparse, dense, multimask_output=mask == "first")
        return masks[:, 0].float()

    def geometry(self, image: NDArray[np.uint8]) -> InputGeometry:
        """How a picture, uint8 ``(H, W, 3)``, will lie in the network's input."""
        height, width = image.shape[:2]
        if self._recipe == "medsam_vit_b":
            return InputGeometry((height, width), (self.image_size, self.image_size))
        scale = self.image_size / max(height, width)
        return InputGeometry((height, width), (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))))

    def preprocess(self, image: NDArray[np.uint8]) -> tuple[Tensor, InputGeometry]:
        """Turn a picture into the network's input.

        Args:
            image: uint8 ``(H, W, 3)``, RGB.

        Returns:
            Float ``(1, 3, S, S)`` on the host, and the geometry that leads there and back.
        """
        geometry = self.geometry(image)
        height, width = geometry.content_size
        if self._recipe == "medsam_vit_b":
            values = _to_unit(_resize_cubic(image, (height, width)))
        elif self._recipe == "lite_medsam":
            values = _to_unit(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
        else:
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            values = (np.asarray(resized, np.float32) - SAM_MEAN) / SAM_STD
        pixels = torch.zeros(1, 3, self.image_size, self.image_size)
        pixels[0, :, :height, :width] = torch.from_numpy(values).permute(2, 0, 1)
        return pixels, geometry

    def restore(self, low_res: Tensor, geometry: InputGeometry) -> Tensor:
        """Bring logits to the size of the image: enlarged to the input, padding cut off, resized; bilinear.

        Args:
            low_res: ``(M, 4E, 4E)``.
            geometry: Of the image.

        Returns:
            Float ``(M, H, W)``.
        """
        if len(low_res) == 0:
            return low_res.new_empty(0, *geometry.image_size)
        height, width = geometry.content_size
        size = (self.image_size, self.image_size)
        masks = F.interpolate(low_res[:, None], size, mode="bilinear", align_corners=False)[..., :height, :width]
        return F.interpolate(masks, geometry.image_size, mode="bilinear", align_corners=False)[:, 0]

    def predict(
        self,
        image: NDArray[np.uint8],
        points: NDArray[Any] | None = None,
        boxes: NDArray[Any] | None = None,
        mask: MaskChoice = "single",
    ) -> tuple[Tensor, InputGeometry]:
        """Answer one positive point, or one box, per object of a picture.

        Args:
            image: uint8 ``(H, W, 3)``, RGB.
            points: ``(M, 2)``, (x, y) in pixels of the image; M at least 1.
            boxes: ``(M, 4)``, (x0, y0, x1, y1) in pixels of the image. The decoder takes up to 32 prompts at a time.
            mask: Which of SAM's masks.

        Returns:
            Low-resolution logits ``(M, 4E, 4E)`` on the device of the weights, to be taken to the image's size by
            :meth:`restore` with the geometry beside.
        """
        device = next(self.parameters()).device
        pixels, geometry = self.preprocess(image)
        return self.answer(self.encode(pixels.to(device)), geometry, points, boxes, mask), geometry

    def answer(
        self,
        embedding: Tensor,
        geometry: InputGeometry,
        points: NDArray[Any] | None = None,
        boxes: NDArray[Any] | None = None,
        mask: MaskChoice = "single",
    ) -> Tensor:
        """As :meth:`predict`, for an image that is encoded.

        Args:
            embedding: ``(1, 256, E, E)``.
            geometry: Of the image.
            points: See there.
            boxes: See there.
            mask: See there.

        Returns:
            Low-resolution logits ``(M, 4E, 4E)``.
        """
        device = embedding.device
        answers = []
        count = max(len(prompts) for prompts in (points, boxes) if prompts is not None)
        for first in range(0, count, AT_ONCE):
            some = slice(first, first + AT_ONCE)
            on_input = labels = corners = None
            if points is not None:
                on_input = geometry.map(torch.from_numpy(points[some])[:, None]).float().to(device)
                labels = torch.ones(on_input.shape[:2], dtype=torch.int, device=device)
            if boxes is not None:
                corners = geometry.map(torch.from_numpy(boxes[some])).float().to(device)
            answers.append(self.logits(embedding, on_input, labels, corners, mask))
        return torch.cat(answers)


def _load(module: nn.Module, state: Mapping[str, Tensor], part: str, source: str) -> None:
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise UserError(
            f"The checkpoint holds no {part} of SAM that could be prompted ({source}).",
            expected=f"every entry of {part}.* of an official SAM checkpoint",
            found=" ".join(line.strip() for line in str(error).splitlines()[1:])[:300],
            fix="give a complete SAM checkpoint; an adapter trained for classes takes no prompts",
        ) from error


def _resize_cubic(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Cubic with antialiasing where the image shrinks; within 0..255 like the source."""
    tensor = torch.tensor(image, dtype=torch.float32).permute(2, 0, 1)[None]
    resized = F.interpolate(tensor, size, mode="bicubic", align_corners=False, antialias=True)
    return resized[0].clamp(0, 255).permute(1, 2, 0).numpy()


def _to_unit(values: NDArray[Any]) -> NDArray[np.float32]:
    low, high = float(values.min()), float(values.max())
    return (values.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-8))
