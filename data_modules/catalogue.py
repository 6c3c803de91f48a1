"""The data sets by name: what to know of each before using it, and its layout with what is on disk. No torch here."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

from lightning_samseg.errors import UserError

if TYPE_CHECKING:
    from data_modules.layouts.base import Layout, Splits


class DataSet(NamedTuple):
    """What a user must know of a data set before using it."""

    module: str
    """Class to name as ``data.class_path``."""
    contents: str
    licence: str
    citation: str
    source: str
    layout: str
    """Files under ``data.root``."""


DATA_SETS = {
    "acdc": DataSet(
        module="data_modules.AcdcDataModule",
        contents="cardiac MRI of 100 patients, 2 frames each; right ventricle, myocardium, left ventricle",
        licence="CC BY-NC-SA 4.0",
        citation="Bernard et al., IEEE Transactions on Medical Imaging 37(11), 2018, doi:10.1109/TMI.2018.2837502",
        source="https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html, then `data prepare acdc`",
        layout="data/slices/patientNNN_frame0F_slice_S.h5 and data/patientNNN_frame0F.h5 (SSL4MIS)",
    ),
    "busi": DataSet(
        module="data_modules.BusiDataModule",
        contents="780 breast ultrasound images: 437 benign and 210 malignant lesions, 133 normal",
        licence="none stated with the files; the article is CC BY 4.0",
        citation="Al-Dhabyani et al., Data in Brief 28, 2020, doi:10.1016/j.dib.2019.104863",
        source="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
        layout="Dataset_BUSI_with_GT/{benign,malignant,normal}/benign (1).png, benign (1)_mask.png",
    ),
    "polyp": DataSet(
        module="data_modules.PolypDataModule",
        contents="colonoscopy: 1450 training images and five test sets of 62, 380, 196, 100 and 60 images with polyps",
        licence="Kvasir-SEG: research and education only; the others: research, by the terms at their sources",
        citation="Fan et al. (PraNet), MICCAI 2020, doi:10.1007/978-3-030-59725-2_26; "
        "Jha et al. (Kvasir-SEG), MMM 2020, doi:10.1007/978-3-030-37734-2_37; "
        "Bernal et al. (CVC-ClinicDB), Comput Med Imaging Graph 43, 2015, "
        "doi:10.1016/j.compmedimag.2015.02.007; Tajbakhsh et al. (CVC-ColonDB), IEEE TMI 35(2), 2016, "
        "doi:10.1109/TMI.2015.2487997; Silva et al. (ETIS-Larib), Int J CARS 9, 2014, doi:10.1007/s11548-013-0926-3; "
        "Vázquez et al. (CVC-300), J Healthc Eng 2017, doi:10.1155/2017/4037190",
        source="https://github.com/DengPingFan/PraNet (TrainDataset, TestDataset), "
        "https://datasets.simula.no/kvasir-seg, https://polyp.grand-challenge.org/CVCClinicDB",
        layout="TrainDataset/{image,masks}, TestDataset/{CVC-300,CVC-ClinicDB,CVC-ColonDB,ETIS-LaribPolypDB,Kvasir}/"
        "{images,masks}; any of these sets alone; or Kvasir-SEG/{images,masks}, CVC-ClinicDB/{Original,Ground Truth}",
    ),
    "glas": DataSet(
        module="data_modules.GlasDataModule",
        contents="H&E-stained colon histology: 85 training and 80 test images, benign and malignant, glands numbered",
        licence="research, by the terms at the source",
        citation="Sirinukunwattana et al., Medical Image Analysis 35, 2017, doi:10.1016/j.media.2016.08.008",
        source="https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest",
        layout="train_1.bmp, train_1_anno.bmp, testA_1.bmp, testB_1.bmp and so on, Grade.csv; PNG copies, too",
    ),
    "retouch": DataSet(
        module="data_modules.RetouchDataModule",
        contents="retinal OCT: 70 training volumes, 24 Cirrus, 24 Spectralis, 22 Topcon; three kinds of fluid",
        licence="research, by the agreement of the challenge",
        citation="Bogunovic et al., IEEE Transactions on Medical Imaging 38(8), 2019, doi:10.1109/TMI.2019.2901398",
        source="https://retouch.grand-challenge.org (on request), optionally then `data prepare retouch`",
        layout="{Cirrus,Spectralis,Topcon}/TRAINnnn/oct.mhd, reference.mhd and their raw files; or data/*.h5, prepared",
    ),
    "folder": DataSet(
        module="data_modules.FolderDataModule",
        contents="your own images",
        licence="yours",
        citation="-",
        source="-",
        layout="images/NAME.png, masks/NAME.png (or NAME.nii.gz, NAME.mha), optionally unlabelled/, splits/*.txt, "
        "classes.yaml",
    ),
    "demo": DataSet(
        module="data_modules.DemoDataModule",
        contents="generated ultrasound-like images with lesions",
        licence="that of this project",
        citation="-",
        source="made on first use",
        layout="none needed",
    ),
    "demo stream": DataSet(
        module="data_modules.DemoStreamDataModule",
        contents="generated colonoscopy-like images with polyps of weak contrast in PraNet's layout, to learn online",
        licence="that of this project",
        citation="-",
        source="made on first use",
        layout="none needed",
    ),
}
LAYOUTS = {
    "acdc": "acdc.AcdcLayout",
    "busi": "busi.BusiLayout",
    "polyp": "polyp.PolypLayout",
    "glas": "glas.GlasLayout",
    "retouch": "retouch.RetouchLayout",
    "folder": "folder.FolderLayout",
}
"""Data sets that ``data verify`` and ``data show`` know by name."""


def open_layout(name: str, root: str | Path, **options: Any) -> "tuple[Layout, Callable[[], Splits]]":
    """Open what is on disk of a data set, whatever part of it is there.

    Args:
        name: One of ``LAYOUTS``, or where to import another ``Layout`` from, such as ``isic.IsicLayout``.
        root: Its folder, the layout's first argument.
        options: Other arguments of the layout.

    Returns:
        The layout, with everything in it that has a label, and how the DataModule divides it by default (BUSI: by the
        committed lists if it is complete, else at random).

    Raises:
        UserError: If there is no such layout, or it has no such argument.
    """
    make = _find(f"data_modules.layouts.{LAYOUTS[name]}" if name in LAYOUTS else name)
    _check_options(name, make, options)
    if name != "busi":
        layout: Layout = make(str(root), **options)
        return layout, layout.splits
    layout = make(str(root), include_normal=True, split="random", **options)
    committed: Layout = make(str(root), **options)
    try:
        committed.splits()
    except UserError:  # a part of the release
        return layout, layout.splits
    return layout, committed.splits


def _check_options(name: str, layout: "Callable[..., Layout]", options: dict[str, Any]) -> None:
    known = get_type_hints(layout.__init__)
    for option, value in options.items():
        if option not in known:
            raise UserError(f"The data set {name} has no option --{option}.", fix="leave it out")
        choices = get_args(known[option])
        if choices and isinstance(choices[0], str) and value not in choices:
            raise UserError(f"--{option} {value}", expected=", ".join(choices), fix="give one of them")


def _find(name: str) -> "Callable[..., Layout]":
    from data_modules.layouts.base import Layout  # late: `data list` needs no NumPy

    module, _, class_name = name.rpartition(".")
    try:
        found = getattr(import_module(module), class_name) if module else None
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"The layout {name} cannot be imported.",
            expected=f"{', '.join(LAYOUTS)}, or module.Class of your own",
            found=str(error),
            fix="call the program from the folder of your file, or correct the name",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Layout)):
        raise UserError(
            f"{name} is no data set.",
            expected=f"{', '.join(LAYOUTS)}, or module.Class of your own Layout",
            fix="correct the name; python -m lightning_samseg data list shows all",
        )
    return found
