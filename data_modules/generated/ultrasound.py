"""Generated breast ultrasound in BUSI's native layout: tissue layers, speckle, attenuation, lesions, shadows.

Nothing here is measured; the pictures are made to look and to behave like B-mode images, so that the whole way from
files to scores can be walked without any download. Importing this module does not import torch.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from lightning_samseg.errors import UserError
from lightning_samseg.io.images import write_image

VERSION = 3  # part of the cached folder's name: raise it whenever the pictures change

_CATEGORIES = ("benign", "malignant", "normal")

_Range = tuple[float, float]


class Clinic(NamedTuple):
    """What differs between clinics: patients, scanners and their settings, as the ends of uniform distributions."""

    size: _Range
    """Half the lesion's side, over the image's shorter side."""
    contrast: _Range
    """dB between a lesion and what surrounds it; of malignant ones, 2 dB less at the upper end."""
    floor: _Range
    """dB that are shown black."""
    span: _Range
    """dB from black to white."""
    gamma: _Range
    speckle: _Range
    """Width of the point spread function across the beam, in pixels."""


FIRST = Clinic((0.07, 0.19), (10, 18), (-30, -25), (36, 44), (1.0, 1.4), (2.0, 3.0))
OTHERS = Clinic((0.05, 0.26), (6, 20), (-36, -21), (32, 52), (0.7, 2.0), (1.5, 5.0))
"""Wider in each respect: smaller and larger lesions, fainter ones, darker, brighter and coarser pictures."""


def of_first_clinic(number: int) -> bool:
    """Where there are two clinics, whether the image of this number in its category is the first one's."""
    return number % 2 == 1


def write_demo_busi(
    root: str | Path,
    num_benign: int = 56,
    num_malignant: int = 24,
    num_normal: int = 0,
    seed: int = 0,
    clinics: int = 1,
) -> Path:
    """Write a generated data set in BUSI's native layout, with a progress bar.

    Images are 8-bit RGB with equal channels, masks 1-bit; about one benign image in ten has a second lesion in
    ``_mask_1.png``. Every image depends on the seed, its category and its number alone.

    Args:
        root: Folder to be filled with ``Dataset_BUSI_with_GT/{benign,malignant,normal}``.
        num_benign: Images with smooth lesions.
        num_malignant: Images with spiculated lesions.
        num_normal: Images without lesion.
        seed: Seed of all pictures.
        clinics: 2: images of even numbers are from ``OTHERS``; the rest are those of 1.

    Returns:
        The folder ``Dataset_BUSI_with_GT``.
    """
    folder = Path(root) / "Dataset_BUSI_with_GT"
    counts = dict(zip(_CATEGORIES, (num_benign, num_malignant, num_normal), strict=True))
    if min(counts.values()) < 0:
        raise UserError("Numbers of demo images cannot be negative.", found=str(counts), fix="use 0 or more")
    jobs = [(category, number) for category, count in counts.items() for number in range(1, count + 1)]
    for category, number in tqdm(jobs, desc="generating the demo data set", unit="image", disable=None):
        rng = np.random.default_rng((seed, _CATEGORIES.index(category), number))
        image, masks = ultrasound(rng, category, FIRST if clinics == 1 or of_first_clinic(number) else OTHERS)
        stem = folder / category / f"{category} ({number})"
        write_image(f"{stem}.png", np.repeat(image[..., None], 3, axis=2))
        for index, mask in enumerate(masks):
            write_image(f"{stem}_mask{f'_{index}' if index else ''}.png", mask)
    return folder


