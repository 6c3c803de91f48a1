"""The U-Net of the semi-supervised baselines, with any number of decoders on one encoder.

SSL4MIS's small U-Net (UAMT, CPS, BCP, UniMatch), its forms with side heads (URPC), with three decoders (MC-Net+) and
with two (DCNet); or the same decoders on an encoder of segmentation-models-pytorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_samseg.errors import UserError

WIDTHS = (16, 32, 64, 128, 256)
DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)
UpStep = Literal["bilinear", "transposed", "nearest"]
"""How a decoder doubles the size: after a 1 x 1 convolution by interpolation, or by a transposed 2 x 2 convolution."""


@dataclass(frozen=True)
class NetworkConfig:
    """The network of a semi-supervised method: the arguments under ``network:``.

    Args:
        name: ``paper``: the U-Net of 16 to 256 channels that all of the papers use. ``unet/ENCODER``: the same decoders
            on an encoder of segmentation-models-pytorch, such as ``unet/resnet34``. Cps, Uamt and UniMatch also take
            ``sam_lora``, beyond their papers: SAM with LoRA and a mask decoder for each network.
        in_channels: Channels of the input: 1 for grey images, as in the papers, or 3.
        encoder_weights: ``imagenet`` for a pretrained encoder, where the network has one.
    """

    name: str = "paper"
    in_channels: Literal[1, 3] = 3
    encoder_weights: Literal["imagenet"] | None = None


class Decoded(NamedTuple):
    """What one decoder makes of the features."""

    logits: Tensor
    """``(B, K, S, S)``."""
    stages: list[Tensor]
    """Maps of the decoder in front of its head, finest first, of the sizes of the features but the coarsest."""


def build_unet(
    network: NetworkConfig,
    num_classes: int,
    decoders: Sequence[UpStep] = ("bilinear",),
    side_heads: bool = False,
) -> "BranchedUNet":
    """Build the network that a config names; the other arguments are those of :class:`BranchedUNet`.

    Raises:
        UserError: Unknown name, or as :class:`BranchedUNet`.
    """
    kind, _, encoder = network.name.partition("/")
    if network.name != "paper" and (kind != "unet" or not encoder):
        raise UserError(
            f"There is no network {network.name!r}.",
            expected="paper, unet/ENCODER of segmentation-models-pytorch, or for Cps, Uamt and UniMatch sam_lora",
            fix="set --model.network.name paper, or for instance unet/resnet34",
        )
    return BranchedUNet(
        num_classes, network.in_channels, decoders, side_heads, encoder or None, network.encoder_weights
    )


def take_channels(image: Tensor, in_channels: int) -> Tensor:
    """Give a network as many channels as it has: of a grey image's three equal ones, the first.

    Args:
        image: ``(B, 3, S, S)``.
        in_channels: 1 or 3.

    Raises:
        UserError: If one channel of a colour image would be taken for all three.
    """
    if in_channels == image.shape[1]:
        return image
    # Channels that share their memory, as our loaders give them, are equal without a look.
    if image.stride(1) != 0 and not (torch.equal(image[:, 0], image[:, 1]) and torch.equal(image[:, 0], image[:, 2])):
        raise UserError(
            "The network takes grey images.",
            found="images with colours",
            fix="set --model.network.in_channels 3 (and train anew), or --data.grey true",
        )
    return image[:, :in_channels]


class BranchedUNet(nn.Module):
    """One encoder pass serves every decoder: :meth:`encode` once, :meth:`decode` as often as needed.

    Args:
        num_classes: C, foreground classes.
        in_channels: Channels of the input; 1 in the papers, whose images are grey.
        decoders: Up step of each decoder: one is the plain U-Net, MC-Net+ has all three kinds, DCNet the first two.
        side_heads: URPC: whether the first decoder's three coarser stages have heads of their own.
        encoder: None for the paper's encoder of 16 to 256 channels; or the name of an encoder of
            segmentation-models-pytorch, such as ``resnet34``.
        encoder_weights: ``imagenet`` for pretrained ones of that encoder, downloaded on first use; the input, in
            [0, 1], is then normalised as they expect.
        dropout: Probability at each level of the paper's encoder, finest first.

    Raises:
        UserError: Unknown encoder, or weights that it does not have or that cannot be had.
    """

    weights_sha256: str | None = None
    """Of a SAM's weights: there are none."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 1,
        decoders: Sequence[UpStep] = ("bilinear",),
        side_heads: bool = False,
        encoder: str | None = None,
        encoder_weights: Literal["imagenet"] | None = None,
        dropout: Sequence[float] = DROPOUT,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = num_classes + 1
        self.encoder: PaperEncoder | SmpEncoder
        if encoder is None:
            if encoder_weights is not None:
                raise UserError(
                    "The paper's U-Net has no pretrained weights.",
                    found=f"encoder_weights {encoder_weights}",
                    fix="leave --model.network.encoder_weights out, or set --model.network.name unet/resnet34",
                )
            self.encoder = PaperEncoder(in_channels, WIDTHS, dropout)
        else:
            self.encoder = SmpEncoder(encoder, in_channels, encoder_weights)
        widths = WIDTHS[: len(self.encoder.widths) - 1]
        self.decoders = nn.ModuleList(Decoder(self.encoder.widths, widths, up, channels) for up in decoders)
        # Coarsest first, as the authors build theirs; no head for the bottleneck, which they never use.
        heads = [nn.Conv2d(width, channels, 3, padding=1) for width in reversed(widths[1:4])] if side_heads else []
        self.side_heads = nn.ModuleList(heads)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Feature maps of ``(B, in_channels, S, S)``, finest first; S a multiple of 16, with other encoders of 32."""
        return self.encoder(image)

    def decode(self, features: list[Tensor], branch: int = 0) -> Decoded:
        """Logits and stages of one decoder."""
        return self.decoders[branch](features)

    def side_logits(self, stages: list[Tensor], size: int) -> list[Tensor]:
        """Logits ``(B, K, size, size)`` of the stages at 1/2, 1/4 and 1/8, enlarged by nearest neighbour."""
        logits = [head(stage) for head, stage in zip(reversed(self.side_heads), stages[1:4], strict=True)]
        return [F.interpolate(each, size=(size, size), mode="nearest") for each in logits]

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K, S, S)`` of the first decoder."""
        return self.decode(self.encode(image)).logits


