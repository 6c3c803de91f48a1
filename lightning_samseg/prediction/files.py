"""Files of ``predict --input``: which images there are, and what is written for each."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lightning_samseg.callbacks.overlays import draw_contours
from lightning_samseg.errors import MissingFileError, UserError
from lightning_samseg.io.file_kinds import described
from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.images import IMAGE_SUFFIXES, orientation_of, to_rgb_uint8, write_image
from lightning_samseg.io.picture import to_displayed, to_stored
from lightning_samseg.io.tables import write_table
from lightning_samseg.io.text import escape
from lightning_samseg.io.volumes import VOLUME_SUFFIXES, is_volume, stem_of, write_mask_like
from lightning_samseg.prediction.answers import Given

COLUMNS = (
    "path",
    "mask",
    "class_id",
    "class",
    "pixels",
    "area_mm2",
    "volume_mm3",
    "components",
    "rows",
    "columns",
    "slices",
    "seconds",
)
# Pictures and volumes that nobody should miss: of each is said why it is not read.
_EXPORT_FIRST = (
    *(".dcm", ".dicom", ".ima", ".nrrd", ".nhdr", ".hdr", ".img", ".mgz", ".mgh", ".mnc"),
    *(".svs", ".ndpi", ".mrxs", ".czi", ".nd2", ".lif", ".heic", ".heif", ".avif", ".jxl"),
)


class Output(NamedTuple):
    """What is predicted for a picture or a slice, to be written."""

    labels: NDArray[np.uint8]
    """``(H, W)`` class ids."""
    probabilities: NDArray[np.float16] | None
    """``(K, H, W)``, channel 0 is background; None where they are not asked for."""


@dataclass(frozen=True)
class Source(Given):
    """One file to predict; ``name`` is the relative name of what is written for it, without ending."""

    path: Path = Path()
    relative: Path = Path()
    """To the folder that was given."""

    @property
    def mask_name(self) -> str:
        """Relative name of its mask: a PNG for a picture, its own format for a volume."""
        return str(self.relative) if is_volume(self.path) else f"{self.name}.png"

    def prompt_key(self, index: int) -> str:
        """Name of a picture or slice in a prompt file; no other has the same."""
        return self.name if self.volume is None else f"{self.name}_{index:03d}"

    def prompt_names(self, index: int) -> tuple[str, list[str]]:
        """Other names it answers to: with its folder and ending; and those that others may have, too."""
        relative, stem = self.relative.as_posix(), stem_of(self.path)
        if self.volume is None:
            return relative, [self.path.name, stem]
        return f"{relative}_{index:03d}", [f"{stem}_{index:03d}"]


def find_sources(given: Path, output: Path) -> tuple[list[Source], list[str]]:
    """List the pictures and volumes of a folder and its sub-folders, or take the one file given.

    Args:
        given: File or folder.
        output: Folder of the results, left out where it lies in the other.

    Returns:
        The files in order, and what a user should know about them, a line each.

    Raises:
        UserError: If there is none.
    """
    known = (*IMAGE_SUFFIXES, *VOLUME_SUFFIXES)
    if given.is_file():
        return [Source(stem_of(given), given, relative=Path(given.name))], []
    if not given.is_dir():
        raise MissingFileError(f"There is no file or folder {given}.", fix="check --input")
    inside = output.resolve()
    files = [path for path in sorted(_files(given)) if inside not in path.resolve().parents]
    paths = [path for path in files if path.name.lower().endswith((*known, *_EXPORT_FIRST))]
    if not paths:
        raise UserError(
            f"No images found in {given}.",
            expected=f"files that end in {' '.join(known)}",
            found=", ".join(map(described, files[:4])) or "an empty folder",
            fix="check --input, and export what is no picture first" if files else "check --input",
        )
    relative = [path.relative_to(given) for path in paths]
    names = [(path.parent / stem_of(path)).as_posix() for path in relative]
    shared = {name for name, count in Counter(map(str.casefold, names)).items() if count > 1}
    notes = []
    for place, name in enumerate(names):
        if name.casefold() in shared:
            names[place] = relative[place].as_posix()
            notes.append(f"{relative[place]} shares its name with another file: its results are named {names[place]}.*")
    twice = [name for name, count in Counter(map(str.casefold, names)).items() if count > 1]
    if twice:
        raise UserError(f"The results of several files would be named {twice[0]}.", fix="rename one of them")
    if others := [path for path in files if path not in set(paths) and path.suffix.lower() not in (".raw", ".zraw")]:
        notes.append(f"{len(others)} files are no images and left alone, such as {described(others[0])}")
    return [Source(name, path, relative=place) for name, path, place in zip(names, paths, relative, strict=True)], notes


def _files(given: Path) -> Iterator[Path]:
    """Files of a folder and its sub-folders, linked ones too, each folder once; links to nowhere; nothing hidden."""
    seen = set()
    for folder, folders, names in os.walk(given, followlinks=True):
        if (place := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        paths = (Path(folder, name) for name in names if name[0] != ".")
        yield from (path for path in paths if path.is_file() or path.is_symlink())


class Failure(NamedTuple):
    """A file without a result."""

    source: Source
    reason: str


@dataclass
class PredictionFolder:
    """Writes ``masks/``, ``probabilities/``, ``overlays/``, ``predictions.csv`` and, if need be, ``failed.csv``.

    Args:
        folder: Folder of the results.
        class_names: Foreground classes.
        overlays: Most pictures with contours per file; 0 for none.
    """

    folder: Path
    class_names: Sequence[str]
    overlays: int = 0
    rows: list[tuple[str | int, ...]] = field(default_factory=list)

    def write(self, source: Source, outputs: Sequence[Output], seconds: float) -> None:
        """Write what was predicted for one file.

        Args:
            source: The file.
            outputs: Of its slices in order, or of the picture.
            seconds: Time it has taken so far.

        Raises:
            UserError: If a slice cannot be read again for its overlay.
        """
        start = time.perf_counter()
        mask = self.folder / "masks" / source.mask_name
        if self.overlays:
            self._draw(source, np.stack([output.labels for output in outputs]))
        # All but the overlays is the way up that the file's pixels are stored, to pair with them one by one.
        orientation = orientation_of(source.path) if source.volume is None else 1
        if orientation != 1:
            outputs = [_as_stored(output, orientation) for output in outputs]
        labels = np.stack([output.labels for output in outputs])
        if outputs[0].probabilities is not None:
            self._write_probabilities(source, outputs)
        # The mask comes last: where it is, the rest is, too.
        if source.volume is None:
            write_image(mask, to_displayed(labels[0], orientation), orientation)
        else:
            write_mask_like(source.volume, mask, labels)
        self._measure(source, labels, mask, seconds + time.perf_counter() - start)

    def finish(self, failures: Sequence[Failure]) -> None:
        """Write the tables."""
        write_table(self.folder / "predictions.csv", COLUMNS, self.rows)
        if failures:
            listed = [(escape(str(each.source.path)), each.reason) for each in failures]
            write_table(self.folder / "failed.csv", ("path", "reason"), listed)

    def _measure(self, source: Source, labels: np.ndarray, mask: Path, seconds: float) -> None:
        volume = source.volume
        spacing = None if volume is None else volume.spacing
        for class_id, name in enumerate(self.class_names, 1):
            inside = labels == class_id
            pixels = int(inside.sum())
            area = None if spacing is None or len(labels) > 1 else pixels * spacing[1] * spacing[2]
            size = None if spacing is None or len(labels) == 1 else pixels * spacing[0] * spacing[1] * spacing[2]
            # Neighbours share a corner at least: 8 in a picture, 26 in a volume.
            components = int(ndimage.label(inside, np.ones((3, 3, 3)))[1]) if pixels else 0
            row = (
                escape(str(source.path)),
                escape(str(mask.relative_to(self.folder))),
                class_id,
                name,
                pixels,
                "" if area is None else f"{area:.6g}",
                "" if size is None else f"{size:.6g}",
                components,
                labels.shape[1],
                labels.shape[2],
                len(labels),
                f"{seconds:.3f}",
            )
            self.rows.append(row)

    def _write_probabilities(self, source: Source, outputs: Sequence[Output]) -> None:
        values = np.stack([output.probabilities for output in outputs if output.probabilities is not None], axis=1)
        name = source.relative if source.volume is not None else source.name  # of a.nii and a.mha both
        with atomic_write(self.folder / "probabilities" / f"{name}.npz") as temporary:
            np.savez_compressed(
                temporary,
                probabilities=values if source.volume is not None else values[:, 0],
                classes=np.array(["background", *self.class_names]),
            )

    def _draw(self, source: Source, labels: np.ndarray) -> None:
        """Contours on the picture, or on slices spread evenly over those that show something."""
        places = [0]
        if source.volume is not None:
            shown = np.flatnonzero(labels.any(axis=(1, 2)))
            shown = shown if len(shown) else np.array([len(labels) // 2])
            chosen = np.linspace(0, len(shown) - 1, min(self.overlays, len(shown))).round().astype(int)
            places = shown[chosen].tolist()
        for place in places:
            picture = to_rgb_uint8(source.read(place)).copy()
            draw_contours(picture, labels[place])
            end = f"{source.name}.png" if source.volume is None else f"{source.relative}/{place:03d}.png"
            write_image(self.folder / "overlays" / end, picture)


def _as_stored(output: Output, orientation: int) -> Output:
    channels = output.probabilities
    if channels is not None:
        channels = np.stack([to_stored(channel, orientation) for channel in channels])
    return output._replace(labels=to_stored(output.labels, orientation), probabilities=channels)
