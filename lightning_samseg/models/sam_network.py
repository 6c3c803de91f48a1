"""SAM with LoRA in the place of a semi-supervised method's small network: what do the old ideas gain from it?"""

from torch import Tensor, nn

from lightning_samseg.models.backbones import BackboneName
from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.models.branched_unet import BranchedUNet, Decoded, NetworkName, build_unet


class SamNetwork(nn.Module):
    """SAM's image encoder with LoRA, and mask decoders that are never prompted; called like a :class:`BranchedUNet`.

    Args:
        sam: A decoder for each branch. Its prompt embeddings are frozen: without prompts they get no gradient.
    """

    in_channels = 3

    def __init__(self, sam: BranchedSam) -> None:
        super().__init__()
        self.sam = sam
        self.weights_sha256 = sam.weights_sha256
        for parameter in sam.prompt_encoder.prompt_parameters():
            parameter.requires_grad_(False)

    def encode(self, image: Tensor) -> list[Tensor]:
        """The image embedding ``(B, 256, E, E)`` of ``(B, 3, S, S)``, the only feature map."""
        return [self.sam.encode(image)]

    def decode(self, features: list[Tensor], branch: int = 0) -> Decoded:
        """Logits ``(B, K, S, S)`` of one decoder."""
        return Decoded(self.sam.decode(features[0], branch), [])

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K, S, S)`` of the first decoder."""
        return self.decode(self.encode(image)).logits


def build_network(
    network: NetworkName,
    num_classes: int,
    image_size: int,
    in_channels: int,
    encoder_weights: str | None,
    backbone: BackboneName,
    checkpoint: str | None,
    pretrained: bool,
    lora_rank: int,
    branches: int = 1,
) -> BranchedUNet | SamNetwork:
    """Build what a config names: ``sam_lora``, or a network of ``build_unet``, which has one branch.

    Args:
        network: Its name.
        num_classes: C.
        image_size: S.
        in_channels: Of a U-Net; SAM has three.
        encoder_weights: Of a U-Net's encoder.
        backbone: Which SAM.
        checkpoint: SAM's weights in official names instead of the cached ones.
        pretrained: False leaves SAM's weights at random.
        lora_rank: Rank of LoRA on the queries and values of SAM's encoder.
        branches: SAM's decoders.

    Raises:
        UserError: As ``build_unet`` and ``BranchedSam``.
    """
    if network != "sam_lora":
        return build_unet(network, num_classes, in_channels, encoder_weights=encoder_weights)  # type: ignore[arg-type]
    return SamNetwork(
        BranchedSam(
            backbone,
            image_size,
            num_classes,
            branches=branches,
            decoder_init="pretrained",
            lora_rank=lora_rank,
            checkpoint=checkpoint,
            pretrained=pretrained,
        )
    )