def ultrasound(rng: np.random.Generator, category: str, clinic: Clinic = FIRST) -> tuple[np.ndarray, list[np.ndarray]]:
    """Make one B-mode picture.

    Fully developed speckle is the envelope of complex Gaussian noise, shaped by the echogenicity of the tissue and
    blurred by a point spread function that is wider across than along the beam; some looks are averaged, and the
    display is log-compressed.

    Args:
        rng: Source of all randomness.
        category: ``benign``, ``malignant`` or ``normal``.
        clinic: Where it is from.

    Returns:
        uint8 ``(H, W)``, and one bool ``(H, W)`` mask per lesion (a single empty one for ``normal``).
    """
    height, width = int(rng.integers(420, 541)), int(rng.integers(480, 641))
    echo, depth = _tissue(rng, height, width)
    transmission = np.zeros((height, width), np.float32)  # dB lost or won on the way down
    masks: list[np.ndarray] = []
    count = 0 if category == "normal" else 2 if category == "benign" and rng.random() < 0.1 else 1
    for number in range(count):
        place = 0.5 if count == 1 else (0.28, 0.72)[number]
        scale = 0.6 if count == 2 else 1.0
        mask = _add_lesion(rng, echo, transmission, masks, category == "malignant", place, scale, clinic)
        masks.append(mask)
    if not masks:
        masks = [np.zeros((height, width), bool)]

    echo += _smooth(rng, height, width, (7, 18), 1.2)  # fine heterogeneity
    echo += cv2.GaussianBlur(np.cumsum(transmission, axis=0), (0, 0), 4.0)
    echo -= depth**2 * rng.uniform(4.0, 16.0)  # attenuation that the gain does not compensate
    amplitude = (10.0 ** (echo / 20.0)).astype(np.float32)
    power = _speckle(rng, amplitude, looks=int(rng.integers(2, 5)), width=clinic.speckle)
    decibels = cv2.GaussianBlur(10.0 * np.log10(power + 1e-5), (0, 0), rng.uniform(0.6, 1.0))  # the scanner smooths
    floor, span = rng.uniform(*clinic.floor), rng.uniform(*clinic.span)
    grey = np.clip((decibels - floor) / span, 0, 1) ** rng.uniform(*clinic.gamma)
    return np.rint(grey * 255).astype(np.uint8), masks


def _speckle(rng: np.random.Generator, amplitude: np.ndarray, looks: int, width: _Range) -> np.ndarray:
    """Mean power of some independent looks at scatterers of the given amplitude (spatial compounding)."""
    across, along = rng.uniform(*width), rng.uniform(0.8, 1.2)
    power = np.zeros_like(amplitude)
    for _ in range(2 * looks):  # real and imaginary parts
        field = rng.standard_normal(amplitude.shape, dtype=np.float32) * amplitude
        power += cv2.GaussianBlur(field, (0, 0), sigmaX=across, sigmaY=along) ** 2
    return power * np.float32(4 * np.pi * across * along / (2 * looks))  # the blur's loss of power made up


