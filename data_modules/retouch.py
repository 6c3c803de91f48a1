"""RETOUCH, retinal fluid in OCT: 70 volumes from three devices (Bogunovic et al., TMI 2019)."""

from typing import Any, Literal

from data_modules.base import SegmentationDataModule
from data_modules.layouts.retouch import RetouchLayout


class RetouchDataModule(SegmentationDataModule):
    """RETOUCH as released, ``{Cirrus,Spectralis,Topcon}/TRAINnnn/{oct,reference}.mhd``, or prepared as h5 files.

    B-scans are what is trained on; volumes are evaluated whole, in mm. Online learning walks through the B-scans of
    each device.

    Args:
        root: Folder that holds Cirrus, Spectralis and Topcon, or the one that ``data prepare retouch`` has filled.
        classes: types: intraretinal fluid (IRF), subretinal fluid (SRF), pigment epithelial detachment (PED). fluid:
            the three as one class.
        empty: keep, or drop B-scans without fluid from training and from the stream of online learning. Volumes are
            always evaluated whole.
        split: committed: the lists in ``data_modules/splits/retouch`` (49/7/14 volumes, needs all 70). random: 70/10/20
            % of the volumes that are there, by device. auto: committed where all are there, else random.
        split_seed: Key of the random split.
        common: Arguments of ``SegmentationDataModule``; ``num_labelled`` counts B-scans, volume after volume.
    """

    def __init__(
        self,
        root: str,
        classes: Literal["types", "fluid"] = "types",
        empty: Literal["keep", "drop"] = "keep",
        split: Literal["auto", "committed", "random"] = "auto",
        split_seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(layout=RetouchLayout(root, classes, empty, split, split_seed), **common)
