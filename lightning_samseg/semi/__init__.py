"""What semi-supervised methods share beside their losses: ramps, teachers, mixed and strongly augmented images."""

from lightning_samseg.lazy import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "mixing": "copy_paste_box cutmix_boxes",
        "network": "build_network",
        "ramps": "sigmoid_ramp staircase_ramp",
        "sam_teacher": "SamTeacher",
        "strong": "strong_view",
        "teacher": "make_teacher update_teacher",
    },
)
