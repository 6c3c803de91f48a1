"""Resizing of images and label maps under a named geometry: how the pixels of two grids lie on each other."""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import zoom
from scipy.sparse import csr_array

from lightning_samseg.types import Geometry


def resize_image(
    image: npt.NDArray[np.float32], size: tuple[int, int], geometry: Geometry = "half_pixel"
) -> npt.NDArray[np.float32]:
    """Resize an image by cubic interpolation; overshoots are not clipped.

    ``half_pixel`` is OpenCV's cubic convolution. ``corner_aligned`` is the interpolating cubic B-spline of
    ``scipy.ndimage.zoom(order=3)``, equal to it within float32's rounding and more than ten times as fast: the spline's
    coefficients, then one sparse matrix for the rows and one for the columns, kept for each pair of sizes.

    Args:
        image: float32 ``(H, W)`` or ``(H, W, 3)``.
        size: ``(h, w)`` of the result in pixels.
        geometry: See :data:`lightning_samseg.types.Geometry`.

    Returns:
        float32 ``(h, w)`` or ``(h, w, 3)``.
    """
    if geometry == "half_pixel":
        return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)
    if image.ndim == 3:
        channels = [resize_image(image[..., channel], size, geometry) for channel in range(image.shape[2])]
        return np.stack(channels, axis=-1)
    # Equal to scipy.ndimage.spline_filter(order=3, mode="mirror"), at a fifth of its time.
    spline = cv2.sepFilter2D(image, cv2.CV_32F, _PREFILTER, _PREFILTER, borderType=cv2.BORDER_REFLECT_101)
    # Sparse products, not dense ones: they start no threads of their own, of which every worker would have a set.
    columns = _spline_matrix(image.shape[1], size[1]) @ spline.T
    return np.asarray(_spline_matrix(image.shape[0], size[0]) @ columns.T)


def resize_labels(
    labels: npt.NDArray[np.uint8], size: tuple[int, int], geometry: Geometry = "half_pixel"
) -> npt.NDArray[np.uint8]:
    """Resize a label map by nearest neighbour, to the network's size or from it back to the image's.

    ``corner_aligned`` equals ``scipy.ndimage.zoom(order=0)`` everywhere, also where that function's rounding puts the
    last row or column outside of the map (512 to 224 is such a pair): it is 0 there, as in CPC-SAM's published scores.

    Args:
        labels: uint8 ``(H, W)`` class ids.
        size: ``(h, w)`` of the result in pixels.
        geometry: See :data:`lightning_samseg.types.Geometry`.

    Returns:
        uint8 ``(h, w)``.
    """
    if geometry == "half_pixel":
        return np.asarray(cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)
    rows, columns = (_nearest(n_in, n_out) for n_in, n_out in zip(labels.shape, size, strict=True))
    resized = labels.take(rows, axis=0, mode="wrap").take(columns, axis=1, mode="wrap")
    resized[rows < 0] = 0
    resized[:, columns < 0] = 0
    return resized


_POLE = np.sqrt(3) - 2
_PREFILTER = (np.sqrt(3) * _POLE ** np.abs(np.arange(-14, 15))).astype(np.float32)
"""The inverse of the cubic B-spline's samples 1/6, 4/6, 1/6; what is cut off is below 1e-8."""


@lru_cache(maxsize=256)
def _spline_matrix(n_in: int, n_out: int) -> csr_array:
    """The ``(n_out, n_in)`` matrix from spline coefficients to samples; four numbers a row."""
    columns = [zoom(np.eye(1, n_in, place)[0], n_out / n_in, order=3, prefilter=False) for place in range(n_in)]
    return csr_array(np.stack(columns, axis=1).astype(np.float32))


@lru_cache(maxsize=256)
def _nearest(n_in: int, n_out: int) -> npt.NDArray[np.intp]:
    """Index that each of ``n_out`` outputs is read from; -1 where SciPy's rounding finds nothing."""
    return np.asarray(zoom(np.arange(1, n_in + 1), n_out / n_in, order=0) - 1, dtype=np.intp)