def _tissue(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Echogenicity in dB of skin, fat, glandular tissue, muscle and chest wall, and the depth 0..1 of every pixel."""
    depth = np.broadcast_to(np.arange(height, dtype=np.float32)[:, None] / height, (height, width))
    borders = [rng.uniform(0.02, 0.05), rng.uniform(0.14, 0.28), rng.uniform(0.64, 0.8), rng.uniform(0.84, 0.97)]
    levels = [rng.uniform(0, 4), rng.uniform(-13, -7), rng.uniform(-6, -1), rng.uniform(-14, -7), rng.uniform(-22, -12)]
    grain = [0.0, 1.5, rng.uniform(2.5, 5.0), rng.uniform(2.5, 4.5), 1.5]  # dB of horizontal streaks in each layer
    streaks = _smooth(rng, height, width, (rng.uniform(5, 9), rng.uniform(35, 90)), 1.0)
    echo, texture = np.full((height, width), levels[0], np.float32), np.zeros((height, width), np.float32)
    for index, border in enumerate(borders):
        line = border + (0.004 if index == 0 else rng.uniform(0.015, 0.04)) * _wave(rng, width)
        below = 1 / (1 + np.exp(np.clip((line - depth) / rng.uniform(0.004, 0.012), -30, 30)))
        echo += (levels[index + 1] - echo) * below
        texture += (grain[index + 1] - texture) * below
        if index:  # fasciae reflect, in places
            bright = np.clip(rng.uniform(4, 10) * (0.5 + _wave(rng, width)), 0, 10)
            echo += bright * np.exp(-(((depth - line) / 0.006) ** 2))
    echo += streaks * texture
    echo += _smooth(rng, height, width, (rng.uniform(25, 45), rng.uniform(40, 80)), rng.uniform(1.5, 3.0))
    _add_fat_lobules(rng, echo, (borders[1] + 0.04) * height, borders[2] * height)
    _add_strands(rng, echo)
    for _ in range(rng.integers(0, 3)):  # poor contact at the skin casts shadows
        centre, breadth, loss = rng.uniform(0, width), rng.uniform(12, 50), rng.uniform(3, 8)
        echo -= loss * np.exp(-(((np.arange(width) - centre) / breadth) ** 2)) * np.clip(depth * 3, 0, 1)
    return echo, depth


def _add_fat_lobules(rng: np.random.Generator, echo: np.ndarray, top: float, bottom: float) -> None:
    """Darken some ellipses in the glandular layer: as dark as many a lesion, but soft and with nothing behind them."""
    height, width = echo.shape
    for _ in range(rng.integers(2, 6)):
        radius = rng.uniform(18, 45)
        across, along = radius * rng.uniform(1.3, 2.6), radius * rng.uniform(0.35, 0.7)
        outline = _outline(rng, across, along, rng.uniform(-0.3, 0.3), rough=0.1, spikes=0)
        centre = (rng.uniform(0, width), rng.uniform(top, bottom))
        soft = cv2.GaussianBlur(_fill(outline, centre, (height, width)).astype(np.float32), (0, 0), rng.uniform(4, 8))
        echo -= soft * rng.uniform(5, 10)


def _add_strands(rng: np.random.Generator, echo: np.ndarray) -> None:
    """Brighten thin curved lines, Cooper's ligaments and fascial planes."""
    height, width = echo.shape
    canvas = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(25, 60)):
        x = rng.uniform(-0.1, 1.0) * width + np.linspace(0, rng.uniform(50, 260), 12)
        y = rng.uniform(0.04, 1.0) * height + np.cumsum(rng.normal(0, 2.5, 12)) + np.linspace(0, rng.normal(0, 18), 12)
        points = np.stack([x, y], axis=1).round().astype(np.int32)
        shade, thickness = int(rng.integers(60, 256)), int(rng.integers(1, 4))
        cv2.polylines(canvas, [points], isClosed=False, color=shade, thickness=thickness)
    echo += cv2.GaussianBlur(canvas, (0, 0), 1.3).astype(np.float32) * (rng.uniform(6, 11) / 255)


