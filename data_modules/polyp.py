"""Polyps in colonoscopy: PraNet's five test sets and training set, or Kvasir-SEG and CVC-ClinicDB as released."""

from typing import Any, Literal

from data_modules.base import SegmentationDataModule
from data_modules.layouts.polyp import PolypLayout


class PolypDataModule(SegmentationDataModule):
    """Polyps, in PraNet's layout ``TrainDataset/{image,masks}``, ``TestDataset/SET/{images,masks}`` or set by set.

    Masks may be png, jpg, tif or bmp; compression noise is cut at 127. Online learning walks through CVC-ClinicDB,
    CVC-ColonDB, ETIS-LaribPolypDB, Kvasir and CVC-300, as far as they are there.

    Args:
        root: Folder that holds TrainDataset and TestDataset, TestDataset itself, one of its sets, Kvasir-SEG
            (``images``, ``masks``), CVC-ClinicDB (``Original``, ``Ground Truth``), or the folder above them.
        split: pranet: TrainDataset to train (10 % of it to validate), all sets of TestDataset to test. random: 70/10/20
            % of what is there, by set. auto: pranet where both folders are there, else random.
        split_seed: Key of the random split, or of PraNet's validation images. The frames of one video sequence of
            CVC-ClinicDB are never divided.
        common: Arguments of ``SegmentationDataModule``.
    """

    def __init__(
        self, root: str, split: Literal["auto", "pranet", "random"] = "auto", split_seed: int = 0, **common: Any
    ) -> None:
        super().__init__(layout=PolypLayout(root, split, split_seed), **common)
