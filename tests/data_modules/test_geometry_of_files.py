"""What files state about the way up and the place of their pixels: layouts, ``data verify`` and ``data prepare``."""

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageOps

from data_modules.layouts.acdc_native import find_frames, read_frame
from data_modules.layouts.folder import FolderLayout
from data_modules.layouts.retouch import RetouchLayout
from data_modules.verify import verify
from lightning_samseg.__main__ import main
from lightning_samseg.errors import UserError
from lightning_samseg.io.metaimage import write_metaimage
from tests.fakes import acdc_volume, retouch_volume, write_acdc_native, write_retouch

AFFINE = np.array([[1.25, 0, 0, -7], [0, 1.5, 0, 12], [0, 0, 10, 3], [0, 0, 0, 1.0]])
MIRROR_X = np.diag([-1.0, 1, 1, 1])


def write_pair(root, name, affine=AFFINE, turn=lambda label: label, seed=0):
    """A volume, and its mask with an affine of its own."""
    image, label = acdc_volume(3, seed=seed)
    for folder, array, place in (("images", image.T, AFFINE), ("masks", turn(label.T), affine)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, place), root / folder / f"{name}.nii.gz")
    return image, label


def mirrored():
    """The affine of an array that is stored from the other end of x."""
    affine = AFFINE @ MIRROR_X
    affine[:3, 3] = (AFFINE @ [19, 0, 0, 1])[:3]
    return affine


def test_a_mask_that_is_stored_mirrored_lies_on_its_image(tmp_path):
    for number in range(5):
        _, label = write_pair(tmp_path, f"c{number}", mirrored(), lambda label: label[::-1], number)
    layout = FolderLayout(str(tmp_path), masks="indexed")
    for item in layout.items():
        size = layout.read_image(item).shape
        np.testing.assert_array_equal(layout.read_label(item, size), label[item.slice_index])
        assert layout.spacing(item) == pytest.approx((10, 1.5, 1.25))
    report = verify(FolderLayout(str(tmp_path), masks="indexed"))
    assert report.problems == []
    assert any("5 masks, such as c0.nii.gz, are stored with axes flipped" in note for note in report.notes)


def test_a_mask_with_permuted_axes_is_whole(tmp_path):
    image, label = write_pair(tmp_path, "c0", AFFINE[:, [2, 0, 1, 3]], lambda label: label.transpose(2, 0, 1))
    layout = FolderLayout(str(tmp_path), masks="indexed")
    items = layout.items()
    assert len(items) == len(image)
    for item in items:
        np.testing.assert_array_equal(layout.read_label(item, image.shape[1:]), label[item.slice_index])


@pytest.mark.parametrize("affine", [np.eye(4), AFFINE + np.diag([0, 0, 0.5, 0]), AFFINE @ MIRROR_X])
def test_a_mask_elsewhere_is_named_by_fit_and_verify(tmp_path, affine, capsys):
    for number in range(4):
        write_pair(tmp_path, f"c{number}", seed=number)
    write_pair(tmp_path, "c4", affine)
    with pytest.raises(UserError, match=r"masks/c4\.nii\.gz: the mask lies elsewhere than its image c4\.nii\.gz"):
        FolderLayout(str(tmp_path)).items()
    assert main(["data", "verify", "folder", "--root", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "c4.nii.gz: the mask lies elsewhere" in printed.out + printed.err


def test_masks_without_a_place_are_said(tmp_path):
    for number in range(5):
        write_pair(tmp_path, f"c{number}", seed=number)
    mask = nibabel.load(tmp_path / "masks" / "c0.nii.gz")
    bare = nibabel.Nifti1Image(np.asarray(mask.dataobj), None)
    bare.header.set_zooms(mask.header.get_zooms())
    nibabel.save(bare, tmp_path / "masks" / "c0.nii.gz")
    report = verify(FolderLayout(str(tmp_path), masks="indexed"))
    assert report.problems == []
    assert any("1 masks, such as c0.nii.gz, or their images do not state where they lie" in n for n in report.notes)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_and_a_mask_drawn_on_it(tmp_path, orientation):
    stored = np.zeros((32, 32), np.uint8)
    stored[4:12, 3:25] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(stored).save(tmp_path / "images" / "a.png", exif=exif)
    with Image.open(tmp_path / "images" / "a.png") as image:
        shown = np.asarray(ImageOps.exif_transpose(image))
    Image.fromarray((shown > 100).astype(np.uint8) * 255).save(tmp_path / "masks" / "a.png")
    layout = FolderLayout(str(tmp_path))
    item = layout.items()[0]
    np.testing.assert_array_equal(layout.read_label(item, (32, 32)), layout.read_image(item) > 100)


def test_acdc_is_prepared_from_labels_that_lie_on_their_images(tmp_path):
    write_acdc_native(tmp_path, {"patient001": 4})
    frames, _ = find_frames(tmp_path)
    as_stored = read_frame(frames[0])
    label = nibabel.load(frames[0].label)
    array, flip = np.asarray(label.dataobj), label.affine @ np.diag([-1.0, -1, 1, 1])
    flip[:3, 3] = (label.affine @ [array.shape[0] - 1, array.shape[1] - 1, 0, 1])[:3]
    nibabel.save(nibabel.Nifti1Image(array[::-1, ::-1], flip), frames[0].label)
    np.testing.assert_array_equal(read_frame(frames[0]).label, as_stored.label)
    nibabel.save(nibabel.Nifti1Image(array, label.affine + np.eye(4, k=3)), frames[0].label)  # a millimetre beside
    with pytest.raises(UserError, match="lies elsewhere than its image"):
        read_frame(frames[0])


def test_a_retouch_reference_elsewhere_is_said(tmp_path):
    """Not refused: of the release every reference belongs to its image, whatever its header says."""
    write_retouch(tmp_path, volumes=1)
    _, label = retouch_volume(4)
    assert not any("headers" in note for note in RetouchLayout(str(tmp_path)).notes())
    write_metaimage(tmp_path / "Cirrus" / "TRAIN001" / "reference.mhd", label, (0.05, 0.002, 0.02))
    notes = RetouchLayout(str(tmp_path)).notes()
    assert any(
        "headers of 1 references, such as Cirrus_TRAIN001, state another place or voxel size" in note for note in notes
    )