def _add_lesion(
    rng: np.random.Generator,
    echo: np.ndarray,
    transmission: np.ndarray,
    others: Iterable[np.ndarray],
    malignant: bool,
    place: float,
    scale: float,
    clinic: Clinic,
) -> np.ndarray:
    """Draw one hypo-echoic lesion into ``echo``, what it does to the beam into ``transmission``; give its mask."""
    height, width = echo.shape
    half = rng.uniform(*clinic.size) * min(height, width) * scale
    if malignant:
        across, along = half * rng.uniform(0.85, 1.2), half * rng.uniform(0.85, 1.25)
        tilt, rough, spikes = rng.uniform(-0.5, 0.5), rng.uniform(0.12, 0.24), int(rng.integers(6, 15))
    else:
        across, along = half * rng.uniform(1.05, 1.6), half * rng.uniform(0.6, 0.9)
        tilt, rough, spikes = rng.uniform(-0.3, 0.3), rng.uniform(0.02, 0.1), 0
    outline = _outline(rng, across, along, tilt, rough, spikes)
    across_at = width * (place + rng.normal(0, 0.06 if scale < 1 else 0.13))
    centre = (
        float(np.clip(across_at, across * 1.15, width - across * 1.15)),
        float(np.clip(height * rng.uniform(0.3, 0.62), along * 1.2, height - along * 1.2)),
    )
    mask = _fill(outline, centre, (height, width))
    for other in others:
        mask &= ~other
    area = mask.astype(np.float32)
    edge = rng.uniform(2.5, 5.0) if malignant else rng.uniform(1.2, 3.0)
    soft = cv2.GaussianBlur(area, (0, 0), edge)

    surround = float(np.median(echo[cv2.dilate(mask.astype(np.uint8), np.ones((15, 15))) > mask]))
    faintest, strongest = clinic.contrast
    level = surround - rng.uniform(faintest, strongest - 2 if malignant else strongest)
    inside = level + _smooth(
        rng,
        height,
        width,
        (rng.uniform(6, 12), rng.uniform(9, 18)),
        rng.uniform(2.0, 3.5) if malignant else rng.uniform(0.8, 2.0),
    )
    echo += soft * (inside - echo)
    ring = np.clip(cv2.GaussianBlur(area, (0, 0), 5.0 if malignant else 2.5) - soft, 0, None) * 2
    echo += ring * (rng.uniform(6, 12) if malignant else rng.uniform(2, 8))  # echogenic halo or capsule
    if malignant:
        for _ in range(rng.integers(0, 9)):  # micro-calcifications
            x, y = centre[0] + rng.normal(0, across / 3), centre[1] + rng.normal(0, along / 3)
            spot = np.zeros((height, width), np.float32)
            cv2.circle(spot, (round(x), round(y)), 2, 1.0, -1)
            echo += cv2.GaussianBlur(spot, (0, 0), 1.0) * rng.uniform(8, 16)

    behaviour = rng.random()  # most malignant lesions shadow, most benign ones enhance, some do neither
    gain = -rng.uniform(6, 13) if malignant and behaviour < 0.7 else rng.uniform(2, 6) if behaviour < 0.75 else 0.0
    transmission += area * (gain / (2 * along))
    if not malignant and rng.random() < 0.5:  # the beam is refracted away at the rounded sides
        columns = np.arange(width)
        below = (np.arange(height)[:, None] > centre[1]).astype(np.float32)
        for side in (-1, 1):
            thin = np.exp(-(((columns - centre[0] - side * across * 0.97) / 6.0) ** 2))
            echo -= below * thin * rng.uniform(2, 5)
    return mask


def _outline(
    rng: np.random.Generator, across: float, along: float, tilt: float, rough: float, spikes: int
) -> np.ndarray:
    """Closed curve around the origin: a tilted ellipse with low-order bumps and, with ``spikes``, pointed processes."""
    angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    radius = np.ones_like(angle)
    for order in range(2, 6 if spikes == 0 else 9):
        radius += rough * rng.normal(0, 1) / order * np.cos(order * angle + rng.uniform(0, 2 * np.pi)) * 1.5
    for _ in range(spikes):
        distance = np.angle(np.exp(1j * (angle - rng.uniform(0, 2 * np.pi))))
        radius += rng.uniform(0.12, 0.42) * np.exp(-np.abs(distance) / rng.uniform(0.06, 0.16))
    radius = np.clip(radius, 0.45, 1.6)
    x, y = across * radius * np.cos(angle), along * radius * np.sin(angle)
    return np.stack([x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt)], axis=1)


def _fill(outline: np.ndarray, centre: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [np.rint(outline + centre).astype(np.int32)], 1)
    return canvas.astype(bool)


def _wave(rng: np.random.Generator, width: int) -> np.ndarray:
    """Slow curve of about unit amplitude along the width."""
    place = np.linspace(0, 1, width, dtype=np.float32)
    waves = [
        np.sin(2 * np.pi * (order * place / 2 + rng.random())) * rng.normal(0, 1) / order for order in (1, 2, 3, 5)
    ]
    return np.sum(waves, axis=0).astype(np.float32)


def _smooth(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], deviation: float
) -> np.ndarray:
    """Gaussian random field with features of ``scale`` = (rows, columns) pixels and that standard deviation in dB."""
    coarse = rng.standard_normal((int(height / scale[0]) + 3, int(width / scale[1]) + 3), dtype=np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(field * (deviation / float(field.std())), dtype=np.float32)
