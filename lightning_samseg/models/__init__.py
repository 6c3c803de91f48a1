"""Networks as plain modules: nothing here needs a Trainer."""

from lightning_samseg.lazy import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "branched_sam": "BranchedSam",
        "branched_unet": "BranchedUNet build_unet",
        "frozen_sam": "FrozenSam",
        "image_encoders": "build_image_encoder",
        "unet": "build_auxiliary",
    },
)
