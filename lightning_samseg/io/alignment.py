"""Whether a mask lies where its image lies, by what both files state, and turning it there if only axes differ."""

import itertools

import numpy as np

from lightning_samseg.errors import UserError
from lightning_samseg.io.volumes import Placement, Volume

_TOLERANCE = 0.01
"""Voxels by which a corner of the mask may lie beside its place. nnU-Net compares affines by ``numpy.allclose``; its
relative 1e-5 makes a hundredth of a voxel at the far end of 1,000. Small entries of an oblique affine fail that test
by the rounding of float32 alone, a shift in voxels does not."""


def aligned(mask: Volume, image: Volume) -> Volume:
    """Turn a mask onto its image: where its axes are only flipped or permuted, arrays are read the image's way.

    Where both files are NIfTI, sform is compared with sform and qform with qform, and only where neither agrees the one
    with the other. Where a file states no position, shapes and voxel sizes have to agree.

    Args:
        mask: Header of the mask.
        image: Header of its image.

    Returns:
        The mask with the image's shape; ``turned`` tells whether it is stored otherwise.

    Raises:
        UserError: If it lies elsewhere, with both geometries.
    """
    pairs = list(itertools.product(image.placements, mask.placements))
    if not pairs:
        if mask.shape != image.shape or not _same_sizes(mask, image):
            raise _elsewhere(mask, image)
        return mask
    alike = [pair for pair in pairs if pair[0].name == pair[1].name]
    found = _agreeing(mask, image, alike) or _agreeing(mask, image, pairs)
    if len(found) != 1:  # none, or sform says one thing and qform another
        raise _elsewhere(mask, image)
    return found.pop()


def describe(volume: Volume) -> str:
    """Say a volume's size, voxel size and place in one line."""
    size = " x ".join(map(str, volume.shape[::-1]))
    voxel = "of unknown size"
    if volume.spacing is not None:
        voxel = "of " + " x ".join(f"{length:.6g}" for length in volume.spacing[::-1]) + " mm"
    places = [f"{name} [{_rows(affine)}] ({_directions(affine)})" for name, affine in volume.placements]
    return f"{size} voxels {voxel}, {', '.join(places) or 'no position'}"


def _agreeing(mask: Volume, image: Volume, pairs: list[tuple[Placement, Placement]]) -> set[Volume]:
    found = (_turned(mask, image, np.array(theirs.affine), np.array(ours.affine)) for theirs, ours in pairs)
    return {volume for volume in found if volume is not None}


def _turned(mask: Volume, image: Volume, image_affine: np.ndarray, mask_affine: np.ndarray) -> Volume | None:
    """The mask on the image's grid, if its voxels are the image's; None if not."""
    if image.shape[0] == mask.shape[0] == 1:  # the thickness of a single slice counts for nothing
        image_affine, mask_affine = _thin(image_affine), _thin(mask_affine)
    transform = np.linalg.solve(image_affine, mask_affine)  # of voxels (column, row, slice) of the mask to the image's
    signs = np.rint(transform[:3, :3])
    if not (np.abs(signs).sum(0) == 1).all() or not (np.abs(signs).sum(1) == 1).all() or np.abs(signs).max() > 1:
        return None
    source = np.abs(signs).argmax(1)  # of each of the image's axes
    size, target = np.array(mask.shape[::-1]), np.array(image.shape[::-1])
    if (size[source] != target).any():
        return None
    backwards = signs.sum(1) < 0
    ideal = np.eye(4)
    ideal[:3, :3], ideal[:3, 3] = signs, np.where(backwards, target - 1, 0)
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, count - 1) for count in size))])
    if np.abs(corners @ (transform - ideal).T).max() > _TOLERANCE:
        return None
    x, y, z = (2 - int(axis) for axis in source)  # as axes of arrays
    flips = (bool(backwards[2]), bool(backwards[1]), bool(backwards[0]))
    return mask._replace(shape=image.shape, spacing=image.spacing, axes=(z, y, x), reversed_axes=flips)


def _thin(affine: np.ndarray) -> np.ndarray:
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    thin = affine.copy()
    thin[:3, 2] = normal / np.linalg.norm(normal)
    return thin


def _same_sizes(mask: Volume, image: Volume) -> bool:
    if mask.spacing is None or image.spacing is None:
        return True
    shift = (np.array(mask.spacing) / image.spacing - 1) * image.shape
    return bool(np.abs(shift).max() <= _TOLERANCE)


def _rows(affine: tuple[tuple[float, ...], ...]) -> str:
    return "; ".join(" ".join(f"{value:.6g}" for value in row) for row in affine[:3])


def _directions(affine: tuple[tuple[float, ...], ...]) -> str:
    """Where columns, rows and slices run, such as RAS, each by its largest component."""
    columns = np.array(affine)[:3, :3]
    names = []
    for column in columns.T:
        axis = int(np.abs(column).argmax())
        names.append(("LR", "PA", "IS")[axis][int(column[axis] > 0)])
    return "".join(names)


def _elsewhere(mask: Volume, image: Volume) -> UserError:
    problem = "lies elsewhere than" if mask.shape == image.shape else "has another shape than"
    return UserError(
        f"{mask.path}: the mask {problem} its image {image.path.name}.",
        expected=f"as the image: {describe(image)}",
        found=describe(mask),
        fix="resample the mask onto the image (SimpleITK.Resample(mask, image, SimpleITK.Transform(), "
        "SimpleITK.sitkNearestNeighbor)); if only its header is wrong, save it with the image's "
        "(nibabel.Nifti1Image(mask, image.affine, image.header)); or remove the pair",
    )