class PaperEncoder(nn.Module):
    """SSL4MIS's encoder: at each level two convolutions with dropout between them; 2 x 2 max pooling before the next.

    Args:
        in_channels: Of the input.
        widths: Channels of the levels, finest first.
        dropout: Probability of each level.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], dropout: Sequence[float]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        pairs = pairwise([in_channels, *widths])
        self.levels = nn.ModuleList(Block(*pair, p) for pair, p in zip(pairs, dropout, strict=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of all levels, finest first."""
        features = [self.levels[0](x)]
        for level in self.levels[1:]:
            features.append(level(F.max_pool2d(features[-1], 2)))
        return features


class SmpEncoder(nn.Module):
    """An encoder of segmentation-models-pytorch; its finest level, at full size, has no features.

    Args:
        name: Such as ``resnet34``.
        in_channels: Of the input.
        weights: See :class:`BranchedUNet`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, in_channels: int, weights: Literal["imagenet"] | None) -> None:
        super().__init__()
        try:
            self.encoder = smp.encoders.get_encoder(name, in_channels=in_channels, depth=5, weights=weights)
            settings = smp.encoders.get_preprocessing_params(name, weights) if weights else {}
        except Exception as error:  # the library, timm and huggingface_hub each raise their own kinds
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"The encoder {name} could not be built" + (f" with {weights} weights." if weights else "."),
                found=text,
                fix="check its name in the documentation of segmentation-models-pytorch"
                + ("; without a network, leave --model.network.encoder_weights out" if weights else ""),
            ) from error
        self.widths = (0, *self.encoder.out_channels[1:])
        mean, std = settings.get("mean", [0.0] * 3), settings.get("std", [1.0] * 3)
        if in_channels == 1:  # the library sums the first convolution's weights over the channels
            mean, std = [sum(mean) / 3], [sum(std) / 3]
        # Saved with the weights: a checkpoint is predicted from without asking for the pretrained ones again.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of all levels, finest first, the first without channels."""
        if x.shape[-1] % 32 or x.shape[-2] % 32:
            raise UserError(
                "This encoder halves an image five times.",
                expected="a side that is a multiple of 32",
                found=f"{x.shape[-2]} x {x.shape[-1]}",
                fix=f"set --data.image_size {max(32, round(x.shape[-1] / 32) * 32)}",
            )
        return [x[:, :0], *self.encoder((x - self.mean) / self.std)[1:]]


class Decoder(nn.Module):
    """From the coarsest features to logits, level by level: up step, the finer level's features joined, block.

    Args:
        skips: Channels of the features, finest first.
        widths: Channels of the stages, finest first; one fewer.
        up: See ``UpStep``.
        out_channels: K.
    """

    def __init__(self, skips: Sequence[int], widths: Sequence[int], up: UpStep, out_channels: int) -> None:
        super().__init__()
        coarse = [*widths[1:], skips[-1]]
        levels = [Up(c, s, w, up) for c, s, w in zip(coarse, skips[:-1], widths, strict=True)]
        self.ups = nn.ModuleList(reversed(levels))
        self.head = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Decoded:
        """Logits, and the stages, finest first."""
        stages = [features[-1]]
        for up, skip in zip(self.ups, reversed(features[:-1]), strict=True):
            stages.append(up(stages[-1], skip))
        return Decoded(self.head(stages[-1]), stages[:0:-1])


class Up(nn.Module):
    """One level of a decoder.

    Args:
        coarse: Channels that come from below.
        skip: Channels of this level's features.
        width: Channels that go on.
        kind: See ``UpStep``.
    """

    def __init__(self, coarse: int, skip: int, width: int, kind: UpStep) -> None:
        super().__init__()
        self.kind = kind
        if kind == "transposed":
            self.up: nn.Module = nn.ConvTranspose2d(coarse, width, kernel_size=2, stride=2)
        else:
            self.up = nn.Conv2d(coarse, width, kernel_size=1)
        self.block = Block(skip + width, width, 0.0)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """``(B, width, 2h, 2w)`` of ``(B, coarse, h, w)`` and ``(B, skip, 2h, 2w)``."""
        x = self.up(x)
        if self.kind == "bilinear":
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        elif self.kind == "nearest":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.block(torch.cat([skip, x], dim=1))


class Block(nn.Sequential):
    """Convolution, BatchNorm, LeakyReLU, dropout, and the first three again."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(),
        )
