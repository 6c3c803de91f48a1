"""The networks of a semi-supervised method: a U-Net, or SAM with LoRA. What do the old ideas gain from it?"""

from torch import Tensor, nn

from lightning_samseg.adapters.files import load_adapter_into
from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.models.branched_unet import BranchedUNet, Decoded, NetworkConfig, build_unet
from lightning_samseg.models.sam_config import AdapterConfig, PretrainedSam


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
    network: NetworkConfig,
    sam: PretrainedSam,
    adapter: AdapterConfig,
    image_size: int,
    num_classes: int,
    branches: int = 1,
) -> BranchedUNet | SamNetwork:
    """Build what a config names: ``sam_lora``, or a network of ``build_unet``, which has one branch.

    Args:
        network: Its name.
        sam: Which SAM, of ``sam_lora``.
        adapter: Its LoRA.
        image_size: S.
        num_classes: C.
        branches: SAM's decoders.

    Raises:
        UserError: As ``build_unet``, ``BranchedSam`` and ``load_adapter_into``.
    """
    if network.name != "sam_lora":
        return build_unet(network, num_classes)
    adapted = BranchedSam(sam, image_size, num_classes, branches, decoder_init="pretrained", adapter=adapter)
    if adapter.file is not None:
        load_adapter_into(adapted, adapter.file)
    return SamNetwork(adapted)
