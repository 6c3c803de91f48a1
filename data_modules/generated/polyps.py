"""Generated colonoscopy in PraNet's layout: mucosa, folds, vessels, highlights, polyps of weak contrast, look-alikes.

Look-alikes touch most polyps and are as dark and as pitted; only the hue differs, a little and always in the same way,
under light and colour that change from set to set. A box around a polyp holds parts of both: SAM cannot know which of
them is meant, a network that learns from rectified masks soon does.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from data_modules.layouts.polyp import SETS, TRAIN
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import write_image

VERSION = 1  # part of the cached folder's name: raise it whenever the pictures change


class _Look(NamedTuple):
    """Camera and light of one set."""

    size: tuple[int, int]
    mucosa: tuple[float, float, float]
    contrast: float
    blur: float
    corners: bool


_LOOKS = {
    "CVC-ClinicDB": _Look((288, 384), (0.70, 0.40, 0.30), 1.0, 0.8, True),
    "CVC-ColonDB": _Look((400, 460), (0.62, 0.36, 0.30), 0.9, 1.2, True),
    "ETIS-LaribPolypDB": _Look((400, 508), (0.74, 0.47, 0.37), 0.85, 1.0, False),
    "Kvasir": _Look((420, 480), (0.72, 0.38, 0.27), 1.0, 0.9, True),
    "CVC-300": _Look((400, 460), (0.64, 0.37, 0.29), 0.95, 1.1, True),
}


def write_demo_polyp(root: str | Path, per_set: int = 16, train: int = 0, seed: int = 0) -> Path:
    """Write a generated data set in PraNet's layout, with a progress bar.

    Images are 8-bit RGB PNG, masks 8-bit grey PNG, 0 and 255. Every picture depends on the seed, its set and its number
    alone.

    Args:
        root: Folder to be filled with ``TestDataset/SET/{images,masks}`` and ``TrainDataset/{image,masks}``.
        per_set: Images of each of the five test sets, at most 60.
        train: Training images, 550 of 1450 in the manner of ClinicDB, the others of Kvasir.
        seed: Seed of all pictures.

    Returns:
        The folder ``root``.
    """
    if not (0 < per_set <= 60 and 0 <= train <= 1450):
        raise UserError(
            "The generated polyps have 1 to 60 images in each test set and up to 1450 to train on.",
            found=f"{per_set} and {train}",
            fix="choose smaller numbers",
        )
    root = Path(root)
    jobs = [(f"TestDataset/{name}", "images", "masks", name, number) for name in SETS for number in range(per_set)]
    for number in range(train):
        source = "CVC-ClinicDB" if number * 550 // 1450 < (number + 1) * 550 // 1450 else "Kvasir"
        jobs.append((TRAIN, "image", "mask", source, 100 + number))
    for folder, images, masks, name, number in tqdm(jobs, desc="generating polyps", unit="image", disable=None):
        image, mask = colonoscopy(np.random.default_rng((seed, list(SETS).index(name), number)), name)
        file = f"{_file_name(name, number)}.png"
        write_image(root / folder / images / file, image)
        write_image(root / folder / masks / file, mask.astype(np.uint8) * 255)
    return root


def colonoscopy(rng: np.random.Generator, set_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Make one picture.

    Args:
        rng: Source of all randomness.
        set_name: One of PraNet's five sets, whose light and colour it has.

    Returns:
        uint8 ``(H, W, 3)``, and the bool ``(H, W)`` mask of its one or two polyps.
    """
    look = _LOOKS[set_name]
    height, width = look.size
    relief = _folds(rng, height, width)
    mask = np.zeros((height, width), bool)
    for _ in range(2 if rng.random() < 0.15 else 1):
        outline = _blob(rng, height, width, mask, 0.18)
        relief += _dome(outline, rng.uniform(0.0, 0.2))  # flat: hardly any shading at the edge
        mask |= outline
    alike = np.zeros_like(mask)
    for _ in range(rng.integers(2, 5)):
        near = None if rng.random() < 0.2 else mask  # most look-alikes touch a polyp
        outline = _blob(rng, height, width, np.zeros_like(mask), 0.13, near)
        relief += _dome(outline, rng.uniform(0.0, 0.2))
        alike |= outline
    alike &= ~mask
    soft, soft_alike = (cv2.GaussianBlur(area.astype(np.float32), (0, 0), 1.5) for area in (mask, alike))

    # Light: the scope's own, from a point near the camera; slopes that face it are brighter.
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    lamp = (height * rng.uniform(0.3, 0.7), width * rng.uniform(0.3, 0.7))
    distance = np.hypot(rows - lamp[0], columns - lamp[1]) / max(height, width)
    slope_y, slope_x = np.gradient(cv2.GaussianBlur(relief, (0, 0), 1.5))
    facing = slope_x * (lamp[1] - columns) + slope_y * (lamp[0] - rows)
    facing /= np.hypot(rows - lamp[0], columns - lamp[1]) + 20
    light = (1.15 - rng.uniform(0.5, 0.9) * distance**1.5) * (1 + 0.55 * np.tanh(facing * 0.9))
    light *= 1 - 0.85 * _lumen(rng, height, width, mask)

    tint = np.array(look.mucosa, np.float32) * rng.normal(1, 0.03, 3)
    colour = np.ones((height, width, 3), np.float32) * tint.astype(np.float32)
    colour *= 1 + 0.10 * _smooth(rng, height, width, 40)[..., None] * np.array([0.6, 1.0, 1.0], np.float32)
    colour *= 1 - _vessels(rng, height, width, soft)[..., None] * np.array([0.08, 0.30, 0.25], np.float32)
    # Polyps and look-alikes are equally dark and pitted; polyps are redder, look-alikes yellower than the mucosa.
    strength = look.contrast * rng.uniform(0.75, 1.25)
    both = soft + soft_alike
    colour *= 1 - (strength * both * (0.10 + 0.05 * _smooth(rng, height, width, 4.0)))[..., None]
    colour *= 1 + strength * soft[..., None] * np.array([0.05, -0.025, 0.0], np.float32)
    colour *= 1 + strength * soft_alike[..., None] * np.array([-0.025, 0.035, -0.055], np.float32)
    colour *= 1 + 0.025 * _smooth(rng, height, width, 6)[..., None]

    picture = cv2.GaussianBlur(np.clip(colour * light[..., None], 0, 1), (0, 0), look.blur)
    picture += _highlights(rng, relief, facing)[..., None]
    picture += rng.normal(0, 0.008, picture.shape).astype(np.float32)
    if look.corners:
        picture *= _frame(rng, height, width)[..., None]
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8), mask


