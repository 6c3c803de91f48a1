"""Masks turned onto their images, against nibabel's and ITK's reorientation."""

import itertools

import nibabel
import numpy as np
import pytest
import SimpleITK
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from lightning_samseg.errors import UserError
from lightning_samseg.io.alignment import aligned, describe
from lightning_samseg.io.volumes import open_volume, read_slice, read_volume, scaled_slice

LABEL = np.random.default_rng(0).integers(0, 4, (7, 6, 5)).astype(np.uint8)  # (x, y, z)
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1]])
ORIENTATIONS = [
    "".join(codes) for axes in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*axes)
]


def affine(spacing=(0.5, 0.75, 3.0), origin=(-80, 12.5, 33), turn=TURN):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn * spacing, origin
    return matrix


def save(path, array=LABEL, sform=None, qform=None, codes=(1, 1)):
    """Write a NIfTI file; a form that is None is not coded."""
    image = nibabel.Nifti1Image(array, None)
    zooms = np.linalg.norm((sform if qform is None else qform)[:3, :3], axis=0)
    image.header.set_zooms(zooms[: array.ndim])
    if qform is not None:
        image.set_qform(qform, codes[0])
    if sform is not None:
        image.set_sform(sform, codes[1])
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    path.write_bytes(content)
    return open_volume(path)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_all_48_ways_to_store_a_mask(tmp_path, orientation):
    image = nibabel.Nifti1Image(LABEL.astype(np.int16), affine())
    nibabel.save(image, tmp_path / "image.nii.gz")
    change = ornt_transform(io_orientation(affine()), axcodes2ornt(orientation))
    stored = nibabel.Nifti1Image(LABEL, affine()).as_reoriented(change)
    for name in ("mask.nii", "mask.nii.gz"):
        nibabel.save(stored, tmp_path / name)
        mask = aligned(open_volume(tmp_path / name), open_volume(tmp_path / "image.nii.gz"))
        assert mask.turned == (orientation != "".join(nibabel.aff2axcodes(affine())))
        assert mask.shape == (5, 6, 7)
        np.testing.assert_allclose(mask.spacing, (3.0, 0.75, 0.5), rtol=1e-6)
        np.testing.assert_array_equal(read_volume(mask), LABEL.T)
        assert read_slice(mask, 2).flags.c_contiguous


@pytest.mark.parametrize("orientation", ["RAI", "LPS", "ASR", "SPL", "IRA"])
@pytest.mark.parametrize("names", ["i.mha m.mha", "i.nii m.mhd", "i.mhd m.nii.gz", "i.nii.gz m.nii"])
def test_what_itk_turns(tmp_path, orientation, names):
    image = SimpleITK.GetImageFromArray(LABEL.T)
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((-80, 12.5, 33))
    image.SetDirection(tuple((TURN @ TURN @ np.diag([1, 1, -1])).ravel()))
    turned = SimpleITK.DICOMOrient(image, orientation)
    paths = [tmp_path / name for name in names.split()]
    SimpleITK.WriteImage(image, str(paths[0]))
    SimpleITK.WriteImage(turned, str(paths[1]), useCompression=paths[1].suffix == ".mhd")
    mask = aligned(open_volume(paths[1]), open_volume(paths[0]))
    np.testing.assert_array_equal(read_volume(mask), LABEL.T)


def test_placements_are_nibabels_and_itks(tmp_path):
    image = SimpleITK.GetImageFromArray(LABEL.T)
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((-80, 12.5, 33))
    image.SetDirection(tuple(TURN.ravel()))
    for name in ("a.mha", "a.nii"):
        SimpleITK.WriteImage(image, str(tmp_path / name))
    (header,) = open_volume(tmp_path / "a.mha").placements
    nifti = {each.name: each.affine for each in open_volume(tmp_path / "a.nii").placements}
    loaded = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_allclose(nifti["sform"], loaded.get_sform(), atol=1e-6)
    np.testing.assert_allclose(nifti["qform"], loaded.get_qform(), atol=1e-6)
    np.testing.assert_allclose(header.affine, loaded.affine, atol=1e-5)
    np.testing.assert_allclose(
        np.diag([-1, -1, 1]) @ image.TransformIndexToPhysicalPoint((3, 2, 1)),
        (header.affine @ np.array([3, 2, 1, 1]))[:3],
    )


