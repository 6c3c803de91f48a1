"""``data verify``: sound data sets pass, and each deliberate fault has its own message that names the file."""

import shutil
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from PIL import Image

from data_modules.catalogue import LAYOUTS, open_layout
from data_modules.layouts.retouch_files import prepare_volume, released, released_folders
from data_modules.verify import verify
from lightning_samseg.io.metaimage import write_metaimage
from tests.fakes import (
    truncate,
    write_acdc,
    write_busi,
    write_folder,
    write_glas,
    write_h5,
    write_polyp,
    write_retouch,
)

REAL = Path(__file__).parents[2].parent / "shared" / "real_data"
TRAIN = {"patient001": 3, "patient002": 3}


def write_prepared(root):
    for folder in released_folders(write_retouch(root / "native", volumes=3, b_scans=2)):
        prepare_volume(released(folder), root)
    shutil.rmtree(root / "native")
    return root


WRITERS = {
    "acdc": lambda root: write_acdc(root, TRAIN, {"patient003": 2}, {"patient004": 2}),
    "busi": lambda root: write_busi(root, benign=8, malignant=8, normal=8),
    "polyp": lambda root: write_polyp(root, train=20, test={"CVC-300": 3, "Kvasir": 3}),
    "glas": lambda root: write_glas(root, train=12),
    "retouch": lambda root: write_retouch(root, volumes=5, b_scans=2),
    "retouch h5": lambda root: write_prepared(root),
    "folder": lambda root: write_folder(root, [f"patient{n}_a" for n in range(10)]),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Each data set without a fault, written once."""
    roots = {}
    for name, write in WRITERS.items():
        roots[name] = tmp_path_factory.mktemp(name.replace(" ", "_")) / "data"
        roots[name].mkdir()
        write(roots[name])
    return roots


def report_of(name, root):
    layout, splits = open_layout(name.split()[0], root)
    return verify(layout, splits)


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_is_wrong_with_sound_data(sound, name):
    report = report_of(name, sound[name])
    assert report.problems == []
    assert report.images >= 10


class Fault(NamedTuple):
    name: str
    file: str
    """The file that is spoilt, and that the message must name unless ``named`` says another one."""
    spoil: object
    message: str
    named: str | None = None


def remove(path):
    path.unlink()


def empty_file(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("<html>404 Not Found</html>")


def picture(change):
    def spoil(path):
        with Image.open(path) as image:
            changed = change(np.asarray(image.convert("L") if image.mode == "1" else image).copy())
        Image.fromarray(changed).save(path)

    return spoil


def grey(values):
    return values if values.ndim == 2 else values[..., 0]


def classes(values):
    half = grey(values)
    half[:, : half.shape[1] // 2] //= 2
    half[half.shape[0] // 2 :] = 128
    return half


def two_pages(path):
    with Image.open(path) as image:
        Image.fromarray(np.asarray(image.convert("L"))).save(
            path, format="TIFF", save_all=True, append_images=[image.convert("L")]
        )


def copy_of(other):
    def spoil(path):
        shutil.copy(path.parent / other, path)

    return spoil


def renamed(name):
    def spoil(path):
        path.rename(path.with_name(name))

    return spoil


def added(name):
    def spoil(path):
        shutil.copy(path, path.with_name(name))

    return spoil


def edited(old, new):
    def spoil(path):
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new))

    return spoil


def h5(key, change):
    def spoil(path):
        with h5py.File(path) as file:
            arrays, attributes = {name: file[name][()] for name in file}, dict(file.attrs)
        if change is None:
            del arrays[key]
        elif key in arrays:
            arrays[key] = change(arrays[key])
        else:
            attributes[key] = change
        write_h5(path, **arrays)
        with h5py.File(path, "a") as file:
            file.attrs.update(attributes)

    return spoil


def volume(array, spacing=(0.05, 0.002, 0.0117)):
    return lambda path: write_metaimage(path, array, spacing)


LABEL = np.zeros((2, 20, 16), np.uint8)
LABEL[1, 2:6, 2:6] = 1
B1, M3, N2 = (
    f"Dataset_BUSI_with_GT/{name}" for name in ("benign/benign (1)", "malignant/malignant (3)", "normal/normal (2)")
)
P = "TestDataset/CVC-300/{}/150.png"
G = "Warwick QU Dataset (Released 2016_07_08)/"
R = "Topcon/TRAIN050/"
V, S = "data/patient003_frame01.h5", "data/slices/patient002_frame02_slice_2.h5"
H = "data/Cirrus_TRAIN002.h5"

FAULTS = [
    Fault("busi", f"{B1}_mask.png", remove, "has no mask", "benign (1).png"),
    Fault("busi", f"{B1}.png", remove, "has no image", "benign (1)_mask.png"),
    Fault("busi", f"{B1}.png", truncate, "cannot be read"),
    Fault("busi", f"{B1}_mask.png", truncate, "cannot be read"),
    Fault("busi", f"{B1}.png", empty_file, "0 bytes"),
    Fault("busi", f"{B1}.png", text, "a web page"),
    Fault("busi", f"{M3}_mask.png", picture(lambda v: v[:-1]), "another size"),
    Fault("busi", f"{M3}_mask.png", picture(lambda v: v * 0), "label is empty"),
    Fault("busi", f"{M3}_mask.png", picture(lambda v: v * 0 + 255), "covers the whole image"),
    Fault("busi", f"{M3}_mask.png", picture(classes), "not binary"),
    Fault(
        "busi",
        f"{N2}_mask.png",
        picture(lambda v: grey(v) * 0 + np.eye(*v.shape[:2], dtype=np.uint8) * 255),
        "is normal",
    ),
    Fault("busi", f"{M3}.png", picture(lambda v: v * 0 + 7), "image is blank"),
    Fault("busi", f"{M3}.png", two_pages, "2 pages"),
    Fault("polyp", P.format("masks"), remove, "has no mask", "images/150.png"),
    Fault("polyp", P.format("images"), remove, "has no image", "masks/150.png"),
    Fault("polyp", P.format("images"), truncate, "cannot be read"),
    Fault("polyp", P.format("masks"), truncate, "cannot be read"),
    Fault("polyp", P.format("masks"), empty_file, "0 bytes"),
    Fault("polyp", P.format("images"), text, "a web page"),
    Fault("polyp", P.format("masks"), picture(lambda v: v[:, :-1]), "another size"),
    Fault("polyp", P.format("masks"), picture(lambda v: v * 0), "label is empty"),
    Fault("polyp", P.format("masks"), picture(lambda v: v * 0 + 255), "covers the whole image"),
    Fault("polyp", P.format("masks"), picture(classes), "not binary"),
    Fault("polyp", P.format("images"), picture(lambda v: v * 0), "image is blank"),
    Fault("polyp", P.format("images"), added("150.bmp"), "have the same name"),
    Fault(
        "polyp",
        P.format("images"),
        copy_of("../../../TrainDataset/image/21.png"),
        "in two parts",
        "TrainDataset/image/21.png",
    ),
    Fault("polyp", "TestDataset/CVC-300/masks", renamed("gt"), "has no folder of masks", "CVC-300"),
    Fault("glas", f"{G}train_3_anno.bmp", remove, "has no annotation", "train_3.bmp"),
    Fault("glas", f"{G}train_3.bmp", remove, "has no image", "train_3_anno.bmp"),
    Fault("glas", f"{G}testA_1.bmp", truncate, "cannot be read"),
    Fault("glas", f"{G}testA_1_anno.bmp", truncate, "cannot be read"),
    Fault("glas", f"{G}testA_1.bmp", text, "a web page"),
    Fault("glas", f"{G}train_3_anno.bmp", picture(lambda v: v.T), "another size"),
    Fault("glas", f"{G}train_3_anno.bmp", picture(lambda v: v * 0), "label is empty"),
    Fault("glas", f"{G}train_3_anno.bmp", picture(lambda v: v * 0 + 1), "covers the whole image"),
    Fault("glas", f"{G}train_3_anno.bmp", picture(lambda v: np.stack([v, v * 20, v], 2)), "in colour"),
    Fault(
        "glas",
        f"{G}train_3_anno.bmp",
        picture(lambda v: classes((v > 0) * np.uint8(255) + np.eye(*v.shape, dtype=np.uint8))),
        "not binary",
    ),
    Fault("glas", f"{G}train_3.bmp", picture(lambda v: v * 0 + 200), "image is blank"),
    Fault("glas", f"{G}train_3.bmp", added("train_3.png"), "are the same image"),
    Fault("glas", f"{G}testB_1.bmp", copy_of("train_3.bmp"), "in two parts", "train_3.bmp"),
    Fault("glas", f"{G}Grade.csv", edited("train_3,3, benign, healthy\n", ""), "no line for train_3"),
    Fault("glas", f"{G}Grade.csv", edited("train_3,3, benign", "train_3,3, normal"), "table of grades"),
    Fault("glas", f"{G}Grade.csv", edited("patient ID", "patient"), "table of grades"),
    Fault("retouch", f"{R}reference.mhd", remove, "There is no volume"),
    Fault("retouch", f"{R}oct.mhd", remove, "There is no volume"),
    Fault("retouch", f"{R}oct.raw", remove, "missing data file"),
    Fault("retouch", f"{R}oct.raw", truncate, "too short"),
    Fault("retouch", f"{R}reference.raw", empty_file, "too short"),
    Fault("retouch", f"{R}oct.mhd", text, "a web page"),
    Fault("retouch", f"{R}oct.mhd", edited("DimSize = 16 20 2", "DimSize = 16 20"), "does not tell the size"),
    Fault("retouch", f"{R}oct.mhd", edited("MET_UCHAR", "MET_STRING"), "unsupported type"),
    Fault(
        "retouch",
        f"{R}oct.mhd",
        edited("ElementSpacing = 0.0117 0.002 0.05", "ElementSpacing = 0 0 0"),
        "positive sizes",
    ),
    Fault("retouch", f"{R}reference.mhd", volume(LABEL[:1]), "another size"),
    Fault("retouch", f"{R}reference.mhd", volume(LABEL * 5), "are no class"),
    Fault("retouch", f"{R}reference.mhd", volume(LABEL * 0), "label is empty", "Topcon_TRAIN050"),
    Fault("retouch h5", H, truncate, "cannot be read"),
    Fault("retouch h5", H, text, "cannot be read"),
    Fault("retouch h5", H, h5("label", None), "no prepared volume"),
    Fault("retouch h5", H, h5("label", lambda v: v[:1]), "no volume with its reference"),
    Fault("retouch h5", H, h5("label", lambda v: v + 3), "are no class"),
    Fault("retouch h5", H, h5("label", lambda v: v * 0), "label is empty", "Cirrus_TRAIN002"),
    Fault("retouch h5", H, h5("spacing", (0, 1, 1)), "not a voxel size"),
    Fault("acdc", S, remove, "is missing"),
    Fault("acdc", V, remove, "is missing"),
    Fault("acdc", S, truncate, "cannot be read"),
    Fault("acdc", V, text, "cannot be read"),
    Fault("acdc", V, h5("label", None), "has no dataset 'label'"),
    Fault("acdc", S, h5("image", None), "has no dataset 'image'"),
    Fault("acdc", V, h5("label", lambda v: v[:, :-1]), "another size"),
    Fault("acdc", S, h5("label", lambda v: v + 2), "no class"),
    Fault("acdc", S, h5("image", lambda v: v * 1000), "not normalised"),
    Fault("acdc", S, h5("image", lambda v: v * np.float32("nan")), "not normalised"),
    Fault("acdc", V, h5("image", lambda v: v[0]), "not a volume of slices"),
    Fault("acdc", V, h5("spacing", (1.0, 0.0, 1.0)), "not a voxel size"),
    Fault("acdc", "val.list", edited("patient003_frame01", "patient002_frame01"), "patient002 is in"),
    Fault("acdc", "val.list", empty_file, "names no image"),
    Fault("folder", "masks/patient3_a.png", remove, "has no mask", "images/patient3_a.png"),
    Fault("folder", "images/patient3_a.png", remove, "has no image", "masks/patient3_a.png"),
    Fault("folder", "images/patient3_a.png", truncate, "cannot be read"),
    Fault("folder", "masks/patient3_a.png", truncate, "cannot be read"),
    Fault("folder", "images/patient3_a.png", text, "a web page"),
    Fault("folder", "masks/patient3_a.png", picture(lambda v: v.T), "another size"),
    Fault("folder", "masks/patient3_a.png", picture(lambda v: v * 0), "label is empty"),
    Fault("folder", "masks/patient3_a.png", picture(lambda v: v * 0 + 255), "covers the whole image"),
    Fault("folder", "masks/patient3_a.png", picture(classes), "fit no rule"),
    Fault("folder", "images/patient3_a.png", picture(lambda v: v * 0 + 9), "image is blank"),
    Fault("folder", "images/patient3_a.png", added("patient3_a.jpg"), "have the same name"),
    Fault("folder", "images/patient3_a.png", two_pages, "2 pages"),
    Fault("folder", "images", renamed("pictures"), "No images found in", "images"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.name}: {Path(fault.file).name}: {fault.message}")
def test_fault(sound, tmp_path, fault):
    root = shutil.copytree(sound[fault.name], tmp_path / "data")
    fault.spoil(root / fault.file)
    report = report_of(fault.name, root)
    found = [problem for problem in report.problems if fault.message in problem]
    assert len(found) == 1, "\n".join(report.problems)
    assert (fault.named or Path(fault.file).name) in found[0]
    assert "what to do: " in found[0]
    assert len(report.problems) <= 2  # one fault is no flood of messages


def test_there_are_ten_faults_of_each_data_set():
    for name in LAYOUTS:
        assert len({fault.message for fault in FAULTS if fault.name.split()[0] == name}) >= 9
        assert len([fault for fault in FAULTS if fault.name.split()[0] == name]) >= 10


def test_lists_and_classes_of_a_folder(tmp_path):
    names = [f"patient{n}_a" for n in range(10)]
    root = write_folder(tmp_path, names, values=(1, 2))
    (root / "classes.yaml").write_text("1: nucleus\n2: cell\n")
    assert report_of("folder", root).problems == []
    picture(lambda v: v + 1)(root / "masks" / "patient4_a.png")
    (problem,) = report_of("folder", root).problems
    assert "patient4_a.png holds the value 3, which is no class" in problem
    write_folder(tmp_path / "two", names)
    lists = tmp_path / "two" / "splits"
    lists.mkdir()
    for part, lines in {"train": names[:7], "val": ["patient7_a"], "test": ["patient8_a", "stranger"]}.items():
        (lists / f"{part}.txt").write_text("\n".join(lines))
    (problem,) = report_of("folder", tmp_path / "two").problems
    assert "1 of the 10 images" in problem
    (lists / "test.txt").write_text("patient8_a")
    shutil.copy(tmp_path / "two" / "images" / "patient8_a.png", tmp_path / "two" / "images" / "patient0_a.png")
    (problem,) = report_of("folder", tmp_path / "two").problems
    assert "same picture is in two parts" in problem
    assert "patient8_a.png (test)" in problem


def test_every_fault_of_a_folder_is_reported_at_once(tmp_path):
    root = write_folder(tmp_path, [f"patient{n}_a" for n in range(12)])
    truncate(root / "images" / "patient1_a.png")
    (root / "masks" / "patient2_a.png").unlink()
    picture(lambda v: v.T)(root / "masks" / "patient3_a.png")
    report = report_of("folder", root)
    assert report.images == 11
    assert [next(n for n in "123" if f"patient{n}_a" in problem) for problem in report.problems] == ["2", "1", "3"]


@pytest.mark.parametrize("name", ["acdc", "busi", "glas", "polyp"])
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real images")
def test_real_samples_are_sound(name):
    report = report_of(name, REAL / name)
    assert report.problems == []
    assert report.images == {"acdc": 376, "busi": 70, "glas": 28, "polyp": 98}[name]
    rule = {"busi": "one level is the foreground", "polyp": "one level is the foreground", "glas": "numbers of objects"}
    notes = [note for note in report.notes if "Grade.csv" not in note]
    assert len(notes) == (name != "acdc")
    assert all(rule[name] in note for note in notes)
