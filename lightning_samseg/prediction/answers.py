"""What a model answers to a picture or a volume, and what can be given to it: files, PIL, NumPy, torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lightning_samseg.errors import BadValueError
from lightning_samseg.io.images import orientation_of, read_image, to_rgb_uint8, write_image
from lightning_samseg.io.volumes import Volume, is_volume, open_volume, read_slice, scaled_slice, write_mask_like
from lightning_samseg.types import Segmentation

_GREY_MODES = ("L", "I", "F", "I;16", "I;16L", "I;16B")


@dataclass(frozen=True)
class Given:
    """A picture or a volume that somebody wants segmented."""

    name: str
    """Of its file, or for messages."""
    path: Path | None = None
    pixels: np.ndarray | None = None
    """``(H, W)`` or ``(H, W, 3)``; None for what is read from ``path`` when it is wanted."""

    @cached_property
    def volume(self) -> Volume | None:
        """Header of a volume; None for a picture."""
        return open_volume(self.path) if self.path is not None and is_volume(self.path) else None

    @property
    def num_slices(self) -> int:
        """Slices of a volume; 1 for a picture."""
        return 1 if self.volume is None else self.volume.shape[0]

    def read(self, index: int = 0, scaled: bool = False) -> np.ndarray:
        """A picture or a slice: ``(H, W)`` or ``(H, W, 3)``; of a volume ``scaled`` as a whole, if asked for."""
        if self.pixels is not None:
            return self.pixels
        if self.volume is None:
            assert self.path is not None
            return read_image(self.path)
        return scaled_slice(self.volume, index) if scaled else read_slice(self.volume, index)


def given(picture: Any) -> Given:
    """Open what may be given to a model.

    Args:
        picture: Path of a picture or a volume; PIL image; array ``(H, W)``, ``(H, W, 3)``, ``(H, W, 1)`` or tensor,
            also ``(3, H, W)`` or ``(1, H, W)``; of any number type, with the values a file would have.

    Raises:
        UserError: If it is none of these, or its file cannot be read.
    """
    if isinstance(picture, str | Path):
        path = Path(picture).expanduser()
        found = Given(str(path), path)
        return found if found.volume is not None else replace(found, pixels=read_image(path))
    if isinstance(picture, Image.Image):
        upright = ImageOps.exif_transpose(picture)
        pixels = np.asarray(upright if upright.mode in _GREY_MODES else upright.convert("RGB"))
        return Given("a PIL image", pixels=pixels)
    array = picture.detach().cpu().numpy() if hasattr(picture, "detach") else picture
    if isinstance(array, np.ndarray):
        if array.ndim == 3 and array.shape[2] not in (1, 3) and array.shape[0] in (1, 3):
            array = array.transpose(1, 2, 0)
        array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        if array.ndim in (2, 3) and array.dtype.kind in "buif" and (array.ndim == 2 or array.shape[2] == 3):
            pixels = np.ascontiguousarray(array.view(np.uint8) if array.dtype == bool else array)
            return Given("an array", pixels=pixels)
        kind = f"{array.dtype} {array.shape}"
    else:
        kind = type(picture).__name__
    raise BadValueError(
        "This is no picture.",
        expected="a path, a PIL image, or an array or tensor (H, W), (H, W, 3) or (3, H, W)",
        found=kind,
        fix="convert it, for instance by numpy.asarray; several pictures go in as a list",
    )


@dataclass(frozen=True)
class Answer:
    """What a model says of one picture or volume, at its own size."""

    labels: NDArray[np.uint8]
    """Class ids 0..C, ``(H, W)``; of a volume ``(slices, H, W)``."""
    probabilities: NDArray[np.float32]
    """``(K, H, W)`` in [0, 1], channel 0 background; of a volume ``(K, slices, H, W)``."""
    class_names: tuple[str, ...]
    """Of the classes 1..C."""
    source: Given
    """What was segmented."""

    def overlay(self, index: int | None = None) -> Image.Image:
        """Draw the outlines of the classes on the picture.

        Args:
            index: Slice of a volume; None for the one with most foreground.
        """
        from lightning_samseg.callbacks.overlays import draw_contours

        volume = self.labels if self.labels.ndim == 3 else self.labels[None]
        place = int(np.count_nonzero(volume, axis=(1, 2)).argmax()) if index is None else index
        drawn = to_rgb_uint8(self.source.read(place)).copy()
        draw_contours(drawn, volume[place])
        return Image.fromarray(drawn)

    def save(self, path: str | Path) -> Path:
        """Write the class ids: of a picture the way up that its file is stored, of a volume with its geometry.

        Args:
            path: ``.png`` or another format without loss; of a volume its own format, such as ``.nii.gz``.

        Raises:
            UserError: If the format would change the class ids, or is not the volume's.
        """
        path = Path(path).expanduser()
        volume = self.source.volume
        if volume is not None and _family(path) == _family(volume.path):
            write_mask_like(volume, path, self.labels)
        elif volume is None and path.suffix.lower() in (".png", ".tif", ".tiff", ".bmp"):
            write_image(path, self.labels, 1 if self.source.path is None else orientation_of(self.source.path))
        else:
            raise BadValueError(
                f"{path} cannot hold the class ids of {self.source.name}.",
                expected="a name that ends in .png, .tif or .bmp" if volume is None else f"one like {volume.path.name}",
                fix="choose such a name; answer.overlay() is a picture to look at",
            )
        return path


def joined(parts: Sequence[Segmentation], source: Given, class_names: tuple[str, ...]) -> Answer:
    """Put the answers to a picture's or a volume's slices together."""
    labels = np.stack([part.labels for part in parts])
    probabilities = np.stack([part.probabilities.float().cpu().numpy() for part in parts], axis=1)
    if source.volume is None:
        labels, probabilities = labels[0], probabilities[:, 0]
    return Answer(labels, probabilities, class_names, source)


def _family(path: Path) -> str:
    """Whether a name is that of a NIfTI file, of a MetaImage or of none."""
    name = path.name.lower()
    return "nifti" if name.endswith((".nii", ".nii.gz")) else "meta" if name.endswith((".mha", ".mhd")) else "none"
