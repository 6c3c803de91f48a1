"""BUSI, breast ultrasound: 437 benign and 210 malignant lesions (Al-Dhabyani et al., Data in Brief 2020)."""

from typing import Any, Literal

from data_modules.base import SegmentationDataModule
from data_modules.layouts.busi import BusiLayout


class BusiDataModule(SegmentationDataModule):
    """BUSI in its native layout, ``Dataset_BUSI_with_GT/{benign,malignant,normal}``.

    Args:
        root: Folder ``Dataset_BUSI_with_GT``, or the folder that holds it.
        classes: lesion: one foreground class (the paper's setting). category: benign is class 1, malignant class 2.
        include_normal: Also use the images without lesion; their masks are empty. Needs split random.
        split: committed: the lists in ``data_modules/splits/busi`` (431/86/130, needs the full release). random:
            70/10/20 % of what is there, by category.
        split_seed: Key of the random split.
        grey: Turn images into grey ones, as the authors read them.
        common: Arguments of ``SegmentationDataModule``.
    """

    def __init__(
        self,
        root: str,
        classes: Literal["lesion", "category"] = "lesion",
        include_normal: bool = False,
        split: Literal["committed", "random"] = "committed",
        split_seed: int = 0,
        grey: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(layout=BusiLayout(root, classes, include_normal, split, split_seed), grey=grey, **common)
