"""GlaS, glands in H&E-stained colon tissue: 85 training and 80 test images (Sirinukunwattana et al., MedIA 2017)."""

from typing import Any, Literal

from data_modules.base import SegmentationDataModule
from data_modules.layouts.glas import GlasLayout


class GlasDataModule(SegmentationDataModule):
    """GlaS in its native layout, ``train_N.bmp``, ``testA_N.bmp``, ``testB_N.bmp``, ``*_anno.bmp`` and ``Grade.csv``.

    Copies as PNG, also with annotations 0/255, are accepted. Online learning walks through the benign and through the
    malignant images, all parts together; without Grade.csv they are one set.

    Args:
        root: Folder of the images, or the folder that holds it.
        grade: Use only the images of one grade. Needs Grade.csv.
        split: official: train_N to train (10 % of them, chosen by their names, to validate), testA_N and testB_N to
            test. random: 70/10/20 % by grade, no patient on two sides (where Grade.csv tells them).
        split_seed: Key of the random split.
        common: Arguments of ``SegmentationDataModule``.
    """

    def __init__(
        self,
        root: str,
        grade: Literal["all", "benign", "malignant"] = "all",
        split: Literal["official", "random"] = "official",
        split_seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(layout=GlasLayout(root, grade, split, split_seed), **common)
