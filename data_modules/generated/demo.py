"""Data sets that need no download, made on first use: ultrasound in BUSI's layout, colonoscopy in PraNet's."""

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info

from data_modules.busi import BusiDataModule
from data_modules.generated.polyps import VERSION as POLYP_VERSION
from data_modules.generated.polyps import write_demo_polyp
from data_modules.generated.ultrasound import VERSION, of_first_clinic, write_demo_busi
from data_modules.layouts.base import Item, Splits
from data_modules.layouts.busi import BusiLayout
from data_modules.polyp import PolypDataModule
from lightning_samseg.io.files import atomic_folder, cache_dir


class TwoClinics(BusiLayout):
    """Images of the first clinic are the first to be labelled; validation and test images come from both."""

    def splits(self) -> Splits:
        """Divide as BUSI, and put the training images of the first clinic before the others."""
        splits = super().splits()
        train = sorted(splits.train, key=lambda item: not of_first_clinic(int(item.case_id.split("(")[1][:-1])))
        return splits._replace(train=train)


class DemoDataModule(BusiDataModule):
    """Generated BUSI-like images, divided 70/10/20 % at random by category.

    Args:
        root: Folder of the generated data; it is filled if it is absent. Where not given, a folder under the cache
            (``SAMSEG_CACHE``) whose name tells version, numbers and seed.
        num_benign: Images with smooth lesions.
        num_malignant: Images with spiculated lesions.
        num_normal: Images without lesion; used only with include_normal.
        demo_seed: Seed of the pictures.
        classes: lesion: one foreground class. category: benign is class 1, malignant class 2.
        include_normal: Also use the images without lesion; their masks are empty.
        split_seed: Key of the random split.
        clinics: 2: every second image is from other clinics, where lesions, scanners and settings vary more. Only
            images of the first are labelled; validation and test images come from both.
        common: Arguments of ``SegmentationDataModule``.
    """

    def __init__(
        self,
        root: str | None = None,
        num_benign: int = 56,
        num_malignant: int = 24,
        num_normal: int = 0,
        demo_seed: int = 0,
        classes: Literal["lesion", "category"] = "lesion",
        include_normal: bool = False,
        split_seed: int = 0,
        clinics: Literal[1, 2] = 1,
        **common: Any,
    ) -> None:
        name = f"busi-v{VERSION}-{num_benign}-{num_malignant}-{num_normal}-seed{demo_seed}"
        name += "-two_clinics" if clinics == 2 else ""
        folder = cache_dir() / "demo" / name if root is None else Path(root).expanduser()
        super().__init__(str(folder), classes, include_normal, "random", split_seed, **common)
        if clinics == 2:
            self.layout = TwoClinics(str(folder), classes, include_normal, "random", split_seed)
        self.layout.name = "demo data set"
        self.folder, self.demo_seed, self.clinics = folder, demo_seed, clinics
        self.counts = (num_benign, num_malignant, num_normal)

    def prepare_data(self) -> None:
        """Generate the data if their folder is absent; it appears complete or not at all, whatever else runs."""
        if self.folder.is_dir() and any(self.folder.iterdir()):
            return
        with atomic_folder(self.folder) as temporary:
            write_demo_busi(temporary, *self.counts, seed=self.demo_seed, clinics=self.clinics)
        rank_zero_info(f"Generated {sum(self.counts)} demo images in {self.folder}")


class DemoStreamDataModule(PolypDataModule):
    """Generated colonoscopy in PraNet's layout: a stream on which online learning beside SAM has something to learn.

    Polyps are flat and of weak contrast, beside look-alikes of another hue; light and colour change from set to set.

    Args:
        root: Folder of the generated data; it is filled if it is absent. Where not given, a folder under the cache
            (``SAMSEG_CACHE``) whose name tells version, numbers and seed.
        num_per_set: Images of each of the five test sets, 1 to 60.
        num_train: Training images, for methods that train; online learning does not see them.
        demo_seed: Seed of the pictures.
        split_seed: Key of the random choice of validation images.
        common: Arguments of ``SegmentationDataModule``.
    """

    def __init__(
        self,
        root: str | None = None,
        num_per_set: int = 16,
        num_train: int = 20,
        demo_seed: int = 0,
        split_seed: int = 0,
        **common: Any,
    ) -> None:
        name = f"polyp-v{POLYP_VERSION}-{num_per_set}-{num_train}-seed{demo_seed}"
        folder = cache_dir() / "demo" / name if root is None else Path(root).expanduser()
        super().__init__(str(folder), "auto", split_seed, **common)
        self.layout.name = "demo stream"
        self.folder, self.counts, self.demo_seed = folder, (num_per_set, num_train), demo_seed

    def prepare_data(self) -> None:
        """Generate the data if their folder is absent; it appears complete or not at all, whatever else runs."""
        if self.folder.is_dir() and any(self.folder.iterdir()):
            return
        with atomic_folder(self.folder) as temporary:
            write_demo_polyp(temporary, *self.counts, seed=self.demo_seed)
        rank_zero_info(f"Generated {5 * self.counts[0] + self.counts[1]} demo images in {self.folder}")

    def _say_notes(self, items: list[Item]) -> None:
        """Say nothing: that these are not PraNet's complete sets is no news."""
