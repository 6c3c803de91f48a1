"""Writers of tiny data sets in their native layout, with real file names."""

from pathlib import Path

import h5py
import nibabel
import numpy as np
from PIL import Image

from lightning_samseg.io.metaimage import write_metaimage


def write_busi(root: Path, benign: int = 14, malignant: int = 6, normal: int = 0, size=(40, 48)) -> Path:
    """BUSI: RGB images; masks in turn 1-bit, grey, RGB, RGBA; every fifth benign image has a second mask."""
    folder = root / "Dataset_BUSI_with_GT"
    height, width = size
    for category, count, base in (("benign", benign, 20), ("malignant", malignant, 120), ("normal", normal, 200)):
        (folder / category).mkdir(parents=True)
        for number in range(1, count + 1):
            image = np.full((height, width, 3), base + number, np.uint8)
            image[0, 0], image[-1, -1] = 0, 255
            first, second = np.zeros((2, height, width), bool)
            if category != "normal":
                first[height // 4 : height // 2, width // 4 : width // 2] = True
            if category == "benign" and number % 5 == 0:
                second[-height // 4 : -2, -width // 4 : -2] = True
            image[first | second] = 250
            stem = folder / category / f"{category} ({number})"
            Image.fromarray(image).save(f"{stem}.png")
            write_mask(Path(f"{stem}_mask.png"), first, ("1", "L", "RGB", "RGBA")[number % 4])
            if second.any():
                write_mask(Path(f"{stem}_mask_1.png"), second, "1")
    return folder


def write_folder(
    root: Path, names: list[str], size=(32, 40), values: tuple[int, ...] = (255,), unlabelled: int = 0
) -> Path:
    """Your own images: ``images``, ``masks`` whose square number k holds ``values[k]``, optionally ``unlabelled``."""
    for name in ("images", "masks") + (("unlabelled",) if unlabelled else ()):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / "images" / f"{name}.png")
        mask = np.zeros(size, np.uint8)
        for index, value in enumerate(values):
            mask[5:15, 3 + 9 * index : 10 + 9 * index] = value
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    for index in range(unlabelled):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(root / "unlabelled" / f"extra{index}.png")
    return root


def acdc_volume(slices: int, size=(24, 20), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image of whole numbers 0..1000 and label with all classes in every slice, axes (z, y, x)."""
    image = np.random.default_rng(seed).integers(1, 1000, (slices, *size)).astype(np.int16)
    image[0, 0, 0], image[-1, -1, -1] = 0, 1000
    label = np.zeros((slices, *size), np.uint8)
    label[:, 3:9, 2:6], label[:, 8:18, 6:16], label[:, 10:15, 9:13] = 1, 2, 3
    return image, label


def write_acdc(root: Path, train: dict[str, int], val: dict[str, int], test: dict[str, int] | None = None) -> Path:
    """ACDC in SSL4MIS's layout: patients with their number of slices, two frames each; no spacing is stored."""
    (root / "data" / "slices").mkdir(parents=True)
    lists: dict[str, list[str]] = {"train_slices.list": [], "val.list": []}
    parts = {"train_slices.list": train, "val.list": val} | ({} if test is None else {"test.list": test})
    for name, patients in parts.items():
        lists[name] = []
        for patient, slices in patients.items():
            for case in (f"{patient}_frame01", f"{patient}_frame02"):
                image, label = acdc_volume(slices, seed=int(case[7:10]) * 10 + int(case[-1]))
                image = (image / 1000).astype(np.float32)
                if name != "train_slices.list":
                    write_h5(root / "data" / f"{case}.h5", image=image, label=label)
                    lists[name].append(case)
                    continue
                for index in reversed(range(slices)):
                    stem = f"{case}_slice_{index + 1}"
                    write_h5(root / "data" / "slices" / f"{stem}.h5", image=image[index], label=label[index])
                    lists[name].append(stem)
        (root / name).write_text("".join(f"{line}\n" for line in lists[name]))
    return root


def write_acdc_native(root: Path, patients: dict[str, int], frames=(("ED", 1), ("ES", 12))) -> Path:
    """ACDC as released: Info.cfg, two labelled frames and a 4-D series for each patient; voxels (10, 1.5, 1.25) mm."""
    for patient, slices in patients.items():
        folder = root / "training" / patient
        folder.mkdir(parents=True)
        info = "".join(f"{phase}: {number}\n" for phase, number in frames)
        (folder / "Info.cfg").write_text(f"{info}Group: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
        for _, number in frames:
            arrays = acdc_volume(slices, seed=number)
            for array, mark in zip(arrays, ("", "_gt"), strict=True):
                write_nifti(folder / f"{patient}_frame{number:02d}{mark}.nii.gz", array)
        (folder / f"{patient}_4d.nii.gz").write_bytes(b"not needed")
    return root


def write_nifti(path: Path, array: np.ndarray, spacing=(10.0, 1.5, 1.25)) -> None:
    """Write a volume (z, y, x) with its voxel size in mm."""
    image = nibabel.Nifti1Image(array.T, np.diag([*spacing[::-1], 1.0]))
    image.header.set_zooms(spacing[::-1])
    nibabel.save(image, path)


def write_h5(path: Path, **datasets: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file.create_dataset(name, data=array, compression="gzip")


def write_mask(path: Path, mask: np.ndarray, mode: str) -> None:
    """Write a binary mask in one of the modes that are met with."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    if mode == "RGBA":  # opaque everywhere: the alpha channel says nothing
        image = Image.merge("RGBA", (grey, grey, grey, Image.new("L", grey.size, 255)))
    elif mode == "P":
        image = Image.fromarray(mask.astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 128, 0, 0])  # as in PASCAL VOC: dark red
    else:
        image = grey.convert(mode)
    image.save(path)


def white(path: Path) -> np.ndarray:
    """Where a mask of black and white is white."""
    return np.asarray(Image.open(path).convert("L")) > 127


def write_polyp(root: Path, train: int = 0, test: dict[str, int] | None = None, size=(40, 48)) -> Path:
    """PraNet's layout: numbered files as of ClinicDB and ``cju...`` as of Kvasir; masks in turn 1-bit, grey, RGB."""
    names = [str(20 + n) if n % 2 else f"cju{n:022d}" for n in range(train)]
    pairs = [(root / "TrainDataset" / "image", root / "TrainDataset" / "mask", name) for name in names]
    for set_name, count in (test or {}).items():
        first = 149 if set_name == "CVC-300" else 1
        stems = [f"cju9{n:021d}" if set_name == "Kvasir" else str(first + n) for n in range(count)]
        folder = root / "TestDataset" / set_name
        pairs += [(folder / "images", folder / "masks", stem) for stem in stems]
    for number, (images, masks, stem) in enumerate(pairs):
        write_pair(images / f"{stem}.png", masks / f"{stem}.png", number, size, ("1", "L", "RGB")[number % 3])
    return root


def write_pair(image: Path, mask: Path, number: int, size=(40, 48), mode: str = "L") -> None:
    """Write a colour image that no other number has, and the mask of its bright square."""
    height, width = size
    picture = np.random.default_rng(number).integers(0, 120, (height, width, 3), dtype=np.uint8)
    inside = np.zeros(size, bool)
    inside[height // 4 : height // 2, width // 4 : width // 2] = True
    picture[inside] += 100
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(image)
    write_mask(mask, inside, mode)


def write_glas(root: Path, train: int = 10, test_a: int = 2, test_b: int = 1, grades: bool = True) -> Path:
    """GlaS as released: BMP, three numbered glands in each image, Grade.csv; even numbers are malignant."""
    folder = root / "Warwick QU Dataset (Released 2016_07_08)"
    folder.mkdir(parents=True)
    lines = ["name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"]
    for part, count in (("testA", test_a), ("testB", test_b), ("train", train)):
        for number in range(1, count + 1):
            picture = np.random.default_rng((ord(part[-1]), number)).integers(90, 250, (30, 44, 3), dtype=np.uint8)
            glands = np.zeros((30, 44), np.uint8)
            glands[3:12, 3:12], glands[14:25, 2:20], glands[14:28, 20:40] = 1, 2, 3  # 2 and 3 touch
            Image.fromarray(picture).save(folder / f"{part}_{number}.bmp")
            Image.fromarray(glands).save(folder / f"{part}_{number}_anno.bmp")
            grade = " malignant, moderately differentiated" if number % 2 == 0 else " benign, healthy"
            lines.append(f"{part}_{number},{number % 5},{grade}")
    if grades:
        (folder / "Grade.csv").write_text("\n".join(lines) + "\n")
    return folder


def retouch_volume(b_scans: int, size=(20, 16), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image and reference (z, y, x) with all fluids on every second B-scan, none on the others."""
    image = np.random.default_rng(seed).integers(1, 250, (b_scans, *size)).astype(np.uint8)
    label = np.zeros((b_scans, *size), np.uint8)
    label[1::2, 2:6, 2:6], label[1::2, 8:12, 2:8], label[1::2, 14:18, 6:14] = 1, 2, 3
    return image, label


def write_retouch(root: Path, volumes: int = 5, b_scans: int = 4, prefix: str = "") -> Path:
    """RETOUCH as released; Spectralis in 16 bits; voxels (0.05, 0.002, 0.0117) mm."""
    for device, first in (("Cirrus", 1), ("Spectralis", 25), ("Topcon", 49)):
        for number in range(first, first + volumes):
            image, label = retouch_volume(b_scans, seed=number)
            folder = root / f"{prefix}{device}" / f"TRAIN{number:03d}"
            image = image.astype(np.uint16) * 200 if device == "Spectralis" else image
            write_metaimage(folder / "oct.mhd", image, (0.05, 0.002, 0.0117))
            write_metaimage(folder / "reference.mhd", label, (0.05, 0.002, 0.0117))
    return root


def truncate(path: Path) -> None:
    """Cut a file in half, as an interrupted copy does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