def _blob(
    rng: np.random.Generator,
    height: int,
    width: int,
    taken: np.ndarray,
    lobes: float,
    near: np.ndarray | None = None,
) -> np.ndarray:
    """Fill an outline with ``lobes`` that overlaps nothing taken, smaller the longer that takes; on ``near``'s rim."""
    radius = rng.uniform(0.1, 0.2) * min(height, width)
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    while True:
        bumps = sum(rng.normal(0, lobes) * np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 4, 5))
        reach = radius * np.clip(1 + bumps, 0.35, 1.6)
        stretch, tilt = rng.uniform(0.75, 1.35), rng.uniform(0, np.pi)
        x, y = reach * np.cos(angle) * stretch, reach * np.sin(angle) / stretch
        centre = rng.uniform(0.2, 0.8, 2) * (width, height)
        if near is not None:
            rim = np.argwhere(cv2.morphologyEx(near.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))
            centre = rim[rng.integers(len(rim))][::-1] + rng.normal(0, radius / 3, 2)
        points = np.stack([x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt)], axis=1) + centre
        canvas = np.zeros((height, width), np.uint8)
        cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], 1)
        if canvas.any() and not (cv2.dilate(canvas, np.ones((15, 15), np.uint8)).astype(bool) & taken).any():
            return canvas.astype(bool)
        radius *= 0.93