ELSEWHERE = {
    "moved by half a voxel": affine(origin=(-80.25, 12.5, 33)),
    "moved by a voxel along the slices": affine(origin=(-80, 12.5, 36)),
    "other voxels": affine(spacing=(0.5, 0.75, 2.5)),
    "turned by a degree": affine(
        turn=TURN
        @ [
            [np.cos(0.0175), -np.sin(0.0175), 0],
            [np.sin(0.0175), np.cos(0.0175), 0],
            [0, 0, 1],
        ]
    ),
    "flipped, at the wrong end": affine() @ np.diag([-1.0, 1, 1, 1]),
    "nibabel's identity": np.eye(4),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_masks_that_lie_elsewhere_are_refused_with_both_geometries(tmp_path, case):
    image, mask = save(tmp_path / "image.nii", sform=affine()), save(tmp_path / "mask.nii", sform=ELSEWHERE[case])
    with pytest.raises(UserError, match=r"mask\.nii: the mask lies elsewhere than its image image\.nii") as caught:
        aligned(mask, image)
    for text in (f"as the image: {describe(image)}", f"found: {describe(mask)}", "sitkNearestNeighbor", "image.affine"):
        assert text in str(caught.value)


def test_what_is_described(tmp_path):
    text = describe(save(tmp_path / "a.nii", sform=affine()))
    assert text == ("7 x 6 x 5 voxels of 0.5 x 0.75 x 3 mm, sform [0.4 -0.45 0 -80; 0.3 0.6 0 12.5; 0 0 -3 33] (RAI)")


def test_other_shapes_are_refused(tmp_path):
    image = save(tmp_path / "image.nii", sform=affine())
    for array in (LABEL[:6], np.concatenate([LABEL, LABEL], 2)):
        with pytest.raises(UserError, match=r"another shape(.|\n)*7 x 6 x 5(.|\n)*what to do: resample"):
            aligned(save(tmp_path / "mask.nii", array, sform=affine()), image)


def test_rounding_of_headers_is_no_difference(tmp_path):
    large = np.zeros((512, 512, 2), np.uint8)
    exact = affine(spacing=(0.703125, 0.703125, 5.0), origin=(-179.6484375, -180.1, 1033.3))
    rounded = exact.astype(np.float32) * (1 + np.float32(5e-6))
    image = save(tmp_path / "image.nii", large, sform=exact)
    assert not aligned(save(tmp_path / "mask.nii", large, sform=rounded), image).turned
    # Through the quaternion of a qform, and as text of six digits.
    assert not aligned(save(tmp_path / "mask.nii", large, qform=exact), image).turned
    with pytest.raises(UserError, match="elsewhere"):
        aligned(save(tmp_path / "mask.nii", large, sform=exact * 1.0001), image)


def test_two_statements(tmp_path):
    """sform against sform, qform against qform; across only where neither agrees."""
    flip = affine() @ np.diag([-1.0, 1, 1, 1])
    flip[:3, 3] += affine()[:3, 0] * 6
    atlas = affine(turn=np.eye(3), origin=(0, 0, 0), spacing=(0.6, 0.8, 3.5))
    both = save(tmp_path / "image.nii", sform=atlas, qform=affine(), codes=(1, 4))
    assert len(both.placements) == 2
    np.testing.assert_allclose(both.spacing, (3.0, 0.75, 0.5), rtol=1e-6)  # the scanner's millimetres
    for forms in ({"sform": atlas}, {"qform": affine()}, {"sform": atlas, "qform": affine()}, {"sform": affine()}):
        codes = (1, 4) if len(forms) == 2 else (1, 2)
        mask = aligned(save(tmp_path / "mask.nii", **forms, codes=codes), both)
        np.testing.assert_array_equal(read_volume(mask), LABEL.T)
    turned = aligned(save(tmp_path / "mask.nii", LABEL[::-1], sform=flip), both)
    assert turned.turned
    np.testing.assert_array_equal(read_volume(turned), LABEL.T)
    image = save(tmp_path / "image.nii", sform=affine(), qform=affine())
    with pytest.raises(UserError, match="elsewhere") as caught:  # as stored by one statement, mirrored by the other
        aligned(save(tmp_path / "mask.nii", sform=affine(), qform=flip), image)
    assert str(caught.value).count("qform [") == 2


def test_files_that_state_no_position(tmp_path):
    placed = save(tmp_path / "placed.nii", sform=affine())
    image = nibabel.Nifti1Image(LABEL, None)
    image.header.set_zooms((0.5, 0.75, 3.0))
    nibabel.save(image, tmp_path / "bare.nii")
    bare = open_volume(tmp_path / "bare.nii")
    assert bare.placements == ()
    assert "no position" in describe(bare)
    for mask, other in ((bare, placed), (placed, bare), (bare, bare)):
        assert aligned(mask, other) == mask
    image.header.set_zooms((0.5, 0.75, 2.0))
    nibabel.save(image, tmp_path / "bare.nii")
    with pytest.raises(UserError, match="elsewhere"):
        aligned(open_volume(tmp_path / "bare.nii"), placed)
    nibabel.save(nibabel.Nifti1Image(LABEL[:3], None), tmp_path / "bare.nii")
    with pytest.raises(UserError, match="another shape"):
        aligned(open_volume(tmp_path / "bare.nii"), placed)


def test_single_slices_of_any_thickness(tmp_path):
    flat = LABEL[:, :, :1]
    image = save(tmp_path / "image.nii", flat, sform=affine())
    mask = aligned(
        save(tmp_path / "mask.nii", flat[::-1], sform=affine() @ _mirror(7) @ np.diag([1, 1, 0.2, 1])), image
    )
    np.testing.assert_array_equal(read_volume(mask), flat.T)


def _mirror(count):
    matrix = np.diag([-1.0, 1, 1, 1])
    matrix[0, 3] = count - 1
    return matrix


def test_turned_volumes_are_scaled_alike(tmp_path):
    image = save(tmp_path / "a.nii", LABEL.astype(np.int16), sform=affine())
    turned = save(tmp_path / "b.nii", LABEL[::-1].astype(np.int16), sform=affine() @ _mirror(7))
    np.testing.assert_array_equal(scaled_slice(aligned(turned, image), 3), scaled_slice(image, 3))
