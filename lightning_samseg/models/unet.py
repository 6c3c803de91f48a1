"""Auxiliary networks of AuxOL: the paper's U-Net with 17.3 M parameters, and any of segmentation-models-pytorch."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_samseg.errors import UserError
from lightning_samseg.models.instance_norm import InstanceNorm

PAPER_WIDTHS = (64, 128, 256, 512, 512)
AuxiliaryPrecision = Literal["trainer", "bf16", "auto"]
UNETS = {"unet17m": 1.0, "unet4m": 0.5}
"""Factors on the paper's channels."""


@dataclass(frozen=True)
class AuxiliaryConfig:
    """The network that learns beside SAM: the arguments under ``auxiliary:``.

    Args:
        network: ``unet17m``, the paper's; ``unet4m``, the same with half the channels, 4.3 M parameters and a quarter
            of the operations; or architecture/encoder of segmentation-models-pytorch, as ``unet/resnet18``.
        encoder_weights: Start from an encoder trained on ImageNet, whose normalisation is then applied to the image
            channels inside the network. The paper: "when ImageNet pre-trained encoder weights are available, one can
            start with a pre-trained encoder and a randomly initialized decoder". Downloaded on first use.
        width: Factor on the channels of ``unet17m`` or ``unet4m``, for small runs on a CPU.
        precision: ``trainer``: as ``trainer.precision`` says. ``bf16``: autocast to bfloat16 where it predicts and
            learns, while SAM, losses, weights and optimizer stay as they are. ``auto``: ``bf16`` where the processor
            multiplies bfloat16 itself (AMX, AVX512-BF16, GPUs since Ampere), else as the trainer; says which.
    """

    network: str = "unet17m"
    encoder_weights: Literal["imagenet"] | None = None
    width: float = 1.0
    precision: AuxiliaryPrecision = "trainer"


def build_auxiliary(
    config: AuxiliaryConfig = AuxiliaryConfig(),
    *,
    in_channels: Literal[3, 4] = 3,
) -> nn.Module:
    """Build the small network that learns beside SAM.

    Every network maps ``(N, in_channels, S, S)`` with the image's three channels in [0, 1] to logits ``(N, 1, S, S)``,
    for ``S`` a multiple of 32.

    Args:
        config: Which.
        in_channels: 3: image; 4: image and SAM's output (Sec. 3.3, for box prompts).

    Returns:
        The network. Other weights are random, from PyTorch's global generator.

    Raises:
        UserError: Unknown name; ImageNet weights for a network that has none, or that cannot be had; a width other
            than 1 for a network of segmentation-models-pytorch, or one that leaves no channel.
    """
    name, encoder_weights, width = config.network, config.encoder_weights, config.width
    if name in UNETS:
        if encoder_weights is not None:
            raise UserError(
                f"{name} has no ImageNet weights",
                fix="leave encoder_weights empty, or choose another network, as unet/resnet18",
            )
        widths = tuple(round(channels * UNETS[name] * width) for channels in PAPER_WIDTHS)
        if min(widths) < 1:
            raise UserError(f"width {width} leaves {name} without channels", fix="use a width of 1/64 or more")
        return UNet(in_channels, widths)
    architecture, _, encoder = name.partition("/")
    if architecture not in smp.MODEL_ARCHITECTURES_MAPPING or not encoder:
        raise UserError(
            f"unknown auxiliary network {name!r}",
            expected=f"{', '.join(UNETS)}, or one of {', '.join(sorted(smp.MODEL_ARCHITECTURES_MAPPING))}, a slash and "
            "an encoder",
            fix="use a name such as unet17m or unet/resnet18",
        )
    if width != 1:
        raise UserError(f"width {width} has no meaning for {name}", fix="choose a smaller encoder, or unet4m")
    return _build_smp(name, architecture, encoder, in_channels, encoder_weights)


def _build_smp(name: str, architecture: str, encoder: str, in_channels: int, encoder_weights: str | None) -> nn.Module:
    try:
        network: nn.Module = smp.create_model(architecture, encoder, encoder_weights, in_channels, classes=1)
        settings = smp.encoders.get_preprocessing_params(encoder, encoder_weights) if encoder_weights else {}
    except Exception as error:  # the library, timm and huggingface_hub each raise their own kinds
        with_weights = "" if encoder_weights is None else f" with {encoder_weights} weights"
        raise UserError(
            f"the auxiliary network {name} could not be built{with_weights}",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            fix="check the encoder's name in the documentation of segmentation-models-pytorch"
            + ("" if encoder_weights is None else "; without a network, leave encoder_weights empty"),
        ) from error
    return NormalisedInput(network, settings.get("mean", [0.0] * 3), settings.get("std", [1.0] * 3))


class NormalisedInput(nn.Module):
    """A network preceded by the normalisation of the image channels that its first weights expected.

    Args:
        network: Takes ``(N, C, S, S)``, C at least 3.
        mean: Of the three image channels in [0, 1].
        std: Of the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        # Saved with the weights: a checkpoint is predicted from without asking for the pretrained ones again.
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the first three channels and leave a fourth, SAM's output, as it is."""
        return self.network(torch.cat([(x[:, :3] - self.mean) / self.std, x[:, 3:]], dim=1))


class UNet(nn.Module):
    """The classic U-Net, with bilinear upsampling and InstanceNorm without learned parameters.

    Five levels; two 3 x 3 convolutions without bias, each followed by InstanceNorm and ReLU, per level; 2 x 2 max
    pooling on the way down. On the way up the coarser map is enlarged to the finer one's size and joined to it, and the
    first of the two convolutions halves the channels. With the default widths: 17.3 M parameters. InstanceNorm keeps no
    statistics, so an entry's output depends on nothing but the entry and the weights.

    Args:
        in_channels: Channels of the input.
        widths: Channels of the levels, finest first. On the way up every level hands on as many channels as the next
            finer one has.
    """

    def __init__(self, in_channels: int = 3, widths: tuple[int, ...] = PAPER_WIDTHS) -> None:
        super().__init__()
        self.entry = _two_convolutions(in_channels, widths[0], widths[0])
        self.down = nn.ModuleList(_two_convolutions(fine, coarse, coarse) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList()
        coarse = widths[-1]
        for level in reversed(range(len(widths) - 1)):
            joined = widths[level] + coarse
            coarse = widths[max(level - 1, 0)]
            self.up.append(_two_convolutions(joined, joined // 2, coarse))
        self.exit = nn.Conv2d(coarse, 1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits ``(N, 1, h, w)`` of ``(N, C, h, w)``; h and w at least 32."""
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            x = x.contiguous(memory_format=torch.channels_last)  # where bfloat16 is convolved up to 4 times as fast
        x = self.entry(x)
        finer = []
        for block in self.down:
            finer.append(x)
            x = block(F.max_pool2d(x, 2))
        for block in self.up:
            skip = finer.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=True)
            x = block(torch.cat([skip, x], dim=1))
        return self.exit(x)


def _two_convolutions(in_channels: int, mid_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, mid_channels, kernel_size=3, padding=1, bias=False),
        InstanceNorm(mid_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(mid_channels, out_channels, kernel_size=3, padding=1, bias=False),
        InstanceNorm(out_channels),
        nn.ReLU(inplace=True),
    )
