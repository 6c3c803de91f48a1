"""Points, boxes and crops: from label maps, from references, from files."""

from lightning_samseg.lazy import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "boxes": "Box crop_of_box crop_of_point",
        "files": "PromptFile",
        "objects": "ReferenceObject find_objects",
        "points": "ClassPoints PromptsConfig class_points start_class_points",
    },
)
