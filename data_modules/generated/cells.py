"""Generated microscopy: glands in GlaS's native layout, and nuclei of two kinds as a folder of one's own."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.images import write_image

_STROMA, _NUCLEI, _LUMEN = np.array([205, 130, 185]), np.array([95, 55, 135]), np.array([238, 228, 238])


def write_demo_glas(root: str | Path, train: int = 10, test_a: int = 3, test_b: int = 2, seed: int = 0) -> Path:
    """Write ``Warwick QU Dataset (Released 2016_07_08)/{train,testA,testB}_N[_anno].bmp`` and ``Grade.csv``.

    Args:
        root: Folder to be filled.
        train: Training images.
        test_a: Images of test part A.
        test_b: Images of test part B.
        seed: Seed of all pictures.

    Returns:
        The folder that holds the images.
    """
    folder = Path(root) / "Warwick QU Dataset (Released 2016_07_08)"
    lines = ["name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"]  # with the release's spaces
    for part, count in (("testA", test_a), ("testB", test_b), ("train", train)):
        for number in range(1, count + 1):
            malignant = number % 2 == 0
            rng = np.random.default_rng((seed, len(part), ord(part[-1]), number))
            image, numbers = glands(rng, malignant)
            write_image(folder / f"{part}_{number}.bmp", image)
            write_image(folder / f"{part}_{number}_anno.bmp", numbers)
            grades = ("malignant", "moderately differentiated") if malignant else ("benign", "healthy")
            lines.append(f"{part}_{number},{1 + number % 4}, {grades[0]}, {grades[1]}")
    with atomic_write(folder / "Grade.csv") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def glands(
    rng: np.random.Generator, malignant: bool, size: tuple[int, int] = (522, 775)
) -> tuple[np.ndarray, np.ndarray]:
    """Make one H&E-stained picture.

    Args:
        rng: Source of all randomness.
        malignant: Irregular, crowded glands instead of round, spaced ones.
        size: ``(H, W)`` in pixels.

    Returns:
        uint8 ``(H, W, 3)``, and uint8 ``(H, W)`` numbers of the glands, 0 between them.
    """
    height, width = size
    image = _STROMA + 14 * _smooth(rng, size, 12)[..., None] * np.array([0.6, 1.0, 0.6])
    _speckle(rng, image, np.ones(size, bool), 260, 4.0)
    numbers = np.zeros(size, np.uint8)
    for _ in range(14 if malignant else 8):
        outline = _outline(rng, rng.uniform(45, 85), 0.2 if malignant else 0.06)
        centre = rng.uniform(0, 1, 2) * (width, height)
        whole, hollow = (_fill(outline * scale, centre, size) for scale in (1.0, 0.45 if malignant else 0.6))
        if (cv2.dilate(whole.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & (numbers > 0)).any():
            continue
        if whole.sum() < 400:
            continue
        numbers[whole] = numbers.max() + 1
        image[whole] = np.array([190, 140, 200]) + rng.normal(0, 4)
        image[hollow] = _LUMEN
        ring = whole & ~_fill(outline * 0.82, centre, size)
        _speckle(rng, image, ring, max(20, int(ring.sum() / 55)), 5.0)
    image = cv2.GaussianBlur(image, (0, 0), 1.1) + rng.normal(0, 4, (*size, 3))
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8), numbers


def write_demo_folder(root: str | Path, plates: int = 10, unlabelled: int = 4, seed: int = 0) -> Path:
    r"""Write ``images``, ``masks``, ``unlabelled`` and ``classes.yaml``: 16-bit fluorescence of round and long nuclei.

    Args:
        root: Folder to be filled.
        plates: Plates of two fields each, ``plate01_A1.png``, ``plate01_A2.png``; ``--data.group '^plate\d+'``.
        unlabelled: Further fields without mask.
        seed: Seed of all pictures.

    Returns:
        The folder ``root``.
    """
    root = Path(root)
    names = [f"plate{plate:02d}_A{field}" for plate in range(1, plates + 1) for field in (1, 2)]
    for number, name in enumerate([*names, *(f"plate{plates + 1 + n:02d}_A1" for n in range(unlabelled))]):
        image, label = nuclei(np.random.default_rng((seed, number)))
        write_image(root / ("images" if name in names else "unlabelled") / f"{name}.png", image)
        if name in names:
            with atomic_write(root / "masks" / f"{name}.png") as temporary:
                picture = Image.fromarray(label).convert("P")
                picture.putpalette([0, 0, 0, 220, 60, 60, 60, 120, 220])  # seen in any viewer; the indices count
                picture.save(temporary)
    with atomic_write(root / "classes.yaml") as temporary:
        temporary.write_text("1: round nucleus\n2: long nucleus\n", encoding="utf-8")
    return root


def nuclei(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make one field: uint16 ``(H, W)`` of a size of its own, and uint8 labels, 1 round and 2 long nuclei."""
    size = (int(rng.integers(180, 240)), int(rng.integers(220, 300)))
    light, label = np.full(size, 0.06, np.float32), np.zeros(size, np.uint8)
    for _ in range(rng.integers(8, 18)):
        kind = int(rng.integers(1, 3))
        stretch = 1.0 if kind == 1 else 1.6
        outline = _outline(rng, rng.uniform(9, 15), 0.04) * (stretch, 1 / stretch)
        turn = rng.uniform(0, np.pi)
        turned = outline @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        inside = _fill(turned, rng.uniform(0, 1, 2) * size[::-1], size) & (label == 0)
        label[inside] = kind
        light[inside] = rng.uniform(0.25, 0.6)
    light *= 1 + 0.15 * _smooth(rng, size, 5)
    noisy = cv2.GaussianBlur(light, (0, 0), 1.2) + rng.normal(0, 0.015, size)
    return np.rint(np.clip(noisy, 0, 1) * 40000).astype(np.uint16), label


def _outline(rng: np.random.Generator, radius: float, lobes: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    bumps = sum(rng.normal(0, lobes) * np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 4, 5))
    reach = radius * np.clip(1 + bumps, 0.4, 1.6)
    return np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1)


def _fill(outline: np.ndarray, centre: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [np.rint(outline + centre).astype(np.int32)], 1)
    return canvas.astype(bool)


def _speckle(rng: np.random.Generator, image: np.ndarray, where: np.ndarray, count: int, radius: float) -> None:
    """Draw dark nuclei at random places of an area."""
    places = np.argwhere(where)
    for row, column in places[rng.integers(0, len(places), count)]:
        axes = (round(radius * rng.uniform(0.7, 1.5)), round(radius * rng.uniform(0.5, 0.9)))
        shade = (_NUCLEI + rng.normal(0, 12, 3)).tolist()
        cv2.ellipse(image, (int(column), int(row)), axes, float(rng.uniform(0, 180)), 0, 360, shade, -1)


def _smooth(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    coarse = rng.standard_normal((int(size[0] / scale) + 3, int(size[1] / scale) + 3), dtype=np.float32)
    field = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)
