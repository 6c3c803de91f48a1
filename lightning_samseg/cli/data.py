"""``python -m lightning_samseg data``: know, make, check, prepare, divide and show data sets. Starts without torch."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_modules.catalogue import DATA_SETS, LAYOUTS, open_layout
from lightning_samseg.cli.arguments import Parser
from lightning_samseg.errors import UserError

DEMOS = ("acdc", "busi", "polyp", "glas", "retouch", "folder")
_SHOWN = 50
_OPTIONS: dict[str, tuple[type, str]] = {
    "masks": (str, "folder: what the values of masks mean: auto, binary, soft, indexed, instances (auto)"),
    "ignore": (int, "folder: value of masks that counts for nothing, such as 255"),
    "mask_suffix": (str, "folder: what names of masks have behind those of their images, such as _mask"),
    "subfolders": (str, "folder: true: also what lies in folders inside of images and masks; false: leave it out"),
    "group": (str, "folder: regular expression that finds the patient in a name"),
    "classes": (str, "busi: lesion or category; retouch: types or fluid"),
}
"""Arguments of layouts that ``verify``, ``show`` and ``split`` take under the names that ``fit`` knows them by."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the verbs.

    Args:
        argv: Arguments after ``data``; those of the process if None.

    Returns:
        Exit status: 0, or 2 if ``verify`` found something wrong.

    Raises:
        UserError: If data are missing or cannot be used.
    """
    args = _parser().parse_args(argv)
    if args.verb == "list":
        print(_table())
    elif args.verb == "demo":
        write_demos(args.name, args.out, args.seed)
    elif args.verb == "verify":
        return verify_folder(args.name, args.root, **_layout_options(args))
    elif args.verb == "prepare":
        {"acdc": prepare_acdc, "retouch": prepare_retouch}[args.name](args.source, args.out)
    elif args.verb == "cache":
        look_after_cache(args.clear)
    elif args.verb == "split":
        write_split(args.root, args.seed, args.train, args.val, args.overwrite, **_layout_options(args))
    else:
        show_sheet(args.name, args.root, args.out, args.count, args.columns, **_layout_options(args))
    return 0


def write_demos(name: str, out: Path, seed: int) -> None:
    """Write generated samples in native layout and with real file names.

    Args:
        name: One of ``DEMOS``, or ``all``.
        out: Folder to be filled; with ``all`` a folder in it for each data set. It appears complete or not at all.
        seed: Seed of the pictures.

    Raises:
        UserError: If a folder is there already.
    """
    from lightning_samseg.io.files import atomic_folder

    for chosen in DEMOS if name == "all" else (name,):
        folder = out.expanduser() / chosen if name == "all" else out.expanduser()
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(f"{folder} is there already.", fix="give --out another folder, or remove it")
        with atomic_folder(folder) as temporary:
            _writer(chosen)(temporary, seed)
        print(f"{chosen}: {folder}")
        if chosen == "acdc":
            print(f"  next: python -m lightning_samseg data prepare acdc --source {folder} --out DIR")
        else:
            partial = " --data.split random" if chosen == "busi" else ""
            print(f"  --data {DATA_SETS[chosen].module} --data.root {folder}{partial}")


def verify_folder(name: str, root: Path, **options: Any) -> int:
    """Read everything of a data set and print what is wrong, file by file.

    Args:
        name: One of ``LAYOUTS``, or where to import another layout from.
        root: Its folder.
        options: Other arguments of the layout.

    Returns:
        Exit status: 0 if nothing is wrong, else 2.
    """
    from data_modules.verify import verify

    layout, splits = open_layout(name, root, **options)
    report = verify(layout, splits)
    for note in report.notes:
        print(f"note: {note}")
    for problem in report.problems[:_SHOWN]:
        print(problem)
    if len(report.problems) > _SHOWN:
        print(f"and {len(report.problems) - _SHOWN} more")
    count = f"{len(report.problems)} problems" if report.problems else "nothing wrong"
    print(f"{name} in {root}: {report.images} images and slices, {count}")
    return 2 if report.problems else 0


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

    out = _other_folder(source, out)
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


def prepare_retouch(source: Path, out: Path) -> None:
    """Convert RETOUCH's release into one compressed h5 file a volume; files that are there already are left alone.

    Args:
        source: Folder that holds ``Cirrus``, ``Spectralis``, ``Topcon``.
        out: Folder to fill; it gets ``data/``.

    Raises:
        UserError: If no volume is there or one does not fit; what has been written so far is complete.
    """
    from tqdm import tqdm

    from data_modules.layouts.retouch_files import prepare_volume, released, released_folders

    out = _other_folder(source, out)
    folders = released_folders(source.expanduser())
    if not folders:
        raise UserError(
            f"No RETOUCH volumes found in {source}.",
            expected="folders such as Cirrus/TRAIN001 with oct.mhd and reference.mhd",
            fix="give --source the folder that holds Cirrus, Spectralis and Topcon",
        )
    with tqdm(folders, desc="retouch", unit="volume") as progress:
        written = sum(prepare_volume(released(folder), out) for folder in progress)
    print(f"{len(folders)} volumes in {out}: {written} written, the others were there")
    print(f"next: --data data_modules.RetouchDataModule --data.root {out}")


def write_split(root: Path, seed: int, train: float, val: float, overwrite: bool, **options: Any) -> None:
    """Divide a folder of one's own and write the lists that ``FolderDataModule`` then follows.

    Args:
        root: Folder with ``images`` and ``masks``.
        seed: Key of the order.
        train: Share of training images.
        val: Share of validation images; the rest is tested.
        overwrite: Replace lists that are there.
        options: Other arguments of ``FolderLayout``.

    Raises:
        UserError: If the images are missing, shares make no sense, a part would be empty, or lists are there already.
    """
    from data_modules.layouts.base import random_splits
    from data_modules.layouts.folder import FolderLayout
    from data_modules.layouts.lists import list_text
    from lightning_samseg.io.text import write_text

    if not (train > 0 and val > 0 and train + val < 1):
        found = f"--train {train} --val {val}"
        raise UserError("The shares leave nothing to test with.", found=found, fix="use --train 0.7 --val 0.1")
    lists = root.expanduser() / "splits"
    if lists.is_dir() and any(lists.glob("*.txt")) and not overwrite:
        raise UserError(f"There are lists in {lists} already.", fix="add --overwrite to replace them")
    layout = FolderLayout(str(root), split="random", split_seed=seed, **options)
    splits = random_splits(layout.items(), seed, train, val)
    grouped = f", no group of {options['group']!r} divided" if options.get("group") else ""
    for part, items in zip(("train", "val", "test"), splits[:3], strict=True):
        order = "; the first are labelled first" if part == "train" else ""
        cases = list(dict.fromkeys(item.case_id for item in items))  # a volume is one of them
        head = f"{len(cases)} {part} images{order}; made by data split, seed {seed}{grouped}"
        write_text(lists / f"{part}.txt", list_text(head, cases))
        print(f"{lists / part}.txt: {len(cases)} images")
    (lists / "labelled.txt").unlink(missing_ok=True)


def show_sheet(name: str, root: Path, out: Path, count: int, columns: int, **options: Any) -> None:
    """Write a contact sheet with contours.

    Args:
        name: One of ``LAYOUTS``, or where to import another layout from.
        root: Its folder.
        out: Picture to write.
        count: Images on the sheet.
        columns: Images in a row.
        options: Other arguments of the layout.

    Raises:
        UserError: If data are missing or cannot be read.
    """
    from data_modules.sheet import choose, contact_sheet
    from lightning_samseg.io.images import write_image

    layout, _ = open_layout(name, root, **options)
    write_image(out.expanduser(), contact_sheet(layout, choose(layout, count), max(1, columns)))
    classes = ", ".join(f"{number} {label}" for number, label in enumerate(layout.class_names, 1))
    print(f"{out}: {name}, classes {classes}")


def look_after_cache(clear: bool) -> None:
    """Say where decoded images are kept and how much there is; remove them if asked to.

    Args:
        clear: Remove them all.
    """
    from data_modules.loading import cache

    folder = cache.default_folder()
    entries, size = cache.size_of(folder)
    if clear:
        cache.clear(folder)
    print(f"{folder}: {entries} decoded images, {size / 1e9:.2f} GB{' removed' if clear else ''}")
    if entries and not clear:
        print("  they are made again when needed; remove them: python -m lightning_samseg data cache --clear")


def _writer(name: str) -> Callable[[Path, int], object]:
    if name == "polyp":
        from data_modules.generated.polyps import write_demo_polyp

        return lambda folder, seed: write_demo_polyp(folder, per_set=3, train=10, seed=seed)
    if name == "busi":
        from data_modules.generated.ultrasound import write_demo_busi

        return lambda folder, seed: write_demo_busi(folder, 8, 4, 2, seed=seed)
    if name in ("glas", "folder"):
        from data_modules.generated import cells as phantom_cells

        write = phantom_cells.write_demo_glas if name == "glas" else phantom_cells.write_demo_folder
        return lambda folder, seed: write(folder, seed=seed)
    from data_modules.generated import volumes as phantom_volumes

    volumes = phantom_volumes.write_demo_acdc if name == "acdc" else phantom_volumes.write_demo_retouch
    return lambda folder, seed: volumes(folder, seed=seed)


def _other_folder(source: Path, out: Path) -> Path:
    if source.expanduser().resolve() == out.expanduser().resolve():
        raise UserError(f"--source and --out are the same folder, {out}.", fix="give --out another folder")
    return out.expanduser()


def _table() -> str:
    blocks = []
    for name, data_set in DATA_SETS.items():
        rows = [f"  {field:<9} {value}" for field, value in data_set._asdict().items()]
        blocks.append("\n".join([name, *rows]))
    return "\n\n".join(blocks)


def _parser() -> Parser:
    parser = Parser(prog="python -m lightning_samseg data", description="Data sets.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="data sets with licence, citation, source and expected layout")
    names = f"{', '.join(LAYOUTS)}, or module.Layout of your own"

    demo = verbs.add_parser("demo", help="write generated samples in native layout, with real file names")
    demo.add_argument("name", choices=[*DEMOS, "all"], metavar="NAME", help=f"{' '.join(DEMOS)}, or all")
    demo.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to fill; all: one in it for each")
    demo.add_argument("--seed", type=int, default=0, help="seed of the pictures (0)")

    verify = verbs.add_parser(
        "verify", help="read everything, say what is wrong in which file; status 2 if anything is"
    )
    verify.add_argument("name", metavar="NAME", help=names)
    verify.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of the data set")
    _add_layout_options(verify, *_OPTIONS)

    prepare = verbs.add_parser(
        "prepare", help="convert a release into h5 files that are faster to read; can be repeated"
    )
    prepare.add_argument("name", choices=["acdc", "retouch"], metavar="NAME", help="acdc, retouch")
    prepare.add_argument("--source", type=Path, required=True, metavar="DIR", help="the unpacked release")
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to fill, later data.root")

    split = verbs.add_parser("split", help="divide a folder of your own and write splits/{train,val,test}.txt into it")
    split.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder with images and masks")
    _add_layout_options(split, "group", "mask_suffix", "subfolders")
    split.add_argument("--seed", type=int, default=0, help="key of the order (0)")
    split.add_argument("--train", type=float, default=0.7, help="share of training images (0.7)")
    split.add_argument("--val", type=float, default=0.1, help="share of validation images (0.1); the rest is tested")
    split.add_argument("--overwrite", action="store_true", help="replace lists that are there")

    cache = verbs.add_parser("cache", help="say where decoded images are kept and how much there is")
    cache.add_argument("--clear", action="store_true", help="remove them; they are made again when needed")

    show = verbs.add_parser("show", help="draw a contact sheet with contours")
    show.add_argument("name", metavar="NAME", help=names)
    show.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of the data set")
    show.add_argument("--out", type=Path, required=True, metavar="FILE", help="picture to write, such as sheet.png")
    show.add_argument("--count", type=int, default=24, help="images on the sheet (24)")
    show.add_argument("--columns", type=int, default=6, help="images in a row (6)")
    _add_layout_options(show, *_OPTIONS)
    return parser


def _add_layout_options(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        kind, text = _OPTIONS[name]
        parser.add_argument(f"--{name}", f"--data.{name}", dest=name, type=kind, metavar=name.upper(), help=text)


def _layout_options(args: argparse.Namespace) -> dict[str, Any]:
    options = {name: value for name in _OPTIONS if (value := getattr(args, name, None)) is not None}
    if "subfolders" in options:
        if options["subfolders"] not in ("true", "false"):
            raise UserError(f"--subfolders {options['subfolders']}", expected="true or false", fix="give one of them")
        options["subfolders"] = options["subfolders"] == "true"
    return options


if __name__ == "__main__":
    sys.exit(main())
