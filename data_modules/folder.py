"""Your own images, ``root/{images,masks}``."""

from typing import Any, Literal

from data_modules.base import SegmentationDataModule
from data_modules.layouts.folder import FolderLayout
from lightning_samseg.io.mask_rules import Masks


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
        masks: What the values of masks mean. binary: one level beside 0, whatever it is, is the foreground. soft: what
            is above half of the range (127 of 255, 0.5 of 1) is. indexed: values, or palette indices, are class ids.
            instances: they number the objects of one class. auto: binary, indexed or soft, whichever the values of all
            masks fit (see ``lightning_samseg.io.mask_rules``), or indexed where classes.yaml names several.
        group: Regular expression on the file name without ending; what it finds (its first group, if it has one) is the
            patient or series that a random split keeps on one side, such as ``^patient\d+``.
        split: lists: root/splits. random: 70/10/20 %. auto: the lists where there are any, else random.
        split_seed: Key of the random split.
        ignore: Value of masks whose pixels count for nothing, such as 255 for void rims: they are left out of losses,
            scores and prompts.
        mask_suffix: What the names of masks have behind those of their images, such as ``_mask``.
        subfolders: true: also take what lies in folders inside of images and masks; their names are part of the case's.
            false: leave it out. Where not given, such folders are refused.
        common: Arguments of ``SegmentationDataModule``.
    """

    def __init__(
        self,
        root: str,
        masks: Masks = "auto",
        group: str | None = None,
        split: Literal["auto", "lists", "random"] = "auto",
        split_seed: int = 0,
        ignore: int | None = None,
        mask_suffix: str = "",
        subfolders: bool | None = None,
        **common: Any,
    ) -> None:
        scale_volumes = common.get("normalise") == "stored"
        layout = FolderLayout(root, masks, group, split, split_seed, scale_volumes, ignore, mask_suffix, subfolders)
        super().__init__(layout=layout, **common)
