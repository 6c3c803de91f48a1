"""RETOUCH: MetaImage volumes as released, the h5 files they are prepared into, and the same items from both."""

import h5py
import numpy as np
import pytest

from data_modules import RetouchDataModule
from data_modules.generated.volumes import write_demo_retouch
from data_modules.layouts.lists import read_list
from data_modules.layouts.retouch import LISTS, RELEASED, RetouchLayout, format_list, make_lists
from data_modules.layouts.retouch_files import prepare_volume, released, released_folders
from lightning_samseg.errors import UserError
from lightning_samseg.io.metaimage import write_metaimage
from tests.fakes import retouch_volume, truncate, write_retouch


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_retouch(tmp_path_factory.mktemp("retouch"))


@pytest.fixture(scope="module")
def prepared(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    for folder in released_folders(root):
        assert prepare_volume(released(folder), out)
    return out


def test_items_of_volumes(root):
    layout = RetouchLayout(str(root))
    items = layout.items()
    assert len(items) == 3 * 5 * 4
    assert list(dict.fromkeys(item.case_id for item in items))[::5] == [
        "Cirrus_TRAIN001",
        "Spectralis_TRAIN025",
        "Topcon_TRAIN049",
    ]
    assert [(item.slice_index, item.num_slices) for item in items[:4]] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    image, label = retouch_volume(4, seed=26)
    item = next(item for item in items if item.case_id == "Spectralis_TRAIN026" and item.slice_index == 3)
    np.testing.assert_array_equal(layout.read_image(item), image[3].astype(np.uint16) * 200)
    np.testing.assert_array_equal(layout.read_label(item, (20, 16)), label[3])
    assert layout.spacing(item) == pytest.approx((0.05, 0.002, 0.0117))
    one = RetouchLayout(str(root), classes="fluid")
    np.testing.assert_array_equal(one.read_label(item, (20, 16)), label[3] > 0)
    assert (layout.class_names, one.class_names) == (("IRF", "SRF", "PED"), ("fluid",))


def test_prepared_files_hold_the_same(root, prepared):
    native, h5 = RetouchLayout(str(root)), RetouchLayout(str(prepared))
    for one, two in zip(native.items(), h5.items(), strict=True):
        assert one._replace(image=None) == two._replace(image=None)
        np.testing.assert_array_equal(native.read_image(one), h5.read_image(two))
        assert native.read_image(one).dtype == h5.read_image(two).dtype
        np.testing.assert_array_equal(native.read_label(one, (20, 16)), h5.read_label(two, (20, 16)))
        assert native.spacing(one) == pytest.approx(h5.spacing(two))
    with h5py.File(prepared / "data" / "Topcon_TRAIN049.h5") as file:
        assert file["image"].chunks == (1, 20, 16)
        assert file["label"].dtype == np.uint8
        np.testing.assert_array_equal(file["fluid_pixels"][:], [[0, 0, 0], [16, 24, 32]] * 2)
        assert file.attrs["device"] == "Topcon"
    assert not prepare_volume(released(released_folders(root)[0]), prepared)


def test_split_by_volume(root):
    splits = RetouchLayout(str(root)).splits()
    assert [len(part) for part in splits] == [3 * 3 * 4, 3 * 4, 3 * 4, 0]
    sides = [{item.group for item in part} for part in splits[:3]]
    assert [len(side) for side in sides] == [9, 3, 3]
    assert len(set.union(*sides)) == 15
    assert {name.split("_")[0] for name in sides[0]} == {"Cirrus", "Spectralis", "Topcon"}
    first = splits.train[0]
    assert (first.case_id, first.num_slices) == (f"{first.group}_slice_1", 1)
    assert splits.val[0].num_slices == 4


def test_b_scans_without_fluid(root, prepared):
    for folder in (root, prepared):
        kept, dropped = (RetouchLayout(str(folder), empty=empty) for empty in ("keep", "drop"))
        assert [len(part) for part in dropped.splits()] == [18, 12, 12, 0]  # volumes are evaluated whole
        assert {len(items) for items in kept.stream_sets().values()} == {20}
        streams = dropped.stream_sets()
        assert {name: len(items) for name, items in streams.items()} == {"Cirrus": 10, "Spectralis": 10, "Topcon": 10}
        assert {item.slice_index for items in streams.values() for item in items} == {1, 3}
        tested = dropped.stream_sets("test")
        assert list(tested) == ["Cirrus", "Spectralis", "Topcon"]
        assert {item.group for items in tested.values() for item in items} == {i.group for i in dropped.splits().test}
        assert {(len(items), items[0].slice_index) for items in tested.values()} == {(2, 1)}
    few = "15 of 70 volumes: the split is random, not that of the committed lists"
    assert RetouchLayout(str(root), empty="drop").notes()[0] == few
    assert "references are read" in RetouchLayout(str(root), empty="drop").notes()[1]
    assert RetouchLayout(str(prepared), empty="drop").notes() == [few]
    assert RetouchLayout(str(prepared), split="random").notes() == []


def test_batches_and_stream(prepared):
    data = RetouchDataModule(str(prepared), image_size=32, empty="drop", eval_batch_size=4)
    batch = next(iter(data.test_dataloader()))
    case = batch["cases"][1]
    assert (case.slice_index, case.num_slices, case.original_size) == (1, 4, (20, 16))
    assert case.spacing == pytest.approx((0.05, 0.002, 0.0117))
    assert set(batch["mask"].unique().tolist()) == {0, 1, 2, 3}
    stream = list(data.stream_dataloader())
    assert len(stream) == 30
    case = stream[1]["cases"][0]
    assert (case.case_id, case.num_slices, case.slice_index) == ("Cirrus_TRAIN001_slice_4", 1, 0)
    assert case.spacing == pytest.approx((0.002, 0.0117))
    assert stream[1]["reference"].sum() == 16 + 24 + 32
    only = RetouchDataModule(str(prepared), image_size=32, stream_class="SRF", stream_sets=["Topcon"])
    assert {int(item["reference"].sum()) for item in only.stream_dataloader()} == {0, 24}
    fluid = RetouchDataModule(str(prepared), image_size=32, classes="fluid")
    assert (fluid.num_classes, fluid.class_names) == (1, ("fluid",))


def test_names_of_the_archives(tmp_path):
    write_retouch(tmp_path, volumes=1, prefix="RETOUCH-TrainingSet-")
    assert list(RetouchLayout(str(tmp_path)).volumes) == ["Cirrus_TRAIN001", "Spectralis_TRAIN025", "Topcon_TRAIN049"]


def test_committed_lists(root, tmp_path):
    lists = make_lists()
    assert {name: len(case_ids) for name, case_ids in lists.items()} == {"train": 49, "val": 7, "test": 14}
    for name, case_ids in lists.items():
        assert (LISTS / f"{name}.txt").read_text(encoding="utf-8") == format_list(name, case_ids)
        assert read_list(LISTS / f"{name}.txt") == case_ids
    with pytest.raises(UserError, match="55 of the 70 volumes"):
        RetouchLayout(str(root), split="committed").splits()
    image, label = retouch_volume(2)
    for device, (first, last) in RELEASED.items():
        for number in range(first, last + 1):
            write_metaimage(tmp_path / device / f"TRAIN{number:03d}" / "oct.mhd", image, (1, 1, 1))
            write_metaimage(tmp_path / device / f"TRAIN{number:03d}" / "reference.mhd", label, (1, 1, 1))
    splits = RetouchLayout(str(tmp_path)).splits()
    for part, name in zip(splits[:3], ("train", "val", "test"), strict=True):
        assert list(dict.fromkeys(item.group for item in part)) == lists[name]


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"no data folder .* for RETOUCH"):
        RetouchLayout(str(tmp_path / "absent")).items()
    with pytest.raises(UserError, match="No RETOUCH volumes found"):
        RetouchLayout(str(tmp_path)).items()
    write_retouch(tmp_path, volumes=1)
    folder = tmp_path / "Cirrus" / "TRAIN001"
    _, label = retouch_volume(4)
    write_metaimage(folder / "reference.mhd", label + 1, (0.05, 0.002, 0.0117))
    layout = RetouchLayout(str(tmp_path))
    with pytest.raises(UserError, match=r"reference\.mhd: B-scan 2 holds values that are no class(.|\n)*1, 2, 3, 4"):
        layout.read_label(layout.items()[1], (20, 16))
    with pytest.raises(UserError, match="holds values that are no class"):
        prepare_volume(released(folder), tmp_path / "out")
    assert not list(tmp_path.rglob("*.h5"))
    write_metaimage(folder / "reference.mhd", label[:3], (1, 1, 1))
    with pytest.raises(UserError, match=r"reference\.mhd has another size"):
        RetouchLayout(str(tmp_path)).items()
    (folder / "reference.mhd").unlink()
    with pytest.raises(UserError, match=r"There is no volume .*TRAIN001/reference\.mhd"):
        RetouchLayout(str(tmp_path)).items()


def test_damaged_prepared_file(root, tmp_path):
    prepare_volume(released(released_folders(root)[0]), tmp_path)
    path = tmp_path / "data" / "Cirrus_TRAIN001.h5"
    with h5py.File(path, "a") as file:
        file.attrs["spacing"] = (0, 1, 1)
    with pytest.raises(UserError, match="not a voxel size"):
        RetouchLayout(str(tmp_path)).items()
    with h5py.File(path, "a") as file:
        del file["label"]
    with pytest.raises(UserError, match="no prepared volume"):
        RetouchLayout(str(tmp_path)).items()
    truncate(path)
    with pytest.raises(UserError, match="cannot be read"):
        RetouchLayout(str(tmp_path)).items()


def test_demo(tmp_path):
    layout = RetouchLayout(str(write_demo_retouch(tmp_path, volumes=2, b_scans=5)))
    items = layout.items()
    assert len(items) == 30
    assert {layout.read_image(item).dtype.name for item in items} == {"uint8", "uint16"}
    found = [layout.read_label(item, layout.read_image(item).shape).max() > 0 for item in items]
    assert 0.3 < np.mean(found) < 1
    for volume in layout.volumes.values():
        assert volume.fluid_pixels().sum() > 100
