"""SAM's prompt encoder for class-wise points: one learned embedding per class (CPC-SAM section 2.2).

"We expand the number of point prompt embeddings in the prompt encoder to the number of semantic classes" (section 3): a
point of class c is the Fourier encoding of its place plus embedding c. With pretrained weights, classes 0 to 3 start
from SAM's own embeddings in SAM's order (negative point, positive point, two box corners), as in the authors' code;
further classes start at random.
"""

from collections.abc import Mapping

import torch
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor, nn

NOT_A_POINT = -1


class ClassPromptEncoder(nn.Module):
    """Points with class ids to sparse tokens, and the dense "no mask" embedding that an unprompted decoder is given.

    Args:
        num_channels: K, classes with background.
        image_size: S; points are in pixels of this frame.
        embed_dim: Width of the embedding.
    """

    def __init__(self, num_channels: int, image_size: int, embed_dim: int = 256) -> None:
        super().__init__()
        self.image_size = image_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.class_embeddings = nn.Embedding(num_channels, embed_dim)
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def sparse(self, points: Tensor, labels: Tensor) -> Tensor:
        """Tokens of a set of points per image.

        Args:
            points: ``(B, N, 2)`` as (x, y) in pixels of the network input.
            labels: int64 ``(B, N)``, class ids, or -1 for "not a point".

        Returns:
            ``(B, N + 1, 256)``: SAM closes a set of points without a box with a "not a point" token.
        """
        with torch.autocast(points.device.type, enabled=False):  # bfloat16 cannot tell neighbouring pixels apart
            place = self.pe_layer._pe_encoding((points.float() + 0.5) / self.image_size)
        absent = (labels == NOT_A_POINT)[..., None]
        tokens = torch.where(absent, self.not_a_point_embed.weight, place + self.class_embeddings(labels.clamp(min=0)))
        padding = self.not_a_point_embed.weight.expand(len(points), 1, -1)
        return torch.cat([tokens, padding], dim=1)

    def dense(self) -> Tensor:
        """The embedding ``(1, 256, 1, 1)`` that stands for "no mask given"; it broadcasts over the image embedding."""
        return self.no_mask_embed.weight[:, :, None, None]

    def dense_pe(self, side: int) -> Tensor:
        """Fourier encoding ``(1, 256, E, E)`` of the cells of an image embedding of that side."""
        with torch.autocast(self.no_mask_embed.weight.device.type, enabled=False):
            return self.pe_layer((side, side))[None]

    def prompt_parameters(self) -> list[Tensor]:
        """What receives a gradient only from prompted passes."""
        return [self.class_embeddings.weight, self.not_a_point_embed.weight]

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Start from an official SAM prompt encoder; embeddings of classes beyond the fourth stay random."""
        if not state:
            return
        with torch.no_grad():
            self.pe_layer.positional_encoding_gaussian_matrix.copy_(
                state["pe_layer.positional_encoding_gaussian_matrix"]
            )
            self.not_a_point_embed.weight.copy_(state["not_a_point_embed.weight"])
            self.no_mask_embed.weight.copy_(state["no_mask_embed.weight"])
            for index in range(min(4, self.class_embeddings.num_embeddings)):
                self.class_embeddings.weight[index] = state[f"point_embeddings.{index}.weight"][0]
