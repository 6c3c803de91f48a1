"""Generated volumes in native layouts: cardiac MRI as ACDC releases it, retinal OCT as RETOUCH does."""

from pathlib import Path

import cv2
import numpy as np

from data_modules.layouts.acdc import LIST_NAMES, LISTS, patient_of
from data_modules.layouts.lists import read_list
from lightning_samseg.io.metaimage import write_metaimage

_ACDC_SPACING = (10.0, 1.5625, 1.5625)
_OCT = {  # first number, depth in pixels, type, voxel size in mm; half of the devices' resolution
    "Cirrus": (1, 512, np.uint8, (0.0472, 0.0039, 0.0234)),
    "Spectralis": (25, 248, np.uint16, (0.1200, 0.0077, 0.0230)),
    "Topcon": (49, 442, np.uint8, (0.0469, 0.0052, 0.0234)),
}
_WIDTH = 256


def write_demo_acdc(root: str | Path, train: int = 5, val: int = 2, test: int = 2, seed: int = 0) -> Path:
    """Write ``training/patientNNN/{Info.cfg,patientNNN_frameFF.nii.gz,..._gt.nii.gz}``; no 4-D series.

    The patients are the first ones of SSL4MIS's lists, those to train on with as many slices as there.

    Args:
        root: Folder to be filled.
        train: Patients to train on.
        val: Patients to validate with.
        test: Patients to test with.
        seed: Seed of all pictures.

    Returns:
        The folder ``root``.
    """
    import nibabel  # late: takes half a second

    lines = {name: read_list(LISTS / name) for name in LIST_NAMES}
    patients: list[str] = []
    for name, count in zip(LIST_NAMES, (train, val, test), strict=True):
        patients += list(dict.fromkeys(map(patient_of, lines[name])))[:count]
    for patient in patients:
        folder = Path(root) / "training" / patient
        folder.mkdir(parents=True)
        (folder / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: NOR\nHeight: 175.0\nNbFrame: 30\nWeight: 75.0\n")
        listed = sum(line.startswith(f"{patient}_frame01_") for line in lines[LIST_NAMES[0]])
        for phase, frame in (("ED", 1), ("ES", 12)):
            arrays = heart(np.random.default_rng((seed, int(patient[7:]))), listed or 8, phase == "ES")
            for array, mark in zip(arrays, ("", "_gt"), strict=True):
                image = nibabel.Nifti1Image(array.T, np.diag([*_ACDC_SPACING[::-1], 1.0]))
                nibabel.save(image, folder / f"{patient}_frame{frame:02d}{mark}.nii.gz")
    return Path(root)


def heart(rng: np.random.Generator, slices: int, contracted: bool, side: int = 208) -> tuple[np.ndarray, np.ndarray]:
    """Make one short-axis stack from base to apex.

    Args:
        rng: Source of all randomness; the same for both phases of a patient.
        slices: Number of slices.
        contracted: End of systole instead of end of diastole.
        side: Height and width in pixels.

    Returns:
        int16 ``(slices, side, side)``, and uint8 labels: 1 right ventricle, 2 myocardium, 3 left ventricle.
    """
    centre = side * rng.uniform(0.45, 0.55, 2)
    radius, wall = rng.uniform(17, 22), rng.uniform(6, 8)
    if contracted:
        radius, wall = radius * 0.65, wall * 1.5
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    tilt = rng.uniform(-0.4, 0.4)
    image = np.zeros((slices, side, side), np.float32)
    label = np.zeros((slices, side, side), np.uint8)
    chest = np.hypot((rows - side / 2) / (0.4 * side), (columns - side / 2) / (0.47 * side))
    for index in range(slices):
        height = 1 - (index / slices) ** 2.2  # the ventricles taper towards the apex
        x, y = columns - centre[1] - index * 0.6, rows - centre[0] + index * 0.4
        bumps = 1 + 0.04 * np.cos(3 * np.arctan2(y, x) + tilt)
        distance = np.hypot(x, y) * bumps
        inner = radius * (0.25 + 0.75 * height)
        across, along = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
        right = np.hypot((across + inner * 1.15 + wall) / (inner * 1.25), along / (inner * 1.45)) < height
        label[index][right & (chest < 0.9)] = 1
        label[index][distance < inner + wall] = 2
        label[index][distance < inner] = 3
        lungs = (np.abs(columns - side / 2) > 0.2 * side) & (chest < 0.8)
        tissue = np.select([chest > 1, lungs, chest > 0.88], [5, 25, 230], 95.0)
        image[index] = np.select([label[index] == 2, label[index] > 0], [85, 210], tissue)
        image[index] += 12 * _smooth(rng, side, side, 9)
        image[index] = cv2.GaussianBlur(image[index], (0, 0), 0.9) * (1 + 0.15 * _smooth(rng, side, side, 80))
    noise = rng.normal(0, 9, (2, *image.shape))
    return np.rint(np.hypot(image + noise[0], noise[1])).astype(np.int16), label


def write_demo_retouch(root: str | Path, volumes: int = 5, b_scans: int = 6, seed: int = 0) -> Path:
    """Write ``{Cirrus,Spectralis,Topcon}/TRAINnnn/{oct,reference}.mhd`` with their raw files.

    Args:
        root: Folder to be filled.
        volumes: Volumes of each device, at most 22.
        b_scans: B-scans of each volume; the devices make 128, 49 and 128.
        seed: Seed of all pictures.

    Returns:
        The folder ``root``.
    """
    for device, (first, depth, dtype, spacing) in _OCT.items():
        for number in range(first, first + volumes):
            image, label = retina(np.random.default_rng((seed, number)), b_scans, depth)
            values = image * 255 if dtype is np.uint8 else image**2 * 65535
            folder = Path(root) / device / f"TRAIN{number:03d}"
            write_metaimage(folder / "oct.mhd", np.rint(values).astype(dtype), spacing)
            write_metaimage(folder / "reference.mhd", label, spacing)
    return Path(root)


def retina(rng: np.random.Generator, b_scans: int, depth: int, width: int = _WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Make one volume: layers, speckle, and pockets of fluid in about two of three B-scans.

    Args:
        rng: Source of all randomness.
        b_scans: Number of B-scans.
        depth: Pixels along the beam.
        width: Pixels across.

    Returns:
        float64 0..1 ``(b_scans, depth, width)``, and uint8 labels: 1 IRF, 2 SRF, 3 PED.
    """
    image, label = np.zeros((b_scans, depth, width)), np.zeros((b_scans, depth, width), np.uint8)
    rows, columns = np.mgrid[0:depth, 0:width].astype(np.float32)
    fovea = width * rng.uniform(0.4, 0.6)
    top, thick = depth * rng.uniform(0.3, 0.4), depth * rng.uniform(0.2, 0.26)
    surely = rng.integers(1, 4)
    places = {kind: (rng.uniform(0.25, 0.75) * width, kind == surely or rng.random() < 0.6) for kind in (1, 2, 3)}
    for index in range(b_scans):
        slope = 0.02 * depth * np.sin(columns / width * 4 + index * 0.2)
        pit = 0.35 * thick * np.exp(-(((columns - fovea) / (0.1 * width)) ** 2))
        inner, floor = top + slope + pit, top + slope + thick
        layers = label[index]
        grow = float(np.clip(np.sin((index + 0.5) / b_scans * np.pi) * 1.4 - 0.4, 0, 1))  # none near the volume's ends
        raised = np.zeros_like(floor)
        for kind, (centre, present) in places.items():
            bell = np.exp(-(((columns - centre) / (0.09 * width)) ** 2)) * grow * present
            if kind == 1:
                for offset in (-0.07, 0.0, 0.08):
                    x, y = centre + offset * width, top + thick * (0.45 + offset)
                    oval = np.hypot((columns - x) / (0.035 * width), (rows - y - slope) / (0.16 * thick))
                    layers[(oval < grow) & bool(present)] = 1
            elif kind == 2:
                layers[(rows < floor) & (rows > floor - 0.35 * thick * bell) & (bell > 0.1)] = 2
            else:
                raised = 0.5 * thick * bell
        layers[(rows < floor) & (rows > floor - raised) & (raised > 2)] = 3
        epithelium = floor - raised
        bands = [rows < inner, rows < inner + 0.16 * thick, rows < inner + 0.5 * thick, rows < epithelium]
        light = np.select([*bands, rows < floor + 0.14 * thick], [0.06, 0.75, 0.5, 0.32, 0.95], 0.45)
        light = np.where(rows > floor, light * np.exp(-(rows - floor) / (0.8 * thick)), light)
        light = np.where((np.abs(rows - epithelium) < 0.05 * thick), 0.95, light)
        light[layers > 0] = np.where(layers[layers > 0] == 3, 0.2, 0.07)
        speckle = cv2.GaussianBlur(rng.gamma(3.0, 1 / 3.0, (depth, width)), (0, 0), 0.7)
        image[index] = np.clip(cv2.GaussianBlur(light, (0, 0), 0.8) * speckle * 0.8 + 0.03, 0, 1)
    return image, label


def _smooth(rng: np.random.Generator, height: int, width: int, scale: float) -> np.ndarray:
    """Random field of zero mean and unit deviation with features of ``scale`` pixels."""
    coarse = rng.standard_normal((int(height / scale) + 3, int(width / scale) + 3), dtype=np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)
