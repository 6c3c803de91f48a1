"""Your own images, ``root/{images,masks}``."""

from typing import Any, Literal

from data_modules.base import SegmentationDataModule
from data_modules.layouts.folder import FolderLayout


class FolderDataModule(SegmentationDataModule):
    r"""Images and masks of the same name in two folders; grey, RGB or 16-bit, of any sizes; or NIfTI and MHA volumes.

    ``root/images`` and ``root/masks`` are required. ``root/unlabelled`` holds further training images without masks,
    ``root/splits/{train,val,test}.txt`` lists case ids (the first of train.txt, or of labelled.txt, are the labelled
    ones), and ``root/classes.yaml`` names the classes, one ``id: name`` a line.

    Volumes (``images/case_01.nii.gz`` with ``masks/case_01.nii.gz``, or mha, mhd) are trained on slice by slice, along
    the last axis of the file, evaluated whole, in mm, and never divided by a split; ``num_labelled`` counts slices.
    Every slice is normalised for itself, unless ``normalise: stored`` scales the volume by its minimum and maximum.

    Args:
        root: The folder.
        masks: binary: bright pixels are the foreground. indexed: values (or palette indices) are class ids. auto:
            indexed where classes.yaml names them or the largest value of the first 50 masks is 2..31, else binary.
        group: Regular expression on the file name without ending; what it finds (its first group, if it has one) is the
            patient or series that a random split keeps on one side, such as ``^patient\d+``.
        split: lists: root/splits. random: 70/10/20 %. auto: the lists where there are any, else random.
        split_seed: Key of the random split.
        common: Arguments of ``SegmentationDataModule``.
    """

    def __init__(
        self,
        root: str,
        masks: Literal["auto", "binary", "indexed"] = "auto",
        group: str | None = None,
        split: Literal["auto", "lists", "random"] = "auto",
        split_seed: int = 0,
        **common: Any,
    ) -> None:
        scale_volumes = common.get("normalise") == "stored"
        super().__init__(layout=FolderLayout(root, masks, group, split, split_seed, scale_volumes), **common)
