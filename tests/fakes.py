"""Writers of tiny data sets in their native layout, with real file names."""

from pathlib import Path

import numpy as np
from PIL import Image


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


def truncate(path: Path) -> None:
    """Cut a file in half, as an interrupted copy does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
