"""SAM as it was published, frozen and prompted by points or boxes: the generalist beside which AuxOL learns.

Image encoders are ours (:mod:`lightning_samseg.models.image_encoders`), prompt encoder and mask decoder those of the
package ``segment_anything``, with all their weights, so that the logits are those of its ``SamPredictor``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from lightning_samseg.errors import UserError
from lightning_samseg.models.backbones import BACKBONES, EMBED_DIM, SAM_RECIPE, BackboneName
from lightning_samseg.models.generalist import Generalist
from lightning_samseg.models.image_encoders import build_image_encoder, load_image_encoder, load_pretrained
from lightning_samseg.transforms import View, on_input
from lightning_samseg.types import Case, PromptKind

Preprocessing = Literal["own", "sam"]
MaskChoice = Literal["single", "first"]
"""``single``: SAM's mask for prompts that are not ambiguous. ``first``: the first of its three for those that are."""
AT_ONCE = 32
"""Prompts in one call of the decoder: 40 MB each at SAM's size."""


class FrozenSam(Generalist):
    """A frozen SAM that answers prompts with logits; always in evaluation mode, never with gradients.

    One image: ``pixels, geometry = preprocess(image)``; ``embedding = encode(pixels)``; ``low_res = logits(embedding,
    ...)`` with prompts in input pixels (``on_input``); ``restore(low_res, geometry)``. :meth:`predict` does all.

    Args:
        backbone: See ``models.backbones``; ``tiny`` has weights drawn from a fixed seed, for tests.
        image_size: S, side of the square network input in pixels, a multiple of 16. None: what the backbone was trained
            at.
        checkpoint: Weights in official SAM's names instead of the cached ones.
        preprocessing: ``own``: as the backbone's authors publish it. ``sam``: as SAM's, whatever the backbone; so does
            the authors' AuxOL code with MedSAM, which runs in SAM's predictor.

            ========================  ================================  =============================================
            preprocessing             size                              values
            ========================  ================================  =============================================
            SAM, MobileSAM            longest side S, bilinear, padded  minus SAM's mean, by its standard deviation
            MedSAM                    S x S, cubic                      each image's minimum..maximum to 0..1
            LiteMedSAM                longest side S, by area, padded   each image's minimum..maximum to 0..1
            SAM-Med2D                 S x S, nearest neighbour          as SAM
            ========================  ================================  =============================================
        pretrained: False leaves the weights at random, to see what it costs where they are not there.

    Raises:
        UserError: If the image size is impossible, or the weights are missing or of another architecture.
    """

    def __init__(
        self,
        backbone: BackboneName,
        image_size: int | None = None,
        checkpoint: str | Path | None = None,
        preprocessing: Preprocessing = "own",
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.image_size = BACKBONES[backbone].image_size if image_size is None else image_size
        self.preprocessing = preprocessing
        side = self.image_size // BACKBONES[backbone].stride
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
        if pretrained and (BACKBONES[backbone].checkpoint is not None or checkpoint is not None):
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
    def view(self) -> View:  # type: ignore[override]
        """How pictures become its input."""
        recipe = SAM_RECIPE if self.preprocessing == "sam" else BACKBONES[self.backbone].preparation
        return View(self.image_size, **recipe)

    def prompt_warning(self, kind: PromptKind) -> str | None:
        """What to say where the published weights have not been trained to answer this kind of prompt; else None."""
        entry = BACKBONES[self.backbone]
        own_weights = entry.checkpoint is None or self.weights_sha256 != entry.checkpoint.sha256
        if own_weights or kind in entry.prompts:
            return None
        trained = " and ".join({"point": "points", "box": "boxes"}[each] for each in entry.prompts)
        return f"{self.backbone} was trained on {trained} alone: its answers to a {kind} are poor"

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images.

        Args:
            pixels: Float ``(B, 3, S, S)`` from :meth:`preprocess`.

        Returns:
            Embedding ``(B, 256, E, E)``.
        """
        return self.image_encoder(pixels)

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

    def predict(
        self,
        image: NDArray[np.uint8],
        points: NDArray[Any] | None = None,
        boxes: NDArray[Any] | None = None,
        mask: MaskChoice = "single",
    ) -> tuple[Tensor, Case]:
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
        geometry: Case,
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
            places = labels = corners = None
            if points is not None:
                places = on_input(torch.from_numpy(points[some])[:, None], geometry).float().to(device)
                labels = torch.ones(places.shape[:2], dtype=torch.int, device=device)
            if boxes is not None:
                corners = on_input(torch.from_numpy(boxes[some]), geometry).float().to(device)
            answers.append(self.logits(embedding, places, labels, corners, mask))
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
