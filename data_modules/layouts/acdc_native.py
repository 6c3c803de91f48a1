"""From ACDC as released, ``training/patientNNN/patientNNN_frameFF[_gt].nii.gz``, to the h5 layout of SSL4MIS."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from data_modules.layouts.acdc import LIST_NAMES, LISTS, as_class_ids, patient_of
from data_modules.layouts.lists import read_list
from lightning_samseg.errors import UserError
from lightning_samseg.io.alignment import aligned
from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.text import read_text, write_text
from lightning_samseg.io.volumes import open_volume, read_volume

_COMPRESSION = {"compression": "gzip", "compression_opts": 4, "shuffle": True}


class Frame(NamedTuple):
    """One labelled frame of one patient in the release."""

    case: str
    """``patientNNN_frame01`` for the earlier of the two frames, ``_frame02`` for the later one."""
    image: Path
    label: Path
    number: int
    """Number of the frame in the release."""
    phase: str
    """``ED`` or ``ES``, by ``Info.cfg``."""


class Volume(NamedTuple):
    """A frame's arrays, axes ``(z, y, x)``."""

    image: np.ndarray
    """float32, the volume's minimum..maximum as 0..1."""
    label: np.ndarray
    """uint8, 0..3."""
    spacing: tuple[float, float, float]
    """Voxel size in mm."""


def find_frames(source: str | Path) -> tuple[list[Frame], list[str]]:
    """List the labelled frames of the patients that SSL4MIS's lists name. Nothing but ``Info.cfg`` is opened.

    frame01 is the frame with the lower number. It is the end-diastolic one, except in patient 090, whose labelled
    frames are 04 and 11, of which 04 is taken for frame01 in the published files, too (SSL4MIS, issue 14).

    Args:
        source: The folder ``training``, or one that holds it directly or in ``database``.

    Returns:
        The frames, and the patients that are not there.

    Raises:
        UserError: If no patient is there, or one lacks a file.
    """
    source = Path(source).expanduser()
    patients = dict.fromkeys(patient_of(case) for name in LIST_NAMES for case in read_list(LISTS / name))
    for folder in (source, source / "training", source / "database" / "training"):
        there = [patient for patient in patients if (folder / patient).is_dir()]
        if there:
            frames = [frame for patient in there for frame in _frames_of(folder / patient)]
            return frames, [patient for patient in patients if patient not in set(there)]
    raise UserError(
        f"No ACDC patients found in {source}.",
        expected="folders such as training/patient001 with Info.cfg and patient001_frame01.nii.gz",
        fix="give --source the unpacked release of ACDC",
    )


def outputs_of(frame: Frame, out: str | Path) -> list[Path]:
    """Files to be made of a frame: its volume, and its slices if the patient is one to train on."""
    slices = [name for name in read_list(LISTS / LIST_NAMES[0]) if name.startswith(f"{frame.case}_")]
    return [Path(out) / "data" / f"{frame.case}.h5", *(Path(out) / "data" / "slices" / f"{n}.h5" for n in slices)]


def prepare_frame(frame: Frame, out: str | Path) -> int:
    """Write the h5 files of one frame that are not there yet; each is complete or absent.

    Every file holds ``image`` and ``label``, and as attributes ``spacing`` ((z, y, x) in mm), ``frame`` and ``phase``.

    Returns:
        How many files were written.

    Raises:
        UserError: If the frame cannot be read, or has not as many slices as SSL4MIS's list.
    """
    missing = [path for path in outputs_of(frame, out) if not path.is_file()]
    if not missing:
        return 0
    volume = read_frame(frame)
    listed = len(outputs_of(frame, out)) - 1
    if listed not in (0, len(volume.image)):
        raise UserError(
            f"{frame.image} has {len(volume.image)} slices.",
            expected=f"{listed}, as in SSL4MIS's list",
            fix="use the release of ACDC as it is, neither resampled nor cropped",
        )
    for path in missing:
        _, slice_mark, number = path.stem.partition("_slice_")
        part: Any = int(number) - 1 if slice_mark else slice(None)
        image, label = volume.image[part], volume.label[part]
        with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
            chunks = (1, *image.shape[-2:])[-image.ndim :]  # a slice is read alone
            file.create_dataset("image", data=image, chunks=chunks, **_COMPRESSION)
            file.create_dataset("label", data=label, chunks=chunks, **_COMPRESSION)
            file.attrs.update(spacing=volume.spacing, frame=frame.number, phase=frame.phase)
    return len(missing)


def write_lists(cases: Iterable[str], out: str | Path) -> None:
    """Write SSL4MIS's lists, as far as their volumes are among ``cases``, beside the data, as in its download."""
    there = set(cases)
    for name in LIST_NAMES:
        lines = [line for line in read_list(LISTS / name) if "_".join(line.split("_")[:2]) in there]
        write_text(Path(out) / name, "".join(f"{line}\n" for line in lines))


def read_frame(frame: Frame) -> Volume:
    """Read and normalise a frame.

    Raises:
        UserError: If a file is damaged, the label lies elsewhere than the image, the volume has a single slice, is
            constant or not finite, or the label holds other values than 0..3.
    """
    header = open_volume(frame.image)
    if header.shape[0] < 2 or header.spacing is None:
        raise UserError(
            f"{frame.image} is not a volume of slices.",
            expected="three axes, at least 2 slices, and a voxel size in mm",
            found=f"(z, y, x) = {header.shape}, voxel size {header.spacing}",
            fix="copy it again from the release",
        )
    stored, label = read_volume(header), read_volume(aligned(open_volume(frame.label), header))
    image = stored.astype(np.float64)
    low, high = image.min(), image.max()
    if not 0 < high - low < np.inf:
        raise UserError(
            f"{frame.image} cannot be normalised.",
            expected="finite values that are not all the same",
            found=f"values from {low:g} to {high:g}",
            fix="copy the file again from the release",
        )
    return Volume(((image - low) / (high - low)).astype(np.float32), as_class_ids(label, frame.label), header.spacing)


def _frames_of(folder: Path) -> list[Frame]:
    info = folder / "Info.cfg"
    found = dict(re.findall(r"^\s*(ED|ES)\s*:\s*(\d+)\s*$", read_text(info), re.M)) if info.is_file() else {}
    if set(found) != {"ED", "ES"}:
        raise UserError(
            f"{info} does not tell the labelled frames.",
            expected="a text file with lines such as 'ED: 1' and 'ES: 12'",
            found=", ".join(f"{key}: {value}" for key, value in found.items()) or "none, or no file",
            fix="copy it again from the release",
        )
    frames = []
    for index, (number, phase) in enumerate(sorted((int(number), phase) for phase, number in found.items()), 1):
        stem = f"{folder.name}_frame{number:02d}"
        paths = [_one_of(folder / f"{stem}{mark}.nii.gz", folder / f"{stem}{mark}.nii") for mark in ("", "_gt")]
        frames.append(Frame(f"{folder.name}_frame{index:02d}", paths[0], paths[1], number, phase))
    return frames


def _one_of(*paths: Path) -> Path:
    for path in paths:
        if path.is_file():
            return path
    raise UserError(f"{paths[0]} is missing.", fix="copy it again from the release, or remove the patient's folder")
