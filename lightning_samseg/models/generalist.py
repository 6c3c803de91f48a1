"""What AuxOL learns beside: a frozen SAM that sees pictures and answers prompts, whatever kind of SAM it is."""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_samseg.transforms import View, prepare_image, to_original_size
from lightning_samseg.types import Case


class Generalist(nn.Module):
    """The steps from a picture to logits at its size; always in evaluation mode.

    ``pixels, geometry = preprocess(image)``; ``embedding = encode(pixels)``; ``low_res = answer(embedding, geometry,
    points=...)``; ``of_prompts(low_res, geometry, points)``. A subclass has ``encode``, ``answer``, ``view``, and
    ``identity``: what its answers depend on besides picture and prompts, for a cache.
    """

    many_in_pass: ClassVar[bool] = True
    """Whether a stream may let it encode several images together."""
    image_size: int
    """S, side of the square network input in pixels."""
    view: View
    """How pictures become its input."""

    def encode(self, pixels: Tensor) -> Tensor:
        """What :meth:`answer` needs of images ``(B, 3, S, S)`` from :meth:`preprocess`, an entry for each."""
        raise NotImplementedError

    def answer(self, embedding: Tensor, geometry: Case, points: Any = None, boxes: Any = None) -> Tensor:
        """Low-resolution logits ``(M, L, L)`` for M prompts of the one image that ``embedding`` is of."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "Generalist":
        """Stay in evaluation mode."""
        return super().train(False)

    def geometry(self, image: NDArray[np.uint8]) -> Case:
        """How a picture, uint8 ``(H, W, 3)``, will lie in the network's input."""
        return self.view.case(image.shape)

    def preprocess(self, image: NDArray[np.uint8]) -> tuple[Tensor, Case]:
        """Turn a picture into the network's input.

        Args:
            image: uint8 ``(H, W, 3)``, RGB.

        Returns:
            Float ``(1, 3, S, S)`` on the host, and the geometry that leads there and back.
        """
        frame = prepare_image(image, self.view)
        return torch.from_numpy(frame.image)[None], frame.case

    def restore(self, low_res: Tensor, geometry: Case) -> Tensor:
        """Bring logits ``(M, L, L)`` to the size of the image, float ``(M, H, W)``; see ``to_original_size``."""
        return to_original_size(low_res, self.image_size, geometry)

    def of_prompts(self, low_res: Tensor, geometry: Case, prompts: NDArray[np.float64]) -> Tensor:
        """As :meth:`restore`, with one answer for each of the prompts ``(M, 2|4)``, in pixels of the image."""
        return self.restore(low_res, geometry)
