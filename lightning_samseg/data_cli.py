"""``python -m lightning_samseg data``: the data sets, and preparing them. Starts without torch."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_samseg.errors import UserError


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
    "folder": DataSet(
        module="data_modules.FolderDataModule",
        contents="your own images",
        licence="yours",
        citation="-",
        source="-",
        layout="images/NAME.png, masks/NAME.png, optionally unlabelled/, splits/*.txt, classes.yaml",
    ),
    "demo": DataSet(
        module="data_modules.DemoDataModule",
        contents="generated ultrasound-like images with lesions",
        licence="that of this project",
        citation="-",
        source="made on first use",
        layout="none needed",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the verbs.

    Args:
        argv: Arguments after ``data``; those of the process if None.

    Returns:
        Exit status 0.

    Raises:
        UserError: If a data set cannot be prepared.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_samseg data", description="Data sets.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="data sets with licence, citation, source and expected layout")
    preparing = verbs.add_parser(
        "prepare", help="convert a release into the layout that is trained on; can be repeated"
    )
    preparing.add_argument("name", choices=["acdc"], metavar="NAME", help="acdc")
    preparing.add_argument("--source", type=Path, required=True, metavar="DIR", help="the unpacked release")
    preparing.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to fill, later data.root")
    args = parser.parse_args(argv)
    if args.verb == "list":
        print(_table())
    else:
        prepare_acdc(args.source, args.out)
    return 0


def prepare_acdc(source: Path, out: Path) -> None:
    """Convert ACDC's release into SSL4MIS's h5 layout; files that are there already are left alone.

    Args:
        source: The unpacked release.
        out: Folder to fill; it gets ``data/`` and the lists.

    Raises:
        UserError: If the release is absent or a file of it does not fit; what has been written so far is complete.
    """
    from tqdm import tqdm  # late: `data list` needs none of it

    from data_modules.layouts.acdc_native import find_frames, prepare_frame, write_lists

    if source.expanduser().resolve() == out.expanduser().resolve():
        raise UserError(f"--source and --out are the same folder, {out}.", fix="give --out another folder")
    out = out.expanduser()
    frames, missing = find_frames(source)
    with tqdm(frames, desc="acdc", unit="volume") as progress:
        written = sum(prepare_frame(frame, out) for frame in progress)
    write_lists([frame.case for frame in frames], out)
    print(
        f"{len(frames)} volumes of {len(frames) // 2} patients in {out}: {written} files written, the others were there"
    )
    if missing:
        shown = ", ".join(missing[:5]) + (" and so on" if len(missing) > 5 else "")
        print(
            f"warning: {len(missing)} of 100 patients are not in {source}: {shown}; the lists hold only what is there"
        )
    print(f"next: python -m lightning_samseg fit --config experiments/cpc_sam/acdc_1.yaml --data.root {out}")


def _table() -> str:
    blocks = []
    for name, data_set in DATA_SETS.items():
        rows = [f"  {field:<9} {value}" for field, value in data_set._asdict().items()]
        blocks.append("\n".join([name, *rows]))
    return "\n\n".join(blocks)
