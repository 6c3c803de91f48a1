"""Volumes in a folder of one's own: slices to train on, whole cases to evaluate."""

import numpy as np
import pytest
import torch

from data_modules import FolderDataModule
from data_modules.layouts.folder import FolderLayout
from data_modules.verify import verify
from lightning_samseg.__main__ import main
from lightning_samseg.errors import UserError
from lightning_samseg.io import volumes
from lightning_samseg.io.metaimage import write_metaimage
from tests.fakes import acdc_volume, truncate, write_nifti, write_pair

SPACING = (10.0, 1.5, 1.25)
DEPTHS = {f"p{number // 2}_c{number}": 3 + number % 3 for number in range(10)}


def write_volumes(root, classes=3):
    """Ten volumes of five patients, as NIfTI and MetaImage in turn."""
    for number, (name, depth) in enumerate(DEPTHS.items()):
        image, label = acdc_volume(depth, seed=number)
        label = label if classes == 3 else (label > 0).astype(np.uint8) * 255
        for folder, array in (("images", image), ("masks", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            if number % 2:
                write_nifti(root / folder / f"{name}.nii.gz", array, SPACING)
            else:
                write_metaimage(root / folder / f"{name}.mha", array, SPACING, compress=number % 4 == 0)
    return root


def module(root, **options):
    return FolderDataModule(str(root), **{"image_size": 32, "eval_batch_size": 50, "group": r"^p\d", **options})


def test_patients_are_never_divided_and_slices_are_cases_only_in_training(tmp_path):
    data = module(write_volumes(tmp_path), num_labelled=4)
    assert data.class_names == ("class 1", "class 2", "class 3")
    patients = [{item.case_id[:2] for item in part} for part in data.splits[:3]]
    assert sorted(map(len, patients)) == [1, 1, 3]
    assert len(set.union(*patients)) == 5
    train = data.splits.train
    assert {item.num_slices for item in train} == {1}
    assert len({item.case_id for item in train}) == len(train)
    assert train[0].case_id.endswith("_slice_1")
    assert [item.image for item in data.labelled_items[:3]] == [train[0].image] * 3  # volume after volume
    for item in data.splits.test:
        assert item.num_slices == DEPTHS[item.case_id]


def test_slices_and_cases_are_those_of_the_files(tmp_path):
    data = module(write_volumes(tmp_path), normalise="percentile")
    batch = next(iter(data.test_dataloader()))
    assert len(batch["cases"]) == len(data.splits.test)
    for case, reference, original in zip(batch["cases"], batch["reference"], batch["original"], strict=True):
        image, label = acdc_volume(DEPTHS[case.case_id], seed=list(DEPTHS).index(case.case_id))
        np.testing.assert_allclose(case.spacing, SPACING, rtol=1e-6)
        assert case.original_size == image.shape[1:]
        np.testing.assert_array_equal(reference, label[case.slice_index])
        grey = image[case.slice_index].astype(float)
        scaled = np.rint((grey - grey.min()) * 255 / np.ptp(grey))
        np.testing.assert_allclose(original[..., 1], scaled, atol=1)


def test_stored_scales_the_volume_as_a_whole(tmp_path):
    data = module(write_volumes(tmp_path), normalise="stored")
    item = data.splits.test[1]
    image, _ = acdc_volume(item.num_slices, seed=list(DEPTHS).index(item.case_id))
    read = data.layout.read_image(item)
    np.testing.assert_allclose(read, (image[1] - image.min()) / np.ptp(image), atol=1e-7)
    assert read.max() < 1
    batch = next(iter(data.test_dataloader()))
    assert float(batch["image"].max()) <= 1.2  # cubic interpolation may overshoot a little
    assert data.layout.scales_volumes


def test_binary_masks_of_255(tmp_path):
    data = module(write_volumes(tmp_path, classes=1))
    assert data.class_names == ("foreground",)
    batch = next(iter(data.val_dataloader()))
    assert set(batch["mask"].unique().tolist()) == {0, 1}


def test_a_stream_visits_every_slice_and_an_epoch_decodes_each_volume_once(tmp_path):
    data = module(write_volumes(tmp_path))
    items = data.layout.items()
    assert data.num_classes == 3  # looks into the masks
    volumes._decode.cache_clear()
    for item in items:
        image = data.layout.read_image(item)
        data.layout.read_label(item, image.shape)
    compressed = sum(number % 2 == 1 or number % 4 == 0 for number in range(10))
    assert len(items) == sum(DEPTHS.values())
    assert volumes._decode.cache_info().misses == 2 * compressed
    assert len(data.stream_items()) == len(items)


def test_pictures_and_volumes_side_by_side_with_unlabelled_ones(tmp_path):
    write_volumes(tmp_path, classes=1)
    write_pair(tmp_path / "images" / "p9_photo.png", tmp_path / "masks" / "p9_photo.png", 0)
    (tmp_path / "unlabelled").mkdir()
    write_nifti(tmp_path / "unlabelled" / "extra.nii.gz", acdc_volume(4)[0])
    data = module(tmp_path, num_labelled=2)
    assert len(data.layout.items()) == sum(DEPTHS.values()) + 1
    assert [item.case_id for item in data.splits.unlabelled] == [f"extra_slice_{n}" for n in (1, 2, 3, 4)]
    dataset = data._once(data.unlabelled_items, "unlabelled").dataset
    assert isinstance(dataset[[(len(dataset) - 1, 0)]]["image"], torch.Tensor)


def test_split_writes_lists_of_volumes_that_are_followed(tmp_path, capsys):
    write_volumes(tmp_path)
    assert main(["data", "split", "--root", str(tmp_path), "--group", r"^p\d"]) == 0
    listed = {part: (tmp_path / "splits" / f"{part}.txt").read_text() for part in ("train", "val", "test")}
    names = [line for text in listed.values() for line in text.splitlines() if line[0] != "#"]
    assert sorted(names) == sorted(DEPTHS)
    (tmp_path / "splits" / "val.txt").write_text(listed["val"].rstrip() + ".nii.gz\n")  # an ending may follow
    splits, drawn = module(tmp_path).splits, module(tmp_path, split="random").splits
    assert {item.case_id for item in splits.test} == {item.case_id for item in drawn.test}
    assert main(["data", "verify", "folder", "--root", str(tmp_path)]) == 0


FAULTS = {
    "damaged": (lambda root: truncate(root / "images" / "p0_c1.nii.gz"), "p0_c1.nii.gz .*damaged"),
    "other shape": (
        lambda root: write_nifti(root / "masks" / "p0_c1.nii.gz", acdc_volume(6)[1]),
        "another shape than its image p0_c1.nii.gz",
    ),
    "no mask": (lambda root: (root / "masks" / "p0_c1.nii.gz").unlink(), "p0_c1.nii.gz has no mask"),
    "picture as mask": (
        lambda root: (
            (root / "masks" / "p0_c1.nii.gz").unlink(),
            write_pair(root / "other.png", root / "masks" / "p0_c1.png", 0),
        ),
        "must be of one kind",
    ),
    "same name": (
        lambda root: write_nifti(root / "images" / "p0_c0.nii", acdc_volume(3)[0]),
        "have the same name",
    ),
    "fractions": (
        lambda root: write_nifti(root / "masks" / "p0_c1.nii.gz", acdc_volume(4)[1] * np.float32(0.5)),
        "no whole numbers",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_have_their_messages(tmp_path, fault):
    make, message = FAULTS[fault]
    make(write_volumes(tmp_path))
    layout = FolderLayout(str(tmp_path), masks="indexed", group=r"^p\d")
    with pytest.raises(UserError, match=message):
        _ = [layout.read_label(item, layout.read_image(item).shape) for item in layout.items()]
    report = verify(FolderLayout(str(tmp_path), masks="indexed"))
    assert any("p0_c" in problem for problem in report.problems)