def _dome(outline: np.ndarray, height: float) -> np.ndarray:
    """Height of a bulge in pixels: round on top, its foot blending into the wall."""
    depth = cv2.distanceTransform(outline.astype(np.uint8), cv2.DIST_L2, 5)
    rounded = np.sqrt(np.clip(1 - (1 - depth / depth.max()) ** 2, 0, 1)) * depth.max()
    return np.asarray(cv2.GaussianBlur(rounded, (0, 0), 3.0) * height, dtype=np.float32)


def _folds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Height of the wall in pixels: slow waves and some haustral folds, long curved ridges."""
    relief = _smooth(rng, height, width, 60) * 8
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    for _ in range(rng.integers(2, 5)):
        centre = (rng.uniform(-0.5, 1.5) * height, rng.uniform(-0.5, 1.5) * width)
        ring = np.hypot(rows - centre[0], (columns - centre[1]) * rng.uniform(0.7, 1.3))
        ridge = np.exp(-(((ring - rng.uniform(0.4, 1.1) * width) / rng.uniform(8, 20)) ** 2))
        relief += rng.uniform(6, 16) * ridge
    return relief


def _lumen(rng: np.random.Generator, height: int, width: int, mask: np.ndarray) -> np.ndarray:
    """Darkness 0..1 of the way ahead, where there is a place for it."""
    centre = (rng.uniform(0.1, 0.9) * height, rng.uniform(0.1, 0.9) * width)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    reach = rng.uniform(0.08, 0.2) * min(height, width)
    dark = np.exp(-(((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / (2 * reach**2)))
    return np.zeros_like(dark) if float(dark[mask].max(initial=0)) > 0.2 else dark


def _vessels(rng: np.random.Generator, height: int, width: int, soft: np.ndarray) -> np.ndarray:
    """Depth 0..1 of branching vessels; they end at a polyp."""
    canvas = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(4, 12)):
        steps = rng.normal(0, 0.35, 40).cumsum() + rng.uniform(0, 2 * np.pi)
        start = rng.uniform(0, 1, 2) * (width, height)
        points = start + np.stack([np.cos(steps), np.sin(steps)], axis=1).cumsum(axis=0) * 6
        shade = int(rng.integers(90, 256))
        cv2.polylines(canvas, [points.round().astype(np.int32)], False, shade, int(rng.integers(1, 3)))
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), 1.2) / 255.0 * (1 - 0.8 * soft), dtype=np.float32)


def _highlights(rng: np.random.Generator, relief: np.ndarray, facing: np.ndarray) -> np.ndarray:
    """Brightness 0..1 of specular highlights: small, saturated, on slopes that face the lamp."""
    height, width = relief.shape
    canvas = np.zeros((height, width), np.float32)
    places = np.argwhere(facing > np.quantile(facing, 0.8))
    for row, column in places[rng.integers(0, len(places), int(rng.integers(6, 20)))]:
        axes = (int(rng.integers(1, 6)), int(rng.integers(1, 4)))
        cv2.ellipse(canvas, (int(column), int(row)), axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), 0.8) * 0.9, dtype=np.float32)


def _frame(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """1 inside the scope's octagonal field of view, 0 in its corners."""
    cut = rng.uniform(0.08, 0.16) * min(height, width)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    from_corner = np.minimum(rows, height - 1 - rows) + np.minimum(columns, width - 1 - columns)
    return np.clip((from_corner - cut) / 3, 0, 1)


def _smooth(rng: np.random.Generator, height: int, width: int, scale: float) -> np.ndarray:
    """Random field of zero mean and unit deviation with features of ``scale`` pixels."""
    coarse = rng.standard_normal((int(height / scale) + 3, int(width / scale) + 3), dtype=np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)


def _file_name(set_name: str, number: int) -> str:
    """Names as in PraNet's archives: numbers, or for Kvasir 25 letters and digits."""
    if set_name == "Kvasir":
        letters = hashlib.sha256(f"kvasir {number}".encode()).hexdigest()
        return f"cju{letters[:22]}"
    first = {"CVC-300": 149}.get(set_name, 1)
    return str(first + number)
