"""ACDC, cardiac MRI: right ventricle, myocardium, left ventricle (Bernard et al., TMI 2018)."""

from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info

from data_modules.base import SegmentationDataModule
from data_modules.layouts.acdc import LIST_NAMES, LISTS, AcdcLayout
from data_modules.layouts.lists import read_list
from lightning_samseg.errors import UserError
from lightning_samseg.transforms import Normalise


class AcdcDataModule(SegmentationDataModule):
    """ACDC in the h5 layout of SSL4MIS: slices to train on, whole volumes to evaluate.

    ``python -m lightning_samseg data prepare acdc`` makes this layout, with the voxel size, from the native release.
    Scores are computed in 3-D, in mm where the files store the voxel size and in voxels otherwise.

    Args:
        root: Folder that holds ``data/`` with the volumes and ``data/slices/``.
        labelled_patients: Patients whose labels are used, the first ones of the list; 1, 3 and 7 patients have 32, 68
            and 136 slices. The slices of all others are unlabelled. None: all, or the first ``num_labelled`` slices.
        split: committed: SSL4MIS's lists in ``data_modules/splits/acdc`` (70/10/20 patients, needs the whole data set).
            files: train_slices.list, val.list and, where present, test.list of the root; without it the validation
            volumes are tested. auto: the root's lists where it has any, else the committed ones.
        normalise: See ``SegmentationDataModule``. stored: the files' values, 0..1 over the volume (CPC-SAM). The others
            normalise each slice on its own.
        common: Arguments of ``SegmentationDataModule``.

    Raises:
        UserError: If both ``labelled_patients`` and ``num_labelled`` are given.
    """

    layout: AcdcLayout

    def __init__(
        self,
        root: str,
        labelled_patients: int | None = None,
        split: Literal["auto", "committed", "files"] = "auto",
        normalise: Normalise = "stored",
        **common: Any,
    ) -> None:
        super().__init__(layout=AcdcLayout(root, split), normalise=normalise, **common)
        if labelled_patients is not None and self.num_labelled is not None:
            raise UserError(
                "data.labelled_patients and data.num_labelled exclude each other.",
                found=f"{labelled_patients} patients and {self.num_labelled} slices",
                fix="set one of them to null",
            )
        self.labelled_patients = labelled_patients

    def setup(self, stage: str) -> None:
        """List slices and volumes, once.

        Raises:
            UserError: See ``AcdcLayout.splits``; also if more patients are asked for than there are.
        """
        if self._splits is not None:
            return
        if self.labelled_patients is not None:
            self.num_labelled = self.layout.count_slices(self.labelled_patients)
        super().setup(stage)
        lists = self.layout.lists
        if not self.layout.has_test_list:
            rank_zero_info(
                f"warning: no test.list in {lists}: validation volumes are tested, which flatters the scores"
            )
        elif any(read_list(lists / name) != read_list(LISTS / name) for name in LIST_NAMES):
            rank_zero_info(
                f"warning: the lists in {lists} are not SSL4MIS's: scores do not compare with published ones"
            )
